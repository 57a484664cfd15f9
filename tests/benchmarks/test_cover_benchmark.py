"""The benchmark of fractional cover: rows of its tables."""

from __future__ import annotations

from pathlib import Path

import cover
import numpy as np
import pytest


def test_rows_with_and_without_truth(data_dir: Path) -> None:
    pytest.importorskip("earthlib")
    names = ["fcls", "nnls", "monte_carlo_sma", "minimum_volume"]
    rows = list(cover.with_truth(names, *cover.patch(data_dir, quick=True)))
    assert [row["method"] for row in rows] == names
    assert all(0 < row["NRMSE_A"] < 1 and row["CPU s / 1e6"] > 0 for row in rows)
    assert rows[2]["held 90%"] > 0.5 and "held 90%" not in rows[0]
    (row,) = cover.without_truth(["nnls"], *cover.emit(data_dir))
    assert row["SOIL"] + row["PV"] + row["NPV"] == pytest.approx(1)


def test_rows_of_powders(data_dir: Path) -> None:
    images, truth, spectra = cover.powder(data_dir, "FeSi", 0)
    assert images.shape == (7, 30, 30, 113) and spectra.shape == (113, 2)
    np.testing.assert_allclose(truth.sum(axis=1), 1, atol=1e-6)
    area, powder = cover.powders(["nnls", "nnls, Hapke"], data_dir, quick=True)
    pairs = [f"{pair[:2]}, {pair[2:]} (0)" for pair in cover.PAIRS]
    assert powder["mean (0)"] == pytest.approx(np.mean([powder[pair] for pair in pairs]))
    assert powder["mean (0)"] < 0.07 < area["mean (0)"]
    assert powder["mean (1)"] > powder["mean (0)"]
    (both,) = cover.powders(["nnls, Hapke, both"], data_dir, quick=True)
    assert both["mean (both)"] < 0.07 and cover.both_powders(data_dir, "CaSi").shape == (113, 4)


def test_rows_over_seeds_are_medians() -> None:
    pytest.importorskip("earthlib")
    each = [next(cover.over_seeds(["nnls"], [seed], quick=True)) for seed in (0, 1, 2)]
    (row,) = cover.over_seeds(["nnls"], [0, 1, 2], quick=True)
    assert row["NRMSE_A"] == np.median([one["NRMSE_A"] for one in each])


def test_the_uncertainty_of_bands_helps_chains() -> None:
    plain, weighed = cover.of_uneven(["unmix"], (0.05,))
    assert [plain["method"], weighed["method"]] == ["unmix", "unmix, uncertainty"]
    for column in ("0.05, own spectra", "0.05, other spectra"):
        assert weighed[column] < 0.85 * plain[column]
        assert plain[f"held, {column}"] < 0.75 < weighed[f"held, {column}"]
