"""Gaussian priors of smooth fields and smooth spectra, normalised exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.ops.distributions import NoiseDistribution

_LOG_2PI = math.log(2 * math.pi)


class SmoothField(NoiseDistribution):
    """Gaussian Markov field over pixels and dates: neighbours in space and in time are alike.

    The precision is ``S / spatial_scale^2 + C / temporal_scale^2 + I / level_scale^2`` with S and C
    the graph Laplacians of the pixels (rows and columns of every tile) and of the dates. The
    eigenvectors of a chain's Laplacian are discrete cosines, its eigenvalues
    ``2 - 2 cos(pi k / n)``; so the density is normalised exactly, at the cost of the differences.

    Parameters
    ----------
    sizes : (W, T, P)
    tile_heights : list of int
        Rows of every tile; H is their sum.
    spatial_scale, temporal_scale : Tensor, shape (...)
    level_scale : float

    The event is a vector of H W T P elements, the last axis running fastest.
    """

    arg_constraints: ClassVar = {}
    batched: ClassVar = {"spatial_scale": 0, "temporal_scale": 0}

    def __init__(
        self,
        sizes: Sequence[int],
        tile_heights: list[int],
        spatial_scale: Tensor,
        temporal_scale: Tensor,
        level_scale: float,
    ) -> None:
        self.sizes = torch.Size([sum(tile_heights), *sizes])
        self.tile_heights, self.level_scale = tile_heights, level_scale
        self.spatial_scale, self.temporal_scale = torch.broadcast_tensors(
            spatial_scale, temporal_scale
        )
        events = torch.Size([self.sizes.numel()])
        super().__init__(self.spatial_scale.shape, events)

    def precisions(self) -> Tensor:
        """Eigenvalues of the precision, (..., H, W, T)."""
        _, width, num_dates, _ = self.sizes
        rows = torch.cat([self._chain(height) for height in self.tile_heights])
        space = rows[:, None, None] + self._chain(width)[:, None]
        spatial, temporal = (
            scale.square()[..., None, None, None]
            for scale in (self.spatial_scale, self.temporal_scale)
        )
        return space / spatial + self._chain(num_dates) / temporal + self.level_scale**-2

    def log_prob(self, value: Tensor) -> Tensor:
        field = value.unflatten(-1, self.sizes)
        ends = np.cumsum(self.tile_heights)[:-1]
        inside = np.delete(np.arange(1, self.sizes[0]), ends - 1)
        down = field[..., inside, :, :, :] - field[..., inside - 1, :, :, :]
        space = _squares(down) + _squares(field.diff(dim=-3))
        energy = space / self.spatial_scale.square()
        energy = energy + _squares(field.diff(dim=-2)) / self.temporal_scale.square()
        energy = energy + _squares(field) / self.level_scale**2
        log_det = self.sizes[-1] * self.precisions().log().sum((-3, -2, -1))
        return 0.5 * (log_det - energy - self.sizes.numel() * _LOG_2PI)

    def _draw(self, noise: Tensor) -> Tensor:
        white = noise.unflatten(-1, self.sizes) / self.precisions().sqrt()[..., None]
        rows = torch.block_diag(*[self._cosines(height) for height in self.tile_heights])
        columns, dates = self._cosines(self.sizes[1]), self._cosines(self.sizes[2])
        return torch.einsum("hi,wj,tk,...ijkp->...hwtp", rows, columns, dates, white).flatten(-4)

    def _chain(self, size: int) -> Tensor:
        k = torch.arange(size, dtype=self.spatial_scale.dtype, device=self.spatial_scale.device)
        return 2 - 2 * torch.cos(math.pi * k / size)

    def _cosines(self, size: int) -> Tensor:
        """Orthonormal eigenvectors of a chain in columns."""
        k = torch.arange(size, dtype=self.spatial_scale.dtype, device=self.spatial_scale.device)
        columns = torch.cos(math.pi * (2 * k[:, None] + 1) * k / (2 * size))
        return columns / columns.norm(dim=0)


class SmoothSpectra(NoiseDistribution):
    """Gaussian spectra with small second differences, near given ones.

    The density is proportional to ``exp -1/2 [m'D'D m / curvature_scale^2 + ||m - m0||^2 /
    level_scale^2]`` for every column m, and normalised.

    Parameters
    ----------
    reference : Tensor, shape (L, P)
        m0.
    eigen : pair of Tensors, shapes (L,) and (L, L)
        Eigenvalues and eigenvectors of D'D.
    curvature_scale : Tensor, shape (...)
    level_scale : float

    The event is a vector of L P elements, the last axis running fastest.
    """

    arg_constraints: ClassVar = {}
    batched: ClassVar = {"curvature_scale": 0}

    def __init__(
        self,
        reference: Tensor,
        eigen: tuple[Tensor, Tensor],
        curvature_scale: Tensor,
        level_scale: float,
    ) -> None:
        self.reference, self.eigen = reference, eigen
        self.curvature_scale, self.level_scale = curvature_scale, level_scale
        events = torch.Size([reference.numel()])
        super().__init__(curvature_scale.shape, events)

    def _coordinates(self) -> tuple[Tensor, Tensor]:
        """Means (..., L, P) and precisions (..., L, 1) of the coordinates in the eigenvectors."""
        values, vectors = self.eigen
        level = self.level_scale**-2
        precision = (values / self.curvature_scale.square().unsqueeze(-1) + level).unsqueeze(-1)
        return (vectors.mT @ self.reference) * level / precision, precision

    def log_prob(self, value: Tensor) -> Tensor:
        loc, precision = self._coordinates()
        spectra = value.unflatten(-1, self.reference.shape)
        distance = precision * (self.eigen[1].mT @ spectra - loc).square()
        log_det = self.reference.shape[1] * precision.log().sum((-2, -1))
        return 0.5 * (log_det - distance.sum((-2, -1)) - self.reference.numel() * _LOG_2PI)

    def _draw(self, noise: Tensor) -> Tensor:
        loc, precision = self._coordinates()
        white = noise.unflatten(-1, self.reference.shape)
        return (self.eigen[1] @ (loc + white / precision.sqrt())).flatten(-2)


def _squares(differences: Tensor) -> Tensor:
    """Sum of squares over (H, W, T, P)."""
    return differences.square().sum((-4, -3, -2, -1))


def curvature(wavelength: np.ndarray) -> np.ndarray:
    """D'D (L, L), D second differences over the bands in the order of their wavelengths."""
    ordered = np.argsort(wavelength, kind="stable")
    differences = np.diff(np.eye(len(wavelength)), n=2, axis=0)  # columns in that order
    by_band = np.empty_like(differences)
    by_band[:, ordered] = differences
    return by_band.T @ by_band
