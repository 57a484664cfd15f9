"""IDNet on single images, beside FCLS and `unmix`: errors and CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/idnet.py --data DIR --out out/idnet

Writes ``idnet.md``, and ``records.json`` with what it is made of: a run that was stopped, or is asked for another row,
computes only what is missing. See benchmarks/README.md for the columns and conventions.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from _data import Case, corner, data_folder
from _idnet_scenes import SCENES, SingleImage
from accuracy import Method, measure, one_thread, table
from paper_tables import facts

from pyro_unmix import Unmixing, extract_endmembers, unmix
from pyro_unmix.methods import fcls, idnet

COLUMNS = ("NRMSE_A", "RMSE_A", "SAM_M", "NRMSE_Y", "CPU s")
_QUICK = 12  # rows and columns
_Run = Callable[[xr.DataArray, int, int, bool], Unmixing]


def _fcls(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
    return fcls(cubes, endmembers=extract_endmembers(cubes, count, seed=seed), progress=False)


def _unmix(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
    few = {"num_steps": 2} if quick else {}
    return unmix(cubes, count, seed=seed, progress=False, **few)


def _idnet(published: str | None, **settings: Any) -> _Run:
    def run(cubes: xr.DataArray, count: int, seed: int, quick: bool) -> Unmixing:
        given = {"num_steps": 2} if quick else settings
        return idnet(cubes, count, published=published, seed=seed, progress=False, **given)

    return run


def methods(kind: str) -> dict[str, Method]:
    """The rows; `kind` names the published settings."""
    return {
        "fcls": Method("FCLS, robust endmembers", _fcls),
        "unmix": Method("`unmix`", _unmix),
        "published-10": Method("`idnet`, published, 10 epochs", _idnet(kind, num_epochs=10)),
        "published": Method("`idnet`, published, 20 epochs", _idnet(kind)),
        "idnet": Method("`idnet`, defaults", _idnet(None)),
    }


ROWS = tuple(methods(""))


def compute(
    name: str, row: str, seed: int, quick: bool, folder: Path | None
) -> list[dict[str, Any]]:
    """One fit and its scores: a record per convention of the abundances."""
    image = SCENES[name]
    case = image.load(folder, seed)
    if quick:
        case = Case(case.title, corner(case.scene, 1, _QUICK, _QUICK), case.unit_maximum)
    found = measure(methods(image.kind)[row], case, seed, quick)
    return [{**record, "scene": name, "row": row, "quick": quick} for record in found]


def report(records: Sequence[dict[str, Any]], names: Sequence[str], rows: Sequence[str]) -> str:
    """Markdown: a table per scene."""
    parts = [_INTRODUCTION]
    for name in names:
        image = SCENES[name]
        mine = [r for row in rows for r in records if r["scene"] == name and r["row"] == row]
        parts.append(f"## {image.title}\n\n{_about(image, mine)}\n\n{table(mine, COLUMNS)}")
    versions = ", ".join(f"{name} {value}" for name, value in facts().items())
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    parts.append(f"Made with {versions}; one torch thread, OMP_NUM_THREADS {threads}.")
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# IDNet on single images

Written by `benchmarks/idnet.py`. No method is given the truth, and nothing is tuned by scene but the row of
published settings, which were published by kind of scene. *FCLS* has the robust endmembers of `extract_endmembers`, as
`idnet` with published settings has; `unmix` treats the image as a sequence of one date. CPU seconds are those of the
whole call, from cube to result, on a shared machine. A row that a table lacks was not run."""


def _about(image: SingleImage, records: Sequence[dict[str, Any]]) -> str:
    seeds = sorted({record["seed"] for record in records})
    text = f"Published settings: `{image.kind}`. " + (
        f"Seed {seeds[0]}." if len(seeds) == 1 else f"Median (range) of seeds {seeds}."
    )
    if any(record["abundances"] != "linear" for record in records):
        text += (
            " The reference abundances belong to endmembers scaled to maximum one: compare the rows "
            "`unit maximum`. SAM_M is to the one reference spectrum per material."
        )
    return text


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Compute what is missing and write the report; returns its records."""
    options = _parser().parse_args(arguments)
    needed = any(SCENES[name].needs_data for name in options.scenes)
    folder = data_folder(options.data) if needed else None
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "records.json"
    records = json.loads(store.read_text()) if store.exists() else []
    known = {(r["scene"], r["row"], r["seed"], r["quick"]) for r in records}
    with one_thread():
        for name in options.scenes:
            for seed in options.seeds or SCENES[name].seeds:
                for row in options.rows:
                    if (name, row, seed, options.quick) not in known:
                        records += compute(name, row, seed, options.quick, folder)
                        store.write_text(json.dumps(records, indent=1))
    wanted = [
        r for r in records
        if r["quick"] == options.quick and r["seed"] in (options.seeds or SCENES[r["scene"]].seeds)
    ]  # fmt: skip
    text = report(wanted, options.scenes, options.rows)
    (options.out / "idnet.md").write_text(text)
    print(text)
    return wanted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="folder of the scenes ($PYRO_UNMIX_DATA)")
    parser.add_argument("--out", type=Path, default=Path("out/idnet"), metavar="DIR")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), metavar="SCENE",
                        help=f"of {', '.join(SCENES)} (all)")  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW",
                        help=f"of {', '.join(ROWS)} (all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED",
                        help="of simulated scenes and the methods (0 1 2; 0 for files)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a corner of each scene, few steps")
    return parser


if __name__ == "__main__":
    main()
