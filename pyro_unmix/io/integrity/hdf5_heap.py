"""A broken heap of texts makes the HDF5 library run in a circle: found before it is asked.

Source: HDF5 File Format Specification, version 3.0, III.E "Disk Format: Level 1E - Global Heap".
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from pyro_unmix.io.errors import FileError

_SIGNATURE = b"GCOL\x01\0\0\0"
_OBJECT = struct.Struct("<HHIQ")  # index, references, reserved, size


def check_heaps(path: Path) -> None:
    """Raise FileError if a global heap holds free space of no size.

    Reading any text in such a heap never ends (seen with HDF5 2.0.0). Whatever else can be wrong
    with a heap is an error of the library itself.
    """
    size = path.stat().st_size
    if size < len(_SIGNATURE):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        start = raw.find(_SIGNATURE)
        while start >= 0:
            _check_heap(raw, start, size, path)
            start = raw.find(_SIGNATURE, start + len(_SIGNATURE))


def _check_heap(raw: mmap.mmap, start: int, size: int, path: Path) -> None:
    if start + 16 > size:
        return
    end = start + struct.unpack("<Q", raw[start + 8 : start + 16])[0]
    position = start + 16
    while position + _OBJECT.size <= min(end, size):
        index, _, _, length = _OBJECT.unpack(raw[position : position + _OBJECT.size])
        # The size of free space (index 0) includes its head.
        step = -(-length // 8) * 8 + (_OBJECT.size if index else 0)
        if step == 0:
            problem = f"the heap of texts at byte {start} is broken: the file is damaged"
            raise FileError(path, "global heap", problem)
        position += step
