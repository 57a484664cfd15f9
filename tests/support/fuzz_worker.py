"""The child that reads mutants: a line of JSON in, one out, until it is closed, killed, or dies of a mutant."""

from __future__ import annotations

import json
import logging
import os
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import fuzz_mutate
import fuzz_samples
import numpy as np

# Beyond what the process has when it begins.
HEADROOM = 2 * 2**30
#: Errors with which readers refuse a file; others say so in a `FileError`, which is a `ValueError`.
REFUSALS = (FileNotFoundError, ValueError, TypeError)


# What no reader may do, so that a test sees that it would be noticed.
FORBIDDEN: dict[str, Callable[[], object]] = {
    "crash": os.abort,
    "leave": lambda: os._exit(0),
    "hang": lambda: time.sleep(3600),
    "memory": lambda: bytearray(2 * HEADROOM),
    "foreign": lambda: struct.unpack("<i", b""),
    "foreign ValueError": lambda: int("x" * 3 + json.loads('"1"')),
    "numpy's ValueError": lambda: np.frombuffer(b"123", dtype="<i4"),
}


def from_the_package(error: BaseException) -> bool:
    """It was raised by a line of the package, rather than by a library that it called."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "/pyro_unmix/" in last.filename


def outcome(kind: str, path: Path, lazily: bool) -> tuple[str, str]:
    """`read` or `refused` with the error; or a fault."""
    try:
        if kind in FORBIDDEN:
            FORBIDDEN[kind]()
        fault = fuzz_samples.read(kind, path, lazily)
        return ("fault", f"was read with {fault}") if fault else ("read", "")
    except Exception as error:
        if isinstance(error, REFUSALS) and from_the_package(error):
            return "refused", str(error)
        where = "".join(traceback.format_tb(error.__traceback__)[-4:])
        return "fault", f"{type(error).__name__}: {error}\n{where}"


def main(samples: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        kind, name, seed = json.loads(line)
        files = fuzz_mutate.contents(samples / kind)
        if seed >= 0:
            files = fuzz_mutate.mutated(files, f"{kind} {seed}")
        with tempfile.TemporaryDirectory(dir=samples) as scratch:
            folder = Path(scratch)
            fuzz_mutate.write(files, folder)
            answer = outcome(kind, folder / name, lazily=seed % 3 == 2)
        print("result " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
