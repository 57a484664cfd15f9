"""Broken files of every format, each made from a whole one: what no reader may swallow.

A maker gets an empty folder, writes there, and yields the whole file first (`field` is None), then
the broken ones. To add a format, write a maker and add it to `MAKERS`.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import xarray as xr

H, W, L = 24, 20, 30
WAVELENGTH = np.linspace(420.0, 2400.0, L)
SHARES = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
GARBAGE = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"This is no image, but a few words.\n" * 20,
    "latin-1": "Größe: 3 µm\n".encode("latin-1") * 40,
    "zeros": bytes(4096),
    "noise": np.random.default_rng(5).bytes(4096),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
    "html": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
}


@dataclass(frozen=True)
class Case:
    """One file; `field` is a pattern for the field of its FileError, all of it; None if it is whole."""

    name: str
    path: Path
    field: str | None = None


Maker = Callable[[Path], Iterator[Case]]


def values() -> np.ndarray:
    """Reflectance (y, x, band), with no two numbers alike."""
    return np.random.default_rng(3).uniform(0.05, 0.6, (H, W, L))


def digital_numbers() -> np.ndarray:
    return (values() * 10_000).astype("i2")


def truncated(path: Path, folder: Path, field: str, shares: Any = SHARES) -> Iterator[Case]:
    """The file cut off after shares of its length, and without its last byte."""
    whole = path.read_bytes()
    lengths = {*(int(share * len(whole)) for share in shares), len(whole) - 1}
    for length in sorted(lengths):
        yield written(folder, f"cut to {length}", path.suffix, whole[:length], field)


def garbage(folder: Path, suffix: str, field: str) -> Iterator[Case]:
    """What has the name of the format only."""
    for name, content in GARBAGE.items():
        yield written(folder, name, suffix, content, field)


def _stem(name: str) -> str:
    return re.sub(r"\W+", "_", name.replace("-", "minus "))


def written(folder: Path, name: str, suffix: str, content: bytes, field: str) -> Case:
    """A broken file of that content."""
    path = folder / f"{_stem(name)}{suffix}"
    assert not path.exists(), f"two cases are called {name}"
    path.write_bytes(content)
    return Case(name, path, field)


# --- ENVI ------------------------------------------------------------------------------------

_HEADER = {
    "description": "{a scene}",
    "samples": W,
    "lines": H,
    "bands": L,
    "header offset": 0,
    "file type": "ENVI Standard",
    "reflectance scale factor": 10000,
    "data ignore value": -9999,
    "wavelength units": "Nanometers",
    "wavelength": "{" + ", ".join(f"{w:.3f}" for w in WAVELENGTH) + "}",
    "fwhm": "{" + ", ".join(["9.5"] * L) + "}",
    "bbl": "{" + ", ".join(["1"] * L) + "}",
    "acquisition time": "2021-07-31T10:30:00Z",
    "map info": "{UTM, 1, 1, 500000, 4000000, 30, 30, 10, North, WGS-84, units=Meters}",
    "data type": 2,
    "interleave": "bil",
    "byte order": 0,
}


def _envi(folder: Path, name: str, data: bytes, field: str | None, **changes: Any) -> Case:
    """Changes to the header; None drops a field. Spaces for underscores."""
    stem = _stem(name)
    entries = _HEADER | {key.replace("_", " "): value for key, value in changes.items()}
    lines = ["ENVI", *(f"{key} = {text}" for key, text in entries.items() if text is not None)]
    (folder / f"{stem}.hdr").write_text("\n".join(lines) + "\n")
    (folder / f"{stem}.img").write_bytes(data)
    return Case(name, folder / f"{stem}.img", field)


def envi(folder: Path) -> Iterator[Case]:
    stored = digital_numbers().transpose(0, 2, 1)
    data = stored.astype("<i2").tobytes()
    yield _envi(folder, "whole", data, None)
    for share in SHARES:
        yield _envi(folder, f"data {share}", data[: int(share * len(data))], "size")
    yield _envi(folder, "no data", b"", "size")
    yield _envi(folder, "one byte less", data[:-1], "size")
    yield _envi(folder, "one byte more", data + b"\0", "size")
    yield _envi(folder, "big-endian data", stored.astype(">i2").tobytes(), "values")
    yield _envi(folder, "big-endian header", data, "values", byte_order=1)
    floats = values().transpose(0, 2, 1).astype(">f4").tobytes()
    yield _envi(folder, "floats", floats, "values", data_type=4, reflectance_scale_factor=1)
    for name in ("samples", "lines", "bands", "data type", "interleave", "byte order"):
        yield _envi(folder, f"no {name}", data, name, **{name: None})
    yield _envi(folder, "no scale", data, "scale", reflectance_scale_factor=None)
    yield _envi(folder, "no unit", data, "wavelength units", wavelength_units=None)
    for name in ("samples", "lines", "bands"):
        for number in (0, -1, 1, 10**6, 10**12, 10**40, "NaN", "1e3", "{3}", "", "²"):
            field = "size" if number in (1, 10**6, 10**12) else name
            yield _envi(folder, f"{name} {number!r}", data, field, **{name: number})
    yield _envi(folder, "all sizes huge", data, "size", samples=10**9, lines=10**9, bands=10**9)
    yield _envi(folder, "offset", data, "size", header_offset=100)
    yield _envi(folder, "huge offset", data, "size", header_offset=10**15)
    for number in (0, 6, 9, 7, 99, "int16", 4):
        field = "size" if number == 4 else "data type"
        yield _envi(folder, f"type {number}", data, field, data_type=number)
    for text in ("bit", "", "B I L", "{bil}"):
        yield _envi(folder, f"interleave {text!r}", data, "interleave", interleave=text)
    yield _envi(folder, "byte order 2", data, "byte order", byte_order=2)
    yield from _envi_spectra(folder, data)
    yield from _envi_headers(folder, data)
    yield from garbage(folder, ".img", "header")


def _envi_spectra(folder: Path, data: bytes) -> Iterator[Case]:
    good = [f"{w:.3f}" for w in WAVELENGTH]
    lists = {
        "nan": ["nan", *good[1:]],
        "inf": ["inf", *good[1:]],
        "words": ["red", *good[1:]],
        "short": good[1:],
        "long": [*good, "2500"],
        "negative": ["-420", *good[1:]],
        "micrometres": [f"{w / 1000:.3f}" for w in WAVELENGTH],
    }
    for name, entries in lists.items():
        text = "{" + ", ".join(entries) + "}"
        yield _envi(folder, f"wavelength {name}", data, "wavelength", wavelength=text)
        yield _envi(folder, f"fwhm {name}", data, "fwhm", fwhm=text.replace("0.420", "0.0001"))
        yield _envi(folder, f"bbl {name}", data, "bbl|good", bbl=text)
    yield _envi(folder, "wrong unit", data, "wavelength", wavelength_units="Micrometers")
    yield _envi(folder, "other unit", data, "wavelength units", wavelength_units="GHz")
    for name in ("reflectance scale factor", "data ignore value"):
        for text in ("x", "{1, 2}", ""):
            yield _envi(folder, f"{name} {text!r}", data, name, **{name: text})
    yield _envi(folder, "scale 0", data, "reflectance scale factor", reflectance_scale_factor=0)
    yield _envi(folder, "scale 1", data, "values", reflectance_scale_factor=1)
    yield _envi(folder, "time", data, "acquisition time", acquisition_time="31.7.2021")
    for name, text in {
        "map short": "{UTM, 1}",
        "map words": "{UTM, a, b, c, d, e, f, 10, North, WGS-84}",
        "map nan": "{UTM, 1, 1, nan, 0, 30, 30, 10, North, WGS-84}",
        "map zone": "{UTM, 1, 1, 0, 0, 30, 30, 0, North, WGS-84}",
    }.items():
        yield _envi(folder, name, data, "map info", map_info=text)


def _envi_headers(folder: Path, data: bytes) -> Iterator[Case]:
    whole = (folder / "whole.hdr").read_bytes()
    headers = {f"header {n}": whole[:n] for n in (0, 3, 20, 60, 150, 400, 700, len(whole) - 2)}
    headers |= {
        "header without magic": whole.replace(b"ENVI\n", b"IVNE\n", 1),
        "header in latin-1": whole.replace(b"a scene", "Füße".encode("latin-1")),
        "header in utf-16": whole.decode().encode("utf-16"),
        "header with nulls": whole.replace(b"a scene", b"a\0scene"),
        "header of noise": b"ENVI\n" + GARBAGE["noise"],
        "header without end": whole.replace(b"scene}", b"scene"),
        "huge header": b"ENVI\n" + b"; nothing\n" * 300_000,
    }
    fields = {
        "header 60": "data type",
        "header 150": "data type",
        f"header {len(whole) - 2}": "byte order",
        "header without end": "samples",
    }
    for name, content in headers.items():
        (folder / f"{_stem(name)}.img").write_bytes(data)
        yield written(folder, name, ".hdr", content, fields.get(name, "header"))
    yield written(folder, "header alone", ".hdr", whole, "data file")


# --- NumPy -----------------------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _zip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def _shape(npy: bytes, shape: str) -> bytes:
    """The same bytes with another shape in the header, whose length stays."""
    old = f"'shape': ({H}, {W}, {L}), }}".encode()
    new = f"'shape': {shape}, }}".encode()
    assert npy.count(old) == 1
    grown = len(new) - len(old)
    return npy.replace(old + b" " * max(grown, 0), new + b" " * max(-grown, 0), 1)


def numpy_archives(folder: Path) -> Iterator[Case]:
    content = {"Y": values(), "wavelength": WAVELENGTH}
    np.savez(folder / "whole.npz", **content)  # type: ignore[arg-type]
    yield Case("whole", folder / "whole.npz")
    yield from truncated(folder / "whole.npz", folder, "array")
    yield from garbage(folder, ".npz", "array")
    np.savez_compressed(folder / "packed.npz", cubes=np.tile(values()[:1], (H, 1, 1)))
    yield Case("packed", folder / "packed.npz")
    (folder / "packed").mkdir()
    yield from truncated(folder / "packed.npz", folder / "packed", "array")
    for kind in ("whole", "packed"):
        raw = (folder / f"{kind}.npz").read_bytes()
        for place in (0.2, 0.5, 0.8):
            damaged = bytearray(raw)
            damaged[int(place * len(raw))] ^= 0xFF
            yield written(
                folder, f"{kind} flipped {place}", ".npz", bytes(damaged), "Y|cubes|content"
            )
    cube = _npy(values())
    changes = {
        "huge": _shape(cube, f"({10**12}, {W}, {L})"),
        "negative": _shape(cube, f"(-{H}, {W}, {L})"),
        "larger": _shape(cube, f"({H + 1}, {W}, {L})"),
        "smaller": _shape(cube, f"({H - 1}, {W}, {L})"),
        "overflow": _shape(cube, f"({2**62}, {2**62}, 4)"),
        "no header": cube[128:],
        "wrong magic": b"\x93NUMPI" + cube[6:],
        "version": cube[:6] + b"\x09\x00" + cube[8:],
        "short": cube[:-8],
        "other bytes": cube.replace(b"'<f8'", b"'>f8'"),
        "objects": cube.replace(b"'<f8'", b"'|O' "),
        "no type": cube.replace(b"'<f8'", b"'zzz'"),
        "code": cube.replace(b"'<f8'", b"f(1) "),
        "long header": cube[:8] + b"\xff\xff" + cube[10:],
    }
    for name, member in changes.items():
        members = {
            "Y": member,
            "wavelength": _npy(WAVELENGTH),
            "wavelength_unit": _npy(np.array("nm")),
        }
        _zip(folder / f"member_{name}.npz".replace(" ", "_"), **members)
        yield Case(name, folder / f"member_{name}.npz".replace(" ", "_"), "Y|values")
    arrays: dict[str, tuple[str, dict[str, Any]]] = {
        "no cube": ("variables", {"A": values()}),
        "flat": ("Y", {"Y": values()[0]}),
        "three axes": ("Y", {"Y": values()}),
        "five axes": ("Y", {"Y": values()[None, None]}),
        "zero size": ("values", {"cubes": values()[:0]}),
        "pickle": ("Y", {"Y": np.array([{}])}),
        "words": ("values", {"cubes": np.full((2, 2, 2), "a")}),
        "complex": ("values", {"cubes": values() + 0j}),
        "integers": ("scale", {"cubes": digital_numbers()}),
        "wavelength nan": ("wavelength", {"Y": values(), "wavelength": np.full(L, np.nan)}),
        "wavelength short": ("wavelength", {"Y": values(), "wavelength": WAVELENGTH[1:]}),
        "wavelength um": ("wavelength", {"Y": values(), "wavelength": WAVELENGTH / 1000}),
        "wavelength text": ("wavelength", {"Y": values(), "wavelength": ["red"] * L}),
        "scale nan": ("scale", {"cubes": values(), "scale": np.nan}),
        "scale text": ("scale", {"cubes": values(), "scale": "x"}),
        "infinite": ("values", {"cubes": np.where(values() > 0.5, np.inf, values())}),
        "all missing": ("values", {"cubes": np.full((H, W, L), np.nan)}),
        "percent": ("values", {"cubes": values() * 100}),
        "two dates": ("dates", {"cubes": values(), "time": ["2020-01-01", "2020-01-02"]}),
        "no date": ("dates", {"cubes": values(), "time": ["soon"]}),
    }
    for name, (field, members) in arrays.items():
        np.savez(folder / f"array_{name}.npz".replace(" ", "_"), **members)  # type: ignore[arg-type]
        yield Case(name, folder / f"array_{name}.npz".replace(" ", "_"), field)


def numpy_arrays(folder: Path) -> Iterator[Case]:
    np.save(folder / "whole.npy", values())
    yield Case("whole", folder / "whole.npy")
    yield from truncated(folder / "whole.npy", folder, "array")
    yield from garbage(folder, ".npy", "array")
    raw = (folder / "whole.npy").read_bytes()
    yield written(folder, "huge", ".npy", _shape(raw, f"({10**12}, {W}, {L})"), "array")
    yield written(folder, "longer", ".npy", raw + bytes(8), "array")
    yield written(folder, "swapped", ".npy", raw.replace(b"'<f8'", b"'>f8'"), "values")


# --- MATLAB ----------------------------------------------------------------------------------


def _columns() -> dict[str, Any]:
    matrix = values().transpose(2, 1, 0).reshape(L, -1)  # column-major pixels
    return {"Y": matrix, "nRow": float(H), "nCol": float(W)}


def _changed(raw: bytes, shape: tuple[int, ...], new: tuple[int, ...]) -> bytes:
    """Other dimensions in the first array of that shape."""
    old = struct.pack(f"<{len(shape)}i", *shape)
    assert old in raw
    return raw.replace(old, struct.pack(f"<{len(new)}i", *new), 1)


def matlab_v5(folder: Path) -> Iterator[Case]:
    scipy.io.savemat(folder / "whole.mat", _columns())
    yield Case("whole", folder / "whole.mat")
    yield from truncated(folder / "whole.mat", folder, "size|format")
    yield from garbage(folder, ".mat", "format")
    raw = (folder / "whole.mat").read_bytes()
    shape = (L, H * W)
    length = struct.pack("<I", 8 * math.prod(shape))
    # The tag of an array: type 14 and its length.
    start = raw.index(struct.pack("<I", 14), 128)
    changes = {
        "huge": _changed(raw, shape, (L, 2**31 - 1)),
        "huge both": _changed(raw, shape, (2**31 - 1, 2**31 - 1)),
        "negative": _changed(raw, shape, (L, -1)),
        "zero": _changed(raw, shape, (0, H * W)),
        "transposed": _changed(raw, shape, (H * W, L)),
        "one less": _changed(raw, shape, (L - 1, H * W)),
        "data length": raw.replace(length, struct.pack("<I", 2**32 - 1), 1),
        "element length": raw[: start + 4] + struct.pack("<I", 2**32 - 9) + raw[start + 8 :],
        "element type": raw[:start] + struct.pack("<I", 99) + raw[start + 4 :],
        "byte order": raw[:126] + b"MI" + raw[128:],
        "endian mark": raw[:126] + b"XX" + raw[128:],
        "data type": raw.replace(struct.pack("<I", 9) + length, struct.pack("<I", 77) + length),
        "other name": raw.replace(b"\x01\0\x01\0Y", b"\x01\0\x01\0X"),
        "trailing": raw + b"garbage",
    }
    fields = {
        "element length": "size",
        "element type": "content",
        "byte order": "content",
        "endian mark": "format",
        "other name": "variables",
        "trailing": "content",
    }
    for name, content in changes.items():
        yield written(folder, name, ".mat", content, fields.get(name, "Y"))
    yield from _matlab_contents(folder, scipy.io.savemat)


_MATLAB_FIELDS = {
    "no Y": "variables",
    "zero rows": "nRow",
    "nan rows": "nRow",
    "integers": "scale",
    "divided twice": "maxValue",
    "no unit": "wavelength units",
    "nan wavelength": "wavelength",
    "infinite": "nodata",
    "all missing": "values",
}


def _matlab_contents(folder: Path, save: Callable[[Path, dict[str, Any]], None]) -> Iterator[Case]:
    columns = _columns()
    contents: dict[str, dict[str, Any]] = {
        "no Y": {"M": columns["Y"]},
        "no size": {"Y": columns["Y"]},
        "wrong size": columns | {"nRow": float(H + 1)},
        "zero rows": columns | {"nRow": 0.0},
        "nan rows": columns | {"nRow": np.nan},
        "two sizes": columns | {"H": float(H), "W": float(W)},
        "three axes": {"Y": values()},
        "three odd axes": columns | {"Y": values().transpose(0, 2, 1)},
        "integers": columns | {"Y": (columns["Y"] * 1e4).astype("i2")},
        "divided twice": columns | {"maxValue": 5000.0},
        "no unit": columns | {"wavelength": WAVELENGTH},
        "nan wavelength": columns | {"wavelength": np.full(L, np.nan)},
        "infinite": columns | {"Y": np.full((L, H * W), np.inf)},
        "all missing": columns | {"Y": np.full((L, H * W), np.nan)},
    }
    for name, content in contents.items():
        path = folder / f"content_{name}.mat".replace(" ", "_")
        save(path, {key: np.atleast_2d(value) for key, value in content.items()})
        yield Case(name, path, _MATLAB_FIELDS.get(name, "Y"))


def matlab_v5_packed(folder: Path) -> Iterator[Case]:
    scipy.io.savemat(folder / "whole.mat", _columns(), do_compression=True)
    yield Case("whole", folder / "whole.mat")
    yield from truncated(folder / "whole.mat", folder, "size|format")
    raw = (folder / "whole.mat").read_bytes()
    size = struct.unpack("<I", raw[132:136])[0]
    inner = zlib.decompress(raw[136 : 136 + size])
    rest = raw[136 + size :]

    def packed(content: bytes) -> bytes:
        stream = zlib.compress(content)
        return raw[:128] + struct.pack("<II", 15, len(stream)) + stream + rest

    shape = (L, H * W)
    for name, content in {
        "huge": packed(_changed(inner, shape, (L, 2**31 - 1))),
        "shape": packed(_changed(inner, shape, (L, H * W + 1))),
        "cut inside": packed(inner[: len(inner) // 2]),
        "empty inside": packed(b""),
        "noise inside": packed(GARBAGE["noise"]),
        "no stream": raw[:136] + GARBAGE["noise"][:size].ljust(size, b"\0") + rest,
        "checksum": raw[: 136 + size - 1] + bytes([raw[136 + size - 1] ^ 0xFF]) + rest,
        "zeros": packed(inner[:64] + bytes(50_000_000)),
    }.items():
        field = "size" if name.endswith(" inside") else "Y"
        if name in ("noise inside", "no stream", "checksum"):
            field = "content"
        yield written(folder, name, ".mat", content, field)


def _save_v73(path: Path, content: dict[str, Any]) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            file[name] = np.atleast_2d(value).T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def matlab_v73(folder: Path) -> Iterator[Case]:
    _save_v73(folder / "whole.mat", _columns())
    yield Case("whole", folder / "whole.mat")
    yield from truncated(folder / "whole.mat", folder, "content|format")
    yield from _matlab_contents(folder, _save_v73)
    for name, change in _hdf5_changes("Y").items():
        path = folder / f"changed_{name}.mat".replace(" ", "_")
        shutil.copy(folder / "whole.mat", path)
        with h5py.File(path, "r+") as file:
            change(file)
        yield Case(name, path, "Y|content|values|variables|format")
    path = folder / "cells.mat"
    shutil.copy(folder / "whole.mat", path)
    with h5py.File(path, "r+") as file:
        del file["Y"]
        file.create_dataset("Y", (3, 1), dtype=h5py.ref_dtype)
    yield Case("cells of nothing", path, "Y")


# --- NetCDF and HDF5 -------------------------------------------------------------------------


def _hdf5_changes(name: str) -> dict[str, Callable[[h5py.File], None]]:
    def remade(shape: tuple[int, ...], dtype: Any = "f4", **how: Any) -> Callable[..., None]:
        def change(file: h5py.File) -> None:
            attrs = {k: v for k, v in file[name].attrs.items() if "DIMENSION" not in k}
            del file[name]
            file.create_dataset(name, shape, dtype, **how).attrs.update(attrs)

        return change

    def dropped(file: h5py.File) -> None:
        del file[name]

    def grouped(file: h5py.File) -> None:
        del file[name]
        file.create_group(name)

    huge = (10**5, 10**5, 10**5)
    return {
        "never written": remade((L, H * W)),
        "huge": remade(huge),
        "huge chunks": remade(huge, chunks=(10, 10, 10)),
        "huge packed": remade(huge, chunks=(10, 10, 10), compression="gzip"),
        "compound": remade((3,), np.dtype([("a", "f4"), ("b", "i2")])),
        "strings": remade((L, H * W), h5py.string_dtype()),
        "references": remade((3, 3), h5py.ref_dtype),
        "scalar": remade(()),
        "no dataset": dropped,
        "a group": grouped,
    }


def _dataset(**changes: Any) -> xr.Dataset:
    coords = {
        "wavelength": ("wavelength", WAVELENGTH, {"units": "nm"}),
        "x": 500_000 + 30.0 * np.arange(W),
        "y": 4_000_000 - 30.0 * np.arange(H),
        "time": np.datetime64("2021-07-31", "ns"),
    }
    cube = xr.DataArray(values().astype("f4"), dims=("y", "x", "wavelength"), coords=coords)
    return xr.Dataset({"reflectance": cube}).assign_coords(**changes)


def netcdf4(folder: Path) -> Iterator[Case]:
    _dataset().to_netcdf(folder / "whole.nc", engine="h5netcdf")
    yield Case("whole", folder / "whole.nc")
    yield from truncated(folder / "whole.nc", folder, "content|format")
    yield from garbage(folder, ".nc", "format")
    how = {"reflectance": {"zlib": True, "chunksizes": (12, 20, 10)}}
    _dataset().to_netcdf(folder / "packed.nc", engine="h5netcdf", encoding=how)
    yield Case("packed", folder / "packed.nc")
    (folder / "packed").mkdir()
    yield from truncated(folder / "packed.nc", folder / "packed", "content|format")
    raw = (folder / "packed.nc").read_bytes()
    with h5py.File(folder / "packed.nc") as file:
        chunks = [file["reflectance"].id.get_chunk_info(i) for i in range(3)]
    for chunk in chunks:
        middle = chunk.byte_offset + chunk.size // 2
        damaged = raw[:middle] + bytes(64) + raw[middle + 64 :]
        yield written(folder, f"chunk {middle}", ".nc", damaged, "reflectance|content")
    whole = (folder / "whole.nc").read_bytes()
    for place in range(0, 48, 8):
        damaged = whole[:place] + bytes([255] * 8) + whole[place + 8 :]
        if damaged != whole:  # an address that is not used is all ones already
            field = "content" if place else "format"
            yield written(folder, f"superblock {place}", ".nc", damaged, field)
    for name, change in _hdf5_changes("reflectance").items():
        path = folder / f"changed_{name}.nc".replace(" ", "_")
        shutil.copy(folder / "whole.nc", path)
        with h5py.File(path, "r+") as file:
            change(file)
        yield Case(name, path, "reflectance|content|variables")
    path = folder / "huge_axis.nc"
    shutil.copy(folder / "whole.nc", path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("lon", (10**12,), "f8", chunks=(10,)).make_scale("lon")
    yield Case("huge axis", path, "lon")
    yield from _netcdf_contents(folder, "h5netcdf")


_NETCDF_FIELDS = {
    "no unit": "wavelength units",
    "wrong unit": "wavelength",
    "odd unit": "wavelength units",
    "nan wavelength": "wavelength",
    "nan x": "x",
    "integers": "scale",
    "percent": "values",
    "infinite": "nodata",
    "all missing": "values",
    "twice": "dates",
    "no band": "values|content",  # NetCDF 3 has no axes of size zero
    "scale_factor x": "reflectance:scale_factor",
    "add_offset x": "reflectance:add_offset",
    "units K": "reflectance:units",
}


def _netcdf_contents(folder: Path, engine: Any) -> Iterator[Case]:
    wavelength = ("wavelength", WAVELENGTH, {"units": "nm"})
    nan = ("wavelength", np.full(L, np.nan), {"units": "nm"})
    dates = ("time", ["2021-07-31", "2021-07-31"])
    contents = {
        "no unit": _dataset(wavelength=wavelength[:2]),
        "wrong unit": _dataset(wavelength=(*wavelength[:2], {"units": "um"})),
        "odd unit": _dataset(wavelength=(*wavelength[:2], {"units": "bananas"})),
        "nan wavelength": _dataset(wavelength=nan),
        "nan x": _dataset(x=np.full(W, np.nan)),
        "no cube": _dataset().rename(wavelength="lambda"),
        "two cubes": _dataset().assign(a=_dataset().reflectance).rename(reflectance="b"),
        "integers": (_dataset() * 1e4).astype("i2"),
        "percent": _dataset() * 100,
        "infinite": _dataset() * np.inf,
        "all missing": _dataset() * np.nan,
        "twice": _dataset().drop_vars("time").expand_dims(time=2).assign_coords(time=dates),
        "empty": xr.Dataset(),
        "one number": xr.Dataset({"reflectance": 3.0}),
        "no band": _dataset().isel(wavelength=slice(0)),
    }
    for attribute, value in {"scale_factor": "x", "add_offset": "x", "units": "K"}.items():
        changed = _dataset()
        changed["reflectance"].attrs[attribute] = value
        contents[f"{attribute} {value}"] = changed
    for name, dataset in contents.items():
        path = folder / f"content_{name}.nc".replace(" ", "_")
        dataset.to_netcdf(path, engine=engine)
        yield Case(name, path, _NETCDF_FIELDS.get(name, "variables"))


def netcdf3(folder: Path) -> Iterator[Case]:
    dataset = _dataset().drop_vars("time")
    dataset.to_netcdf(folder / "whole.nc", engine="scipy", format="NETCDF3_64BIT")
    yield Case("whole", folder / "whole.nc")
    yield from truncated(folder / "whole.nc", folder, "content")
    raw = (folder / "whole.nc").read_bytes()
    start = raw.index(struct.pack(">I", H))
    for name, content in {
        "version 5": b"CDF\x05" + raw[4:],
        "version 9": b"CDF\x09" + raw[4:],
        "more rows": raw[:start] + struct.pack(">I", H + 1) + raw[start + 4 :],
        "huge rows": raw[:start] + struct.pack(">I", 2**31 - 1) + raw[start + 4 :],
        "records": raw[:4] + struct.pack(">I", 2**31 - 1) + raw[8:],
        "tags": raw[:8] + b"\xff" * 8 + raw[16:],
    }.items():
        if name != "records":  # there are no record variables, so that their number says nothing
            field = "format" if name.startswith("version") else "content"
            yield written(folder, name, ".nc", content, field)
    yield from _netcdf_contents(folder, "scipy")


MAKERS: dict[str, Maker] = {
    "envi": envi,
    "npz": numpy_archives,
    "npy": numpy_arrays,
    "matlab v5": matlab_v5,
    "matlab v5 packed": matlab_v5_packed,
    "matlab v7.3": matlab_v73,
    "netcdf4": netcdf4,
    "netcdf3": netcdf3,
}
