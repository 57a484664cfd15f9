"""Non-negative least squares: fractions that need not sum to one while they are solved for."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.fcls import fcls
from pyro_unmix.mixing import Hapke
from pyro_unmix.posterior.result import Unmixing


def nnls(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    mixing: Hapke | None = None,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Abundances of every pixel-date by non-negative least squares, scaled to one.

    ``min_b ||y - M b||^2`` subject to ``b >= 0``, then ``a = b / 1'b``: `fcls` without its sum to one, so that the
    brightness ``1'b`` of every pixel is free. It is right where illumination and slope scale all materials of a pixel
    alike, and cannot tell a dark material from a bright one of the same shape in less light.

    Parameters
    ----------
    cubes, num_endmembers, endmembers, mixing, uncertainty, ignore, seed, progress
        As in `fcls`.

    Returns
    -------
    Unmixing
        As of `fcls`, with ``dataset["brightness"]``.

    Raises
    ------
    TypeError, ValueError
        As `fcls`.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> cubes = 1.3 * np.array([[[.25, .75]]]) @ M.T
    >>> result = pu.methods.nnls(cubes, endmembers=M, progress=False)
    >>> result.abundances.values.round(2).tolist(), result.dataset["brightness"].values.round(2).tolist()
    ([[[[0.25, 0.75]]]], [[[1.3]]])

    References
    ----------
    Lawson, Hanson, "Solving Least Squares Problems", 1974, ch. 23.
    """
    result = fcls(
        cubes, num_endmembers, endmembers=endmembers, sum_to_one=False,
        mixing=mixing, uncertainty=uncertainty, ignore=ignore, seed=seed, progress=progress,
    )  # fmt: skip
    return replace(result, method="nnls")
