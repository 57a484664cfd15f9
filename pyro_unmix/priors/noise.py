"""How observed spectra differ from their noiseless means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.checks import finite_array, positive, positive_int
from pyro_unmix.ops.declared import Declaring
from pyro_unmix.ops.distributions import DiagonalNormal, IsotropicNormal, IsotropicStudentT
from pyro_unmix.priors.part import Need, Part

Spectrum = Callable[[Tensor], TorchDistribution]


class Noise(Declaring, Part):
    """Distribution of a pixel's spectrum about its noiseless mean.

    A guide that works with Gaussian noise only, such as `ConjugateGuide`, refuses what cannot be `whitened`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.WhiteNoise(), pu.priors.Noise)
    True
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.COLOURED_NOISE})
    #: Whether `distributions` and `whitened` are of one Gaussian, the same at all dates; see `Declaring`.
    is_gaussian: ClassVar[bool] = False
    declarations: ClassVar = {"is_gaussian": ("distributions", "by_date", "whitened")}

    def setup(self, *, num_bands: int, generator: torch.Generator) -> None:
        """Create the parameters."""
        self.make_declared(num_bands=num_bands)

    def distributions(self) -> Spectrum:
        """A function ``mean (..., L) -> distribution`` of event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement distributions()")

    def by_date(self, num_dates: int) -> Sequence[Spectrum]:
        """`distributions` of the dates 1..T."""
        return [self.distributions()] * num_dates

    def whitened(self, pixels: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spectra (..., L), design (L, ...) and noise scale of the same regression with white noise."""
        raise NotImplementedError(f"{type(self).__name__} cannot be whitened")


class WhiteNoise(Noise):
    """``y ~ N(mean, sigma_r^2 I)``, equation (22).

    Parameters
    ----------
    scale : float
        sigma_r, reflectance. The paper starts at 0.01 (its printed 0.0001 is the variance: 35 dB).
    learn : bool

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), noise=pu.priors.WhiteNoise(0.01))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    is_gaussian = True

    def __init__(self, scale: float = 0.01, *, learn: bool = True) -> None:
        super().__init__()
        self.declare("log_scale", math.log(positive(scale, "scale")), learn=learn)

    @property
    def scale(self) -> Tensor:
        """sigma_r, a scalar."""
        return self.log_scale.exp()

    def distributions(self) -> Spectrum:
        return _white(self.log_scale)

    def whitened(self, pixels: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pixels, design, self.scale


class BandNoise(Noise):
    """``y_l ~ N(mean_l, sigma_l^2)``, one scale per band.

    Parameters
    ----------
    scale : float, or array (L,)
        sigma, reflectance.
    learn : bool

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), noise=pu.priors.BandNoise(0.01))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BAND_NOISE})
    is_gaussian = True

    def __init__(self, scale: float | ArrayLike = 0.01, *, learn: bool = True) -> None:
        super().__init__()
        self.start_scales = _scales(scale)
        self.learn = learn

    def setup(self, *, num_bands: int, generator: torch.Generator) -> None:
        logs = _log_scales(self.start_scales, num_bands, "band", "bands")
        self.learn_or_keep("log_scale", logs, learn=self.learn)

    def distributions(self) -> Spectrum:
        scale, log_det = self.log_scale.exp(), self.log_scale.sum()
        return lambda mean: DiagonalNormal(mean, scale, log_det)

    def whitened(self, pixels: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = self.log_scale.exp()
        return pixels / scale, design / scale.unsqueeze(-1), torch.ones_like(scale[0])


class DateNoise(Noise):
    """``y_t ~ N(mean_t, sigma_t^2 I)``, one scale per date.

    Parameters
    ----------
    scale : array (T,), or float with `num_dates`
        sigma of every date, reflectance.
    num_dates : int, optional
        T, where `scale` is one number.
    learn : bool

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), noise=pu.priors.DateNoise(0.01, num_dates=3))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self, scale: float | ArrayLike = 0.01, *, num_dates: int | None = None, learn: bool = True
    ) -> None:
        super().__init__()
        scales = _scales(scale)
        if num_dates is None and len(scales) == 1 and np.ndim(scale) == 0:
            raise ValueError(
                f"DateNoise({scale!r}) does not know how many dates there are: pass num_dates=..., or "
                "one scale per date"
            )
        size = len(scales) if num_dates is None else positive_int(num_dates, "num_dates")
        self.declare("log_scale", _log_scales(scales, size, "date", "dates"), learn=learn)

    def distributions(self) -> Spectrum:
        return self.by_date(1)[0]

    def by_date(self, num_dates: int) -> Sequence[Spectrum]:
        if num_dates != len(self.log_scale):
            raise ValueError(
                f"DateNoise has scales of {len(self.log_scale)} dates, the images {num_dates}: pass "
                f"num_dates={num_dates}, or one scale per date"
            )
        return [_white(log_scale) for log_scale in self.log_scale.unbind()]


class StudentNoise(Noise):
    """``y ~ t_nu(mean, sigma^2 I)``, multivariate Student-t: a few whole spectra may be far off.

    An outlier (a cloud's edge, a wrong co-registration) is off in all bands: one random scale per pixel and date.

    Parameters
    ----------
    scale : float
        sigma, reflectance.
    dof : float
        nu; small ones have more outliers.
    learn : bool
        Learn both.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), noise=pu.priors.StudentNoise(0.01, dof=4))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, scale: float = 0.01, *, dof: float = 4.0, learn: bool = True) -> None:
        super().__init__()
        self.declare("log_scale", math.log(positive(scale, "scale")), learn=learn)
        self.declare("log_dof", math.log(positive(dof, "dof")), learn=learn)

    def distributions(self) -> Spectrum:
        log_scale, dof = self.log_scale, self.log_dof.exp()
        return lambda mean: IsotropicStudentT(mean, log_scale, dof)


