"""Fractional cover from known spectra: the methods side by side on a scene with truth, a real crop, and powders.

    OMP_NUM_THREADS=1 python benchmarks/cover.py --data DIR [--scenes patch ...] [--methods fcls ...] [--seeds 0 1 2]
        [--quick]

One set of defaults for all scenes, no truth in any method. On patch.npz with the three classes of the package
earthlib it was made of: NRMSE_A, the share of true abundances in intervals of 90 % and their mean width over the RMSE
(of `monte_carlo_sma` the mean and 1.645 standard deviations to both sides), the median RMSE of the spectra, and CPU
seconds per million pixel-dates. On scenes of a generator of the same kind, `_other_scenes.patch_like`, the medians over
seeds. On the EMIT crop with its five library spectra, without the bands of the set ``emit``,
there is no truth: mean cover of the classes and median RMSE.

On powders of minerals.npz, the spectra of the two pure ones given, the same ways (`POWDERS`) for all pairs and for both
acquisitions of the pure powders, of which the second has another white reference (some ten per cent), and for a library
of both (`BOTH`): RMSE of the samples' mean fractions.

On small simulated scenes whose bands below 700 and above 2000 nm have a noise of .02, .05 or .1, the others of .003
(`uneven`): RMSE of the fractions with and without the uncertainty of the bands, and the share of true fractions in
intervals of 90 %, with a library of the scene's own spectra and with one of others of the same classes.
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
from _other_scenes import patch_like
from trust import _honesty, table

from pyro_unmix import Unmixing, as_cube_sequence, read_library, read_sequence, simulate, unmix
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
    # As SpectralUnmixing.jl solves: with three and with thirty spectra of three classes.
    "monte_carlo_sma, free": partial(monte_carlo_sma, sum_to_one=False),
    "monte_carlo_sma, free, ten": partial(
        monte_carlo_sma, sum_to_one=False, num_members=10, num_draws=20
    ),
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
#: The same of a library that has both acquisitions of each pure powder, two spectra of a class.
BOTH: dict[str, Callable[..., Unmixing]] = {
    f"{name}, both": POWDERS[name] for name in ("nnls, Hapke", "unmix", "unmix, Hapke")
}
PAIRS = ("CaSi", "FeCa", "FeSi")
#: The same of images, a library and an uncertainty, None for none.
UNEVEN: dict[str, Callable[..., Unmixing]] = {"nnls": nnls, "unmix": unmix}
NOISES = (0.02, 0.05, 0.1)
SCENES = ("patch", "patch-like", "emit", "powders", "uneven")
_MATERIALS = ("vegetation", "soil", "water")
_SIDE, _MEMBERS = 16, 8


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


def over_seeds(names: list[str], seeds: list[int], quick: bool = False) -> Iterator[dict[str, Any]]:
    """Medians of the rows of several scenes of the generator."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:
        scene, library = patch_like(seed, quick)
        for row in with_truth(names, scene.cubes, library, scene.abundances.values):
            rows[row["method"]].append(row)
    for name, each in rows.items():
        columns = [column for column in each[0] if column != "method"]
        yield {"method": name, **{c: float(np.median([row[c] for row in each])) for c in columns}}


def uneven(
    noise: float, own: bool, seed: int = 0
) -> tuple[xr.DataArray, xr.DataArray, np.ndarray, np.ndarray]:
    """Images, a library, the noise of the bands (L,), and true fractions (H, W, P) in the order of `_MATERIALS`.

    A pixel holds one spectrum of each class, of the library's or of others.
    """
    rng = np.random.default_rng(seed)
    wavelength = np.linspace(450, 2400, 40)
    pure = simulate.library(wavelength)

    def members(name: str, count: int) -> np.ndarray:
        waves = [
            np.sin(wavelength / rng.uniform(250, 600) + rng.uniform(0, 6)) for _ in range(count)
        ]
        changed = rng.normal(1, 0.08, count) + 0.05 * np.stack(waves, axis=1)
        return np.asarray(pure.sel(endmember=name).values[:, None] * changed)

    known = [members(name, _MEMBERS) for name in _MATERIALS]
    library = xr.DataArray(
        np.concatenate(known, axis=1),
        dims=("wavelength", "endmember"),
        coords={
            "wavelength": wavelength,
            "label": ("endmember", np.repeat(_MATERIALS, _MEMBERS)),
        },
    )
    truth = rng.dirichlet(np.full(len(_MATERIALS), 0.7), (_SIDE, _SIDE))
    shown = [
        one[:, rng.integers(0, _MEMBERS, _SIDE**2)] if own else members(name, _SIDE**2)
        for one, name in zip(known, _MATERIALS, strict=True)
    ]
    mixed = np.einsum("pln,np->nl", np.stack(shown), truth.reshape(-1, len(_MATERIALS)))
    spread = np.where((wavelength < 700) | (wavelength > 2000), noise, 0.003)
    values = mixed + spread * rng.normal(size=mixed.shape)
    images = as_cube_sequence(values.reshape(1, _SIDE, _SIDE, -1), wavelength=wavelength)
    return images, library, spread, truth


