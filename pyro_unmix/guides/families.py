"""Families of distributions in place of a Gaussian: what a guide makes of each of its Gaussians of the abundances."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyro_unmix.ops.distributions import DiagonalNormal, PrecisionNormal
from pyro_unmix.ops.recipes import Recorded

_NUM_POINTS = 128  # draws behind a mean


class White(TorchDistribution):
    """A distribution of x in R^D that is N(0, I) where all of its parameters are zero."""

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True

    def from_noise(self, noise: Tensor) -> Tensor:
        """A draw made of standard-normal noise (..., D), with gradients of the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must implement from_noise()")

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        like = self.parameters
        return self.from_noise(torch.randn(shape, dtype=like.dtype, device=like.device))

    parameters: Tensor


class Family(Recorded):
    """A kind of distribution for the states c_t of a guide, around the Gaussian that the guide computes for them.

    A family makes a distribution (`around`) of that Gaussian and of parameters: those of the date and pixel, from a
    network of the guide. Parameters of zero give the Gaussian. One way to do so is `white`: with ``C C'`` the precision
    of the Gaussian, ``c_t = loc + C'^-1 x``, and x has the distribution that the family makes of the parameters.
    """

    def __init__(self) -> None:  # its own, so that it is remembered how the object was made
        super().__init__()

    def num_parameters(self, size: int) -> int:
        """How many numbers describe the distribution of a vector of `size` coordinates."""
        raise NotImplementedError(f"{type(self).__name__} must implement num_parameters()")

    def start(self, size: int) -> Tensor:
        """Where the parameters start, (num_parameters,)."""
        return torch.zeros(self.num_parameters(size))

    def white(self, parameters: Tensor, size: int) -> White:
        """The distribution of x for parameters (..., num_parameters)."""
        raise NotImplementedError(f"{type(self).__name__} must implement white()")

    def around(
        self, base: PrecisionNormal | DiagonalNormal, parameters: Tensor
    ) -> TorchDistribution:
        """The distribution of c_t for the Gaussian `base` and parameters (..., num_parameters)."""
        return Reshaped(base, self.white(parameters, base.event_shape[0]))


def checked_family(family: object) -> Family:
    """The user's family, or TypeError."""
    if not isinstance(family, Family):
        raise TypeError(
            "family must be a Family object such as CornerStretch() or SplineFlow(), got "
            f"{family!r} ({type(family).__name__})"
        )
    return family


def fixed_noise(num_batch_dims: int, size: int, like: Tensor) -> Tensor:
    """The same standard-normal draws (S, 1, ..., 1, size) always, in antithetic pairs."""
    shape = (_NUM_POINTS // 2, *[1] * num_batch_dims, size)
    half = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    return torch.cat([half, -half]).to(like)


class Reshaped(TorchDistribution):
    """``c = loc + C'^-1 x`` of a Gaussian `base` (loc, C) and x of another distribution than N(0, I).

    Parameters
    ----------
    base : PrecisionNormal or DiagonalNormal
        Event shape (D,).
    white : White
        Of x.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: PrecisionNormal | DiagonalNormal, white: White) -> None:
        self.base, self.white = base, white
        self._last: tuple[Tensor, Tensor] | None = None
        batch_shape = torch.broadcast_shapes(base.batch_shape, white.batch_shape)
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        return Reshaped(self.base.expand(batch_shape), self.white.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        return self.base.from_noise(self.white.mean.expand(self.batch_shape + self.event_shape))

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw made of standard-normal noise (..., D)."""
        x = self.white.from_noise(noise)
        value = self.base.from_noise(x)
        self._last = (value, x)
        return value

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        loc = self.base.loc
        return self.from_noise(torch.randn(shape, dtype=loc.dtype, device=loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            x = self._last[1]
        else:
            x = _whitened(self.base, value)
        return self.white.log_prob(x) + _log_det(self.base)


def _whitened(base: PrecisionNormal | DiagonalNormal, value: Tensor) -> Tensor:
    """The x of ``value = loc + C'^-1 x``."""
    centred = value - base.loc
    if isinstance(base, DiagonalNormal):
        return centred / base.scale
    return (base.precision_tril.mT @ centred.unsqueeze(-1)).squeeze(-1)


def _log_det(base: PrecisionNormal | DiagonalNormal) -> Tensor:
    """``log det C``."""
    return -base.scale.log().sum(-1) if isinstance(base, DiagonalNormal) else base.log_det
