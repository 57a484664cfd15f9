"""Pictures of a result: abundance maps, endmember fans, uncertainty, change, nonlinearity, latents and the loss.

`report` puts them on one page, with `page_pictures` of its own and the `verdict` on the intervals in plain words.
`maps` (of a scalar), `composite` (of materials), `endmembers` with its `fans`, `library`, `nonlinearity`, `losses`;
they share `reading` (of results), `grid` (where maps go), `missing` (pixels) and `style`. `accessor` makes methods of a
result of them, ``result.plot.abundances()``; `explorer` is the page on which a pixel is clicked, of which `pixels`
knows the curves.

Every function reads a result by the names of its attributes, so that it draws an `Unmixing` of
any method or, where it has the attribute, a simulated `Scene`. Each returns a matplotlib `Figure`
that `pyplot` does not know about: nothing has to be closed, a notebook shows it once, and
``figure.savefig(path)`` writes it. Give `axes` to draw into a figure of your own instead.

The pictures follow Figs. 5-7, 10 and 11 of Borsoi, Imbiriba, Closas, "Dynamical hyperspectral
unmixing with variational recurrent neural networks" (the ReDSUNN paper).
"""

from pyro_unmix.plots.accessor import ResultPlots
from pyro_unmix.plots.composite import plot_abundance_composite
from pyro_unmix.plots.endmembers import plot_endmembers, plot_endmembers_over_time
from pyro_unmix.plots.explorer import Explorer
from pyro_unmix.plots.fans import MAX_BAND_SPECTRA
from pyro_unmix.plots.library import plot_library
from pyro_unmix.plots.losses import plot_losses
from pyro_unmix.plots.maps import plot_abundances, plot_change, plot_rmse, plot_uncertainty
from pyro_unmix.plots.nonlinearity import plot_latents, plot_nonlinearity
from pyro_unmix.plots.reading import MAX_DATES
from pyro_unmix.plots.report import write_report
from pyro_unmix.plots.style import COMPOSITE_COLOURS, MATERIAL_COLOURS

__all__ = [
    "COMPOSITE_COLOURS",
    "MATERIAL_COLOURS",
    "MAX_BAND_SPECTRA",
    "MAX_DATES",
    "Explorer",
    "ResultPlots",
    "plot_abundance_composite",
    "plot_abundances",
    "plot_change",
    "plot_endmembers",
    "plot_endmembers_over_time",
    "plot_latents",
    "plot_library",
    "plot_losses",
    "plot_nonlinearity",
    "plot_rmse",
    "plot_uncertainty",
    "write_report",
]