class LowRankNoise(Noise):
    """``y ~ N(mean, W W' + diag(sigma)^2)``: errors that bands share, such as those of the atmosphere.

    Parameters
    ----------
    scale : float, or array (L,)
        sigma, reflectance.
    rank : int
        Columns of W (L, rank), which start random, of a tenth of the smallest sigma, and are learned.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), noise=pu.priors.LowRankNoise(0.01, rank=2))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BAND_NOISE})
    is_gaussian = True

    def __init__(self, scale: float | ArrayLike = 0.01, *, rank: int = 2) -> None:
        super().__init__()
        self.start_scales = _scales(scale)
        self.rank = positive_int(rank, "rank")

    def setup(self, *, num_bands: int, generator: torch.Generator) -> None:
        logs = _log_scales(self.start_scales, num_bands, "band", "bands")
        self.learn_or_keep("log_scale", logs)
        factor = torch.randn(num_bands, self.rank, generator=generator)
        self.learn_or_keep("factor", 0.1 * float(self.start_scales.min()) * factor)

    def distributions(self) -> Spectrum:
        factor, variance = self.factor, (2 * self.log_scale).exp()
        return lambda mean: dist.LowRankMultivariateNormal(mean, factor, variance)

    def whitened(self, pixels: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tril = torch.linalg.cholesky(
            self.factor @ self.factor.mT + torch.diag((2 * self.log_scale).exp())
        )
        inverse = torch.linalg.solve_triangular(tril, torch.eye(len(tril)).to(tril), upper=False)
        return pixels @ inverse.mT, inverse @ design, torch.ones_like(tril[0, 0])


def _white(log_scale: Tensor) -> Spectrum:
    return lambda mean: IsotropicNormal(mean, log_scale)


def _scales(scale: float | ArrayLike) -> np.ndarray:
    """Positive scales, (n,)."""
    if np.ndim(scale) == 0:
        return np.array([positive(scale, "scale")])
    scales = finite_array(scale, "scale", ndim=1)
    if not (scales > 0).all():
        raise ValueError(f"scale must be positive, got {scales.min():.4g} as the smallest")
    return scales


def _log_scales(scales: np.ndarray, size: int, one: str, many: str) -> np.ndarray:
    if len(scales) not in (1, size):
        raise ValueError(
            f"scale must be one number or one per {one}, got {len(scales)} for {size} {many}"
        )
    return np.broadcast_to(np.log(scales), size).copy()
