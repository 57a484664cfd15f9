"""Fractional cover from known spectra: the methods side by side on a scene with truth, a real crop, and powders.

    OMP_NUM_THREADS=1 python benchmarks/cover.py --data DIR [--scenes patch emit powders] [--methods fcls ...] [--quick]

One set of defaults for all scenes, no truth in any method. On patch.npz with the three classes of the package
earthlib it was made of: NRMSE_A, the share of true abundances in intervals of 90 % and their mean width over the RMSE
(of `monte_carlo_sma` the mean and 1.645 standard deviations to both sides), the median RMSE of the spectra, and CPU
seconds per million pixel-dates. On the EMIT crop with its five library spectra, without the bands of the set ``emit``,
there is no truth: mean cover of the classes and median RMSE.

On powders of minerals.npz, the spectra of the two pure ones given, the same ways (`POWDERS`) for all pairs and for both
acquisitions of the pure powders, of which the second has another white reference (some ten per cent): RMSE of the
samples' mean fractions.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _data import data_folder
from trust import _honesty, table

from pyro_unmix import Unmixing, as_cube_sequence, read_library, read_sequence, unmix
from pyro_unmix.methods import (
    fcls,
    mesma,
    minimum_volume,
    monte_carlo_sma,
    nnls,
    sparse_regression,
)
from pyro_unmix.mixing import Hapke

CLASSES = ("vegetation", "npv", "bare")  # of patch.npz, in its order
_Z = 1.645  # std to each side that hold 90 % of a normal distribution
_QUICK = {"time": slice(1), "y": slice(None, None, 10), "x": slice(None, None, 10)}

#: Name in the table -> method of images and a library.
METHODS: dict[str, Callable[..., Unmixing]] = {
    "fcls": fcls,
    "fcls, shade": partial(fcls, shade=True),
    "fcls, normalised": partial(fcls, normalize=True),
    "nnls": nnls,
    "mesma": mesma,
    "mesma, best fit": partial(mesma, gain=0.0),
    "mesma, shade": partial(mesma, shade=True),
    "mesma, normalised": partial(mesma, normalize=True),
    "monte_carlo_sma": monte_carlo_sma,
    "monte_carlo_sma, normalised": partial(monte_carlo_sma, normalize=True),
    "sparse_regression": sparse_regression,
    "minimum_volume": minimum_volume,  # which only starts from the library
    "unmix": unmix,
}
#: The same of images and spectra of powders.
POWDERS: dict[str, Callable[..., Unmixing]] = {
    "fcls": fcls,
    "fcls, Hapke": partial(fcls, mixing=Hapke()),
    "nnls": nnls,
    "nnls, Hapke": partial(nnls, mixing=Hapke()),
    "unmix": unmix,
    "unmix, Hapke": partial(unmix, mixing=Hapke()),
    "unmix, trained": partial(unmix, trained=True),
    "unmix, trained, Hapke": partial(unmix, trained=True, mixing=Hapke()),
}
PAIRS = ("CaSi", "FeCa", "FeSi")
SCENES = ("patch", "emit", "powders")


def patch(folder: Path, quick: bool = False) -> tuple[xr.DataArray, xr.DataArray, np.ndarray]:
    """Images, library of its classes, and true abundances (T, H, W, P) in the order of `CLASSES`."""
    with np.load(folder / "patch.npz") as file:
        cubes = as_cube_sequence(file["Y"], wavelength=file["wavelength"])
        truth = xr.DataArray(file["A"], dims=("time", "y", "x", "endmember"))
    library = read_library("earthlib")
    library = library.isel(endmember=np.isin(library["label"].values, CLASSES))
    if quick:
        cubes, truth = cubes.isel(_QUICK), truth.isel(_QUICK)
    return cubes, library, truth.values


def emit(folder: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """The crop, and its library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # bands of fill
        library = read_library(folder / "emit_endmember_library.csv", scale=1e-4)
    return read_sequence(folder / "readers" / "emit_l2a_crop.hdr", ignore="emit"), library


