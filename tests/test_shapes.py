"""Every guide with every prior, through `fit` and the presets, at sizes where something is one or missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from shape_cases import ALL, CHAINS, PRESETS, WALKS, Size, fitted, gaps, sequence, spectra

from pyro_unmix import redsunn, unmix
from pyro_unmix.bases import DCT, Brightness
from pyro_unmix.posterior import PosteriorMean, Unmixing

SIZES = {
    "one date": Size(dates=1),
    "one pixel": Size(height=1, width=1),
    "two materials": Size(materials=2),
    "six materials": Size(materials=6),
    "one component": Size(components=1),
    "as many components as bands": Size(bands=4, components=4),
    "as few bands as materials": Size(bands=3, components=1),
    "all of them small": Size(1, 1, 1, 2, 2, 1),
}


def assert_on_simplex(values: xr.DataArray) -> None:
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum("endmember"), 1, atol=1e-5)


def check_everything(result: Unmixing, cubes: xr.DataArray, materials: int) -> None:
    """Every accessor: its shape, and that its numbers can be what they are said to be."""
    dates, height, width, bands = cubes.shape
    maps = (dates, height, width, materials)
    assert np.isfinite(result.losses).all()
    assert result.abundances.shape == result.abundances_std.shape == maps
    assert_on_simplex(result.abundances)
    assert np.isfinite(result.abundances_std).all() and (result.abundances_std >= 0).all()
    assert result.num_endmembers == materials
    assert result.reference_endmembers.shape == (bands, materials)
    np.testing.assert_array_equal(result.valid, cubes.notnull().all("wavelength"))
    for t in {0, dates - 1, -1}:
        matrices, image = result.endmembers(t), result.reconstruct(t)
        assert matrices.shape == (height, width, bands, materials)
        assert image.shape == (height, width, bands)
        assert np.isfinite(matrices).all()
        product = np.einsum("yxlp,yxp->yxl", matrices, result.abundances.values[t])
        np.testing.assert_allclose(image, product, atol=1e-4)
    assert result.change.shape == (dates, height, width)
    observed = result.valid.values[1:]
    np.testing.assert_array_equal(np.isnan(result.change.values[1:]), ~observed)
    assert np.isnan(result.change[0]).all()
    assert (np.abs(result.change.values[1:][observed] - 0.5) <= 0.5 + 1e-5).all()
    assert result.unit_maximum().shape == maps
    assert_on_simplex(result.unit_maximum())
    draws = result.sample(3)
    assert draws.shape == (3, *maps)
    assert_on_simplex(draws)
    assert result.quantile(0.5, num_samples=4).shape == maps
    levels = result.quantile([0.1, 0.9], num_samples=4)
    assert levels.shape == (2, *maps)
    assert (levels[1] >= levels[0]).all()
    predicted = result.predict(cubes)
    np.testing.assert_allclose(predicted.abundances, result.abundances, atol=1e-4)


# Sizes


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_every_pair_at_every_size(combination, name):
    size = SIZES[name]
    cubes = sequence(size)
    result = fitted(combination, cubes, size)
    assert result.losses.shape == (2,)
    check_everything(result, cubes, size.materials)
    assert (result.abundances_std > 0).any()
    assert result.dataset["components"].shape == (size.bands, size.components, size.materials)
    other = sequence(size._replace(dates=size.dates + 2, height=1, width=4), seed=1)
    assert_on_simplex(result.predict(other).abundances)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_at_every_size(preset, name):
    """From given endmembers, which one pixel needs; also where nothing is left to tell noise from."""
    size = SIZES[name]
    cubes = sequence(size)
    settings: dict[str, Any] = {"num_basis": size.components} if preset == "redsunn" else {}
    result = PRESETS[preset](
        cubes,
        size.materials,
        endmembers=spectra(size.bands, size.materials),
        num_steps=2,
        progress=False,
        **settings,
    )
    check_everything(result, cubes, size.materials)


@pytest.mark.parametrize(
    "size",
    [
        Size(1, 5, 4, materials=3),
        Size(3, 4, 3, materials=2),
        Size(2, 6, 6, materials=6),
        Size(6, 1, 1, materials=3),
        Size(4, 1, 9, materials=3),
        Size(2, 5, 5, bands=3, materials=3),
    ],
    ids=["one date", "P = 2", "P = 6", "one pixel", "one row", "as few bands as materials"],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_find_everything_at_small_sizes(preset, size):
    cubes = sequence(size)
    result = PRESETS[preset](cubes, size.materials, num_steps=2, progress=False)
    check_everything(result, cubes, size.materials)


@pytest.mark.parametrize(
    "basis",
    [
        pytest.param(Brightness(0.2), id="K=1"),
        pytest.param(DCT(1), id="DCT(1)"),
        pytest.param(DCT(6, scale=0.1), id="DCT(6)"),
        pytest.param(DCT(8), id="K=L"),
    ],
)
def test_unmix_with_a_basis_of_any_size(basis):
    cubes = sequence(Size(height=4))
    result = unmix(cubes, 3, basis=basis, num_steps=2, progress=False)
    check_everything(result, cubes, 3)
    assert result.dataset.sizes["component"] == basis.num_components


@pytest.mark.parametrize("preset", PRESETS)
def test_materials_are_at_most_the_bands(preset):
    cubes = sequence(Size(bands=4))
    with pytest.raises(ValueError, match="num_endmembers = 5 needs at least as many .*4 bands"):
        PRESETS[preset](cubes, 5, progress=False)
    matrix = spectra(4, 5).values
    with pytest.raises(ValueError, match=r"at most as many columns .* got shape .4, 5."):
        PRESETS[preset](cubes, 5, endmembers=matrix, progress=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_one_spectrum_cannot_hold_two_unknown_materials(preset):
    cubes = sequence(Size(1, 1, 1))
    text = "needs at least as many valid spectra and bands, got 1 spectra of 8 bands"
    with pytest.raises(ValueError, match=text):
        PRESETS[preset](cubes, 2, progress=False)


# Missing pixel-dates


@pytest.mark.parametrize("combination", ALL, ids="-".join)
def test_missing_pixel_dates(combination):
    cubes = gaps(sequence())
    result = fitted(combination, cubes)
    check_everything(result, cubes, 3)
    assert not result.valid[1].any()
    # One missing band is a missing spectrum, whatever the others hold.
    other = cubes.copy(deep=True)
    other[1, ..., 1:] = 0.7
    other[0, 0, 1, :-1] = 40.0
    again = fitted(combination, other)
    np.testing.assert_array_equal(again.losses, result.losses)
    xr.testing.assert_identical(again.abundances, result.abundances)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("chain", CHAINS)
def test_less_is_known_of_what_is_missing(walk, chain):
    cubes = gaps(sequence())
    result = fitted(("conjugate", walk, chain), cubes, num_steps=0, estimate=PosteriorMean(64))
    std = result.abundances_std.mean("endmember").values
    assert (std[1, 1:] > std[0, 1:]).all()
    # Least of a pixel that was never seen.
    assert (std[0, 0, 0] > std[0, 1:]).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_missing_pixel_dates(preset):
    cubes = gaps(sequence(Size(height=5, width=5)))
    result = PRESETS[preset](cubes, 3, num_steps=2, progress=False)
    check_everything(result, cubes, 3)
    assert not result.valid[1].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_nothing_from_a_missing_date(preset):
    cubes = gaps(sequence(Size(height=5, width=5)))
    other = cubes.copy(deep=True)
    other[1, ..., 2:] = 0.7
    results = [PRESETS[preset](c, 3, num_steps=1, progress=False) for c in (cubes, other)]
    xr.testing.assert_identical(*(r.to_dataset() for r in results))


def test_redsunn_carries_the_abundances_over_a_missing_date():
    """At the start, where alpha = 1 and W = 0: u = 0 keeps the date before, by Algorithm 1."""
    cubes = gaps(sequence(Size(height=5, width=5)))
    result = redsunn(cubes, 3, num_steps=0, progress=False)
    np.testing.assert_allclose(result.abundances[1], result.abundances[0], atol=1e-5)
    seen = result.abundances[0].values[result.valid.values[0]]
    assert np.abs(seen - 1 / 3).max() > 0.1
