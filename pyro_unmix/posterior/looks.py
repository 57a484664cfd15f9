"""How a result is looked at: in a notebook, by its pictures, pixel by pixel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from pyro_unmix.posterior import html

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


class Looks:
    """What `Unmixing` has to be looked at; pictures are of a room above, which is imported when they are drawn."""

    def _repr_html_(self) -> str:
        return html.summary_html(cast("Unmixing", self))

    @property
    def plot(self) -> Any:
        """Pictures: ``result.plot.abundances()``, ``.composite()``, ``.endmembers()``, ``.uncertainty()``,
        ``.residual()``, ``.change()``, ``.losses()``, ...; see `pyro_unmix.plots.ResultPlots`.
        """
        return import_module("pyro_unmix.plots.accessor").ResultPlots(self)

    def explore(self) -> Any:
        """Look at pixels (extra ``view``): click one, and see its spectrum, the fit, and its materials over time.

        Returns
        -------
        Explorer
            A notebook shows it; ``result.explore().show()`` opens it in a browser. See `pyro_unmix.plots.Explorer`.

        Raises
        ------
        ImportError
            Without the extra.
        """
        return import_module("pyro_unmix.plots.explorer").Explorer(self)
