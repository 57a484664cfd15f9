"""A broken heap makes the HDF5 library run in a circle: found before it is asked.

Source: HDF5 File Format Specification, version 3.0, II.A "Disk Format: Level 0A - Format Signature and
Superblock", III.D "Disk Format: Level 1D - Local Heaps" and III.E "Disk Format: Level 1E - Global Heap".
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pyro_unmix.io.errors import FileError

_HDF5 = b"\x89HDF\r\n\x1a\n"
# Heaps of texts and of the names of a group, by signature and version; the library does not look at what follows.
_HEAPS = re.compile(rb"GCOL\x01|HEAP\x00")
_LENGTH = 5
_BLOCK = 2**18  # bytes that are searched at a time
_LARGEST_HEAP = 2**28  # bytes; no program writes larger ones
_POINTER = 2**64
_SETTLED = 2_000_000_000  # nanoseconds
_NO_MORE = 1  # ends the list of free places in a heap of names


class _Widths(NamedTuple):
    """What the superblock says: where addresses count from, and how many bytes addresses and lengths have."""

    base: int
    address: int
    length: int


def check_heaps(path: Path) -> None:
    """Raise FileError if the objects of a heap of texts, or the free places in a heap of names, do not end.

    Reading anything in such a heap lasts for ever (seen with HDF5 2.0.0), or leaves the heap backwards.
    Whatever else can be wrong with a heap is an error of the library itself.
    """
    state = path.stat()
    # A file that was written this moment may be written again without another time.
    settled = time.time_ns() - state.st_mtime_ns > _SETTLED
    search = _broken if settled else _broken.__wrapped__
    broken = search(path.absolute(), state.st_ino, state.st_size, state.st_mtime_ns)
    if broken is not None:
        kind, what, start = broken
        problem = f"the heap of {what} at byte {start} is broken: the file is damaged"
        raise FileError(path, f"{kind} heap", problem)


@functools.lru_cache(maxsize=64)  # several readers ask before one reads a file, and it may be large
def _broken(path: Path, *state: int) -> tuple[str, str, int] | None:
    """The first heap that has no end: its kind, what it holds and where it begins."""
    with path.open("rb") as file:
        widths = _widths(file)
        if widths is None or not {widths.address, widths.length} <= {2, 4, 8}:
            return None  # which the library does not read
        size = file.seek(0, os.SEEK_END)
        for start, signature in _found(file):
            if signature.startswith(b"HEAP"):
                if not _names_end(file, start, widths, size):
                    return "local", "names", start
            elif not _texts_end(file, start, widths, size):
                return "global", "texts", start
    return None


def _widths(file: BinaryIO) -> _Widths | None:
    """Of the superblock; None where there is none."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(16)
        if len(head) < 16:
            return None
        if head.startswith(_HDF5):
            place = 13 if head[8] < 2 else 9
            return _Widths(start, head[place], head[place + 1])
        start = 2 * start or 512  # behind a block of the user's


def _found(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where heaps begin, and their signatures. The file may be read elsewhere in between."""
    base, tail = 0, b""
    while True:
        file.seek(base + len(tail))
        block = file.read(_BLOCK)
        if not block:
            return
        raw = tail + block
        for match in _HEAPS.finditer(raw):
            yield base + match.start(), match.group()
        tail = raw[len(raw) - _LENGTH + 1 :]
        base += len(raw) - len(tail)


def _names_end(file: BinaryIO, start: int, widths: _Widths, file_size: int) -> bool:
    """Whether the list of free places of a heap of names comes to an end, or leaves the heap, which is an error."""
    file.seek(start + 8)
    raw = file.read(2 * widths.length + widths.address)
    size, free, address = (
        int.from_bytes(raw[begin : begin + width], "little")
        for begin, width in (
            (0, widths.length),
            (widths.length, widths.length),
            (2 * widths.length, widths.address),
        )
    )
    first = widths.base + address
    if first + size > file_size:
        return True  # which the library refuses, or no heap at all
    seen = set[int]()
    while free != _NO_MORE and free + widths.length <= size:
        if free in seen:
            return False
        seen.add(free)
        file.seek(first + free)
        free = int.from_bytes(file.read(widths.length), "little")
    return True


def _texts_end(file: BinaryIO, start: int, widths: _Widths, file_size: int) -> bool:
    """Whether the walk of the library through the objects of a heap of texts goes forwards to its end."""
    width = widths.length
    head = -(-(8 + width) // 8) * 8
    file.seek(start + 8)
    size = int.from_bytes(file.read(width), "little")
    if start + size > file_size:
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
