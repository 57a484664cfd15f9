"""Zarr stores: what they declare is looked at before anything of them is decoded.

Sources: Zarr storage specification, versions 2 and 3.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.integrity.deflate import MAX_DEFLATE

# Codecs that turn bytes into numbers or text and do nothing else. Others may run code: "pickle" does.
_CODECS = frozenset(
    "adler32 astype base64 bitround blosc bytes bz2 categorize crc32 crc32c delta fixedscaleoffset "
    "fletcher32 gzip jenkins_lookup3 json2 lz4 lzma msgpack2 packbits pcodec quantize "
    "sharding_indexed shuffle transpose vlen-array vlen-bytes vlen-utf8 zfpy zlib zstd "
    "numcodecs.adler32 numcodecs.astype numcodecs.bitround numcodecs.blosc numcodecs.bz2 "
    "numcodecs.crc32 numcodecs.crc32c numcodecs.delta numcodecs.fixedscaleoffset "
    "numcodecs.fletcher32 numcodecs.gzip numcodecs.jenkins_lookup3 numcodecs.lz4 numcodecs.lzma "
    "numcodecs.packbits numcodecs.pcodec numcodecs.quantize numcodecs.shuffle numcodecs.zfpy "
    "numcodecs.zlib numcodecs.zstd".split()
)
#: What makes a folder a group.
GROUP = (".zgroup", "zarr.json")
_OF_ARRAYS = (".zarray", "zarr.json")
_CONSOLIDATED = ".zmetadata"
_METADATA = {*GROUP, *_OF_ARRAYS, _CONSOLIDATED, ".zattrs"}
_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # which nobody misses
_MAX_METADATA = 64 * 2**20  # bytes; the largest real ones have some MB
_SMALL_CHUNK = 2**28  # bytes; a chunk of so many is never refused


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in (*GROUP, _CONSOLIDATED))


def foreign(store: Path) -> list[str]:
    """What lies in the groups of a store and is none of it: other files, and folders that are no arrays or groups."""
    found, groups = [], [store]
    while groups:
        for entry in os.scandir(groups.pop()):
            path = Path(entry.path)
            if entry.name in _METADATA | _OF_SYSTEMS:
                continue
            if is_store(path) and not _is_array(path):
                groups.append(path)
            elif not _is_array(path):
                found.append(os.path.relpath(path, store))
    return sorted(found)


def _is_array(path: Path) -> bool:
    if (path / ".zarray").is_file():
        return True
    described = path / "zarr.json"
    return described.is_file() and _load(described).get("node_type") == "array"


def open_store(path: Path) -> xr.Dataset:
    """Open a store lazily, with the stored numbers; `check_store` comes before."""
    try:
        storage = __import__("zarr.storage", fromlist=["_"])
    except ImportError as error:
        if find_spec("zarr") is not None:
            raise
        raise ImportError('Zarr needs: pip install "pyro-unmix[scale]"') from error
    # A folder of files, by whatever name: Zarr takes "scene.n5" for another kind of store.
    if hasattr(storage, "LocalStore"):
        store = storage.LocalStore(path, read_only=True)
    else:
        store = storage.DirectoryStore(os.fspath(path))
    consolidated = _is_consolidated(path)
    try:
        return xr.open_zarr(store, chunks=None, consolidated=consolidated, decode_cf=False)
    except FileNotFoundError as error:  # the folder is there: what is missing is said in it
        problem = f"are damaged: no group is found by them ({type(error).__name__})"
        raise FileError(path, "metadata", problem) from error


def check_store(path: Path, *, finished: bool = True) -> None:
    """Raise FileError unless all that a store declares may be decoded.

    Declared sizes are compared with what the store holds (chunks of fill are left out of it), if it is `finished`;
    codecs must be known to run no code; whatever is neither a file nor a folder is refused.
    """
    stored, found = 0, []
    for file, size in _files(path, path):
        stored += size
        if file.name.lower() in (*_OF_ARRAYS, _CONSOLIDATED):
            found.append(file)
    for file in found:
        with parsing(file, "metadata", "Zarr metadata"):
            for name, meta in _arrays(file, path):
                _check_codecs(path, name, meta)
                if finished:
                    _check_sizes(path, name, meta, stored)


def _files(folder: Path, store: Path, seen: frozenset[Any] = frozenset()) -> Iterator[Any]:
    """All files and their sizes, those behind links too."""
    state = folder.stat()
    seen |= {(state.st_dev, state.st_ino)}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        try:
            state = entry.stat()
        except FileNotFoundError:  # a link to nothing is as good as no file
            continue
        if stat.S_ISDIR(state.st_mode):
            if (state.st_dev, state.st_ino) not in seen:
                yield from _files(Path(entry.path), store, seen)
        elif stat.S_ISREG(state.st_mode):
            yield Path(entry.path), state.st_size
        else:
            name = os.path.relpath(entry.path, store)
            raise FileError(store, name, "is neither a file nor a folder: remove it")


def _load(file: Path) -> Any:
    size = file.stat().st_size
    if size > _MAX_METADATA:
        raise FileError(file, "size", f"expected at most {_MAX_METADATA} bytes, got {size}")
    return json.loads(file.read_text(encoding="utf-8"))


def _arrays(file: Path, store: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and metadata of the arrays that a file describes."""
    content = _load(file)
    if not isinstance(content, dict):
        raise FileError(file, "metadata", f"must be a JSON object, got {type(content).__name__}")
    if file.name.lower() == _CONSOLIDATED:
        described = content.get("metadata", {})
        found = {key: meta for key, meta in described.items() if f"/{key}".endswith("/.zarray")}
        yield from _named(found, file)
        return
    yield os.path.relpath(file.parent, store), content
    if isinstance(content.get("consolidated_metadata"), dict):
        yield from _consolidated(content["consolidated_metadata"], file)


