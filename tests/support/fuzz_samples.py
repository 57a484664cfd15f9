"""A small, valid sample of every format that the package reads, each in an empty folder, and the call that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import envi_files
import fuzz_beside
import h5py
import numpy as np
import polygon_cases
import products
import scipy.io
import xarray as xr

from pyro_unmix import SGLMM, Unmixing, fit, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.guides import ConjugateGuide
from pyro_unmix.io import (
    library_from_pixels,
    read_library,
    read_mask,
    read_sequence,
    read_uncertainty,
    write_library,
)

H, W, L = 3, 4, 5
CENTRES = np.array([450.0, 550.0, 650.0, 850.0, 1600.0])
CUBES = np.random.default_rng(8).uniform(0.05, 0.6, (2, H, W, L)).astype("f4")
COLUMNS = {"Y": CUBES[0].T.reshape(L, -1), "nRow": float(H), "nCol": float(W)}

Maker = Callable[[Path], Path]


def dataset() -> xr.Dataset:
    coords = {
        "wavelength": ("wavelength", CENTRES, {"units": "nm"}),
        "x": 500_000 + 30.0 * np.arange(W),
        "y": 4_000_000 - 30.0 * np.arange(H),
        "time": np.array(["2021-07-31", "2021-08-10"], "M8[ns]"),
    }
    return xr.DataArray(CUBES, coords, ("time", "y", "x", "wavelength"), "reflectance").to_dataset()


def envi(folder: Path) -> Path:
    wavelength = list(CENTRES)
    return envi_files.write(
        folder, wavelength=wavelength, wavelength_units="nm", map_info=envi_files.UTM
    )


def npy(folder: Path) -> Path:
    np.save(folder / "a.npy", CUBES)
    return folder / "a.npy"


def npz(folder: Path) -> Path:
    np.savez(folder / "a.npz", Y=CUBES, wavelength=CENTRES, wavelength_unit="nm")
    return folder / "a.npz"


def packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", cubes=np.round(CUBES, 1), wavelength=CENTRES)
    return folder / "a.npz"


def matlab_5(folder: Path) -> Path:
    scipy.io.savemat(folder / "a.mat", COLUMNS)
    return folder / "a.mat"


def packed_matlab_5(folder: Path) -> Path:
    scipy.io.savemat(folder / "a.mat", COLUMNS, do_compression=True)
    return folder / "a.mat"


def matlab_73(folder: Path) -> Path:
    path = folder / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in COLUMNS.items():
            file[name] = np.atleast_2d(value).T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def netcdf_4(folder: Path) -> Path:
    packing = {"reflectance": {"zlib": True, "shuffle": True, "chunksizes": (1, H, W, L)}}
    dataset().to_netcdf(folder / "a.nc", engine="h5netcdf", encoding=packing)
    return folder / "a.nc"


def netcdf_3(folder: Path) -> Path:
    dataset().to_netcdf(folder / "a.nc", engine="scipy")
    return folder / "a.nc"


def emit(folder: Path) -> Path:
    return products.write_emit(folder / "a.nc", CUBES[0], list(CENTRES))


def prisma(folder: Path) -> Path:
    numbers = (CUBES[0] * 60_000).astype("u2")
    lists = {"vnir_wavelength": CENTRES[::-1], "swir_wavelength": CENTRES[::-1] + 2000}
    return products.write_prisma(folder / "a.he5", numbers, numbers, **lists)


def geotiff(folder: Path) -> Path:
    tags = [{"wavelength": centre, "wavelength_units": "nm"} for centre in CENTRES]
    return products.write_tiff(folder / "a.tif", CUBES[0], band_tags=tags)


def tiled_geotiff(folder: Path) -> Path:
    layout = {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
    numbers = (CUBES[0] * 10_000).astype("i2")
    return products.write_tiff(
        folder / "a.tif", numbers, nodata=-1, scales=[1e-4] * L, offsets=[0.0] * L, **layout
    )


def zarr(folder: Path) -> Path:
    dataset().to_zarr(folder / "a.zarr", consolidated=False)
    return folder / "a.zarr"


def zarr_2(folder: Path) -> Path:
    dataset().to_zarr(folder / "a.zarr", zarr_format=2, consolidated=True)
    return folder / "a.zarr"


def library() -> xr.DataArray:
    coords = {
        "wavelength": CENTRES,
        "label": ("endmember", ["soil", "soil", "tree"]),
        "endmember": ["a", "b", "c"],
    }
    return xr.DataArray(CUBES[0, 0, :3].T, coords, ("wavelength", "endmember"), "reflectance")


def csv_library(folder: Path) -> Path:
    write_library(library(), folder / "a.csv")
    return folder / "a.csv"


def sli_library(folder: Path) -> Path:
    write_library(library(), folder / "a.sli")
    return folder / "a.sli"


def saved_result(folder: Path) -> Path:
    return unmix(CUBES, 2, num_steps=2, progress=False).save(folder / "saved")


def _fitted(folder: Path) -> Unmixing:
    """A fit that goes on where a checkpoint of that folder ends: after its last step."""
    model = SGLMM(CUBES[0, 0, :2].T, basis=DCT(1), seed=0)
    settings: dict[str, Any] = {"num_steps": 2, "seed": 0, "progress": False}
    return fit(model, ConjugateGuide(model), CUBES, checkpoint=folder, **settings)


def checkpoint(folder: Path) -> Path:
    _fitted(folder / "steps")
    return folder / "steps"


IMAGES: tuple[Maker, ...] = (envi, npy, npz, packed_npz, matlab_5, packed_matlab_5, matlab_73)
IMAGES += (netcdf_4, netcdf_3, emit, prisma, geotiff, tiled_geotiff, zarr, zarr_2)
IMAGES += fuzz_beside.IMAGES
LIBRARIES: tuple[Maker, ...] = (csv_library, sli_library, *fuzz_beside.LIBRARIES)
BESIDE = (*fuzz_beside.POLYGONS, *fuzz_beside.MASKS, *fuzz_beside.UNCERTAINTIES)
RESULTS: dict[Maker, Callable[[Path], Unmixing]] = {
    saved_result: Unmixing.load,
    checkpoint: _fitted,
}
MAKERS: dict[str, Maker] = {
    maker.__name__: maker for maker in (*IMAGES, *LIBRARIES, *BESIDE, *RESULTS)
}


def read(kind: str, path: Path, lazily: bool) -> str:
    """Read a sample or a mutant of it; what is not plausible about it, or nothing."""
    maker = MAKERS[kind]
    if maker in LIBRARIES:
        # Other programs may measure a channel twice, where detectors meet.
        return _fault_of_library(read_library(path), unique=maker not in fuzz_beside.LIBRARIES)
    if maker in RESULTS:
        return _fault_of_result(RESULTS[maker](path))
    if maker in fuzz_beside.POLYGONS:
        return _fault_of_library(library_from_pixels(polygon_cases.cubes(), path))
    if maker in fuzz_beside.MASKS:
        return _fault_of_mask(read_mask(path))
    if maker in fuzz_beside.UNCERTAINTIES:
        return _fault_of_uncertainty(read_uncertainty(path))
    if lazily:
        return _fault_of_cubes(read_sequence(path, chunks="auto").compute())
    return _fault_of_cubes(read_sequence(path))


def _fault_of_axis(array: xr.DataArray, unique: bool = True) -> str:
    if "wavelength" not in array.coords:
        return ""
    centres = np.asarray(array["wavelength"])
    if centres.dtype.kind != "f" or not (np.isfinite(centres) & (centres > 0)).all():
        return f"wavelengths {centres}"
    again = unique and len(np.unique(centres)) < len(centres)
    return f"wavelengths {centres}" if again else ""


def _fault_of_cubes(cubes: xr.DataArray) -> str:
    if cubes.dims != ("time", "y", "x", "wavelength") or not cubes.size:
        return f"sizes {dict(cubes.sizes)}"
    if cubes.dtype.kind != "f":
        return f"dtype {cubes.dtype}"
    values = cubes.to_numpy()
    if np.isinf(values).any() or np.isnan(values).all():
        return f"{np.isinf(values).sum()} infinite and {np.isnan(values).sum()} missing values"
    for name in ("x", "y"):
        if name in cubes.coords and not np.isfinite(cubes[name]).all():
            return f"{name} {cubes[name].values}"
    return _fault_of_axis(cubes)


def _fault_of_library(spectra: xr.DataArray, unique: bool = True) -> str:
    if spectra.dims != ("wavelength", "endmember") or not spectra.size:
        return f"sizes {dict(spectra.sizes)}"
    if spectra.dtype.kind != "f" or np.isinf(spectra).any():
        return f"{spectra.dtype}, infinite: {int(np.isinf(spectra).sum())}"
    if not all(str(label).strip() for label in spectra["label"].values):
        return "a label without a text"
    return _fault_of_axis(spectra, unique)


def _fault_of_mask(marked: xr.DataArray) -> str:
    if marked.dims not in (("y", "x"), ("time", "y", "x")) or not marked.size:
        return f"sizes {dict(marked.sizes)}"
    return "" if marked.dtype == bool else f"dtype {marked.dtype}"


def _fault_of_uncertainty(spread: xr.DataArray) -> str:
    if spread.dims != ("wavelength",) or not spread.size:
        return f"sizes {dict(spread.sizes)}"
    values = spread.to_numpy()
    if np.isinf(values).any() or (values < 0).any() or np.isnan(values).all():
        return f"values {values}"
    return _fault_of_axis(spread)


def _fault_of_result(result: Unmixing) -> str:
    maps, wanted = result.abundances, ("time", "y", "x", "endmember")
    if maps.dims != wanted or not maps.size:
        return f"sizes {dict(maps.sizes)}"
    return "infinite abundances" if np.isinf(maps).any() else ""
