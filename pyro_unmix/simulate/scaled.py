"""The paper's first scene: signatures times random piecewise-linear factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.ops.checks import finite_array, positive_int
from pyro_unmix.simulate.maps import Array, abundance_maps, random_streams
from pyro_unmix.simulate.scene import ALL_ROWS, Scene, checked_sizes, observe
from pyro_unmix.simulate.signatures import coordinate, label_endmembers
from pyro_unmix.simulate.signatures import library as built_in_library

NUM_KNOTS = 6
_FIRST_SCALING = (0.85, 1.15)
_SCALING_STEP = 0.1
SMALLEST_SCALING = 0.1


@dataclass(frozen=True, eq=False)
class Scaled:
    """M_nt(l, p) = M_0(l, p) (illumination of the pixel) (linear interpolation of the material's knots at l)."""

    reference: Array  # (L, P)
    knots: npt.NDArray[np.float32]  # (T, y, x, P, knot)
    illumination: npt.NDArray[np.float32] | None = None  # (T, y, x); one without it

    def __call__(self, time: int, rows: slice = ALL_ROWS) -> Array:
        interpolation = linear_interpolation(len(self.reference), self.knots.shape[-1])
        scaling = self.knots[time, rows].astype(np.float64) @ interpolation.T
        if self.illumination is not None:
            scaling *= self.illumination[time, rows, :, None, None]
        return np.moveaxis(scaling, -1, -2) * self.reference


def scaled_scene(
    *,
    num_dates: int = 6,
    height: int = 50,
    width: int = 50,
    num_endmembers: int = 3,
    library: xr.DataArray | npt.ArrayLike | None = None,
    snr_db: float = 30.0,
    cloud_fraction: float = 0.0,
    seed: int = 0,
) -> Scene:
    """The paper's first scene: reference signatures with random piecewise-linear scaling.

    Endmember p of pixel n at date t is ``M_0[:, p] * s_npt``, where s_npt is piecewise linear over the bands: uniform
    in [0.85, 1.15] at the knots of the first date; each later date adds knots that are uniform in [-0.1, 0.1] (Sec.
    VI-A, first data sequence). A scaling that would fall below 0.1, which takes at least nine dates, is reflected
    there. Abundances are smooth maps that drift slowly and change abruptly in a few small rectangles at inner dates.

    Parameters
    ----------
    num_dates, height, width, num_endmembers : int
        Sizes T, H, W, P; at least two materials.
    library : DataArray (wavelength, endmember) or array (L, S), optional
        Reference signatures, of which the first ``num_endmembers`` are taken; by default the built-in ones.
    snr_db : float
        10 log10 of the mean square of the noise-free sequence over the noise variance; ``inf`` for
        no noise. The noise is white, Gaussian, and equally strong at all dates.
    cloud_fraction : float
        Share of each image that clouds hide, in [0, 1): those pixels are NaN in all bands.
    seed : int
        The scene is a function of the seed and the sizes; noise and clouds leave the truth as it is.

    Raises
    ------
    ValueError, TypeError
        If a size, a share, the SNR or the library is not as stated.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> dict(scene.cubes.sizes)
    {'time': 2, 'y': 10, 'x': 10, 'wavelength': 224}
    >>> float(scene.abundances.sum('endmember').mean().round(6))
    1.0
    """
    num_endmembers = positive_int(num_endmembers, "num_endmembers", minimum=2)
    shape = (*checked_sizes(num_dates, height, width), num_endmembers)
    reference = reference_signatures(library, num_endmembers)
    streams = random_streams(seed)
    knots = scaling_knots(streams["variability"], shape)
    return observe(
        abundance_maps(streams["abundances"], shape),
        reference,
        Scaled(reference.values, knots),
        snr_db,
        cloud_fraction,
        streams,
    )


def reference_signatures(
    spectra: xr.DataArray | npt.ArrayLike | None, num_endmembers: int
) -> xr.DataArray:
    """The first signatures of a library, as a float64 copy with names and wavelengths."""
    first: xr.DataArray | Array
    if spectra is None:
        spectra = built_in_library()
    if isinstance(spectra, xr.DataArray):
        # Fails in as_endmembers, with its error, where the dimension is missing.
        first = spectra.isel(endmember=slice(num_endmembers), missing_dims="ignore")
    else:
        first = finite_array(spectra, "library", ndim=2)[:, :num_endmembers]
    values = as_endmembers(first, name="library").copy()
    if values.shape[1] < num_endmembers:
        raise ValueError(
            f"library must hold num_endmembers={num_endmembers} spectra, got {values.shape[1]}: "
            "pass more spectra or a smaller num_endmembers"
        )
    return label_endmembers(values, coordinate(first, "endmember"), coordinate(first, "wavelength"))


def scaling_knots(
    rng: np.random.Generator, shape: tuple[int, int, int, int]
) -> npt.NDArray[np.float32]:
    """Knots (T, y, x, P, knot) of the scaling functions: a reflected random walk over dates."""
    knots = np.empty((*shape, NUM_KNOTS), dtype=np.float32)
    walk = rng.uniform(*_FIRST_SCALING, size=knots.shape[1:])
    knots[0] = walk
    for time in range(1, len(knots)):
        walk = walk + rng.uniform(-_SCALING_STEP, _SCALING_STEP, size=walk.shape)
        walk = SMALLEST_SCALING + np.abs(walk - SMALLEST_SCALING)
        knots[time] = walk
    return knots


def linear_interpolation(num_bands: int, num_knots: int) -> Array:
    """Matrix (L, knots) that interpolates knots over bands, both spread evenly over [0, 1]."""
    bands = np.linspace(0.0, 1.0, num_bands)
    places = np.linspace(0.0, 1.0, num_knots)
    return np.stack([np.interp(bands, places, unit) for unit in np.eye(num_knots)], axis=1)
