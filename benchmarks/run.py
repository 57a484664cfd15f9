"""All benchmarks in one run, as JSON, with a limit on how much slower they may have become.

    OMP_NUM_THREADS=1 python benchmarks/run.py --json new.json --compare old.json

Times count in hand-written steps of the same run (see benchmarks/speed.py), so that another or a busy machine cancels.
Exit code 1: something became slower than `LIMIT` times what it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import growth
import speed

#: Most that a time may have grown, in hand-written steps.
LIMIT = 1.3
SIZES = ("quick", "full")
_FORMAT = 1


def _speed(options: argparse.Namespace, folder: Path) -> Any:
    return speed.main(_quick(options))


def _growth(options: argparse.Namespace, folder: Path) -> Any:
    return growth.main(_quick(options))


def _accuracy(options: argparse.Namespace, folder: Path) -> Any:
    import accuracy

    path = folder / "accuracy.json"  # its records as they are written, without NaN
    accuracy.main([*_quick(options), *_data(options), "--json", str(path)])
    return json.loads(path.read_text())


def _convergence(options: argparse.Namespace, folder: Path) -> Any:
    import convergence

    return convergence.main([*_quick(options), *_data(options)])


def _redsunn(options: argparse.Namespace, folder: Path) -> Any:
    import redsunn

    return redsunn.main([*_quick(options), *_data(options)])


def _idnet(options: argparse.Namespace, folder: Path) -> Any:
    import idnet

    return _files(idnet.main, options, folder / "idnet")


def _paper_tables(options: argparse.Namespace, folder: Path) -> Any:
    import paper_tables

    return _files(paper_tables.main, options, folder / "paper_tables")


def _choice(options: argparse.Namespace, folder: Path) -> Any:
    import choice

    found = choice.main([*_quick(options), *_one_seed(options)])
    return {name: [table.to_dict() for table in tables] for name, tables in found.items()}


def _calibration(options: argparse.Namespace, folder: Path) -> Any:
    import calibration

    out = folder / "calibration"
    return calibration.main([*_quick(options), *_data(options), "--out", str(out)])


def _landsat(options: argparse.Namespace, folder: Path) -> Any:
    import landsat

    return landsat.main([*_quick(options), *_data(options)])


def _large_scene(options: argparse.Namespace, folder: Path) -> Any:
    import large_scene

    size = ["--quick"] if options.size == "quick" else ["--size", "1000"]
    return large_scene.main([*size, "--out", str(folder)])


def _load(options: argparse.Namespace, folder: Path) -> Any:
    import load

    return load.main([*_quick(options), "--out", str(folder)])


def _smooth_scene(options: argparse.Namespace, folder: Path) -> Any:
    import smooth_scene

    return smooth_scene.main([*_quick(options), *_one_seed(options)])


def _endmember_training(options: argparse.Namespace, folder: Path) -> Any:
    import endmember_training

    rows = endmember_training.main([*_quick(options), *_data(options)])
    return {", ".join(names): rows[names] for names in rows}


def _files(main: Callable[[list[str]], Any], options: argparse.Namespace, out: Path) -> Any:
    """Records and Markdown of a benchmark that leaves files."""
    main([*_quick(options), *_data(options), "--out", str(out)])
    records = [json.loads(path.read_text()) for path in sorted(out.rglob("*.json"))]
    return {"records": records, "tables": [p.read_text() for p in sorted(out.rglob("*.md"))]}


#: Name, program, and whether it needs the data folder.
BENCHMARKS: dict[str, tuple[Callable[[argparse.Namespace, Path], Any], bool]] = {
    "speed": (_speed, False),
    "growth": (_growth, False),
    "accuracy": (_accuracy, True),
    "convergence": (_convergence, True),
    "redsunn": (_redsunn, True),
    "idnet": (_idnet, True),
    "paper_tables": (_paper_tables, True),
    "endmember_training": (_endmember_training, True),
    "landsat": (_landsat, True),
    "calibration": (_calibration, True),
    "smooth_scene": (_smooth_scene, False),
    "choice": (_choice, False),
    "large_scene": (_large_scene, False),
    "load": (_load, False),
}


def _quick(options: argparse.Namespace) -> list[str]:
    return ["--quick"] if options.size == "quick" else []


def _one_seed(options: argparse.Namespace) -> list[str]:
    return ["--seeds", "0"] if options.size == "quick" else []


def _data(options: argparse.Namespace) -> list[str]:
    return ["--data", str(options.data)]


# ------------------------------------------------------------------------------- times


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """What every timed thing costs, in hand-written steps of the same run."""
    found: dict[str, float] = {}
    unit = math.nan
    for scene in results.get("speed", []):
        hand = {row["K"]: row["ms"] for row in scene["rows"] if row["variant"] == speed.STACKED}
        first = next(iter(hand.values()))
        unit = first if math.isnan(unit) else unit
        for row in scene["rows"]:
            if row["variant"] in (speed.PAPER, speed.DEFAULT):
                name = f"{scene['scene']}: {row['variant']}, K = {row['K']}"
                found[name] = row["ms"] / hand.get(row["K"], first)
    if math.isnan(unit):
        return found
    for record in results.get("growth", {}).get("records", []):
        for quantity, name in growth.QUANTITIES.items():
            if quantity in record:
                milliseconds = record[quantity] * (1e3 if name.endswith(" s") else 1)
                key = f"{quantity}, {record['axis']} = {record['value']}"
                found[key] = milliseconds / unit
    return found


def slower(new: dict[str, float], old: dict[str, float]) -> dict[str, float]:
    """By which factor each time of both runs has grown."""
    return {name: new[name] / old[name] for name in new if name in old}


def comparison(factors: dict[str, float], new: dict[str, float]) -> str:
    """A Markdown table, the slowest first."""
    lines = ["| time | hand-written steps | of the earlier run | |", "|---|---:|---:|---|"]
    for name, factor in sorted(factors.items(), key=lambda item: -item[1]):
        verdict = "slower" if factor > LIMIT else ""
        lines.append(f"| {name} | {new[name]:.2f} | {factor:.2f} | {verdict} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------- the run


def read(path: Path, size: str) -> dict[str, float]:
    """The ratios of an earlier run.

    Raises
    ------
    SystemExit
        If the file is none, or of another size.
    """
    try:
        earlier = json.loads(path.read_text())
        found, of = earlier["ratios"], earlier["size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is not what benchmarks/run.py --json writes: {error!r}") from None
    if of != size:
        raise SystemExit(f"{path} is of the size {of}, this run of {size}: pass --size {of}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    options = _parser().parse_args(arguments)
    old = read(options.compare, options.size) if options.compare else None
    results: dict[str, Any] = {}
    skipped = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            program, needs_data = BENCHMARKS[name]
            if needs_data and not options.data:
                skipped.append(name)
                continue
            print(f"\n## {name}\n", flush=True)
            results[name] = program(options, Path(folder))
    if skipped:
        print(f"\nSkipped without --data: {', '.join(skipped)}.")
    new = ratios(results)
    found = {"format": _FORMAT, "size": options.size, "skipped": skipped, "ratios": new}
    text = json.dumps({**found, "results": results}, indent=1, default=str)
    options.json.write_text(text)
    if old is None:
        return 0
    factors = slower(new, old)
    if not factors:
        raise SystemExit(f"{options.compare} has no time in common with this run")
    print(f"\n## Compared with {options.compare}\n\n{comparison(factors, new)}")
    return int(max(factors.values()) > LIMIT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full",
                        help="quick: seconds each, to see that they run; its times mean little")  # fmt: skip
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="what to write")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier run of this size")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS),
                        metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (all)")  # fmt: skip
    parser.add_argument("--data", metavar="DIR", default=os.environ.get("PYRO_UNMIX_DATA"),
                        help="folder of the scenes ($PYRO_UNMIX_DATA)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
