"""A model with seasons, images drawn from it, and a start that knows the endmembers."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

import pyro_unmix
from pyro_unmix import SGLMM, FixedEndmembers
from pyro_unmix.bases import DCT
from pyro_unmix.priors import ConstantWalk, Independent, JumpWalk, SeasonalVariability, WhiteNoise
from pyro_unmix.start import Start

WAVES = np.linspace(0, 1, 8)
M = np.stack([0.2 + 0.5 * WAVES, 0.6 - 0.4 * WAVES**2], axis=1)
DATES = np.datetime64("2019-11-20", "ns") + (np.arange(30) * 27).astype("m8[D]")


def season_model(dates=DATES, walk=None, **settings):
    settings = {"scale": 0.3, "residual": Independent(0.05), **settings}
    return SGLMM(
        FixedEndmembers(M),
        basis=DCT(2, scale=0.5),
        abundance_prior=JumpWalk() if walk is None else walk,
        variability_prior=SeasonalVariability(**settings),
        noise=WhiteNoise(0.01),
        dates=dates,
    )


def season_pixels(num=40, seed=1, **settings):
    drawn = season_model(**settings).sample_sequence(num, len(DATES), seed=seed)
    return drawn, torch.ones(num, len(DATES), dtype=torch.bool)


def season_start():
    return Start(xr.DataArray(M, dims=("wavelength", "endmember")), DCT(2, scale=0.5), 0.01, {})


def season_cubes(scale, seed=5, dates=DATES, num=25):
    model = season_model(dates, walk=ConstantWalk(0.02), scale=scale, residual=Independent(0.2))
    drawn = model.sample_sequence(num, len(dates), seed=seed)
    images = drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(len(dates), 5, -1, 8)
    return pyro_unmix.as_cube_sequence(images, time=dates)
