"""The loss over the steps of the optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_unmix.plots.style import LABEL_SIZE, MATERIAL_COLOURS, TICK_SIZE, Picture, root_figure

_COLOUR = MATERIAL_COLOURS[4]  # blue


def plot_losses(result: object, *, ax: Axes | None = None) -> Figure:
    """Draw the loss, -ELBO per observed value, over the optimiser's steps.

    The raw values are light, their running median (2 % of the steps, at least 5) is bold. Where
    the first steps are far above the rest, the axis leaves them out and a note says so.

    Parameters
    ----------
    result
        Anything with `.losses`, one value per step (nats).
    ax
        Axes to draw into.

    Raises
    ------
    ValueError
        If there are no losses: the method does not train.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> result = pu.fit(model, guide, scene.cubes, num_steps=5, progress=False)
    >>> pu.plots.plot_losses(result).axes[0].get_xlabel()
    'step'
    """
    losses = np.asarray(getattr(result, "losses", None), dtype=float)
    if losses.ndim != 1 or not np.isfinite(losses).any():
        raise ValueError(
            "expected `.losses` with one finite value or more, got "
            f"{'none' if losses.size == 0 or losses.ndim == 0 else f'shape {losses.shape}'}; "
            "only methods trained step by step have losses"
        )
    if ax is None:
        figure = Picture(figsize=(6.4, 4.0), layout="constrained")
        ax = figure.subplots()
    steps = np.arange(1, losses.size + 1)
    window = max(5, losses.size // 50) | 1  # odd
    smooth = _running_median(losses, window)
    # A one-step run has no line, only a point.
    marker = "o" if losses.size == 1 else None
    raw: dict[str, Any] = {"alpha": 0.35, "linewidth": 0.8, "marker": marker, "label": "each step"}
    ax.plot(steps, losses, color=_COLOUR, **raw)
    ax.plot(steps, smooth, color=_COLOUR, linewidth=1.8, label=f"running median ({window} steps)")
    _limit_losses(ax, losses, smooth)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step", fontsize=LABEL_SIZE)
    ax.set_ylabel("\N{MINUS SIGN}ELBO per observed value (nats)", fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TICK_SIZE)
    ax.legend(fontsize=TICK_SIZE, loc="upper right")
    return root_figure(ax)


def _running_median(values: NDArray[np.floating], window: int) -> NDArray[np.floating]:
    """Centred running median of the finite values; the window is cut off at both ends."""
    half = window // 2
    padded = np.pad(values, half, constant_values=np.nan)
    padded[~np.isfinite(padded)] = np.nan
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    smooth = np.full(values.shape, np.nan)
    some = np.isfinite(windows).any(axis=1)  # an all-NaN window would warn
    smooth[some] = np.nanmedian(windows[some], axis=1)
    return smooth


def _limit_losses(ax: Axes, losses: NDArray[np.floating], smooth: NDArray[np.floating]) -> None:
    """Leave a steep start out of the y axis, so that the rest can be read; say so on the axes."""
    finite = losses[np.isfinite(losses)]
    settled = smooth[losses.size // 20 :]
    settled = settled[np.isfinite(settled)]
    if settled.size < 10:
        return
    low, high = float(min(finite.min(), settled.min())), float(settled.max())
    if high <= low or finite.max() - low < 5 * (high - low):
        return
    top = high + 0.25 * (high - low)
    ax.set_ylim(low - 0.05 * (high - low), top)
    note = f"{int((finite > top).sum())} values up to {finite.max():.3g} not shown"
    ax.text(0.02, 0.02, note, transform=ax.transAxes, fontsize=TICK_SIZE, ha="left", va="bottom")
