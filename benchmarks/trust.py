"""Error and honesty of FCLS, `unmix` and `unmix_by_chains` on scenes of several kinds.

    OMP_NUM_THREADS=1 python benchmarks/trust.py --data DIR [--scenes mix patch] [--seeds 3 4 5 6 7] [--out FILE]
    python benchmarks/trust.py --page benchmarks/trust.md FILE ...

The second writes the page of the rows that the first has appended to files.

One set of defaults for all scenes, no truth in any method. FCLS has the endmembers that `unmix` starts from. Scenes of
a generator take its seeds; those of a file are one. A row per scene, seed and method: NRMSE_A; the share of true
abundances in intervals of 50 and 90 %, and their mean width over the RMSE; CPU seconds. True abundances count as held
within `TOLERANCE` of a bound. On the targets of DLR HySU it is the relative error of areas, for Potsdam the correlation
and RMSE of vegetation fractions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import _vegetation
import numpy as np
import torch
import xarray as xr
from _data import CASES, corner, data_folder, load
from _other_scenes import COVER, mix_like, patch_like
from _paper_scenes import ds1_like, ds2_like
from smooth_scene import scene as bright_scene

from pyro_unmix import (
    Unmixing,
    as_cube_sequence,
    choose_start,
    match_endmembers,
    read_library,
    unmix,
)
from pyro_unmix.infer import Sampled
from pyro_unmix.methods import fcls
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.posterior.intervals import credible_interval
from pyro_unmix.simulate import smooth_scene

#: Abundance by which an interval may miss the truth: an interval of draws seldom holds an exact zero.
TOLERANCE = 2e-3
LEVELS = (0.5, 0.9)
NUM_SAMPLES = 100  # behind an interval
_QUICK = (2, 8, 8)
_QUICK_CHAINS = {"num_rounds": 8, "num_spectra": 40, "num_held_out": 20, "num_samples": 8}
_SIZES = (3.0, 2.0, 1.0, 0.5)  # of the targets, m
_HEAD = """# Errors and intervals on scenes of several kinds

    OMP_NUM_THREADS=1 python benchmarks/trust.py --data DIR --seeds 3 4 5 6 7 --out rows.jsonl
    python benchmarks/trust.py --page benchmarks/trust.md rows.jsonl

