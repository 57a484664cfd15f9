"""Distributions of softmax states whose abundances are Dirichlet, or mostly absent."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_unmix.ops.distributions import Shape, VectorDistribution

_LOG_2PI = math.log(2 * math.pi)


class SoftmaxDirichlet(VectorDistribution):
    """States c with ``softmax(c) ~ Dir(concentration)`` exactly, and ``sum(c) / sqrt(P) ~ N(0, 1)`` beside it.

    ``p(c) = Gamma(sum alpha) / prod Gamma(alpha_i) prod softmax(c)_i^alpha_i g(1'c)``, with ``g(x) = sqrt(P)
    N(x / sqrt(P); 0, 1)``: the abundances fix c but for a constant, and g is the density of that constant, whatever
    the abundances are (the exponent is alpha_i and not alpha_i - 1 by the determinant ``P prod a_i`` of the map).

    Parameters
    ----------
    concentration : Tensor, shape (..., P)
        alpha, positive.

    References
    ----------
    ReDSUNN paper, eqs. (13) and (16); MacKay, "Choice of basis for Laplace approximation", Machine Learning 33, 1998.
    """

    arg_constraints: ClassVar = {
        "concentration": constraints.independent(constraints.positive, 1),
    }
    batched: ClassVar = {"concentration": 1}
    has_rsample = True

    def __init__(self, concentration: Tensor) -> None:
        self.concentration = concentration
        super().__init__(concentration.shape[:-1], concentration.shape[-1:])

    @property
    def loc(self) -> Tensor:
        """Mean of c: centred ``digamma(alpha)``."""
        digamma = torch.digamma(self.concentration)
        return digamma - digamma.mean(-1, keepdim=True)

    @property
    def variance(self) -> Tensor:
        """Variances of c: those of centred logarithms of independent gammas, and 1/P of the constant."""
        size = self.event_shape[0]
        trigamma = torch.polygamma(1, self.concentration)
        others = trigamma.sum(-1, keepdim=True) / size**2
        return trigamma * (1 - 2 / size) + others + 1 / size

    @property
    def scale(self) -> Tensor:
        """Standard deviations of c."""
        return self.variance.sqrt()

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)
        alpha = self.concentration.expand(shape)
        # log of Gamma(alpha) as log of Gamma(alpha + 1) U^(1 / alpha): a small alpha would give zeros.
        uniform = torch.rand_like(alpha).clamp(min=torch.finfo(alpha.dtype).tiny)
        logs = torch._standard_gamma(alpha + 1).log() + uniform.log() / alpha
        constant = torch.randn_like(alpha[..., :1]) / math.sqrt(self.event_shape[0])
        return logs - logs.mean(-1, keepdim=True) + constant

    def log_prob(self, value: Tensor) -> Tensor:
        alpha, size = self.concentration, self.event_shape[0]
        normaliser = torch.lgamma(alpha.sum(-1)) - torch.lgamma(alpha).sum(-1)
        inside = (alpha * torch.log_softmax(value, dim=-1)).sum(-1)
        constant = 0.5 * (math.log(size) - _LOG_2PI) - 0.5 * value.sum(-1).square() / size
        return normaliser + inside + constant


class PresentOrAbsent(VectorDistribution):
    """Every coordinate by itself: ``rho N(0, s^2) + (1 - rho) N(-depth, s^2)``, present or absent.

    Parameters
    ----------
    presence_logit : Tensor, shape (..., P)
        ``log(rho / (1 - rho))``.
    depth, scale : Tensor, scalar
        How far below the present the absent are, and s.
    """

    arg_constraints: ClassVar = {"presence_logit": constraints.real_vector}
    batched: ClassVar = {"presence_logit": 1}
    has_rsample = False

    def __init__(self, presence_logit: Tensor, depth: Tensor, scale: Tensor) -> None:
        self.presence_logit, self.depth, self._scale = presence_logit, depth, scale
        super().__init__(presence_logit.shape[:-1], presence_logit.shape[-1:])

    @property
    def loc(self) -> Tensor:
        """Mean, ``-(1 - rho) depth``."""
        return -torch.sigmoid(-self.presence_logit) * self.depth

    @property
    def variance(self) -> Tensor:
        presence = torch.sigmoid(self.presence_logit)
        return self._scale.square() + presence * (1 - presence) * self.depth.square()

    @property
    def scale(self) -> Tensor:
        """Standard deviations."""
        return self.variance.sqrt()

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            absent = torch.bernoulli(torch.sigmoid(-self.presence_logit).expand(shape))
            return self._scale * torch.randn_like(absent) - self.depth * absent

    def log_prob(self, value: Tensor) -> Tensor:
        weights = torch.nn.functional.logsigmoid
        present = weights(self.presence_logit) - 0.5 * (value / self._scale).square()
        absent = weights(-self.presence_logit)
        absent = absent - 0.5 * ((value + self.depth) / self._scale).square()
        constant = self._scale.log() + 0.5 * _LOG_2PI
        return (torch.logaddexp(present, absent) - constant).sum(-1)
