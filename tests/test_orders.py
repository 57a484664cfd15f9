"""Neither tiles nor the order of pixels and bands matter to any guide, prior or preset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from shape_cases import (
    ALL,
    PRESETS,
    Size,
    assert_same_materials,
    build,
    fitted,
    gaps,
    sequence,
    spectra,
    start_of,
)

from pyro_unmix import fit, simulate
from pyro_unmix.bases import Brightness, LearnedBasis


def tiled(cubes: xr.DataArray) -> xr.DataArray:
    """The upper half is one tile, the lower half another."""
    half = cubes.sizes["y"] // 2
    return cubes.assign_coords(tile=("y", [3] * half + [8] * (cubes.sizes["y"] - half)))


@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_tiles_are_labels_to_fit(combination):
    size = Size(height=4)
    cubes = sequence(size)
    plain, result = (fitted(combination, c, size) for c in (cubes, tiled(cubes)))
    np.testing.assert_array_equal(result.losses, plain.losses)
    np.testing.assert_array_equal(result.abundances, plain.abundances)
    for array in (
        result.abundances,
        result.abundances_std,
        result.endmembers(1),
        result.reconstruct(1),
        result.change,
        result.valid,
        result.unit_maximum(),
        result.sample(2),
        result.quantile(0.5, num_samples=4),
        result.predict(tiled(cubes)).abundances,
    ):
        np.testing.assert_array_equal(array["tile"], [3, 3, 8, 8])


def swapped(array: xr.DataArray) -> xr.DataArray:
    half = array.sizes["y"] // 2
    return array.isel(y=[*range(half, 2 * half), *range(half)])


def test_the_order_of_tiles_does_not_matter():
    """Nothing crosses from tile to tile; with neighbours across the border it would."""
    library = spectra(20, 3)
    scene = simulate.scaled_scene(num_dates=3, height=12, width=12, library=library, seed=0)
    cubes = tiled(scene.cubes)
    first, second = start_of(cubes), start_of(swapped(cubes))
    assert list(second.abundances["tile"].values) == [8] * 6 + [3] * 6
    assert_same_materials(second, first, swapped(first.abundances))
    # Which this scene would tell.
    untiled = [start_of(c.drop_vars("tile")) for c in (cubes, swapped(cubes))]
    with pytest.raises(AssertionError):
        assert_same_materials(untiled[1], untiled[0], swapped(untiled[0].abundances))


@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_permuted_pixels(combination):
    """Before any step; in training a pixel draws by its place in the batch."""
    cubes = gaps(sequence())
    order = np.random.default_rng(0).permutation(6)
    moved = cubes.values.reshape(3, 6, 8)[:, order].reshape(cubes.shape)
    first, second = (
        fitted(combination, c, num_steps=0, double=True) for c in (cubes, cubes.copy(data=moved))
    )
    for key in ("abundances", "abundances_std", "variability", "change", "valid"):
        expected = first.dataset[key].values
        expected = expected.reshape(3, 6, *expected.shape[3:])[:, order]
        got = second.dataset[key].values.reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_permuted_bands(combination):
    """Trained, with the input weights of the LSTM permuted alike."""
    rng = np.random.default_rng(1)
    components = 0.1 * rng.normal(size=(8, 2, 3))
    cubes, matrix = gaps(sequence()), spectra(8, 3)
    results = []
    for bands in (np.arange(8), rng.permutation(8)):
        basis = LearnedBasis(components[bands])
        model, guide = build(*combination, matrix[bands], basis)
        with torch.no_grad():
            for name, value in guide.encoder.named_parameters():
                if "weight_ih" in name:
                    value[:, :8] = value[:, :8][:, torch.from_numpy(bands)]
        results.append(
            fit(
                model.double(), guide.double(), cubes[..., bands],
                num_steps=3, batch_size=5, learning_rate=0.01, progress=False,
            )
        )  # fmt: skip
    first, second = results
    np.testing.assert_allclose(second.losses, first.losses, rtol=1e-7)
    for key in ("abundances", "abundances_std", "variability", "change"):
        np.testing.assert_allclose(second.dataset[key], first.dataset[key], atol=1e-6, err_msg=key)
    np.testing.assert_allclose(second.reconstruct(2), first.reconstruct(2)[..., bands], atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_permuted_pixels(preset):
    """From known spectra, and a known basis, no pixel knows its neighbours."""
    cubes = gaps(sequence(Size(height=4, width=4)))
    order = np.random.default_rng(0).permutation(16)
    moved = cubes.values.reshape(3, 16, 8)[:, order].reshape(cubes.shape)
    settings: dict[str, Any] = {"basis": Brightness(0.2)} if preset == "unmix" else {}
    first, second = (
        PRESETS[preset](c, 3, endmembers=spectra(8, 3), num_steps=0, progress=False, **settings)
        for c in (cubes, cubes.copy(data=moved))
    )
    expected = first.abundances.values.reshape(3, 16, 3)[:, order]
    np.testing.assert_allclose(second.abundances.values.reshape(3, 16, 3), expected, atol=1e-3)


@pytest.mark.parametrize("dim", ["x", "y"])
def test_unmix_of_a_mirrored_scene(dim):
    """Neighbours stay neighbours: endmembers, basis and abundances are found again."""
    scene = simulate.bundle_scene(num_dates=2, height=8, width=9, num_endmembers=3, seed=0)
    cubes = scene.cubes[..., ::12]
    mirror = {dim: slice(None, None, -1)}
    first, second = start_of(cubes), start_of(cubes.isel(mirror))
    assert_same_materials(second, first, first.abundances.isel(mirror))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_permuted_bands(preset):
    """Without the cosines of higher order and the LSTM, which know the order of the bands."""
    order = np.random.default_rng(0).permutation(8)
    settings: dict[str, Any] = {"num_basis": 1, "num_steps": 0}
    if preset == "unmix":
        settings = {"basis": Brightness(0.2), "correction": False, "num_steps": 3}
    cubes, matrix = gaps(sequence()), spectra(8, 3)
    first, second = (
        PRESETS[preset](cubes[..., b], 3, endmembers=matrix[b], progress=False, **settings)
        for b in (np.arange(8), order)
    )
    np.testing.assert_allclose(second.losses, first.losses, rtol=1e-4)
    np.testing.assert_allclose(second.abundances, first.abundances, atol=1e-3)
    np.testing.assert_allclose(second.reconstruct(2), first.reconstruct(2)[..., order], atol=1e-3)
