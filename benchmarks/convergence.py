"""How long the training of `unmix` takes to come near its end.

    OMP_NUM_THREADS=1 python benchmarks/convergence.py --data DIR

ds1 and ds2, default settings. While `unmix` trains, the abundances are read out from the guide after some of its steps,
outside of the clock. Printed is the CPU time, start and one read-out included, from which on no error is more than 1 %
above that after the last step; and that of the whole call with its sweeps, which come after all steps.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _data import corner, data_folder, load

from pyro_unmix import metrics, unmix
from pyro_unmix.posterior import PosteriorMean, Unmixing
from pyro_unmix.posterior.read_out import read_out

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

STEPS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
NEAR = 1.01


class Watch:
    """The pair that `unmix` fits, read out after some steps, and the CPU time up to there without these read-outs."""

    def __init__(self, scene: Any) -> None:
        self.scene, self.fit = scene, unmix_module.fit
        self.paused = self.reading = 0.0
        self.errors: dict[int, float] = {}
        self.seconds: dict[int, float] = {}

    def __call__(self, model: Any, guide: Any, cubes: Any, **settings: Any) -> Unmixing:
        self.pair, self.cubes = (model, guide), cubes
        self.look(0)
        return self.fit(model, guide, cubes, callback=self.after, **settings)

    def after(self, step: int, _: float) -> None:
        if step + 1 in STEPS:  # it counts from zero
            self.look(step + 1)

    def error(self, result: Unmixing) -> float:
        return float(metrics.score(result, self.scene)["NRMSE_A"])

    def look(self, step: int) -> None:
        started = time.process_time()
        self.seconds[step] = started - self.paused
        with torch.random.fork_rng():
            maps = read_out(*self.pair, self.cubes, estimate=PosteriorMean())
        self.reading = time.process_time() - started
        self.errors[step] = self.error(Unmixing(maps))
        self.paused += time.process_time() - started


def measure(name: str, data: Path, quick: bool) -> dict[str, Any]:
    """Errors and CPU seconds by step, and those of the whole call."""
    scene = load(name, data).scene
    if quick:
        scene = corner(scene, 2, 8, 8)
    watch = Watch(scene)
    started = time.process_time()
    with mock.patch.object(unmix_module, "fit", watch):
        result = unmix(scene.cubes, scene.num_endmembers, trained=True, progress=False)
    total = time.process_time() - started - watch.paused
    steps = np.array(list(watch.errors))
    errors = np.array(list(watch.errors.values()))
    far = np.flatnonzero(errors > NEAR * errors[-1])
    reached = int(steps[far[-1] + 1 if len(far) else 0])
    return {
        "scene": name,
        "errors": watch.errors,
        "reached at step": reached,
        "seconds to there": watch.seconds[reached] - started + watch.reading,
        "seconds in all": total,
        "final": watch.error(result),
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder of ds1.npz and ds2.npz")
    parser.add_argument("--quick", action="store_true", help="a corner of the scenes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| scene | NRMSE_A at the start | after training | within 1 % from step | CPU s to there "
          "| NRMSE_A after the sweeps | CPU s in all |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    rows = []
    for name in ("ds1", "ds2"):
        row = measure(name, data_folder(options.data), options.quick)
        errors = list(row["errors"].values())
        print(
            f"| {name} | {errors[0]:.4f} | {errors[-1]:.4f} | {row['reached at step']} "
            f"| {row['seconds to there']:.1f} | {row['final']:.4f} | {row['seconds in all']:.1f} |",
            flush=True,
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
