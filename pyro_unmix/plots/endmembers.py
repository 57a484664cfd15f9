"""Fans of endmember spectra, over space and over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pyro_unmix.data.colours import material_colour
from pyro_unmix.data.types import HasSpectra
from pyro_unmix.plots.fans import FEW_BANDS, Fan, make_fan
from pyro_unmix.plots.reading import (
    MAP_DIMS,
    check_pixel,
    check_position,
    date_titles,
    first_observed,
    material_names,
    read_field,
)
from pyro_unmix.plots.style import (
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    AxesLike,
    Picture,
    add_legend,
    flat_axes,
    legend_height,
    material_panels,
    num_columns,
    plain,
    root_figure,
    wrap,
)


def plot_endmembers(
    result: HasSpectra,
    *,
    time: int | None = None,
    over: Literal["space", "time"] = "space",
    pixel: tuple[int, int] | None = None,
    truth: HasSpectra | xr.DataArray | None = None,
    num_spectra: int = 60,
    seed: int = 0,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw the endmembers of all pixels of one date as fans (paper, Figs. 6, 7 and 10, top).

    One panel per material: spectra of randomly drawn pixels (thin), median and 5-95 % band over the pixels, the
    reference endmember (bold) and the truth (dashed). Spectra are sorted by wavelength and broken at gaps wider than
    three median band spacings; those of fewer than 30 bands are not broken, and markers show the bands.

    Parameters
    ----------
    result
        Anything with `.abundances` and `.endmembers(time)`, a DataArray ``(y, x, wavelength, endmember)``;
        `.reference_endmembers` ``(wavelength, endmember)``, when there, is drawn too. Wavelengths in nm.
    time
        Position of the date; may be negative. By default the first date with a pixel that was observed.
    over
        ``"space"``: all pixels of date `time`. ``"time"``: all dates of one `pixel`, as `plot_endmembers_over_time`.
    pixel
        ``(y, x)`` of the pixel, only with ``over="time"``.
    truth
        Anything with `.endmembers(time)` (median and 5-95 % are dashed), or one set of spectra as
        a DataArray ``(wavelength, endmember)``. Materials go together as in `plot_abundances`.
    num_spectra
        How many thin lines at most. The band is that of at most `MAX_BAND_SPECTRA` pixels.
    seed
        Seed of the draw of pixels.
    names
        Names of the P materials; by default the labels of the `endmember` coordinate.
    axes
        P axes to draw into.

    Raises
    ------
    TypeError, ValueError
        If the result has no endmembers, or an argument does not fit it.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> figure = pu.plots.plot_endmembers(result, truth=scene)
    >>> [axes.get_title() for axes in figure.axes]
    ['vegetation', 'soil', 'water']
    """
    if over not in ("space", "time"):
        raise ValueError(f"expected over='space' or over='time', got {over!r}")
    if over == "space" and pixel is not None:
        raise ValueError(
            f"expected no pixel with over='space', got pixel={pixel!r}; "
            "use over='time' to follow one pixel over the dates"
        )
    maps = read_field(result, "abundances", MAP_DIMS)
    labels = material_names(maps, names)
    if over == "space":
        date = first_observed(result, maps)
        if time is not None:
            date = check_position(time, maps.sizes["time"], "time")
        where = "over space"
        where += f", {date_titles(maps)[date]}" if date_titles(maps)[date] else ""
        kind = "pixel"
    else:
        pixel = check_pixel((0, 0) if pixel is None else pixel, maps)
        date, kind = None, "date"
        where = f"over time, pixel (y, x) = ({pixel[0]}, {pixel[1]})"
        if maps.sizes["time"] == 1:
            where = f"of pixel (y, x) = ({pixel[0]}, {pixel[1]})"
    fan = make_fan(result, truth, maps, date, pixel, num_spectra, seed)
    return draw_fans(fan, labels, axes, title=f"endmembers {where}", kind=kind)