One set of defaults for all scenes, and no truth in any method. FCLS has the endmembers that `unmix` starts from.
NRMSE_A is the error of abundances; *held* the share of true abundances in intervals of 50 and 90 %, *width* the mean
width of these over the RMSE. Kinds that end in *-like* and *smooth* are of a generator: medians over its seeds, with
none of which anything was developed; the others are one file each, with which the methods were developed. The rows were
run at the commits in the last table."""

Array = np.ndarray
Run = Callable[[xr.DataArray, Any, int, bool], Unmixing]


@dataclass(frozen=True, eq=False)
class Truth:
    """A scene and what is known of it.

    Parameters
    ----------
    name : str
    cubes : DataArray
    num_endmembers : int
    abundances : array (T, H, W, P)
    endmembers : array (L, P)
        By which materials are matched.
    unit_maximum : bool
        Whether the true abundances belong to endmembers of maximum one.
    library : DataArray, optional
        What methods are given of the materials, instead of their number.
    """

    name: str
    cubes: xr.DataArray
    num_endmembers: int
    abundances: Array
    endmembers: Array
    unit_maximum: bool = False
    library: xr.DataArray | None = None


# ------------------------------------------------------------------------------- methods


def _fcls(cubes: xr.DataArray, known: Any, seed: int, quick: bool) -> Unmixing:
    spectra = choose_start(cubes, known, seed=seed).endmembers if np.ndim(known) == 0 else known
    return fcls(cubes, endmembers=spectra, progress=False)


def _unmix(cubes: xr.DataArray, known: Any, seed: int, quick: bool) -> Unmixing:
    few = {"num_steps": 2} if quick else {}
    return unmix(cubes, **_known(known), seed=seed, progress=False, **few)


def _chains(cubes: xr.DataArray, known: Any, seed: int, quick: bool) -> Unmixing:
    few: dict[str, Any] = _QUICK_CHAINS if quick else {}
    return unmix_by_chains(cubes, **_known(known), seed=seed, progress=False, **few)


def _known(known: Any) -> dict[str, Any]:
    return {"num_endmembers": known} if np.ndim(known) == 0 else {"endmembers": known}


METHODS: dict[str, Run] = {"FCLS": _fcls, "unmix": _unmix, "unmix_by_chains": _chains}


# ------------------------------------------------------------------------------- scenes


def _of_scene(name: str, scene: Any, quick: bool, unit_maximum: bool = False) -> Truth:
    if quick:
        scene = corner(scene, *_QUICK)
    return Truth(
        name,
        scene.cubes,
        scene.num_endmembers,
        scene.abundances.values,
        scene.reference_endmembers.values,
        unit_maximum,
    )


def _patches(seed: int, quick: bool, *, given: bool) -> Truth:
    scene, library = patch_like(seed, quick)
    name = "patch-like, library" if given else "patch-like"
    truth = _of_scene(name, scene, quick)
    return replace(truth, library=library) if given else truth


def _of_file(name: str, folder: Path, quick: bool, given: bool = False) -> Truth:
    """mix or patch of the data folder."""
    with np.load(folder / f"{name}.npz") as file:
        cubes, abundances, reference = file["Y"], file["A"], file["M0"]
        wavelength = file["wavelength"] if "wavelength" in file else None
    images = as_cube_sequence(cubes, wavelength=wavelength)
    if quick:
        t, y, x = _QUICK
        images, abundances = images[:t, :y, :x], abundances[:t, :y, :x]
    library = None
    if given:
        whole = read_library("earthlib")
        name, library = f"{name}, library", whole[:, np.isin(whole["label"], COVER)]
    return Truth(name, images, abundances.shape[-1], abundances, reference, library=library)


def scenes(folder: Path, quick: bool) -> dict[str, Callable[[int], Truth]]:
    """Name -> scene of a seed; those of a file are the same for all seeds."""
    found: dict[str, Callable[[int], Truth]] = {
        "ds1-like": lambda seed: _of_scene("ds1-like", ds1_like(seed, quick), False),
        "ds2-like": lambda seed: _of_scene("ds2-like", ds2_like(seed, quick), False),
        "smooth": lambda seed: _of_scene("smooth", bright_scene(seed, quick), False),
        "smooth, two dark": lambda seed: _of_scene(
            "smooth, two dark", smooth_scene(seed=seed), quick
        ),
        "mix-like": lambda seed: _of_scene("mix-like", mix_like(seed, quick), False),
        "patch-like": lambda seed: _patches(seed, quick, given=False),
        "patch-like, library": lambda seed: _patches(seed, quick, given=True),
        "patch, library": lambda seed: _of_file("patch", folder, quick, given=True),
    }
    for name in ("mix", "patch"):
        found[name] = lambda seed, name=name: _of_file(name, folder, quick)  # type: ignore[misc]
    for name in ("ds1", "ds2", "jasper-ridge", "samson"):
        if name in CASES:

            def case(seed: int, name: str = name) -> Truth:
                one = load(name, folder)
                return _of_scene(name, one.scene, quick, one.unit_maximum)

            found[name] = case
    return found


GENERATED = (
    "ds1-like", "ds2-like", "smooth", "smooth, two dark", "mix-like", "patch-like", "patch-like, library",
)  # fmt: skip


# ------------------------------------------------------------------------------- scores


def measure(truth: Truth, method: str, seed: int, quick: bool) -> dict[str, Any]:
    """A row of the table."""
    cpu = time.process_time()
    given = truth.num_endmembers if truth.library is None else truth.library
    result = METHODS[method](truth.cubes, given, seed, quick)
    row: dict[str, Any] = {"scene": truth.name, "seed": seed, "method": method}
    row["CPU s"] = time.process_time() - cpu
    order = match_endmembers(result.reference_endmembers.values, truth.endmembers)
    maps = result.unit_maximum() if truth.unit_maximum else result.abundances
    estimate = maps.values[..., order]
    known = np.isfinite(truth.abundances) & np.isfinite(estimate)
    error = (estimate - truth.abundances)[known]
    rmse = float(np.sqrt(np.mean(error**2)))
    row["NRMSE_A"] = float(np.linalg.norm(error) / np.linalg.norm(truth.abundances[known]))
    row["RMSE_A"] = rmse
    if result.model is not None and not truth.unit_maximum:
        for level, bounds in _intervals(result):
            row.update(_honesty(bounds[..., order], truth.abundances, rmse, level))
    return row


def _intervals(result: Unmixing) -> Iterator[tuple[float, Array]]:
    """Bounds (2, T, H, W, P) at every level; drawn once where drawing is all that they take."""
    drawn = result.sample(NUM_SAMPLES) if isinstance(result, Sampled) else None
    for level in LEVELS:
        if drawn is None:
            yield level, result.interval(level, num_samples=NUM_SAMPLES).values
        else:
            yield level, credible_interval(torch.as_tensor(drawn.values), level).numpy()


def _honesty(bounds: Array, truth: Array, rmse: float, level: float) -> dict[str, float]:
    lower, upper = bounds
    inside = (lower <= truth + TOLERANCE) & (truth - TOLERANCE <= upper)
    percent = f"{level:.0%}"
    return {
        f"held {percent}": float(inside.mean()),
        f"width {percent}": float((upper - lower).mean()) / rmse,
    }


def dlr_hysu(
    folder: Path, method: str, seed: int, quick: bool, blind: bool = False
) -> dict[str, Any]:
    """Relative errors of the areas of targets of four sizes, the image's pure spectra given or not."""
    with np.load(folder / "dlr_hysu.npz") as file:
        cubes = as_cube_sequence(file["Y"], wavelength=file["wavelength"])
        spectra, masks = file["M_image"].astype(float), file["target_mask"] > 0
        sizes, areas = file["size_roi"], file["true_area_px"]
        names, (top, left) = [str(n) for n in file["names"]], file["crop_origin"][:2].astype(int)
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    window = (slice(top, top + height), slice(left, left + width))
    cpu = time.process_time()
    result = METHODS[method](cubes, spectra.shape[1] if blind else spectra, seed, quick)
    scene = "DLR HySU, blind" if blind else "DLR HySU, spectra given"
    row: dict[str, Any] = {"scene": scene, "seed": seed, "method": method}
    row["CPU s"] = time.process_time() - cpu
    order = match_endmembers(result.reference_endmembers.values, spectra)
    maps = result.abundances.values[0][..., order]
    for number, size in enumerate(_SIZES, start=1):
        errors = []
        for p in range(masks.shape[-1]):
            region = masks[window][..., p] & (sizes[window] == number)
            errors.append(abs(maps[region, p].sum() - areas[number - 1]) / areas[number - 1])
        row[f"area {size:g} m"] = float(np.mean(errors))
    row["materials"] = len(names)
    return row


