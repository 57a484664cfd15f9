"""Broken raster and product files, one per case: `CASES[format][name](folder)` makes it.

Each must end in a `FileError` that names the file and the field, soon, without memory beyond twice
the file: `assert_refused` checks that.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from products import (
    cube,
    write_desis,
    write_emit,
    write_enmap,
    write_prisma,
    write_safe,
    write_tiff,
)

from pyro_unmix.io import FileError, read_sequence

NM = [450.0, 550.0, 650.0, 860.0, 1600.0, 2200.0]
Change = Callable[[Path], None]
Case = Callable[[Path], Path]
SLOW = 5.0  # s
SPARE = 500_000  # bytes, for what Python itself takes


def assert_refused(path: Path) -> None:
    """Reading ends in a FileError within 5 s and with little memory."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(file.stat().st_size for file in files)
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(FileError) as caught:
            read_sequence(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < SLOW
    assert peak < 2 * size + SPARE
    folder = path if path.is_dir() else path.parent
    assert str(folder) in str(caught.value)
    assert caught.value.field


def _cut(share: float, path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])


def _last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _magic(path: Path) -> None:
    path.write_bytes(b"GIF89a" + path.read_bytes()[6:])


def _byte_order(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes({b"II": b"MM", b"MM": b"II"}[raw[:2]] + raw[2:])


def _replace(old: bytes, new: bytes, path: Path) -> None:
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))


CUTS: dict[str, Change] = {
    "empty": _empty,
    "magic": _magic,
    **{f"cut at {share:.0%}": partial(_cut, share) for share in (0.02, 0.2, 0.5, 0.8, 0.95)},
}


def set_tag(tag: int, value: int, path: Path) -> None:
    """Set a tag of a small little-endian TIFF that stands in the page itself."""
    raw = bytearray(path.read_bytes())
    start = struct.unpack("<I", raw[4:8])[0]
    for entry in range(struct.unpack("<H", raw[start : start + 2])[0]):
        position = start + 2 + 12 * entry
        found, kind = struct.unpack("<HH", raw[position : position + 4])
        if found == tag:
            content = struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
            raw[position + 8 : position + 12] = content
            path.write_bytes(raw)
            return
    raise LookupError(tag)


def _tiff(options: dict, change: Change, folder: Path) -> Path:
    units = [{"wavelength": str(nm), "wavelength_units": "nm"} for nm in NM]
    values = cube(40, 30, 6)
    path = write_tiff(folder / "a.tif", values, band_tags=units, scales=[1e-4] * 6, **options)
    change(path)
    return path


_LAYOUTS: dict[str, dict] = {
    "strips": {"interleave": "band"},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    "big": {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "lzw"},
    "cog": {"driver": "COG", "compress": "deflate"},
}
_NUMBERS = {
    "width": (256, 60000),
    "no width": (256, 0),
    "height": (257, 60000),
    "no height": (257, 0),
    "bands": (277, 60000),
}
_TIFF_CASES: dict[str, Case] = {
    f"{layout}, {name}": partial(_tiff, options, change)
    for layout, options in _LAYOUTS.items()
    for name, change in {**CUTS, "byte order": _byte_order}.items()
}
_TIFF_CASES |= {
    f"strips, {name}": partial(_tiff, _LAYOUTS["strips"], partial(set_tag, *change))
    for name, change in _NUMBERS.items()
}
_TIFF_CASES |= {
    f"strips, {name}": partial(_tiff, _LAYOUTS["strips"], partial(_replace, old, new))
    for name, old, new in (
        ("wavelength nan", b'"wavelength" sample="1">550.0<', b'"wavelength" sample="1">nan  <'),
        (
            "wavelength is text",
            b'"wavelength" sample="1">550.0<',
            b'"wavelength" sample="1">red  <',
        ),
        ("wavelength missing", b'"wavelength" sample="1"', b'"wavelengTT" sample="1"'),
        ("unit missing", b'"wavelength_units"', b'"wavelength_xxxxx"'),
        ("unit of another world", b">nm<", b">km<"),
        ("unit in latin-1", b">nm<", b">\xb5m<"),
        ("scale zero", b">0.0001<", b">0.0000<"),
        ("scale nan", b">0.0001<", b">nan   <"),
        ("scale of no reflectance", b">0.0001<", b">1e+05 <"),
    )
}


def _enmap(part: str, change: Change, folder: Path) -> Path:
    metadata = write_enmap(folder, cube(40, 30, 6), NM)
    change(metadata if part == "metadata" else next(folder.glob("*SPECTRAL_IMAGE.TIF")))
    return metadata


def _desis(part: str, change: Change, folder: Path) -> Path:
    metadata = write_desis(folder, cube(40, 30, 6), NM)
    change(metadata if part == "metadata" else next(folder.glob("*SPECTRAL_IMAGE.tif")))
    return metadata


def _safe(part: str, change: Change, folder: Path) -> Path:
    bands = {
        "B2": cube(40, 30, 1, "uint16")[..., 0] + 1000,
        "B4": cube(40, 30, 1, "uint16")[..., 0],
    }
    safe = write_safe(folder, bands)
    change(next(safe.glob("*.xml")) if part == "metadata" else next(safe.rglob("*B04*.jp2")))
    return safe


def _without_element(name: str, path: Path) -> None:
    _replace(f"<{name}>".encode(), b"<gone>", path)
    _replace(f"</{name}>".encode(), b"</gone>", path)


