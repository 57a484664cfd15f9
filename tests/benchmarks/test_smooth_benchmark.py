"""benchmarks/smooth_scene.py in small: its floor, its scores and its table."""

import json

import numpy as np
import pytest
import smooth_scene

ROWS = ["FCLS, VCA of every date", "FCLS, true endmembers of every pixel"]


def test_the_floor_is_below_and_the_table_shows_it(tmp_path, capsys):
    records = smooth_scene.main(
        ["--quick", "--seeds", "0", "1", "--rows", *ROWS, "--out", str(tmp_path)]
    )
    errors = {(r["method"], r["seed"]): r["nrmse"] for r in records}
    assert len(errors) == 4
    for seed in (0, 1):
        assert errors[ROWS[1], seed] < 0.5 * errors[ROWS[0], seed]
    printed = capsys.readouterr().out
    assert f"{errors[ROWS[0], 1]:.3f}" in printed and "median" in printed
    assert json.loads((tmp_path / "smooth_scene.json").read_text()) == records


def test_scores_see_neither_clouds_nor_the_order_of_materials():
    made = smooth_scene.scene(0, quick=True)
    seen = np.isfinite(made.cubes.values).all(-1)
    assert 0.02 < 1 - seen.mean() < 0.15
    order = [2, 0, 3, 1]
    shuffled = made.abundances.values[..., order].copy()
    shuffled[~seen] = np.nan
    endmembers = made.reference_endmembers.values[:, order]
    assert smooth_scene.score(made, shuffled, endmembers) == pytest.approx(0, abs=1e-12)
    assert smooth_scene.score(made, shuffled, None) > 0.5
