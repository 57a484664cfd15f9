from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import reference
import torch
import xarray as xr

from pyro_unmix import SGLMM, simulate
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.solvers import MarginalMixing
from pyro_unmix.priors import Independent, JumpWalk, WhiteNoise
from pyro_unmix.start import (
    Start,
    choose_start,
    estimate_noise_scale,
    learn_basis,
    marginal_score,
    refine_endmembers,
    temporal_correlation,
)

DIMS = ("time", "y", "x", "wavelength")
WAVELENGTH = np.linspace(450, 2400, 24)
LIBRARY = simulate.library(WAVELENGTH)


def brightness_scene(seed: int = 0, **settings) -> simulate.Scene:
    """Drawn from the model with `Brightness`, psi ~ N(0, 1) anew at every date."""
    model = SGLMM(
        LIBRARY.values[:, :3],
        basis=Brightness(),
        abundance_prior=JumpWalk(),
        variability_prior=Independent(),
        noise=WhiteNoise(0.005),
    )
    return simulate.state_space(model, **{"num_dates": 2, "height": 16, "width": 16, **settings})


@pytest.fixture(scope="module")
def brightness() -> simulate.Scene:
    return brightness_scene()


@pytest.fixture(scope="module")
def bundles() -> simulate.Scene:
    return simulate.bundle_scene(num_dates=2, height=16, width=16, num_endmembers=3, seed=0)


@pytest.fixture(scope="module")
def chosen(bundles) -> Start:
    return choose_start(bundles.cubes, 3)


# What is chosen


def test_brightness_is_chosen_where_only_the_brightness_varies(brightness):
    start = choose_start(brightness.cubes, 3, endmembers=brightness.reference_endmembers)
    assert isinstance(start.basis, Brightness)
    tried = {name.removeprefix("given endmembers, ") for name in start.log_likelihoods}
    assert {"brightness", "DCT 6", "learned 4", "learned 6", "learned 8"} <= tried
    # sigma is doubled from an estimate by the square root of two at least, while that helps.
    assert start.noise_scale == pytest.approx(0.005, rel=0.2)


def test_a_learned_basis_is_chosen_where_materials_are_bundles(chosen, bundles):
    assert isinstance(chosen.basis, LearnedBasis)
    tried = {name.split(",")[0] for name in chosen.log_likelihoods}
    assert tried == {"window 1", "window 3", "window 5", "refined"}
    assert chosen.endmembers.dims == ("wavelength", "endmember")
    assert chosen.endmembers.shape == (bundles.cubes.sizes["wavelength"], 3)


def test_the_best_of_the_table_is_what_is_returned(chosen, bundles):
    best = max(chosen.log_likelihoods, key=chosen.log_likelihoods.__getitem__)
    if best != "refined":
        rank = int(best.rpartition(" ")[2])
        assert chosen.basis.num_components == rank
    pixels = bundles.cubes.values.reshape(-1, bundles.cubes.sizes["wavelength"])
    # All 512 spectra are in the subset, which has up to 2000.
    score, scale = marginal_score(pixels, chosen.endmembers, chosen.basis, chosen.noise_scale)
    assert score == pytest.approx(chosen.log_likelihoods[best], rel=1e-6)
    assert scale == pytest.approx(chosen.noise_scale)


def test_given_endmembers_are_kept(bundles):
    given = bundles.reference_endmembers
    before = given.copy(deep=True)
    start = choose_start(bundles.cubes, 3, endmembers=given)
    np.testing.assert_array_equal(start.endmembers, given)
    assert list(start.endmembers.endmember.values) == list(given.endmember.values)
    xr.testing.assert_identical(given, before)
    assert "refined" not in start.log_likelihoods
    plain = choose_start(bundles.cubes, 3, endmembers=given.values)
    np.testing.assert_array_equal(plain.endmembers.endmember, [0, 1, 2])
    assert plain.log_likelihoods == start.log_likelihoods


def test_a_given_basis_is_kept(bundles):
    basis = DCT(3, scale=0.4)
    start = choose_start(bundles.cubes, 3, basis=basis)
    assert start.basis is basis
    assert {name.rpartition(", ")[2] for name in start.log_likelihoods} == {"DCT", "refined"}


