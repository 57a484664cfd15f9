"""Every guide, walk and chain of variability, scenes of any size, and fits of all to all."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, fit, redsunn, simulate, unmix
from pyro_unmix.bases import DCT
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


def gaps(cubes: xr.DataArray) -> xr.DataArray:
    """The second date is missing, pixel (0, 0) always, pixel (0, 1) at first, (1, 1) at last."""
    cubes = cubes.copy(deep=True)
    cubes[1] = np.nan
    cubes[:, 0, 0] = np.nan
    cubes[0, 0, 1] = cubes[-1, 1, 1] = np.nan
    return cubes


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
