"""A scene larger than memory on disk, predicted tile by tile: peak memory, rate, and going on after an interrupt.

    OMP_NUM_THREADS=1 python benchmarks/large_scene.py --size 2000 --out DIR

Writes SIZE x SIZE pixels x 6 dates x 224 bands as Zarr into DIR (21 GB at 2000), fits a small corner, and predicts all
in processes of their own: one is interrupted (SIGINT) when half of the tiles are done, the next one goes on. What was
written is removed at the end. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _memory import peak_bytes
from tqdm.auto import tqdm

import pyro_unmix as pu

NUM_DATES, NUM_BANDS = 6, 224
#: Most that a process may hold, and largest difference from the same pixels predicted from memory.
MOST_BYTES, TOLERANCE = 3e9, 1e-6
_SCENE, _FIT, _MAPS = "scene.zarr", "fit", "maps.zarr"


def write_scene(path: Path, size: int, tile: int) -> None:
    """A small simulated scene, repeated under noise that is new in every tile, written tile by tile."""
    side = min(size, 64)
    scene = pu.simulate.scaled_scene(num_dates=NUM_DATES, height=side, width=side)
    small = scene.cubes.values.astype(np.float32)
    times = -(-tile // side)
    block = np.tile(small, (1, times, times, 1))[:, :tile, :tile]
    shape, chunks = (NUM_DATES, size, size, NUM_BANDS), (NUM_DATES, tile, tile, NUM_BANDS)
    dims = ("time", "y", "x", "wavelength")
    lazy = xr.DataArray(
        _empty(shape, chunks), dims=dims, coords={"wavelength": scene.cubes["wavelength"].values}
    )
    lazy.to_dataset(name="reflectance").to_zarr(path, compute=False, consolidated=False)
    corners = [(y, x) for y in range(0, size, tile) for x in range(0, size, tile)]
    for number, (y, x) in enumerate(tqdm(corners, desc="write", unit="tile")):
        region = {"y": slice(y, min(y + tile, size)), "x": slice(x, min(x + tile, size))}
        part = block[:, : region["y"].stop - y, : region["x"].stop - x]
        noise = np.random.default_rng(number).standard_normal(part.shape, dtype=np.float32)
        written = xr.DataArray(part + np.float32(1e-3) * noise, dims=dims)
        written.to_dataset(name="reflectance").to_zarr(path, region=region)


def _empty(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
    import dask.array

    return dask.array.zeros(shape, chunks=chunks, dtype=np.float32)


def predict(folder: Path, tile: int) -> dict[str, float]:
    """What a process that predicts reports: peak memory, and seconds of the call."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # background jobs inherit that it is ignored
    result = pu.Unmixing.load(folder / _FIT)
    cubes = xr.open_zarr(folder / _SCENE, consolidated=False)["reflectance"]
    cpu, wall = time.process_time(), time.perf_counter()
    result.predict_to_zarr(cubes, folder / _MAPS, tile=tile, progress=False)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "bytes": peak_bytes(),
    }


def run(folder: Path, size: int, tile: int) -> dict[str, float]:
    """Write, fit a corner, predict with an interrupt, compare; `folder` is scratch."""
    write_scene(folder / _SCENE, size, tile)
    scene = xr.open_zarr(folder / _SCENE, consolidated=False)["reflectance"]
    corner = scene.isel(y=slice(0, 48), x=slice(0, 48)).load()
    # As of the whole scene, which `unmix` does not polish either.
    result = pu.unmix(corner, 3, num_steps=5, polish=False, progress=False)
    result.save(folder / _FIT)
    num_tiles = (-(-size // tile)) ** 2
    done = _interrupted(folder, tile, num_tiles // 2)
    found = json.loads(subprocess.run(_command(folder, tile), check=True, stdout=-1).stdout)
    untiled = result.predict(corner)
    maps = xr.open_zarr(folder / _MAPS)["abundances"].transpose(*untiled.abundances.dims)
    maps = maps.isel(y=slice(0, 48), x=slice(0, 48))
    difference = float(abs(maps.values - untiled.abundances.values).max())
    predicted = NUM_DATES * size**2 * (num_tiles - done) / num_tiles
    return {
        "tiles": num_tiles,
        "done before the interrupt": done,
        "pixel-dates per CPU s": predicted / found["cpu"],
        "pixel-dates per s": predicted / found["wall"],
        "peak RSS, GB": found["bytes"] / 1e9,
        "largest difference from memory": difference,
    }


def _command(folder: Path, tile: int) -> list[str]:
    return [sys.executable, __file__, "--predict", "--out", str(folder), "--tile", str(tile)]


def _interrupted(folder: Path, tile: int, enough: int) -> int:
    """Press Ctrl-C when so many tiles are done; how many are then."""
    marks = folder / f".{_MAPS}.tiles" / "done"
    with subprocess.Popen(_command(folder, tile), stdout=-1, stderr=-1) as process:
        while process.poll() is None and (
            not marks.exists() or len(list(marks.iterdir())) < enough
        ):
            time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError(f"the prediction ended too early: {process.communicate()[1]!r}")
        process.send_signal(signal.SIGINT)
        process.communicate()
    if process.returncode == 0:
        raise RuntimeError("the prediction was not interrupted: take a larger --size")
    return len(list(marks.iterdir()))


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run what the command line asks for; returns what was measured."""
    options = _parser().parse_args(arguments)
    if options.predict:
        found = predict(options.out, options.tile)
        print(json.dumps(found))
        return found
    size, tile = (96, 24) if options.quick else (options.size, options.tile)
    folder = options.out / f"large_scene_{size}"
    folder.mkdir(parents=True)
    try:
        found = run(folder, size, tile)
    finally:
        shutil.rmtree(folder)
    print(f"| {size} x {size} x {NUM_DATES} dates x {NUM_BANDS} bands | |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name} | {value:.4g} |")
    if (
        found["peak RSS, GB"] > MOST_BYTES / 1e9
        or found["largest difference from memory"] > TOLERANCE
    ):
        raise SystemExit("the prediction takes too much memory, or depends on its tiles")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2000, help="pixels along y and x (2000)")
    parser.add_argument("--tile", type=int, default=128, help="side of the tiles (128)")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder with enough space")
    parser.add_argument("--quick", action="store_true", help="a scene of 96 x 96 pixels")
    parser.add_argument("--predict", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
