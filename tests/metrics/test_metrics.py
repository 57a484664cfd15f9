from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import metrics, simulate

DIMS = ("time", "y", "x", "wavelength", "endmember")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@dataclass
class Estimate:
    """A perturbed copy of a scene with its materials in another order."""

    scene: simulate.Scene
    order: tuple[int, ...]
    spread: float = 0.0

    @property
    def abundances(self) -> xr.DataArray:
        return self._perturbed(self.scene.abundances, 0).isel(endmember=list(self.order))

    def endmembers(self, time: int = 0) -> xr.DataArray:
        spectra = self._perturbed(self.scene.endmembers(time), 1 + time)
        return spectra.isel(endmember=list(self.order))

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        return self._perturbed(self.scene.reconstruct(time), 100 + time)

    def _perturbed(self, values: xr.DataArray, seed: int) -> xr.DataArray:
        noise = np.random.default_rng(seed).standard_normal(values.shape)
        return values + self.spread * noise


@pytest.fixture(scope="module")
def scene() -> simulate.Scene:
    library = simulate.library(np.linspace(400, 2500, 12))
    return simulate.scaled_scene(
        num_dates=3, height=5, width=4, library=library, cloud_fraction=0.2, seed=3
    )


# Values worked out by hand


def test_nrmse_abundances_is_the_mean_of_the_ratios_of_the_dates():
    truth = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]])  # norms^2: 2 and 1
    estimate = truth.copy()
    estimate[0, 0] = [0.8, 0.2]  # squared error 0.08
    estimate[1, 1] = [0.4, 0.6]  # squared error 0.02
    expected = math.sqrt((0.08 / 2 + 0.02 / 1) / 2)
    assert metrics.nrmse_abundances(estimate, truth) == pytest.approx(expected, rel=1e-14)


def test_rmse_abundances_is_over_all_values():
    truth = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    estimate = np.array([[[0.9, 0.1]], [[0.2, 0.8]]])
    expected = math.sqrt((0.01 + 0.01 + 0.09 + 0.09) / 4)
    assert metrics.rmse_abundances(estimate, truth) == pytest.approx(expected, rel=1e-14)


def test_nrmse_reconstruction_is_the_mean_of_the_ratios_of_the_dates():
    cubes = np.array([[[3.0, 4.0]], [[0.0, 2.0]]])
    reconstruction = np.array([[[3.0, 3.0]], [[2.0, 2.0]]])
    expected = math.sqrt((1 / 25 + 4 / 4) / 2)
    value = metrics.nrmse_reconstruction(reconstruction, cubes)
    assert value == pytest.approx(expected, rel=1e-14)


def test_nrmse_endmembers_is_the_mean_of_the_ratios_of_the_pixels():
    # One date, two pixels, two bands, one material: relative squared errors 25/25 and 1/4.
    truth = np.array([[[[3.0], [4.0]], [[0.0], [2.0]]]])
    estimate = np.array([[[[3.0], [9.0]], [[1.0], [2.0]]]])
    expected = math.sqrt((1.0 + 0.25) / 2)
    assert metrics.nrmse_endmembers(estimate, truth) == pytest.approx(expected, rel=1e-14)


def test_sam_is_the_mean_angle_of_every_spectrum_in_radians():
    # Materials (1, 0) and (0, 1); the estimates lie at 45 and 60 degrees and have other lengths.
    truth = np.eye(2)[None, None]
    estimate = np.array([[[[0.3, math.sqrt(3)], [0.3, 1.0]]]])
    expected = (math.pi / 4 + math.pi / 3) / 2
    assert metrics.sam_endmembers(estimate, truth) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 3.0, math.pi])
def test_sam_is_accurate_near_zero_and_pi(angle):
    # Cosine and sine are rounded to 1.1e-16; near pi that is one ulp, 4.4e-16.
    truth = np.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    estimate = np.array([math.cos(angle), math.sin(angle)]).reshape(1, 1, 2, 1)
    assert metrics.sam_endmembers(estimate, truth) == pytest.approx(angle, abs=1e-24, rel=1e-15)


def test_a_zero_estimate_of_a_spectrum_counts_as_a_right_angle():
    truth = np.ones((1, 1, 3, 1))
    assert metrics.sam_endmembers(0 * truth, truth) == pytest.approx(math.pi / 2, rel=1e-15)
    assert metrics.nrmse_endmembers(0 * truth, truth) == 1.0


