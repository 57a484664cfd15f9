"""Pictures of a result's page: images in their colours, maps with coordinates and a scale bar, what is left over."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_unmix.data.names import material_names
from pyro_unmix.plots.reading import MAP_DIMS, date_titles
from pyro_unmix.plots.style import NO_DATA_COLOUR, TICK_SIZE, TITLE_SIZE, Picture, plain

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

_Maps = TypeVar("_Maps", xr.DataArray, xr.Dataset)
_RGB = (650.0, 560.0, 470.0)  # nm
_FARTHEST = 60.0  # of a band from such a colour, nm
_PANEL = 2.7  # inches
_UNEVEN = 0.01  # of a step, by which steps between pixels may differ from their mean
_MOST_SIDE = 600  # pixels of a side that are drawn


def thinning(maps: xr.DataArray | xr.Dataset) -> int:
    """Of how many rows, and columns, one is drawn."""
    return -(-max(maps.sizes["y"], maps.sizes["x"]) // _MOST_SIDE)


def thinned(maps: _Maps) -> _Maps:
    """Every second, third, ... row and column of large images: a page shows no more."""
    step = thinning(maps)
    every = slice(step // 2, None, step)
    return maps.isel(y=every, x=every) if step > 1 else maps


def draw_images(cubes: xr.DataArray, dates: list[int]) -> tuple[Figure, str]:
    """The images in their own colours, or the nearest that their bands give, and what is shown."""
    bands, text = _shown_bands(cubes)
    some = thinned(cubes)
    images = [some.isel(time=t, wavelength=bands).transpose("y", "x", "wavelength") for t in dates]
    values = np.concatenate([image.values.ravel() for image in images])
    low, high = np.nanpercentile(values, [2, 98]) if np.isfinite(values).any() else (0.0, 1.0)
    figure, axes = _panels(1, len(dates), cubes)
    titles = date_titles(cubes)
    for ax, t, image in zip(axes[0], dates, images, strict=True):
        stretched = np.clip((image.values - low) / max(high - low, 1e-9), 0, 1)
        missing = ~np.isfinite(stretched)
        _place(ax, np.where(missing, float(NO_DATA_COLOUR), stretched), cubes, titles[t])
    _scale_bar(axes[0][0], cubes)
    return figure, text


def _shown_bands(cubes: xr.DataArray) -> tuple[list[int], str]:
    last = cubes.sizes["wavelength"] - 1
    if "wavelength" in cubes.coords:
        wavelength = cubes["wavelength"].values.astype(float)
        nearest = [int(np.abs(wavelength - colour).argmin()) for colour in _RGB]
        far = [abs(wavelength[i] - c) for i, c in zip(nearest, _RGB, strict=True)]
        if max(far) <= _FARTHEST:
            names = ", ".join(f"{wavelength[i]:.0f}" for i in nearest)
            return nearest, f"Red, green and blue are the bands at {names} nm."
    bands = [last, last // 2, 0]
    return bands, f"False colours: bands {bands[0]}, {bands[1]} and {bands[2]}, counted from zero."


def draw_maps(result: Unmixing, dates: list[int]) -> Figure:
    """Abundances, a row per material, all on the scale from 0 to 1."""
    maps = result.abundances.transpose(*MAP_DIMS)
    some = thinned(maps)
    titles, names = date_titles(maps), material_names(maps)
    figure, axes = _panels(len(names), len(dates), maps)
    for p, row in enumerate(axes):
        for column, (ax, t) in enumerate(zip(row, dates, strict=True)):
            title = titles[t] if p == 0 else ""
            drawn = _place(ax, some[t, ..., p].values, maps, title, vmin=0, vmax=1)
            if column == 0:
                ax.set_ylabel(plain(names[p]), fontsize=TITLE_SIZE)
    _scale_bar(axes[0][0], maps)
    figure.colorbar(drawn, ax=list(np.ravel(np.asarray(axes, dtype=object))), label="fraction")
    return figure


def draw_residual(result: Unmixing, dates: list[int]) -> tuple[Figure, float]:
    """Root mean square over bands of what the fit leaves over, and that of all these dates."""
    assert result.cubes is not None
    some = replace(result, dataset=thinned(result.dataset), cubes=thinned(result.cubes))
    squares = [
        (some.residual(t) ** 2).mean("wavelength", skipna=False).transpose("y", "x").values
        for t in dates
    ]
    titles = date_titles(result.abundances)
    values = np.sqrt(np.stack(squares))
    known = values[np.isfinite(values)]
    high = float(np.percentile(known, 99)) if known.size else 1.0
    figure, axes = _panels(1, len(dates), result.abundances)
    for ax, t, image in zip(axes[0], dates, values, strict=True):
        drawn = _place(
            ax, image, result.abundances, titles[t], vmin=0, vmax=high or 1.0, cmap="magma"
        )
    figure.colorbar(drawn, ax=axes[0], label="reflectance", extend="max")
    return figure, float(np.sqrt((known**2).mean())) if known.size else math.nan


def _panels(rows: int, columns: int, maps: xr.DataArray) -> tuple[Figure, list[list[Axes]]]:
    tall = np.clip(maps.sizes["y"] / maps.sizes["x"], 0.4, 2.0)
    figure = Picture(
        figsize=(_PANEL * columns + 1.2, _PANEL * tall * rows + 0.6), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    return figure, [list(row) for row in axes]


def _place(ax: Axes, image: NDArray[Any], maps: xr.DataArray, title: str, **how: Any) -> Any:
    """Draw an image where its coordinates say, or by the numbers of its pixels."""
    ax.set_facecolor(NO_DATA_COLOUR)
    ax.set_title(plain(title), fontsize=TITLE_SIZE)
    ax.tick_params(labelsize=TICK_SIZE - 2)
    ax.ticklabel_format(style="plain", useOffset=False)
    ax.locator_params(nbins=3)
    return ax.imshow(image, extent=_extent(maps), interpolation="nearest", aspect="equal", **how)


def _extent(maps: xr.DataArray) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the outer corners."""
    known = _has_places(maps)
    edges = []
    for dim in ("x", "y"):
        size = maps.sizes[dim]
        places = maps[dim].values.astype(float) if known else np.arange(size) * 1.0
        half = 0.5 * (places[-1] - places[0]) / (size - 1) if size > 1 else 0.5
        edges.append((places[0] - half, places[-1] + half))
    (left, right), (top, bottom) = edges
    return left, right, bottom, top