def of_uneven(names: list[str], noises: tuple[float, ...] = NOISES) -> Iterator[dict[str, Any]]:
    """A row for each method, with and without the uncertainty; a column for each noise and library."""
    for name in names:
        for weighed in (False, True):
            row: dict[str, Any] = {"method": f"{name}, uncertainty" if weighed else name}
            for own in (True, False):
                for noise in noises:
                    images, library, spread, truth = uneven(noise, own)
                    result = UNEVEN[name](
                        images, endmembers=library, uncertainty=spread if weighed else None, progress=False
                    )  # fmt: skip
                    estimate = result.abundances.sel(endmember=list(_MATERIALS)).values[0]
                    column = f"{noise:g}, {'own' if own else 'other'} spectra"
                    row[column] = float(np.sqrt(np.mean((estimate - truth) ** 2)))
                    if hasattr(result, "chains"):
                        bounds = result.interval(0.9).sel(endmember=list(_MATERIALS)).values[:, 0]
                        held = _honesty(bounds, truth, row[column], 0.9)
                        row[f"held, {column}"] = held["held 90%"]
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


def both_powders(folder: Path, pair: str) -> xr.DataArray:
    """A library (L, 4) of both acquisitions of both pure powders."""
    each = [powder(folder, pair, acquisition)[2] for acquisition in (0, 1)]
    spectra = np.stack(each, axis=-1).reshape(len(each[0]), -1)
    labels = np.repeat([pair[:2], pair[2:]], 2)
    return xr.DataArray(spectra, {"label": ("endmember", labels)}, ("wavelength", "endmember"))


def powders(names: list[str], folder: Path, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A row for each method, a column for each pair and acquisition, and their means."""
    step = slice(None, None, 10 if quick else 1)
    for name in names:
        row: dict[str, Any] = {"method": name}
        for acquisition in ("both",) if name in BOTH else (0, 1):
            errors = []
            for pair in PAIRS:
                images, truth, spectra = powder(folder, pair, int(acquisition == 1))
                images, known = images[:, step, step], spectra
                if name in BOTH:
                    known = both_powders(folder, pair)
                result = {**POWDERS, **BOTH}[name](images, endmembers=known, progress=False)
                error = result.abundances.mean(("y", "x")).values - truth
                errors.append(float(np.sqrt(np.mean(error**2))))
                row[f"{pair[:2]}, {pair[2:]} ({acquisition})"] = errors[-1]
            row[f"mean ({acquisition})"] = float(np.mean(errors))
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=SCENES)
    every = list(dict.fromkeys([*METHODS, *POWDERS, *BOTH]))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of patch-like")
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--quick", action="store_true", help="a few pixels of patch and powders")
    options = parser.parse_args()
    folder = data_folder(options.data)
    names = [name for name in options.methods if name in METHODS]
    if "patch" in options.scenes:
        print("patch.npz with its library\n")
        print(table(list(with_truth(names, *patch(folder, options.quick)))))
    if "patch-like" in options.scenes:
        print(f"\npatch-like with its library, medians over the seeds {options.seeds}\n")
        print(table(list(over_seeds(names, options.seeds, options.quick))))
    if "emit" in options.scenes:
        print("\nEMIT crop with its library\n")
        print(table(list(without_truth(names, *emit(folder)))))
    if "powders" in options.scenes:
        print("\npowders of minerals.npz with the pure ones\n")
        names = [name for name in options.methods if name in {**POWDERS, **BOTH}]
        print(table(list(powders(names, folder, options.quick))))
    if "uneven" in options.scenes:
        print("\nnoise that is not alike in all bands\n")
        names = [name for name in options.methods if name in UNEVEN]
        print(table(list(of_uneven(names, NOISES[:1] if options.quick else NOISES))))


if __name__ == "__main__":
    main()
