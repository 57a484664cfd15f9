"""``result.plot``: the pictures of a result as its own methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from pyro_unmix.plots.composite import plot_abundance_composite
from pyro_unmix.plots.endmembers import plot_endmembers, plot_endmembers_over_time
from pyro_unmix.plots.losses import plot_losses
from pyro_unmix.plots.maps import plot_abundances, plot_change, plot_rmse, plot_uncertainty
from pyro_unmix.plots.nonlinearity import plot_latents, plot_nonlinearity

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


class ResultPlots:
    """Pictures of one result; `Unmixing.plot` makes it.

    Every method is a function of `pyro_unmix.plots` of this result, whose keywords it takes and whose `Figure` it
    returns; calling the object itself draws the abundances.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> result = pu.methods.fcls(np.array([[[.25, .75], [1, 0]]]) @ M.T, endmembers=M, progress=False)
    >>> figure = result.plot.abundances(names=["soil", "water"])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['soil', 'water']
    """

    def __init__(self, result: Unmixing) -> None:
        self._result = result

    def __call__(self, **how: Any) -> Figure:
        """Maps of the abundances."""
        return self.abundances(**how)

    def abundances(self, **how: Any) -> Figure:
        """Maps of the abundances: `plot_abundances`."""
        return plot_abundances(self._result, **how)

    def composite(self, **how: Any) -> Figure:
        """Up to three materials in one map: `plot_abundance_composite`."""
        return plot_abundance_composite(self._result, **how)

    def unit_maximum(self, **how: Any) -> Figure:
        """Maps of `Unmixing.unit_maximum`, drawn as `plot_abundances` does."""
        return plot_abundances(self._result.unit_maximum(), **how)

    def endmembers(self, **how: Any) -> Figure:
        """Spectra of the materials in all pixels of a date: `plot_endmembers`."""
        return plot_endmembers(self._result, **how)

    def endmembers_over_time(self, **how: Any) -> Figure:
        """Spectra of the materials in one pixel at all dates: `plot_endmembers_over_time`."""
        return plot_endmembers_over_time(self._result, **how)

    def uncertainty(self, **how: Any) -> Figure:
        """Maps of the posterior standard deviation: `plot_uncertainty`."""
        return plot_uncertainty(self._result, **how)

    def rmse(self, **how: Any) -> Figure:
        """Maps of `Unmixing.rmse`, what the fit leaves over in all bands: `plot_rmse`."""
        return plot_rmse(self._result, **how)

    def change(self, **how: Any) -> Figure:
        """Maps of the change from date to date: `plot_change`."""
        return plot_change(self._result, **how)

    def nonlinearity(self, **how: Any) -> Figure:
        """Maps of the degree of nonlinearity: `plot_nonlinearity`."""
        return plot_nonlinearity(self._result, **how)

    def latents(self, **how: Any) -> Figure:
        """The latents of each material: `plot_latents`."""
        return plot_latents(self._result, **how)

    def losses(self, **how: Any) -> Figure:
        """The loss over the steps: `plot_losses`."""
        return plot_losses(self._result, **how)
