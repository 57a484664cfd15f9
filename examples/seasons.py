"""Four years of cloudy images of fields and woods that turn green every summer: what will the fifth year look like?

    python examples/seasons.py

Two materials, of which vegetation has seasons of its own making: its near-infrared rises in summer. Images come every
twelve days, six in ten are hidden. The last year is kept back. Prints how well its spectra are foretold with seasons
that all pixels share (`SeasonalVariability`, which `choose_season_start` finds), without them, and by the mean of the
same pixel, and draws one pixel's near-infrared reflectance. Takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

import pyro_unmix as pu

BAND = 40  # of 50, near infrared
FIRST = np.datetime64("2019-02-03", "ns")


def scene(side: int, seed: int) -> tuple[xr.DataArray, xr.DataArray]:
    """The images, and what they would be without noise and clouds, each (time, y, x, wavelength)."""
    rng = np.random.default_rng(seed)
    library = pu.simulate.library(np.linspace(450, 1100, 50))
    soil, green = (library.sel(endmember=name).values for name in ("soil", "vegetation"))
    days = np.arange(0, 5 * 365, 12)
    days = days + rng.integers(0, 5, size=len(days))
    dates = FIRST + days.astype("m8[D]")
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (days + 20) / 365.25)  # in February it is winter
    relief = gaussian_filter(rng.normal(size=(side, side)), 1.5, mode="wrap")
    share = 1 / (1 + np.exp(-4 * relief / relief.std()))
    # In winter, vegetation is duller, above all in the near infrared.
    rise = np.interp(np.arange(50), [0, 20, 30, 49], [0.1, 0.1, 0.5, 0.5])
    plant = green * (1 - rise * (1 - summer[:, np.newaxis]))
    clean = share[..., np.newaxis] * plant[:, np.newaxis, np.newaxis]
    clean = clean + (1 - share)[..., np.newaxis] * soil
    noisy = clean + rng.normal(scale=0.01, size=clean.shape)
    noisy[rng.random(noisy.shape[:3]) < 0.6] = np.nan
    known = {"time": dates, "wavelength": library["wavelength"]}
    noisy, clean = noisy.astype(np.float32), clean.astype(np.float32)
    return pu.as_cube_sequence(noisy, **known), pu.as_cube_sequence(clean, **known)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/seasons"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    cubes, clean = scene(6 if arguments.quick else 12, arguments.seed)
    last = cubes["time"].values >= FIRST + np.timedelta64(4 * 365, "D")
    past, ahead = cubes.isel(time=~last), clean.isel(time=last)

    start = pu.choose_start(past, num_endmembers=2, seed=arguments.seed)
    chain = pu.priors.AutoRegressive(0.5)
    priors = {
        "seasons": pu.start.choose_season_start(past, start, residual=chain),
        "no seasons": chain,
    }
    forecasts = {}
    for name, prior in priors.items():
        model = pu.SGLMM(
            pu.FixedEndmembers(start.endmembers), basis=start.basis, abundance_prior=pu.priors.JumpWalk(),
            variability_prior=prior, noise=pu.priors.WhiteNoise(start.noise_scale),
            dates=past["time"].values,
        )  # fmt: skip
        guide = pu.ConjugateGuide(model, correction=False)
        result = pu.fit(
            model, guide, past, num_steps=2 if arguments.quick else 60, learning_rate=0.03
        )
        future = result.forecast(ahead["time"].values)
        forecasts[name] = future.reflectance_quantile([0.05, 0.5, 0.95], num_samples=50)

    def rmse(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean((values - ahead.values) ** 2)))

    mean = np.broadcast_to(past.mean("time").values, ahead.shape)
    print("the fifth year, RMSE of reflectance without noise")
    for name, quantiles in forecasts.items():
        print(f"  {name:<22} {rmse(quantiles.values[1]):.4f}")
    print(f"  mean of the pixel      {rmse(mean):.4f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(past, ahead, forecasts, arguments.out / "pixel.png")


def draw(
    past: xr.DataArray, ahead: xr.DataArray, forecasts: dict[str, xr.DataArray], path: Path
) -> None:
    """One pixel's band: images, what comes, and both forecasts with their 90 % intervals."""
    place = {"y": 2, "x": 3, "wavelength": BAND}
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(past["time"], past.isel(place), ".", color="0.4", label="images")
    axes.plot(ahead["time"], ahead.isel(place), "k--", linewidth=1, label="what comes (no noise)")
    for number, (name, quantiles) in enumerate(forecasts.items()):
        low, middle, high = quantiles.isel(place).values
        axes.plot(quantiles["time"], middle, color=f"C{number}", label=f"forecast, {name}")
        axes.fill_between(
            quantiles["time"].values, low, high, color=f"C{number}", alpha=0.2, linewidth=0
        )
    axes.set(ylabel="reflectance, near infrared", title="one pixel, and its forecast")
    axes.legend(frameon=False, ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
