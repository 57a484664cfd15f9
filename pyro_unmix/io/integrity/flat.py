"""Numbers that lie in a file as they are, read by rows: no memory map, which kills the process if the file is cut."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.rows import FileRows

_PIECE = 2**20  # numbers of a bsq image that are read together, since each band lies elsewhere
# How the axes (row, column, band) lie in the file.
_AXES = {"bip": (0, 1, 2), "bil": (0, 2, 1), "bsq": (2, 0, 1)}


def flat_rows(
    path: str | os.PathLike[str],
    field: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    offset: int = 0,
    interleave: str = "bip",
) -> FileRows:
    """Return an image (y, x, band), or one after the other (time, y, x, band), that reads its rows.

    Parameters
    ----------
    path : path
    field : str
        Of the FileError of a read that the file is too short for.
    dtype : numpy.dtype
    shape : 3 or 4 int
    offset : int
        Bytes before the numbers.
    interleave : {"bip", "bil", "bsq"}
    """
    path, (height, width, bands) = Path(path), shape[-3:]
    axes = _AXES[interleave]

    def read(time: int, start: int, stop: int) -> np.ndarray:
        rows = max(0, stop - start)
        stored = np.empty([(rows, width, bands)[axis] for axis in axes], dtype=dtype)
        first = time * height * width * bands
        with parsing(path, field, "an array"), path.open("rb", buffering=0) as file:
            if interleave != "bsq":
                _fill(stored, file, offset + (first + start * width * bands) * dtype.itemsize)
            else:
                for band, plane in enumerate(stored):
                    place = first + (band * height + start) * width
                    _fill(plane, file, offset + place * dtype.itemsize)
        return stored.transpose(np.argsort(axes))

    def _fill(array: np.ndarray, file: BinaryIO, place: int) -> None:
        file.seek(place)
        wanted = array.reshape(-1).view(np.uint8).data
        while wanted:
            count = file.readinto(wanted)  # type: ignore[attr-defined]
            if not count:
                problem = (
                    f"{dtype} of shape {shape} needs {offset + math.prod(shape) * dtype.itemsize} "
                    f"bytes, but the file now has {path.stat().st_size}: it was changed meanwhile"
                )
                raise FileError(path, field, problem)
            wanted = wanted[count:]

    return FileRows(shape, dtype, read, max(1, _PIECE // (width * bands)))
