"""Logits that are stretched towards the corners of the simplex."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pyro_unmix.guides.families import Family, fixed_noise
from pyro_unmix.ops.distributions import DiagonalNormal, NoiseDistribution, PrecisionNormal

_NUM_FEATURES = 6
_STEEPEST = 3.0  # largest logarithm of a slope
_NUM_HALVINGS = 80


class CornerStretch(Family):
    """Each material's logit bent about a point: another slope towards absence than towards presence.

    Where a material may be absent, the likelihood says only that its abundance is below some small number: in the
    softmax basis the posterior has a steep side and a long one. With z of the guide's Gaussian, ``u = z - mean(z)``,
    and l_p and s_p the mean and the standard deviation of u_p under it::

        c = mean(z) + v - mean(v),    v_p = l_p + s_p T_p((u_p - l_p) / s_p)
        T(x) = k + b + p (x - k) + q sqrt((x - k)^2 + 1),    slopes p - q > 0 below and p + q > 0 above

    Shift b, knot k and both log-slopes are quadratic in l_p and log s_p, with coefficients that are the parameters,
    the same for all materials: how far a material is from its corner says how its logit is bent, so that some hundred
    steps of training are enough. The part of c that abundances do not see stays Gaussian.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.guides.ReshapedGuide(model, family=pu.guides.CornerStretch())
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self) -> None:
        super().__init__()

    def num_parameters(self, size: int) -> int:
        return 4 * _NUM_FEATURES

    def around(self, base: PrecisionNormal | DiagonalNormal, parameters: Tensor) -> Stretched:
        return Stretched(base, parameters)


class Stretched(NoiseDistribution):
    """What `CornerStretch` makes of a Gaussian.

    ``log q(c) = log N(z) - sum_p log T_p' - log mean_p (1 / T_p')``, the determinant of the map on centred vectors.

    Parameters
    ----------
    base : PrecisionNormal or DiagonalNormal
        Event shape (P,).
    parameters : Tensor, shape (..., 24)
    """

    arg_constraints: ClassVar = {}
    batched: ClassVar = {"parameters": 1, "base": 0}

    def __init__(self, base: PrecisionNormal | DiagonalNormal, parameters: Tensor) -> None:
        self.base, self.parameters = base, parameters
        self._bends: _Bends | None = None
        batch_shape = torch.broadcast_shapes(base.batch_shape, parameters.shape[:-1])
        super().__init__(batch_shape, base.event_shape, validate_args=False)

    @property
    def bends(self) -> _Bends:
        """T of every material."""
        if self._bends is None:
            self._bends = _Bends(self.base, self.parameters)
        return self._bends

    @property
    def mean(self) -> Tensor:
        """By fixed draws: there is none in closed form."""
        noise = fixed_noise(len(self.batch_shape), self.event_shape[0], self.parameters)
        return self._forwards(noise)[0].mean(0)

    def _forwards(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """c, and its log-density."""
        z = self.base.from_noise(noise)
        log_prob = self.base.log_prob(z)
        constant = z.mean(-1, keepdim=True)
        v, slopes = self.bends.forwards(z - constant)
        return v - v.mean(-1, keepdim=True) + constant, log_prob - _log_det(slopes)

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw made of standard-normal noise (..., P)."""
        self._last = self._forwards(noise)
        return self._last[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        constant = value.mean(-1, keepdim=True)
        u = self.bends.backwards(value - constant)
        return self.base.log_prob(u + constant) - _log_det(self.bends.forwards(u)[1])


def _log_det(slopes: Tensor) -> Tensor:
    """Log-determinant of ``u -> v - mean(v)`` on vectors that sum to zero, for slopes ``dv_p / du_p`` (..., P)."""
    return slopes.log().sum(-1) + slopes.reciprocal().mean(-1).log()


class _Bends:
    """The functions T of every material, in the units of u."""

    def __init__(self, base: PrecisionNormal | DiagonalNormal, parameters: Tensor) -> None:
        self.loc = base.loc - base.loc.mean(-1, keepdim=True)
        self.scale = _centred_scale(base).clamp(min=1e-12)
        # held where logits and their logarithmic stds usually are: a square of outliers would lead astray
        where, spread = torch.broadcast_tensors(
            self.loc.clamp(-8, 4) / 4, self.scale.log().clamp(-4, 2) / 2
        )
        one = torch.ones_like(where)
        features = torch.stack(
            [one, where, where * where, spread, spread * spread, where * spread], dim=-1
        )
        bent = features @ parameters.unflatten(-1, (_NUM_FEATURES, 4))
        self.shift, self.knot, *logs = bent.unbind(-1)
        below, above = ((_STEEPEST * torch.tanh(log / _STEEPEST)).exp() for log in logs)
        self.even, self.odd = 0.5 * (above + below), 0.5 * (above - below)
        self.product = above * below

    def forwards(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """v, and its slopes."""
        x = (u - self.loc) / self.scale - self.knot
        root = (x.square() + 1).sqrt()
        bent = self.knot + self.shift + self.even * x + self.odd * root
        return self.loc + self.scale * bent, self.even + self.odd * x / root

    def _origin(self, v: Tensor) -> Tensor:
        """The u of v."""
        y = (v - self.loc) / self.scale - self.knot - self.shift
        x = (self.even * y - self.odd * (y.square() + self.product).sqrt()) / self.product
        return self.loc + self.scale * (x + self.knot)

    def backwards(self, centred: Tensor) -> Tensor:
        """The u that sums to zero and whose v is `centred` but for a constant, found by bisection."""
        with torch.no_grad():
            # the constants that make one u_p zero: the right one is among them
            constants = self.forwards(torch.zeros_like(centred))[0] - centred
            low, high = constants.amin(-1, keepdim=True), constants.amax(-1, keepdim=True)
            for _ in range(_NUM_HALVINGS):
                middle = 0.5 * (low + high)
                above = self._origin(centred + middle).sum(-1, keepdim=True) > 0
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            slopes = self.forwards(self._origin(centred + middle))[1]
        # a step of Newton's, whose gradient is that of the solution
        total = self._origin(centred + middle).sum(-1, keepdim=True)
        constant = middle - total / slopes.reciprocal().sum(-1, keepdim=True)
        return self._origin(centred + constant)


def _centred_scale(base: PrecisionNormal | DiagonalNormal) -> Tensor:
    """Standard deviations of ``z - mean(z)``, (..., P)."""
    if isinstance(base, DiagonalNormal):
        root = torch.diag_embed(base.scale)
    else:
        eye = torch.eye(base.event_shape[0], dtype=base.loc.dtype, device=base.loc.device)
        root = torch.linalg.solve_triangular(base.precision_tril.mT, eye, upper=True)
    return (root - root.mean(-2, keepdim=True)).square().sum(-1).sqrt()
