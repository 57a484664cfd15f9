"""Do the tests notice faults? Each of `_mutants.py` is put into a copy of the package, and its tests are run there.

    python benchmarks/mutants.py                  # all, some ten minutes
    python benchmarks/mutants.py priors start     # of these rooms
    python benchmarks/mutants.py --every 3        # a sample

A mutant is killed when one of its tests fails, or when they do not end (`endless`, as on a machine that is too busy).
The exit code is 1 when fewer than 95 % are killed, and 2 when a mutant does not apply or the tests fail without one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _mutants import MUTANTS, Mutant

REPOSITORY = Path(__file__).resolve().parents[1]
ASKED = 0.95
# Of the tests of one mutant: some end in a loop.
SECONDS = 400.0
_COPIED = ("pyro_unmix", "tests", "benchmarks", "setup.cfg", "pyproject.toml")
_FAILED, _TOO_LONG = 1, 1000
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.png")


def mutated(text: str, mutant: Mutant) -> str:
    """A file's text with the fault in it.

    Raises
    ------
    ValueError
        If what it replaces does not stand there exactly once.
    """
    count = text.count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        raise ValueError(
            f"{mutant.file}: {mutant.old!r} stands there {count} times, expected 1: correct _mutants.py"
        )
    return text.replace(mutant.old, mutant.new)


def copied(folder: Path) -> Path:
    """What the tests need, in a folder of its own."""
    for name in _COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=_LEFT_OUT)
        else:
            shutil.copy(source, folder / name)
    return folder


def code_of(tests: str, folder: Path, seconds: float) -> int:
    """Exit code of pytest in a copy, `_TOO_LONG` if it does not end."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += [f"tests/{name}" for name in tests.split()]
    settings = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | settings, capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return _TOO_LONG
    return done.returncode


def outcome(mutant: Mutant, folder: Path) -> str:
    """`killed`, `endless`, `survived`, or what else pytest ended with."""
    path = folder / "pyro_unmix" / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(mutated(whole, mutant), encoding="utf-8")
    try:
        code = code_of(mutant.tests, folder, SECONDS)
    finally:
        path.write_text(whole, encoding="utf-8")
    # 2: a module of tests cannot even be imported
    known = {0: "survived", _FAILED: "killed", 2: "killed", _TOO_LONG: "endless"}
    return known.get(code, f"pytest ended with {code}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", help="rooms of the package; default all")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th mutant")
    parser.add_argument("--whole", action="store_true", help="see first that the tests pass")
    chosen = parser.parse_args(arguments)
    mutants = [m for m in MUTANTS if not chosen.rooms or m.file.split("/")[0] in chosen.rooms]
    mutants = mutants[:: chosen.every]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        try:
            for mutant in mutants:
                mutated((folder / "pyro_unmix" / mutant.file).read_text(encoding="utf-8"), mutant)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        if chosen.whole:
            names = " ".join(sorted({name for m in mutants for name in m.tests.split()}))
            if code_of(names, folder, 3600.0):
                print("the tests fail without any mutant", file=sys.stderr)
                return 2
        for mutant in mutants:
            started = time.monotonic()
            status = outcome(mutant, folder)
            counts[status] += 1
            seconds = time.monotonic() - started
            print(f"{status:9} {seconds:4.0f} s  {mutant.file}: {mutant.new!r}", flush=True)
    killed, total = counts["killed"] + counts["endless"], len(mutants)
    print(f"{killed} of {total} killed, {counts['endless']} of them by {SECONDS:.0f} s")
    if counts.keys() - {"killed", "endless", "survived"}:
        return 2
    return int(total > 0 and killed < ASKED * total)


if __name__ == "__main__":
    sys.exit(main())
