"""Maps of one quantity: abundances, their uncertainty, and change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_unmix.data.types import HasAbundances
from pyro_unmix.plots.grid import (
    ColourScale,
    Grid,
    draw_scalar_grid,
    material_grid,
    robust_scale,
    row_of_dates,
)
from pyro_unmix.plots.reading import (
    MAP_DIMS,
    choose_dates,
    missing_pixels,
    read_field,
    truth_maps,
)
from pyro_unmix.plots.style import AxesLike

#: Values so many times the 99th percentile are left out of the colours of a map.
_FAR = 1.5


def plot_abundances(
    result: HasAbundances | xr.DataArray,
    *,
    truth: HasAbundances | xr.DataArray | NDArray[np.floating] | None = None,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw abundance maps: one row per material, one column per date (paper, Figs. 5 and 11).

    Parameters
    ----------
    result
        Anything with `.abundances`, a DataArray ``(time, y, x, endmember)``, or that DataArray; `.valid`
        ``(time, y, x)``, when there, marks the missing pixel-dates, which are hatched.
    truth
        Known abundances: a DataArray with the same dims, a numpy array in that order, or anything
        with `.abundances`. Each material then has a second row. Materials go together by label
        when both sides have the same labels, else by position (match the endmembers first).
    dates
        Positions of the dates to draw. By default all, or `MAX_DATES` evenly spaced ones of a
        longer sequence; the titles then say which.
    names
        Names of the P materials; by default the labels of the `endmember` coordinate.
    axes
        Axes to draw into, as many as there are maps, in the order of the rows.

    Returns
    -------
    Figure
        With one date the materials lie side by side (one column each) instead.

    Raises
    ------
    TypeError, ValueError
        If `result` has no abundances, or shapes, labels, `dates` or the number of axes disagree.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> figure = pu.plots.plot_abundances(result, truth=scene)
    >>> len(figure.axes)  # 3 materials x 2 dates, twice, and the colour bar
    13
    """
    maps = read_field(result, "abundances", MAP_DIMS)
    sources = [("estimate", maps)]
    if truth is not None:
        sources.append(("truth", truth_maps(truth, maps)))
    grid = material_grid(sources, dates, names, missing_pixels(result, maps))
    return draw_scalar_grid(grid, axes, ColourScale("abundance (fraction)", "viridis"))


def plot_uncertainty(
    result: object,
    *,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw maps of the posterior standard deviation of the abundances.

    The colour bar runs from 0 to the 99th percentile of the values drawn: a few abrupt changes would leave everything
    else black. Larger values have the colour of its end, an arrow there points to them, and its label gives the
    largest. `dates`, `names`, `axes` and the layout are those of `plot_abundances`.

    Parameters
    ----------
    result
        Anything with `.abundances_std`, a DataArray ``(time, y, x, endmember)``.

    Raises
    ------
    ValueError
        If the standard deviation is NaN everywhere: the method has no posterior.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> result = pu.fit(model, guide, scene.cubes, num_steps=5, progress=False)
    >>> figure = pu.plots.plot_uncertainty(result)
    >>> len(figure.axes)
    7
    """
    std = read_field(result, "abundances_std", MAP_DIMS)
    if not np.isfinite(std.values).any():
        raise ValueError(
            "expected posterior standard deviations, got `.abundances_std` that is NaN everywhere: "
            "the method gives a point estimate only; use one with a posterior, such as "
            "`pyro_unmix.unmix` or `pyro_unmix.redsunn`"
        )
    grid = material_grid([("", std)], dates, names, missing_pixels(result, std))
    drawn = np.concatenate([image.ravel() for row in grid.images for image in row])
    return draw_scalar_grid(grid, axes, robust_scale("posterior std (fraction)", "magma", drawn))


def plot_rmse(
    result: Any, *, dates: Sequence[int] | None = None, axes: AxesLike | None = None
) -> Figure:
    """Draw maps of what the reconstruction leaves of the images, the RMSE over bands in reflectance.

    Where single values lie more than half above the 99th percentile, the colour bar ends there, see `plot_uncertainty`.

    Parameters
    ----------
    result
        Anything with `.rmse`, a DataArray ``(time, y, x)``.
    dates
        Positions of the dates to draw; by default all that have a value, at most `MAX_DATES`.
    axes
        Axes to draw into, one per date.

    Raises
    ------
    ValueError
        If it is NaN everywhere.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> pu.plots.plot_rmse(result).axes[-1].get_ylabel().split(chr(10))[0]
    'RMSE (reflectance)'
    """
    grid = _row_of(result, "rmse", dates)
    scale = robust_scale("RMSE (reflectance)", "magma", np.stack(grid.images[0]), beyond=_FAR)
    return draw_scalar_grid(grid, axes, scale)


def plot_change(
    result: Any, *, dates: Sequence[int] | None = None, axes: AxesLike | None = None
) -> Figure:
    """Draw maps of the change measure ``u_t = 1/2 ||s(M_{t-1}^+ y_t) - a_{t-1}||_1``, 0 to 1.

    Parameters
    ----------
    result
        Anything with `.change`, a DataArray ``(time, y, x)``, NaN at the first date.
    dates
        Positions of the dates to draw; by default all that have a value, at most `MAX_DATES`.
    axes
        Axes to draw into, one per date.

    Raises
    ------
    ValueError
        If there is no change to show, as with a single date.

    Notes
    -----
    ReDSUNN paper, eq. (44), without its division by P.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> result = pu.fit(model, guide, scene.cubes, num_steps=5, progress=False)
    >>> figure = pu.plots.plot_change(result)
    >>> [axes.get_title() for axes in figure.axes[:1]]
    ['t = 1']
    """
    grid = _row_of(result, "change", dates, "; a change needs at least two dates")
    return draw_scalar_grid(grid, axes, ColourScale("change $u_t$", "magma"))


def _row_of(result: Any, name: str, dates: Sequence[int] | None, advice: str = "") -> Grid:
    """Images of a field ``(time, y, x)`` at the dates that have a value, or at those asked for."""
    field = read_field(result, name, MAP_DIMS[:3])
    available = np.flatnonzero(np.isfinite(field.values).any(axis=(1, 2)))
    if not available.size:
        raise ValueError(
            f"expected `.{name}` with a value at some date, got NaN everywhere "
            f"({field.sizes['time']} date(s)){advice}"
        )
    shown, titles = choose_dates(dates, field, available)
    images = [field.values[t] for t in shown]
    return row_of_dates(images, shown, titles, field, missing_pixels(result, field))
