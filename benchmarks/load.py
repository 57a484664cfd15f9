"""Many calls, many processes, many dates, many pixels: memory, time, and whether the results stay what they are.

    OMP_NUM_THREADS=1 python benchmarks/load.py --out DIR

Every part runs in a process of its own, with --quick in this one. DIR is scratch, 2 GB at full size; what was written
is removed at the end. The exit code is 1 where memory grows or a result depends on the load. See benchmarks/README.md.
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

#: Most that a process may grow by from call to call: less than the arrays of one.
MOST_PER_CALL = 20e3
#: Most that a process may hold of the images that are read by tiles.
MOST_BYTES = 2e9
_DIMS = ("time", "y", "x", "endmember")
_FULL = {
    "calls": 200,
    "saves": 1000,
    "processes": 8,
    "dates": 400,
    "side": 5000,
    "tile": 500,
    "steps": 100,
}
_QUICK = {"calls": 6, "saves": 6, "processes": 2, "dates": 12, "side": 40, "tile": 16, "steps": 5}


def slope(values: Sequence[float]) -> float:
    """Growth from call to call over the second half: the median slope of all pairs (Theil, Sen).

    A step that happens once, as when a pool of the allocator is filled, moves it little; a leak of every call is it.
    """
    late = np.asarray(values, dtype=float)[len(values) // 2 :]
    first, second = np.triu_indices(len(late), k=1)
    return float(np.median((late[second] - late[first]) / (second - first)))


def _library(num_bands: int) -> xr.DataArray:
    return pu.simulate.library(np.linspace(450.0, 2300.0, num_bands))[:, :3]


def _scene(num_dates: int = 2, side: int = 4) -> pu.simulate.Scene:
    sizes = {"num_dates": num_dates, "height": side, "width": side}
    return pu.simulate.scaled_scene(**sizes, library=_library(20))


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
    result = pu.unmix(scene.cubes, 3, num_steps=size["steps"], progress=False)
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
    result = pu.unmix(scene.cubes, 3, num_steps=size["steps"], progress=False)
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
    endmembers = _library(10).values
    _write_image(folder / "image.npy", endmembers, side, tile)
    begin, wall = time.process_time(), time.perf_counter()
    chunks = {"y": tile, "x": tile}
    image = pu.read_sequence(folder / "image.npy", chunks=chunks)
    maps = folder / "maps.zarr"
    _empty_maps(maps, side, tile)
    for y in range(0, side, tile):
        for x in range(0, side, tile):
            region = {"y": slice(y, y + tile), "x": slice(x, x + tile)}
            result = pu.methods.fcls(image.isel(region), endmembers=endmembers, progress=False)
            part = xr.DataArray(result.abundances.values.astype(np.float32), dims=_DIMS)
            part.to_dataset(name="abundances").to_zarr(maps, region=region, consolidated=False)
    cpu = time.process_time() - begin
    corner = image.isel(y=slice(tile // 2, 2 * tile), x=slice(0, tile)).load()
    fitted = pu.methods.fcls(corner, endmembers=endmembers, progress=False).abundances.values
    written = xr.open_zarr(maps, consolidated=False)["abundances"]
    written = written.isel(y=slice(tile // 2, 2 * tile), x=slice(0, tile))
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


def _write_image(path: Path, endmembers: np.ndarray, side: int, tile: int) -> None:
    """Mixtures under noise, row of tiles by row of tiles, (1, y, x, wavelength) in float32."""
    shape = (1, side, side, len(endmembers))
    image = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
    for y in range(0, side, tile):
        noise = np.random.default_rng(y)
        part = image[0, y : y + tile]
        shares = noise.dirichlet(np.ones(endmembers.shape[1]), part.shape[:2])
        part[:] = shares @ endmembers.T + 1e-3 * noise.standard_normal(part.shape)
    image.flush()


def _empty_maps(path: Path, side: int, tile: int) -> None:
    import dask.array

    chunks = (1, tile, tile, 3)
    zeros = dask.array.zeros((1, side, side, 3), chunks=chunks, dtype=np.float32)
    maps = xr.DataArray(zeros, dims=_DIMS).to_dataset(name="abundances")
    maps.to_zarr(path, compute=False, consolidated=False)


PARTS: dict[str, Callable[[Path, dict[str, int]], Found]] = {
    part.__name__: part for part in (calls, saves, processes, dates, tiles)
}


def _child(part: str, folder: Path, size: dict[str, int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--part", part, "--out", str(folder)]
    return subprocess.Popen([*command, "--size", json.dumps(size)], stdout=subprocess.PIPE)


def _apart(part: str, folder: Path, size: dict[str, int]) -> Found:
    """In a process that does nothing else."""
    child = _child(part, folder, size)
    answer = child.communicate()[0]
    if child.returncode:
        raise SystemExit(f"{part} ended with {child.returncode}")
    return dict(json.loads(answer))


def faults(found: dict[str, Found], *, memory: bool) -> list[str]:
    """What no load may do; a few calls in a process that did other things say nothing about memory."""
    said = []
    for part, values in found.items():
        if memory and values.get("kB per call", 0) > MOST_PER_CALL / 1e3:
            said.append(f"{part}: memory grows by {values['kB per call']:.0f} kB with every call")
        if memory and part == "tiles" and values["peak MB"] > MOST_BYTES / 1e6:
            said.append(f"tiles: a process holds {values['peak MB']:.0f} MB")
        for name in ("files left open", "files beside it", "other results", "largest difference"):
            if values.get(name, 0) > (1e-6 if name == "largest difference" else 0):
                said.append(f"{part}: {name}: {values[name]:g}")
    many = found.get("processes")
    if many and many["saved"] < many["processes"]:
        said.append(f"processes: only {many['saved']:g} were saved")
    return said


def main(arguments: Sequence[str] | None = None) -> dict[str, Found]:
    """Run what the command line asks for; what was measured."""
    options = _parser().parse_args(arguments)
    if options.part:
        one = PARTS | {"one_of_many": one_of_many}
        print(json.dumps(one[options.part](options.out, json.loads(options.size))))
        return {}
    size = _QUICK if options.quick else _FULL
    found: dict[str, Found] = {}
    for part in options.only:
        folder = options.out / f"load_{part}"
        folder.mkdir(parents=True)
        try:
            found[part] = PARTS[part](folder, size) if options.quick else _apart(part, folder, size)
        finally:
            shutil.rmtree(folder)
        print(f"\n| {part} | |\n|---|---:|")
        for name, value in found[part].items():
            print(f"| {name} | {value:.6g} |", flush=True)
    if said := faults(found, memory=not options.quick):
        raise SystemExit("\n".join(said))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="scratch folder with enough space")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of {', '.join(PARTS)} (all)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes, in seconds")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
