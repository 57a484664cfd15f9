"""A part of a scene that does not fit into memory, from which a start can be chosen."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.ops.engine_lock import lent

logger = logging.getLogger(__name__)

NUM_BLOCKS = 16
SIDE = 32  # pixels
_GRID = 8  # places of blocks along y and x
_ENOUGH = 0.5  # of a block's pixel-dates


def spread_blocks(cubes: xr.DataArray, seed: int = 0) -> xr.DataArray:
    """Some blocks of 32 x 32 pixels from all over a scene, below each other as disjoint tiles, in memory.

    Of 8 x 8 evenly spread places, in random order, those are taken where at least half of the pixel-dates are observed,
    until there are 16; where there are none, those with the most.

    Parameters
    ----------
    cubes : DataArray (time, y, x, wavelength)
        In chunks, as `as_lazy_cubes` returns.
    seed : int
        Of the order of the places.

    Returns
    -------
    DataArray (time, y, x, wavelength)
        With the coordinate ``tile``; without coordinates of y and x.

    Raises
    ------
    ValueError
        If nothing is observed at any of the places.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> blocks = pu.start.spread_blocks(pu.data.as_lazy_cubes(scene.cubes.chunk(y=5)))
    >>> blocks.dims
    ('time', 'y', 'x', 'wavelength')
    """
    height, width = (min(SIDE, cubes.sizes[dim]) for dim in ("y", "x"))
    tops, lefts = (
        np.unique(np.linspace(0, cubes.sizes[dim] - side, _GRID).round().astype(int))
        for dim, side in (("y", height), ("x", width))
    )
    places = np.array([(top, left) for top in tops for left in lefts])
    blocks: list[tuple[float, np.ndarray]] = []
    for top, left in np.random.default_rng(seed).permutation(places):
        with lent():
            block = cubes.isel(y=slice(top, top + height), x=slice(left, left + width)).to_numpy()
        block = np.ma.filled(block, np.nan)
        observed = np.isfinite(block).all(-1) & block.any(-1)
        blocks.append((float(observed.mean()), block))
        if sum(share >= _ENOUGH for share, _ in blocks) == NUM_BLOCKS:
            break
    blocks.sort(key=lambda pair: -pair[0])
    chosen = [block for share, block in blocks[:NUM_BLOCKS] if share > 0]
    if not chosen:
        raise ValueError(
            f"none of {len(blocks)} blocks of {height} x {width} pixels all over the scene has an observed pixel: "
            "choose a start on a part that has some (choose_start), and fit(model, guide, cubes)"
        )
    logger.info("start: %d blocks of %d x %d pixels", len(chosen), height, width)
    rows = np.repeat(np.arange(len(chosen)), height)
    coords = {n: c for n, c in cubes.coords.items() if not {"y", "x"} & set(c.dims)}
    together = xr.DataArray(
        np.concatenate(chosen, axis=1), dims=("time", "y", "x", "wavelength"), coords=coords
    )
    return as_cube_sequence(together.assign_coords(tile=("y", rows)))
