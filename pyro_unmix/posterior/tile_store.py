"""A Zarr store that is written tile by tile, and gone on with where it was broken off."""

from __future__ import annotations

import concurrent.futures as futures
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.write import datasets as writers
from pyro_unmix.io.write.locks import locked
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.posterior.tiles import maps_of

logger = logging.getLogger(__name__)

_Region = dict[str, slice]

_IMAGES = "images that the maps are of"
_FORMAT = 2


def write_tiles(
    dataset: xr.Dataset,
    images: xr.DataArray,
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a lazy dataset as a Zarr store, with the attributes of `writers.write_zarr`.

    The tiles are written to a hidden folder beside `path`, with a mark for every one that is done, the hash of its
    images; when all are, the store is renamed to `path`. A call that finds such a folder does the tiles that are
    missing, if the others are of the same images.

    Parameters
    ----------
    dataset : xarray.Dataset
        Maps in chunks along y and x.
    images : DataArray
        What the maps are computed from, in the same chunks.
    path : path
        The store to make.
    identity : dict
        JSON values: what the tiles of an earlier call must have in common with these.
    num_workers : int
        Processes.
    overwrite : bool
        Replace a Zarr store that is there.
    progress : bool
        Show a bar over the tiles.

    Raises
    ------
    FileExistsError
        If `path` exists and is not to be replaced, is no Zarr store, holds other files, or is a link.
    ValueError
        If the folder beside it holds tiles of something else.
    BlockingIOError
        If another process, or another call in this one, writes to the same store.
    """
    path = Path(path)
    writers.check_free_store(path, overwrite)
    num_workers = positive_int(num_workers, "num_workers")
    work = path.parent / f".{path.name}.tiles"
    dataset = writers.cf_dataset(dataset)
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        writers.check_free_store(path, overwrite)  # another call may have ended meanwhile
        _prepare(dataset, work, {"format": _FORMAT, **identity})
        _write_missing(dataset, images, work, num_workers, progress)
        if path.exists():
            os.replace(path, work / "old")
        os.replace(work / "store", path)
        shutil.rmtree(work)
    return path


def _write_missing(
    dataset: xr.Dataset, images: xr.DataArray, work: Path, num_workers: int, progress: bool
) -> None:
    """Write the tiles without a mark, after a look at the images of those that have one."""
    maps = dataset[maps_of(dataset)].drop_encoding()
    regions, marks = dict(_tiles(maps)), work / "done"
    done = {name: mark for name in regions if (mark := _read_mark(marks / name))}
    if done:
        logger.info("%s: %d of %d tiles are done", work, len(done), len(regions))
    for name, mark in done.items():
        if _digest(images.isel(regions[name]).to_numpy()) != mark:
            place = ", ".join(f"{d} {r.start} to {r.stop - 1}" for d, r in regions[name].items())
            raise ValueError(
                f"{work} holds tiles of other images, which differ at {place}: call with the same images to go on "
                "with it, or remove that folder"
            )
    todo = [(name, region) for name, region in regions.items() if name not in done]
    tiles = maps.assign({_IMAGES: images.drop_vars(list(images.coords))})
    with progress_bar(
        total=len(regions), initial=len(done), shown=progress, desc="predict", unit="tile"
    ) as bar:
        for name, mark in _written(tiles, work / "store", todo, num_workers):
            (marks / name).write_text(mark)
            bar.update()


def _read_mark(path: Path) -> str | None:
    """The mark of a tile that is done; one that a killed process did not write to its end is none."""
    text = path.read_text() if path.exists() else ""
    return text if len(text) == len(_digest(np.zeros(0))) else None


def _digest(images: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=16).hexdigest()


def _prepare(dataset: xr.Dataset, work: Path, plan: dict[str, Any]) -> None:
    """A store without its tiles, and then the plan: where that is, the store is whole."""
    plan_file, store = work / "plan.json", work / "store"
    if plan_file.exists() and store.exists():  # else it is in its place already
        found = json.loads(plan_file.read_text(encoding="utf-8"))
        different = [
            f"{key} is {plan.get(key)!r}, there it is {found.get(key)!r}"
            for key in sorted({*plan, *found})
            if plan.get(key) != found.get(key)
        ]
        if different:
            raise ValueError(
                f"{work} holds tiles of another prediction ({'; '.join(different)}): call with the "
                "same arguments to go on with it, or remove that folder"
            )
        from pyro_unmix.io.integrity.zarr_store import check_store

        check_store(store, finished=False)  # where others may write, it may be another one by now
        return
    plan_file.unlink(missing_ok=True)
    for left in (store, work / "done"):  # the folder itself is locked
        shutil.rmtree(left, ignore_errors=True)
    (work / "done").mkdir()
    # Zarr format 2, as in `writers.write_zarr`; Zarr 2 knows no other, and has no such setting.
    config = getattr(writers.need("zarr", "scale"), "config", None)
    with nullcontext() if config is None else config.set({"default_zarr_format": 2}):
        dataset.to_zarr(store, compute=False)
    temporary = plan_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(plan), encoding="utf-8")
    os.replace(temporary, plan_file)


def _tiles(maps: xr.Dataset) -> Iterator[tuple[str, _Region]]:
    """Name and place of every tile."""
    top = 0
    for height in maps.chunksizes["y"]:
        left = 0
        for width in maps.chunksizes["x"]:
            region = {"y": slice(top, top + height), "x": slice(left, left + width)}
            yield f"{top}-{left}", region
            left += width
        top += height


def _written(
    tiles: xr.Dataset, store: Path, todo: list[tuple[str, _Region]], num_workers: int
) -> Iterator[tuple[str, str]]:
    """Write the tiles; name and mark of each as soon as it is done."""
    if num_workers == 1:
        for name, region in todo:
            yield name, _write(_cut(tiles, region), store, region)
        return
    cloudpickle = writers.need("cloudpickle", "scale")
    # A fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        waiting: dict[futures.Future[str], str] = {}
        for name, region in todo:
            tile = cloudpickle.dumps(_cut(tiles, region))
            waiting[pool.submit(_write_pickled, tile, store, region)] = name
            while len(waiting) > 2 * num_workers:  # what waits is in memory
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


def _finished(waiting: dict[futures.Future[str], str]) -> Iterator[tuple[str, str]]:
    for done in futures.wait(waiting, return_when=futures.FIRST_COMPLETED).done:
        yield waiting.pop(done), done.result()  # raises what was raised there


def _cut(tiles: xr.Dataset, region: _Region) -> xr.Dataset:
    """One tile, with that part of the graph alone which computes it."""
    dask = writers.need("dask", "scale")
    tile = tiles.isel(region)
    return dask.optimize(tile.drop_vars(list(tile.coords)))[0]


def _write(tile: xr.Dataset, store: Path, region: _Region) -> str:
    """Write a tile; its mark."""
    dask = writers.need("dask.base", "scale")
    # A tile is read out in one thread.
    here = {} if dask.get_scheduler() else {"scheduler": "synchronous"}
    with writers.need("dask", "scale").config.set(here):
        tile = tile.compute()  # images and maps at once, so that images are read once
    tile.drop_vars(_IMAGES).to_zarr(store, region=region)
    return _digest(tile[_IMAGES].to_numpy())


def _write_pickled(tile: bytes, store: Path, region: _Region) -> str:
    # From the parent process, in memory: nothing is read from a file.
    return _write(pickle.loads(tile), store, region)
