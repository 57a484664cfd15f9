"""Marks of the missing pixels of a map."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

# Nothing is filled: below the hatching stands what the model says of these pixels.
_HATCHING: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.5", "hatch": "//"}


def mark_missing(ax: Axes, missing: NDArray[np.bool_]) -> None:
    """Hatch the missing pixels lightly and outline them in white with a dark rim."""
    if not missing.any():
        return
    ax.add_patch(PathPatch(_missing_area(missing), linewidth=0, **_HATCHING))
    sides = _missing_outline(missing)
    # Not a path effect: each side would get its rim on top of the sides before it.
    for colour, width in (("black", 1.2), ("white", 0.5)):
        outline = LineCollection(sides, colors=colour, linewidths=width, capstyle="projecting")
        ax.add_collection(outline, autolim=False)


def missing_handles(any_missing: bool) -> list[Artist]:
    """Legend entry of the hatching, when there is any."""
    return [Patch(label="no valid data", linewidth=0.5, **_HATCHING)] if any_missing else []


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
