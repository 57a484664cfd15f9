"""A Zarr store that is written tile by tile, and gone on with where it was broken off."""

from __future__ import annotations

import concurrent.futures as futures
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

import xarray as xr
from tqdm.auto import tqdm

from pyro_unmix.io.write import datasets as writers
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.posterior.tiles import maps_of

logger = logging.getLogger(__name__)

_Region = dict[str, slice]


def write_tiles(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a lazy dataset as a Zarr store, with the attributes of `writers.write_zarr`.

    The tiles are written to a hidden folder beside `path`, with a mark for every one that is done; when all are, the
    store is renamed to `path`. A call that finds such a folder does the tiles that are missing.

    Parameters
    ----------
    dataset : xarray.Dataset
        Maps in chunks along y and x.
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
        If `path` exists and is not to be replaced, or is no Zarr store.
    ValueError
        If the folder beside it holds tiles of something else.
    """
    path = Path(path)
    store = any((path / name).is_file() for name in (".zgroup", "zarr.json"))
    if path.exists() and not (overwrite and store):
        raise FileExistsError(
            f"{path} exists: pass overwrite=True to replace a Zarr store, or another path"
        )
    num_workers = positive_int(num_workers, "num_workers")
    work = path.parent / f".{path.name}.tiles"
    dataset = writers.cf_dataset(dataset)
    _prepare(dataset, work, {"format": 1, **identity})
    maps = dataset[maps_of(dataset)].drop_encoding()
    todo = [(name, region) for name, region in _tiles(maps) if not (work / "done" / name).exists()]
    total = sum(1 for _ in _tiles(maps))
    if len(todo) < total:
        logger.info("%s: %d of %d tiles are done", work, total - len(todo), total)
    with tqdm(total=total, initial=total - len(todo), disable=not progress, unit="tile") as bar:
        for name in _written(maps, work / "store", todo, num_workers):
            (work / "done" / name).touch()
            bar.update()
    if path.exists():
        os.replace(path, work / "old")
    os.replace(work / "store", path)
    shutil.rmtree(work)
    return path


def _prepare(dataset: xr.Dataset, work: Path, plan: dict[str, Any]) -> None:
    """A store without its tiles, and then the plan: where that is, the store is whole."""
    plan_file = work / "plan.json"
    if plan_file.exists():
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
        return
    shutil.rmtree(work, ignore_errors=True)
    (work / "done").mkdir(parents=True)
    # Zarr format 2, as in `writers.write_zarr`; Zarr 2 knows no other, and has no such setting.
    config = getattr(writers.need("zarr", "scale"), "config", None)
    with nullcontext() if config is None else config.set({"default_zarr_format": 2}):
        dataset.to_zarr(work / "store", compute=False)
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
    maps: xr.Dataset, store: Path, todo: list[tuple[str, _Region]], num_workers: int
) -> Iterator[str]:
    """Write the tiles; the name of each as soon as it is done."""
    if num_workers == 1:
        for name, region in todo:
            _write(_cut(maps, region), store, region)
            yield name
        return
    cloudpickle = writers.need("cloudpickle", "scale")
    # A fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        waiting: dict[futures.Future[None], str] = {}
        for name, region in todo:
            tile = cloudpickle.dumps(_cut(maps, region))
            waiting[pool.submit(_write_pickled, tile, store, region)] = name
            while len(waiting) > 2 * num_workers:  # what waits is in memory
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


def _finished(waiting: dict[futures.Future[None], str]) -> Iterator[str]:
    for done in futures.wait(waiting, return_when=futures.FIRST_COMPLETED).done:
        name = waiting.pop(done)
        done.result()  # raises what was raised there
        yield name


def _cut(maps: xr.Dataset, region: _Region) -> xr.Dataset:
    """One tile, with that part of the graph alone which computes it."""
    dask = writers.need("dask", "scale")
    tile = maps.isel(region)
    return dask.optimize(tile.drop_vars(list(tile.coords)))[0]


def _write(tile: xr.Dataset, store: Path, region: _Region) -> None:
    dask = writers.need("dask.base", "scale")
    # A tile is read out in one thread.
    here = {} if dask.get_scheduler() else {"scheduler": "synchronous"}
    with writers.need("dask", "scale").config.set(here):
        tile.to_zarr(store, region=region)


def _write_pickled(tile: bytes, store: Path, region: _Region) -> None:
    # From the parent process, in memory: nothing is read from a file.
    _write(pickle.loads(tile), store, region)
