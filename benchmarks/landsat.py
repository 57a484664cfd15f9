"""Held-out spectra of a real, irregular, cloudy sequence: predicted by the model, and by linear interpolation in time.

    OMP_NUM_THREADS=1 python benchmarks/landsat.py --data DIR

`landsat_p013r030.npz` has 423 uneven dates from 1984 to 2014. A fifth of the clear spectra is held out at random;
every pixel's own neighbours in time predict them. Nothing else is known about the scene. The model is made of the
parts of `unmix`, with a noise scale per band and seasons of its materials that all pixels share; the guide has no
LSTM, and three fits follow each other.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _data import data_folder
from numpy.typing import NDArray

from pyro_unmix import (
    SGLMM,
    ConjugateGuide,
    FixedEndmembers,
    Unmixing,
    as_cube_sequence,
    choose_start,
    fit,
)
from pyro_unmix.priors import AutoRegressive, BandNoise, JumpWalk
from pyro_unmix.start import choose_season_start

Array = NDArray[Any]
CLEAR = (0, 1)  # Fmask: land, water
LEVELS = (0.05, 0.5, 0.95)


def sequence(folder: Path, num_pixels: int, num_dates: int | None) -> tuple[xr.DataArray, Array]:
    """Clear spectra (T, 1, N, 7), NaN elsewhere, and which of them to hold out (T, N)."""
    with np.load(folder / "landsat_p013r030.npz") as file:
        chosen = np.linspace(0, file["Y"].shape[2] - 1, num_pixels).round().astype(int)
        stored, days = file["Y"][:, :num_dates, chosen], file["ordinal_dates"][:num_dates]
    values, fmask = stored[:7] * 1e-4, stored[7]
    clear = np.isin(fmask, CLEAR) & (stored[:7] != -9999).all(0)
    clear &= ((values > -0.1) & (values < 1.2)).all(0)  # not saturated
    held_out = clear & (np.random.default_rng(0).random(clear.shape) < 0.2)
    dates = np.datetime64("0001-01-01", "D") + (days - 1).astype("m8[D]")
    spectra = np.where(clear, values, np.nan).transpose(1, 2, 0)[:, None]
    return as_cube_sequence(spectra, time=dates), held_out


def interpolated(known: Array, days: Array) -> Array:
    """Linear interpolation in time of every pixel and band, (T, N, L)."""
    out = np.empty_like(known)
    for pixel in range(known.shape[1]):
        seen = np.isfinite(known[:, pixel]).all(-1)
        for band in range(known.shape[2]):
            out[:, pixel, band] = np.interp(days, days[seen], known[seen, pixel, band])
    return out


def unmixed(known: xr.DataArray, count: int, num_steps: int, seasons: bool) -> Unmixing:
    """The model's fit to what is not held out."""
    start = choose_start(known, count, seed=0)
    chain = AutoRegressive(0.5)
    model = SGLMM(
        FixedEndmembers(start.endmembers),
        basis=start.basis,
        abundance_prior=JumpWalk(),
        variability_prior=choose_season_start(known, start, residual=chain) if seasons else chain,
        noise=BandNoise(start.noise_scale),
        dates=known["time"].values,
    )
    guide = ConjugateGuide(model, correction=False)
    # In rounds: a fit keeps the approximations of the abundances that it starts with.
    for decay in (1.0, 1.0, 0.1):
        result = fit(
            model, guide, known, num_steps=max(1, num_steps // 3), batch_size=256,
            learning_rate=0.05, learning_rate_decay=decay,
        )  # fmt: skip
    return result


def scores(
    cubes: xr.DataArray, held_out: Array, count: int, num_steps: int, seasons: bool
) -> dict[str, float]:
    """Errors of both predictions of what is held out, and how often the 90 % interval covers it."""
    truth = cubes.values[:, 0]
    known = cubes.copy(deep=True)
    known.values[held_out[:, None]] = np.nan
    began = time.process_time()
    result = unmixed(known, count, num_steps, seasons)
    low, middle, high = result.reflectance_quantile(LEVELS, num_samples=100).values[:, :, 0]
    seconds = time.process_time() - began
    days = (cubes["time"].values - cubes["time"].values[0]) / np.timedelta64(1, "D")
    linear = interpolated(known.values[:, 0], days)

    def rmse(predicted: Array) -> float:
        return float(np.sqrt(np.mean((predicted - truth)[held_out] ** 2)))

    inside = ((truth >= low) & (truth <= high))[held_out]
    return {
        "held-out spectra": float(held_out.sum()),
        "RMSE model": rmse(middle),
        "RMSE interpolation": rmse(linear),
        "ratio": rmse(middle) / rmse(linear),
        "coverage of 90 %": float(inside.mean()),
        "coverage, worst band": float(inside.mean(0)[np.abs(inside.mean(0) - 0.9).argmax()]),
        "CPU s": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print and return the scores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder of landsat_p013r030.npz")
    parser.add_argument("--pixels", type=int, default=60, help="of 300 (default: %(default)s)")
    parser.add_argument("--endmembers", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=120, help="default: %(default)s")
    parser.add_argument("--no-seasons", action="store_true", help="every pixel by itself")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--quick", action="store_true", help="12 pixels, 30 dates, 2 steps")
    options = parser.parse_args(arguments)
    sizes = (12, 30) if options.quick else (options.pixels, None)
    cubes, held_out = sequence(data_folder(options.data), *sizes)
    steps = 2 if options.quick else options.steps
    found = scores(cubes, held_out, options.endmembers, steps, not options.no_seasons)
    for name, value in found.items():
        print(f"| {name} | {value:.4g} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
