"""The benchmark of honesty: its scores on intervals that are known, and a row of its table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _other_scenes as other_scenes
import trust


def test_shares_and_widths_of_intervals() -> None:
    truth = np.array([0.0, 0.2, 0.5, 1.0])
    bounds = np.stack(
        [truth - np.array([0.0, 0.1, -0.1, 0.1]), truth + np.array([0.1, 0.1, 0.2, -0.001])]
    )
    found = trust._honesty(bounds, truth, 0.1, 0.9)
    # the last bound misses by less than the tolerance, the third by more
    assert found["held 90%"] == 0.75
    assert found["width 90%"] == pytest.approx(np.mean([0.1, 0.2, 0.1, 0.099]) / 0.1)


def test_the_table_has_a_row_per_record() -> None:
    rows = [{"scene": "mix", "NRMSE_A": 0.12345}, {"scene": "dlr", "area 3 m": 0.05}]
    lines = trust.table(rows).splitlines()
    assert lines[0] == "| scene | NRMSE_A | area 3 m |"
    assert lines[2] == "| mix | 0.123 |  |" and lines[3] == "| dlr |  | 0.05 |"


def test_the_page_has_medians_over_seeds_and_every_row_with_its_commit() -> None:
    rows = [
        {"scene": "mix", "seed": n, "method": "unmix", "NRMSE_A": error, "commit": "abc"}
        for n, error in ((3, 0.1), (4, 0.3), (5, 0.12))
    ]
    rows.append({"scene": "dlr", "seed": 3, "method": "unmix", "area 3 m": 0.05, "commit": "abd"})
    lines = trust.page(rows).splitlines()
    assert "| mix | unmix | 3, 4, 5 | 0.12 | 0.100 - 0.300 |" in lines
    assert "| dlr | unmix | 3 | 0.05 |" in lines
    assert sum("abc" in line for line in lines) == 3 and sum("abd" in line for line in lines) == 1


@pytest.mark.parametrize("method", ["FCLS", "unmix_by_chains"])
def test_a_row_on_the_data(data_dir: Path, method: str) -> None:
    known = trust.scenes(data_dir, quick=True)
    row = trust.measure(known["mix"](0), method, 0, quick=True)
    assert 0 < row["NRMSE_A"] < 1.5 and row["CPU s"] > 0
    assert ("held 90%" in row) == (method != "FCLS")


@pytest.mark.parametrize("seed", [0, 1])
def test_no_pixel_of_the_mixed_scene_is_pure(seed: int) -> None:
    scene = other_scenes.mix_like(seed, quick=True)
    abundances = scene.abundances.values
    assert abundances.max() <= other_scenes.PUREST + 1e-12 and abundances.min() >= 0
    np.testing.assert_allclose(abundances.sum(-1), 1)


def test_the_spectra_of_a_patch_are_of_the_library() -> None:
    scene, library = other_scenes.patch_like(1, quick=True)
    members = library.values / np.linalg.norm(library.values, axis=0)
    for time in range(2):
        found = scene.endmembers(time).values.transpose(0, 1, 3, 2)
        found = found / np.linalg.norm(found, axis=-1, keepdims=True)
        nearest = (found @ members).reshape(-1, 3, members.shape[1])
        np.testing.assert_allclose(nearest.max(-1), 1)  # up to illumination
        for p, name in enumerate(other_scenes.COVER):
            assert set(library["label"].values[nearest[:, p].argmax(-1)]) == {name}
    assert len(np.unique(nearest[:, 0].argmax(-1))) > 2
    again = other_scenes.patch_like(1, quick=True)[0]
    np.testing.assert_array_equal(again.cubes, scene.cubes)