def run(name: str, cubes: xr.DataArray, library: xr.DataArray) -> tuple[Unmixing, dict[str, Any]]:
    """A result, and its row so far."""
    cpu = time.process_time()
    result = METHODS[name](cubes, endmembers=library, progress=False)
    seconds = time.process_time() - cpu
    row = {"method": name, "RMSE": float(result.rmse.median())}
    return result, {**row, "CPU s / 1e6": seconds / int(result.valid.sum()) * 1e6}


def with_truth(
    names: list[str], cubes: xr.DataArray, library: xr.DataArray, truth: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Rows of a scene whose abundances are known."""
    for name in names:
        result, row = run(name, cubes, library)
        estimate = result.abundances.sel(endmember=list(CLASSES)).values
        known = np.isfinite(estimate)
        error = (estimate - truth)[known]
        rmse = float(np.sqrt(np.mean(error**2)))
        row["NRMSE_A"] = float(np.linalg.norm(error) / np.linalg.norm(truth[known]))
        if result.model is not None or hasattr(result, "chains"):
            bounds = result.interval(0.9).sel(endmember=list(CLASSES)).values
            row |= _honesty(bounds, truth, rmse, 0.9)
        elif result.abundances_std.notnull().any():
            std = result.abundances_std.sel(endmember=list(CLASSES)).values
            row |= _honesty(np.stack([estimate - _Z * std, estimate + _Z * std]), truth, rmse, 0.9)
        yield row


def without_truth(
    names: list[str], cubes: xr.DataArray, library: xr.DataArray
) -> Iterator[dict[str, Any]]:
    """Rows of a scene of which nothing is known."""
    for name in names:
        result, row = run(name, cubes, library)
        means = result.abundances.mean(("time", "y", "x"))
        yield {**row, **{str(c): float(means.sel(endmember=c)) for c in means["endmember"].values}}


def powder(folder: Path, pair: str, acquisition: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of the samples (T, H, W, L), their fractions (T, 2), and spectra of the pure powders (L, 2)."""
    with np.load(folder / "minerals.npz") as file:
        pure = [file[f"{pair}_pure_{name}"][acquisition] for name in (pair[:2], pair[2:])]
        spectra = np.stack([image.mean(axis=(0, 1)) for image in pure], axis=1)
        return file[f"{pair}_Y"], file[f"{pair}_A"], spectra


def powders(names: list[str], folder: Path, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each method, a column for each pair and acquisition, and their means."""
    step = slice(None, None, 10 if quick else 1)
    for name in names:
        row: dict[str, Any] = {"method": name}
        for acquisition in (0, 1):
            errors = []
            for pair in PAIRS:
                images, truth, spectra = powder(folder, pair, acquisition)
                images = images[:, step, step]
                result = POWDERS[name](images, endmembers=spectra, progress=False)
                error = result.abundances.mean(("y", "x")).values - truth
                errors.append(float(np.sqrt(np.mean(error**2))))
                row[f"{pair[:2]}, {pair[2:]} ({acquisition})"] = errors[-1]
            row[f"mean ({acquisition})"] = float(np.mean(errors))
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES)
    every = list(dict.fromkeys([*METHODS, *POWDERS]))
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--quick", action="store_true", help="a few pixels of patch and powders")
    options = parser.parse_args()
    folder = data_folder(options.data)
    names = [name for name in options.methods if name in METHODS]
    if "patch" in options.scenes:
        print("patch.npz with its library\n")
        print(table(list(with_truth(names, *patch(folder, options.quick)))))
    if "emit" in options.scenes:
        print("\nEMIT crop with its library\n")
        print(table(list(without_truth(names, *emit(folder)))))
    if "powders" in options.scenes:
        print("\npowders of minerals.npz with the pure ones\n")
        names = [name for name in options.methods if name in POWDERS]
        print(table(list(powders(names, folder, options.quick))))


if __name__ == "__main__":
    main()
