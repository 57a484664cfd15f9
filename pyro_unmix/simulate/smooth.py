"""A hard scene: variability and illumination smooth in space, few pure pixels, noise, clouds, irregular dates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.simulate.maps import Array, abundance_maps, random_streams, smooth_fields
from pyro_unmix.simulate.scaled import NUM_KNOTS, SMALLEST_SCALING, Scaled, reference_signatures
from pyro_unmix.simulate.scene import Scene, checked_sizes, observe

_LOG_ABUNDANCE_SCALE = 1.8  # few pixels are pure
_MEMORY = 0.9  # correlation of the fields over the median gap between dates
_GAPS = (3, 40)  # days between dates


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
    num_dates, height, width, num_endmembers, library
        As in `scaled_scene`.
    illumination_scale, variability_scale : float
        Standard deviations of b_nt and of every knot.
    snr_db, cloud_fraction, seed
        As in `scaled_scene`.

    Returns
    -------
    Scene
        ``cubes`` with dates as numpy datetimes, three to forty days apart.

    Raises
    ------
    ValueError, TypeError
        If a size, a scale, a share, the SNR or the library is not as stated.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.smooth_scene(num_dates=2, height=8, width=8, num_endmembers=3, seed=0)
    >>> dict(scene.abundances.sizes)
    {'time': 2, 'y': 8, 'x': 8, 'endmember': 3}
    """
    num_endmembers = positive_int(num_endmembers, "num_endmembers", minimum=2)
    shape = (*checked_sizes(num_dates, height, width), num_endmembers)
    illumination_scale = in_range(illumination_scale, "illumination_scale", low=0)
    variability_scale = in_range(variability_scale, "variability_scale", low=0)
    reference = reference_signatures(library, num_endmembers)
    streams = random_streams(seed)
    gaps = streams["bundles"].integers(*_GAPS, endpoint=True, size=max(num_dates - 1, 0))
    elapsed = gaps / np.median(gaps) if len(gaps) else gaps.astype(float)

    rng = streams["variability"]
    shade = _fields(rng, elapsed, 1, height, width)[:, 0]
    knots = _fields(rng, elapsed, num_endmembers * NUM_KNOTS, height, width)
    knots = knots.reshape(num_dates, num_endmembers, NUM_KNOTS, height, width)
    knots = np.moveaxis(knots, (1, 2), (3, 4))
    return observe(
        abundance_maps(
            streams["abundances"], shape, log_scale=_LOG_ABUNDANCE_SCALE, elapsed=elapsed
        ),
        reference,
        Scaled(
            reference.values,
            np.maximum(1 + variability_scale * knots, SMALLEST_SCALING).astype(np.float32),
            np.maximum(1 + illumination_scale * shade, SMALLEST_SCALING).astype(np.float32),
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
