"""Small models of every transition and chain of variability, with pixels and draws for them."""

from __future__ import annotations

import numpy as np
import torch

from pyro_unmix import SGLMM
from pyro_unmix.bases import DCT
from pyro_unmix.priors import (
    AutoRegressive,
    Independent,
    JumpWalk,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)

BANDS, MATERIALS, PIXELS, DATES = 7, 3, 4, 3
WALKS = {"softmax": SoftmaxWalk, "jump": JumpWalk}
CHAINS = {
    "random walk": lambda: RandomWalk(0.3, learn=True, initial_scale=0.8),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def build(walk: str = "softmax", chain: str = "random walk", num_components: int = 2) -> SGLMM:
    """A small model in float64 with all its parameters away from their start."""
    model = SGLMM(
        spectra(),
        basis=DCT(num_components, scale=0.6),
        abundance_prior=WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=WhiteNoise(0.1),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pixels(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[0, 1] = valid[2] = False
    y = torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS)))
    return y * valid.unsqueeze(-1), valid


def draws(*particles: int, num_components: int = 2) -> dict[str, torch.Tensor]:
    sizes = {"c": MATERIALS, "psi": MATERIALS * num_components}
    return {
        f"{name}_{t}": torch.randn(*particles, PIXELS, size).double()
        for name, size in sizes.items()
        for t in range(DATES + 1)
    }
