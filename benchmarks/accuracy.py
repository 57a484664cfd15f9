"""Errors and seconds of the methods on five scenes, as Markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py --data DIR

See benchmarks/README.md for what the rows, columns and conventions are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _vegetation
import numpy as np
import torch
import xarray as xr
from _data import CASES, Case, corner, data_folder, load
from pyro import poutine

from pyro_unmix import Brightness, Unmixing, metrics, redsunn, unmix
from pyro_unmix.methods import fcls
from pyro_unmix.posterior.programs import as_tensors, prepare, quiet_pyro

SCORES = ("NRMSE_A", "RMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y")
COLUMNS = (*SCORES, "CPU s", "wall s", "ELBO")
VEGETATION = "enmap-potsdam"
LINEAR, UNIT_MAXIMUM = "linear", "unit maximum"
_ELBO_DRAWS = 4
_ELBO_SEED = 0
_CHUNK = 500
_QUICK = (2, 8, 8)  # dates, rows, columns


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Parameters
    ----------
    title : str
    run : callable
        ``(cubes, num_endmembers, seed, quick) -> Unmixing``.
    images_only : bool
        Only for real images in the unit-maximum convention.
    """

    title: str
    run: Callable[[xr.DataArray, int, int, bool], Unmixing]
    images_only: bool = False


