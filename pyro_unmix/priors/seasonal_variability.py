"""Variability that comes back every year and that all pixels share."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.data.days import day_numbers
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.priors.shared_variability import SharedVariability, plain
from pyro_unmix.priors.variability import AutoRegressive, VariabilityPrior

YEAR = 365.2425  # days
_SAME_DAY = 1e-2  # days; they are kept in single precision


class SeasonalVariability(SharedVariability):
    """Seasons of the materials, the same in all pixels, plus what every pixel has for itself.

    ::

        psi_nt = s * g(d_t) + r_nt,
        g(d) = sum_h w_h (z_h cos(2 pi h d / period) + z'_h sin(2 pi h d / period)),   z, z' ~ N(0, I),  h = 1..H

    for every component and material; d_t is the day, and the weights ``w_h = h^-1 / (sum_j j^-2)^(1/2)`` make the
    variance of g one at every date. Because the sines and cosines of a harmonic have one law, shifting all dates
    changes nothing. The residual r is a chain of its own, `residual`. The coefficients z are the site ``field`` outside
    of the plate of the pixels. The model must know its dates (``SGLMM(..., dates=cubes["time"])``); the seasons that
    were learned hold at any others.

    Parameters
    ----------
    num_harmonics : int
        H.
    period : float
        Days.
    scale, residual, learn, start, start_scale
        Of `SharedVariability`; the residual's default is ``AutoRegressive(0.9)``, and the 2 H K P coefficients start
        where `choose_season_start` says.

    References
    ----------
    Zhu, Woodcock, "Continuous change detection and classification of land cover using all available Landsat data",
    Remote Sensing of Environment 144, 2014 (a few harmonics of the year per band).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> prior = pu.priors.SeasonalVariability(2, residual=pu.priors.AutoRegressive(0.5))
    >>> isinstance(prior, pu.priors.SharedVariability)
    True
    """

    def __init__(
        self,
        num_harmonics: int = 3,
        *,
        period: float = YEAR,
        scale: float | np.ndarray = 0.5,
        residual: VariabilityPrior | None = None,
        learn: bool = True,
        start: np.ndarray | None = None,
        start_scale: float | np.ndarray = 0.1,
    ) -> None:
        residual = AutoRegressive(0.9) if residual is None else residual
        super().__init__(scale, residual, learn, start, start_scale)
        self.num_harmonics = positive_int(num_harmonics, "num_harmonics")
        self.period = positive(period, "period")
        self.register_buffer("days", None, persistent=False)  # the model's dates say it

    days: Tensor | None

    def set_days(self, dates: np.ndarray | None) -> None:
        days = None if dates is None else day_numbers(dates)
        # Whole periods are dropped in double precision.
        self.days = None if days is None else torch.as_tensor(days % self.period).to(self.log_scale)

    def same_season(self, dates: np.ndarray) -> bool:
        """Whether dates are at the times of the period that the model was told."""
        days = torch.as_tensor(day_numbers(dates) % self.period)
        if self.days is None or days.shape != self.days.shape:
            return False
        apart = (days - self.days.cpu().double()).abs()
        return bool((torch.minimum(apart, self.period - apart) < _SAME_DAY).all())

    @property
    def num_innovations(self) -> int:
        return 2 * self.num_harmonics * self.log_scale.numel()

    def check_scene(self, index: Tensor | None, num_pixels: int, num_dates: int) -> None:
        if self.days is None:
            raise ValueError(
                "SeasonalVariability needs the dates of the images: pass them to the model, "
                'SGLMM(..., dates=cubes["time"])'
            )

    def harmonics(self) -> Tensor:
        """Waves ``w_h cos``, ``w_h sin`` at the dates, (T, 2 H)."""
        assert self.days is not None
        number = torch.arange(1, self.num_harmonics + 1).to(self.days)
        phase = 2 * math.pi / self.period * self.days.unsqueeze(-1) * number
        weight = 1 / number / number.pow(-2).sum().sqrt()
        return torch.cat([phase.cos() * weight, phase.sin() * weight], dim=-1)

    def offsets(self, field: Tensor, index: Tensor | None) -> Tensor:
        waves = plain(field).unflatten(-1, (2 * self.num_harmonics, -1))
        return (self.harmonics() @ (waves * self.log_scale.exp())).unsqueeze(-3)
