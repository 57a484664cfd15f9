"""Spectra of a library, class by class."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_unmix.data.colours import material_colour
from pyro_unmix.data.libraries import checked_library, order_of
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.plots.fans import SpectralAxis
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


def plot_library(
    library: xr.DataArray,
    *,
    num_spectra: int = 60,
    seed: int = 0,
    axes: AxesLike | None = None,
) -> Figure:
    """Draw the spectra of a library, a panel for each class: its spectra (thin) and their mean (bold).

    All panels have one scale, so that the brightness of classes can be compared. Spectra are sorted by wavelength, and
    lines are broken where bands are missing, and at gaps as in `plot_endmembers`.

    Parameters
    ----------
    library : DataArray (wavelength, endmember)
        With the coordinates ``wavelength`` (nm) and ``label``, see `read_library`.
    num_spectra : int
        How many of a class are drawn at most; the mean is that of all.
    seed : int
        Of the draw of spectra.
    axes
        An axes for each class to draw into.

    Returns
    -------
    Figure

    Raises
    ------
    TypeError, ValueError
        If the library or a setting is not as described, or there are not as many axes as classes.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> spectra = pu.simulate.library(np.linspace(450, 2400, 60))
    >>> library = spectra.assign_coords(label=("endmember", spectra["endmember"].values))
    >>> len(pu.plots.plot_library(library).axes) == library.sizes["endmember"]
    True
    """
    library = checked_library(library)
    positive_int(num_spectra, "num_spectra")
    labels = library["label"].to_numpy().astype(str)
    classes = order_of(labels)
    axis = SpectralAxis.of(library["wavelength"].to_numpy(), library.sizes["wavelength"])
    columns = num_columns(len(classes))
    handles: list[Artist] = [
        Line2D([], [], color="0.5", linewidth=0.6, label="spectra of the library"),
        Line2D([], [], color="0.25", linewidth=2.2, label="mean of the class"),
    ]
    new = axes is None
    if axes is None:
        width = max(3.3 * columns + 0.4, 7.0)
        height = 2.6 * -(-len(classes) // columns) + legend_height(handles, width)
        figure = Picture(figsize=(width, height), layout="constrained")
        add_legend(figure, handles)
        axes = material_panels(figure, len(classes))
    panels = flat_axes(axes, len(classes))
    rng = np.random.default_rng(seed)
    for number, (label, ax) in enumerate(zip(classes, panels, strict=True)):
        spectra = library.to_numpy()[:, labels == label].T
        drawn = np.sort(rng.permutation(len(spectra))[:num_spectra])
        _draw_class(ax, axis, spectra, drawn, material_colour(number))
        count = f"{len(spectra)} {'spectrum' if len(spectra) == 1 else 'spectra'}"
        if len(drawn) < len(spectra):
            count = f"{len(drawn)} of {count}"
        ax.set_title(plain(wrap(f"{label}: {count}", 3.0)), fontsize=TITLE_SIZE)
        ax.tick_params(labelsize=TICK_SIZE)
        if not new or number + columns >= len(classes):  # nothing below it
            ax.set_xlabel("wavelength (nm)", fontsize=LABEL_SIZE)
        if not new or number % columns == 0:
            ax.set_ylabel("reflectance", fontsize=LABEL_SIZE)
    top = 1.05 * max(float(np.nanmax(library.to_numpy())), 1e-6)
    low = min(0.0, float(np.nanmin(library.to_numpy())))
    for ax in panels:
        ax.set_ylim(low, top)
    if not new:
        panels[0].legend(handles=handles, fontsize=TICK_SIZE)
    return root_figure(panels[0])


def _draw_class(
    ax: Axes, axis: SpectralAxis, spectra: np.ndarray, drawn: np.ndarray, colour: str
) -> None:
    alpha = float(np.clip(12 / len(drawn), 0.25, 0.8))
    for spectrum in axis.place(spectra[drawn, :, None])[..., 0]:
        ax.plot(axis.values, spectrum, color=colour, alpha=alpha, linewidth=0.6, label="_spectrum")
    mean = axis.place(spectra.mean(axis=0)[None, :, None])[0, :, 0]
    ax.plot(axis.values, mean, color=colour, linewidth=2.2, label="mean")
