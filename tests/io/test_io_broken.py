"""No broken file crashes, hangs, takes memory that it does not fill, or is read as something."""

from __future__ import annotations

import re
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_case import Case
from broken_files import MAKERS

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.registry import read_image

# Of the interpreter and the libraries for any file: parsers, tables of attributes, tracebacks.
OVERHEAD = 600_000
# Beyond what the process has: the broken files declare at least ten times as much.
HEADROOM = 2 * 2**30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    return {
        name: list(maker(tmp_path_factory.mktemp(re.sub(r"\W", "_", name))))
        for name, maker in MAKERS.items()
    }


@pytest.fixture
def _limited_memory() -> Iterator[None]:
    """What the C libraries take is out of Python's sight: let them fail where it is too much."""
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def fault_of(case: Case) -> str:
    """What is wrong with the way in which a broken file ends; empty if nothing is."""
    size = sum(path.stat().st_size for path in case.path.parent.glob(f"{case.path.stem}.*"))
    tracemalloc.start()
    started = time.perf_counter()
    try:
        read_sequence(case.path)
    except FileError as error:
        seconds = time.perf_counter() - started
        peak = tracemalloc.get_traced_memory()[1]
        text = str(error)
        if "MemoryError" in text:
            return f"more than {HEADROOM} bytes were asked for: {text}"
        if case.path.stem not in error.path or not error.field:
            return f"file or field is not named: {text}"
        if not re.fullmatch(case.field or "", error.field):
            return f"the field is {error.field!r}, expected {case.field!r}: {text}"
        if seconds > 5:
            return f"took {seconds:.1f} s: {text}"
        if peak > 2 * size + OVERHEAD:
            return f"took {peak} bytes, the file has {size}: {text}"
        return ""
    except Exception as error:
        return f"ended in {type(error).__name__}: {error}"
    finally:
        tracemalloc.stop()
    return "was read"


def lasting_fault_of(case: Case) -> str:
    """A fault that comes again: what the interpreter allocates for others meanwhile does not."""
    return fault_of(case) and fault_of(case)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_broken_files_end_in_an_error_of_their_own(
    files: dict[str, list[Case]], kind: str, _limited_memory: None
) -> None:
    whole = [case for case in files[kind] if case.field is None]
    broken = [case for case in files[kind] if case.field is not None]
    for case in whole:
        read_sequence(case.path)
    faults = {case.name: lasting_fault_of(case) for case in broken}
    assert {name: fault for name, fault in faults.items() if fault} == {}
    assert whole and broken


def test_the_number_of_broken_files(files: dict[str, list[Case]]) -> None:
    broken = [case.path for cases in files.values() for case in cases if case.field is not None]
    assert len(set(broken)) == len(broken) >= 200


def test_a_short_file_is_noticed_before_it_is_used(files: dict[str, list[Case]]) -> None:
    """As by `info`, which needs no reflectance."""
    short = [c for cases in files.values() for c in cases if c.name.startswith("cut to")]
    assert short
    for case in short:
        with pytest.raises(FileError):
            read_image(case.path)
