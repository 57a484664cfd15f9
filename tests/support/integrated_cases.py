"""Pairs of model and guide at uneven dates, with every walk, chain and noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyro_unmix import SGLMM, ConjugateGuide
from pyro_unmix.bases import DCT
from pyro_unmix.guides.conjugate.markov_normal import MarkovNormal
from pyro_unmix.priors import (
    AutoRegressive,
    BandNoise,
    ConstantWalk,
    DirichletStart,
    DirichletWalk,
    Independent,
    JumpWalk,
    LowRankNoise,
    OrnsteinUhlenbeck,
    RandomWalk,
    SeasonalVariability,
    SmoothVariability,
    SoftmaxWalk,
    StudentWalk,
    WhiteNoise,
)

B, T, L, P, K = 6, 4, 12, 3, 2
DATES = np.array([0.0, 16.0, 40.0, 56.0])
WALKS = {
    "jump": JumpWalk,
    "softmax": SoftmaxWalk,
    "constant": ConstantWalk,
    "student": StudentWalk,
    "returning": OrnsteinUhlenbeck,
    "dirichlet": DirichletWalk,
    "dirichlet start": lambda: JumpWalk(initial=DirichletStart(2.0)),
}
CHAINS = {
    "autoregressive": lambda: AutoRegressive(0.7, 0.5),
    "walk": lambda: RandomWalk(0.05, learn=True),
    "independent": lambda: Independent(0.4),
    "seasonal": lambda: SeasonalVariability(residual=AutoRegressive(0.5, 0.3)),
    "smooth": lambda: SmoothVariability((T, 3, B), length=2.0, residual=AutoRegressive(0.5, 0.3)),
}
NOISES = {
    "white": lambda: WhiteNoise(0.03),
    "band": lambda: BandNoise(np.linspace(0.02, 0.05, L)),
    "low rank": lambda: LowRankNoise(0.03),
}


def scene() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Pixels with missing dates, one of them without any; endmembers."""
    rng = np.random.default_rng(0)
    endmembers = rng.uniform(0.1, 0.9, (L, P))
    a = rng.dirichlet(np.ones(P), (B, T))
    pixels = torch.from_numpy(a @ endmembers.T + rng.normal(0, 0.05, (B, T, L)))
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, 0] = valid[2, 2] = valid[3, -1] = False
    valid[4] = False
    return pixels, valid, endmembers


def pair(
    walk: str = "jump",
    chain: str = "autoregressive",
    noise: str = "white",
    guide: Any = ConjugateGuide,
    dates: Any = None,
    reference: Any = None,
) -> tuple[SGLMM, ConjugateGuide]:
    """Model and guide in double precision, with parameters of the guide that are not those of the start."""
    endmembers = scene()[2]
    model = SGLMM(
        endmembers if reference is None else reference,
        basis=DCT(K, scale=0.5),
        abundance_prior=WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=NOISES[noise](),
        dates=DATES if chain == "seasonal" else dates,
    ).double()
    guide = guide(model).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    return model, guide


def by_dates(self: MarkovNormal, sample_shape: Any = ()) -> torch.Tensor:
    """The draw of the noise that sites of the dates would draw, one after the other."""
    num_states, batch, size = self.offsets.shape
    noise = [torch.randn(batch, size).to(self.offsets) for _ in range(num_states)]
    return self.from_noise(torch.stack(noise, dim=1))


def features() -> dict[str, torch.Tensor]:
    """What might have been prepared: it need not be good, but the same for both."""
    rng = np.random.default_rng(4)
    half = rng.normal(size=(B, T, P, P))
    return {
        "curvature": torch.from_numpy(half @ half.swapaxes(-1, -2)),
        "pull": torch.from_numpy(rng.normal(size=(B, T, P))),
        "path": torch.from_numpy(rng.normal(size=(B, T + 1, P))),
        "mean_square": torch.from_numpy(rng.uniform(0, 4, (B, T))),
    }


class Biased(WhiteNoise):
    """About a learned level; what is whitened depends on it, and the design does not."""

    is_gaussian = True

    def setup(self, *, num_bands, generator):
        super().setup(num_bands=num_bands, generator=generator)
        self.level = torch.nn.Parameter(torch.tensor(0.02))

    def distributions(self):
        white = super().distributions()
        return lambda mean: white(mean + self.level)

    def whitened(self, pixels, design):
        return pixels - self.level, design, self.scale


NOISES["biased"] = lambda: Biased(0.03)
