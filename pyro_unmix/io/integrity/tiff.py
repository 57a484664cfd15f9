"""Is a TIFF or JPEG 2000 file complete? GDAL opens truncated ones without complaint.

Only headers and tables are read, and nothing is allocated that the file does not hold.
Sources: TIFF 6.0 (Adobe 1992), the BigTIFF extension (libtiff), ISO/IEC 15444-1 annexes A and I.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyro_unmix.io.errors import FileError

_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 7: "u1", 8: "i2", 9: "i4"}
_TYPES |= {10: "u8", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_WIDTH, _HEIGHT, _BITS, _CODEC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 277, 284
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT, _SUBFILE = 278, 322, 323, 254
_GDAL_NODATA = 42113
_STRIPS, _TILES = (273, 279), (324, 325)  # where the blocks begin, how long they are
_NAMES = {_WIDTH: "ImageWidth", _HEIGHT: "ImageLength", 273: "StripOffsets", 324: "TileOffsets"}
_NAMES |= {279: "StripByteCounts", 325: "TileByteCounts"}
_WANTED = {_WIDTH, _HEIGHT, _BITS, _CODEC, _SAMPLES, _PLANAR, _ROWS_PER_STRIP, _TILE_WIDTH}
_WANTED |= {_TILE_HEIGHT, _SUBFILE, _GDAL_NODATA, *_STRIPS, *_TILES}

# Most bytes that one stored byte can become: LZW codes of 12 bits stand for 4096 bytes at most,
# DEFLATE reaches 1032, PackBits 64. The others have no bound of their own.
_EXPANSION = {1: 1, 5: 2731, 8: 1032, 32946: 1032, 32773: 64}
_EXPANSION_OTHERS = 20_000
_MAX_PAGES = 4096


@dataclass(frozen=True)
class _Fields:
    """Byte order and field widths of one TIFF."""

    order: str
    big: bool

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))

    @property
    def pointer(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))


def is_tiff(path: Path) -> bool:
    """Whether the file begins as a TIFF or BigTIFF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False


def is_jp2(path: Path) -> bool:
    """Whether the file begins as a JPEG 2000 file or code stream does."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head == b"\0\0\0\x0cjP  \r\n\x87\n" or head[:4] == b"\xff\x4f\xff\x51"


def check_tiff(path: Path) -> None:
    """Raise FileError unless all tables and all blocks that the file declares lie within it.

    Also raised for several full-size images in one file, of which GDAL would show only the first,
    and for sizes that the stored bytes cannot expand to.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        layout, first = _header(file, path, size)
        full_size = 0
        for page, tags in enumerate(_pages(file, path, size, layout, first)):
            kind = int(tags.get(_SUBFILE, [0])[0])
            # Bit 0: a smaller copy (overview); bit 2: a mask.
            full_size += not kind & 0b101
            _check_blocks(tags, path, page, size)
    if full_size > 1:
        problem = (
            f"the file holds {full_size} full-size images, of which only the first would be read: "
            "write them as bands of one image, or one file per date (gdal_translate "
            "GTIFF_DIR:1:file.tif ...)"
        )
        raise FileError(path, "pages", problem)


def _header(file: BinaryIO, path: Path, size: int) -> tuple[_Fields, int]:
    head = file.read(16)
    if len(head) < 8 or head[:2] not in (b"II", b"MM"):
        raise FileError(path, "header", f"is no TIFF header ({size} bytes in the file)")
    order = "<" if head[:2] == b"II" else ">"
    magic = struct.unpack(order + "H", head[2:4])[0]
    if magic not in (42, 43):
        raise FileError(path, "header", f"must hold 42 (TIFF) or 43 (BigTIFF), got {magic}")
    layout = _Fields(order, big=magic == 43)
    if layout.big and (len(head) < 16 or struct.unpack(order + "HH", head[4:8]) != (8, 0)):
        raise FileError(path, "header", "is no BigTIFF header")
    start = 8 if layout.big else 4
    return layout, layout.pointer.unpack(head[start : start + layout.pointer.size])[0]


def _pages(
    file: BinaryIO, path: Path, size: int, layout: _Fields, position: int
) -> Iterator[dict[int, np.ndarray]]:
    """The tags of each page (image file directory) by number, those that are needed here."""
    seen: set[int] = set()
    while position or not seen:
        if position in seen or len(seen) >= _MAX_PAGES:
            raise FileError(path, "pages", "the list of pages does not end: the file is broken")
        seen.add(position)
        file.seek(position)
        raw = file.read(layout.count.size) if 0 < position < size else b""
        number = layout.count.unpack(raw)[0] if len(raw) == layout.count.size else 0
        length = number * layout.entry.size
        if not number or position + layout.count.size + length + layout.pointer.size > size:
            problem = (
                f"page {len(seen) - 1} at byte {position} lies outside the {size} bytes of the "
                "file: it is truncated"
            )
            raise FileError(path, "size", problem)
        entries = file.read(length)
        position = layout.pointer.unpack(file.read(layout.pointer.size))[0]
        yield _tags(file, path, size, layout, entries)


