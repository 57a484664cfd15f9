from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import simulate
from pyro_unmix.start import extract_endmembers, match_endmembers, nfindr, vca
from pyro_unmix.start.extraction import _NUM_LENGTHS, _typical_lengths

LIBRARY = simulate.library(np.linspace(450, 2400, 30)).values


def mixtures(num_endmembers: int, count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless linear mixtures (N, L), one pure spectrum of each material among them."""
    rng = np.random.default_rng(seed)
    endmembers = LIBRARY[:, :num_endmembers]
    abundances = 0.05 + rng.dirichlet(np.ones(num_endmembers), size=count)
    abundances /= abundances.sum(1, keepdims=True)
    pure = rng.choice(count, num_endmembers, replace=False)
    abundances[pure] = np.eye(num_endmembers)
    return abundances @ endmembers.T, endmembers


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def assert_same_columns(got: np.ndarray, expected: np.ndarray, atol: float) -> None:
    """The same spectra in any order."""
    orders = itertools.permutations(range(expected.shape[1]))
    error = min(np.abs(got[:, list(order)] - expected).max() for order in orders)
    assert error <= atol


# VCA and N-FINDR


@pytest.mark.parametrize("num_endmembers", range(2, 7))
@pytest.mark.parametrize("extract", [vca, nfindr])
def test_the_pure_spectra_of_a_noiseless_mixture_are_found(extract, num_endmembers):
    for seed in range(5):
        spectra, endmembers = mixtures(num_endmembers, seed=seed)
        got = extract(spectra, num_endmembers, seed=seed)
        assert got.shape == endmembers.shape
        assert_same_columns(got, endmembers, 1e-12)


@pytest.mark.parametrize("extract", [vca, nfindr])
def test_extraction_depends_on_the_seed_alone_and_keeps_its_input(extract):
    rng = np.random.default_rng(1)
    spectra = mixtures(4)[0] + 0.02 * rng.normal(size=(400, 30))
    before, state = spectra.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = extract(spectra, 4, seed=3), extract(spectra, 4, seed=3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(spectra, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_vca_is_random_and_its_spectra_are_of_the_data():
    spectra = mixtures(4)[0] + 0.05 * np.random.default_rng(2).normal(size=(400, 30))
    found = {tuple(np.sort(vca(spectra, 4, seed=seed)[0])) for seed in range(8)}
    assert len(found) > 1
    for column in vca(spectra, 4).T:
        assert (spectra == column).all(1).any()


def test_nfindr_ends_where_no_single_swap_enlarges_the_simplex():
    spectra = mixtures(3, 60)[0] + 0.1 * np.random.default_rng(3).normal(size=(60, 30))
    centred = spectra - spectra.mean(0)
    scores = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T

    def area(rows) -> float:
        return abs(np.linalg.det(np.column_stack([np.ones(3), scores[rows]])))

    rows = [int(np.flatnonzero((spectra == c).all(1))[0]) for c in nfindr(spectra, 3).T]
    best = area(rows)
    for position, other in itertools.product(range(3), range(60)):
        swapped = list(rows)
        swapped[position] = other
        assert area(swapped) <= best * (1 + 1e-8)


@pytest.mark.parametrize("extract", [vca, nfindr])
@pytest.mark.parametrize(
    ("spectra", "count", "error", "text"),
    [
        (np.ones((5, 4, 3)), 2, ValueError, "spectra must have 2 dimensions, got 3"),
        (np.full((9, 4), np.nan), 2, ValueError, "spectra must be finite"),
        (LIBRARY.T, 1, ValueError, "num_endmembers must be at least 2, got 1"),
        (LIBRARY.T, 2.5, TypeError, "num_endmembers must be an integer"),
        (
            LIBRARY.T[:3],
            4,
            ValueError,
            "num_endmembers = 4 needs at least as many valid spectra and bands, got 3 spectra of "
            "30 bands: lower num_endmembers",
        ),
        (LIBRARY[:, :3], 4, ValueError, "got 30 spectra of 3 bands"),
    ],
)
def test_extractor_errors(extract, spectra, count, error, text):
    with pytest.raises(error, match=text):
        extract(spectra, count)


# The recipe for sequences


def noiseless_scene(**settings) -> xr.DataArray:
    """Smooth maps over a linear mixture with patches of pure pixels."""
    rng = np.random.default_rng(4)
    abundances = 0.1 + rng.dirichlet(np.ones(3), size=(2, 12, 15))
    abundances /= abundances.sum(-1, keepdims=True)
    for p in range(3):
        abundances[:, 5:10, 5 * p : 5 * p + 5] = np.eye(3)[p]
    cubes = abundances @ LIBRARY[:, :3].T
    dims = ("time", "y", "x", "wavelength")
    return xr.DataArray(cubes, dims=dims, coords={"wavelength": np.linspace(450, 2400, 30)})


@pytest.mark.parametrize("window", [1, 3, 5])
def test_pure_patches_are_found_through_any_window(window):
    cubes = noiseless_scene()
    # Each patch has one pixel per date whose window of 5 lies inside.
    got = extract_endmembers(cubes, 3, window=window, num_average=2)
    assert got.dims == ("wavelength", "endmember")
    np.testing.assert_array_equal(got.wavelength, cubes.wavelength)
    np.testing.assert_array_equal(got.endmember, [0, 1, 2])
    assert_same_columns(got.values, LIBRARY[:, :3], 1e-9)  # FCLS ties within its ridge


def test_cubes_of_any_accepted_kind_give_the_same():
    cubes = noiseless_scene()
    expected = extract_endmembers(cubes, 3)
    plain = extract_endmembers(cubes.values, 3)
    turned = extract_endmembers(cubes.transpose("wavelength", "x", "time", "y"), 3)
    np.testing.assert_array_equal(plain, expected)
    xr.testing.assert_identical(turned, expected)
    assert "wavelength" not in plain.coords


def test_the_users_cubes_stay_as_they_are():
    cubes = noiseless_scene()
    cubes[0, 0, 0, 0] = np.nan
    before = cubes.copy(deep=True)
    extract_endmembers(cubes, 3)
    xr.testing.assert_identical(cubes, before)


def test_missing_and_empty_pixels_do_not_count():
    cubes = noiseless_scene()
    cubes[0, 0, :, :4] = 50.0  # far outside, were it not for
    cubes[0, 0, :, 4] = np.nan  # one missing band
    cubes[1, 0, :3] = 0.0  # fill
    got = extract_endmembers(cubes, 3, window=3, num_average=2)
    assert_same_columns(got.values, LIBRARY[:, :3], 1e-9)


def test_averages_do_not_cross_tiles():
    """Two tiles of one row each: along y the windows see one material only."""
    first, second, third = LIBRARY[:, :3].T
    rows = np.stack([np.tile(first, (9, 1)), np.tile(second, (9, 1)), np.tile(third, (9, 1))])
    cubes = xr.DataArray(
        rows[None], dims=("time", "y", "x", "wavelength"), coords={"tile": ("y", [0, 1, 2])}
    )
    apart = extract_endmembers(cubes, 3, window=3, num_average=1)
    assert_same_columns(apart.values, LIBRARY[:, :3], 1e-12)
    together = extract_endmembers(cubes.drop_vars("tile"), 3, window=3, num_average=1)
    with pytest.raises(AssertionError):
        assert_same_columns(together.values, LIBRARY[:, :3], 1e-3)


def test_more_starts_never_shrink_the_simplex():
    rng = np.random.default_rng(5)
    noisy = noiseless_scene().values + 0.05 * rng.normal(size=(2, 12, 15, 30))
    spectra = noisy.reshape(-1, 30)
    centred = spectra - spectra.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    areas = []
    for num_starts in (1, 4, 16):
        found = extract_endmembers(noisy, 3, window=1, num_starts=num_starts, num_average=1)
        scores = (found.values.T - spectra.mean(0)) @ directions.T
        areas.append(abs(np.linalg.det(np.column_stack([np.ones(3), scores]))))
    # The mean of one pixel is that pixel.
    assert areas[0] <= areas[1] * (1 + 1e-9) <= areas[2] * (1 + 1e-8)


def test_averaging_reduces_the_noise():
    clean, rng = noiseless_scene(), np.random.default_rng(6)
    noisy = clean + 0.03 * rng.normal(size=clean.shape)
    errors = []
    for window, num_average in ((1, 1), (3, 20)):
        got = extract_endmembers(noisy, 3, window=window, num_average=num_average).values
        order = match_endmembers(got, LIBRARY[:, :3])
        errors.append(np.sqrt(((got[:, order] - LIBRARY[:, :3]) ** 2).mean()))
    # Windows of 9 pixels and means of up to 20 of them against single, extreme pixels.
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize(
    ("cubes", "count", "settings", "error", "text"),
    [
        (noiseless_scene(), 1, {}, ValueError, "num_endmembers must be at least 2, got 1"),
        (noiseless_scene(), 31, {}, ValueError, "needs at least as many valid spectra and bands"),
        (noiseless_scene()[:1, :1, :2], 3, {}, ValueError, "got 2 spectra of 30 bands"),
        (noiseless_scene(), 3, {"window": 2}, ValueError, "size must be odd"),
        (noiseless_scene(), 3, {"num_starts": 0}, ValueError, "num_starts must be at least 1"),
        (noiseless_scene(), 3, {"num_average": 0}, ValueError, "num_average must be at least 1"),
        (
            np.full((1, 4, 4, 6), 0.3),
            2,
            {},
            ValueError,
            "found no 2 distinct spectra in the cubes: lower num_endmembers",
        ),
        (
            np.tile(LIBRARY[:, :2].T, (1, 3, 5, 1)),
            3,
            {"window": 1},
            ValueError,
            "found no 3 distinct spectra in the cubes: lower num_endmembers",
        ),
        ("scene.nc", 3, {}, FileNotFoundError, "no such file: scene.nc"),
        ({"Y": 1}, 3, {}, TypeError, "a cube sequence must be a numpy array"),
    ],
)
def test_extract_endmembers_errors(cubes, count, settings, error, text):
    with pytest.raises(error, match=text):
        extract_endmembers(cubes, count, **settings)


# Matching


@pytest.mark.parametrize("num_endmembers", range(2, 7))
def test_matching_has_the_smallest_total_angle_of_all_permutations(num_endmembers):
    rng = np.random.default_rng(num_endmembers)
    for _ in range(10):
        ours, theirs = rng.uniform(0.05, 1, size=(2, 8, num_endmembers))
        order = match_endmembers(ours, theirs)
        totals = {
            candidate: sum(angle(ours[:, i], theirs[:, p]) for p, i in enumerate(candidate))
            for candidate in itertools.permutations(range(num_endmembers))
        }
        assert sorted(order) == list(range(num_endmembers))
        assert totals[tuple(map(int, order))] <= min(totals.values()) + 1e-12


def test_matching_undoes_a_shuffle_and_ignores_brightness():
    reference = xr.DataArray(LIBRARY[:, :5], dims=("wavelength", "endmember"))
    shuffle = [3, 0, 4, 1, 2]
    brightness = np.array([0.5, 1.2, 0.8, 1.0, 0.3])
    estimated = reference[:, shuffle] * brightness
    order = match_endmembers(estimated, reference)
    np.testing.assert_array_equal(np.array(shuffle)[order], range(5))
    turned = match_endmembers(estimated.T, reference)
    np.testing.assert_array_equal(turned, order)


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (LIBRARY[:, :3], LIBRARY[:, :4], r"same .bands, endmembers., got .30, 3. and .30, 4."),
        (LIBRARY[:20, :3], LIBRARY[:, :3], r"got .20, 3. and .30, 3.: select the same bands"),
        (np.zeros((30, 3)), LIBRARY[:, :3], "estimated must not hold zero spectra"),
        (LIBRARY[:, :3], np.full((30, 3), np.inf), "reference must be finite"),
    ],
)
def test_matching_errors(ours, theirs, text):
    with pytest.raises(ValueError, match=text):
        match_endmembers(ours, theirs)


def test_typical_lengths_are_those_of_the_purest_pixels() -> None:
    """Half of the pixels are mixed and short."""
    pure = np.repeat(np.eye(2), _NUM_LENGTHS, axis=0)
    mixed = np.full_like(pure, 0.5)
    lengths = np.concatenate([pure @ [2.0, 3.0], np.ones(len(mixed))])
    typical = _typical_lengths(np.concatenate([pure, mixed]), np.eye(2), lengths)
    np.testing.assert_array_equal(typical, [2.0, 3.0])
