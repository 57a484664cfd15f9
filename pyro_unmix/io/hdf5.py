"""Is all of an HDF5 dataset in the file? Asked before any memory is taken for it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.hdf5_heap import check_heaps

# No deflated byte unpacks to more than 1032 (https://zlib.net/zlib_tech.html).
MAX_DEFLATE = 1032
_RATIO_KNOWN = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@contextmanager
def open_hdf5(path: str | os.PathLike[str], what: str = "an HDF5 file") -> Iterator[h5py.File]:
    """Open for reading; what fails inside the block is a FileError of the field `content`."""
    check_heaps(Path(path))
    with parsing(path, "content", what), h5py.File(path, "r") as file:
        yield file


def read_dataset(path: str | os.PathLike[str], group: h5py.Group, name: str) -> np.ndarray:
    """Return the whole dataset `name`, after `check_stored`."""
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        listed = ", ".join(group) or "nothing"
        raise FileError(path, name, f"is no dataset of the file, which holds: {listed}")
    check_stored(path, dataset)
    with parsing(path, name, "an HDF5 dataset"):
        return np.asarray(dataset[()])


def check_stored(path: str | os.PathLike[str], dataset: h5py.Dataset) -> None:
    """Raise FileError unless every value of the dataset lies in the file."""
    name = str(dataset.name).lstrip("/")
    with parsing(path, name, "an HDF5 dataset"):
        plist = dataset.id.get_create_plist()
        layout = plist.get_layout()
        if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise FileError(path, name, "keeps its values in other files: copy them into one file")
        if dataset.shape is None:
            raise FileError(path, name, "is empty")
        if layout == h5py.h5d.CHUNKED:
            _check_chunks(path, name, dataset, plist)
        elif layout == h5py.h5d.CONTIGUOUS:
            _check_contiguous(path, name, dataset)


def never_written(dataset: h5py.Dataset) -> bool:
    """Whether the file holds no value of the dataset: names of dims, grid mappings."""
    return bool(dataset.id.get_storage_size() == 0)


def _check_contiguous(path: str | os.PathLike[str], name: str, dataset: h5py.Dataset) -> None:
    needed = math.prod(dataset.shape) * dataset.dtype.itemsize
    start = dataset.id.get_offset()
    size = Path(path).stat().st_size
    if needed and (start is None or start + needed > size):
        problem = (
            f"{dataset.dtype} of shape {dataset.shape} needs {needed} bytes"
            + (", but none were written" if start is None else f" from byte {start} on")
            + f"; the file has {size}: it is incomplete"
        )
        raise FileError(path, name, problem)


def _check_chunks(
    path: str | os.PathLike[str], name: str, dataset: h5py.Dataset, plist: h5py.h5p.PropDCID
) -> None:
    size = Path(path).stat().st_size
    chunk = dataset.chunks
    needed = math.prod(-(-n // c) for n, c in zip(dataset.shape, chunk, strict=True))
    stored = dataset.id.get_num_chunks() if needed else 0
    if stored < needed:
        problem = (
            f"{dataset.dtype} of shape {dataset.shape} has {needed} chunks, but {stored} are in "
            "the file: it is incomplete"
        )
        raise FileError(path, name, problem)
    chunk_bytes = math.prod(chunk) * dataset.dtype.itemsize
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    # Each byte of the file can unpack to so many; unknown for the filters of others.
    ratio = (MAX_DEFLATE if h5py.h5z.FILTER_DEFLATE in filters else 1) * 1.0
    if filters - _RATIO_KNOWN:
        ratio = math.inf

    def check(info: h5py.h5d.StoreInfo) -> None:
        if info.byte_offset is None or info.byte_offset + info.size > size:
            problem = f"the chunk at {info.chunk_offset} ends behind the end of the file: "
            raise FileError(path, name, f"{problem}it is incomplete")
        # A chunk whose filters were skipped is stored as it is.
        if info.size < chunk_bytes and info.size * ratio + 64 < chunk_bytes:
            problem = (
                f"the chunk at {info.chunk_offset} has {info.size} bytes, too few for {chunk} "
                f"values of {dataset.dtype}"
            )
            raise FileError(path, name, problem)

    for index in range(stored if not hasattr(dataset.id, "chunk_iter") else 0):
        check(dataset.id.get_chunk_info(index))
    if stored and hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(check)
