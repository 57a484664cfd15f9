"""A broken heap of texts makes the HDF5 library run in a circle: found before it is asked.

Source: HDF5 File Format Specification, version 3.0, II.A "Disk Format: Level 0A - Format Signature and
Superblock" and III.E "Disk Format: Level 1E - Global Heap".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pyro_unmix.io.errors import FileError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_SIGNATURE = b"GCOL\x01"  # the library does not look at the three bytes after it
_BLOCK = 2**18  # bytes that are searched at a time
_LARGEST_HEAP = 2**28  # bytes; no program writes larger ones
_POINTER = 2**64


def check_heaps(path: Path) -> None:
    """Raise FileError if the objects of a global heap do not follow each other.

    Reading any text in such a heap never ends (seen with HDF5 2.0.0), or leaves the heap backwards.
    Whatever else can be wrong with a heap is an error of the library itself.
    """
    with path.open("rb") as file:
        width = _length_width(file)
        if width is None:
            return
        for start in _found(file, _SIGNATURE):
            if not _is_whole(file, start, width):
                problem = f"the heap of texts at byte {start} is broken: the file is damaged"
                raise FileError(path, "global heap", problem)


def _length_width(file: BinaryIO) -> int | None:
    """Bytes of a length in this file, as its superblock says; None where there is none."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(16)
        if len(head) < 16:
            return None
        if head.startswith(_HDF5):
            return head[14] if head[8] < 2 else head[10]
        start = 2 * start or 512  # behind a block of the user's


def _found(file: BinaryIO, text: bytes) -> Iterator[int]:
    """Where a text begins. The file may be read elsewhere in between."""
    base, tail = 0, b""
    while True:
        file.seek(base + len(tail))
        block = file.read(_BLOCK)
        if not block:
            return
        raw = tail + block
        place = raw.find(text)
        while place >= 0:
            yield base + place
            place = raw.find(text, place + len(text))
        tail = raw[len(raw) - len(text) + 1 :]
        base += len(raw) - len(tail)


def _is_whole(file: BinaryIO, start: int, width: int) -> bool:
    """Whether the walk of the library through the objects of a heap goes forwards to its end."""
    if width not in (2, 4, 8):
        return True  # which the library does not read
    head = -(-(8 + width) // 8) * 8
    file.seek(start + 8)
    size = int.from_bytes(file.read(width), "little")
    if start + size > file.seek(0, os.SEEK_END):
        return True  # which the library refuses, or no heap at all
    if size > _LARGEST_HEAP:
        return False
    file.seek(start)
    raw = file.read(size)
    position = head
    while position + head <= len(raw):
        index = int.from_bytes(raw[position : position + 2], "little")
        length = int.from_bytes(raw[position + 8 : position + 8 + width], "little")
        # Free space (index 0) counts with its head, and is not aligned. The library's sums overflow.
        step = (head + -(-length // 8) * 8 if index else length) % _POINTER
        if step == 0 or step >= _POINTER // 2:
            return False
        position += step
    return True
