"""What nonlinear and latent models add: maps of the degree of nonlinearity, and the latents of each material."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from pyro_unmix.data.types import HasAbundances, HasImages
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.plots.grid import draw_scalar_grid, robust_scale, row_of_dates
from pyro_unmix.plots.reading import (
    MAP_DIMS,
    check_position,
    choose_dates,
    date_titles,
    material_names,
    missing_pixels,
    read_field,
)
from pyro_unmix.plots.style import (
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    AxesLike,
    Picture,
    flat_axes,
    material_panels,
    num_columns,
    plain,
    root_figure,
    wrap,
)
from pyro_unmix.posterior.spectra import degree_of_nonlinearity

_LATENT_DIMS = ("time", "y", "x", "component", "endmember")
_PRIOR_STYLE: dict[str, Any] = {"fill": False, "edgecolor": "0.4", "linestyle": (0, (4, 2.5))}


def plot_nonlinearity(
    result: HasImages, *, dates: Sequence[int] | None = None, axes: AxesLike | None = None
) -> Figure:
    """Draw maps of the degree of nonlinearity ``||y - M a|| / (||M a|| + ||y - M a||)``, 0 to 1.

    See `degree_of_nonlinearity`. The colour bar ends at the largest value drawn, or at 1 if all are zero; single
    values far above the others are left out, as by `plot_rmse`.

    Parameters
    ----------
    result
        Anything with `.abundances`, `.endmembers(time)` and `.reconstruct(time)`.
    dates
        Positions of the dates to draw; by default all, at most `MAX_DATES`.
    axes
        Axes to draw into, one per date.

    Raises
    ------
    TypeError, ValueError
        If the result lacks one of those, or an argument does not fit it.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> figure = pu.plots.plot_nonlinearity(result)
    >>> len(figure.axes)
    3
    """
    maps = read_field(result, "abundances", MAP_DIMS)
    for name in ("endmembers", "reconstruct"):
        if not callable(getattr(result, name, None)):
            raise TypeError(
                f"expected a result with `.{name}(time)`, got {type(result).__name__} without it; "
                "pass what a fitting function returned"
            )
    shown, titles = choose_dates(dates, maps)
    images = [degree_of_nonlinearity(result, time).to_numpy() for time in shown]
    grid = row_of_dates(images, shown, titles, maps, missing_pixels(result, maps))
    scale = robust_scale("degree of nonlinearity", "magma", np.stack(images), beyond=1.5)
    return draw_scalar_grid(grid, axes, scale)


def plot_latents(
    result: HasAbundances,
    *,
    time: int = 0,
    components: tuple[int, int] = (0, 1),
    num_pixels: int = 2000,
    seed: int = 0,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw the latent variability of every pixel of one date: one scatter per material.

    A point is a pixel, its colour the abundance of the material there: where a material is absent the data say nothing
    of its latents. Circles are one and two standard deviations of the prior N(0, I) of `IDNet`, drawn for models
    with `latent_size`.

    Parameters
    ----------
    result
        Anything with `.abundances` and a `.dataset` with ``variability`` (time, y, x, component, endmember), such as
        what `idnet` returns.
    components
        Which two latent numbers are drawn. With only one there is, it is drawn against the abundance.
    num_pixels
        How many observed pixels at most.
    time, seed, names, axes
        As in `plot_endmembers`.

    Raises
    ------
    TypeError, ValueError
        If the result has no variability, or an argument does not fit it.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.idnet(scene.cubes[0, ..., ::8], num_endmembers=3, num_steps=5, progress=False)
    >>> figure = pu.plots.plot_latents(result)
    >>> len(figure.axes)
    4
    """
    maps = read_field(result, "abundances", MAP_DIMS)
    latents = _read_latents(result)
    date = check_position(time, maps.sizes["time"], "time")
    labels = material_names(maps, names)
    count = latents.sizes["component"]
    first, second = (check_position(k, max(count, 2), "components") for k in components)
    observed = np.flatnonzero(~missing_pixels(result, maps)[date].ravel())
    size = min(positive_int(num_pixels, "num_pixels"), len(observed))
    chosen = np.random.default_rng(seed).permutation(observed)[:size]
    fractions = maps.values[date].reshape(-1, len(labels))[chosen]
    z = latents.values[date].reshape(-1, count, len(labels))[chosen]
    points = np.stack([z[:, first], z[:, second] if count > 1 else fractions], axis=-1)
    y_label = f"$z_{{{second + 1}}}$" if count > 1 else "abundance (fraction)"
    circles = hasattr(getattr(result, "model", None), "latent_size") and count > 1
    panels, new = _panels(len(labels), axes)
    # the largest abundances last, on top
    for p, ax in enumerate(panels):
        order = np.argsort(fractions[:, p], kind="stable")
        _draw_scatter(ax, points[order, p], fractions[order, p], circles)
        ax.set_title(plain(wrap(labels[p], 3.0)), fontsize=TITLE_SIZE)
        ax.set_xlabel(f"$z_{{{first + 1}}}$", fontsize=LABEL_SIZE)
        ax.set_ylabel(y_label, fontsize=LABEL_SIZE)
    figure = root_figure(panels[0])
    bar = figure.colorbar(panels[0].collections[0], ax=panels)
    bar.set_label("abundance (fraction)", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    if new:
        title = f"latents of {size} of {maps[date, ..., 0].size} pixels"
        title += f", {date_titles(maps)[date]}" if date_titles(maps)[date] else ""
        figure.suptitle(title, fontsize=TITLE_SIZE + 1)
    return figure


def _read_latents(result: object) -> xr.DataArray:
    dataset = getattr(result, "dataset", None)
    if not isinstance(dataset, xr.Dataset) or "variability" not in dataset:
        raise TypeError(
            "expected a result with `variability` in its `.dataset`, got "
            f"{type(result).__name__} without it; pass what `idnet` or `unmix` returned"
        )
    return dataset["variability"].transpose(*_LATENT_DIMS)


def _panels(num_materials: int, axes: Any) -> tuple[list[Axes], bool]:
    """The axes to draw into, and whether they are of a figure of our own."""
    if axes is not None:
        return flat_axes(axes, num_materials), False
    columns = num_columns(num_materials)
    rows = -(-num_materials // columns)
    figure = Picture(figsize=(3.0 * columns + 1.0, 2.8 * rows + 0.4), layout="constrained")
    return material_panels(figure, num_materials), True


def _draw_scatter(
    ax: Axes, points: NDArray[np.floating], fractions: NDArray[np.floating], circles: bool
) -> None:
    x, y = points.T
    ax.scatter(x, y, c=fractions, s=6, cmap="viridis", vmin=0.0, vmax=1.0, linewidths=0)
    ax.tick_params(labelsize=TICK_SIZE)
    if circles:
        for radius in (1, 2):
            ax.add_patch(Circle((0, 0), radius, **_PRIOR_STYLE))
        ax.set_aspect("equal", adjustable="datalim")
