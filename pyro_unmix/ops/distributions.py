"""Small distributions that Pyro does not have, or not as fast."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, TypeAlias

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
#: As torch and Pyro take them.
Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]


def _common_shape(first: torch.Size, second: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, whose general case takes longer than a density."""
    return first if first == second or not second else torch.broadcast_shapes(first, second)


def _squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """``||first - second||^2`` over the last axis."""
    if first.shape != second.shape:
        first, second = torch.broadcast_tensors(first, second)
    # one op whose gradient is one op
    return torch.nn.functional.mse_loss(first, second, reduction="none").sum(-1)


class VectorDistribution(TorchDistribution):
    """Base of distributions of vectors (D,), as a rule about a centre `loc` (..., D)."""

    arg_constraints: ClassVar = {"loc": constraints.real_vector}
    support = constraints.real_vector

    #: Parameters that `expand` expands, with the number of axes that are no batch (of a distribution 0); the others
    #: broadcast.
    batched: ClassVar[dict[str, int]] = {"loc": 1}

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Any:
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        other = copy.copy(self)
        other._batch_shape = batch_shape
        for name, num_axes in self.batched.items():
            values, shape = getattr(self, name), batch_shape
            if isinstance(values, Tensor):
                shape = shape + values.shape[values.dim() - num_axes :]
            setattr(other, name, values.expand(shape))
        return other

    @property
    def mean(self) -> Tensor:
        return self._whole(self.loc)

    def _whole(self, values: Tensor) -> Tensor:
        """Values for every vector of the batch."""
        return values.expand(self.batch_shape + self.event_shape)

    def _standard_normal(self, sample_shape: Shape) -> Tensor:
        like = getattr(self, next(iter(self.batched)))
        shape = self._extended_shape(sample_shape)
        return torch.randn(shape, dtype=like.dtype, device=like.device)


class NoiseDistribution(VectorDistribution):
    """Base of distributions whose draws are made of standard-normal noise of their own shape.

    The last draw is remembered together with its noise, so that its density need not solve for the noise. Subclasses
    give `_draw` and, for the Gaussian `log_prob` here, its inverse `noise_of` and `log_det_of_root`.
    """

    has_rsample = True
    _last: tuple[Tensor, Tensor] | None = None

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Any:
        other = super().expand(batch_shape)
        if other is not self:
            other._last = None
        return other

    def _draw(self, noise: Tensor) -> Tensor:
        """The draw made of noise."""
        raise NotImplementedError(f"{type(self).__name__} must implement from_noise()")

    def noise_of(self, value: Tensor) -> Tensor:
        """The noise that a draw is made of."""
        raise NotImplementedError(f"{type(self).__name__} must implement log_prob()")

    def log_det_of_root(self) -> Tensor:
        """``log det`` (...) of the matrix that the noise is multiplied by."""
        raise NotImplementedError(f"{type(self).__name__} must implement log_prob()")

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw made of standard-normal noise (..., D), with gradients of the parameters."""
        value = self._draw(noise)
        self._last = (value, noise)
        return value

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        return self.from_noise(self._standard_normal(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            noise = self._last[1]
        else:
            noise = self.noise_of(value)
        constant = self.log_det_of_root() + 0.5 * self.event_shape[0] * _LOG_2PI
        return torch.add(-constant, noise.square().sum(-1), alpha=-0.5)


class DiagonalNormal(NoiseDistribution):
    """``N(loc, diag(scale)^2)``.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    scale : Tensor, shape (..., D) or (D,)
    log_det : Tensor, shape (...), optional
        ``sum_d log scale_d``, where it is known already.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(self, loc: Tensor, scale: Tensor, log_det: Tensor | None = None) -> None:
        self.loc, self.scale, self._log_det = loc, scale, log_det
        batch_shape = _common_shape(loc.shape[:-1], scale.shape[:-1])
        super().__init__(batch_shape, loc.shape[-1:])

    @property
    def variance(self) -> Tensor:
        return self._whole(self.scale.square())

    def _draw(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.loc, self.scale, noise)

    def noise_of(self, value: Tensor) -> Tensor:
        return (value - self.loc) / self.scale

    def log_det_of_root(self) -> Tensor:
        if self._log_det is None:
            self._log_det = self.scale.log().sum(-1)
        return self._log_det


