"""Libraries that fit a scene badly: single and many members, classes that are not there, materials that it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.methods import (
    fcls,
    mesma,
    monte_carlo_sma,
    nnls,
    sparse_regression,
    unmix_by_chains,
)

NM = np.linspace(450, 2400, 40)
PURE = pu.simulate.library(NM)
NAMES = ("vegetation", "soil", "water")
SIDE = 12
HIDDEN = np.zeros((SIDE, SIDE), dtype=bool)
HIDDEN[3:6, 3:6] = True
# What equal parts of three classes are off from uniform fractions: the std of one, sqrt(2 / (9 * 4)).
GUESS = np.sqrt(2 / 36)
#: As short as shows what is asked here.
FEW: dict[str, Any] = {
    "num_rounds": 30, "num_spectra": 130, "num_held_out": 40, "num_kept": 8, "num_samples": 24, "num_chains": 2,
}  # fmt: skip
CHAINS = partial(unmix_by_chains, **FEW)
METHODS = {
    "trained": partial(pu.unmix, trained=True),
    "unmix_by_chains": CHAINS,
    "fcls": fcls,
    "nnls": nnls,
    "mesma": partial(mesma, max_models=60),
    "monte_carlo_sma": partial(monte_carlo_sma, num_draws=10),
    "sparse_regression": sparse_regression,
}


def members(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Spectra (L, count) of a class, of other brightness and slightly other shape."""
    waves = [np.sin(NM / rng.uniform(200, 600) + rng.uniform(0, 6)) for _ in range(count)]
    light = rng.normal(1, 0.08, count)
    return PURE.sel(endmember=name).values[:, None] * (light + 0.08 * np.stack(waves, axis=1))


def library(counts: Sequence[int], names: Sequence[str] = NAMES) -> xr.DataArray:
    rng = np.random.default_rng(5)
    spectra = [members(name, n, rng) for name, n in zip(names, counts, strict=True)]
    labels = [name for name, n in zip(names, counts, strict=True) for _ in range(n)]
    return xr.DataArray(
        np.concatenate(spectra, axis=1),
        dims=("wavelength", "endmember"),
        coords={"wavelength": NM, "label": ("endmember", labels)},
    )


def scene(other: str | None = None) -> tuple[xr.DataArray, np.ndarray]:
    """Images of the three classes, in the hidden pixels mostly of another one, and their fractions (H, W, 3)."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.ones(3), (SIDE, SIDE))
    shares, names = truth, NAMES
    if other is not None:
        names = (*NAMES, other)
        shares = np.concatenate([truth, np.zeros((SIDE, SIDE, 1))], axis=-1)
        shares[HIDDEN] = [0.2, 0, 0, 0.8]
    spectra = np.stack([members(name, SIDE**2, rng).T for name in names], axis=-1)
    values = (spectra.reshape(SIDE, SIDE, -1, len(names)) * shares[:, :, None]).sum(-1)
    values = values + rng.normal(0, 0.004, values.shape)
    return pu.as_cube_sequence(values[None], wavelength=NM), truth


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 2, 30)])
def test_classes_of_one_and_of_many_members(method: str, counts: tuple[int, ...]) -> None:
    cubes, truth = scene()
    result = METHODS[method](cubes, endmembers=library(counts), progress=False)
    found = result.abundances.sel(endmember=list(NAMES)).values[0]
    assert np.isfinite(found).all()
    assert np.sqrt(np.square(found - truth).mean()) < GUESS / 2
    assert result.rmse.median() < 0.03


@pytest.mark.parametrize("method", ["trained", "unmix_by_chains", "sparse_regression"])
def test_a_class_that_is_not_there_gets_little(method: str) -> None:
    cubes, truth = scene()
    given = library((5, 5, 5, 5), (*NAMES, "char"))  # dark, as water is
    result = METHODS[method](cubes, endmembers=given, progress=False)
    found = result.abundances
    means = found.mean(("time", "y", "x"))
    assert means.sel(endmember="char") < means.sel(endmember=list(NAMES)).min() / 2
    error = found.sel(endmember=list(NAMES)).values[0] - truth
    assert np.sqrt(np.square(error).mean()) < GUESS / 2


@pytest.mark.parametrize("method", METHODS)
def test_the_rmse_maps_what_no_class_explains(method: str) -> None:
    cubes, _ = scene("snow")
    result = METHODS[method](cubes, endmembers=library((5, 5, 5)), progress=False)
    rmse = result.rmse.values[0]
    assert rmse[HIDDEN].min() > 2 * rmse[~HIDDEN].max()
    # and the residual shows at which wavelengths, here nearly all of them
    residual = np.abs(result.residual(0).values)
    assert (residual[HIDDEN].mean(axis=0) > 2 * residual[~HIDDEN].mean(axis=0)).mean() > 0.8


def test_training_takes_a_dark_material_for_variability_and_chains_do_not() -> None:
    cubes, _ = scene("char")
    contrast = {}
    for method in ("trained", "unmix_by_chains"):
        rmse = METHODS[method](cubes, endmembers=library((5, 5, 5)), progress=False).rmse.values[0]
        contrast[method] = np.median(rmse[HIDDEN]) / np.median(rmse[~HIDDEN])
    assert contrast["unmix_by_chains"] > 2 > contrast["trained"]


def test_the_light_of_a_pixel_is_no_residual_of_chains() -> None:
    cubes, _ = scene()
    light = np.linspace(0.6, 1.2, SIDE**2).reshape(1, SIDE, SIDE, 1)
    cubes = cubes * light
    cubes[0, 2, 3] = np.nan
    before = cubes.copy(deep=True)
    spectra = pu.data.library_endmembers(
        library((5, 5, 5))
    ).values  # one of each material, no library
    result = CHAINS(cubes, endmembers=spectra, progress=False)
    fitted, rmse = result.reconstruct(0).values, result.rmse.values[0]
    for y, x in np.ndindex(SIDE, SIDE):
        mixture = result.reference_endmembers.values @ result.abundances.values[0, y, x]
        if (y, x) == (2, 3):
            np.testing.assert_allclose(fitted[y, x], mixture, rtol=1e-6)
            assert np.isnan(rmse[y, x])
            continue
        spectrum = cubes.values[0, y, x]
        share, left, _, _ = np.linalg.lstsq(mixture[:, None], spectrum, rcond=None)
        np.testing.assert_allclose(fitted[y, x], share * mixture, rtol=1e-6)
        assert rmse[y, x] == pytest.approx(np.sqrt(left[0] / len(NM)), rel=1e-5)
    xr.testing.assert_identical(result.cubes, pu.as_cube_sequence(before))
    assert np.nanmedian(rmse) < 0.015  # a tenth of the light would leave more of spectra near 0.25
