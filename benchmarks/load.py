"""Many calls, many processes, many dates, many pixels: memory, time, and whether the results stay what they are.

    OMP_NUM_THREADS=1 python benchmarks/load.py --out DIR

Every part runs in a process of its own. DIR is scratch, 1 GB at full size; what was written is removed at the end. The
exit code is 1 where memory grows or a result depends on the load. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _memory import peak_bytes, resident_bytes

import pyro_unmix as pu

Found = dict[str, float]

#: Most that a process may grow by with every call in the second half of its calls, as a median of pairs: less than the
#: arrays of a single call.
MOST_PER_CALL = 20e3
#: Most that a process may hold of the images that are read by tiles.
MOST_BYTES = 2e9
_FULL = {"calls": 200, "saves": 1000, "processes": 8, "dates": 400, "side": 5000, "tile": 500}
_QUICK = {"calls": 6, "saves": 6, "processes": 2, "dates": 12, "side": 40, "tile": 16}


def slope(values: Sequence[float]) -> float:
    """Growth from call to call over the second half: the median slope of all pairs (Theil, Sen).

    A step that happens once, as when a pool of the allocator is filled, moves it little; a leak of every call is it.
    """
    late = np.asarray(values, dtype=float)[len(values) // 2 :]
    first, second = np.triu_indices(len(late), k=1)
    return float(np.median((late[second] - late[first]) / (second - first)))


def _scene(num_dates: int = 2, side: int = 4) -> pu.simulate.Scene:
    return pu.simulate.scaled_scene(num_dates=num_dates, height=side, width=side)


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def _repeated(call: Callable[[int], object], count: int) -> Found:
    """Resident memory after each of so many calls, and open files after the first and the last."""
    sizes, files, begin = [], [], time.process_time()
    for number in range(count):
        call(number)
        gc.collect()
        sizes.append(resident_bytes())
        files.append(_open_files())
    return {
        "calls": count,
        "CPU s": time.process_time() - begin,
        "MB after the first": sizes[0] / 1e6,
        "MB in the middle": sizes[count // 2] / 1e6,
        "MB at the end": sizes[-1] / 1e6,
        "kB per call": slope(sizes) / 1e3,
        "files left open": files[-1] - files[0],
    }


def calls(folder: Path, size: dict[str, int]) -> Found:
    """`unmix` again and again in one process, each time another scene of the same size."""
    cubes = _scene().cubes
    noise = np.random.default_rng(0)

    def call(number: int) -> None:
        other = cubes + 1e-3 * noise.standard_normal(cubes.shape)
        pu.unmix(other, 3, num_steps=20, seed=number, progress=False)

    return _repeated(call, size["calls"])


def saves(folder: Path, size: dict[str, int]) -> Found:
    """Save over the same folder and load again; the last is the first, and nothing else is left beside it."""
    result = pu.unmix(_scene().cubes, 3, num_steps=5, progress=False)
    path = folder / "saved"
    loaded = []

    def call(number: int) -> None:
        result.save(path, overwrite=True)
        loaded[:] = [pu.Unmixing.load(path)]

    found = _repeated(call, size["saves"])
    found["files beside it"] = len(list(folder.iterdir())) - 1
    difference = abs(loaded[0].abundances - result.abundances).max()
    return {**found, "largest difference": float(difference)}


def one_of_many(folder: Path, size: dict[str, int]) -> dict[str, Any]:
    """A fit, saved under a name of its own in a folder that all share; a digest of its maps."""
    scene = _scene(num_dates=3, side=12)
    begin = time.process_time()
    result = pu.unmix(scene.cubes, 3, num_steps=100, progress=False)
    result.save(folder / f"saved {os.getpid()}")
    digest = hashlib.sha256(result.abundances.values.tobytes()).hexdigest()
    return {"digest": digest, "cpu": time.process_time() - begin, "bytes": peak_bytes()}


def processes(folder: Path, size: dict[str, int]) -> Found:
    """The same fit alone, then in several processes at once: all have its bits."""
    begin = time.perf_counter()
    alone = json.loads(_child("one_of_many", folder, size).communicate()[0])
    middle = time.perf_counter()
    children = [_child("one_of_many", folder, size) for _ in range(size["processes"])]
    found = [json.loads(child.communicate()[0]) for child in children]
    return {
        "processes": size["processes"],
        "wall s of one alone": middle - begin,
        "wall s of all": time.perf_counter() - middle,
        "CPU s of one alone": alone["cpu"],
        "CPU s of each": float(np.median([other["cpu"] for other in found])),
        "peak MB of each": max(other["bytes"] for other in found) / 1e6,
        "other results": sum(other["digest"] != alone["digest"] for other in found),
        "saved": len(list(folder.glob("saved *"))) - 1,
    }


def dates(folder: Path, size: dict[str, int]) -> Found:
    """`unmix` of a long sequence, from image to maps."""
    scene = _scene(num_dates=size["dates"], side=8)
    begin = time.process_time()
    result = pu.unmix(scene.cubes, 3, num_steps=100, progress=False)
    truth = pu.metrics.score(result, scene)
    return {
        "dates": size["dates"],
        "CPU s": time.process_time() - begin,
        "peak MB": peak_bytes() / 1e6,
        "NRMSE_A": float(truth["NRMSE_A"]),
    }


def tiles(folder: Path, size: dict[str, int]) -> Found:
    """FCLS of one large image on disk, tile by tile into a Zarr store; checked against the same pixels in memory."""
    side, tile = size["side"], size["tile"]
    endmembers = pu.simulate.signatures(np.linspace(450, 2300, 10))[:, :3]
    _write_image(folder / "image.npy", endmembers.values, side, tile)
    begin, wall = time.process_time(), time.perf_counter()
    chunks = {"y": tile, "x": tile}
    image = pu.read_sequence(folder / "image.npy", chunks=chunks, wavelength=endmembers.wavelength)
    maps = folder / "maps.zarr"
    _empty_maps(maps, side, tile)
    for y in range(0, side, tile):
        for x in range(0, side, tile):
            region = {"y": slice(y, y + tile), "x": slice(x, x + tile)}
            result = pu.methods.fcls(image.isel(region), endmembers=endmembers, progress=False)
            part = result.abundances.drop_vars(list(result.abundances.coords))
            part.to_dataset(name="abundances").to_zarr(maps, region=region)
    cpu = time.process_time() - begin
    corner = image.isel(y=slice(tile // 2, 2 * tile), x=slice(0, tile)).load()
    fitted = pu.methods.fcls(corner, endmembers=endmembers, progress=False).abundances.values
    written = xr.open_zarr(maps)["abundances"].isel(y=slice(tile // 2, 2 * tile), x=slice(0, tile))
    return {
        "pixels": side**2,
        "tiles": (-(-side // tile)) ** 2,
        "GB of images": (folder / "image.npy").stat().st_size / 1e9,
        "CPU s": cpu,
        "wall s": time.perf_counter() - wall,
        "pixels per CPU s": side**2 / cpu,
        "peak MB": peak_bytes() / 1e6,
        "largest difference": float(abs(written.values - fitted).max()),
    }
