"""The benchmark of nonlinear mixing runs on scenes that are what it claims."""

from __future__ import annotations

import json
import math
from pathlib import Path

import _idnet_scenes
import idnet
import numpy as np
import pytest
from benchmark_cases import rows_of


def test_a_bilinear_scene_has_its_products_and_its_noise() -> None:
    scene = _idnet_scenes.bilinear_scene(1, size=30)
    a, m = scene.abundances.values[0], scene.reference_endmembers.values
    residual = scene.cubes.values[0] - a @ m.T
    pairs = [(0, 1), (0, 2), (1, 2)]
    products = np.stack([m[:, p] * m[:, q] for p, q in pairs], axis=1)
    shares = np.stack([a[..., p] * a[..., q] for p, q in pairs], axis=-1)
    strength = (residual @ np.linalg.pinv(products).T) / np.maximum(shares, 1e-9)
    precise = shares.min(-1) > 0.05  # where all three are mixed
    assert precise.sum() > 10
    # uniform in [0, 1], seen with the error of the regression
    error = scene.noise_scale * np.linalg.norm(np.linalg.pinv(products), axis=1) / shares[precise]
    assert (np.abs(strength[precise] - 0.5) < 0.5 + 5 * error).all()
    pure = a.max(-1) > 0.999
    power = (residual[pure] ** 2).mean() / scene.noise_scale**2
    assert power == pytest.approx(1, abs=0.05)
    again = _idnet_scenes.bilinear_scene(1, size=30)
    np.testing.assert_array_equal(again.cubes, scene.cubes)


def test_the_idnet_benchmark_runs(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(data_dir), "--quick", "--seeds", "0", "--out", str(tmp_path)]
    few = idnet.main(
        [*options, "--scenes", "own-bilinear", "samson", "--rows", "fcls", "published"]
    )
    image = rows_of((tmp_path / "idnet.md").read_text())[1]
    records = idnet.main([*options, "--scenes", "own-bilinear"])
    simulated = rows_of((tmp_path / "idnet.md").read_text())[0]
    assert [r for r in records if r in few] == few  # not computed again
    titles = [method.title for method in idnet.methods("bilinear").values()]
    for table in (simulated, image):
        assert table[0] == ["method", "abundances", *idnet.COLUMNS]
    assert [row[:2] for row in simulated[2:]] == [[title, "linear"] for title in titles]
    assert [row[:2] for row in image[2:]] == [
        [title, convention]
        for title in (titles[0], titles[3])
        for convention in ("linear", "unit maximum")
    ]
    assert json.loads((tmp_path / "records.json").read_text()) == records
    assert all(math.isfinite(record[name]) for record in records for name in idnet.COLUMNS)
