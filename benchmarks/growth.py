"""How step, preparation, read-out and memory grow with pixels, dates, bands and materials.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --plot growth.png

One axis of the shape grows, the others stay at `BASE`. Everything runs the default guide. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from _floor import BATCH_SIZE
from _memory import peak_bytes
from speed import PyroStep

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.infer.step import Batches
from pyro_unmix.posterior import PosteriorMean
from pyro_unmix.posterior.programs import as_tensors, prepare
from pyro_unmix.posterior.read_out import read_out
from pyro_unmix.priors import Independent, JumpWalk, WhiteNoise


@dataclass(frozen=True)
class Shape:
    """N pixels, T dates, L bands, P materials."""

    N: int = 500
    T: int = 4
    L: int = 64
    P: int = 3


BASE = Shape()
AXES: dict[str, list[int]] = {
    "N": [1000, 10_000, 100_000, 1_000_000],
    "T": [2, 4, 8, 16, 32, 64],
    "L": [10, 25, 50, 100, 200, 400],
    "P": [2, 3, 4, 6, 8, 12],
}
QUICK = {"N": [128, 256], "T": [2, 3], "L": [10, 20], "P": [2, 3]}
#: What is timed, and the unit. A step is of a batch of 128 pixels.
QUANTITIES = {"step": "CPU ms", "prepare": "CPU s", "read-out": "CPU s"}
#: Most pixels whose preparation and read-out are timed: beyond, they take minutes.
MOST_PIXELS = 10_000
#: Images on disk whose fits are measured; beyond `MOST_LOADED` pixels in chunks alone.
MEMORY = {"full": [1000, 10_000, 100_000, 1_000_000], "quick": [128, 256]}
MOST_LOADED = 100_000
#: Bytes of spectra that a fit of images in chunks holds, pixels of a chunk, and steps: through several pools.
POOLS, CHUNK, STEPS_IN_CHUNKS = 32_000_000, 4000, 300


def make_pair(shape: Shape) -> tuple[SGLMM, ConjugateGuide]:
    """The default guide on a model of known endmembers."""
    spectra = simulate.library(np.linspace(400, 2500, shape.L)).values
    model = SGLMM(
        FixedEndmembers(spectra[:, : shape.P]),
        basis=DCT(2, scale=0.1),
        abundance_prior=JumpWalk(),
        variability_prior=Independent(),
        noise=WhiteNoise(0.01),
    )
    return model, ConjugateGuide(model)


def make_cubes(shape: Shape, model: SGLMM) -> xr.DataArray:
    """Some hundred pixels drawn from the model, repeated."""
    drawn = model.sample_sequence(min(shape.N, 500), shape.T)["pixels"].numpy()
    cubes = np.resize(drawn, (1, shape.N, *drawn.shape[1:])).transpose(2, 0, 1, 3)
    return xr.DataArray(cubes, dims=("time", "y", "x", "wavelength"))


def measure(shape: Shape, num_rounds: int) -> dict[str, float]:
    """CPU time of every quantity; without those that would take too long."""
    model, guide = make_pair(shape)
    cubes = make_cubes(shape, model)
    pixels, valid = as_tensors(cubes, model)
    few = slice(0, min(shape.N, MOST_PIXELS))
    step = PyroStep(model, guide, pixels[few], valid[few])
    step.pixels, step.valid = pixels, valid
    repeats = -(-shape.N // len(pixels[few]))
    step.features = {
        k: v.repeat(repeats, *[1] * (v.dim() - 1))[: shape.N] for k, v in step.features.items()
    }
    batches, times = Batches(torch.arange(shape.N), min(BATCH_SIZE, shape.N), 0), []
    next(batches)  # shuffles all pixels, once in a pass over them
    for _ in range(num_rounds + 2):
        with step.around():
            times.append(_cpu(lambda: step(next(batches))))
    found = {"step": 1e3 * float(np.median(times[2:] or times))}
    if shape.N <= MOST_PIXELS:
        found["prepare"] = _cpu(lambda: prepare(guide, pixels, valid))
        estimate = PosteriorMean()
        found["read-out"] = _cpu(lambda: read_out(model, guide, cubes, estimate=estimate))
    return found


def _cpu(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def sweep(axes: dict[str, list[int]], num_rounds: int, base: Shape = BASE) -> list[dict[str, Any]]:
    """One record per axis and value."""
    records = []
    for axis, values in axes.items():
        for value in values:
            found = measure(replace(base, **{axis: value}), num_rounds)
            records.append({"axis": axis, "value": value, **found})
            print(f"{axis} = {value}: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()),
                  flush=True)  # fmt: skip
    return records


def slope(values: Sequence[float], times: Sequence[float]) -> float:
    """Of log time over log value, by least squares over the upper half (at least two points)."""
    half = max(2, (len(values) + 1) // 2)
    return float(np.polyfit(np.log(values[-half:]), np.log(times[-half:]), 1)[0])


def slopes(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Axis, quantity and slope: 1 is linear, 0 is independent."""
    found: dict[str, dict[str, float]] = {}
    for axis in dict.fromkeys(record["axis"] for record in records):
        for quantity in QUANTITIES:
            rows = [r for r in records if r["axis"] == axis and quantity in r]
            if len(rows) > 1:
                pairs = [r["value"] for r in rows], [r[quantity] for r in rows]
                found.setdefault(axis, {})[quantity] = slope(*pairs)
    return found


# ------------------------------------------------------------------------------- memory