def test_coverage_is_the_share_inside_with_bounds_included():
    truth = np.array([0.0, 0.1, 0.2, 0.3, np.nan])
    lower = np.array([0.0, 0.0, 0.3, 0.0, np.nan])
    upper = np.array([0.1, 0.1, 0.4, 0.2, 0.0])
    assert metrics.coverage(lower, upper, truth) == 0.5


@pytest.mark.parametrize(
    "function", [metrics.nrmse_abundances, metrics.rmse_abundances, metrics.nrmse_reconstruction]
)
def test_a_perfect_estimate_scores_zero(function, rng):
    truth = rng.uniform(0.1, 1, (2, 3, 4, 5))
    assert function(truth, truth) == 0.0


def test_sums_are_in_double_precision():
    # Rounded to float32, the square of one difference alone is off by up to 6e-8 of itself.
    truth = np.full((1, 100_000, 2), 0.3, dtype=np.float32)
    estimate = np.full((1, 100_000, 2), 0.31, dtype=np.float32)
    true, estimated = float(truth[0, 0, 0]), float(estimate[0, 0, 0])
    expected = (estimated - true) / true
    assert metrics.nrmse_abundances(estimate, truth) == pytest.approx(expected, rel=1e-12)
    assert metrics.rmse_abundances(estimate, truth) == pytest.approx(estimated - true, rel=1e-12)


# Against the printed formulas on random arrays


