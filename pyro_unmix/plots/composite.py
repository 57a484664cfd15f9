"""Several materials in one colour map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pyro_unmix.data.types import HasAbundances
from pyro_unmix.plots.grid import Grid, draw_grid
from pyro_unmix.plots.missing import missing_handles
from pyro_unmix.plots.reading import (
    MAP_DIMS,
    check_position,
    choose_dates,
    material_names,
    missing_pixels,
    read_field,
    tile_edges,
    truth_maps,
)
from pyro_unmix.plots.style import (
    COMPOSITE_COLOURS,
    NO_DATA_COLOUR,
    TICK_SIZE,
    AxesLike,
    plain,
    root_figure,
)


def plot_abundance_composite(
    result: HasAbundances | xr.DataArray,
    *,
    truth: HasAbundances | xr.DataArray | NDArray[np.floating] | None = None,
    materials: Sequence[int | str] | None = None,
    dates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw up to three materials in one colour map per date (paper, figure 5).

    A pixel has the colour ``sum_p a_p colour_p``, with the three `COMPOSITE_COLOURS`, whose mixtures
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

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> result = pu.methods.fcls(scene.cubes, endmembers=scene.reference_endmembers, progress=False)
    >>> figure = pu.plots.plot_abundance_composite(result)
    >>> len(figure.axes)
    2
    """
    maps = read_field(result, "abundances", MAP_DIMS)
    labels = material_names(maps, names)
    chosen = _choose_materials(materials, labels)
    sources = [("estimate", maps)]
    if truth is not None:
        sources.append(("truth", truth_maps(truth, maps)))
    shown, titles = choose_dates(dates, maps)
    missing = missing_pixels(result, maps)
    nothing = np.zeros_like(missing)
    grid = Grid(
        images=[
            [_mix_colours(source.values[t][..., chosen]) for t in shown] for _, source in sources
        ],
        missing=[[mask[t] for t in shown] for mask in [missing, nothing][: len(sources)]],
        row_labels=[kind if len(sources) > 1 else "" for kind, _ in sources],
        column_titles=titles,
        tile_edges=tile_edges(maps),
    )
    handles: list[Artist] = [
        Patch(facecolor=colour, edgecolor="0.3", label=plain(labels[p]))
        for p, colour in zip(chosen, COMPOSITE_COLOURS, strict=False)
    ]
    if len(chosen) < len(labels):
        handles.append(Patch(facecolor="white", edgecolor="0.3", label="other materials"))
    handles += missing_handles(grid.any_missing)
    panels, new = draw_grid(grid, axes, handles)
    if not new:  # inside the axes it would cover a map
        panels[len(shown) - 1].legend(
            handles=handles, fontsize=TICK_SIZE, loc="upper left", bbox_to_anchor=(1.02, 1.0)
        )
    return root_figure(panels[0])


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
            chosen.append(check_position(material, len(labels), "materials"))
    if not 1 <= len(chosen) <= 3 or len(set(chosen)) != len(chosen):
        raise ValueError(
            f"expected one to three different materials, got {list(materials)!r}; "
            "draw the others with a second call, or all of them with plot_abundances"
        )
    return chosen


def _mix_colours(shares: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour ``sum_p a_p colour_p + (1 - sum_p a_p) white`` of shape ``(y, x, 3)``."""
    palette = np.array([to_rgb(colour) for colour in COMPOSITE_COLOURS[: shares.shape[-1]]])
    rgb = np.clip(shares @ palette + (1.0 - shares.sum(axis=-1, keepdims=True)), 0.0, 1.0)
    return np.where(np.isfinite(rgb), rgb, float(NO_DATA_COLOUR))
