"""What `choose_start` chooses, by which score, and whether variability lasts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from start_cases import DIMS, LIBRARY, brightness_scene

from pyro_unmix import simulate
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.solvers import MarginalMixing
from pyro_unmix.start import Start, choose_start, marginal_score, temporal_correlation


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {},
            [
                "endmembers: ",
                "because they explain the spectra best",
                "variability: the materials ",
            ],
        ),
        ({"basis": Brightness()}, ["variability: as in the Brightness that was given"]),
        ({"basis": DCT(3)}, ["variability: as in the DCT that was given"]),
        (
            {"basis": LearnedBasis(torch.full((224, 1, 3), 0.01))},
            ["variability: as in the LearnedBasis that was given"],
        ),
    ],
)
def test_what_was_chosen_is_said_in_plain_words(
    caplog: pytest.LogCaptureFixture, given: dict[str, Any], words: list[str]
) -> None:
    scene = simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    with caplog.at_level("INFO", logger="pyro_unmix"):
        start = choose_start(scene.cubes, 3, **given)
    assert all(word in caplog.text for word in words)
    best = max(start.log_likelihoods, key=start.log_likelihoods.__getitem__)
    windows = {"window 1": "single pixels", "window 3": "3 x 3 pixels", "window 5": "5 x 5 pixels"}
    assert {**windows, "refined": "pure neighbours"}[best.partition(",")[0]] in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="pyro_unmix"):
        choose_start(scene.cubes, 3, endmembers=scene.reference_endmembers)
    assert "endmembers: those that were given" in caplog.text
