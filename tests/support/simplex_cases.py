"""A small `SimplexMixing`, and draws of everything from it."""

from __future__ import annotations

import numpy as np
import torch

from pyro_unmix.kernels import Spectra, State
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.priors.bounded import BoundedEndmembers

BANDS, MATERIALS, COMPONENTS, RANK = 5, 3, 2, 2


def model_of(**options: object) -> SimplexMixing:
    rng = np.random.default_rng(3)
    centre = BoundedEndmembers(rng.uniform(0.1, 0.7, (BANDS, MATERIALS)), scale=0.2, high=1.0)
    components = 0.05 * rng.standard_normal((BANDS, COMPONENTS, MATERIALS))
    defaults = {"rank": RANK, "residual": 0.05, "noise": 0.03}
    return SimplexMixing(centre, components=components, **{**defaults, **options})


def start_of(model: SimplexMixing, count: int, seed: int) -> tuple[State, Spectra]:
    """A draw of everything from the program."""
    sites = model.simulate(count, seed=seed)
    state = State.of_sites(sites)
    generator = torch.Generator().manual_seed(seed)
    return state, Spectra(model, sites["pixels"].flatten(0, 1), generator)
