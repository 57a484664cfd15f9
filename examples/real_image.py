"""One real image (T = 1) against a published reference: Jasper Ridge and Samson.

    python examples/real_image.py jasper_ridge_r198.mat --reference jasper_ridge_end4.mat
    python examples/real_image.py samson.mat --names soil tree water
    python examples/real_image.py other.mat --endmembers 5

The image file holds ``Y`` (bands, pixels), pixels column-major, and the image size in ``nRow`` and
``nCol`` or ``lines`` and ``cols``. The reference holds ``M`` (bands, P) and ``A`` (P, pixels), or
``GT`` (P, bands) and ``S_GT`` (rows, columns, P); it may be in the image file itself. Both images
are described, and their public copies linked, in F. Zhu, "Hyperspectral unmixing: ground truth
labeling, datasets, benchmark performances and survey", arXiv:1708.05125. Each takes some 20 seconds.

Which convention? The references of these two images belong to endmembers that are scaled to
maximum one, so that a pixel's brightness is free and a dark material (water) counts by its own
brightness. They are compared in that convention (`Unmixing.unit_maximum`), with the model that it
assumes: ``basis=Brightness()``, one brightness per material and pixel. The default of `unmix`,
which chooses its basis by the marginal likelihood and gives fractions of the linear mixing model,
is printed beside it.

What the maps show. Jasper Ridge: the lake as a broad band from top to bottom, left of the middle,
trees on both banks, dirt between and around them, and the road as a double line from the upper
right corner to the right edge; paths and parts of the shore are road-like too. Beside the
reference the maps look alike; the estimate stays short of pure where the reference is pure (about
0.9 instead of 1 on much of the lake), and gives the shallow lower left of the lake 0.2 of road,
where the reference has 0.1. Samson: water on the left, a belt of trees in the middle, soil on the
right; again the estimate is a little less pure, with up to 0.1 of soil on the water. The std is
largest where trees and soil mix, and along shores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.io
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.io import read_sequence
from pyro_unmix.methods import fcls


def read_reference(path: Path, cubes: xr.DataArray) -> tuple[np.ndarray, xr.DataArray] | None:
    """Spectra (bands, P) and abundances (time, y, x, endmember) of a reference, if there is one."""
    content = scipy.io.loadmat(path)
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    if "M" in content and "A" in content:
        spectra = content["M"]
        maps = content["A"].reshape(-1, height, width, order="F").transpose(1, 2, 0)
    elif "GT" in content and "S_GT" in content:
        spectra, maps = content["GT"].T, content["S_GT"]
    else:
        return None
    names = [f"material {p}" for p in range(spectra.shape[1])]
    if "cood" in content:  # "1-tree", "2-water", ...
        names = [str(cell[0]).partition("-")[2] for cell in content["cood"].ravel()]
    coords = {"endmember": names}
    return spectra, xr.DataArray(maps[None], dims=("time", "y", "x", "endmember"), coords=coords)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, help=".mat file with the image")
    parser.add_argument("--reference", type=Path, help="default: the image file, if it has one")
    parser.add_argument("--endmembers", type=int, help="default: as many as in the reference")
    parser.add_argument("--names", nargs="+", help="of the reference's materials")
    parser.add_argument("--out", type=Path, default=Path("out/real_image"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="every fourth pixel and few steps")
    arguments = parser.parse_args(argv)

    cubes = read_sequence(arguments.image)
    reference = read_reference(arguments.reference or arguments.image, cubes)
    if reference is None and arguments.endmembers is None:
        parser.error("there is no reference: pass --reference FILE or --endmembers N")
    count = arguments.endmembers or reference[0].shape[1]
    if reference is not None and reference[0].shape[1] != count:
        parser.error(f"the reference has {reference[0].shape[1]} materials, not {count}")
    if reference is not None and arguments.names:
        reference[1]["endmember"] = arguments.names
    settings = {"seed": arguments.seed}
    if arguments.quick:
        cubes, settings["num_steps"] = cubes[:, ::4, ::4], 5
        reference = reference and (reference[0], reference[1][:, ::4, ::4])

    # FCLS is given the endmembers of the first result.
    methods = {
        "Brightness": lambda: pu.unmix(cubes, count, basis=pu.Brightness(), **settings),
        "default": lambda: pu.unmix(cubes, count, **settings),
        "FCLS": lambda: fcls(
            cubes, endmembers=results["Brightness"].reference_endmembers, progress=False
        ),
    }
    results = {}
    for name, method in methods.items():
        started = time.perf_counter()
        results[name] = method()
        print(f"{name:10} {time.perf_counter() - started:5.1f} s", end="")
        if reference is not None:
            errors = [rmse(results[name], unit, reference) for unit in (False, True)]
            print("   RMSE_A {:.3f}, in the unit-maximum convention {:.3f}".format(*errors), end="")
        print()

    draw(results["Brightness"], reference, arguments.out)


def rmse(result: pu.Unmixing, unit_maximum: bool, reference: tuple) -> float:
    """RMSE_A, materials matched by spectral angle."""
    order = pu.match_endmembers(result.reference_endmembers, reference[0])
    maps = result.unit_maximum() if unit_maximum else result.abundances
    return pu.metrics.rmse_abundances(maps.values[..., order], reference[1].values)


def draw(result: pu.Unmixing, reference: tuple | None, out: Path) -> None:
    """Maps in the reference's convention beside it, their std, and the endmembers."""
    truth = names = None
    if reference is not None:
        order = pu.match_endmembers(reference[0], result.reference_endmembers)
        truth = reference[1].values[..., order]
        names = reference[1].endmember.values[order].tolist()
    unit_maximum = result.dataset.assign(abundances=result.unit_maximum())
    shown = replace(result, dataset=unit_maximum)
    pictures = {
        "abundances": pu.plots.plot_abundances(shown, truth=truth, names=names),
        "uncertainty": pu.plots.plot_uncertainty(result, names=names),
        "endmembers": pu.plots.plot_endmembers(result, names=names),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
