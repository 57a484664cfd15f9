"""Images at uneven dates, and fits to them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix import SGLMM, ConjugateGuide, Unmixing, as_cube_sequence, fit, simulate, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.priors import AnchoredEndmembers, AutoRegressive, BandNoise, JumpWalk

DAYS = np.array([0, 3, 10, 11, 40])
DATES = np.datetime64("2020-01-01", "ns") + DAYS * np.timedelta64(1, "D")


@cache
def cubes() -> xr.DataArray:
    scene = simulate.scaled_scene(num_dates=5, height=6, width=5, seed=1)
    return as_cube_sequence(scene.cubes.values[..., ::10], time=DATES)


@cache
def unmixed() -> Unmixing:
    return unmix(cubes(), 3, num_steps=2, progress=False)


@cache
def dated_fit(guide: Any = ConjugateGuide) -> Unmixing:
    """With a prior on M0, and variability that lasts."""
    start = unmixed().reference_endmembers
    model = SGLMM(
        AnchoredEndmembers(start, strength=0.01), basis=DCT(2), abundance_prior=JumpWalk(),
        variability_prior=AutoRegressive(0.7, 0.1), noise=BandNoise(0.01),
        dates=cubes()["time"],
    )  # fmt: skip
    return fit(model, guide(model), cubes(), num_steps=3, progress=False)
