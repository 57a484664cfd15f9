"""The pictures of a result, as PNG files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from pyro_unmix import plots
from pyro_unmix.posterior.residuals import has_rmse
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.simulate import Scene


def write_pictures(result: Unmixing, out: Path, truth: Scene | None = None) -> list[Path]:
    """Write all pictures that the result has; those of an earlier result are removed."""
    middle = (result.abundances.sizes["y"] // 2, result.abundances.sizes["x"] // 2)
    fans = plots.plot_endmembers_over_time(result, pixel=middle, truth=truth)
    has_std = bool(result.abundances_std.notnull().any())
    figures = {
        "abundances": plots.plot_abundances(result, truth=truth),
        "composite": plots.plot_abundance_composite(result, truth=truth),
        "endmembers": plots.plot_endmembers(result, truth=truth),
        "endmembers_over_time": fans,
        "uncertainty": plots.plot_uncertainty(result) if has_std else None,
        "change": plots.plot_change(result) if result.change.notnull().any() else None,
        "rmse": plots.plot_rmse(result) if has_rmse(result) else None,
        "losses": plots.plot_losses(result) if result.losses.size else None,
    }
    written = []
    for name, figure in figures.items():
        path = out / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, dpi=110)
        plt.close(figure)
        written.append(path)
    return written
