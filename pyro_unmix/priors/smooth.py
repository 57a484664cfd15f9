"""Variability that neighbouring pixels and dates share: a low-rank Gaussian field over the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_unmix._check import in_range, positive_int
from pyro_unmix.priors.part import SMOOTH_VARIABILITY, logit
from pyro_unmix.priors.variability import Independent, VariabilityPrior

_LEAST_POWER = 1e-3  # of the largest variance of a wave, below which one is left out


class SmoothVariability(VariabilityPrior):
    """A field, smooth over the image and AR(1) in time, plus what every pixel has for itself.

    ::

        psi_nt = s * f_t(x_n) + r_nt,     f_t(x) = sum_j b_j(x) z_tj,
        z_t = phi^Delta z_{t-1} + (1 - phi^(2 Delta))^(1/2) e_t,     e_t ~ N(0, I)

    for every component and material, with ``Cov(f(x), f(x')) = exp(-|x - x'|^2 / (4 l^2))``. The b_j are the
    principal components of that covariance, products of those of rows and columns; the weakest are left out, so that
    their number falls with l^2. The residual r is a chain of its own, `residual`.

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
    scale : float or array (K, P)
        s at the start.
    residual : VariabilityPrior, optional
        Default ``Independent(0.05)``.
    learn : bool
        Learn s and phi.
    tile_heights : sequence of int, optional
        Where the rows are those of several tiles below each other: their heights. Nothing crosses their borders.
    start : array (T J K P,), optional
        Innovations where guides start; default zeros.
    start_scale : float or array (T J K P,)
        Their standard deviations where guides start.

    References
    ----------
    Katzfuss, Cressie, "Spatio-temporal smoothing and EM estimation for massive remote-sensing data sets", J. Time Ser.
    Anal. 32(4), 2011 (few coefficients that move as an AR(1)).
    """

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
    ) -> None:
        super().__init__()
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
        self.start_coefficient = in_range(coefficient, "coefficient", low=0, high=0.9999)
        self.first_scale = np.asarray(scale, dtype=float)
        if not (np.isfinite(self.first_scale).all() and (self.first_scale > 0).all()):
            raise ValueError(f"scale must be positive, got {scale}")
        self.learn = learn
        self.start, self.start_scales = start, np.asarray(start_scale, dtype=float)
        if not (np.isfinite(self.start_scales).all() and (self.start_scales > 0).all()):
            raise ValueError("start_scale must be positive")
        self.residual = Independent(0.05) if residual is None else residual
        if not isinstance(self.residual, VariabilityPrior) or isinstance(
            self.residual, SmoothVariability
        ):
            raise TypeError(
                "residual must be a VariabilityPrior of single pixels such as Independent(), got "
                f"{residual!r}"
            )
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

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        num_endmembers, num_components = sizes
        self.residual.setup(*sizes, generator=generator)
        shape = (num_components, num_endmembers)
        if self.first_scale.ndim and self.first_scale.shape != shape:
            raise ValueError(
                f"scale must be one number or (components, endmembers) = {shape}, got shape "
                f"{self.first_scale.shape}"
            )
        scale = torch.as_tensor(np.broadcast_to(self.first_scale, shape).copy())
        log_scale = scale.log().flatten().to(torch.get_default_dtype())
        phi = min(max(self.start_coefficient, 1e-4), 1 - 1e-4)
        self.learn_or_keep("log_scale", log_scale, self.learn)
        self.learn_or_keep("logit", torch.tensor(logit(phi)), self.learn)

    def set_elapsed(self, elapsed: Tensor | None) -> None:
        super().set_elapsed(elapsed)
        self.residual.set_elapsed(elapsed)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """`SMOOTH_VARIABILITY`, and what the residual needs."""
        return frozenset({SMOOTH_VARIABILITY}) | self.residual.needs

    # ---------------------------------------------------------------- the residual is the chain

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.residual.chain()

    def steps(self, num_dates: int) -> tuple[Tensor, Tensor]:
        return self.residual.steps(num_dates)

    def first_variance(self) -> Tensor:
        return super().first_variance() + (2 * self.log_scale).exp()

    # ---------------------------------------------------------------- the field

    @property
    def num_innovations(self) -> int:
        """Event size of the site ``field``."""
        waves = self.rows.shape[1] * self.columns.shape[1]
        return self.num_dates * waves * self.log_scale.numel()

    def field_start(self) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviations of ``field`` where a guide starts."""
        found = []
        for name, values in (("start", self.start), ("start_scale", self.start_scales)):
            array = np.asarray(0.0 if values is None else values, dtype=float)
            if array.ndim and array.shape != (self.num_innovations,):
                raise ValueError(
                    f"{name} must have {self.num_innovations} innovations (dates, waves, "
                    f"components, endmembers), got shape {array.shape}"
                )
            found.append(torch.tensor(np.broadcast_to(array, self.num_innovations).copy()))
        return found[0].to(self.log_scale), found[1].log().to(self.log_scale)

    @property
    def independent(self) -> bool:  # type: ignore[override]
        return self.residual.independent

    def memory(self) -> Tensor:
        """Cholesky factor (T, T) of the correlation of f between the dates."""
        gaps = self.log_scale.new_ones(self.num_dates)
        if self.elapsed is not None:
            gaps[: len(self.elapsed)] = self.elapsed[: self.num_dates]
        times = gaps.cumsum(0)
        rate = torch.nn.functional.logsigmoid(self.logit)
        fresh = (-torch.expm1(2 * rate * gaps[1:])).sqrt()
        kept = (rate * (times[:, None] - times).clamp(min=0)).exp().tril()
        return kept * torch.cat([fresh.new_ones(1), fresh])

    def sample_offsets(self, index: Tensor | None, num_pixels: int, num_dates: int) -> Tensor:
        """Draw ``field``; gives ``s f_t(x_n)`` of the pixels with these numbers, (..., B, T, K P)."""
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
        zeros = self.log_scale.new_zeros(self.num_innovations)
        field = pyro.sample("field", dist.Normal(zeros, 1.0).to_event(1))
        return self.offsets(field, index)

    def offsets(self, field: Tensor, index: Tensor | None) -> Tensor:
        """``s f_t(x_n)`` of innovations (..., T J K P) at the pixels with these numbers (all: None)."""
        if field.dim() > 1 and field.shape[-2] == 1:
            field = field.squeeze(-2)  # the place of the plate of the pixels, which it is not in
        counts = self.rows.shape[1], self.columns.shape[1]
        waves = field.unflatten(-1, (self.num_dates, counts[0] * counts[1], -1))
        waves = torch.einsum("ts,...sjk->...jtk", self.memory(), waves * self.log_scale.exp())
        if index is None:
            waves = waves.movedim(-2, -3).unflatten(-2, counts)
            values = torch.einsum("yi,xj,...tijk->...yxtk", self.rows, self.columns, waves)
            return values.flatten(-4, -3)
        if len(index) and int(index.max()) >= self.height * self.width:
            raise ValueError(
                f"pixel {int(index.max())} is outside of the {self.height} x {self.width} pixels "
                "of SmoothVariability: it belongs to the scene that its shape names"
            )
        rows, columns = self.rows[index // self.width], self.columns[index % self.width]
        basis = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(1)
        return (basis @ waves.flatten(-2)).unflatten(-1, (self.num_dates, -1))


def smooth_waves(size: int, length: float) -> np.ndarray:
    """Principal components of a smooth line of pixels, times their standard deviations, (size, J).

    ``sum_j b_j(x) b_j(x') = exp(-(x - x')^2 / (4 length^2))``, but for a thousandth of the largest variance.
    """
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    values, vectors = np.linalg.eigh(np.exp(-((distance / (2 * length)) ** 2)))
    kept = values > _LEAST_POWER * values[-1]
    return (vectors[:, kept] * np.sqrt(values[kept]))[:, ::-1].copy()
