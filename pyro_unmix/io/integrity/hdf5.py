"""Is all of an HDF5 dataset in the file? Asked before any memory is taken for it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.integrity.deflate import MAX_DEFLATE
from pyro_unmix.io.integrity.hdf5_links import check_layout, without_links
from pyro_unmix.io.rows import FileRows

_RATIO_KNOWN = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@contextmanager
def open_hdf5(path: str | os.PathLike[str], what: str = "an HDF5 file") -> Iterator[h5py.File]:
    """Open for reading; what fails inside the block is a FileError of the field `content`."""
    with parsing(path, "content", what), without_links(path) as file:
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


def dataset_rows(path: str | os.PathLike[str], group: h5py.Group, name: str) -> FileRows:
    """As `read_dataset` of (y, x, band), but rows are read when they are asked for."""
    dataset = group[name]
    check_stored(path, dataset)
    full_name = dataset.name

    def read(_: int, start: int, stop: int) -> np.ndarray:
        with parsing(path, name, "an HDF5 dataset"), h5py.File(path, "r") as file:
            return np.asarray(file[full_name][start:stop])

    piece = dataset.chunks[0] if dataset.chunks else 1
    return FileRows(dataset.shape, dataset.dtype, read, piece)


def check_stored(
    path: str | os.PathLike[str], dataset: h5py.Dataset, *, some_chunks: bool = False
) -> None:
    """Raise FileError unless every value of the dataset lies in the file.

    With `some_chunks`, those that are there must be whole; which ones are not, says `unwritten`.
    """
    name = str(dataset.name).lstrip("/")
    with parsing(path, name, "an HDF5 dataset"):
        plist = dataset.id.get_create_plist()
        layout = plist.get_layout()
        check_layout(path, dataset)
        if dataset.shape is None:
            raise FileError(path, name, "is empty")
        if layout == h5py.h5d.CHUNKED:
            _check_chunks(path, name, dataset, plist, some_chunks)
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
    path: str | os.PathLike[str],
    name: str,
    dataset: h5py.Dataset,
    plist: h5py.h5p.PropDCID,
    some_chunks: bool,
) -> None:
    size = Path(path).stat().st_size
    chunk = dataset.chunks
    needed = math.prod(_chunk_grid(dataset))
    stored = dataset.id.get_num_chunks() if needed else 0
    # Memory is taken for all chunks: as many as could be packed into the file, no more.
    most = MAX_DEFLATE * size // (math.prod(chunk) * dataset.dtype.itemsize)
    if stored < needed and not (some_chunks and 0 < stored and needed <= most):
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

    _each_chunk(dataset, check)


def _chunk_grid(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Number of chunks along each axis."""
    return tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))


def _each_chunk(dataset: h5py.Dataset, call: Callable[[h5py.h5d.StoreInfo], None]) -> None:
    """Call a function with each chunk that is in the file."""
    if not dataset.size or not dataset.id.get_num_chunks():
        return
    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(call)
        return
    for index in range(dataset.id.get_num_chunks()):
        call(dataset.id.get_chunk_info(index))


def fill_value(dataset: h5py.Dataset) -> Any:
    """What the file says stands where nothing was written; None for HDF5's own default and 0.

    A 0 may as well have been measured.
    """
    defined = dataset.id.get_create_plist().fill_value_defined()
    if defined != h5py.h5d.FILL_VALUE_USER_DEFINED or dataset.dtype.kind not in "iuf":
        return None
    return dataset.fillvalue if dataset.fillvalue else None


def unwritten(dataset: h5py.Dataset) -> list[tuple[slice, ...]]:
    """The regions of a dataset that nobody wrote: HDF5 gives its fill value there, mostly 0."""
    if dataset.chunks is None:
        return []
    missing = np.ones(_chunk_grid(dataset), dtype=bool)

    def found(info: h5py.h5d.StoreInfo) -> None:
        missing[tuple(n // c for n, c in zip(info.chunk_offset, dataset.chunks, strict=True))] = 0

    _each_chunk(dataset, found)
    return [
        tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, dataset.chunks, strict=True))
        for index in np.argwhere(missing).tolist()
    ]
