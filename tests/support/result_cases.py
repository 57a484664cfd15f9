"""A scene with missing pixel-dates and coordinates of all kinds, and fits to it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, Unmixing, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.priors import AutoRegressive, FixedEndmembers, JumpWalk, WhiteNoise

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(
    num_dates=3, height=6, width=7, library=LIBRARY, cloud_fraction=0.15, seed=2
)
# Coordinates of all kinds, as real data have them.
CUBES = SCENE.cubes.assign_coords(
    time=np.array(["2021-05-01", "2021-06-11", "2021-07-31"], dtype="datetime64[ns]"),
    x=500.0 + 10 * np.arange(7),
    y=900.0 - 10 * np.arange(6),
)
# float32 sums of some hundred terms of order one, passed through a few solvers of condition 1e3.
SINGLE = 5e-4


def paper(endmembers=SCENE.reference_endmembers, basis=None):
    model = SGLMM(endmembers, basis=basis or DCT(2))
    return model, BiLSTMGuide(model)


def ours(endmembers=SCENE.reference_endmembers, basis=None):
    model = SGLMM(
        FixedEndmembers(endmembers),
        basis=basis or DCT(2, scale=0.4),
        abundance_prior=JumpWalk(),
        variability_prior=AutoRegressive(0.4),
        noise=WhiteNoise(0.02),
    )
    return model, ConjugateGuide(model)


PAIRS = {"paper": paper, "ours": ours}


def fitted(make, cubes=CUBES, num_steps: int = 4, **settings) -> Unmixing:
    defaults = {"progress": False, "batch_size": 16, "learning_rate": 0.01}
    return fit(*make(), cubes, num_steps=num_steps, **{**defaults, **settings})


def plain() -> Unmixing:
    """What a method without a posterior returns."""
    dataset = xr.Dataset(
        {
            "abundances": SCENE.abundances,
            "reference_endmembers": SCENE.reference_endmembers,
            "valid": CUBES.notnull().all("wavelength").drop_vars(["time", "x", "y"]),
        }
    )
    return Unmixing(dataset, method="fcls")