def potsdam(folder: Path, method: str, seed: int, quick: bool) -> dict[str, Any]:
    """Correlation and RMSE of vegetation fractions at the pixels of an independent map."""
    cubes, reference = _vegetation.load(folder)
    line, column = reference[:, :2].astype(int).T
    cpu = time.process_time()
    result = METHODS[method](cubes, _vegetation.NUM_ENDMEMBERS, seed, quick)
    row: dict[str, Any] = {"scene": "EnMAP Potsdam", "seed": seed, "method": method}
    row["CPU s"] = time.process_time() - cpu
    green = _vegetation.is_vegetation(result.reference_endmembers)
    fraction = result.abundances.values[0, line, column][:, green].sum(-1)
    row["correlation"] = float(np.corrcoef(fraction, reference[:, 2])[0, 1])
    row["RMSE"] = float(np.sqrt(np.mean((fraction - reference[:, 2]) ** 2)))
    return row


REAL: dict[str, Callable[[Path, str, int, bool], dict[str, Any]]] = {
    "dlr-hysu": dlr_hysu,
    "dlr-hysu, blind": partial(dlr_hysu, blind=True),
    "potsdam": potsdam,
}


# ------------------------------------------------------------------------------- the table


def rows(
    folder: Path, names: list[str], seeds: list[int], methods: list[str], quick: bool
) -> Iterator[dict[str, Any]]:
    """All rows, in turn."""
    known = scenes(folder, quick)
    for name in names:
        for seed in seeds if name in GENERATED else seeds[:1]:
            truth = None if name in REAL else replace(known[name](seed))
            for method in methods:
                if truth is None:
                    yield REAL[name](folder, method, seed, quick)
                else:
                    yield measure(truth, method, seed, quick)


def medians(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per scene and method: medians over the seeds, the seeds, and the range of NRMSE_A."""
    kinds = list(dict.fromkeys((row["scene"], row["method"]) for row in found))
    out = []
    for kind in kinds:
        rows = [row for row in found if (row["scene"], row["method"]) == kind]
        scores = dict.fromkeys(k for row in rows for k in row if isinstance(row[k], float))
        line: dict[str, Any] = {"scene": kind[0], "method": kind[1]}
        line["seeds"] = ", ".join(str(row["seed"]) for row in rows)
        for score in scores:
            values = [row[score] for row in rows if score in row]
            line[score] = float(np.median(values))
            if score == "NRMSE_A":
                line["range"] = f"{min(values):.3f} - {max(values):.3f}" if len(rows) > 1 else ""
        out.append(line)
    return out


def page(found: list[dict[str, Any]]) -> str:
    """The published page: medians, then every row with its commit."""
    areas = [row for row in found if any(key.startswith("area") for key in row)]
    maps = [row for row in found if "correlation" in row]
    rest = [row for row in found if row not in areas and row not in maps]
    parts = [_HEAD]
    for title, rows in (("Abundances", rest), ("Areas", areas), ("An independent map", maps)):
        if rows:
            plain = [{k: v for k, v in row.items() if k != "materials"} for row in rows]
            parts += [f"## {title}", table(medians(plain))]
    parts += ["## Every row", table(found)]
    return "\n\n".join(parts) + "\n"


def commit() -> str:
    """Of the code that runs; with a plus where files were changed since."""
    where = Path(__file__).parent
    name = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=where, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return name.stdout.strip() or "unknown"


def table(found: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(key for row in found for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in found:
        cells = [row.get(column, "") for column in columns]
        shown = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--scenes", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, help="append a JSON line per row")
    parser.add_argument("--quick", action="store_true", help="a few pixels and rounds")
    parser.add_argument(
        "--page", type=Path, help="write the page of the rows in RECORDS, and run nothing"
    )
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORDS", help="files of --out")
    options = parser.parse_args()
    if options.page:
        if not options.records:
            parser.error("--page needs the files that --out has written")
        lines = [line for path in options.records for line in path.read_text().splitlines()]
        options.page.write_text(page([json.loads(line) for line in lines]))
        return
    folder = data_folder(options.data)
    names = options.scenes or [*scenes(folder, options.quick), *REAL]
    found = []
    version = commit()
    for row in rows(folder, names, options.seeds, options.methods, options.quick):
        found.append({**row, "commit": version})
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
