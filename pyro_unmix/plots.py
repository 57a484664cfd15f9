"""Pictures of a result: abundance maps, endmember fans, uncertainty, change and the loss.

Every function reads a result by the names of its attributes, so that it draws an `Unmixing` of
any method or, where it has the attribute, a simulated `Scene`. Each returns a matplotlib `Figure`
that `pyplot` does not know about: nothing has to be closed, a notebook shows it once, and
``figure.savefig(path)`` writes it. Give `axes` to draw into a figure of your own instead.

The pictures follow Figs. 5-7, 10 and 11 of Borsoi, Imbiriba, Closas, "Dynamical hyperspectral
unmixing with variational recurrent neural networks" (the ReDSUNN paper).
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

__all__ = [
    "MATERIAL_COLOURS",
    "plot_abundance_composite",
    "plot_abundances",
    "plot_change",
    "plot_endmembers",
    "plot_endmembers_over_time",
    "plot_losses",
    "plot_uncertainty",
]

# The eight colours of Okabe and Ito (2008). The order is ours: of their 56 triples, mixtures of
# orange, sky blue and black stay furthest apart (CIELAB, the worst of normal sight and simulated
# protanopia, deuteranopia and tritanopia), and the composite map mixes the first three.
MATERIAL_COLOURS: tuple[str, ...] = (
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#0072B2",  # blue
    "#D55E00",  # vermillion
    "#F0E442",  # yellow: last, it is the faintest on white
)

MAX_DATES = 8  # more columns than this are too small to read
MAX_BAND_SPECTRA = 10_000  # spectra behind the median and the 5-95 % band of a fan

_MAP_DIMS = ("time", "y", "x", "endmember")
_TITLE_SIZE, _LABEL_SIZE, _TICK_SIZE = 10, 10, 9
_NO_DATA_COLOUR = "0.85"
# In inches.
_MIN_WIDTH = 1.15  # of a panel: what a title such as "15 of 15 dates" takes
_BAR_THICKNESS = 0.18
_CHARACTER = 0.6 * _LABEL_SIZE / 72  # an average character of a label


# ---------------------------------------------------------------------------------------- maps


def plot_abundances(
    result: Any,
    *,
    truth: Any = None,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: Any = None,
) -> Figure:
    """Draw abundance maps: one row per material, one column per date (paper, Figs. 5 and 11).

    Parameters
    ----------
    result
        Anything with `.abundances`, a DataArray ``(time, y, x, endmember)``; `.valid`
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
    """
    maps = _field(result, "abundances", _MAP_DIMS)
    sources = [("estimate", maps)]
    if truth is not None:
        sources.append(("truth", _truth_maps(truth, maps)))
    grid = _material_grid(sources, dates, names, _missing(result, maps))
    return _draw_scalar_grid(grid, axes, "abundance (fraction)", vmax=1.0, cmap="viridis")


def plot_uncertainty(
    result: Any,
    *,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: Any = None,
) -> Figure:
    """Draw maps of the posterior standard deviation of the abundances.

    The colour bar runs from 0 to the largest value drawn. `dates`, `names`, `axes` and the layout
    are those of `plot_abundances`.

    Parameters
    ----------
    result
        Anything with `.abundances_std`, a DataArray ``(time, y, x, endmember)``.

    Raises
    ------
    ValueError
        If the standard deviation is NaN everywhere: the method has no posterior.
    """
    std = _field(result, "abundances_std", _MAP_DIMS)
    if not np.isfinite(std.values).any():
        raise ValueError(
            "expected posterior standard deviations, got `.abundances_std` that is NaN everywhere: "
            "the method gives a point estimate only; use one with a posterior, such as "
            "`pyro_unmix.unmix` or `pyro_unmix.redsunn`"
        )
    grid = _material_grid([("", std)], dates, names, _missing(result, std))
    drawn = np.concatenate([image.ravel() for row in grid.images for image in row])
    drawn = drawn[np.isfinite(drawn)]
    # A bar from 0 to 0 cannot be drawn; a std of exactly 0 everywhere keeps the unit range.
    vmax = float(drawn.max()) if drawn.size and drawn.max() > 0 else 1.0
    return _draw_scalar_grid(grid, axes, "posterior std (fraction)", vmax=vmax, cmap="magma")


def plot_change(result: Any, *, dates: Sequence[int] | None = None, axes: Any = None) -> Figure:
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
    """
    change = _field(result, "change", _MAP_DIMS[:3])
    known = np.flatnonzero(np.isfinite(change.values).any(axis=(1, 2)))
    if not known.size:
        raise ValueError(
            "expected `.change` with a value at some date, got NaN everywhere "
            f"({change.sizes['time']} date(s)); a change needs at least two dates"
        )
    shown, titles = _choose_dates(dates, change, available=known)
    missing = _missing(result, change)
    grid = _Grid(
        images=[[change.values[t] for t in shown]],
        missing=[[missing[t] for t in shown]],
        row_labels=[""],
        column_titles=titles,
        tile_edges=_tile_edges(change),
    )
    return _draw_scalar_grid(grid, axes, "change $u_t$", vmax=1.0, cmap="magma")