class PrecisionNormal(NoiseDistribution):
    """Gaussian ``N(loc, (C C')^-1)`` given the Cholesky factor C of its precision.

    Conditionals come as precisions; unlike `MultivariateNormal` this never factorises or inverts anything. A draw is
    ``loc + C'^-1 eps``.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    precision_tril : Tensor, shape (..., D, D)
        C, lower triangular with a positive diagonal.
    log_det : Tensor, shape (...), optional
        ``log det C``, where it is known already.
    """

    def __init__(
        self,
        loc: Tensor,
        precision_tril: Tensor,
        log_det: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.precision_tril, self._log_det = loc, precision_tril, log_det
        batch_shape = _common_shape(loc.shape[:-1], precision_tril.shape[:-2])
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    @property
    def log_det(self) -> Tensor:
        """``log det C``, shape (...)."""
        if self._log_det is None:
            self._log_det = self.precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self._log_det

    @property
    def variance(self) -> Tensor:
        eye = torch.eye(self.event_shape[0], dtype=self.loc.dtype, device=self.loc.device)
        inverse = torch.linalg.solve_triangular(self.precision_tril, eye, upper=False)
        return self._whole(inverse.square().sum(-2))

    def _draw(self, noise: Tensor) -> Tensor:
        step = torch.linalg.solve_triangular(
            self.precision_tril.mT, noise.unsqueeze(-1), upper=True
        )
        return self.loc + step.squeeze(-1)

    def noise_of(self, value: Tensor) -> Tensor:
        return (self.precision_tril.mT @ (value - self.loc).unsqueeze(-1)).squeeze(-1)

    def log_det_of_root(self) -> Tensor:
        return -self.log_det


class FactorNormal(NoiseDistribution):
    """Gaussian of the draws ``loc + F (shift + exp(log_scale) eps)``, F upper triangular.

    That is ``N(loc + F shift, F diag(exp(log_scale))^2 F')``. A draw and its density factorise and solve nothing.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    factor : Tensor, shape (..., D, D)
        F, with a positive diagonal.
    log_det : Tensor, shape (...)
        ``log det F``.
    shift, log_scale : Tensor, shape (..., D), optional
        Zero without them.
    """

    def __init__(
        self,
        loc: Tensor,
        factor: Tensor,
        log_det: Tensor,
        shift: Tensor | None = None,
        log_scale: Tensor | None = None,
    ) -> None:
        self.loc, self.factor, self._log_det = loc, factor, log_det
        self.shift, self.log_scale = shift, log_scale
        batch_shape = _common_shape(loc.shape[:-1], factor.shape[:-2])
        super().__init__(batch_shape, loc.shape[-1:])

    @property
    def log_det(self) -> Tensor:
        """``log det`` of ``F diag(exp(log_scale))``, shape (...)."""
        return self._log_det if self.log_scale is None else self._log_det + self.log_scale.sum(-1)

    @property
    def mean(self) -> Tensor:
        loc = super().mean
        return loc if self.shift is None else loc + self._times(self.shift)

    @property
    def variance(self) -> Tensor:
        root = self.factor
        if self.log_scale is not None:
            root = root * self.log_scale.exp().unsqueeze(-2)
        return self._whole(root.square().sum(-1))

    def _times(self, vector: Tensor) -> Tensor:
        return (self.factor @ vector.unsqueeze(-1)).squeeze(-1)

    def _draw(self, noise: Tensor) -> Tensor:
        if self.shift is not None and self.log_scale is not None:
            noise = torch.addcmul(self.shift, self.log_scale.exp(), noise)
        return self.loc + self._times(noise)

    def noise_of(self, value: Tensor) -> Tensor:
        away = (value - self.loc).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(self.factor, away, upper=True).squeeze(-1)
        if self.shift is not None and self.log_scale is not None:
            noise = (noise - self.shift) * (-self.log_scale).exp()
        return noise

    def log_det_of_root(self) -> Tensor:
        return self.log_det


class IsotropicNormal(NoiseDistribution):
    """``N(loc, exp(log_scale)^2 I)`` with one scale for all coordinates: its density needs one pass over them.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    log_scale : Tensor, scalar or shape (...)
    """

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale
        batch_shape = _common_shape(loc.shape[:-1], log_scale.shape)
        super().__init__(batch_shape, loc.shape[-1:])

    @property
    def variance(self) -> Tensor:
        return self._whole((2 * self.log_scale).exp().unsqueeze(-1))

    def _draw(self, noise: Tensor) -> Tensor:
        return self.loc + self.log_scale.exp().unsqueeze(-1) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        squared = _squared_distance(value, self.loc)
        constant = self.event_shape[0] * (self.log_scale + 0.5 * _LOG_2PI)
        return torch.addcmul(-constant, (-2 * self.log_scale).exp(), squared, value=-0.5)


class IsotropicStudentT(VectorDistribution):
    """Multivariate Student-t of scale matrix ``exp(log_scale)^2 I``: a Gaussian with one random scale per vector.

    Its `mean` is the centre, also where nu <= 1 and there is no mean.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    log_scale : Tensor, scalar or shape (...)
    dof : Tensor, scalar
        Degrees of freedom nu.
    """

    arg_constraints: ClassVar = {"loc": constraints.real_vector, "dof": constraints.positive}
    has_rsample = True

    def __init__(self, loc: Tensor, log_scale: Tensor, dof: Tensor) -> None:
        self.loc, self.log_scale, self.dof = loc, log_scale, dof
        batch_shape = _common_shape(loc.shape[:-1], log_scale.shape)
        super().__init__(batch_shape, loc.shape[-1:])

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        noise = self._standard_normal(sample_shape)
        half = (0.5 * self.dof).expand(noise.shape[:-1])
        weight = torch._standard_gamma(half) / half
        scale = self.log_scale.exp() / weight.clamp(min=1e-30).sqrt()
        return self.loc + scale.unsqueeze(-1) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        squared = _squared_distance(value, self.loc)
        size = self.event_shape[0]
        total = 0.5 * (self.dof + size)
        constant = torch.lgamma(total) - torch.lgamma(0.5 * self.dof)
        constant = constant - 0.5 * size * (self.dof * math.pi).log() - size * self.log_scale
        spread = self.dof * (2 * self.log_scale).exp()
        return constant - total * torch.log1p(squared / spread)


class JumpNormal(VectorDistribution):
    """Two isotropic Gaussians about one centre: ``(1 - rho) N(loc, s^2 I) + rho N(loc, S^2 I)``.

    Parameters
    ----------
    loc : Tensor, shape (..., D)
    steps : JumpSteps
        The mixture of steps.
    """

    has_rsample = False

    def __init__(self, loc: Tensor, steps: JumpSteps) -> None:
        self.loc, self.steps = loc, steps
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            scale = self.steps.draw_scale(self._extended_shape(sample_shape)[:-1]).unsqueeze(-1)
            return self.loc + scale * self._standard_normal(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.logaddexp(*self.steps.log_joint(_squared_distance(value, self.loc)))


class JumpSteps:
    """The steps of a `JumpNormal`, with everything that does not depend on the data computed once.

    Parameters
    ----------
    log_scale, log_jump_scale : Tensor, scalar
        ``log s`` of the drift and ``log S`` of the jumps.
    jump_logit : Tensor, scalar
        ``log(rho / (1 - rho))``.
    size : int
        D.
    """

    def __init__(
        self, log_scale: Tensor, log_jump_scale: Tensor, jump_logit: Tensor, size: int
    ) -> None:
        log_scales = torch.stack([log_scale, log_jump_scale])
        self.jump_logit, self.scales = jump_logit, log_scales.exp()
        log_weights = torch.nn.functional.logsigmoid(torch.stack([-jump_logit, jump_logit]))
        self.constants = (log_weights - size * (log_scales + 0.5 * _LOG_2PI)).unbind()
        self.weights = (-0.5 * (-2 * log_scales).exp()).unbind()

    def log_joint(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of drift and of jump for squared steps ``||x - loc||^2``."""
        drift, jump = (
            torch.addcmul(constant, weight, squared)
            for constant, weight in zip(self.constants, self.weights, strict=True)
        )
        return drift, jump

    def jump_probability(self, squared: Tensor) -> Tensor:
        """Posterior probability of a jump given the squared step."""
        drift, jump = self.log_joint(squared)
        return torch.sigmoid(jump - drift)

    def draw_scale(self, shape: torch.Size) -> Tensor:
        """Random scales, s or S."""
        jumps = torch.bernoulli(torch.sigmoid(self.jump_logit).expand(shape)).bool()
        return torch.where(jumps, self.scales[1], self.scales[0])
