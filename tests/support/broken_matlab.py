"""Broken files of MATLAB, version 5 and 7.3."""

from __future__ import annotations

import math
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from broken_case import GARBAGE, WAVELENGTH, Case, H, L, W, garbage, truncated, values, written
from broken_netcdf import hdf5_changes


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
    for name, change in hdf5_changes("Y").items():
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
