"""Endmembers as reflectances that are smooth over wavelength: a Gaussian process within bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_unmix.data.checks import as_endmembers, as_wavelengths
from pyro_unmix.ops.checks import in_range
from pyro_unmix.ops.distributions import Shape
from pyro_unmix.ops.recipes import Recorded

_STEPS = 40  # of the chain that stands behind a draw from the prior
_JITTER = 1e-6  # of the variance: bands at one wavelength (detectors that overlap) stay distinct
_TURN = 2 * math.pi


class BoundedNormal(TorchDistribution):
    """Columns ``m_p ~ N(loc_p, V diag(variances) V')``, every element within ``[0, high]``.

    The density leaves out the probability of the bounds, a constant. `sample` is the last state of a chain of
    `elliptical_step`, from `loc` clipped to the bounds: the bounds leave no closed form.

    Parameters
    ----------
    loc : Tensor, shape (L, P)
    vectors : Tensor, shape (L, L), orthonormal
    variances : Tensor, shape (L,)
    high : float
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, loc: Tensor, vectors: Tensor, variances: Tensor, high: float) -> None:
        self.loc, self.vectors, self.variances, self.high = loc, vectors, variances, high
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(0.0, self.high), 2)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> BoundedNormal:
        if tuple(batch_shape):
            raise ValueError(f"endmembers are shared by all pixels, got the plate {batch_shape}")
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """Up to the constant; minus infinity outside the bounds."""
        scores = self.vectors.mT @ (value - self.loc)
        density = -0.5 * (scores.square() / self.variances.unsqueeze(-1)).sum((-2, -1))
        inside = ((value >= 0) & (value <= self.high)).all(-1).all(-1)
        return torch.where(inside, density, -math.inf)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        count = torch.Size(sample_shape).numel()
        drawn = torch.stack([self._draw() for _ in range(count)])
        return drawn.reshape(*sample_shape, *self.event_shape)

    def _draw(self) -> Tensor:
        value = self.loc.clamp(0, self.high)
        for _ in range(_STEPS):
            noise = torch.randn(self.event_shape, dtype=value.dtype, device=value.device)
            away = self.vectors @ (self.variances.sqrt().unsqueeze(-1) * noise)
            uniform = torch.rand((), dtype=value.dtype, device=value.device)
            value = elliptical_step(value, self.loc, away, 0.0, self.high, uniform)
        return value


class BoundedEndmembers(Recorded, nn.Module):
    """Reference endmembers, reflectances smooth over wavelength and near given spectra.

    ``m_p ~ N(m, K)`` within ``0 <= m_lp <= high`` and ``K(l, l') = scale^2 exp(-|w_l - w_l'| / (reach range(w)))``: a
    Gaussian process over the wavelength w, continuous but not differentiable, as spectra with absorption lines are.

    Parameters
    ----------
    centre : array or DataArray (L, P), reflectance
        m, such as extracted endmembers.
    scale : float
        Std of an endmember about its centre, reflectance.
    reach : float
        Share of the range of wavelengths over which the correlation falls to 1/e.
    high : float
        A little above one: noise, glint, and calibration.
    wavelength : array (L,), optional
        nm, in any order. Default the coordinate of `centre`; without any, bands are evenly spaced.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> prior = pu.priors.BoundedEndmembers([[0.1, 0.5], [0.2, 0.4], [0.2, 0.3]], scale=0.1)
    >>> abs(float(prior.distribution().log_prob(prior.centre)))
    0.0
    """

    centre: Tensor
    vectors: Tensor
    variances: Tensor

    def __init__(
        self,
        centre: ArrayLike,
        *,
        scale: float = 0.3,
        reach: float = 0.1,
        high: float = 1.2,
        wavelength: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        matrix = as_endmembers(centre)
        self.scale = in_range(scale, "scale", low=0, open_low=True)
        self.reach = in_range(reach, "reach", low=0, open_low=True)
        self.high = in_range(high, "high", low=float(matrix.max()))
        coords = getattr(centre, "coords", {})
        self.names = coords["endmember"].values if "endmember" in coords else None
        if wavelength is None and "wavelength" in coords:
            wavelength = coords["wavelength"].values
        if wavelength is not None:
            wavelength = as_wavelengths(wavelength, len(matrix))
        place = np.linspace(0, 1, len(matrix)) if wavelength is None else np.asarray(wavelength)
        apart = np.abs(np.subtract.outer(place, place)) / np.ptp(place)
        covariance = self.scale**2 * (np.exp(-apart / self.reach) + _JITTER * np.eye(len(place)))
        variances, vectors = np.linalg.eigh(covariance)
        self.register_buffer("centre", torch.tensor(matrix))
        self.register_buffer("vectors", torch.tensor(vectors))
        self.register_buffer("variances", torch.tensor(variances))

    def distribution(self) -> BoundedNormal:
        """Of the endmembers (L, P)."""
        return BoundedNormal(self.centre, self.vectors, self.variances, self.high)


def elliptical_step(
    value: Tensor, loc: Tensor, away: Tensor, low: float, high: float, uniform: Tensor
) -> Tensor:
    """A Markov step that leaves a Gaussian about `loc`, within bounds, as it is; no step is rejected.

    With ``away`` a draw of the Gaussian about zero, ``loc + (value - loc) cos u + away sin u`` is on an ellipse through
    `value`; u is uniform over all angles at which every element is within the bounds, a union of arcs in closed form.

    Parameters
    ----------
    value, loc, away : Tensor, one shape
        The state, within the bounds.
    uniform : Tensor, scalar in [0, 1)

    References
    ----------
    Murray, Adams, MacKay, "Elliptical slice sampling", AISTATS 2010; Gessner, Kanjilal, Hennig, "Integrals over
    Gaussians under linear domain constraints", AISTATS 2020 (no rejection).
    """
    centred = value - loc
    radius, phase = torch.hypot(centred, away), torch.atan2(away, centred)
    # loc + radius cos(u - phase): below `low` about phase + pi, above `high` about phase
    lowest, highest = (low - loc) / radius, (high - loc) / radius
    middle = torch.cat([(phase + math.pi).flatten(), phase.flatten()])
    half = torch.cat(
        [(-lowest.clamp(-1, 1)).arccos().flatten(), highest.clamp(-1, 1).arccos().flatten()]
    )
    start = (middle - half).remainder(_TURN)
    # An arc that crosses zero by rounding ends there: at u = 0, the state itself, all is well.
    end = (start + 2 * half).clamp(max=_TURN)
    angle = _uniform_outside(start, end, uniform)
    return (loc + centred * angle.cos() + away * angle.sin()).clamp(low, high)


def _uniform_outside(start: Tensor, end: Tensor, uniform: Tensor) -> Tensor:
    """An angle uniform over [0, 2 pi) without the arcs [start, end)."""
    start, order = start.sort()
    ends = torch.cat([start.new_zeros(1), end[order].cummax(0).values])
    starts = torch.cat([start, start.new_full((1,), _TURN)])
    free = (starts - ends).clamp(min=0)
    total = free.cumsum(0)
    target = uniform * total[-1]
    gap = torch.searchsorted(total, target.reshape(1), right=True).clamp(max=len(free) - 1)
    return (ends[gap] + target - (total[gap] - free[gap])).squeeze(0)
