"""Variability that neighbouring pixels and dates share: a low-rank Gaussian field over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.priors.part import logit
from pyro_unmix.priors.shared_variability import SharedVariability, plain
from pyro_unmix.priors.variability import VariabilityPrior

_LEAST_POWER = 1e-3  # of the largest variance of a wave, below which one is left out


class SmoothVariability(SharedVariability):
    """A field, smooth over the image and AR(1) in time, plus what every pixel has for itself.

    ::

        psi_nt = s * f_t(x_n) + r_nt,     f_t(x) = sum_j b_j(x) z_tj,
        z_t = phi^Delta z_{t-1} + (1 - phi^(2 Delta))^(1/2) e_t,     e_t ~ N(0, I)

    for every component and material, with ``Cov(f(x), f(x')) = exp(-|x - x'|^2 / (4 l^2))``. The b_j are the
    principal components of that covariance, products of those of rows and columns; the weakest are left out, so that
    their number falls with l^2. The residual r is a chain of its own, `residual`. With `light`, one more field of the
    same law, times s_light, is added to the first component of every material: where that is brightness, as of `DCT`
    and `Brightness`, the illumination that all materials of a pixel have in common.

    The sites ``psi_t`` are those of the residual; the innovations e are the site ``field`` *outside* the plate
    of the pixels (event T J K P), which every batch of pixels sees a part of.

    Parameters
    ----------
    shape : (T, H, W)
        Dates, rows and columns of the scene.
    length : float
        l, pixels; at least one.
    coefficient : float in [0, 1)
        phi, over one unit of time.
    scale, residual, start, start_scale
        Of `SharedVariability`; there are T J K P innovations, or T J (K P + 1).
    learn : bool
        Learn s, s_light and phi.
    light : float, optional
        s_light at the start; None has no such field.
    tile_heights : sequence of int, optional
        Where the rows are those of several tiles below each other: their heights. Nothing crosses their borders.
    order : sequence of int (T,), optional
        Of which date each innovation is, where it is not the order of time (see `add_dates`): the field at a date is
        then conditional on those of the dates before it in this order.

    References
    ----------
    Katzfuss, Cressie, "Spatio-temporal smoothing and EM estimation for massive remote-sensing data sets", J. Time Ser.
    Anal. 32(4), 2011 (few coefficients that move as an AR(1)).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> prior = pu.priors.SmoothVariability((2, 10, 10), length=3)  # dates, rows, columns
    >>> isinstance(prior, pu.priors.SharedVariability)
    True
    """

    of_scene = True
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        length: float = 4.0,
        coefficient: float = 0.9,
        scale: float | np.ndarray = 0.5,
        residual: VariabilityPrior | None = None,
        learn: bool = True,
        tile_heights: Sequence[int] | None = None,
        start: np.ndarray | None = None,
        start_scale: float | np.ndarray = 0.1,
        order: Sequence[int] | None = None,
        light: float | None = None,
    ) -> None:
        super().__init__(scale, residual, learn, start, start_scale)
        if len(shape) != 3:
            raise ValueError(f"shape must be (dates, rows, columns), got {tuple(shape)}")
        names = ("dates", "rows", "columns")
        sizes = [positive_int(n, f"the number of {k}") for n, k in zip(shape, names, strict=True)]
        self.num_dates, self.height, self.width = sizes
        heights = [self.height] if tile_heights is None else [int(h) for h in tile_heights]
        if sum(heights) != self.height or min(heights) < 1:
            raise ValueError(
                f"tile_heights must be positive and sum to the {self.height} rows, got {heights}"
            )
        self.length = in_range(length, "length", low=1.0)
        phi = in_range(coefficient, "coefficient", low=0, high=0.9999)
        self.declare("logit", logit(min(max(phi, 1e-4), 1 - 1e-4)), learn=learn)
        self.has_light = light is not None
        if light is not None:
            light = in_range(light, "light", low=0, open_low=True)
            self.declare("log_light", math.log(light), learn=learn)
        self.order = list(range(self.num_dates)) if order is None else [int(t) for t in order]
        if sorted(self.order) != list(range(self.num_dates)):
            raise ValueError(f"order must hold the {self.num_dates} dates once each, got {order}")
        rows = np.zeros((self.height, 0))
        first = 0
        for tile in heights:
            waves = smooth_waves(tile, self.length)
            block = np.zeros((self.height, waves.shape[1]))
            block[first : first + tile] = waves
            rows, first = np.concatenate([rows, block], axis=1), first + tile
        kind = torch.get_default_dtype()
        self.register_buffer("rows", torch.as_tensor(rows, dtype=kind))
        columns = smooth_waves(self.width, self.length)
        self.register_buffer("columns", torch.as_tensor(columns, dtype=kind))

    def setup(
        self, *, num_endmembers: int, num_components: int, generator: torch.Generator
    ) -> None:
        super().setup(
            num_endmembers=num_endmembers, num_components=num_components, generator=generator
        )
        self.num_endmembers = num_endmembers

    @property
    def num_innovations(self) -> int:
        waves = self.rows.shape[1] * self.columns.shape[1]
        return self.num_dates * waves * self.log_scales().numel()

    def log_scales(self) -> Tensor:
        """Logarithms (K P,) of s, and that of s_light after them."""
        if not self.has_light:
            return self.log_scale
        return torch.cat([self.log_scale, self.log_light.view(1)])

    def rescale(self, log_factors: Tensor) -> None:
        """Multiply s, and s_light after them, by the exponentials of these numbers."""
        self.log_scale.data += log_factors[: self.log_scale.numel()]
        if self.has_light:
            self.log_light.data += log_factors[-1]

    def first_variance(self) -> Tensor:
        variance = super().first_variance()
        return (
            self._lit(torch.cat([variance, (2 * self.log_light).exp().view(1)]))
            if self.has_light
            else variance
        )

    def memory(self) -> Tensor:
        """A square root (T, T) of the correlation of f between the dates: rows dates, columns innovations."""
        gaps = self.log_scale.new_ones(self.num_dates)
        if self.elapsed is not None:
            gaps[: len(self.elapsed)] = self.elapsed[: self.num_dates]
        times = gaps.cumsum(0)
        rate = torch.nn.functional.logsigmoid(self.logit)
        if self.order != sorted(self.order):
            order = torch.tensor(self.order, device=times.device)
            places = gaps.double().cumsum(0)[order]
            apart = (places[:, None] - places).abs()
            factor = torch.linalg.cholesky((rate.double() * apart).exp())
            return factor[order.argsort()].to(times.dtype)
        fresh = (-torch.expm1(2 * rate * gaps[1:])).sqrt()
        memory = (rate * (times[:, None] - times).clamp(min=0)).exp().tril()
        return memory * torch.cat([fresh.new_ones(1), fresh])

    def add_dates(self, places: Sequence[int], num_dates: int) -> None:
        """Become the field of more dates, of which those so far are at `places`; the elapsed time must be set as well.

        The innovations so far keep their meaning; those of the new dates come after them and are new standard-normal
        numbers, as the field there given that of the dates so far has them.
        """
        so_far = [int(places[t]) for t in self.order]
        self.order = so_far + sorted(set(range(num_dates)) - set(so_far))
        more = (num_dates - self.num_dates) * (self.num_innovations // self.num_dates)
        self.num_dates = num_dates
        if self.start is not None:
            self.start = np.append(self.start, np.zeros(more))
        if self.start_scales.ndim:
            self.start_scales = np.append(self.start_scales, np.ones(more))
        self.record(
            shape=(num_dates, self.height, self.width), order=self.order, start=self.start,
            start_scale=self.start_scales,
        )  # fmt: skip

    def check_scene(self, index: Tensor | None, num_pixels: int, num_dates: int) -> None:
        if index is None and num_pixels != self.height * self.width:
            raise ValueError(
                f"SmoothVariability is of {self.height} x {self.width} pixels, got {num_pixels}: pass "
                "their numbers as index, or all of them"
            )
        if num_dates != self.num_dates:
            raise ValueError(
                f"SmoothVariability is of {self.num_dates} dates, the images have {num_dates}: it "
                "belongs to the scene that its shape names"
            )

    def offsets(self, field: Tensor, index: Tensor | None) -> Tensor:
        field = plain(field)
        counts = self.rows.shape[1], self.columns.shape[1]
        waves = field.unflatten(-1, (self.num_dates, counts[0] * counts[1], -1))
        waves = torch.einsum("ts,...sjk->...jtk", self.memory(), waves * self.log_scales().exp())
        if index is None:
            waves = waves.movedim(-2, -3).unflatten(-2, counts)
            values = torch.einsum("yi,xj,...tijk->...yxtk", self.rows, self.columns, waves)
            return self._lit(values.flatten(-4, -3))
        if len(index) and int(index.max()) >= self.height * self.width:
            raise ValueError(
                f"pixel {int(index.max())} is outside of the {self.height} x {self.width} pixels "
                "of SmoothVariability: it belongs to the scene that its shape names"
            )
        rows, columns = self.rows[index // self.width], self.columns[index % self.width]
        basis = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(1)
        return self._lit((basis @ waves.flatten(-2)).unflatten(-1, (self.num_dates, -1)))

    def _lit(self, values: Tensor) -> Tensor:
        """What comes last of (..., K P + 1) added to the first component of all materials, (..., K P)."""
        if not self.has_light:
            return values
        own, light, p = values[..., :-1], values[..., -1:], self.num_endmembers
        return torch.cat([own[..., :p] + light, own[..., p:]], dim=-1)


def smooth_waves(size: int, length: float) -> np.ndarray:
    """Principal components of a smooth line of pixels, times their standard deviations, (size, J).

    ``sum_j b_j(x) b_j(x') = exp(-(x - x')^2 / (4 length^2))``, but for a thousandth of the largest variance.
    """
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    values, vectors = np.linalg.eigh(np.exp(-((distance / (2 * length)) ** 2)))
    strong = values > _LEAST_POWER * values[-1]
    return (vectors[:, strong] * np.sqrt(values[strong]))[:, ::-1].copy()
