"""Families of distributions in place of a Gaussian: what a guide makes of each of its Gaussians of the abundances."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.distributions import DiagonalNormal, NoiseDistribution, PrecisionNormal
from pyro_unmix.ops.recipes import Recorded

_NUM_POINTS = 128  # draws behind a mean


class White(NoiseDistribution):
    """A distribution of x in R^D that is N(0, I) where all of its parameters are zero."""

    arg_constraints: ClassVar = {}
    batched: ClassVar = {"parameters": 1}
    parameters: Tensor


class Family(Recorded):
    """A kind of distribution for the states c_t of a guide, around the Gaussian that the guide computes for them.

    A family makes a distribution (`around`) of that Gaussian and of parameters: those of the date and pixel, from a
    network of the guide. Parameters of zero give the Gaussian. One way to do so is `white`: with ``C C'`` the precision
    of the Gaussian, ``c_t = loc + C'^-1 x``, and x has the distribution that the family makes of the parameters.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.guides.SplineFlow, pu.guides.Family)
    True
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


class Reshaped(NoiseDistribution):
    """``c = loc + C'^-1 x`` of a Gaussian `base` (loc, C) and x of another distribution than N(0, I).

    Parameters
    ----------
    base : PrecisionNormal or DiagonalNormal
        Event shape (D,).
    white : White
        Of x.
    """

    batched: ClassVar = {"loc": 1, "base": 0, "white": 0}

    def __init__(self, base: PrecisionNormal | DiagonalNormal, white: White) -> None:
        self.base, self.white, self.loc = base, white, base.loc
        batch_shape = torch.broadcast_shapes(base.batch_shape, white.batch_shape)
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.base.from_noise(self._whole(self.white.mean))

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw made of standard-normal noise (..., D)."""
        x = self.white.from_noise(noise)
        value = self.base.from_noise(x)
        self._last = (value, x)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            x = self._last[1]
        else:
            x = self.base.noise_of(value)
        return self.white.log_prob(x) - self.base.log_det_of_root()
