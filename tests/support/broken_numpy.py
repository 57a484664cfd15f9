"""Broken archives and arrays of NumPy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from broken_case import (
    WAVELENGTH,
    Case,
    H,
    L,
    W,
    digital_numbers,
    garbage,
    truncated,
    values,
    written,
)


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