def test_scores_equal_their_formulas_on_random_arrays(rng):
    truth = rng.uniform(0.1, 1, (3, 2, 4, 6, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    ratios, angles = [], []
    for index in np.ndindex(3, 2, 4):
        m, mhat = truth[index], estimate[index]
        ratios.append(np.linalg.norm(m - mhat) ** 2 / np.linalg.norm(m) ** 2)
        for p in range(2):
            cosine = m[:, p] @ mhat[:, p] / np.linalg.norm(m[:, p]) / np.linalg.norm(mhat[:, p])
            angles.append(math.acos(cosine))
    # acos loses at most eps / sin(angle); the smallest angle here is above 0.01.
    assert metrics.nrmse_endmembers(estimate, truth) == pytest.approx(
        math.sqrt(np.mean(ratios)), rel=1e-12
    )
    assert min(angles) > 0.01
    assert metrics.sam_endmembers(estimate, truth) == pytest.approx(np.mean(angles), rel=1e-11)

    a, ahat = truth[..., 0, :], estimate[..., 0, :]
    dates = [np.linalg.norm(a[t] - ahat[t]) ** 2 / np.linalg.norm(a[t]) ** 2 for t in range(3)]
    assert metrics.nrmse_abundances(ahat, a) == pytest.approx(math.sqrt(np.mean(dates)), rel=1e-12)


# Layouts


def test_generators_of_dates_equal_arrays(rng):
    truth = rng.uniform(0.1, 1, (3, 4, 6, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    for function in (metrics.nrmse_endmembers, metrics.sam_endmembers):
        expected = function(estimate, truth)
        assert function((date for date in estimate), truth) == expected
        assert function(estimate, (date for date in truth)) == expected
        assert function(list(estimate), tuple(truth)) == expected
    reconstruction = (date[..., 0] for date in estimate)
    assert metrics.nrmse_reconstruction(reconstruction, truth[..., 0]) == (
        metrics.nrmse_reconstruction(estimate[..., 0], truth[..., 0])
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_named_dimensions_may_come_in_any_order(order, rng):
    truth = rng.uniform(0.1, 1, (2, 3, 4, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    dims = ("time", "y", "x", "endmember")
    named = xr.DataArray(estimate, dims=dims).transpose(*(dims[i] for i in order))
    for function in (metrics.nrmse_abundances, metrics.rmse_abundances):
        assert function(named, truth) == function(estimate, truth)
        assert function(named, xr.DataArray(truth, dims=dims)) == function(estimate, truth)


def test_named_dimensions_of_single_dates_may_come_in_any_order(rng):
    truth = rng.uniform(0.1, 1, (2, 3, 4, 6, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    named = [
        xr.DataArray(date, dims=DIMS[1:]).transpose("endmember", "x", "wavelength", "y")
        for date in estimate
    ]
    assert metrics.nrmse_endmembers(named, truth) == metrics.nrmse_endmembers(estimate, truth)
    whole = xr.DataArray(estimate, dims=DIMS).transpose(*DIMS[::-1])
    assert metrics.sam_endmembers(whole, truth) == metrics.sam_endmembers(estimate, truth)


def test_coverage_reads_named_dimensions(rng):
    truth = rng.uniform(size=(2, 3, 4, 2))
    lower, upper = truth - 0.1, truth + rng.uniform(-0.1, 0.1, truth.shape)
    dims = ("time", "y", "x", "endmember")
    named = xr.DataArray(upper, dims=dims).transpose(*dims[::-1])
    assert metrics.coverage(lower, named, truth) == np.mean(upper >= truth)


# Missing values


def test_unknown_pixels_are_left_out_with_all_their_values(rng):
    truth = rng.uniform(0.1, 1, (2, 5, 3))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    masked = truth.copy()
    masked[0, 3, 1] = np.nan  # one value hides the whole pixel at that date
    masked[1, 0] = np.nan
    estimate[0, 3] = np.nan  # what is not compared may be anything
    kept = ([0, 1, 2, 4], [1, 2, 3, 4])
    pairs = [(estimate[t, kept[t]], truth[t, kept[t]]) for t in range(2)]
    ratios = [np.sum((e - t) ** 2) / np.sum(t**2) for e, t in pairs]
    expected = math.sqrt(np.mean(ratios))
    assert metrics.nrmse_abundances(estimate, masked) == pytest.approx(expected, rel=1e-12)
    assert metrics.nrmse_reconstruction(estimate, masked) == pytest.approx(expected, rel=1e-12)
    squares = np.concatenate([((e - t) ** 2).ravel() for e, t in pairs])
    assert metrics.rmse_abundances(estimate, masked) == pytest.approx(
        math.sqrt(squares.mean()), rel=1e-12
    )


def test_unknown_endmembers_are_left_out_by_pixel(rng):
    truth = rng.uniform(0.1, 1, (2, 3, 6, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    masked = truth.copy()
    masked[0, 1, 4, 0] = np.nan
    kept = np.ones((2, 3), dtype=bool)
    kept[0, 1] = False
    for function in (metrics.nrmse_endmembers, metrics.sam_endmembers):
        # Both are means over pixels and dates, so that the kept ones may form one date.
        expected = function(estimate[kept][None], truth[kept][None])
        assert function(estimate, masked) == pytest.approx(expected, rel=1e-12)


def test_a_wholly_missing_date_does_not_count_as_a_date(rng):
    truth = rng.uniform(0.1, 1, (3, 5, 2))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    masked = truth.copy()
    masked[1] = np.nan
    assert metrics.nrmse_abundances(estimate, masked) == metrics.nrmse_abundances(
        estimate[[0, 2]], truth[[0, 2]]
    )


# score


def test_score_of_the_truth_is_that_of_its_noise(scene):
    scores = metrics.score(scene, scene)
    assert list(scores) == ["NRMSE_A", "RMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y"]
    assert all(type(value) is float for value in scores.values())
    assert scores["NRMSE_A"] == scores["RMSE_A"] == scores["NRMSE_M"] == 0
    assert scores["SAM_M"] <= 1e-15  # the norms may be summed in another order
    clean = np.stack([scene.reconstruct(t).values for t in range(3)])
    assert scores["NRMSE_Y"] == metrics.nrmse_reconstruction(clean, scene.cubes) > 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_score_does_not_depend_on_the_order_of_the_materials(scene, order):
    plain = metrics.score(Estimate(scene, (0, 1, 2), spread=0.003), scene)
    permuted = metrics.score(Estimate(scene, order, spread=0.003), scene)
    assert plain["NRMSE_A"] > 0
    # Only the order of summation differs.
    assert permuted == pytest.approx(plain, rel=1e-12)


def test_score_equals_the_single_scores(scene):
    estimate = Estimate(scene, (0, 1, 2), spread=0.003)
    spectra = np.stack([estimate.endmembers(t).values for t in range(3)])
    true_spectra = np.stack([scene.endmembers(t).values for t in range(3)])
    images = [estimate.reconstruct(t) for t in range(3)]
    expected = {
        "NRMSE_A": metrics.nrmse_abundances(estimate.abundances, scene.abundances),
        "RMSE_A": metrics.rmse_abundances(estimate.abundances, scene.abundances),
        "NRMSE_M": metrics.nrmse_endmembers(spectra, true_spectra),
        "SAM_M": metrics.sam_endmembers(spectra, true_spectra),
        "NRMSE_Y": metrics.nrmse_reconstruction(images, scene.cubes),
    }
    assert metrics.score(estimate, scene) == pytest.approx(expected, rel=1e-14)


def test_score_asks_for_equal_sizes(scene):
    other = simulate.scaled_scene(num_dates=3, height=5, width=4, num_endmembers=4)
    with pytest.raises(ValueError, match=r"abundances must have the shape of the truth"):
        metrics.score(other, scene)


# Errors

TRUTH = np.full((2, 3, 2), 0.5)


@pytest.mark.parametrize(
    ("estimate", "truth", "text"),
    [
        (TRUTH[:, :2], TRUTH, r"must have the shape of the truth, \(3, 2\), got \(2, 2\): pass"),
        (TRUTH[:1], TRUTH, r"got more dates in the truth: abundances ends after 1"),
        (TRUTH, TRUTH[:1], r"got more dates in abundances: the truth ends after 1"),
        (TRUTH * np.nan, TRUTH, r"must be finite wherever the truth is known.* at date 0"),
        (TRUTH * np.inf, TRUTH, r"must be finite wherever the truth is known"),
        (TRUTH, TRUTH * np.inf, r"truth of abundances must be finite, or NaN where unknown"),
        (TRUTH, TRUTH * np.nan, r"truth of abundances must be known somewhere"),
        (TRUTH, TRUTH * 0, r"truth of abundances must not be zero"),
        (np.ones(3), TRUTH, r"must have the shape \(time, ..., endmember\), got \(3,\)"),
        ([1.0, 2.0], TRUTH, r"must have dates of the shape \(..., endmember\), got \(\)"),
        (
            xr.DataArray(TRUTH, dims=("time", "pixel", "endmember")),
            TRUTH,
            r"abundances must have dims from .*, got \('time', 'pixel', 'endmember'\): rename",
        ),
        (xr.DataArray(TRUTH, dims=("y", "x", "endmember")), TRUTH, r"among them \('time',"),
        (
            [xr.DataArray(TRUTH, dims=("time", "y", "endmember"))],
            TRUTH,
            r"got an item with the dim 'time'",
        ),
    ],
)
def test_errors_of_pairs_of_arrays(estimate, truth, text):
    with pytest.raises(ValueError, match=text):
        metrics.nrmse_abundances(estimate, truth)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ("abundances", r"must be an array with the dates first .* got str"),
        (3.0, r"must be an array with the dates first .* got float"),
        ({"a": 1}, r"must be an array with the dates first .* got dict"),
        ([["a", "b"]], r"must be a regular array of numbers, got list"),
    ],
)
def test_errors_of_other_types(estimate, text):
    with pytest.raises(TypeError, match=text):
        metrics.rmse_abundances(estimate, TRUTH)


def test_errors_of_endmembers():
    truth = np.ones((1, 2, 3, 2))
    truth[0, 1, :, 1] = 0
    with pytest.raises(ValueError, match=r"must not be zero, got a spectrum of zeros: set that"):
        metrics.sam_endmembers(np.ones_like(truth), truth)
    with pytest.raises(ValueError, match=r"truth of endmembers must be known somewhere"):
        metrics.nrmse_endmembers(truth, truth * np.nan)


@pytest.mark.parametrize(
    ("lower", "upper", "truth", "text"),
    [
        ([0.0], [1.0, 1.0], [0.5, 0.5], r"lower must have the shape of the truth"),
        ([0.0], [1.0, 1.0], [0.5], r"upper must have the shape of the truth"),
        ([np.nan], [1.0], [0.5], r"lower and upper must be known wherever the truth is"),
        ([1.0], [0.0], [0.5], r"lower must not exceed upper"),
        ([0.0], [1.0], [np.nan], r"truth of the intervals must be known somewhere"),
    ],
)
def test_errors_of_coverage(lower, upper, truth, text):
    with pytest.raises(ValueError, match=text):
        metrics.coverage(lower, upper, truth)


def test_coverage_asks_for_one_quantile(rng):
    truth = xr.DataArray(rng.uniform(size=(2, 3)), dims=("time", "endmember"))
    both = xr.concat([truth - 1, truth + 1], dim="quantile")
    with pytest.raises(ValueError, match=r"lower must have dims from .*'quantile'.*select"):
        metrics.coverage(both, both, truth)


def test_arguments_are_left_as_they_are(rng):
    truth = rng.uniform(0.1, 1, (2, 3, 4, 2))
    truth[0, 0] = np.nan
    estimate = np.ones_like(truth)
    copies = truth.copy(), estimate.copy()
    metrics.nrmse_endmembers(estimate, truth)
    metrics.sam_endmembers(estimate, truth)
    np.testing.assert_array_equal(truth, copies[0])
    np.testing.assert_array_equal(estimate, copies[1])