def plot_abundance_composite(
    result: Any,
    *,
    truth: Any = None,
    materials: Sequence[int | str] | None = None,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: Any = None,
) -> Figure:
    """Draw up to three materials in one colour map per date (paper, Fig. 5).

    A pixel has the colour ``sum_p a_p colour_p``, with the first three of `MATERIAL_COLOURS`, which
    stay apart for colour-blind readers; the share of the materials left out is white.

    Parameters
    ----------
    result, truth, dates, names, axes
        As in `plot_abundances`; the truth is a second row.
    materials
        Up to three materials, by position or by name; by default the first three.

    Raises
    ------
    TypeError, ValueError
        As in `plot_abundances`, and for unknown, repeated or more than three materials.
    """
    maps = _field(result, "abundances", _MAP_DIMS)
    labels = _material_names(maps, names)
    chosen = _choose_materials(materials, labels)
    sources = [("estimate", maps)]
    if truth is not None:
        sources.append(("truth", _truth_maps(truth, maps)))
    shown, titles = _choose_dates(dates, maps)
    missing = _missing(result, maps)
    nothing = np.zeros_like(missing)
    grid = _Grid(
        images=[
            [_mix_colours(source.values[t][..., chosen]) for t in shown] for _, source in sources
        ],
        missing=[[mask[t] for t in shown] for mask in [missing, nothing][: len(sources)]],
        row_labels=[kind if len(sources) > 1 else "" for kind, _ in sources],
        column_titles=titles,
        tile_edges=_tile_edges(maps),
    )
    handles: list[Artist] = [
        Patch(facecolor=colour, edgecolor="0.3", label=labels[p])
        for p, colour in zip(chosen, MATERIAL_COLOURS, strict=False)
    ]
    if len(chosen) < len(labels):
        handles.append(Patch(facecolor="white", edgecolor="0.3", label="other materials"))
    handles += _missing_handles(grid)
    panels, own = _draw_grid(grid, axes, handles)
    if not own:  # inside the axes it would cover a map
        panels[len(shown) - 1].legend(
            handles=handles, fontsize=_TICK_SIZE, loc="upper left", bbox_to_anchor=(1.02, 1.0)
        )
    return _root_figure(panels[0])


# ---------------------------------------------------------------------------------- endmembers


def plot_endmembers(
    result: Any,
    *,
    time: int = 0,
    over: Literal["space", "time"] = "space",
    pixel: tuple[int, int] | None = None,
    truth: Any = None,
    num_spectra: int = 60,
    seed: int = 0,
    names: Sequence[str] | None = None,
    axes: Any = None,
) -> Figure:
    """Draw the endmembers of all pixels of one date as fans (paper, Figs. 6, 7 and 10, top).

    One panel per material: spectra of randomly drawn pixels (thin), median and 5-95 % band over
    the pixels, the reference endmember (bold) and the truth (dashed). Spectra are sorted by
    wavelength and broken at gaps wider than three median band spacings.

    Parameters
    ----------
    result
        Anything with `.abundances` and `.endmembers(time)`, a DataArray
        ``(y, x, wavelength, endmember)``; `.reference_endmembers` ``(wavelength, endmember)``,
        when there, is drawn too. Wavelengths in nm.
    time
        Position of the date; may be negative.
    over
        ``"space"``: all pixels of date `time`. ``"time"``: all dates of one `pixel`, as
        `plot_endmembers_over_time`.
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
    """
    if over not in ("space", "time"):
        raise ValueError(f"expected over='space' or over='time', got {over!r}")
    if over == "space" and pixel is not None:
        raise ValueError(
            f"expected no pixel with over='space', got pixel={pixel!r}; "
            "use over='time' to follow one pixel over the dates"
        )
    maps = _field(result, "abundances", _MAP_DIMS)
    labels = _material_names(maps, names)
    if over == "space":
        date = _position(time, maps.sizes["time"], "time")
        where = f"over space, {_date_titles(maps)[date]}"
        kind = "pixel"
    else:
        pixel = _check_pixel((0, 0) if pixel is None else pixel, maps)
        date, kind = None, "date"
        where = f"over time, pixel (y, x) = ({pixel[0]}, {pixel[1]})"
    fan = _make_fan(result, truth, maps, date, pixel, num_spectra, seed)
    return _draw_fans(fan, labels, axes, title=f"endmembers {where}", kind=kind)


