"""A real sequence: five Sentinel-2 images of one place, 13 bands, four endmembers.

    python examples/real_sequence.py sentinel2_5dates.npy

The file is a numpy array (dates, rows, columns, bands) of reflectance, bands in the order B1 to B12
with B8A after B8. There is no truth, so that nothing is scored; writes true-colour images, maps of
the abundances, of their posterior std and of the change, and the endmembers of the last date.
Takes about half a minute.

What the pictures show. Dates 0 and 1 are under cloud, dates 2 to 4 are clear: a road from top to
bottom through forest, with meadows and fields along it; on date 4 some fields are bare, and three
dots of pure red, green and blue in a row are probably an aircraft. The four endmembers are

- cloud: .36 to .51 from blue to near infrared, with some of the red edge of the plants below it.
  Three quarters of date 0, a quarter of date 1, later nothing but a trace on the bright road.
- dark green: .15 in the near infrared, the closed forest. 60 % of dates 2 and 3, 46 % of date 4.
- bright green: .4 in the near infrared, meadows and the lighter woods. From 31 % of date 2 to 43 %
  of date 4, at the cost of the dark green: what grows, or the higher sun, has no other endmember.
- fields: less red edge, most short-wave infrared; the strips along the road, up to pure on the
  bare fields of date 4, where the map has the coarse blocks of the bands of 20 m and 60 m.

Do not trust the surface below the cloud: on dates 0 and 1 the three plant maps are smooth, follow
the cloud, and show hardly any meadow or road, while their std (up to .06) is no larger than on
clear dates. The model knows no cloud that shines through; mark such pixels as missing (NaN)
instead. The change map is bright all over at date 1 (moving cloud) and on the meadows at date 2. At
date 3, whose image looks like that of date 2, it still speckles at .1 to .4, slantwise, as tree
crowns shade each other: it compares with an unsmoothed regression. At date 4 it marks the fields
that became bare, .6 to .9, and the edges of road and paths. NRMSE_Y of .01 only says that four
materials with free variability can fit 13 bands.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import pyro_unmix as pu
from pyro_unmix.metrics import nrmse_reconstruction

# Central wavelengths of B1 to B8, B8A, and B9 to B12, in nm.
WAVELENGTHS = (443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190)
RED, GREEN, BLUE = 3, 2, 1


def plot_true_colour(cubes: xr.DataArray) -> Figure:
    """The images in natural colours, each channel of each date stretched by itself.

    With one stretch for all channels the haze, .04 brighter in blue than in red, paints the forest
    blue. The hues of two dates do not compare exactly.
    """
    figure = Figure(figsize=(2.4 * cubes.sizes["time"], 2.7), layout="constrained")
    for time_, ax in enumerate(figure.subplots(1, cubes.sizes["time"], squeeze=False)[0]):
        image = cubes.values[time_][..., [RED, GREEN, BLUE]]
        low, high = np.nanpercentile(image, [1, 99], axis=(0, 1))
        ax.imshow(((image - low) / (high - low)).clip(0, 1))
        ax.set(title=f"t = {time_}", xticks=[], yticks=[])
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sequence", type=Path, help=".npy file (dates, rows, columns, 13 bands)")
    parser.add_argument("--endmembers", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out/sentinel2"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="every fourth pixel and few steps")
    arguments = parser.parse_args(argv)

    cubes = pu.as_cube_sequence(np.load(arguments.sequence), wavelength=WAVELENGTHS)
    settings = {"seed": arguments.seed}
    if arguments.quick:
        cubes, settings["num_steps"] = cubes[:, ::4, ::4], 5

    started = time.perf_counter()
    result = pu.unmix(cubes, arguments.endmembers, **settings)
    seconds = time.perf_counter() - started
    dates = range(cubes.sizes["time"])
    error = nrmse_reconstruction((result.reconstruct(date) for date in dates), cubes)
    print(f"{seconds:.0f} s, NRMSE_Y {error:.4f}; mean abundances, one row per date:")
    print(result.abundances.mean(("y", "x")).round(2).values)

    pictures = {
        "true_colour": plot_true_colour(cubes),
        "abundances": pu.plots.plot_abundances(result),
        "uncertainty": pu.plots.plot_uncertainty(result),
        "endmembers": pu.plots.plot_endmembers(result, time=-1),
    }
    if result.change.notnull().any():  # chains, where the model of unmix does not hold, know none
        pictures["change"] = pu.plots.plot_change(result)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
