"""All states of a linear-Gaussian walk as one distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


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
        Of t = 1..T; zero without them. Only these have gradients.
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

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        raise NotImplementedError(
            f"MarkovNormal has {self.batch_shape[0]} chains, got {batch_shape}"
        )

    def from_noise(self, noise: Tensor) -> Tensor:
        """The chain (B, T+1, D) of standard-normal noise of that shape."""
        parts = self.shift, self.log_scale, noise, self.offsets, self.gains, self.factors
        value: Any = _Draw.apply(*parts)
        self._last = (value, noise)
        return value

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
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


class _Draw(torch.autograd.Function):
    """`MarkovNormal.from_noise`, with gradients of shift and log-scale alone."""

    @staticmethod
    def forward(
        ctx: Any,
        shift: Tensor | None,
        log_scale: Tensor | None,
        noise: Tensor,
        offsets: Tensor,
        gains: Tensor,
        factors: Tensor,
    ) -> Tensor:
        inner, scaled = noise, None
        if shift is not None and log_scale is not None:
            scaled = log_scale.exp() * noise[:, 1:]
            inner = torch.cat([noise[:, :1], shift + scaled], dim=1)
        moved = (factors * inner.transpose(0, 1).unsqueeze(-2)).sum(-1)
        first, *rest = (offsets + moved).unsqueeze(-1).unbind()
        states = [first]
        for step, gain in zip(rest, gains.unbind(), strict=True):
            states.append(torch.baddbmm(step, gain, states[-1]))
        ctx.scaled = scaled
        ctx.save_for_backward(gains, factors)
        return torch.stack(states, dim=1).squeeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gains, factors = ctx.saved_tensors
        if ctx.scaled is None:
            return (None,) * 6
        last, *rest = reversed(grad.unsqueeze(-1).unbind(1)[1:])
        adjoints = [last]
        for slope, gain in zip(rest, reversed(gains[1:].unbind()), strict=True):
            adjoints.append(torch.baddbmm(slope, gain.mT, adjoints[-1]))
        by_steps = torch.stack(adjoints[::-1])
        by_shift = (factors[1:] * by_steps).sum(-2).transpose(0, 1)
        return by_shift, by_shift * ctx.scaled, None, None, None, None