def _tags(
    file: BinaryIO, path: Path, size: int, layout: _Fields, entries: bytes
) -> dict[int, np.ndarray]:
    tags = {}
    for tag, kind, count, inline in layout.entry.iter_unpack(entries):
        if kind not in _TYPES:
            continue  # readers must skip types that they do not know
        dtype = np.dtype(layout.order + _TYPES[kind])
        length = count * dtype.itemsize
        raw = inline
        if length > len(inline):
            start = layout.pointer.unpack(inline)[0]
            if start + length > size:
                problem = (
                    f"needs the bytes {start} to {start + length}, but the file has only {size}: "
                    "it is truncated"
                )
                raise FileError(path, _NAMES.get(tag, f"TIFF tag {tag}"), problem)
            if tag not in _WANTED:
                continue
            file.seek(start)
            raw = file.read(length)
        if tag in _WANTED and count:
            tags[tag] = np.frombuffer(raw[:length], dtype=dtype)
    return tags


def _check_blocks(tags: dict[int, np.ndarray], path: Path, page: int, size: int) -> None:
    width, height = _number(tags, _WIDTH, path), _number(tags, _HEIGHT, path)
    samples = int(tags.get(_SAMPLES, [1])[0])
    bits = int(tags.get(_BITS, [1])[0])
    separate = samples if int(tags.get(_PLANAR, [1])[0]) == 2 else 1
    row_samples = samples // separate
    tiled = _TILES[0] in tags
    starts, lengths = _blocks(tags, _TILES if tiled else _STRIPS, path)
    if tiled:
        block_width, block_height = (
            _number(tags, tag, path) for tag in (_TILE_WIDTH, _TILE_HEIGHT)
        )
    else:
        block_width = width
        block_height = min(int(tags.get(_ROWS_PER_STRIP, [height])[0]), height) or height
    columns, rows = math.ceil(width / block_width), math.ceil(height / block_height)
    if starts.size != columns * rows * separate:
        problem = (
            f"lists {starts.size} blocks, but {height} rows, {width} columns and {samples} bands "
            f"need {columns * rows * separate}: header and data do not belong together"
        )
        raise FileError(path, _NAMES[(_TILES if tiled else _STRIPS)[0]], problem)
    ends = starts + lengths
    if (ends > size).any():
        problem = (
            f"{np.count_nonzero(ends > size)} of {starts.size} blocks of page {page} lie beyond "
            f"the {size} bytes of the file ({int(ends.max())} are needed): it is truncated"
        )
        raise FileError(path, "size", problem)
    rows_of = np.full((separate, rows, columns), block_height)
    if not tiled:
        rows_of[:, -1] = height - (rows - 1) * block_height
    needed = math.ceil(block_width * row_samples * bits / 8) * rows_of.ravel().astype(float)
    empty = lengths == 0
    if empty.any() and _GDAL_NODATA not in tags:
        problem = (
            f"{np.count_nonzero(empty)} of {starts.size} blocks were never written: the file is "
            "incomplete, or sparse without a nodata value (set one with gdal_edit.py -a_nodata)"
        )
        raise FileError(path, _NAMES[(_TILES if tiled else _STRIPS)[1]], problem)
    codec = int(tags.get(_CODEC, [1])[0])
    factor = _EXPANSION.get(codec, _EXPANSION_OTHERS)
    short = (needed > factor * lengths) & ~empty
    if short.any() or needed.sum() > _EXPANSION_OTHERS * size:
        problem = (
            f"the header declares {needed.sum():.0f} bytes of pixels, but the blocks hold only "
            f"{lengths.sum():.0f} bytes (compression {codec}): header and data do not belong "
            "together"
        )
        raise FileError(path, "size", problem)


def _number(tags: dict[int, np.ndarray], tag: int, path: Path) -> int:
    value = tags.get(tag)
    if value is None or value.size != 1 or int(value[0]) < 1:
        got = "nothing" if value is None else value.tolist()
        raise FileError(path, _NAMES.get(tag, f"TIFF tag {tag}"), f"must be positive, got {got}")
    return int(value[0])


def _blocks(
    tags: dict[int, np.ndarray], pair: tuple[int, int], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    for tag in pair:
        if tag not in tags:
            raise FileError(path, _NAMES[tag], "is missing")
    # float64 holds all file positions exactly and does not overflow in a sum.
    starts, lengths = (tags[tag].astype(np.float64) for tag in pair)
    if starts.size != lengths.size:
        problem = f"must have the size of {_NAMES[pair[0]]} ({starts.size}), got {lengths.size}"
        raise FileError(path, _NAMES[pair[1]], problem)
    return starts, lengths


def check_jp2(path: Path) -> None:
    """Raise FileError unless all boxes of a JPEG 2000 file lie within it and its last code is EOC."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        if file.read(4) != b"\xff\x4f\xff\x51":
            position, found = 0, False
            while position < size and not found:
                file.seek(position)
                head = file.read(16)
                if len(head) < 8:
                    break
                length, found = struct.unpack(">I", head[:4])[0], head[4:8] == b"jp2c"
                if length == 1 and len(head) == 16:
                    length = struct.unpack(">Q", head[8:16])[0]
                length = size - position if length == 0 else length
                if length < 8 or position + length > size:
                    problem = (
                        f"the box {head[4:8]!r} at byte {position} needs {length} bytes, the file "
                        f"has {size}: it is truncated"
                    )
                    raise FileError(path, "size", problem)
                position += length
            if not found:
                raise FileError(path, "jp2c", "there is no code stream: the file is truncated")
            end = position
        file.seek(max(end - 2, 0))
        if file.read(2) != b"\xff\xd9":
            raise FileError(path, "size", "the code stream has no end: the file is truncated")
