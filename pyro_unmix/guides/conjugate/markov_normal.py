"""All states of a linear-Gaussian walk as one distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_unmix.ops.distributions import Shape


class MarkovNormal(TorchDistribution):
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
    has_rsample = True

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
        self._last: tuple[Tensor, Tensor] | None = None
        num_states, batch, size = offsets.shape
        event_shape = torch.Size((num_states, size))
        super().__init__(torch.Size((batch,)), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        raise NotImplementedError(
            f"MarkovNormal has {self.batch_shape[0]} chains, got {batch_shape}"
        )

    def from_noise(self, noise: Tensor) -> Tensor:
        """The chain (B, T+1, D) of standard-normal noise of that shape."""
        inner = noise
        if self.shift is not None and self.log_scale is not None:
            later = self.shift + self.log_scale.exp() * noise[:, 1:]
            inner = torch.cat([noise[:, :1], later], dim=1)
        steps = self.offsets.unsqueeze(-1) + self.factors @ inner.transpose(0, 1).unsqueeze(-1)
        first, *rest = steps.unbind()
        states = [first]
        for step, gain in zip(rest, self.gains.unbind(), strict=True):
            states.append(torch.baddbmm(step, gain, states[-1]))
        value = torch.stack(states, dim=1).squeeze(-1)
        self._last = (value, noise)
        return value

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        like = self.offsets
        return self.from_noise(torch.randn(shape, dtype=like.dtype, device=like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            noise = self._last[1]
        else:
            noise = self._noise(value)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum((0, -1))
        if self.log_scale is not None:
            log_det = log_det + self.log_scale.sum((-1, -2))
        constant = 0.5 * self.event_shape.numel() * math.log(2 * math.pi)
        return -log_det - (0.5 * noise.square().sum((-1, -2)) + constant)

    def _noise(self, value: Tensor) -> Tensor:
        """The noise (B, T+1, D) that `from_noise` makes a value of."""
        states = value.transpose(0, 1).unsqueeze(-1)
        away = states - self.offsets.unsqueeze(-1)
        away = torch.cat([away[:1], away[1:] - self.gains @ states[:-1]])
        inner = torch.linalg.solve_triangular(self.factors, away, upper=True)
        noise = inner.squeeze(-1).transpose(0, 1)
        if self.shift is None or self.log_scale is None:
            return noise
        later = (noise[:, 1:] - self.shift) * (-self.log_scale).exp()
        return torch.cat([noise[:, :1], later], dim=1)
