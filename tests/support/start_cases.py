"""Scenes whose brightness, abundances and noise are known."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix import SGLMM, simulate
from pyro_unmix.bases import Brightness
from pyro_unmix.priors import Independent, JumpWalk, WhiteNoise

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


def linear_scene(noise_scale: float, shape=(2, 20, 25), bands: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    matrix = simulate.library(np.linspace(450, 2400, bands)).values[:, :3]
    clean = rng.dirichlet(np.ones(3), size=shape) @ matrix.T
    noise = noise_scale * rng.normal(size=clean.shape)
    return xr.DataArray(clean + noise, dims=DIMS)
