"""Small ENVI images, written by hand after the format's documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

H, W, L = 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13, "i8": 14, "u8": 15}
AXES = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}
UTM = "{UTM, 1.0, 1.0, 500000.0, 4000000.0, 30.0, 20.0, 10, North, WGS-84, units=Meters}"


def numbers(dtype: str = "i2") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 250, (H, W, L)).astype(dtype)


def write(
    folder: Path,
    stored: np.ndarray | None = None,
    *,
    interleave: str = "bil",
    byte_order: int = 0,
    offset: int = 0,
    name: str = "a.img",
    header: str = "a.hdr",
    drop: str = "",
    **fields: object,
) -> Path:
    """Returns the path of the header. Field names are written with spaces for underscores."""
    stored = numbers() if stored is None else stored
    code = stored.dtype.str[1:]
    data = np.transpose(stored, AXES[interleave.lower()])
    data = data.astype(data.dtype.newbyteorder("<>"[byte_order]))
    (folder / name).write_bytes(b"x" * offset + data.tobytes())
    height, width, num_bands = stored.shape
    entries = {
        "samples": width,
        "lines": height,
        "bands": num_bands,
        "header offset": offset,
        "data type": CODES[code],
        "interleave": interleave,
        "byte order": byte_order,
        "reflectance scale factor": 250,
    }
    entries |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = ["ENVI"]
    for key, value in entries.items():
        text = "{" + ", ".join(map(str, value)) + "}" if isinstance(value, list) else value
        if key != drop:
            lines.append(f"{key} = {text}")
    (folder / header).write_text("\n".join(lines) + "\n")
    return folder / header
