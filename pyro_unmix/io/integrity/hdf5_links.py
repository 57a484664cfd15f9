"""Links of HDF5 that lead out of the file: a file of others could have any other file read, or waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.integrity.hdf5_heap import check_heaps
from pyro_unmix.io.integrity.kinds import check_kind

_INSIDE = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)


@contextmanager
def without_links(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open for reading, after `check_heaps` and `check_links`."""
    check_kind(path, folder=False)
    check_heaps(Path(path))
    with h5py.File(path, "r") as file:
        check_links(path, file)
        yield file


def check_links(path: str | os.PathLike[str], file: h5py.File) -> None:
    """Raise FileError if a link of any group leads out of the file; no link is followed for that."""

    def outside(name: bytes, info: Any) -> bytes | None:
        return None if info.type in _INSIDE else name

    found = file.id.links.visit(outside, info=True)
    if found is not None:
        problem = "is a link to another file, which is not followed: copy the data into this file"
        raise FileError(path, found.decode("utf-8", "replace"), problem)


def check_layout(path: str | os.PathLike[str], dataset: h5py.Dataset) -> None:
    """Raise FileError if the values of a dataset lie in other files."""
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        name = str(dataset.name).lstrip("/")
        raise FileError(path, name, "keeps its values in other files: copy them into one file")
