"""Maps in rows and columns: what goes where, how large, and the colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pyro_unmix.plots.missing import mark_missing, missing_handles
from pyro_unmix.plots.reading import choose_dates, material_names, tile_edges
from pyro_unmix.plots.style import (
    CHARACTER_WIDTH,
    LABEL_SIZE,
    NO_DATA_COLOUR,
    TICK_SIZE,
    TITLE_SIZE,
    AxesLike,
    Picture,
    add_legend,
    flat_axes,
    legend_height,
    plain,
    root_figure,
    wrap,
    wrapped_lines,
)

# In inches.
_MIN_WIDTH = 1.15  # of a panel: what a title such as "15 of 15 dates" takes
_BAR_THICKNESS = 0.18


@dataclass(frozen=True)
class ColourScale:
    """Colours of the values from 0 to `vmax`, and what to write at the colour bar."""

    label: str
    cmap: str
    vmax: float = 1.0
    extend: Literal["neither", "max"] = "neither"  # "max" where larger values are drawn

    @property
    def colours(self) -> Colormap:
        return mpl.colormaps[self.cmap].with_extremes(bad=NO_DATA_COLOUR)

    @property
    def label_height(self) -> float:
        """Inches that the label takes beyond its first line."""
        return 0.2 * self.label.count("\n")


def robust_scale(
    label: str, cmap: str, values: NDArray[np.floating], *, beyond: float = 1.0
) -> ColourScale:
    """Colours of values from zero on, of which the largest percent may lie above the scale.

    It ends at their 99th percentile where the largest is more than `beyond` times that; the label then says how large
    it is.
    """
    values = values[np.isfinite(values)]
    largest = float(values.max()) if values.size else 0.0
    if largest <= 0:
        # A bar from 0 to 0 cannot be drawn; zero everywhere keeps the unit range.
        return ColourScale(label, cmap)
    high = float(np.percentile(values, 99))
    if not 0 < high * beyond < largest:
        return ColourScale(label, cmap, vmax=largest)
    return ColourScale(f"{label}\nlargest: {largest:.2g}", cmap, vmax=high, extend="max")


@dataclass(frozen=True)
class Grid:
    """Images in rows and columns: what to draw, before any figure is there."""

    images: list[list[NDArray[np.floating]]]
    missing: list[list[NDArray[np.bool_]]]
    row_labels: list[str]
    column_titles: list[str]
    tile_edges: list[float]

    @property
    def any_missing(self) -> bool:
        return any(mask.any() for row in self.missing for mask in row)


def row_of_dates(
    images: list[NDArray[np.floating]],
    shown: list[int],
    titles: list[str],
    maps: xr.DataArray,
    missing: NDArray[np.bool_],
) -> Grid:
    """One image per date that is shown."""
    return Grid([images], [[missing[t] for t in shown]], [""], titles, tile_edges(maps))


def material_grid(
    sources: list[tuple[str, xr.DataArray]],
    dates: Sequence[int] | None,
    names: Sequence[str] | None,
    missing: NDArray[np.bool_],
) -> Grid:
    """Materials (and estimate, truth) down, dates across; with one date materials across."""
    maps = sources[0][1]
    labels = material_names(maps, names)
    shown, titles = choose_dates(dates, maps)
    nothing = np.zeros_like(missing)
    masks = [missing, *[nothing] * (len(sources) - 1)]  # the truth misses nothing
    several = len(sources) > 1
    pairs = list(zip(sources, masks, strict=True))
    materials = range(len(labels))
    if len(shown) == 1:
        t = shown[0]
        return Grid(
            images=[[source.values[t, ..., p] for p in materials] for (_, source), _ in pairs],
            missing=[[mask[t] for _ in materials] for _, mask in pairs],
            row_labels=[f"{kind}\n{titles[0]}" if several else titles[0] for kind, _ in sources],
            column_titles=labels,
            tile_edges=tile_edges(maps),
        )
    return Grid(
        images=[
            [source.values[t, ..., p] for t in shown] for p in materials for (_, source), _ in pairs
        ],
        missing=[[mask[t] for t in shown] for _ in materials for _, mask in pairs],
        row_labels=[
            f"{label}\n{kind}" if several else label for label in labels for kind, _ in sources
        ],
        column_titles=titles,
        tile_edges=tile_edges(maps),
    )


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches of the panels of a grid, and where its colour bar goes."""

    width: float
    height: float
    square: bool  # whether pixels are drawn square
    compressed: bool  # whether the panels fill their cells, so that gaps can be closed

    @classmethod
    def of(cls, grid: Grid) -> _Layout:
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


