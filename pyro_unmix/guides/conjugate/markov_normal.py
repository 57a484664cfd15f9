"""All states of a linear-Gaussian walk as one distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_unmix.ops.distributions import NoiseDistribution, Shape


class MarkovNormal(NoiseDistribution):
    """``c_t = offset_t + G_t c_{t-1} + F_t (shift_t + exp(log_scale_t) eps_t)`` for t = 0..T, F_t upper triangular.

    At t = 0 there is no state before, no shift and no scale. A draw and its density factorise and solve nothing.

    Parameters
    ----------
    offsets : Tensor, shape (T+1, B, D)
    gains : Tensor, shape (T, B, D, D)
        G_1 .. G_T.
    factors : Tensor, shape (T+1, B, D, D)
        F_t, with a positive diagonal.
    shift, log_scale : Tensor, shape (B, T, D), optional
        Of t = 1..T; zero without them.
    """

    arg_constraints: ClassVar = {}
    support = constraints.independent(constraints.real, 2)
    batched: ClassVar = {"offsets": 2}

    def __init__(
        self,
        offsets: Tensor,
        gains: Tensor,
        factors: Tensor,
        shift: Tensor | None = None,
        log_scale: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.offsets, self.gains, self.factors = offsets, gains, factors
        self.shift, self.log_scale = shift, log_scale
        num_states, batch, size = offsets.shape
        event_shape = torch.Size((num_states, size))
        super().__init__(torch.Size((batch,)), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        raise NotImplementedError(
            f"MarkovNormal has {self.batch_shape[0]} chains, got {batch_shape}"
        )

    def _draw(self, noise: Tensor) -> Tensor:
        inner = noise
        if self.shift is not None and self.log_scale is not None:
            later = self.shift + self.log_scale.exp() * noise[:, 1:]
            inner = torch.cat([noise[:, :1], later], dim=1)
        steps = self.offsets.unsqueeze(-1) + self.factors @ inner.transpose(0, 1).unsqueeze(-1)
        first, *rest = steps.unbind()
        states = [first]
        for step, gain in zip(rest, self.gains.unbind(), strict=True):
            states.append(torch.baddbmm(step, gain, states[-1]))
        return torch.stack(states, dim=1).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            noise = self._last[1]
        else:
            noise = self.noise_of(value)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum((0, -1))
        if self.log_scale is not None:
            log_det = log_det + self.log_scale.sum((-1, -2))
        constant = 0.5 * self.event_shape.numel() * math.log(2 * math.pi)
        return -log_det - (0.5 * noise.square().sum((-1, -2)) + constant)

    def noise_of(self, value: Tensor) -> Tensor:
        states = value.transpose(0, 1).unsqueeze(-1)
        away = states - self.offsets.unsqueeze(-1)
        away = torch.cat([away[:1], away[1:] - self.gains @ states[:-1]])
        inner = torch.linalg.solve_triangular(self.factors, away, upper=True)
        noise = inner.squeeze(-1).transpose(0, 1)
        if self.shift is None or self.log_scale is None:
            return noise
        later = (noise[:, 1:] - self.shift) * (-self.log_scale).exp()
        return torch.cat([noise[:, :1], later], dim=1)
