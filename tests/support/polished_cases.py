"""Two materials at two dates, with priors of which quadrature is exact, and polished fits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from result_cases import CUBES

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, MeanFieldGuide, Unmixing, fit
from pyro_unmix.bases import DCT
from pyro_unmix.posterior import PolishedMean, PosteriorMean
from pyro_unmix.priors import (
    AutoRegressive,
    ConstantWalk,
    Independent,
    JumpWalk,
    LowRankNoise,
    WhiteNoise,
)

BANDS, DATES, PIXELS = 4, 2, 3
NOISE, SCALE, GAMMA, STEP, JUMP, RHO = 0.03, 0.3, 2.0, 0.4, 2.5, 0.2
SPECTRA = np.random.default_rng(3).uniform(0.1, 0.6, size=(BANDS, 2))


def model_of(walk: str, chain: str, noise: float = NOISE) -> SGLMM:
    walks = {
        "constant": lambda: ConstantWalk(STEP, learn=False, initial_scale=GAMMA),
        "jumps": lambda: JumpWalk(
            scale=STEP, jump_scale=JUMP, jump_probability=RHO, initial_scale=GAMMA
        ),
    }
    chains = {
        "independent": lambda: Independent(SCALE, learn=False),
        "coupled": lambda: AutoRegressive(0.8, SCALE, learn=False),
    }
    return SGLMM(
        FixedEndmembers(SPECTRA),
        basis=DCT(2),
        abundance_prior=walks[walk](),
        variability_prior=chains[chain](),
        noise=WhiteNoise(noise, learn=False),
    ).double()


PAIRS: dict[str, Any] = {
    "independent": (Independent, WhiteNoise, ConjugateGuide),
    "coupled": (AutoRegressive, LowRankNoise, ConjugateGuide),
    "mean field": (Independent, WhiteNoise, MeanFieldGuide),
}
POLISHED = PolishedMean(8, num_sweeps=3)


@cache
def fitted(name: str, estimate: PosteriorMean = POLISHED) -> Unmixing:
    chain, noise, guide = PAIRS[name]
    spectra = np.random.default_rng(0).uniform(0.1, 0.6, size=(CUBES.sizes["wavelength"], 3))
    model = SGLMM(
        FixedEndmembers(spectra), basis=DCT(2), abundance_prior=JumpWalk(),
        variability_prior=chain(), noise=noise(),
    ).double()  # fmt: skip
    return fit(model, guide(model).double(), CUBES, num_steps=2, estimate=estimate, progress=False)
