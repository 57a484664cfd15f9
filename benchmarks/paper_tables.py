"""Tables II and III and Fig. 8 of the ReDSUNN paper, on scenes like its own.

    OMP_NUM_THREADS=1 python benchmarks/paper_tables.py --data DIR --out out/paper_tables

Writes ``paper_tables.md``, ``scores.png`` and ``sensitivity.png``, and a JSON file per fit in
``cache``: a run that was stopped, or is asked for more seeds, computes only what is missing.
See benchmarks/README.md for what the rows, columns and conventions are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import _paper_report as report
import _paper_scenes as scenes
import numpy as np
import numpy.typing as npt
import pyro
import torch
import xarray as xr
from _data import data_folder
from accuracy import one_thread
from tqdm.auto import tqdm

import pyro_unmix
from pyro_unmix import Unmixing, choose_start, methods, metrics
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.simulate import Scene
from pyro_unmix.start import vca

Array = npt.NDArray[Any]
Settings = dict[str, Any]
Start = Callable[[xr.DataArray, int, int], Array]

TITLES = {
    "ds1-like": "DS1-like: scaled signatures, T = 6, 50 x 50 pixels, L = 224, P = 3, 30 dB",
    "ds2-like": "DS2-like: bundles of spectra, T = 15, 50 x 50 pixels, L = 198, P = 4, 30 dB",
    "ds1": "ds1: USGS signatures, T = 6, 50 x 50 pixels, L = 224, P = 3, 30 dB",
    "ds2": "ds2: pure pixels of Jasper Ridge, T = 15, 50 x 50 pixels, L = 198, P = 4, 30 dB",
    "sentinel-2": "Sentinel-2: T = 5, 101 x 100 pixels, L = 13, P = 4",
}
_COUNTS = {"ds1-like": 3, "ds2-like": 4, "ds1": 3, "ds2": 4, "sentinel-2": 4}
#: K and sigma_psi^2 of the paper for its scenes; Lake Tahoe's for the real one.
_REDSUNN = {"ds1": (10, 1e-5), "ds2": (2, 1e-5), "sentinel-2": (3, 1.0)}
FIGURE_BASES = (1, 2, 5, 10)
FIGURE_VARIANCES = (1e-5, 1e-3, 1e-1, 1.0)
_FIGURE_EPOCHS = 10
_REAL = ("sentinel-2",)


# ------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """A row of Table II.

    Parameters
    ----------
    title : str
    run : callable
        ``(cubes, endmembers, seed, settings) -> Unmixing``; the endmembers are those of `start`, or
        their number where there is none.
    start : callable, optional
        ``(cubes, num_endmembers, seed) -> endmembers (L, P)``; without it a method finds its own.
    quick : dict
        Settings of a run of a second.
    """

    title: str
    run: Callable[[xr.DataArray, Any, int, Settings], Unmixing]
    start: Start | None = None
    quick: Settings = field(default_factory=dict)


def vca_start(cubes: xr.DataArray, count: int, seed: int) -> Array:
    """VCA of all pixels and dates, as in the paper."""
    pixels, valid = to_pixels(cubes)
    return vca(pixels[valid], count, seed=seed)


def unmix_start(cubes: xr.DataArray, count: int, seed: int) -> Array:
    """The endmembers that `unmix` starts from and keeps."""
    return choose_start(cubes, count, seed=seed).endmembers.values


def _baseline(method: Callable[..., Unmixing]) -> Callable[..., Unmixing]:
    """From given spectra, or for a number of materials."""

    def run(cubes: xr.DataArray, endmembers: Any, seed: int, settings: Settings) -> Unmixing:
        how = {"seed": seed, "progress": False, **settings}
        if isinstance(endmembers, int):
            return method(cubes, endmembers, **how)
        return method(cubes, endmembers=endmembers, **how)

    return run


def _kalman_from(cubes: xr.DataArray, endmembers: Array, seed: int, settings: Settings) -> Unmixing:
    """With first abundances from these endmembers too, where the publication has VCA of a date."""
    return methods.kalman_em(
        cubes,
        endmembers=endmembers,
        first_endmembers=endmembers,
        seed=seed,
        progress=False,
        **settings,
    )


def _network(name: str) -> Callable[..., Unmixing]:
    def run(cubes: xr.DataArray, endmembers: Array, seed: int, settings: Settings) -> Unmixing:
        rest = {k: settings[k] for k in settings if k != "variance"}
        return getattr(pyro_unmix, name)(
            cubes,
            endmembers.shape[1],
            endmembers=endmembers,
            sigma_psi=settings["variance"] ** 0.5,
            seed=seed,
            progress=False,
            **rest,
        )

    return run


def _unmix(cubes: xr.DataArray, count: int, seed: int, settings: Settings) -> Unmixing:
    return pyro_unmix.unmix(cubes, count, seed=seed, progress=False, **settings)


def _unmix_given(cubes: xr.DataArray, endmembers: Array, seed: int, settings: Settings) -> Unmixing:
    return pyro_unmix.unmix(cubes, endmembers=endmembers, seed=seed, progress=False, **settings)


_FCLS = Method("FCLS", _baseline(methods.fcls))
#: The rows that take initial endmembers, which all get the same ones.
_STARTED = {
    "ou": Method("OU", _baseline(methods.online_unmixing), vca_start, {"num_epochs": 1}),
    "hbun": Method("HBUN", _baseline(methods.hbun), vca_start, {"num_steps": 2}),
    "kalman": Method("Kalman", _baseline(methods.kalman_em), vca_start, {"num_iterations": 2}),
    "redsunn": Method("`redsunn`", _network("redsunn"), vca_start, {"num_epochs": 1}),
    "published": Method(
        "`redsunn_published`", _network("redsunn_published"), vca_start, {"num_epochs": 1}
    ),
}
METHODS = {
    "fcls": _FCLS,
    **_STARTED,
    "unmix": Method("`unmix`", _unmix, None, {"num_steps": 2}),
    "unmix-vca": Method(
        "`unmix`, kept at the VCA start", _unmix_given, vca_start, {"num_steps": 2}
    ),
    **{
        f"{name}-start": replace(
            method, title=f"{method.title}, `unmix`'s start", start=unmix_start
        )
        for name, method in {"fcls": _FCLS, **_STARTED}.items()
        if name != "redsunn"  # its program, `redsunn_published`, is the better one
    },
}
METHODS["kalman-start"] = replace(METHODS["kalman-start"], run=_kalman_from)


# ------------------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class Task:
    """One fit; everything that its figures depend on.

    Parameters
    ----------
    scene, method : str
        Of `TITLES`, `METHODS`.
    seed : int
        Of a simulated scene, and of the method.
    quick : bool
    settings : dict
        Keywords of the method beside its defaults.
    """

    scene: str
    method: str
    seed: int
    quick: bool
    settings: Settings

    @property
    def key(self) -> dict[str, Any]:
        """What the cache is keyed by."""
        programs = {name: facts()[name] for name in ("pyro_unmix", "torch", "pyro", "numpy")}
        return {**vars(self), "versions": programs}

    @property
    def file(self) -> str:
        """A name for people, and a hash of the key."""
        text = json.dumps(self.key, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.scene}-{self.method}-{self.seed}-{digest}.json"


def facts() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {
        "Python": platform.python_version(),
        "pyro_unmix": pyro_unmix.__version__,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": np.__version__,
    }


def table_tasks(seeds: Mapping[str, Sequence[int]], rows: Sequence[str], quick: bool) -> list[Task]:
    """Every row at the seeds of every scene, scene by scene.

    On the real sequence only rows without `unmix_start`: there is no truth to tell how good it is.
    """
    tasks = []
    for scene, mine in seeds.items():
        for seed in mine:
            for method in rows:
                if scene in _REAL and METHODS[method].start is unmix_start:
                    continue
                settings = dict(METHODS[method].quick) if quick else {}
                if method.removesuffix("-start") in ("redsunn", "published"):
                    num_basis, variance = _REDSUNN[scene.removesuffix("-like")]
                    settings.update(num_basis=num_basis, variance=variance)
                tasks.append(Task(scene, method, seed, quick, settings))
    return tasks


def figure_tasks(names: Sequence[str], quick: bool) -> list[Task]:
    """The grid of Fig. 8: `redsunn`, fewer epochs than in the tables, one seed."""
    every = 3 if quick else 1
    return [
        Task(scene, "redsunn", 0, quick, {
            "num_basis": num_basis, "variance": variance,
            "num_epochs": 1 if quick else _FIGURE_EPOCHS,
        })
        for scene in names for num_basis in FIGURE_BASES[::every]
        for variance in FIGURE_VARIANCES[::every]
    ]  # fmt: skip


def compute(task: Task, folder: Path | None) -> dict[str, Any]:
    """Fit and score. The seconds are those from the cubes to the result, with those of the start."""
    method = METHODS[task.method]
    place = (task.scene, task.seed, task.quick, folder)
    scene, cubes = _scene_of(*place)
    endmembers: Any = _COUNTS[task.scene]
    seconds = 0.0
    if method.start is not None:
        endmembers, seconds = _started(method.start, *place)
    cpu = time.process_time()
    result = method.run(cubes, endmembers, task.seed, task.settings)
    cpu = time.process_time() - cpu + seconds
    if scene is not None:
        scores = metrics.score(result, scene)
    else:
        dates = range(cubes.sizes["time"])
        scores = {
            "NRMSE_Y": metrics.nrmse_reconstruction((result.reconstruct(t) for t in dates), cubes)
        }
    return {"key": task.key, **scores, "CPU s": cpu}


@lru_cache(maxsize=2)
def _started(
    start: Start, name: str, seed: int, quick: bool, folder: Path | None
) -> tuple[Array, float]:
    """Initial endmembers of a scene and seed, which several rows share, and their CPU seconds."""
    _, cubes = _scene_of(name, seed, quick, folder)
    cpu = time.process_time()
    endmembers = start(cubes, _COUNTS[name], seed)
    return endmembers, time.process_time() - cpu


def _scene_of(
    name: str, seed: int, quick: bool, folder: Path | None
) -> tuple[Scene | None, xr.DataArray]:
    """The truth, where there is one, and the images; the seed is that of simulated scenes."""
    found = _scene(name, seed if _is_simulated(name) else 0, quick, folder)
    return (found, found.cubes) if isinstance(found, Scene) else (None, found)


@lru_cache(maxsize=1)
def _scene(name: str, seed: int, quick: bool, folder: Path | None) -> Scene | xr.DataArray:
    if name == "ds1-like":
        return scenes.ds1_like(seed, quick)
    if name == "ds2-like":
        return scenes.ds2_like(seed, quick)
    assert folder is not None, "main has asked for it"
    if name == "sentinel-2":
        return scenes.sentinel2(folder, quick)
    return scenes.published(name, folder, quick)


def compute_missing(tasks: Sequence[Task], store: Path, folder: Path | None) -> list[Task]:
    """Compute what the cache lacks, one file each; the tasks that were computed."""
    store.mkdir(parents=True, exist_ok=True)
    missing = [task for task in tasks if not (store / task.file).exists()]
    found = len(tasks) - len(missing)
    with tqdm(missing, initial=found, total=len(tasks), unit="fit") as bar:
        for task in bar:
            bar.set_description(f"{task.scene} {task.method} seed {task.seed}")
            record = compute(task, folder)
            partial = store / f"{task.file}.{os.getpid()}.tmp"
            partial.write_text(json.dumps(record, indent=1))
            partial.replace(store / task.file)  # a file that is there is whole
    return missing


def read_records(tasks: Sequence[Task], store: Path) -> list[dict[str, Any]]:
    """The records of the tasks, each with its scene, method, seed and settings on top."""
    records = []
    for task in tasks:
        record = json.loads((store / task.file).read_text())
        records.append({**vars(task), **record})
    return records


# ------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> list[Task]:
    """Compute what is missing, write the report; returns the tasks that were computed."""
    options = _parser().parse_args(arguments)
    seeds = {scene: _seeds_of(scene, options) for scene in options.scenes}
    tables = table_tasks(seeds, options.rows, options.quick)
    figure = figure_tasks(options.figure, options.quick)
    tasks = _distinct(tables + figure)
    needs_data = not all(_is_simulated(task.scene) for task in tasks)
    folder = data_folder(options.data) if needs_data else None
    store = options.cache or options.out / "cache"
    with one_thread():
        computed = compute_missing(tasks, store, folder)
    titles = {name: method.title for name, method in METHODS.items()}
    report.write(
        options.out,
        read_records(tables, store),
        read_records(figure, store),
        scene_titles=TITLES,
        method_titles=titles,
        findings="" if options.quick else report.FINDINGS.read_text(),
        facts={**facts(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set")},
    )
    print((options.out / "paper_tables.md").read_text())
    return computed


def _seeds_of(scene: str, options: argparse.Namespace) -> Sequence[int]:
    if scene in _REAL:
        return options.real_seeds
    return options.seeds if _is_simulated(scene) else options.file_seeds


def _is_simulated(scene: str) -> bool:
    return scene.endswith("-like")


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    return list({task.file: task for task in tasks}.values())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="folder of the scenes ($PYRO_UNMIX_DATA)")
    parser.add_argument("--out", type=Path, default=Path("out/paper_tables"), metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of the fits (OUT/cache)")
    parser.add_argument("--scenes", nargs="+", choices=TITLES, default=list(TITLES), metavar="SCENE",
                        help=f"of {', '.join(TITLES)} (all)")  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=list(METHODS), metavar="ROW",
                        help=f"of {', '.join(METHODS)} (all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4],
                        help="of simulated scenes and the methods (0 1 2 3 4)")  # fmt: skip
    parser.add_argument("--file-seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4],
                        help="of the methods on ds1 and ds2 (0 1 2 3 4)")  # fmt: skip
    parser.add_argument("--real-seeds", nargs="+", type=int, default=[0],
                        help="of the methods on the real sequence (0)")  # fmt: skip
    parser.add_argument("--figure", nargs="*", choices=list(TITLES)[:4], default=["ds1", "ds2"],
                        metavar="SCENE", help="scenes of Fig. 8 (ds1 ds2; nothing: no figure)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small scenes, few steps")
    return parser


if __name__ == "__main__":
    main()
