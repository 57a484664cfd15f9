"""Dates are uneven, some have clouds or no image at all: what was there, what is between, what comes next?

    python examples/irregular_dates.py

A scene with eight dates over half a year, a fifth of each image missing. One date is held out. Prints how well its
abundances and its spectra are told by the other dates, beside linear interpolation in time, and draws one pixel's
abundances with their uncertainty, between the images and after the last one. Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyro_unmix as pu

DAYS = np.array([0, 8, 16, 56, 64, 104, 112, 168])
HELD_OUT = 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/irregular"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps = (8, 2) if arguments.quick else (24, 100)

    scene = pu.simulate.scaled_scene(
        num_dates=len(DAYS), height=size, width=size, seed=arguments.seed
    )
    dates = np.datetime64("2021-03-01", "ns") + DAYS * np.timedelta64(1, "D")
    values = np.array(scene.cubes.values[..., ::4])
    rng = np.random.default_rng(arguments.seed)
    values[rng.random(values.shape[:3]) < 0.2] = np.nan  # clouds
    clear = values[HELD_OUT].copy()
    values[HELD_OUT] = np.nan
    seen = np.delete(np.arange(len(DAYS)), HELD_OUT)
    cubes = pu.as_cube_sequence(values[seen], time=dates[seen])

    result = pu.unmix(cubes, 3, num_steps=num_steps, seed=arguments.seed)
    order = pu.match_endmembers(
        result.reference_endmembers.values, scene.reference_endmembers.values[::4]
    )

    between = result.interpolate(dates[HELD_OUT])
    truth = scene.abundances.values[HELD_OUT]
    weight = (DAYS[HELD_OUT] - DAYS[HELD_OUT - 1]) / (DAYS[HELD_OUT + 1] - DAYS[HELD_OUT - 1])
    estimated = result.abundances.values[..., order]
    straight = (1 - weight) * estimated[HELD_OUT - 1] + weight * estimated[HELD_OUT]
    low, middle, high = between.reflectance_quantile([0.05, 0.5, 0.95]).values[:, 0]
    observed = np.isfinite(clear)
    inside = ((clear >= low) & (clear <= high))[observed].mean()

    def rmse(difference: np.ndarray) -> float:
        return float(np.sqrt(np.nanmean(difference**2)))

    print(f"the date that was held out, {str(dates[HELD_OUT])[:10]}")
    print(
        f"  abundances, RMSE          {rmse(between.abundances.values[0][..., order] - truth):.3f}"
    )
    print(f"  linear interpolation      {rmse(straight - truth):.3f}")
    print(f"  spectra, RMSE             {rmse(middle - clear):.4f}")
    print(f"  90 % intervals cover      {100 * inside:.0f} %")

    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(result, dates, order, arguments.out / "pixel.png")


def draw(result: pu.Unmixing, dates: np.ndarray, order: np.ndarray, path: Path) -> None:
    """One pixel's abundances between the images and 40 days beyond, with one posterior std around."""
    inside = np.arange(dates[0], dates[-1], np.timedelta64(4, "D"))
    beyond = np.arange(dates[-1], dates[-1] + np.timedelta64(40, "D"), np.timedelta64(4, "D"))[1:]
    parts = [result.interpolate(np.append(inside, dates[-1])), result.forecast(beyond)]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, material in enumerate(order):
        for part, style in zip(parts, ("-", "--"), strict=True):
            fraction = part.abundances[:, 0, 0, material]
            spread = part.abundances_std[:, 0, 0, material]
            axes.plot(part.abundances["time"], fraction, style, color=f"C{number}")
            axes.fill_between(
                part.abundances["time"].values,
                (fraction - spread).clip(0, 1),
                (fraction + spread).clip(0, 1),
                color=f"C{number}",
                alpha=0.15,
                linewidth=0,
            )
        seen = result.valid[:, 0, 0].values
        axes.plot(
            result.abundances["time"].values[seen],
            result.abundances[:, 0, 0, material].values[seen],
            "o",
            color=f"C{number}",
            label=f"material {number}",
        )
    axes.set(ylabel="abundance", ylim=(0, 1), title="one pixel: images (dots), between, forecast")
    axes.tick_params(axis="x", rotation=20)
    axes.legend(frameon=False, ncols=3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