def _fcls(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
    return fcls(cubes, count, seed=seed, progress=False)


def _redsunn(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
    settings = {"num_epochs": 2} if quick else {}
    return redsunn(cubes, count, seed=seed, progress=False, **settings)


def _unmix(**options: Any) -> Callable[[xr.DataArray, int, int, bool], Unmixing]:
    def run(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
        few = {"num_steps": 2} if quick else {}
        return unmix(cubes, count, seed=seed, progress=False, **{**few, **options})

    return run


METHODS = {
    "fcls": Method("VCA per date + FCLS", _fcls),
    "redsunn": Method("`redsunn`", _redsunn),
    "start": Method("`unmix`, its start (0 steps)", _unmix(num_steps=0)),
    "no-lstm": Method("`unmix`, no LSTM correction", _unmix(correction=False)),
    "unmix": Method("`unmix`", _unmix()),
    "brightness": Method("`unmix`, `Brightness()`", _unmix(basis=Brightness()), images_only=True),
}


class _UnitMaximum:
    """A result whose abundances are read out in the unit-maximum convention."""

    def __init__(self, result: Unmixing) -> None:
        self.endmembers, self.reconstruct = result.endmembers, result.reconstruct
        self.abundances = result.unit_maximum()


# ------------------------------------------------------------------------------- measuring


def measure(method: Method, case: Case, seed: int, quick: bool = False) -> list[dict[str, Any]]:
    """Run a method on a scene; one record per convention of the abundances.

    Time is that of the call alone, from cubes to result; scores and ELBO come after it.
    """
    scene = case.scene
    cpu, wall = time.process_time(), time.perf_counter()
    result = method.run(scene.cubes, scene.num_endmembers, seed, quick)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    common = {
        "scene": case.title,
        "method": method.title,
        "seed": seed,
        "CPU s": cpu,
        "wall s": wall,
        "ELBO": full_elbo(result),
        "steps": len(result.losses),
        "last 20 steps": float(-np.mean(result.losses[-20:])) if len(result.losses) else None,
    }
    views: dict[str, Any] = {LINEAR: result}
    if case.unit_maximum:
        views[UNIT_MAXIMUM] = _UnitMaximum(result)
    records = []
    for convention, view in views.items():
        scores: dict[str, float | None] = dict(metrics.score(view, scene))
        if case.unit_maximum:
            scores["NRMSE_M"] = None  # the references' scale is a convention
        records.append({**common, "abundances": convention, **scores})
    return records


def full_elbo(result: Unmixing) -> float | None:
    """ELBO per observed value over all pixels, mean over draws from a fixed seed; None if no guide.

    What the guide prepares from the data is prepared with the fitted model, as for the read-out, so
    that the ELBO belongs to the posterior that the scores are of. It is the same evaluation for
    every method: no minibatches, no running mean.
    """
    model, guide = result.model, result.guide
    if model is None or result.cubes is None:
        return None
    pixels, valid = as_tensors(result.cubes, model)
    total = 0.0
    with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(_ELBO_SEED)
        for index in torch.arange(len(pixels)).split(_CHUNK):
            y, v = pixels[index], valid[index]
            features = prepare(guide, y, v, index)
            for _ in range(_ELBO_DRAWS):
                own, shared = _log_weight(model, guide, y, v, index, features)
                # What all pixels share is in every chunk, and counts once.
                total += (own + shared * len(index) / len(pixels)) / _ELBO_DRAWS
    return total / (int(valid.sum()) * pixels.shape[-1])


def _log_weight(
    model: Any, guide: Any, pixels: Any, valid: Any, index: Any, features: Any
) -> tuple[float, float]:
    """``log p(y, z) - log q(z)`` of one draw: summed over these pixels, and of what all pixels share."""
    inputs = {"index": index, "size": len(index), "features": features}
    drawn = poutine.trace(guide).get_trace(pixels, valid, **inputs)
    joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(pixels, valid, **inputs)
    weights = []
    for shared in (False, True):
        chosen = {"site_filter": lambda name, site, shared=shared: (name == "field") == shared}
        weights.append(float(joint.log_prob_sum(**chosen) - drawn.log_prob_sum(**chosen)))
    return weights[0], weights[1]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread, and the number of before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------- printing


def table(records: Sequence[dict[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """Markdown, a row per method and convention; of several seeds the median and the range."""
    columns = tuple(columns)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["method"], record["abundances"]), []).append(record)
    lines = [
        "| method | abundances | " + " | ".join(columns) + " |",
        "|---|---|" + "---:|" * len(columns),
    ]
    for (method, convention), group in rows.items():
        cells = [_cell([record[column] for record in group], column) for column in columns]
        lines.append(f"| {method} | {convention} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None], column: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 1 if column.endswith(" s") else 4
    median = f"{np.median(known):.{digits}f}"
    if len(known) == 1:
        return median
    return f"{median} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def heading(case: Case, seeds: Sequence[int]) -> str:
    """Title, sizes and convention of a scene."""
    sizes = case.scene.cubes.sizes
    text = (
        f"### {case.title}: T = {sizes['time']}, {sizes['y']} x {sizes['x']} pixels, "
        f"L = {sizes['wavelength']}, P = {case.scene.num_endmembers}; "
    )
    text += f"seed {seeds[0]}" if len(seeds) == 1 else f"median (range) of seeds {list(seeds)}"
    if case.unit_maximum:
        text += (
            "\n\nThe reference abundances belong to endmembers scaled to maximum one. `linear` rows "
            "compare the linear model's abundances with them as they are, `unit maximum` rows "
            "convert with `Unmixing.unit_maximum()` first. There is one reference spectrum per "
            "material: SAM_M is to those, NRMSE_M has no meaning."
        )
    else:
        text += "\n\nThe true abundances are the linear model's."
    return text


def _threads() -> str:
    named = os.environ.get("OMP_NUM_THREADS", "not set: BLAS may use more, set it to 1")
    return f"One torch thread; OMP_NUM_THREADS {named}."


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run what the command line asks for; returns the records."""
    options = _parser().parse_args(arguments)
    folder = data_folder(options.data)
    records: list[dict[str, Any]] = []
    print(_threads())
    with one_thread():
        for name in options.scenes:
            measured = _vegetation_records if name == VEGETATION else _scene_records
            records += measured(name, options, folder)
            if options.json:
                options.json.write_text(json.dumps(records, indent=1, default=_plain))
    return records


def _scene_records(name: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    case = load(name, folder)
    if options.quick:
        case = Case(case.title, corner(case.scene, *_QUICK), case.unit_maximum)
    methods = [METHODS[row] for row in options.rows]
    methods = [m for m in methods if case.unit_maximum or not m.images_only]
    found = [
        record
        for method in methods
        for seed in options.seeds
        for record in measure(method, case, seed, options.quick)
    ]
    print(f"\n{heading(case, options.seeds)}\n\n{table(found)}", flush=True)
    if options.each and len(options.seeds) > 1:
        for seed in options.seeds:
            mine = [record for record in found if record["seed"] == seed]
            print(f"\nSeed {seed}:\n\n{table(mine)}", flush=True)
    return found


def _vegetation_records(
    name: str, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    found = [r for seed in options.seeds for r in _vegetation.measure(folder, seed, options.quick)]
    print("\n### EnMAP Potsdam: 18 tiles together, 6 materials; 100 reference pixels\n")
    print(f"The vegetation fraction is {_vegetation.VEGETATION_RULE}.\n")
    print(_vegetation.table(found), flush=True)
    return found


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="folder of the scenes ($PYRO_UNMIX_DATA)")
    scenes = [*CASES, VEGETATION]
    parser.add_argument("--scenes", nargs="+", choices=scenes, default=scenes, metavar="SCENE",
                        help=f"of {', '.join(scenes)} (all)")  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=list(METHODS), metavar="ROW",
                        help=f"of {', '.join(METHODS)} (all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one fit each (0)")
    parser.add_argument("--each", action="store_true", help="also a table per seed")
    parser.add_argument("--quick", action="store_true", help="a corner of each scene, few steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here")
    return parser


if __name__ == "__main__":
    main()