def _texts(product: Callable[[str, Change, Path], Path], fields: list[str]) -> dict[str, Case]:
    changes: dict[str, Change] = {f"without {f}": partial(_without_element, f) for f in fields}
    changes["latin-1 in UTF-8"] = partial(_replace, b"</", b"\xe9</")
    changes["entities"] = partial(_replace, b"?><", b"?><!DOCTYPE a [<!ENTITY b 'c'>]><")
    cases = {f"metadata, {name}": partial(product, "metadata", c) for name, c in changes.items()}
    cases |= {f"metadata, {name}": partial(product, "metadata", c) for name, c in CUTS.items()}
    return cases | {f"image, {name}": partial(product, "image", c) for name, c in CUTS.items()}


_ENMAP_CASES = _texts(
    _enmap,
    "level wavelengthCenterOfBand FWHMOfBand GainOfBand OffsetOfBand startTime backgroundValue "
    "bandCharacterisation".split(),
)
_DESIS_CASES = _texts(
    _desis,
    "bandNumber wavelengthCenterOfBand wavelengthWidthOfBand gainOfBand offsetOfBand startTime "
    "bandCharacterisation".split(),
)
_SAFE_CASES = _texts(_safe, ["PRODUCT_START_TIME", "PROCESSING_BASELINE"])


def _in_file(change: Callable[[h5py.File], None], path: Path) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def _remove(name: str, file: h5py.File) -> None:
    del file[name]


def _huge(name: str, shape: tuple[int, ...], file: h5py.File) -> None:
    dtype = file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=(1, 1, shape[2]), compression="gzip")


def _never_written(name: str, file: h5py.File) -> None:
    shape, dtype = (30_000, 30_000, file[name].shape[2]), file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype)


def _fill(name: str, value: float, file: h5py.File) -> None:
    file[name][...] = value


def _attribute(name: str, value: object, file: h5py.File) -> None:
    if value is None:
        del file.attrs[name]
    else:
        file.attrs[name] = value


def _emit(change: Change, folder: Path) -> Path:
    path = write_emit(folder / "EMIT_L2A_RFL.nc", cube(40, 30, 6) / 1e4, NM)
    change(path)
    return path


def _prisma(change: Change, folder: Path) -> Path:
    path = write_prisma(
        folder / "PRS_L2D_STD.he5",
        cube(40, 30, 3, "uint16"),
        cube(40, 30, 3, "uint16"),
        vnir_wavelength=[900.0, 700.0, 500.0],
        swir_wavelength=[2200.0, 1600.0, 950.0],
    )
    change(path)
    return path


_BANDS = "sensor_band_parameters"
_EMIT_CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "no cube": partial(_remove, "reflectance"),
    "no bands": partial(_remove, _BANDS),
    "no wavelengths": partial(_remove, f"{_BANDS}/wavelengths"),
    "huge": partial(_huge, "reflectance", (100_000, 100_000, 6)),
    "never written": partial(_never_written, "reflectance"),
    "wavelengths nan": partial(_fill, f"{_BANDS}/wavelengths", np.nan),
    "wavelengths zero": partial(_fill, f"{_BANDS}/wavelengths", 0.0),
    "fwhm negative": partial(_fill, f"{_BANDS}/fwhm", -1.0),
    "no good band": partial(_fill, f"{_BANDS}/good_wavelengths", 0),
    "infinite": partial(_fill, "reflectance", np.inf),
    "no reflectance": partial(_fill, "reflectance", 3e8),
    "date": partial(_attribute, "time_coverage_start", "soon"),
}
_CUBE = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"
_PRISMA_CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "no cube": partial(_remove, _CUBE),
    "no level": partial(_remove, "HDFEOS/SWATHS/PRS_L2D_HCO"),
    "huge": partial(_huge, _CUBE, (100_000, 3, 100_000)),
    "never written": partial(_never_written, _CUBE),
    **{
        f"no {name}": partial(_attribute, name, None)
        for name in (
            "L2ScaleVnirMin L2ScaleVnirMax L2ScaleSwirMin L2ScaleSwirMax List_Cw_Vnir List_Cw_Swir "
            "List_Fwhm_Vnir List_Fwhm_Swir Product_StartTime Epsg_Code Product_ULcorner_easting"
        ).split()
    },
    "wavelengths nan": partial(_attribute, "List_Cw_Vnir", [np.nan] * 3),
    "wavelengths short": partial(_attribute, "List_Cw_Vnir", [700.0]),
    "scale inf": partial(_attribute, "L2ScaleVnirMax", np.inf),
    "date": partial(_attribute, "Product_StartTime", "soon"),
}
# The end of an HDF5 file is its last object: one byte less is a truncated file.
_HDF5_CUTS = {**CUTS, "last byte": _last_byte}

CASES: dict[str, dict[str, Case]] = {
    "geotiff": _TIFF_CASES,
    "enmap": _ENMAP_CASES,
    "desis": _DESIS_CASES,
    "sentinel2": _SAFE_CASES,
    "emit": {name: partial(_emit, change) for name, change in _HDF5_CUTS.items()}
    | {n: partial(_emit, partial(_in_file, change)) for n, change in _EMIT_CHANGES.items()},
    "prisma": {name: partial(_prisma, change) for name, change in _HDF5_CUTS.items()}
    | {n: partial(_prisma, partial(_in_file, change)) for n, change in _PRISMA_CHANGES.items()},
}
