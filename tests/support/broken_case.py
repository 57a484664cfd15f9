"""What broken files are made of: a small scene, ways to break bytes, and a file with what is broken in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


def stem_of(name: str) -> str:
    return re.sub(r"\W+", "_", name.replace("-", "minus "))


def written(folder: Path, name: str, suffix: str, content: bytes, field: str) -> Case:
    """A broken file of that content."""
    path = folder / f"{stem_of(name)}{suffix}"
    assert not path.exists(), f"two cases are called {name}"
    path.write_bytes(content)
    return Case(name, path, field)
