"""A small scene, the pairs of model and guide that are fitted to it, and fits of a few steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, fit, redsunn, simulate, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.priors import FixedEndmembers, Independent, JumpWalk

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(num_dates=3, height=5, width=6, library=LIBRARY, seed=1)
CUBES = SCENE.cubes
NUM_PIXELS = 30


def paper(seed: int = 0, **parts):
    model = SGLMM(SCENE.reference_endmembers, **{"basis": DCT(2), "seed": seed, **parts})
    return model, BiLSTMGuide(model, seed=seed)


def ours(seed: int = 0, endmembers=SCENE.reference_endmembers, **parts):
    defaults = {
        "basis": DCT(2, scale=0.4),
        "abundance_prior": JumpWalk(),
        "variability_prior": Independent(),
        "seed": seed,
    }
    model = SGLMM(FixedEndmembers(endmembers), **{**defaults, **parts})
    return model, ConjugateGuide(model, seed=seed)


PAIRS = {"paper": paper, "ours": ours}


def run(make=paper, cubes=CUBES, seed: int = 0, **settings):
    model, guide = make(seed)
    defaults = {"num_steps": 3, "batch_size": 8, "progress": False, "seed": seed}
    return fit(model, guide, cubes, **{**defaults, **settings})


def weights_of(*modules: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{name}": value.detach().clone()
        for i, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def changed(before: dict[str, torch.Tensor], *modules: nn.Module) -> list[str]:
    after = weights_of(*modules)
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


METHODS = {
    "unmix": lambda: unmix(CUBES, 3, num_steps=4, seed=2, progress=False),
    "redsunn": lambda: redsunn(CUBES, 3, num_steps=4, seed=2, progress=False),
    **{name: lambda make=make: run(make) for name, make in PAIRS.items()},
}