def _grid_figure(
    grid: Grid, layout: _Layout, handles: list[Artist], scale: ColourScale | None
) -> Figure:
    """An empty figure with room for the panels and everything around them."""
    rows, columns = len(grid.images), len(grid.images[0])
    upright = layout.bar_is_upright(rows)
    bar = 0.0 if scale is None else scale.label_height + (0.8 if upright else 0.75)
    beside = _row_label_style(grid, layout)[1] + (bar if upright else 0.0)
    width = columns * (layout.width + 0.06) + beside + 0.1
    titles = max(len(wrapped_lines(title, layout.width)) for title in grid.column_titles)
    below = legend_height(handles, width) + (0.0 if upright else bar)
    height = rows * (layout.height + 0.06) + 0.2 * titles + 0.1 + below
    # The compressed layout closes the gaps that square pixels leave between the panels.
    return Picture(
        figsize=(width, height), layout="compressed" if layout.compressed else "constrained"
    )


def _row_label_style(grid: Grid, layout: _Layout) -> tuple[dict[str, Any], float]:
    """How the row labels are turned, and the width in inches that they take."""
    labels = [wrapped_lines(label, layout.height) for label in grid.row_labels]
    longest = max(len(line) for lines in labels for line in lines) * CHARACTER_WIDTH
    if longest == 0:
        return {}, 0.0
    if longest <= layout.height:
        return {}, 0.1 + 0.2 * max(map(len, labels))
    # Upright, they would run into the next row.
    return {"rotation": 0, "ha": "right", "va": "center"}, 0.1 + longest


def draw_grid(
    grid: Grid, axes: AxesLike | None, handles: list[Artist], scale: ColourScale | None = None
) -> tuple[list[Axes], bool]:
    """Draw the images, titles, row labels, tile edges and marks of missing pixels.

    A new figure, when no axes are given, also gets the legend of `handles`. Images in RGB have no colour scale.
    """
    rows, columns = len(grid.images), len(grid.images[0])
    layout = _Layout.of(grid)
    new = axes is None
    if axes is None:
        figure = _grid_figure(grid, layout, handles, scale)
        axes = figure.subplots(rows, columns, squeeze=False)
        add_legend(figure, handles)
    panels = flat_axes(axes, rows * columns)
    turn, _ = _row_label_style(grid, layout)
    for index, ax in enumerate(panels):
        row, column = divmod(index, columns)
        ax.imshow(
            grid.images[row][column],
            cmap=None if scale is None else scale.colours,
            vmin=0.0,
            vmax=1.0 if scale is None else scale.vmax,
            interpolation="nearest",
            aspect="equal" if layout.square else "auto",
        )
        ax.set_xticks([])
        ax.set_yticks([])
        _mark_tiles(ax, grid.tile_edges)
        mark_missing(ax, grid.missing[row][column])
        if row == 0:
            title = wrap(grid.column_titles[column], layout.width)
            ax.set_title(plain(title), fontsize=TITLE_SIZE)
        if column == 0:
            label = wrap(grid.row_labels[row], layout.height)
            ax.set_ylabel(plain(label), fontsize=LABEL_SIZE, **turn)
    return panels, new


def draw_scalar_grid(grid: Grid, axes: AxesLike | None, scale: ColourScale) -> Figure:
    """Draw maps of one quantity with one colour bar for all of them."""
    panels, _ = draw_grid(grid, axes, missing_handles(grid.any_missing), scale)
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
        extend=scale.extend,
    )
    bar.set_label(scale.label, fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    return root_figure(panels[0])


def _mark_tiles(ax: Axes, edges: list[float]) -> None:
    """Draw a white line with a black rim, visible on any colour, between two tiles."""
    rim = withStroke(linewidth=2.0, foreground="black")
    for edge in edges:
        ax.axhline(edge, color="white", linewidth=0.8, path_effects=[rim])
