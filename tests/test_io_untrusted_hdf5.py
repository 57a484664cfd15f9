"""HDF5 files of others: nothing hangs, and nothing is read that another file holds."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from pyro_unmix.io import FileError, hdf5_heap
from pyro_unmix.io.hdf5_heap import check_heaps


def texts(path: Path, width: int = 8, userblock: int = 0) -> Path:
    """A file whose heap holds some texts; its lengths are of so many bytes."""
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_sizes(8, width)
    settings.set_userblock(userblock)
    h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings).close()
    with h5py.File(path, "r+") as file:
        file.attrs["a"] = "seven b"
        file.attrs["b"] = "some more text"
    return path


def damaged(path: Path, *objects: tuple[int, int, int], width: int = 8) -> int:
    """Write objects (place behind the first, index, size) into the heap; return where it begins."""
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    for place, index, size in objects:
        at = heap + 16 + place
        raw[at : at + 2] = index.to_bytes(2, "little")
        raw[at + 8 : at + 8 + width] = size.to_bytes(width, "little")
    path.write_bytes(raw)
    return heap


@pytest.mark.parametrize(
    "objects",
    [
        [(0, 0, 0)],
        [(0, 1, 2**64 - 16)],
        [(0, 1, 2**64 - 20)],
        [(0, 1, 2**64 - 40)],
        [(0, 0, 2**64 - 8)],
        # Of free space the library takes the size as it stands: the next object begins at 16 + 7.
        [(0, 1, 0), (16, 0, 7), (16 + 7, 0, 0)],
    ],
    ids=str,
)
def test_heaps_in_which_hdf5_would_go_in_a_circle(
    tmp_path: Path, objects: list[tuple[int, int, int]]
) -> None:
    path = texts(tmp_path / "texts.h5")
    check_heaps(path)
    heap = damaged(path, *objects)
    with pytest.raises(FileError, match=f"global heap: the heap of texts at byte {heap} is broken"):
        check_heaps(path)


@pytest.mark.parametrize("userblock", [0, 1024])
def test_lengths_of_four_bytes(tmp_path: Path, userblock: int) -> None:
    path = texts(tmp_path / "texts.h5", width=4, userblock=userblock)
    check_heaps(path)
    # What follows the length is no part of it.
    damaged(path, (0, 0, 2**32), width=8)
    with pytest.raises(FileError, match="heap of texts"):
        check_heaps(path)


def test_heaps_are_found_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = texts(tmp_path / "texts.h5")
    heap = damaged(path, (0, 0, 0))
    for block in (64, heap + 1, heap + 4, heap + 7, heap + 8, heap):
        monkeypatch.setattr(hdf5_heap, "_BLOCK", block)
        with pytest.raises(FileError, match=f"at byte {heap} is broken"):
            check_heaps(path)


def test_what_only_looks_like_a_heap_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = texts(tmp_path / "texts.h5")
    inner = path.read_bytes()
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        file["inner"] = np.frombuffer(inner, dtype="u1")
        file["begun"] = np.frombuffer(b"GCOL\x01\0\0\0", dtype="u1")
    check_heaps(tmp_path / "outer.h5")
    for name, content in (("none", b"GCOL\x01\0\0\0" + bytes(64)), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        check_heaps(tmp_path / name)
