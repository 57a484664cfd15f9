"""Every guide with every prior, through `fit` and the presets, at sizes where something is one."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, fit, redsunn, simulate, unmix
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
from pyro_unmix.posterior import PosteriorMean, Unmixing
from pyro_unmix.priors import (
    AutoRegressive,
    Independent,
    JumpWalk,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)
from pyro_unmix.start import match_endmembers

DIMS = ("time", "y", "x", "wavelength")
GUIDES = {"bilstm": BiLSTMGuide, "conjugate": ConjugateGuide}
WALKS = {"softmax": SoftmaxWalk, "jump": JumpWalk}
CHAINS = {
    "walk": lambda: RandomWalk(0.1, initial_scale=0.3),
    "autoregressive": lambda: AutoRegressive(0.5, 0.3),
    "independent": lambda: Independent(0.3),
}
ALL = list(itertools.product(GUIDES, WALKS, CHAINS))
PRESETS = {"redsunn": redsunn, "unmix": unmix}


class Size(NamedTuple):
    """T, H, W, L, P, K."""

    dates: int = 3
    height: int = 2
    width: int = 3
    bands: int = 8
    materials: int = 3
    components: int = 2


DEFAULT = Size()
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


def spectra(bands: int, materials: int) -> xr.DataArray:
    return simulate.library(np.linspace(450, 2400, bands))[:, :materials]


def sequence(size: Size = DEFAULT, seed: int = 0) -> xr.DataArray:
    """Mixtures of the spectra with a little of everything; no simulator is this small."""
    rng = np.random.default_rng(seed)
    shape = (size.dates, size.height, size.width)
    matrix = spectra(size.bands, size.materials)
    abundances = rng.dirichlet(0.5 * np.ones(size.materials), size=shape)
    brightness = 1 + 0.1 * rng.normal(size=(*shape, 1))
    noise = 0.005 * rng.normal(size=(*shape, size.bands))
    values = brightness * (abundances @ matrix.values.T) + noise
    return xr.DataArray(values, dims=DIMS, coords={"wavelength": matrix.wavelength})


def build(guide: str, walk: str, chain: str, matrix: Any, basis: Any) -> tuple[Any, Any]:
    model = SGLMM(
        matrix,
        basis=basis,
        abundance_prior=WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=WhiteNoise(0.02),
    )
    return model, GUIDES[guide](model)


def fitted(
    combination: tuple[str, str, str],
    cubes: xr.DataArray,
    size: Size = DEFAULT,
    *,
    double: bool = False,
    **settings: Any,
) -> Unmixing:
    """Two steps with a batch that leaves pixels over, and eight draws."""
    matrix = spectra(size.bands, size.materials)
    model, guide = build(*combination, matrix, DCT(size.components))
    if double:
        model, guide = model.double(), guide.double()
    defaults = {"num_steps": 2, "batch_size": 4, "estimate": PosteriorMean(8), "progress": False}
    return fit(model, guide, cubes, **{**defaults, **settings})


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


def gaps(cubes: xr.DataArray) -> xr.DataArray:
    """The second date is missing, pixel (0, 0) always, pixel (0, 1) at first, (1, 1) at last."""
    cubes = cubes.copy(deep=True)
    cubes[1] = np.nan
    cubes[:, 0, 0] = np.nan
    cubes[0, 0, 1] = cubes[-1, 1, 1] = np.nan
    return cubes


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


# Tiles


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


def start_of(cubes: xr.DataArray) -> Unmixing:
    """All that `unmix` chooses from the data."""
    return unmix(cubes, 3, num_steps=0, progress=False)


def assert_same_materials(got: Unmixing, expected: Unmixing, abundances: xr.DataArray) -> None:
    """In any order, which has no meaning; but each place has its own draws, 64 of them."""
    matrix = expected.reference_endmembers.values
    order = match_endmembers(got.reference_endmembers.values, matrix)
    np.testing.assert_allclose(got.reference_endmembers.values[:, order], matrix, atol=1e-6)
    error = 5 * got.abundances_std.values[..., order] * np.sqrt(2 / 64) + 1e-3
    assert (np.abs(got.abundances.values[..., order] - abundances.values) < error).all()


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


# Permutations


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