def peak_memory(num_pixels: int, folder: Path) -> dict[str, float]:
    """MB of the images on disk, and by how much fits of them raised the peak of a fresh process: with the images in
    memory, and with images in chunks of which `POOLS` bytes are in memory, without their maps.
    """
    found: dict[str, float] = {"N": num_pixels}
    for how in ("loaded", "chunks"):
        if how == "loaded" and num_pixels > MOST_LOADED:
            continue
        command = [sys.executable, __file__, "--child", str(num_pixels), str(folder), how]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def _child(num_pixels: int, folder: Path, how: str) -> dict[str, float]:
    torch.set_num_threads(1)
    model, guide = make_pair(replace(BASE, N=num_pixels))
    # What any fit needs, of either kind.
    small = make_cubes(replace(BASE, N=500), model)
    settings = {"num_steps": 5, "progress": False}
    fit(model, guide, small, **settings)
    if how == "loaded":
        path = folder / f"{num_pixels}.npy"
        shape = (BASE.T, 1, num_pixels, BASE.L)
        on_disk = np.lib.format.open_memmap(path, "w+", "float32", shape)
        for start in range(0, num_pixels, 500):
            on_disk[:, :, start : start + 500] = small.values[:, :, : num_pixels - start]
        on_disk.flush()
        del on_disk
        cubes = xr.DataArray(np.load(path, mmap_mode="r"), dims=small.dims)
    else:
        path = folder / f"{num_pixels}.zarr"
        _write_store(small, num_pixels, path)
        cubes = xr.open_zarr(path, consolidated=False)["reflectance"]
        settings |= {"memory": POOLS, "maps": False, "num_steps": STEPS_IN_CHUNKS}
        fit(model, guide, small.chunk(x=100), **settings)
    before = peak_bytes()
    started = time.process_time()
    fit(model, guide, cubes, **settings)
    seconds = time.process_time() - started
    return {
        "images MB": num_pixels * BASE.T * BASE.L * 4 / 1e6,
        f"{how}: peak MB": (peak_bytes() - before) / 1e6,
        f"{how}: CPU s": seconds,
    }


def _write_store(small: xr.DataArray, num_pixels: int, path: Path) -> None:
    """The pixels repeated, chunk by chunk, as a Zarr store."""
    lazy = small.chunk(x=min(num_pixels, CHUNK)).isel(x=np.arange(CHUNK) % small.sizes["x"])
    copies = [lazy] * -(-num_pixels // CHUNK)
    cubes = xr.concat(copies, "x").isel(x=slice(0, num_pixels)).chunk(x=min(num_pixels, CHUNK))
    cubes.to_dataset(name="reflectance").to_zarr(path, consolidated=False)


# ------------------------------------------------------------------------------- printing


def report(found: dict[str, Any]) -> str:
    """Markdown tables."""
    lines = ["| axis | " + " | ".join(f"{q}: slope" for q in QUANTITIES) + " |"]
    lines.append("|---|" + "---:|" * len(QUANTITIES))
    for axis, of in found["slopes"].items():
        cells = (f"{of[q]:.2f}" if q in of else "-" for q in QUANTITIES)
        lines.append(f"| {axis} | {' | '.join(cells)} |")
    if found["memory"]:
        lines += ["", "| N | images MB | a fit of them adds MB | from disk, MB | CPU s |"]
        lines.append("|---:|" + "---:|" * 4)
        for row in found["memory"]:
            loaded = f"{row['loaded: peak MB']:.0f}" if "loaded: peak MB" in row else "-"
            disk = f"{row['chunks: peak MB']:.0f} | {row['chunks: CPU s']:.0f}"
            lines.append(f"| {row['N']} | {row['images MB']:.1f} | {loaded} | {disk} |")
    return "\n".join(lines)


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Log-log, a panel for each axis."""
    axes = list(dict.fromkeys(record["axis"] for record in records))
    names = {"N": "pixels", "T": "dates", "L": "bands", "P": "materials"}
    figure, panels = plt.subplots(1, len(axes), figsize=(3.2 * len(axes), 3), squeeze=False)
    for axis, panel in zip(axes, panels[0], strict=True):
        for number, (quantity, unit) in enumerate(QUANTITIES.items()):
            rows = [r for r in records if r["axis"] == axis and quantity in r]
            label = f"{quantity} ({unit})"
            panel.loglog([r["value"] for r in rows], [r[quantity] for r in rows], "os^"[number] + "-",
                         markersize=4, linewidth=1, label=label)  # fmt: skip
        values = [record["value"] for record in records if record["axis"] == axis]
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.set_xticks([], minor=True)
        panel.set_xlabel(f"{names[axis]} {axis}")
        panel.grid(True, which="major", linewidth=0.4)
    panels[0, 0].set_ylabel("time")
    panels[0, -1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the command line asks for; returns what was measured."""
    options = _parser().parse_args(arguments)
    if options.child:
        print(json.dumps(_child(int(options.child[0]), Path(options.child[1]), options.child[2])))
        return {}
    axes = {axis: (QUICK if options.quick else AXES)[axis] for axis in options.axes}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            if options.quick:
                records = sweep(axes, 1, replace(BASE, N=128))
            else:
                records = sweep(axes, options.rounds)
    finally:
        torch.set_num_threads(threads)
    if options.plot:
        plot(records, options.plot)
    found: dict[str, Any] = {"records": records, "slopes": slopes(records), "memory": []}
    if not options.no_memory:
        with tempfile.TemporaryDirectory() as folder:
            for num_pixels in MEMORY["quick" if options.quick else "full"]:
                found["memory"].append(peak_memory(num_pixels, Path(folder)))
    print(f"\n{report(found)}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS",
                        help="which of N T L P grow (all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9, help="steps of each shape (9)")
    parser.add_argument("--quick", action="store_true", help="small shapes, one round")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory of fits"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a log-log picture")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
