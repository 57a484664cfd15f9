"""Intimate mixtures after Hapke: reflectance of a powder, single-scattering albedo of its grains, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.mixing.forward import Mixing, linear_mixing
from pyro_unmix.ops.checks import finite_array, in_range

Spectra = TypeVar("Spectra", Tensor, np.ndarray, xr.DataArray)

_STEEPEST = 80.0  # degrees; nearer to grazing, roughness that the theory leaves out counts most


class Hapke(Mixing):
    """Grains of all materials side by side in a powder: their single-scattering albedos mix, not their reflectances.

    Reflectance r here is that of all products and instruments, the reflectance factor relative to a white Lambertian
    surface under the same light. With the cosines mu0 of the incidence and mu of the emission angle, and the
    single-scattering albedo w, the share of the light that meets a grain and is not absorbed,

    ``r = w / (4 (mu0 + mu)) H(mu0) H(mu)``, ``H(x) = (1 + 2 x) / (1 + 2 x gamma)``, ``gamma = sqrt(1 - w)``,

    and a mixture has ``w = sum_p a_p w_p`` with fractions a of the grains' cross section (`mass_fractions` converts
    them). With ``K = (1 + 2 mu0) (1 + 2 mu) / (4 (mu0 + mu))``, the reflectance of grains that do not absorb, the
    inverse is the root of a quadratic,

    ``gamma = 2 (K - r) / (b + sqrt(b^2 + 4 (K + 4 mu0 mu r) (K - r)))``, ``b = 2 (mu0 + mu) r``.

    Assumed are grains that scatter alike in all directions, no opposition effect (so no illumination from behind the
    sensor within some degrees), a flat surface that is thick and loosely packed, grains larger than the wavelength, and
    one geometry for all pixels.

    `fcls`, `nnls` and `unmix` with ``mixing=Hapke()`` convert images and endmembers to albedo and unmix these.
    ``SGLMM(..., mixing=Hapke())`` has it inside of the model, whose variability and noise are then of reflectance.

    Parameters
    ----------
    incidence, emission : float
        Angles of light and view from the surface's normal, degrees, in [0, 80]. Default those of most laboratories,
        30 and 0; the fractions depend little on them.

    Raises
    ------
    TypeError, ValueError
        If an angle is no number in that range.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> hapke = pu.mixing.Hapke()
    >>> dark, bright = np.array([0.05, 0.1, 0.2]), np.array([0.9, 0.8, 0.7])
    >>> mixed = hapke.to_reflectance(0.5 * hapke.to_albedo(dark) + 0.5 * hapke.to_albedo(bright))
    >>> mixed.round(2).tolist()  # far below the mean of both: light that goes on is absorbed by the next dark grain
    [0.16, 0.22, 0.32]
    >>> cubes = mixed[None, None, None]
    >>> spectra = np.stack([dark, bright], axis=1)
    >>> result = pu.methods.fcls(cubes, endmembers=spectra, mixing=hapke, progress=False)
    >>> result.abundances.values.round(3).ravel().tolist()
    [0.5, 0.5]

    References
    ----------
    Hapke, "Bidirectional reflectance spectroscopy. 1. Theory", J. Geophys. Res. 86(B4), 1981: H is eq. (8), the
    reflectance eq. (16) with phase function ``P = 1`` and opposition effect ``B = 0``, times ``pi / mu0``, the mixture
    eq. (17). Mustard, Pieters, "Photometric phase functions of common geologic minerals and applications to
    quantitative analysis of mineral mixture reflectance spectra", J. Geophys. Res. 94(B10), 1989. Heylen, Parente,
    Gader, "A review of nonlinear hyperspectral unmixing methods", IEEE JSTARS 7(6), 2014.
    """

    def __init__(self, incidence: float = 30.0, emission: float = 0.0) -> None:
        super().__init__()
        self.incidence = in_range(incidence, "incidence", 0.0, _STEEPEST)
        self.emission = in_range(emission, "emission", 0.0, _STEEPEST)

    def __repr__(self) -> str:
        return f"Hapke(incidence={self.incidence:g}, emission={self.emission:g})"

    @property
    def cosines(self) -> tuple[float, float]:
        """mu0 and mu."""
        return math.cos(math.radians(self.incidence)), math.cos(math.radians(self.emission))

    @property
    def brightest(self) -> float:
        """K, the reflectance of grains that do not absorb; up to 1.13."""
        mu0, mu = self.cosines
        return (1 + 2 * mu0) * (1 + 2 * mu) / (4 * (mu0 + mu))

    @property
    def darkest(self) -> float:
        """``-K / (8 mu0 mu)``: noise below zero is converted down to here, to albedos below zero."""
        mu0, mu = self.cosines
        return -self.brightest / (8 * mu0 * mu)

    def to_albedo(self, reflectance: Spectra) -> Spectra:
        """Single-scattering albedo w of reflectance r, any shape and kind; NaN where it is NaN.

        Reflectance above `brightest` has the albedo one, below `darkest` that of `darkest`.

        Parameters
        ----------
        reflectance : Tensor, array or DataArray

        Returns
        -------
        The same kind, in double precision where it is not a Tensor.
        """
        converted: Spectra = _converted(lambda r: 1 - self._gamma(r).square(), reflectance)
        return converted

    def to_reflectance(self, albedo: Spectra) -> Spectra:
        """Reflectance r of single-scattering albedo w, as `to_albedo`; albedos above one count as one.

        It is infinitely steep at w = 1.
        """

        converted: Spectra = _converted(lambda w: self._reflectance((1 - w).clamp(min=0)), albedo)
        return converted

    def forward(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """Reflectance of mixtures, (..., L, P) reflectances and (..., P) -> (..., L)."""
        # of 1 - w, which does not round where grains hardly absorb, with gradients that stay bounded
        return self._reflectance(linear_mixing(self._gamma(endmembers).square(), abundances))

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """What the mixture has beyond the mean reflectance, by area, of its endmembers."""
        return self.forward(endmembers, abundances) - linear_mixing(endmembers, abundances)

    def _gamma(self, reflectance: Tensor) -> Tensor:
        (mu0, mu), k = self.cosines, self.brightest
        r = reflectance.clamp(self.darkest, k)
        b = 2 * (mu0 + mu) * r
        root = (b.square() + 4 * (k + 4 * mu0 * mu * r) * (k - r)).sqrt()
        return 2 * (k - r) / (b + root)

    def _reflectance(self, absorbed: Tensor) -> Tensor:
        """Of ``1 - w >= 0``."""
        mu0, mu = self.cosines
        # the root of zero has no gradient
        some = absorbed > 0
        gamma = torch.where(some, torch.where(some, absorbed, 1.0).sqrt(), absorbed)
        return self.brightest * (1 - absorbed) / ((1 + 2 * mu0 * gamma) * (1 + 2 * mu * gamma))


def mass_fractions(
    abundances: ArrayLike | xr.DataArray, *, densities: ArrayLike, diameters: ArrayLike
) -> xr.DataArray | np.ndarray:
    """Fractions of mass of fractions of cross section, as `Hapke` has them.

    ``m_p = a_p rho_p d_p / sum_q a_q rho_q d_q``: of grains of one shape, mass grows with the cross section times
    density rho and diameter d. Extinction efficiencies are taken to be alike, as those of grains much larger than the
    wavelength are.

    Parameters
    ----------
    abundances : DataArray (..., endmember), or array (..., P)
    densities, diameters : array (P,)
        In any units; only their ratios count.

    Returns
    -------
    DataArray or array, of the same dims

    Raises
    ------
    ValueError
        If there is not one positive density and one positive diameter per material.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> quartz_and_magnetite = pu.mixing.mass_fractions([0.5, 0.5], densities=[2.65, 5.2], diameters=[100, 20])
    >>> quartz_and_magnetite.round(3).tolist()
    [0.718, 0.282]

    References
    ----------
    Hapke, J. Geophys. Res. 86(B4), 1981, eq. (17), solved for its masses.
    """
    return _reweighted(abundances, densities, diameters, 1)


def cross_section_fractions(
    masses: ArrayLike | xr.DataArray, *, densities: ArrayLike, diameters: ArrayLike
) -> xr.DataArray | np.ndarray:
    """Fractions of cross section of fractions of mass, ``a_p = (m_p / (rho_p d_p)) / sum_q m_q / (rho_q d_q)``.

    The inverse of `mass_fractions`, whose parameters, errors and source it has.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.mixing.cross_section_fractions([0.5, 0.5], densities=[2.5, 2.5], diameters=[30, 10]).tolist()
    [0.25, 0.75]
    """
    return _reweighted(masses, densities, diameters, -1)


def _reweighted(
    fractions: ArrayLike | xr.DataArray, densities: ArrayLike, diameters: ArrayLike, power: int
) -> xr.DataArray | np.ndarray:
    if isinstance(fractions, xr.DataArray):
        if "endmember" not in fractions.dims:
            raise ValueError(
                f"expected fractions with the dim 'endmember', got {fractions.dims}: rename it"
            )
        last = fractions.transpose(..., "endmember")
        values = _reweighted(last.to_numpy(), densities, diameters, power)
        return last.copy(data=values).transpose(*fractions.dims)
    shares = np.asarray(fractions, dtype=float)
    sizes = shares.shape[-1:]
    weights = np.ones(sizes)
    for name, numbers in (("densities", densities), ("diameters", diameters)):
        checked = finite_array(numbers, name)
        if checked.shape != sizes or (checked <= 0).any():
            raise ValueError(
                f"{name} must be one positive number per material, {sizes}, got {checked.tolist()}"
            )
        weights = weights * checked
    weighted = shares * weights**power
    total = weighted.sum(-1, keepdims=True)
    return np.asarray(weighted / np.where(total > 0, total, np.nan))


def _converted(function: Callable[[Tensor], Tensor], spectra: Any) -> Any:
    """A function of tensors, of whatever kind of array is given."""
    if isinstance(spectra, Tensor):
        return function(spectra)
    if isinstance(spectra, xr.DataArray):
        return spectra.copy(data=_converted(function, spectra.to_numpy()))
    return function(torch.from_numpy(np.array(spectra, dtype=np.float64))).numpy()