def plot_endmembers_over_time(
    result: Any,
    *,
    pixel: tuple[int, int] = (0, 0),
    truth: Any = None,
    num_spectra: int = 60,
    seed: int = 0,
    names: Sequence[str] | None = None,
    axes: Any = None,
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


# ---------------------------------------------------------------------------------------- loss


def plot_losses(result: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the loss, -ELBO per observed value, over the optimiser's steps.

    The raw values are light, their running median (2 % of the steps, at least 5) is bold. Where
    the first steps are far above the rest, the axis leaves them out and a note says so.

    Parameters
    ----------
    result
        Anything with `.losses`, one value per step (nats).
    ax
        Axes to draw into.

    Raises
    ------
    ValueError
        If there are no losses: the method does not train.
    """
    losses = np.asarray(getattr(result, "losses", None), dtype=float)
    if losses.ndim != 1 or not np.isfinite(losses).any():
        raise ValueError(
            "expected `.losses` with one finite value or more, got "
            f"{'none' if losses.size == 0 or losses.ndim == 0 else f'shape {losses.shape}'}; "
            "only methods trained step by step have losses"
        )
    if ax is None:
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        ax = figure.subplots()
    steps = np.arange(1, losses.size + 1)
    window = max(5, losses.size // 50) | 1  # odd
    smooth = _running_median(losses, window)
    colour = MATERIAL_COLOURS[5]
    # A one-step run has no line, only a point.
    marker = "o" if losses.size == 1 else None
    raw: dict[str, Any] = {"alpha": 0.35, "linewidth": 0.8, "marker": marker, "label": "each step"}
    ax.plot(steps, losses, color=colour, **raw)
    ax.plot(steps, smooth, color=colour, linewidth=1.8, label=f"running median ({window} steps)")
    _limit_losses(ax, losses, smooth)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step", fontsize=_LABEL_SIZE)
    ax.set_ylabel("\N{MINUS SIGN}ELBO per observed value (nats)", fontsize=_LABEL_SIZE)
    ax.tick_params(labelsize=_TICK_SIZE)
    ax.legend(fontsize=_TICK_SIZE, loc="upper right")
    return _root_figure(ax)


def _running_median(values: NDArray[np.floating], window: int) -> NDArray[np.floating]:
    """Centred running median of the finite values; the window is cut off at both ends."""
    half = window // 2
    padded = np.pad(values, half, constant_values=np.nan)
    padded[~np.isfinite(padded)] = np.nan
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    smooth = np.full(values.shape, np.nan)
    some = np.isfinite(windows).any(axis=1)  # an all-NaN window would warn
    smooth[some] = np.nanmedian(windows[some], axis=1)
    return smooth


def _limit_losses(ax: Axes, losses: NDArray[np.floating], smooth: NDArray[np.floating]) -> None:
    """Leave a steep start out of the y axis, so that the rest can be read; say so on the axes."""
    finite = losses[np.isfinite(losses)]
    settled = smooth[losses.size // 20 :]
    settled = settled[np.isfinite(settled)]
    if settled.size < 10:
        return
    low, high = float(min(finite.min(), settled.min())), float(settled.max())
    if high <= low or finite.max() - low < 5 * (high - low):
        return
    top = high + 0.25 * (high - low)
    ax.set_ylim(low - 0.05 * (high - low), top)
    note = f"{int((finite > top).sum())} values up to {finite.max():.3g} not shown"
    ax.text(0.02, 0.02, note, transform=ax.transAxes, fontsize=_TICK_SIZE, ha="left", va="bottom")


# ------------------------------------------------------------------------- reading the result


def _field(source: Any, name: str, dims: tuple[str, ...]) -> xr.DataArray:
    """Attribute `name` as a DataArray in the order of `dims`, or an error that says what came."""
    value = getattr(source, name, None)
    if value is None:
        raise TypeError(
            f"expected a result with `.{name}`, got {type(source).__name__} without it; "
            "pass what a fitting function returned (or a simulated scene)"
        )
    if not isinstance(value, xr.DataArray) or set(value.dims) != set(dims):
        got = value.dims if isinstance(value, xr.DataArray) else type(value).__name__
        raise ValueError(f"expected `.{name}` as a DataArray with dims {dims}, got {got}")
    return value.transpose(*dims)


def _missing(result: Any, maps: xr.DataArray) -> NDArray[np.bool_]:
    """Missing pixel-dates ``(time, y, x)``: not `.valid`; none when that is not known."""
    valid = getattr(result, "valid", None)
    shape = maps.shape[:3]
    if valid is None:
        return np.zeros(shape, dtype=bool)
    if isinstance(valid, xr.DataArray):
        valid = valid.transpose("time", "y", "x").values
    valid = np.asarray(valid, dtype=bool)
    if valid.shape != shape:
        raise ValueError(f"expected `.valid` of shape {shape} (time, y, x), got {valid.shape}")
    return ~valid


def _truth_maps(truth: Any, maps: xr.DataArray) -> xr.DataArray:
    """Known abundances in the shape and the order of materials of `maps`."""
    if isinstance(truth, np.ndarray):
        if truth.shape != maps.shape:
            raise ValueError(
                f"expected truth of shape {maps.shape} (time, y, x, endmember), got {truth.shape}"
            )
        return maps.copy(data=truth)
    if isinstance(truth, xr.DataArray):
        if set(truth.dims) != set(_MAP_DIMS):
            raise ValueError(f"expected truth with dims {_MAP_DIMS}, got {truth.dims}")
        known = truth.transpose(*_MAP_DIMS)
    else:
        known = _field(truth, "abundances", _MAP_DIMS)
    if known.shape != maps.shape:
        raise ValueError(
            f"expected truth of shape {maps.shape} (time, y, x, endmember), got {known.shape}"
        )
    return _align_materials(known, maps)


def _align_materials(truth: xr.DataArray, maps: xr.DataArray) -> xr.DataArray:
    """Order the truth's materials as the result's: by label when both have the same ones."""
    unlabelled = "endmember" not in maps.coords or "endmember" not in truth.coords
    ours, theirs = _labels(maps), _labels(truth)
    if len(ours) != len(theirs):
        raise ValueError(
            f"expected truth with {len(ours)} materials {ours}, got {len(theirs)}: {theirs}"
        )
    if unlabelled:
        return truth
    if set(ours) == set(theirs) and len(set(ours)) == len(ours):
        return truth.isel(endmember=[theirs.index(label) for label in ours])
    if set(ours) & set(theirs):
        # By position, a material could be set beside another one that the result has too.
        raise ValueError(
            f"expected truth with the materials {ours}, or with all other labels (then matched by "
            f"position), got {theirs}; rename the materials of one of them"
        )
    return truth


def _labels(maps: xr.DataArray) -> list[Hashable]:
    """Labels of the materials; positions when there is no `endmember` coordinate."""
    if "endmember" in maps.coords:
        return list(maps.coords["endmember"].values.tolist())
    return list(range(maps.sizes["endmember"]))


def _material_names(maps: xr.DataArray, names: Sequence[str] | None) -> list[str]:
    """Names to print, one per material."""
    if names is None:
        return [
            label if isinstance(label, str) else f"endmember {label}" for label in _labels(maps)
        ]
    if isinstance(names, str) or len(names) != maps.sizes["endmember"]:
        raise ValueError(
            f"expected {maps.sizes['endmember']} names, one per material, got {names!r}"
        )
    return [str(name) for name in names]


def _choose_materials(materials: Sequence[int | str] | None, labels: list[str]) -> list[int]:
    """Positions of the materials of a composite map."""
    if materials is None:
        return list(range(min(3, len(labels))))
    chosen = []
    for material in [materials] if isinstance(materials, str) else list(materials):
        if isinstance(material, str):
            if material not in labels:
                raise ValueError(f"expected materials among {labels}, got {material!r}")
            chosen.append(labels.index(material))
        else:
            chosen.append(_position(material, len(labels), "materials"))
    if not 1 <= len(chosen) <= 3 or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"expected one to three different materials, got {list(materials)!r}; "
            "draw the others with a second call, or all of them with plot_abundances"
        )
    return chosen


def _position(value: Any, size: int, name: str) -> int:
    """A position below `size`, counted from the end when negative."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected {name} as integer positions, got {value!r}")
    if not -size <= value < size:
        raise ValueError(f"expected {name} between {-size} and {size - 1}, got {value}")
    return int(value) % size


def _check_pixel(pixel: Any, maps: xr.DataArray) -> tuple[int, int]:
    if not isinstance(pixel, (tuple, list)) or len(pixel) != 2:
        raise ValueError(f"expected pixel as (y, x), got {pixel!r}")
    y = _position(pixel[0], maps.sizes["y"], "pixel y")
    return y, _position(pixel[1], maps.sizes["x"], "pixel x")


def _date_titles(maps: xr.DataArray) -> list[str]:
    """One title per date: the ISO date (with the time of day if needed), else "t = value"."""
    if "time" not in maps.coords:
        return [f"t = {position}" for position in range(maps.sizes["time"])]
    values = maps.coords["time"].values
    if np.issubdtype(values.dtype, np.datetime64):
        days = np.datetime_as_string(values, unit="D").tolist()
        if len(set(days)) == len(days):
            return days
        # Several images of one day: its date alone would not tell them apart.
        return [text.replace("T", "\n") for text in np.datetime_as_string(values, unit="m")]
    if np.issubdtype(values.dtype, np.number):
        return [f"t = {value:.10g}" for value in values.tolist()]
    return [str(value) for value in values.tolist()]


def _choose_dates(
    dates: Sequence[int] | None, maps: xr.DataArray, available: NDArray[np.integer] | None = None
) -> tuple[list[int], list[str]]:
    """Positions of the dates to draw and their titles."""
    total = maps.sizes["time"]
    titles = _date_titles(maps)
    if dates is not None:
        values = [dates] if isinstance(dates, (int, np.integer)) else list(dates)
        if not values:
            raise ValueError("expected at least one position in dates, got none")
        shown = [_position(date, total, "dates") for date in values]
        return shown, [titles[t] for t in shown]
    known = np.arange(total) if available is None else available
    if known.size <= MAX_DATES:
        return known.tolist(), [titles[t] for t in known]
    picked = known[np.round(np.linspace(0, known.size - 1, MAX_DATES)).astype(int)]
    return picked.tolist(), [f"{titles[t]}\n{t + 1} of {total} dates" for t in picked]


def _tile_edges(maps: xr.DataArray) -> list[float]:
    """Rows between two tiles, in image coordinates."""
    if "tile" not in maps.coords or maps.coords["tile"].dims != ("y",):
        return []
    tile = maps.coords["tile"].values
    return (np.flatnonzero(tile[1:] != tile[:-1]) + 0.5).tolist()


# ------------------------------------------------------------------------------ drawing maps


@dataclass(frozen=True)
class _Grid:
    """Images in rows and columns: what to draw, before any figure is there."""

    images: list[list[NDArray[np.floating]]]
    missing: list[list[NDArray[np.bool_]]]
    row_labels: list[str]
    column_titles: list[str]
    tile_edges: list[float]

    @property
    def any_missing(self) -> bool:
        return any(mask.any() for row in self.missing for mask in row)


def _material_grid(
    sources: list[tuple[str, xr.DataArray]],
    dates: Sequence[int] | None,
    names: Sequence[str] | None,
    missing: NDArray[np.bool_],
) -> _Grid:
    """Materials (and estimate, truth) down, dates across; with one date materials across."""
    maps = sources[0][1]
    labels = _material_names(maps, names)
    shown, titles = _choose_dates(dates, maps)
    nothing = np.zeros_like(missing)
    masks = [missing, *[nothing] * (len(sources) - 1)]  # the truth misses nothing
    several = len(sources) > 1
    pairs = list(zip(sources, masks, strict=True))
    materials = range(len(labels))
    if len(shown) == 1:
        t = shown[0]
        return _Grid(
            images=[[source.values[t, ..., p] for p in materials] for (_, source), _ in pairs],
            missing=[[mask[t] for _ in materials] for _, mask in pairs],
            row_labels=[f"{kind}\n{titles[0]}" if several else titles[0] for kind, _ in sources],
            column_titles=labels,
            tile_edges=_tile_edges(maps),
        )
    return _Grid(
        images=[
            [source.values[t, ..., p] for t in shown] for p in materials for (_, source), _ in pairs
        ],
        missing=[[mask[t] for t in shown] for _ in materials for _, mask in pairs],
        row_labels=[
            f"{label}\n{kind}" if several else label for label in labels for kind, _ in sources
        ],
        column_titles=titles,
        tile_edges=_tile_edges(maps),
    )


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches of the panels of a grid, and where its colour bar goes."""

    width: float
    height: float
    square: bool  # whether pixels are drawn square
    compressed: bool  # whether the panels fill their cells, so that gaps can be closed

    @classmethod
    def of(cls, grid: _Grid) -> _Layout:
        """Fit the grid into about 11 by 11 inches, more when the panels would become too small.

        Very long images (a row of 300 pixels, a pile of tiles) are stretched to a ratio of 6.
        """
        rows, columns = len(grid.images), len(grid.images[0])
        image = grid.images[0][0]
        ratio = float(np.clip(image.shape[0] / image.shape[1], 1 / 6, 6))
        width = float(np.clip(11 / columns, _MIN_WIDTH, 3.0))
        height = float(np.clip(width * ratio, 0.6, np.clip(11 / rows, 1.2, 4.0)))
        width = min(width, height / ratio)
        return cls(
            width=max(width, _MIN_WIDTH),
            height=height,
            square=1 / 6 <= image.shape[0] / image.shape[1] <= 6,
            # Narrow panels keep their wide cells: titles of neighbours would overlap otherwise.
            compressed=width >= _MIN_WIDTH,
        )

    def bar_is_upright(self, rows: int) -> bool:
        """Beside a low row of maps an upright bar would be shorter than its own label."""
        return rows * self.height >= 2.0


def _grid_figure(grid: _Grid, layout: _Layout, handles: list[Artist], *, bar: bool) -> Figure:
    """An empty figure with room for the panels and everything around them."""
    rows, columns = len(grid.images), len(grid.images[0])
    upright = layout.bar_is_upright(rows)
    beside = _row_label_style(grid, layout)[1] + (0.8 if bar and upright else 0.0)
    width = columns * (layout.width + 0.06) + beside + 0.1
    titles = max(len(_lines(title, layout.width)) for title in grid.column_titles)
    below = _legend_height(handles, width) + (0.75 if bar and not upright else 0.0)
    height = rows * (layout.height + 0.06) + 0.2 * titles + 0.1 + below
    # The compressed layout closes the gaps that square pixels leave between the panels.
    return Figure(
        figsize=(width, height), layout="compressed" if layout.compressed else "constrained"
    )


def _row_label_style(grid: _Grid, layout: _Layout) -> tuple[dict[str, Any], float]:
    """How the row labels are turned, and the width in inches that they take."""
    labels = [_lines(label, layout.height) for label in grid.row_labels]
    longest = max(len(line) for lines in labels for line in lines) * _CHARACTER
    if longest == 0:
        return {}, 0.0
    if longest <= layout.height:
        return {}, 0.1 + 0.2 * max(map(len, labels))
    # Upright, they would run into the next row.
    return {"rotation": 0, "ha": "right", "va": "center"}, 0.1 + longest


def _draw_grid(
    grid: _Grid,
    axes: Any,
    handles: list[Artist],
    *,
    cmap: Colormap | None = None,
    vmax: float = 1.0,
) -> tuple[list[Axes], bool]:
    """Draw the images, titles, row labels, tile edges and marks of missing pixels.

    A new figure, when no axes are given, also gets the legend of `handles`.
    """
    rows, columns = len(grid.images), len(grid.images[0])
    layout = _Layout.of(grid)
    own = axes is None
    if own:
        figure = _grid_figure(grid, layout, handles, bar=cmap is not None)
        axes = figure.subplots(rows, columns, squeeze=False)
        _add_legend(figure, handles)
    panels = _flat_axes(axes, rows * columns)
    turn, _ = _row_label_style(grid, layout)
    for index, ax in enumerate(panels):
        row, column = divmod(index, columns)
        ax.imshow(
            grid.images[row][column],
            cmap=cmap,
            vmin=0.0,
            vmax=vmax,
            interpolation="nearest",
            aspect="equal" if layout.square else "auto",
        )
        ax.set_xticks([])
        ax.set_yticks([])
        _mark_tiles(ax, grid.tile_edges)
        _mark_missing(ax, grid.missing[row][column])
        if row == 0:
            ax.set_title(_wrap(grid.column_titles[column], layout.width), fontsize=_TITLE_SIZE)
        if column == 0:
            label = _wrap(grid.row_labels[row], layout.height)
            ax.set_ylabel(label, fontsize=_LABEL_SIZE, **turn)
    return panels, own


def _draw_scalar_grid(grid: _Grid, axes: Any, label: str, *, vmax: float, cmap: str) -> Figure:
    """Draw maps of one quantity with one colour bar for all of them."""
    colours = mpl.colormaps[cmap].with_extremes(bad=_NO_DATA_COLOUR)
    panels, _ = _draw_grid(grid, axes, _missing_handles(grid), cmap=colours, vmax=vmax)
    rows, columns = len(grid.images), len(grid.images[0])
    layout = _Layout.of(grid)
    upright = layout.bar_is_upright(rows)
    down, across = rows * layout.height, columns * layout.width
    length, depth = (down, across) if upright else (0.6 * across, down)
    bar = panels[0].figure.colorbar(
        panels[0].images[0],
        ax=panels,
        location="right" if upright else "bottom",
        shrink=1.0 if upright else 0.6,
        fraction=_BAR_THICKNESS / depth,
        aspect=length / _BAR_THICKNESS,
        pad=0.08 / depth,
    )
    bar.set_label(label, fontsize=_LABEL_SIZE)
    bar.ax.tick_params(labelsize=_TICK_SIZE)
    return _root_figure(panels[0])


def _mark_tiles(ax: Axes, edges: list[float]) -> None:
    """Draw a white line with a black rim, visible on any colour, between two tiles."""
    rim = withStroke(linewidth=2.0, foreground="black")
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=0.8, path_effects=[rim])


def _mark_missing(ax: Axes, missing: NDArray[np.bool_]) -> None:
    """Hatch the missing pixels and draw a grey outline around them."""
    if not missing.any():
        return
    ax.add_patch(PathPatch(_missing_area(missing), linewidth=0, **_MISSING_STYLE))
    outline = LineCollection(
        _missing_outline(missing), colors="0.4", linewidths=0.7, capstyle="projecting"
    )
    ax.add_collection(outline, autolim=False)


def _missing_area(missing: NDArray[np.bool_]) -> Path:
    """One path of closed rectangles, one per run of missing pixels in a row."""
    steps = np.diff(np.pad(missing, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    left, right, top, bottom = starts - 0.5, ends - 0.5, rows - 0.5, rows + 0.5
    x = np.stack([left, right, right, left, left], axis=1)
    y = np.stack([top, top, bottom, bottom, top], axis=1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(np.stack([x, y], axis=-1).reshape(-1, 2), np.tile(codes, len(rows)))


def _missing_outline(missing: NDArray[np.bool_]) -> list[NDArray[np.floating]]:
    """Sides between a missing pixel and one that is not, or the edge of the image."""
    padded = np.pad(missing, 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    across = np.stack([columns - 0.5, rows - 0.5, columns + 0.5, rows - 0.5], axis=-1)
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = np.stack([columns - 0.5, rows - 0.5, columns - 0.5, rows + 0.5], axis=-1)
    return list(np.concatenate([across, down]).reshape(-1, 2, 2))


_MISSING_STYLE: dict[str, Any] = {
    "facecolor": (1.0, 1.0, 1.0, 0.35),
    "edgecolor": "0.25",
    "hatch": "/////",
}


def _missing_handles(grid: _Grid) -> list[Artist]:
    """Legend entry of the hatching, when there is any."""
    if not grid.any_missing:
        return []
    return [Patch(label="no valid data", linewidth=0.5, **_MISSING_STYLE)]


def _mix_colours(shares: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour ``sum_p a_p colour_p + (1 - sum_p a_p) white`` of shape ``(y, x, 3)``."""
    palette = np.array([to_rgb(colour) for colour in MATERIAL_COLOURS[: shares.shape[-1]]])
    rgb = np.clip(shares @ palette + (1.0 - shares.sum(axis=-1, keepdims=True)), 0.0, 1.0)
    return np.where(np.isfinite(rgb), rgb, float(_NO_DATA_COLOUR))


def _lines(text: str, inches: float) -> list[str]:
    """Lines of a label, broken between words where they would be longer than `inches`."""
    characters = max(int(inches / _CHARACTER), 8)
    wrapped = (textwrap.wrap(line, characters, break_long_words=False) for line in text.split("\n"))
    return [line for lines in wrapped for line in lines] or [""]


def _wrap(text: str, inches: float) -> str:
    return "\n".join(_lines(text, inches))


# ------------------------------------------------------------------------------ drawing fans


@dataclass(frozen=True)
class _Fan:
    """Spectra of one picture, sorted by wavelength, with NaN in the gaps."""

    x: NDArray[np.floating]  # (L',)
    x_label: str
    spectra: NDArray[np.floating]  # (S, L', P), the thin lines
    quantiles: NDArray[np.floating]  # (3, L', P): 5 %, 50 %, 95 %
    reference: NDArray[np.floating] | None  # (L', P)
    truth: NDArray[np.floating] | None  # (3, L', P), or (1, L', P) for one set of spectra
    num_available: int


def _make_fan(
    result: Any,
    truth: Any,
    maps: xr.DataArray,
    date: int | None,
    pixel: tuple[int, int] | None,
    num_spectra: int,
    seed: int,
) -> _Fan:
    """Collect the spectra of one date over space or, with no date, of one pixel over time."""
    if isinstance(num_spectra, bool) or num_spectra < 1:
        raise ValueError(f"expected num_spectra of at least 1, got {num_spectra!r}")
    spectra, x = _collect(result, maps, date, pixel, "result")
    bands = spectra.shape[1]
    order = np.random.default_rng(seed).permutation(len(spectra))
    band = np.percentile(spectra[order[:MAX_BAND_SPECTRA]], [5, 50, 95], axis=0)
    reference = getattr(result, "reference_endmembers", None)
    if reference is not None:
        reference = _spectral_set(reference, maps, bands, x, "`.reference_endmembers`")
    known = None
    if isinstance(truth, xr.DataArray):
        known = _spectral_set(truth, maps, bands, x, "truth")[None]
    elif truth is not None:
        true_spectra, true_x = _collect(truth, maps, date, pixel, "truth")
        if true_spectra.shape[1] != bands:
            raise ValueError(f"expected truth with {bands} bands, got {true_spectra.shape[1]}")
        _check_wavelengths(true_x, x, "truth")
        # The same pixels as those of the result's band, when none is left out.
        picked = order if len(true_spectra) == len(spectra) else slice(None)
        true_spectra = true_spectra[picked][:MAX_BAND_SPECTRA]
        known = np.percentile(true_spectra, [5, 50, 95], axis=0)
    axis = _SpectralAxis.of(x, bands)
    return _Fan(
        x=axis.values,
        x_label="band" if x is None else "wavelength (nm)",
        spectra=axis.place(spectra[order[:num_spectra]]),
        quantiles=axis.place(band),
        reference=None if reference is None else axis.place(reference[None])[0],
        truth=None if known is None else axis.place(known),
        num_available=len(spectra),
    )


def _collect(
    source: Any, maps: xr.DataArray, date: int | None, pixel: tuple[int, int] | None, name: str
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
    """Finite spectra ``(S, wavelength, endmember)`` of a source and their wavelengths."""
    if not callable(getattr(source, "endmembers", None)):
        raise TypeError(
            f"expected {name} with a method `.endmembers(time)`"
            f"{' or as a DataArray (wavelength, endmember)' if name == 'truth' else ''}, "
            f"got {type(source).__name__}"
        )
    dims = ("y", "x", "wavelength", "endmember")
    parts = []
    for t in range(maps.sizes["time"]) if date is None else [date]:
        spectra = source.endmembers(t)
        if set(spectra.dims) != set(dims):
            raise ValueError(f"expected endmembers of {name} with dims {dims}, got {spectra.dims}")
        if pixel is not None:
            spectra = spectra.isel(y=[pixel[0]], x=[pixel[1]])
        parts.append(_align_materials(spectra.transpose(*dims), maps))
    bands = parts[0].sizes["wavelength"]
    values = np.concatenate([p.values.reshape(-1, bands, p.sizes["endmember"]) for p in parts])
    values = values[np.isfinite(values).all(axis=(1, 2))]
    if not len(values):
        where = "" if date is None else f" at date {date}"
        raise ValueError(
            f"expected finite endmembers of the {name}{where}, got NaN in every spectrum; "
            "choose a date or pixel with valid data"
        )
    return values, _wavelengths(parts[0])


def _spectral_set(
    spectra: xr.DataArray,
    maps: xr.DataArray,
    bands: int,
    x: NDArray[np.floating] | None,
    name: str,
) -> NDArray[np.floating]:
    """One spectrum per material, ``(wavelength, endmember)``, in the result's order."""
    dims = ("wavelength", "endmember")
    if set(spectra.dims) != set(dims) or spectra.sizes["wavelength"] != bands:
        raise ValueError(
            f"expected {name} with dims {dims} and {bands} bands, got {dict(spectra.sizes)}"
        )
    _check_wavelengths(_wavelengths(spectra), x, name)
    return _align_materials(spectra.transpose(*dims), maps).values


def _wavelengths(spectra: xr.DataArray) -> NDArray[np.floating] | None:
    return spectra.coords["wavelength"].values if "wavelength" in spectra.coords else None


def _check_wavelengths(
    got: NDArray[np.floating] | None, x: NDArray[np.floating] | None, name: str
) -> None:
    """Spectra go together by position: refuse those that are known to lie elsewhere."""
    if got is not None and x is not None and not np.allclose(got, x, rtol=1e-6):
        raise ValueError(
            f"expected {name} at the wavelengths of the endmembers ({x[0]:g}, ..., {x[-1]:g} nm), "
            f"in that order, got {got[0]:g}, ..., {got[-1]:g}; resample or reorder it"
        )


@dataclass(frozen=True)
class _SpectralAxis:
    """Sorted wavelengths with one extra, empty place in every gap, which breaks the lines."""

    values: NDArray[np.floating]
    order: NDArray[np.integer]
    gaps: NDArray[np.integer]

    @classmethod
    def of(cls, x: NDArray[np.floating] | None, bands: int) -> _SpectralAxis:
        raw = np.arange(bands, dtype=float) if x is None else np.asarray(x, dtype=float)
        order = np.argsort(raw, kind="stable")
        raw = raw[order]
        spacing = np.diff(raw)
        gaps = np.flatnonzero(spacing > 3 * np.median(spacing)) + 1 if bands > 1 else np.arange(0)
        middles = (raw[gaps - 1] + raw[gaps]) / 2 if gaps.size else np.zeros(0)
        return cls(np.insert(raw, gaps, middles), order, gaps)

    def place(self, spectra: NDArray[np.floating]) -> NDArray[np.floating]:
        """Sort ``(S, L, P)`` by wavelength and put NaN into the gaps: ``(S, L', P)``."""
        return np.insert(spectra[:, self.order].astype(float), self.gaps, np.nan, axis=1)


def _alone(values: NDArray[np.floating]) -> list[int]:
    """Bands with a gap on both sides: a line cannot show them, a marker can."""
    there = np.pad(np.isfinite(values), 1)
    return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()


def _draw_fans(fan: _Fan, names: list[str], axes: Any, *, title: str, kind: str) -> Figure:
    """Draw one panel per material."""
    num_materials = len(names)
    columns = {1: 1, 2: 2, 4: 2}.get(num_materials, 3)
    rows = -(-num_materials // columns)
    handles = _fan_handles(fan, kind)
    own = axes is None
    if own:
        width = max(3.3 * columns + 0.4, 7.0)
        height = 2.6 * rows + 0.4 + _legend_height(handles, width)
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(_wrap(title, width), fontsize=_TITLE_SIZE + 1)
        _add_legend(figure, handles)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes[num_materials:]:
            ax.remove()
        axes = axes[:num_materials]
    panels = _flat_axes(axes, num_materials)
    for p, ax in enumerate(panels):
        _draw_fan(ax, fan, p)
        ax.set_title(_wrap(names[p], 3.0), fontsize=_TITLE_SIZE)
        ax.tick_params(labelsize=_TICK_SIZE)
        if not own or p + columns >= num_materials:  # nothing below it
            ax.set_xlabel(fan.x_label, fontsize=_LABEL_SIZE)
        if not own or p % columns == 0:
            ax.set_ylabel("reflectance", fontsize=_LABEL_SIZE)
    if not own:
        panels[0].legend(handles=handles, fontsize=_TICK_SIZE)
    return _root_figure(panels[0])


_BAND_ALPHA = 0.25
_REFERENCE_STYLE: dict[str, Any] = {"linewidth": 2.6, "label": "reference"}
_MEDIAN_STYLE: dict[str, Any] = {"linewidth": 1.2, "label": "median"}
# A white rim keeps the dashes visible where they lie on a line of any colour.
_TRUTH_STYLE: dict[str, Any] = {
    "linestyle": (0, (4, 2.5)),
    "color": "black",
    "path_effects": [withStroke(linewidth=3.0, foreground="white")],
}


def _draw_fan(ax: Axes, fan: _Fan, p: int) -> None:
    """Draw one material: from the back, band, thin lines, reference, median, truth."""
    colour = MATERIAL_COLOURS[p % len(MATERIAL_COLOURS)]
    low, middle, high = fan.quantiles[..., p]
    alone = _alone(middle)

    def line(y: NDArray[np.floating], **style: Any) -> None:
        size = 1.5 + style["linewidth"]
        ax.plot(fan.x, y, marker="o", markevery=alone, markersize=size, **style)

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
    if fan.truth is not None:
        truth = fan.truth[..., p]
        line(truth[len(truth) // 2], linewidth=1.5, label="truth", **_TRUTH_STYLE)
        for edge in truth[[0, -1]] if len(truth) > 1 else []:
            line(edge, linewidth=0.8, label="_truth band", **_TRUTH_STYLE)


def _darken(colour: str) -> tuple[float, float, float]:
    red, green, blue = to_rgb(colour)
    return 0.5 * red, 0.5 * green, 0.5 * blue


def _fan_handles(fan: _Fan, kind: str) -> list[Artist]:
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


# ---------------------------------------------------------------------------- axes and legends


def _flat_axes(axes: Any, count: int) -> list[Axes]:
    """The axes to draw into, checked."""
    flat = list(np.asarray(axes, dtype=object).ravel())
    if not all(isinstance(ax, Axes) for ax in flat):
        raise TypeError(f"expected matplotlib Axes, got {type(axes).__name__}")
    if len(flat) != count:
        raise ValueError(f"expected {count} axes for this picture, got {len(flat)}")
    return flat


def _root_figure(ax: Axes) -> Figure:
    figure = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def _legend_columns(handles: list[Artist], width: float) -> int:
    """Columns of a legend in a figure `width` inches wide: one row when that fits."""
    # Inches of the entries: handle and spacing, then about 0.075 per character.
    widths = [0.5 + 0.075 * len(str(handle.get_label())) for handle in handles]
    return len(handles) if sum(widths) <= width else max(1, int(width / max(widths)))


def _legend_height(handles: list[Artist], width: float) -> float:
    if not handles:
        return 0.0
    return 0.2 + 0.18 * -(-len(handles) // _legend_columns(handles, width))


def _add_legend(figure: Figure, handles: list[Artist]) -> None:
    """Legend below everything else in one of our own figures."""
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=_legend_columns(handles, figure.get_figwidth()),
            fontsize=_TICK_SIZE,
            handlelength=1.6,
            columnspacing=1.0,
        )
