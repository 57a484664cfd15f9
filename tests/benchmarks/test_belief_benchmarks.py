"""Benchmarks of calibration, of uneven dates and of trained endmembers: they run, and measure what they say."""

from __future__ import annotations

import importlib
from pathlib import Path

import calibration
import convergence
import endmember_training
import landsat
import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.optimize import linear_sum_assignment

from pyro_unmix import Unmixing, choose_start
from pyro_unmix.start import vca

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function


def test_the_exact_posterior_is_calibrated() -> None:
    found, mean_error, std_error = calibration.ranks(200)
    assert found.shape == (200, 4 * 6) and found.min() >= 0 and found.max() <= calibration.NUM_DRAWS
    assert calibration.rank_test(found) > 0.01
    assert mean_error < 1e-5
    # a variance of 99 draws is known to 14 %; they share nothing over 200 simulations and 24 coefficients
    assert std_error < 4 * 0.07 / np.sqrt(200 * 24) + 1e-3


def test_ranks_of_a_narrow_posterior_are_found_out() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 6))
    draws = 0.7 * rng.normal(size=(calibration.NUM_DRAWS, 500, 6))
    assert calibration.rank_test((draws < truth).sum(0)) < 0.01
    draws = rng.normal(size=(calibration.NUM_DRAWS, 500, 6))
    assert calibration.rank_test((draws < truth).sum(0)) > 0.01


class Normal:
    """A result whose abundances are normal with std one, in two materials."""

    abundances = xr.DataArray(np.zeros((1, 40, 50, 2)), dims=("time", "y", "x", "endmember"))

    def interval(self, level: float) -> np.ndarray:
        ends = stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
        return ends[:, None, None, None, None] + np.zeros((1, 40, 50, 2))


def test_scores_of_intervals_are_their_formulas() -> None:
    truth = np.random.default_rng(0).normal(size=(1, 40, 50, 2))
    truth[..., 1] *= 2
    scores = calibration.row(Normal(), truth, np.arange(2))  # type: ignore[arg-type]
    narrow = stats.norm.cdf(1.645 / 2) * 2 - 1
    np.testing.assert_allclose(scores["by material"], [0.9, narrow], atol=0.03)
    assert scores["90 %"] == pytest.approx((0.9 + narrow) / 2, abs=0.02)
    width = 2 * 1.645
    assert scores["width / RMSE"] == pytest.approx(width / np.sqrt(2.5), rel=0.05)

    def expected(std: float) -> float:  # E of the interval score of a normal truth
        outside = 2 * (std * stats.norm.pdf(1.645 / std) - 1.645 * stats.norm.sf(1.645 / std))
        return width + 20 * outside

    assert scores["interval score"] == pytest.approx((expected(1) + expected(2)) / 2, rel=0.05)


@pytest.mark.slow
def test_the_calibration_benchmark_runs(data_dir: Path, tmp_path: Path) -> None:
    rows = calibration.main(["--quick", "--data", str(data_dir), "--out", str(tmp_path)])
    scenes = ("drawn from the model", "smooth in space, pixels alone", "ds1", "ds2")
    read_outs = {f"{scene}, {kind}" for scene in scenes for kind in ("guide", "polished")}
    assert {"ranks", "NUTS", "smooth in space, guide", *read_outs} == set(rows)
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_the_landsat_benchmark_runs(data_dir: Path) -> None:
    scores = landsat.main(["--quick", "--data", str(data_dir)])
    assert scores["held-out spectra"] > 10 and 0 < scores["ratio"] < 10


def test_linear_interpolation_is_that_of_the_known_dates() -> None:
    known = np.array([1.0, np.nan, 4.0, np.nan])[:, None, None] * [[[1.0, 10.0]]]
    found = landsat.interpolated(known, np.array([0.0, 1.0, 3.0, 9.0]))
    np.testing.assert_allclose(found[:, 0], [[1, 10], [2, 20], [4, 40], [4, 40]])


def test_held_out_spectra_are_clear_and_not_seen(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubes, held_out = landsat.sequence(data_dir, 12, 30)
    assert cubes.notnull().all("wavelength").values[:, 0][held_out].all()
    seen = []

    def spy(known: xr.DataArray, *_: object, **__: object) -> Unmixing:
        seen.append(known)
        raise InterruptedError

    monkeypatch.setattr(landsat, "unmixed", spy)
    with pytest.raises(InterruptedError):
        landsat.scores(cubes, held_out, 3, 2, True)
    assert seen[0].isnull().all("wavelength").values[:, 0][held_out].all()
    assert not cubes.isnull().values[:, 0][held_out].any()


def test_the_endmember_benchmark_runs(data_dir: Path) -> None:
    rows = endmember_training.main(["--quick", "--data", str(data_dir), "--scenes", "ds1"])
    assert list(rows) == [
        ("ds1", start, kind)
        for start in ("chosen", "poor")
        for kind in ("kept", "free", "anchored")
    ]
    scene = endmember_training.scene_of("ds1", data_dir, True)
    truth = scene.reference_endmembers.values
    poor = vca(scene.cubes.values.reshape(-1, len(truth)), 3, seed=0)
    chosen = choose_start(scene.cubes, 3, seed=0).endmembers.values
    for name, start in (("poor", poor), ("chosen", chosen)):
        # by hand: the error of M0 kept is that of the start, in the best order by angle
        angles = [
            [np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in truth.T]
            for a in start.T
        ]
        given, true = linear_sum_assignment(angles)
        away = np.linalg.norm(start[:, given] - truth[:, true], axis=0)
        error = np.mean(away / np.linalg.norm(truth[:, true], axis=0))
        errors = {kind: rows["ds1", name, kind]["M0 error"] for kind in endmember_training.KINDS}
        assert errors["kept"] == pytest.approx(error, rel=1e-5)
        assert errors["free"] != errors["kept"] != errors["anchored"] != errors["free"]


def test_the_convergence_benchmark_runs(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unmix_module, "NUM_STEPS", 10)
    rows = convergence.main(["--quick", "--data", str(data_dir)])
    assert [row["scene"] for row in rows] == ["ds1", "ds2"]
    for row in rows:
        assert list(row["errors"]) == [0, 1, 2, 5, 10]
        reached, last = row["reached at step"], row["errors"][10]
        later = [error for step, error in row["errors"].items() if step >= reached]
        assert max(later) <= 1.01 * last
        assert 0 < row["seconds to there"] and row["seconds in all"] > 0
    assert capsys.readouterr().out.count("| ds") == 2
