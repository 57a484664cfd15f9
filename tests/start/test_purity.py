"""Pure neighbourhoods: the basis that is learned from them, and endmembers refined by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from start_cases import DIMS, LIBRARY, brightness_scene, linear_scene

from pyro_unmix import as_cube_sequence, simulate
from pyro_unmix.bases import Brightness
from pyro_unmix.start import learn_basis, refine_endmembers


@pytest.fixture(scope="module")
def brightness() -> simulate.Scene:
    return brightness_scene()


@pytest.fixture(scope="module")
def bundles() -> simulate.Scene:
    return simulate.bundle_scene(num_dates=2, height=16, width=16, num_endmembers=3, seed=0)


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


def test_the_share_of_other_materials_is_no_variability():
    """Mixtures of two fixed spectra, by shares that grow along a row, leave nothing that varies."""
    spectra = np.array([[0.1, 0.6], [0.2, 0.5], [0.5, 0.4], [0.7, 0.2], [0.6, 0.1]])
    share = np.broadcast_to(np.linspace(0.905, 0.999, 30), (1, 30, 30))
    cubes = np.stack([share, 1 - share], axis=-1) @ spectra.T
    found = learn_basis(as_cube_sequence(cubes), spectra, 1)
    components = found.components(torch.tensor(spectra))[:, 0, 0].numpy()
    # At the ends of a row the neighbours' share is half a step, 0.0016, off.
    assert np.linalg.norm(components) < 0.005 * np.linalg.norm(spectra[:, 1])