def _consolidated(content: dict[str, Any], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of format 3, where groups may hold consolidated metadata of their own."""
    for name, meta in _named(content.get("metadata", {}), file):
        yield name, meta
        if isinstance(meta.get("consolidated_metadata"), dict):
            yield from _consolidated(meta["consolidated_metadata"], file)


def _named(described: dict[str, Any], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, meta in described.items():
        if ".." in key.replace("\\", "/").split("/") or key.startswith(("/", "\\")):
            raise FileError(file, key, "lies outside the store")
        if not isinstance(meta, dict):
            raise FileError(file, key, f"must be a JSON object, got {type(meta).__name__}")
        yield key.removesuffix("/.zarray"), meta


def _check_codecs(store: Path, name: str, meta: dict[str, Any]) -> None:
    codecs = [meta.get("compressor"), *_list(meta, "filters"), *_list(meta, "codecs")]
    while codecs:
        codec = codecs.pop()
        if codec is None:
            continue
        known = codec
        if isinstance(codec, dict):
            known = codec.get("id", codec.get("name"))
            settings = codec.get("configuration") or {}
            codecs += [*_list(settings, "codecs"), *_list(settings, "index_codecs")]
        if not isinstance(known, str) or known not in _CODECS:
            problem = (
                f"the codec {known!r} is not read, as it may run code: write the store again with "
                "a codec such as zlib, blosc or zstd, by a program that you trust"
            )
            raise FileError(store, name, problem)
    dtype = meta.get("dtype", meta.get("data_type"))
    if not isinstance(dtype, str) and "|O" in json.dumps(dtype):
        raise FileError(store, name, f"holds Python objects ({dtype}), which are never loaded")


def _list(meta: dict[str, Any], name: str) -> list[Any]:
    value = meta.get(name)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _check_sizes(store: Path, name: str, meta: dict[str, Any], stored: int) -> None:
    if "shape" not in meta:
        return  # a group
    shape = _counts(store, name, "shape", meta["shape"])
    itemsize = _itemsize(meta.get("dtype", meta.get("data_type")))
    # Numbers count one each, whatever their type; long texts count by their length.
    if math.prod(shape) * max(1, itemsize // 16) > MAX_DEFLATE * stored:
        problem = f"declares {shape} values, but the whole store has {stored} bytes"
        raise FileError(store, name, problem)
    grid = meta.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) else None
    pieces = meta.get("chunks", (settings or {}).get("chunk_shape"))
    if pieces is None or not all(isinstance(n, int) for n in pieces):
        return  # of uneven chunks, for Zarr to check
    chunk = _counts(store, name, "chunks", pieces)
    # A chunk may be larger than the array; memory is taken for all of it.
    if math.prod(chunk) * itemsize > max(_SMALL_CHUNK, MAX_DEFLATE * stored):
        problem = f"declares chunks of {chunk} values, but the whole store has {stored} bytes"
        raise FileError(store, name, problem)


def _counts(store: Path, name: str, field: str, values: Any) -> list[int]:
    good = isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
    if not good:
        problem = f"must be a list of whole numbers, got {str(values)[:80]}"
        raise FileError(store, f"{name}/{field}", problem)
    return list(values)


def _itemsize(dtype: Any) -> int:
    try:
        return max(1, np.dtype(dtype).itemsize)
    except (TypeError, ValueError):
        return 1  # texts, and types of Zarr's own


def _is_consolidated(path: Path) -> bool:
    if (path / _CONSOLIDATED).is_file():
        return True
    group = path / "zarr.json"
    return group.is_file() and isinstance(_load(group).get("consolidated_metadata"), dict)
