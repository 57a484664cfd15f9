"""Whether kernels leave the posterior of a `SimplexMixing` as it is: a paired test on draws of everything."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from simplex_cases import model_of, start_of
from torch import Tensor

from pyro_unmix.kernels import Kernel, Spectra, State

STATISTICS: dict[str, Callable[[State, Tensor], Tensor]] = {
    "abundance": lambda s, y: s.abundances[:, 0].mean(),
    "corner": lambda s, y: (s.abundances.max(-1).values > 0.99).double().mean(),
    "absent": lambda s, y: (s.abundances < 1e-6).double().mean(),
    "log abundance": lambda s, y: s.abundances.log().clamp(min=-40).mean(),
    "variability": lambda s, y: s.variability.square().mean(),
    "brightness": lambda s, y: s.brightness.square().mean(),
    "contrast": lambda s, y: (s.lit @ s.endmembers.mT * y).mean(),
    "scale": lambda s, y: s.scales.abs().mean(),
    "brightness scale": lambda s, y: s.brightness_scale.abs(),
    "signs": lambda s, y: (s.scales * s.variability).mean(),
    "endmembers": lambda s, y: s.endmembers.mean(),
    "first endmember": lambda s, y: s.endmembers[:, 0].square().mean(),
    "low": lambda s, y: (s.endmembers < 0.1).double().mean(),
    "factor": lambda s, y: s.residual_factor.square().sum().log(),
    "factor variance": lambda s, y: s.residual_variance.log().mean(),
    "noise": lambda s, y: s.noise_variance.log(),
    "concentration": lambda s, y: s.concentration.log(),
    "concentration squared": lambda s, y: s.concentration.log().square(),
}
REPLICATES, NUM_SPECTRA = 150, 5


@functools.cache
def replicates(kept: bool) -> list[tuple[State, Tensor]]:
    """Everything drawn from the program, again and again: states and their spectra."""
    drawn = (start_of(model_of(kept=kept), NUM_SPECTRA, seed) for seed in range(REPLICATES))
    return [(state, spectra.values) for state, spectra in drawn]


def largest_z(kernels: tuple[Kernel, ...], kept: bool = False) -> float:
    """Of the statistics before and after, where everything was drawn from the program, its endmembers kept or not."""
    model, changes = model_of(kept=kept), []
    for seed, (state, y) in enumerate(replicates(kept)):
        spectra = Spectra(model, y, torch.Generator().manual_seed(seed))
        new = state
        for _ in range(2):
            for kernel in kernels:
                new = kernel(new, spectra)
        changes.append([float(f(new, y) - f(state, y)) for f in STATISTICS.values()])
    array = np.array(changes)
    moved = array.std(0) > 1e-12
    z = array.mean(0)[moved] / (array.std(0)[moved] / math.sqrt(len(array)))
    assert moved.any()
    return float(np.abs(z).max())
