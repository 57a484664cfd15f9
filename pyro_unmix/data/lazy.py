"""Cubes in chunks: checked without being read, and cut into tiles."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import xarray as xr

from pyro_unmix.data.checks import plausible_reflectance
from pyro_unmix.data.cube_input import check_sizes, with_our_dims
from pyro_unmix.data.cubes import DIMS, as_cube_sequence, whole_spectra
from pyro_unmix.data.types import CubesLike
from pyro_unmix.ops.checks import positive_int


def is_lazy(cubes: object) -> TypeGuard[xr.DataArray]:
    """Whether `cubes` are a DataArray in chunks."""
    return isinstance(cubes, xr.DataArray) and cubes.chunks is not None


def as_cubes(cubes: CubesLike) -> xr.DataArray:
    """`as_lazy_cubes` of a DataArray in chunks, `as_cube_sequence` of anything else."""
    return as_lazy_cubes(cubes) if is_lazy(cubes) else as_cube_sequence(cubes)


def as_lazy_cubes(cubes: xr.DataArray, tile: int | None = None) -> xr.DataArray:
    """What `as_cube_sequence` returns, in chunks; their values are looked at when they are read.

    Parameters
    ----------
    cubes : DataArray
        As `as_cube_sequence` takes.
    tile : int, optional
        Side of the tiles in pixels; default the chunks that there are.

    Returns
    -------
    DataArray (time, y, x, wavelength)
        All dates and bands of a pixel in one chunk.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> cubes = pu.data.as_lazy_cubes(scene.cubes.chunk(y=5))
    >>> cubes.chunksizes['y'], cubes.chunksizes['time']
    ((5, 5), (2,))
    """
    if not isinstance(cubes, xr.DataArray):
        raise TypeError(
            f"cubes must be a DataArray, got {type(cubes).__name__}: as_cube_sequence(cubes) makes "
            "one"
        )
    cubes = with_our_dims(cubes)
    check_sizes(cubes, "cubes")
    corner = cubes.isel({dim: slice(0, 1) for dim in ("y", "x") if dim in cubes.dims})
    # Dims, dates, bands and type are checked on a corner of plausible values.
    checked = as_cube_sequence(corner.copy(data=np.full(corner.shape, 0.5).astype(cubes.dtype)))
    lazy = cubes if "time" in cubes.dims else cubes.expand_dims("time")
    lazy = lazy.transpose(*DIMS).rename("reflectance")
    lazy = lazy.assign_coords(
        {n: c for n, c in checked.coords.items() if not {"y", "x"} & set(c.dims)}
    )
    chunks: dict[Any, int] = {"time": -1, "wavelength": -1}
    if tile is not None:
        chunks |= {"y": positive_int(tile, "tile"), "x": tile}
    return lazy.chunk(chunks)


def tile_regions(cubes: xr.DataArray) -> list[tuple[slice, slice]]:
    """Rows and columns of every chunk, row by row."""
    edges = [np.cumsum([0, *cubes.chunksizes[dim]]).tolist() for dim in ("y", "x")]
    rows, columns = ([slice(*pair) for pair in pairwise(edge)] for edge in edges)
    return [(row, column) for row in rows for column in columns]


def without_fill(cubes: xr.DataArray) -> xr.DataArray:
    """Lazy cubes with zeros in all bands marked as missing, as `as_cube_sequence` does."""
    return cubes.where((cubes != 0).any("wavelength"))


def cleaned(tile: xr.DataArray) -> xr.DataArray:
    """`as_cube_sequence` of a tile, which unlike a scene may have no valid pixel."""
    values = np.ma.filled(tile.to_numpy(), np.nan)
    # Row by row: as a rule the first one has a valid pixel.
    if any((whole_spectra(row) & row.any(axis=-1)).any() for image in values for row in image):
        if np.fmax.reduce(values, axis=None) < 0:  # all in the shade, unlike the scene
            plausible_reflectance(values, whole_scene=False)
            return tile.copy(data=values)
        return as_cube_sequence(tile)
    return tile.copy(data=np.full_like(values, np.nan))
