"""Broken ENVI files: data, spectra and headers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broken_case import (
    GARBAGE,
    SHARES,
    WAVELENGTH,
    Case,
    H,
    L,
    W,
    digital_numbers,
    garbage,
    stem_of,
    values,
    written,
)

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
    stem = stem_of(name)
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
        (folder / f"{stem_of(name)}.img").write_bytes(data)
        yield written(folder, name, ".hdr", content, fields.get(name, "header"))
    yield written(folder, "header alone", ".hdr", whole, "data file")