def test_both_given_leaves_the_noise(bundles):
    start = choose_start(
        bundles.cubes, 3, endmembers=bundles.reference_endmembers, basis=Brightness()
    )
    assert list(start.log_likelihoods) == ["given endmembers, Brightness"]


def test_choosing_is_reproducible_and_changes_nothing(chosen, bundles):
    before, torch_state = bundles.cubes.copy(deep=True), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = choose_start(bundles.cubes, 3)
    xr.testing.assert_identical(again.endmembers, chosen.endmembers)
    assert again.log_likelihoods == chosen.log_likelihoods
    assert torch.equal(again.basis.array, chosen.basis.array)
    xr.testing.assert_identical(bundles.cubes, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_windows_larger_than_the_image_are_left_out():
    scene = brightness_scene(height=4, width=30)
    tried = choose_start(scene.cubes, 3).log_likelihoods
    assert {name.split(",")[0] for name in tried} <= {"window 1", "window 3", "refined"}


@pytest.mark.parametrize(
    ("count", "settings", "error", "text"),
    [
        (1, {}, ValueError, "num_endmembers must be at least 2, got 1"),
        (3.0, {}, TypeError, "num_endmembers must be an integer"),
        (
            4,
            {"endmembers": LIBRARY.values[:, :3]},
            ValueError,
            "num_endmembers is 4, but 3 endmembers were given: make them agree",
        ),
        (
            3,
            {"endmembers": LIBRARY.values[:20, :3]},
            ValueError,
            r"must have one row per band, shape .24, P., got .20, 3.",
        ),
    ],
)
def test_choose_start_errors(brightness, count, settings, error, text):
    with pytest.raises(error, match=text):
        choose_start(brightness.cubes, count, **settings)


# The score


def test_score_is_the_median_dense_log_likelihood_per_band(brightness):
    rng = np.random.default_rng(0)
    spectra = brightness.cubes.values.reshape(-1, 24)[rng.permutation(512)[:15]].astype(float)
    endmembers, basis = LIBRARY.values[:, :3], Brightness(0.4)
    score, scale = marginal_score(spectra, endmembers, basis, 0.004)
    components = 0.4 * endmembers[:, None]

    def dense(noise: float) -> float:
        design = design_matrix(torch.from_numpy(endmembers), torch.from_numpy(components))
        mixing = MarginalMixing(
            design.mT @ design,
            torch.tensor(noise).double(),
            torch.zeros(3).double(),
            torch.ones(3).double(),
            3,
        )
        abundances = mixing.solve(torch.from_numpy(spectra) @ design).numpy()
        values = []
        for y, a in zip(spectra, abundances, strict=True):
            loading = components[:, 0] * a
            covariance = loading @ loading.T + noise**2 * np.eye(24)
            values.append(reference.log_gaussian(y, endmembers @ a, covariance))
        return float(np.median(values)) / 24

    assert score == pytest.approx(dense(scale), rel=1e-6)
    assert score >= dense(0.004) - 1e-9
    # The next larger noise scale of the search would have been worse.
    assert score >= dense(scale * math.sqrt(2)) - 1e-9


# The noise


def linear_scene(noise_scale: float, shape=(2, 20, 25), bands: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    matrix = simulate.library(np.linspace(450, 2400, bands)).values[:, :3]
    clean = rng.dirichlet(np.ones(3), size=shape) @ matrix.T
    noise = noise_scale * rng.normal(size=clean.shape)
    return xr.DataArray(clean + noise, dims=DIMS)


@pytest.mark.parametrize("noise_scale", [0.003, 0.03])
def test_noise_scale_of_a_linear_mixture_is_found(noise_scale):
    got = estimate_noise_scale(linear_scene(noise_scale))
    # Three directions of signal carry in the noise of the 59 other bands: a share of 3/60 of the
    # variance on average. The median of 60 residual stds with 940 degrees of freedom each.
    error = 5 / math.sqrt(2 * 940)
    assert noise_scale * (1 - error) < got < noise_scale * (math.sqrt(1 + 2 * 3 / 60) + error)


def test_noise_scale_ignores_missing_pixels():
    cubes = linear_scene(0.01)
    rest = cubes.isel(y=slice(5, None))
    cubes[:, :5, :, 7] = np.nan
    assert estimate_noise_scale(cubes) == pytest.approx(estimate_noise_scale(rest), rel=1e-9)


def test_noise_scale_that_cannot_be_told_is_40_db():
    cubes = linear_scene(0.02, shape=(1, 4, 10))  # 40 spectra of 60 bands
    expected = 10 ** (-40 / 20) * math.sqrt(float((cubes**2).mean()))
    assert estimate_noise_scale(cubes) == pytest.approx(expected, rel=1e-9)
    assert estimate_noise_scale(cubes[:, :1, :1]) > 0


def test_noise_scale_is_never_below_80_db():
    cubes = linear_scene(0.0)
    expected = 10 ** (-80 / 20) * math.sqrt(float((cubes**2).mean()))
    assert estimate_noise_scale(cubes) == pytest.approx(expected, rel=1e-9)


# The learned basis


def two_halves(components: np.ndarray, noise_scale: float, seed: int = 0) -> xr.DataArray:
    """Pure material 0 on the left and 1 on the right, ``m_p + sum_k F_kp psi_k`` plus noise."""
    rng = np.random.default_rng(seed)
    matrix = LIBRARY.values[:, :2]
    cubes = np.empty((2, 20, 40, 24))
    for p, columns in enumerate((slice(0, 20), slice(20, 40))):
        psi = rng.normal(size=(2, 20, 20, components.shape[1]))
        cubes[:, :, columns] = matrix[:, p] + psi @ components[..., p].T
    return xr.DataArray(cubes + noise_scale * rng.normal(size=cubes.shape), dims=DIMS)


def test_learned_components_have_the_covariance_of_each_material():
    smooth = reference.dct_columns(24, 4)
    truth = np.stack([smooth[:, :2] * [0.2, 0.1], smooth[:, 2:] * [0.15, 0.05]], axis=-1)
    basis = learn_basis(two_halves(truth, 0.002), LIBRARY.values[:, :2], 2)
    got = basis.array.numpy().astype(float)
    assert got.shape == (24, 2, 2)
    for p in range(2):
        covariance = truth[..., p] @ truth[..., p].T
        error = got[..., p] @ got[..., p].T - covariance
        # 400 spectra: a relative standard error of sqrt(2 / 400) for every variance, and as much
        # again where the two directions mix; the noise adds 0.002^2.
        allowed = 5 * math.sqrt(2 / 400) * np.linalg.norm(covariance, 2)
        assert np.linalg.norm(error, 2) < allowed


def beside(matrix: np.ndarray) -> np.ndarray:
    """A unit vector that the abundances do not see: orthogonal to the spectra of all materials."""
    away = np.random.default_rng(0).normal(size=len(matrix))
    away -= matrix @ np.linalg.lstsq(matrix, away, rcond=None)[0]
    return away / np.linalg.norm(away)


def test_components_are_those_of_a_whole_material_where_others_are_mixed_in():
    """Pixels of 92 % material p, which varies by ``psi f``: the covariance of ``psi f`` and not of ``.92 psi f``."""
    matrix, direction = LIBRARY.values[:, :2], beside(LIBRARY.values[:, :2])
    psi = 0.1 * np.random.default_rng(1).normal(size=(1, 12, 24))
    most = np.arange(24) // 12  # left half, right half
    varied = matrix.T[most] + psi[..., None] * direction
    cubes = xr.DataArray(0.92 * varied + 0.08 * matrix.T[1 - most], dims=DIMS)
    got = learn_basis(cubes, matrix, 1).array.numpy()[:, 0]
    # All but the two columns in the middle, three of whose eight neighbours are of the other half.
    for p, columns in enumerate((slice(0, 11), slice(13, 24))):
        expected = psi[..., columns].std(ddof=1) * direction
        np.testing.assert_allclose(
            np.outer(got[:, p], got[:, p]), np.outer(expected, expected), atol=1e-7
        )


def test_pixels_beside_another_material_are_not_learned_from():
    """On whichever side that is: a square varies along its edge alone, which is beside the other material."""
    matrix = LIBRARY.values[:, :2]
    square = np.zeros((24, 24), dtype=bool)
    square[6:18, 6:18] = True
    inner = np.zeros_like(square)
    inner[7:17, 7:17] = True
    psi = np.random.default_rng(1).normal(size=(24, 24)) * (square & ~inner)
    clean = np.where(square[..., None], matrix[:, 0], matrix[:, 1])
    cubes = xr.DataArray((clean + 0.1 * psi[..., None] * beside(matrix))[None], dims=DIMS)
    # Nothing but rounding of spectra of order one varies in the 100 pixels that are left.
    assert np.abs(learn_basis(cubes, matrix, 1).array.numpy()).max() < 1e-6


def test_no_variability_leaves_components_below_the_noise():
    nothing = np.zeros((24, 1, 2))
    basis = learn_basis(two_halves(nothing, 0.01), LIBRARY.values[:, :2], 4)
    lengths = np.linalg.norm(basis.array.numpy(), axis=0)
    # Of 400 spectra the largest eigenvalue is (1 + sqrt(24 / 400))^2 noise variances, about 0.55
    # above their median, and the others are smaller; a fifth of slack for its fluctuation.
    assert lengths.max() < 1.2 * 0.01 * math.sqrt((1 + math.sqrt(24 / 400)) ** 2 - 1 + 0.06)


def test_learn_basis_leaves_the_callers_arrays_alone(bundles):
    cubes, matrix = bundles.cubes.copy(deep=True), bundles.reference_endmembers.copy(deep=True)
    learn_basis(cubes, matrix, 3)
    xr.testing.assert_identical(cubes, bundles.cubes)
    xr.testing.assert_identical(matrix, bundles.reference_endmembers)


def test_learn_basis_has_no_more_components_than_bands():
    cubes = linear_scene(0.01, bands=5)
    matrix = simulate.library(np.linspace(450, 2400, 5)).values[:, :3]
    assert learn_basis(cubes, matrix, 8).num_components == 5


def test_learn_basis_of_one_pixel_is_finite():
    """Too little to learn from: no variability, rather than NaN."""
    cubes = linear_scene(0.01, shape=(1, 1, 1), bands=24)
    assert np.isfinite(learn_basis(cubes, LIBRARY.values[:, :3], 4).array.numpy()).all()


@pytest.mark.parametrize(
    ("matrix", "count", "error", "text"),
    [
        (LIBRARY.values[:, :3], 0, ValueError, "num_components must be at least 1"),
        (LIBRARY.values[:9, :3], 4, ValueError, "must have one row per band"),
    ],
)
def test_learn_basis_errors(brightness, matrix, count, error, text):
    with pytest.raises(error, match=text):
        learn_basis(brightness.cubes, matrix, count)


# Refined endmembers


def biased(matrix: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        1.25 * matrix,
        dims=("wavelength", "endmember"),
        coords={"endmember": ["first", "second"]},
    )


def test_refining_averages_pure_neighbourhoods():
    scale = 0.15
    variability = (scale * LIBRARY.values[:, :2])[:, None]
    cubes = two_halves(variability, 0.002)
    first = biased(LIBRARY.values[:, :2])
    before = first.copy(deep=True)
    refined = refine_endmembers(cubes, first, Brightness(scale), 0.002, num_average=40)
    xr.testing.assert_identical(first, before)
    assert list(refined.endmember.values) == ["first", "second"]
    # 40 spectra, chosen by what lies beside them: the mean brightness has a std of
    # scale / sqrt(40), and the selection's own threshold cuts nothing off here.
    error = refined.values / LIBRARY.values[:, :2] - 1
    noise = 0.002 / LIBRARY.values[:, :2]
    assert (np.abs(error) < 5 * np.hypot(scale, noise) / math.sqrt(40)).all()


def tiled(upper: xr.DataArray, lower: xr.DataArray) -> xr.DataArray:
    cubes = xr.concat([upper, lower], dim="y")
    ids = np.repeat([3, 7], [upper.sizes["y"], lower.sizes["y"]])
    return cubes.assign_coords(tile=("y", ids))


@pytest.mark.parametrize("what", ["refine", "learn"])
def test_neighbourhoods_do_not_cross_tiles(what):
    """The order of the tiles does not matter, unless they are taken for one image."""
    parts = [simulate.bundle_scene(num_dates=1, height=4, width=9, num_endmembers=3, seed=s)
             for s in (1, 2)]  # fmt: skip
    upper, lower = (part.cubes for part in parts)
    matrix = parts[0].reference_endmembers

    def result(cubes: xr.DataArray) -> np.ndarray:
        if what == "learn":
            components = learn_basis(cubes, matrix, 2).array.numpy().astype(float)
            return np.einsum("lkp,mkp->lmp", components, components)
        return refine_endmembers(cubes, matrix, Brightness(), 0.02, num_average=3).values

    one, other = result(tiled(upper, lower)), result(tiled(lower, upper))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    whole = result(tiled(upper, lower).drop_vars("tile"))
    swapped = result(tiled(lower, upper).drop_vars("tile"))
    assert np.abs(whole - swapped).max() > 1e-3 * np.abs(whole).max()


# Correlation in time


def varying_scene(correlation: float) -> tuple[xr.DataArray, Start]:
    """Brightness of two materials follows an AR(1); the abundances stay."""
    rng = np.random.default_rng(7)
    psi = np.zeros((4, 20, 20, 2))
    psi[0] = rng.normal(size=(20, 20, 2))
    for t in range(1, 4):
        step = math.sqrt(1 - correlation**2) * rng.normal(size=(20, 20, 2))
        psi[t] = correlation * psi[t - 1] + step
    share = rng.uniform(0.3, 0.7, size=(20, 20))
    a = np.stack([share, 1 - share], axis=-1)
    matrix = LIBRARY.values[:, [1, 3]]
    cubes = ((1 + 0.1 * psi) * a) @ matrix.T + 0.001 * rng.normal(size=(4, 20, 20, 24))
    endmembers = xr.DataArray(matrix, dims=("wavelength", "endmember"))
    return xr.DataArray(cubes, dims=DIMS), Start(endmembers, Brightness(0.1), 0.001, {})


def test_independent_variability_has_no_correlation():
    cubes, start = varying_scene(0.0)
    # 400 pixels, 3 pairs of dates, 2 materials; the abundance takes one of two directions, the
    # same at all dates, and leaves at least one.
    assert abs(temporal_correlation(cubes, start)) < 5 / math.sqrt(400 * 3)


def test_what_all_pixels_have_in_common_does_not_count_as_lasting():
    """Endmembers that are 10 % too dark: a variability of one std that is the same at all dates and pixels."""
    cubes, start = varying_scene(0.0)
    dark = dataclasses.replace(start, endmembers=start.endmembers / 1.1)
    assert abs(temporal_correlation(cubes, dark)) < 5 / math.sqrt(400 * 3)


def test_lasting_variability_is_seen_up_to_shrinkage():
    strong, weak = (temporal_correlation(*varying_scene(r)) for r in (0.95, 0.5))
    assert 0.7 < strong <= 1
    assert 0.3 < weak < strong


def test_correlation_without_two_dates_is_zero():
    cubes, start = varying_scene(0.9)
    assert temporal_correlation(cubes[:1], start) == 0.0
    gappy = cubes.copy(deep=True)
    gappy[1::2] = np.nan  # no two neighbouring dates
    assert temporal_correlation(gappy, start) == 0.0


def test_correlation_is_seen_between_gaps():
    cubes, start = varying_scene(0.9)
    cloudy = cubes.copy(deep=True)
    cloudy[0, :10] = cloudy[2, 10:] = np.nan  # no pixel is seen at all dates
    whole, seen = (temporal_correlation(c, start) for c in (cubes, cloudy))
    assert abs(seen - whole) < 0.1
