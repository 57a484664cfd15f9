"""Samples of what is read beside images: polygons, masks, uncertainties, libraries of other programs, products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import polygon_cases
import products
from library_files import ecostress_folder, usgs_folder, write_ecostress

H, W, L = 3, 4, 5
CENTRES = [450.0, 550.0, 650.0, 850.0, 1600.0]
RNG = np.random.default_rng(11)
NUMBERS = RNG.uniform(500, 6000, (H, W, L)).astype("i2")
MARKS = (NUMBERS[..., :1] > 4000).astype("u1")


def geojson(folder: Path) -> Path:
    return polygon_cases.write(folder / "a.geojson")


def shapefile(folder: Path) -> Path:
    return polygon_cases.write(folder / "a.shp")


def geopackage(folder: Path) -> Path:
    return polygon_cases.write(folder / "a.gpkg")


def tiff_mask(folder: Path) -> Path:
    return products.write_tiff(folder / "m.tif", MARKS, nodata=9)


def numpy_mask(folder: Path) -> Path:
    np.save(folder / "m.npy", np.stack([MARKS[..., 0], MARKS[..., 0]]))
    return folder / "m.npy"


def emit_mask(folder: Path) -> Path:
    names = ["Cloud flag", "Cirrus flag", "AOD550"]
    with h5py.File(folder / "EMIT_L2A_MASK_001.nc", "w") as file:
        file["mask"] = np.repeat(MARKS, 3, axis=-1).astype("f4")
        file["sensor_band_parameters/mask_bands"] = np.array(names, dtype=object)
    return folder / "EMIT_L2A_MASK_001.nc"


def emit_uncertainty(folder: Path) -> Path:
    path = products.write_emit(folder / "EMIT_L2A_RFLUNCERT_001.nc", NUMBERS / 1e6, CENTRES)
    with h5py.File(path, "r+") as file:
        file.move("reflectance", "reflectance_uncertainty")
    return path


def ecostress_file(folder: Path) -> Path:
    x = np.arange(0.4, 1.0, 0.02)
    return write_ecostress(folder, "Abies", "tree", x, 50 * x)


def usgs_files(folder: Path) -> Path:
    """Without the spectrum that lacks a channel of the other."""
    path = usgs_folder(folder / "ASCIIdata")
    for left_out in path.glob("*/ChapterM_Minerals/*"):
        left_out.unlink()
    return path


def spectral_database(folder: Path) -> Path:
    """Of the spectra that have the same channels."""
    from spectral.database import EcostressDatabase

    path = folder / "a.db"
    source = ecostress_folder(folder / "source")
    for left_out in [*source.glob("rock*"), *source.glob("soil*"), *source.glob("glass*")]:
        left_out.unlink()
    with closing(EcostressDatabase.create(str(path), str(source)).db):
        pass
    for used in source.iterdir():
        used.unlink()
    source.rmdir()
    return path


def enmap(folder: Path) -> Path:
    return products.write_enmap(folder / "enmap", NUMBERS, CENTRES)


def desis(folder: Path) -> Path:
    return products.write_desis(folder / "desis", NUMBERS, CENTRES)


def sentinel2(folder: Path) -> Path:
    return products.write_safe(folder, {"B2": NUMBERS[..., 0], "B3": NUMBERS[..., 1]})


def accompanied_geotiff(folder: Path) -> Path:
    """With a mask, a world file and metadata beside it."""
    flags = {f"INTERNAL_MASK_FLAGS_{band}": 2 for band in range(1, L + 1)}
    path = products.write_tiff(folder / "a.tif", NUMBERS, crs=None, transform=None)
    products.write_tiff(folder / "a.tif.msk", 255 - MARKS, tags=flags)
    (folder / "a.tfw").write_text("30\n0\n0\n-30\n500015\n3999985\n")
    bands = "".join(
        f'<PAMRasterBand band="{band}"><Scale>0.0001</Scale><Metadata><MDI key="wavelength">{nm}</MDI>'
        '<MDI key="wavelength_units">nm</MDI></Metadata></PAMRasterBand>'
        for band, nm in enumerate(CENTRES, start=1)
    )
    (folder / "a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    return path


Maker = Callable[[Path], Path]
POLYGONS: tuple[Maker, ...] = (geojson, shapefile, geopackage)
MASKS: tuple[Maker, ...] = (tiff_mask, numpy_mask, emit_mask)
UNCERTAINTIES: tuple[Maker, ...] = (emit_uncertainty,)
LIBRARIES: tuple[Maker, ...] = (ecostress_file, usgs_files, spectral_database)
IMAGES: tuple[Maker, ...] = (enmap, desis, sentinel2, accompanied_geotiff)
