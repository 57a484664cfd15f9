"""Parameters of distributions in double precision."""

from __future__ import annotations

import math

import numpy as np
import torch

from pyro_unmix.ops.distributions import JumpSteps, PrecisionNormal

# A float64 log-density of a few terms of size ten loses a few units of 10 * 2e-16.
ROUNDING = 1e-12


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def precision_normal(rng: np.random.Generator, *batch: int, size: int = 3) -> PrecisionNormal:
    root = rng.normal(size=(*batch, size, size))
    precision = root @ np.swapaxes(root, -1, -2) + 0.5 * np.eye(size)
    return PrecisionNormal(
        tensor(rng.normal(size=(*batch, size))), tensor(np.linalg.cholesky(precision))
    )


def jump_steps(size: int, scale: float = 0.3, jump: float = 2.0, probability: float = 0.1):
    logit = math.log(probability / (1 - probability))
    return JumpSteps(*map(tensor, (math.log(scale), math.log(jump), logit)), size)
