"""Colours, sizes, labels and legends that all pictures share."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_unmix.data.colours import MATERIAL_COLOURS as MATERIAL_COLOURS

#: The colours of three materials in composites. Of the 56 triples of all eight of Okabe and Ito, mixtures of these stay
#: furthest apart (CIELAB, the worst of normal sight and simulated protanopia, deuteranopia and tritanopia): twice as
#: far as those of any triple without black.
COMPOSITE_COLOURS: tuple[str, ...] = ("#E69F00", "#56B4E9", "#000000")  # orange, sky blue, black

NO_DATA_COLOUR = "0.85"
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 10, 10, 9  # in points
#: Axes of the user's own figures.
AxesLike: TypeAlias = Axes | Sequence[Axes] | NDArray[np.object_]
CHARACTER_WIDTH = 0.6 * LABEL_SIZE / 72  # of an average character of a label, in inches


class Picture(Figure):
    """A figure that notebooks show, also where pyplot was never imported, whose backend would do so."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def wrapped_lines(text: str, inches: float) -> list[str]:
    """Lines of a label, broken between words where they would be longer than `inches`."""
    characters = max(int(inches / CHARACTER_WIDTH), 8)
    wrapped = (textwrap.wrap(line, characters, break_long_words=False) for line in text.split("\n"))
    return [line for lines in wrapped for line in lines] or [""]


def wrap(text: str, inches: float) -> str:
    return "\n".join(wrapped_lines(text, inches))


def plain(text: str) -> str:
    """A name as it is: matplotlib takes what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def flat_axes(axes: AxesLike, count: int) -> list[Axes]:
    """The axes to draw into, checked."""
    flat = list(np.asarray(axes, dtype=object).ravel())
    if not all(isinstance(ax, Axes) for ax in flat):
        raise TypeError(f"expected matplotlib Axes, got {type(axes).__name__}")
    if len(flat) != count:
        raise ValueError(f"expected {count} axes for this picture, got {len(flat)}")
    return flat


def num_columns(num_materials: int) -> int:
    """Columns of panels, one panel per material."""
    return {1: 1, 2: 2, 4: 2}.get(num_materials, 3)


def material_panels(figure: Figure, num_materials: int) -> list[Axes]:
    """New panels of a figure of our own, row by row."""
    columns = num_columns(num_materials)
    panels = list(figure.subplots(-(-num_materials // columns), columns, squeeze=False).flat)
    for ax in panels[num_materials:]:
        ax.remove()
    return panels[:num_materials]


def root_figure(ax: Axes) -> Figure:
    figure = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def _legend_columns(handles: list[Artist], width: float) -> int:
    """Columns of a legend in a figure `width` inches wide: one row when that fits."""
    # Inches of the entries: handle and spacing, then about 0.075 per character.
    widths = [0.5 + 0.075 * len(str(handle.get_label())) for handle in handles]
    return len(handles) if sum(widths) <= width else max(1, int(width / max(widths)))


def legend_height(handles: list[Artist], width: float) -> float:
    if not handles:
        return 0.0
    return 0.2 + 0.18 * -(-len(handles) // _legend_columns(handles, width))


def add_legend(figure: Figure, handles: list[Artist]) -> None:
    """Legend below everything else in one of our own figures."""
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=_legend_columns(handles, figure.get_figwidth()),
            fontsize=TICK_SIZE,
            handlelength=1.6,
            columnspacing=1.0,
        )
