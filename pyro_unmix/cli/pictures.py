"""The pictures of a result, as PNG files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from pyro_unmix import plots
from pyro_unmix.posterior.residuals import has_rmse
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.simulate import Scene


def write_pictures(result: Unmixing, out: Path, truth: Scene | None = None) -> list[Path]:
    """Write all pictures that the result has; those of an earlier result are removed."""
    pixel = _middle(result)
    draw: dict[str, Callable[[], Figure] | None] = {
        "abundances": lambda: plots.plot_abundances(result, truth=truth),
        "composite": lambda: plots.plot_abundance_composite(result, truth=truth),
        "endmembers": lambda: plots.plot_endmembers(result, truth=truth),
        "endmembers_over_time": (
            lambda: plots.plot_endmembers_over_time(result, pixel=pixel, truth=truth)
        )
        if result.abundances.sizes["time"] > 1
        else None,
        "uncertainty": (lambda: plots.plot_uncertainty(result))
        if result.abundances_std.notnull().any()
        else None,
        "change": (lambda: plots.plot_change(result)) if result.change.notnull().any() else None,
        "rmse": (lambda: plots.plot_rmse(result)) if has_rmse(result) else None,
        "losses": (lambda: plots.plot_losses(result)) if result.losses.size else None,
    }
    paths = {name: out / f"{name}.png" for name in draw}
    for path in paths.values():
        path.unlink(missing_ok=True)
    written = []
    for name, figure_of in draw.items():
        if figure_of is not None:
            figure = figure_of()
            figure.savefig(paths[name], dpi=110)
            plt.close(figure)
            written.append(paths[name])
    return written


def _middle(result: Unmixing) -> tuple[int, int]:
    """The pixel nearest to the middle that was observed at some date."""
    sizes = result.abundances.sizes
    middle = (sizes["y"] // 2, sizes["x"] // 2)
    observed = np.argwhere(result.valid.any("time").transpose("y", "x").values)
    if not len(observed):
        return middle
    y, x = observed[np.square(observed - middle).sum(1).argmin()]
    return int(y), int(x)
