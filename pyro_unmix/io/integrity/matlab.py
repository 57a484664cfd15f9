"""Are the arrays of a MATLAB v5 file all there? Asked before SciPy takes memory for them.

"MAT-File Format", The MathWorks: a header of 128 bytes, then elements of a tag (type, number of
bytes) and data; an element of type 15 is a zlib stream that holds one more element. SciPy trusts
these numbers: with a wrong one it asks for any amount of memory, or ends the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, NamedTuple

from pyro_unmix.io.errors import FileError

_MATRIX, _COMPRESSED = 14, 15
_INT32 = 5
_SIZE_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_CELL, _CHAR = 1, 4
_NUMERIC = range(6, 16)
_COMPLEX = 0x800
_BLOCK = 2**16
_SHORT = "an array ends early: the file is incomplete"


class _Tag(NamedTuple):
    kind: int
    size: int
    small: bytes | None  # the data, where they fit into the tag


class _Stream:
    """The bytes of one element, unpacked if need be, in order and never many at a time."""

    def __init__(self, file: IO[bytes], size: int, packed: bool, path: Path) -> None:
        self._file, self._left, self._path = file, size, path
        self._unpack = zlib.decompressobj() if packed else None
        self._tail = b""

    def _block(self, limit: int) -> bytes:
        limit = min(limit, _BLOCK)
        if self._unpack is None:
            block = self._file.read(min(limit, self._left))
            self._left -= len(block)
            return block
        while not self._unpack.eof:
            if not self._tail:
                self._tail = self._file.read(min(_BLOCK, self._left))
                self._left -= len(self._tail)
            before = len(self._tail)
            block = self._unpack.decompress(self._tail, limit)
            self._tail = self._unpack.unconsumed_tail
            if block:
                return block
            if not before:
                break
        return b""

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            block = self._block(count - len(data))
            if not block:
                raise FileError(self._path, "size", _SHORT)
            data += block
        return data

    def skip(self, count: int, *, to_the_end: bool = False) -> None:
        """Pass over `count` bytes; with `to_the_end`, over fewer if there are no more."""
        while count:
            block = self._block(count)
            if not block and to_the_end:
                return
            if not block:
                raise FileError(self._path, "size", _SHORT)
            count -= len(block)

    def finish(self, name: str) -> None:
        """Read to the end, where zlib compares its checksum; only padding may be left."""
        left = 0
        while block := self._block(_BLOCK):
            left += len(block)
            if left >= 8:
                problem = "has more data than its shape has values: the file is damaged"
                raise FileError(self._path, name, problem)
        if self._unpack is not None and not self._unpack.eof:
            raise FileError(self._path, "size", "packed data end early: the file is incomplete")


def check_v5(path: Path, names: Collection[str]) -> None:
    """Raise FileError unless the variables `names`, as far as present, are all in the file.

    Each array's shape is compared with the bytes that its data have, and those with the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(128)
        if len(head) < 128 or head[126:128] not in (b"IM", b"MI"):
            problem = "is neither a MATLAB v5 nor a v7.3 file, or cut off: save it again with -v7"
            raise FileError(path, "format", problem)
        order = "<" if head[126:128] == b"IM" else ">"
        while file.tell() < size:
            start = file.tell()
            tag = file.read(8)
            kind, length = struct.unpack(order + "II", tag) if len(tag) == 8 else (0, 0)
            if kind not in (_MATRIX, _COMPRESSED):
                problem = f"at byte {start} begins no array: the file is damaged or incomplete"
                raise FileError(path, "content", problem)
            if start + 8 + length > size:
                problem = (
                    f"an array of {length} bytes begins at byte {start}, but the file has {size}: "
                    "it is incomplete"
                )
                raise FileError(path, "size", problem)
            _check_element(
                _Stream(file, length, kind == _COMPRESSED, path), kind, length, order, names, path
            )
            file.seek(start + 8 + length)


def _check_element(
    stream: _Stream, kind: int, length: int, order: str, names: Collection[str], path: Path
) -> None:
    if kind == _COMPRESSED:
        tag = _read_tag(stream, order)
        if tag.kind != _MATRIX:
            raise FileError(path, "content", f"an array of the unknown type {tag.kind}")
        length = tag.size
    name = _check_matrix(stream, length, order, names, path)
    if name is not None:
        stream.finish(name)


def _read_tag(stream: _Stream, order: str) -> _Tag:
    raw = stream.read(8)
    kind, size = struct.unpack(order + "II", raw)
    if kind >> 16:  # a small element: two bytes of size, two of type, up to four of data
        return _Tag(kind & 0xFFFF, kind >> 16, raw[4 : 4 + (kind >> 16)])
    return _Tag(kind, size, None)


def _read_data(stream: _Stream, order: str, limit: int, path: Path, what: str) -> bytes:
    """The data of an element that can only be short."""
    tag = _read_tag(stream, order)
    if tag.small is not None:
        return tag.small
    if tag.size > limit:
        raise FileError(path, "content", f"{what} of {tag.size} bytes: the file is damaged")
    return stream.read(-(-tag.size // 8) * 8)[: tag.size]


def _check_matrix(
    stream: _Stream, length: int, order: str, names: Collection[str] | None, path: Path
) -> str | None:
    """Walk through one array and return its name; None if it is none of `names` (None: any)."""
    if length == 0:
        return ""  # an empty cell
    flags = _read_data(stream, order, 8, path, "flags")
    sizes = _read_data(stream, order, 4 * 32, path, "dimensions")
    name = _read_data(stream, order, 255, path, "a name").decode("latin-1")
    if names is not None and name not in names:
        return None
    what = name or "a cell"
    if len(flags) != 8 or len(sizes) < 8 or len(sizes) % 4:
        raise FileError(path, what, "has no flags or dimensions: the file is damaged")
    word = struct.unpack(order + "I", flags[:4])[0]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if min(shape) < 0:
        raise FileError(path, what, f"declares the shape {shape}: the file is damaged")
    count, kind = math.prod(shape), word & 0xFF
    if kind == _CELL:
        if 8 * count > length:
            problem = f"declares {shape} cells in {length} bytes: the file is damaged"
            raise FileError(path, what, problem)
        for _ in range(count):
            tag = _read_tag(stream, order)
            if tag.kind != _MATRIX:
                raise FileError(path, what, "has a cell that is no array: the file is damaged")
            _check_matrix(stream, tag.size, order, None, path)
    elif kind in _NUMERIC:
        for _ in range(2 if word & _COMPLEX else 1):
            _check_numbers(stream, order, shape, what, path)
    elif kind == _CHAR:
        tag = _read_tag(stream, order)
        stream.skip(0 if tag.small is not None else -(-tag.size // 8) * 8, to_the_end=True)
    else:
        raise FileError(path, what, "must be numbers or a cell array of them, got another class")
    return name


def _check_numbers(
    stream: _Stream, order: str, shape: tuple[int, ...], what: str, path: Path
) -> None:
    tag = _read_tag(stream, order)
    itemsize = _SIZE_OF_TYPE.get(tag.kind, 0)
    if tag.size != math.prod(shape) * itemsize or not itemsize:
        problem = (
            f"of shape {shape} needs {math.prod(shape)} values, but has {tag.size} bytes of type "
            f"{tag.kind}: the file is damaged"
        )
        raise FileError(path, what, problem)
    if tag.small is None:
        stream.skip(tag.size)
        stream.skip(-tag.size % 8, to_the_end=True)
