"""Dirichlet draws as a function of standard-normal noise, the same noise for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

_NUM_PROPOSALS = 4
#: Standard normals per material and draw: the proposals, their uniforms and that of the boost.
NOISE_PER_MATERIAL = 2 * _NUM_PROPOSALS + 1


def dirichlet_from_noise(concentration: Tensor, noise: Tensor) -> Tensor:
    """A Dirichlet draw from given noise.

    Each gamma variate of shape alpha is ``G u^(1/alpha)`` with ``G ~ Gamma(alpha + 1)``, and G is the first accepted
    of four proposals of Marsaglia and Tsang, whose rate of acceptance is above 0.95: fewer than 1e-5 of the variates
    are a fourth proposal that should have been refused. Uniforms are the normal distribution function of the noise.

    Parameters
    ----------
    concentration : Tensor, shape (..., P), positive
    noise : Tensor, shape (..., P, NOISE_PER_MATERIAL)
        Standard normal; broadcasts against the concentration.

    Returns
    -------
    Tensor, shape (..., P)
        On the simplex.

    References
    ----------
    Marsaglia, Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000.
    """
    shift = concentration + 2 / 3  # alpha + 1 - 1/3
    normal = noise[..., :_NUM_PROPOSALS]
    log_uniform = torch.special.log_ndtr(noise[..., _NUM_PROPOSALS : 2 * _NUM_PROPOSALS])
    cube = (1 + normal / (9 * shift.unsqueeze(-1)).sqrt()).pow(3)
    log_cube = cube.clamp(min=torch.finfo(cube.dtype).tiny).log()
    bound = 0.5 * normal.square() + shift.unsqueeze(-1) * (1 - cube + log_cube)
    accepted = (cube > 0) & (log_uniform < bound)
    accepted[..., -1] = True
    first = accepted.to(torch.uint8).argmax(-1, keepdim=True)
    log_gamma = shift.log() + log_cube.gather(-1, first).squeeze(-1)
    boost = torch.special.log_ndtr(noise[..., -1]) / concentration
    return torch.softmax(log_gamma + boost, dim=-1)