def _has_places(maps: xr.DataArray) -> bool:
    return all(dim in maps.coords and _is_even(maps[dim].values) for dim in ("x", "y"))


def _is_even(places: NDArray[Any]) -> bool:
    """Whether coordinates go up or down in steps that are alike, as those of an image do."""
    if places.dtype.kind not in "iuf" or not np.isfinite(places).all():
        return False
    steps = np.diff(places.astype(float))
    if not steps.size:
        return True
    step = abs(places[-1].astype(float) - places[0]) / steps.size
    rounding = np.finfo(places.dtype).eps if places.dtype.kind == "f" else 0.0
    # A step is the difference of two numbers that were rounded.
    room = max(_UNEVEN * step, 2 * rounding * np.abs(places).max())
    return bool(0 < step < np.inf and room < 0.5 * step and np.ptp(steps) <= 2 * room)


def metres_per_unit(maps: xr.DataArray) -> float | None:
    """Of the x axis: from its units, or of a projected CRS in metres; None where they are not known."""
    if not _has_places(maps):
        return None
    units = str(maps["x"].attrs.get("units", ""))
    wkt = " ".join(
        str(maps[name].attrs.get("crs_wkt", "")) for name in maps.coords if maps[name].ndim == 0
    )
    projected = wkt.startswith(("PROJ", "BOUNDCRS")) and '"metre"' in wkt
    if units in ("m", "metre", "meter", "metres", "meters") or (not units and projected):
        return 1.0
    if units == "km":
        return 1000.0
    if units.startswith("degree") or wkt.startswith("GEOG"):
        latitude = float(maps["y"].mean())
        return 111_320.0 * math.cos(math.radians(latitude)) if abs(latitude) < 89 else None
    return None


def _scale_bar(ax: Axes, maps: xr.DataArray) -> None:
    """A bar of a round length at the lower left."""
    left, right, bottom, top = _extent(maps)
    unit = metres_per_unit(maps)
    whole = abs(right - left) * (unit or 1.0)
    length = round_length(whole / 3)
    text = f"{length:g} pixels" if not _has_places(maps) else f"{length:g}"
    if unit is not None:
        text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    start = left + 0.05 * (right - left)
    drawn = length / (unit or 1.0) * math.copysign(1.0, right - left)
    height = bottom + 0.06 * (top - bottom)
    ax.plot([start, start + drawn], [height, height], color="black", lw=5, solid_capstyle="butt")
    ax.plot([start, start + drawn], [height, height], color="white", lw=3, solid_capstyle="butt")
    ax.text(
        start, height + 0.03 * (top - bottom), text, color="white", fontsize=TICK_SIZE, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
    )  # fmt: skip


def round_length(largest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is no longer."""
    power = 10.0 ** math.floor(math.log10(largest))
    return max(step * power for step in (1, 2, 5) if step * power <= largest * (1 + 1e-9))