def plot_endmembers_over_time(
    result: HasSpectra,
    *,
    pixel: tuple[int, int] = (0, 0),
    truth: HasSpectra | xr.DataArray | None = None,
    num_spectra: int = 60,
    seed: int = 0,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw the endmembers of one pixel at all dates (paper, Figs. 6, 7 and 10, bottom).

    Parameters
    ----------
    pixel
        ``(y, x)`` of the pixel.
    result, truth, num_spectra, seed, names, axes
        As in `plot_endmembers`.

    Raises
    ------
    TypeError, ValueError
        As in `plot_endmembers`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> figure = pu.plots.plot_endmembers_over_time(result, pixel=(3, 4))
    >>> figure.get_suptitle()
    'endmembers over time, pixel (y, x) = (3, 4)'
    """
    return plot_endmembers(
        result,
        over="time",
        pixel=pixel,
        truth=truth,
        num_spectra=num_spectra,
        seed=seed,
        names=names,
        axes=axes,
    )


_BAND_ALPHA = 0.25
_CORE = (2, 98)  # percent of the values of a panel that are shown in any case
_REFERENCE_STYLE: dict[str, Any] = {"linewidth": 2.6, "label": "reference"}
_MEDIAN_STYLE: dict[str, Any] = {"linewidth": 1.2, "label": "median"}
# A white rim keeps the dashes visible where they lie on a line of any colour.
_TRUTH_STYLE: dict[str, Any] = {
    "linestyle": (0, (4, 2.5)),
    "color": "black",
    "path_effects": [withStroke(linewidth=3.0, foreground="white")],
}


def draw_fans(
    fan: Fan, names: list[str], axes: AxesLike | None, *, title: str, kind: str
) -> Figure:
    """Draw one panel per material."""
    num_materials = len(names)
    columns = num_columns(num_materials)
    rows = -(-num_materials // columns)
    handles = _fan_handles(fan, kind)
    new = axes is None
    if axes is None:
        width = max(3.3 * columns + 0.4, 7.0)
        height = 2.6 * rows + 0.4 + legend_height(handles, width)
        figure = Picture(figsize=(width, height), layout="constrained")
        figure.suptitle(plain(wrap(title, width)), fontsize=TITLE_SIZE + 1)
        add_legend(figure, handles)
        axes = material_panels(figure, num_materials)
    panels = flat_axes(axes, num_materials)
    for p, ax in enumerate(panels):
        _draw_fan(ax, fan, p)
        ax.set_title(plain(wrap(names[p], 3.0)), fontsize=TITLE_SIZE)
        ax.tick_params(labelsize=TICK_SIZE)
        if not new or p + columns >= num_materials:  # nothing below it
            ax.set_xlabel(fan.x_label, fontsize=LABEL_SIZE)
        if not new or p % columns == 0:
            ax.set_ylabel("reflectance", fontsize=LABEL_SIZE)
    if not new:
        panels[0].legend(handles=handles, fontsize=TICK_SIZE)
    return root_figure(panels[0])


def _draw_fan(ax: Axes, fan: Fan, p: int) -> None:
    """Draw one material: from the back, band, thin lines, reference, median, truth."""
    colour = material_colour(p)
    low, middle, high = fan.quantiles[..., p]
    alone = _alone(middle)
    marked = list(range(len(fan.x))) if len(fan.x) < FEW_BANDS else alone

    def line(y: NDArray[np.floating], **style: Any) -> None:
        size = 1.5 + style["linewidth"]
        ax.plot(fan.x, y, marker="o", markevery=marked, markersize=size, **style)

    ax.fill_between(fan.x, low, high, color=colour, alpha=_BAND_ALPHA, linewidth=0)
    if alone:
        ax.vlines(
            fan.x[alone], low[alone], high[alone], color=colour, alpha=_BAND_ALPHA, linewidth=6
        )
    alpha = float(np.clip(12 / len(fan.spectra), 0.2, 0.8))
    for spectrum in fan.spectra[..., p]:
        line(spectrum, color=colour, alpha=alpha, linewidth=0.6, label="_spectrum")
    if fan.reference is not None:
        line(fan.reference[:, p], color=colour, **_REFERENCE_STYLE)
    line(middle, color=_darken(colour), **_MEDIAN_STYLE)
    _limit(ax, fan, p)
    if fan.truth is not None:
        truth = fan.truth[..., p]
        line(truth[len(truth) // 2], linewidth=1.5, label="truth", **_TRUTH_STYLE)
        for edge in truth[[0, -1]] if len(truth) > 1 else []:
            line(edge, linewidth=0.8, label="_truth band", **_TRUTH_STYLE)


def _limit(ax: Axes, fan: Fan, p: int) -> None:
    """Leave values out that are far from all others and would flatten the spectra; a note says how far they reach.

    The truth is shown in any case.
    """
    parts = [fan.spectra, fan.quantiles, *([] if fan.reference is None else [fan.reference[None]])]
    values = np.concatenate([part[..., p].ravel() for part in parts])
    values = values[np.isfinite(values)]
    if not values.size:
        return
    low, high = np.percentile(values, _CORE)
    room = high - low
    beyond = int(np.count_nonzero((values < low - room) | (values > high + room)))
    if room <= 0 or not beyond:
        return
    inside = values[(values >= low - room) & (values <= high + room)]
    if fan.truth is not None:
        truth = fan.truth[..., p]
        inside = np.concatenate([inside, truth[np.isfinite(truth)]])
    if values.min() >= inside.min() and values.max() <= inside.max():
        return
    margin = 0.05 * (inside.max() - inside.min())
    ax.set_ylim(inside.min() - margin, inside.max() + margin)
    ax.annotate(
        f"reaches from {values.min():.2g} to {values.max():.2g}", (0.98, 0.96),
        xycoords="axes fraction", ha="right", va="top", fontsize=TICK_SIZE,
    )  # fmt: skip


def _alone(values: NDArray[np.floating]) -> list[int]:
    """Bands with a gap on both sides: a line cannot show them, a marker can."""
    there = np.pad(np.isfinite(values), 1)
    return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()


def _darken(colour: str) -> tuple[float, float, float]:
    red, green, blue = to_rgb(colour)
    return 0.5 * red, 0.5 * green, 0.5 * blue


def _fan_handles(fan: Fan, kind: str) -> list[Artist]:
    """Legend entries in neutral grey: they hold for every material's colour."""
    count = f"{len(fan.spectra)} of {fan.num_available} {kind}s"
    if len(fan.spectra) == fan.num_available:
        count = f"all {fan.num_available} {kind}s" if fan.num_available > 1 else f"1 {kind}"
    handles: list[Artist] = [
        Line2D([], [], color="0.5", linewidth=0.8, label=count),
        Patch(facecolor="0.5", alpha=_BAND_ALPHA, label="5\N{EN DASH}95 %"),
        Line2D([], [], color="0.25", **_MEDIAN_STYLE),
    ]
    if fan.reference is not None:
        handles.append(Line2D([], [], color="0.5", **_REFERENCE_STYLE))
    if fan.truth is not None:
        label = "truth" if len(fan.truth) == 1 else "truth: median, 5\N{EN DASH}95 %"
        handles.append(Line2D([], [], linewidth=1.5, label=label, **_TRUTH_STYLE))
    return handles
