"""A simulated sequence with its truth, and how it comes from abundances and endmembers."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.simulate.maps import Array, clouds

ALL_ROWS = slice(None)
_LARGEST_BLOCK = 2**20  # numbers in the endmembers that are held at once while mixing


class Variation(Protocol):
    """The true endmembers of one date and some rows of the image, (y, x, wavelength, endmember)."""

    def __call__(self, time: int, rows: slice = ...) -> Array: ...


@dataclass(frozen=True, eq=False)
class Scene:
    """A simulated sequence and its truth.

    The names are those of `Unmixing`, so that scores and plots read either.

    Attributes
    ----------
    cubes : DataArray (time, y, x, wavelength)
        Reflectance, float32; NaN where a cloud hides the pixel.
    abundances : DataArray (time, y, x, endmember)
        True abundances: not negative, sum to one; known under clouds as well.
    reference_endmembers : DataArray (wavelength, endmember)
        The spectra that the endmembers vary around.
    variation : callable
        Computes the endmembers of one date; read them through `endmembers`.
    noise_scale : float or None
        Standard deviation of the noise, in reflectance; None where the model drew the noise.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> scene.endmembers(time=1).dims
    ('y', 'x', 'wavelength', 'endmember')
    """

    cubes: xr.DataArray
    abundances: xr.DataArray
    reference_endmembers: xr.DataArray
    variation: Variation
    noise_scale: float | None = None

    @property
    def num_endmembers(self) -> int:
        """Number of materials, P."""
        return int(self.abundances.sizes["endmember"])

    def endmembers(self, time: int = 0) -> xr.DataArray:
        """True endmembers M_nt of every pixel at one date, (y, x, wavelength, endmember), computed at each call.

        The date is its position, negative ones from the last; IndexError where there is none.
        """
        num_dates = self.cubes.sizes["time"]
        position = operator.index(time)
        if not -num_dates <= position < num_dates:
            raise IndexError(
                f"time must be the position of a date, 0 to {num_dates - 1}, got {position}"
            )
        reference = self.reference_endmembers
        return xr.DataArray(
            self.variation(position % num_dates),
            dims=("y", "x", "wavelength", "endmember"),
            coords={name: reference[name] for name in reference.coords},
            name="endmembers",
        )

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        """The image of one date without noise and clouds, M_nt a_nt, (y, x, wavelength); dates as in `endmembers`."""
        endmembers = self.endmembers(time)
        abundances = self.abundances.isel(time=time, drop=True)
        mixed = mix(endmembers.values, abundances.values)
        return endmembers.isel(endmember=0, drop=True).copy(data=mixed).rename("reflectance")


def observe(
    abundances: Array,
    reference: xr.DataArray,
    variation: Variation,
    snr_db: float,
    cloud_fraction: float,
    streams: Mapping[str, np.random.Generator],
    dates: npt.NDArray[Any] | None = None,
) -> Scene:
    """Mix, add noise at the SNR of the whole sequence, hide what is under clouds."""
    if snr_db != math.inf:  # no noise
        snr_db = in_range(snr_db, "snr_db", low=-100.0)
    hidden = clouds(streams["clouds"], cloud_fraction, abundances.shape[:3])
    _, height, width, num_endmembers = abundances.shape
    cubes = np.empty((*abundances.shape[:3], reference.shape[0]), dtype=np.float32)
    step = max(1, _LARGEST_BLOCK // (width * reference.shape[0] * num_endmembers))
    power = 0.0
    for time, maps in enumerate(abundances):
        for first in range(0, height, step):
            rows = slice(first, first + step)
            mixed = mix(variation(time, rows), maps[rows])
            power += float(np.sum(mixed**2)) / cubes.size
            cubes[time, rows] = mixed
    noise_scale = math.sqrt(power * 10.0 ** (-snr_db / 10.0))
    if noise_scale > 0:
        for cube in cubes:
            cube += noise_scale * streams["noise"].standard_normal(cube.shape, dtype=np.float32)
    return assemble(cubes, abundances, reference, variation, hidden, noise_scale, dates)


def assemble(
    cubes: npt.NDArray[np.float32],
    abundances: Array,
    reference: xr.DataArray,
    variation: Variation,
    hidden: npt.NDArray[np.bool_],
    noise_scale: float | None,
    dates: npt.NDArray[Any] | None = None,
) -> Scene:
    cubes[hidden] = np.nan
    dates = np.arange(len(cubes)) if dates is None else dates
    bands = {"wavelength": reference["wavelength"]} if "wavelength" in reference.coords else {}
    return Scene(
        xr.DataArray(
            cubes,
            dims=("time", "y", "x", "wavelength"),
            coords={"time": dates, **bands},
            name="reflectance",
        ),
        xr.DataArray(
            abundances,
            dims=("time", "y", "x", "endmember"),
            coords={"time": dates, "endmember": reference["endmember"]},
            name="abundances",
        ),
        reference,
        variation,
        noise_scale,
    )


def mix(endmembers: Array, abundances: Array) -> Array:
    """M a for every pixel: (..., L, P) and (..., P) -> (..., L)."""
    return np.einsum("...lp,...p->...l", endmembers, abundances)


def checked_sizes(num_dates: int, height: int, width: int) -> tuple[int, int, int]:
    return (
        positive_int(num_dates, "num_dates"),
        positive_int(height, "height"),
        positive_int(width, "width"),
    )
