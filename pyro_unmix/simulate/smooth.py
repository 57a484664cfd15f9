"""A hard scene: variability and illumination smooth in space, few pure pixels, noise, clouds, irregular dates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.simulate.maps import Array, abundance_maps, random_streams, smooth_fields
from pyro_unmix.simulate.scaled import linear_interpolation, reference_signatures
from pyro_unmix.simulate.scene import ALL_ROWS, Scene, checked_sizes, observe

_NUM_KNOTS = 6
_LOG_ABUNDANCE_SCALE = 1.8  # few pixels are pure
_MEMORY = 0.9  # correlation of the fields over the median gap between dates
_GAPS = (3, 40)  # days between dates
_SMALLEST_SCALING = 0.1


@dataclass(frozen=True, eq=False)
class _Smooth:
    """M_nt(l, p) = M_0(l, p) (illumination of the pixel) (interpolation of the material's knots at l)."""

    reference: Array  # (L, P)
    illumination: npt.NDArray[np.float32]  # (T, y, x)
    knots: npt.NDArray[np.float32]  # (T, y, x, P, knot)

    def __call__(self, time: int, rows: slice = ALL_ROWS) -> Array:
        interpolation = linear_interpolation(len(self.reference), self.knots.shape[-1])
        scaling = self.knots[time, rows].astype(np.float64) @ interpolation.T
        scaling *= self.illumination[time, rows, :, None, None]
        return np.moveaxis(scaling, -1, -2) * self.reference


def smooth_scene(
    *,
    num_dates: int = 8,
    height: int = 50,
    width: int = 50,
    num_endmembers: int = 4,
    library: xr.DataArray | npt.ArrayLike | None = None,
    illumination_scale: float = 0.1,
    variability_scale: float = 0.1,
    snr_db: float = 25.0,
    cloud_fraction: float = 0.08,
    seed: int = 0,
) -> Scene:
    """A hard scene, whose variability neighbouring pixels and dates share.

    Endmember p of pixel n at date t is ``M_0[:, p] * b_nt * s_npt``. The illumination b_nt and the knots of the
    material's scaling s_npt, piecewise linear over the bands, are one plus Gaussian fields: smooth over the image,
    with a correlation length of 8 % of its side, and AR(1) over the days between the dates, which are irregular
    (correlation 0.9 over their median gap). Abundances drift with the days and jump in small rectangles; few pixels
    are pure. A scaling below 0.1 is set to 0.1.

    Parameters
    ----------
    num_dates, height, width, num_endmembers : int
        Sizes T, H, W, P; at least two materials.
    library : DataArray (wavelength, endmember) or array (L, S), optional
        Reference signatures, of which the first ``num_endmembers`` are taken; by default the
        built-in ones.
    illumination_scale, variability_scale : float
        Standard deviations of b_nt and of every knot.
    snr_db : float
        10 log10 of the mean square of the noise-free sequence over the noise variance; ``inf`` for
        no noise. The noise is white, Gaussian, and equally strong at all dates.
    cloud_fraction : float
        Share of each image that clouds hide, in [0, 1): those pixels are NaN in all bands.
    seed : int
        The scene is a function of the seed and the sizes; noise and clouds leave the truth as it
        is.

    Returns
    -------
    Scene
        ``cubes`` with dates as numpy datetimes, three to forty days apart.

    Raises
    ------
    ValueError, TypeError
        If a size, a scale, a share, the SNR or the library is not as stated.
    """
    num_dates, height, width = checked_sizes(num_dates, height, width)
    num_endmembers = positive_int(num_endmembers, "num_endmembers", minimum=2)
    illumination_scale = in_range(illumination_scale, "illumination_scale", low=0)
    variability_scale = in_range(variability_scale, "variability_scale", low=0)
    reference = reference_signatures(library, num_endmembers)
    streams = random_streams(seed)
    gaps = streams["bundles"].integers(*_GAPS, endpoint=True, size=max(num_dates - 1, 0))
    elapsed = gaps / np.median(gaps) if len(gaps) else gaps.astype(float)

    rng = streams["variability"]
    shade = _fields(rng, elapsed, 1, height, width)[:, 0]
    knots = _fields(rng, elapsed, num_endmembers * _NUM_KNOTS, height, width)
    knots = knots.reshape(num_dates, num_endmembers, _NUM_KNOTS, height, width)
    knots = np.moveaxis(knots, (1, 2), (3, 4))
    shape = (num_dates, height, width, num_endmembers)
    return observe(
        abundance_maps(
            streams["abundances"], shape, log_scale=_LOG_ABUNDANCE_SCALE, elapsed=elapsed
        ),
        reference,
        _Smooth(
            reference.values,
            np.maximum(1 + illumination_scale * shade, _SMALLEST_SCALING).astype(np.float32),
            np.maximum(1 + variability_scale * knots, _SMALLEST_SCALING).astype(np.float32),
        ),
        snr_db,
        cloud_fraction,
        streams,
        dates=np.datetime64("2020-01-01", "ns")
        + np.concatenate([[0], gaps.cumsum()]).astype("timedelta64[D]"),
    )


def _fields(rng: np.random.Generator, elapsed: Array, count: int, height: int, width: int) -> Array:
    """AR(1) sequences of smooth fields with variance one, (T, count, y, x)."""
    fields = [smooth_fields(rng, count, height, width)]
    for gap in elapsed:
        memory = _MEMORY**gap
        fresh = smooth_fields(rng, count, height, width)
        fields.append(memory * fields[-1] + np.sqrt(1 - memory**2) * fresh)
    return np.stack(fields)
