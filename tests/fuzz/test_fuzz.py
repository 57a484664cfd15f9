"""Damaged files of every format are read plausibly or refused by an error of the package, whatever the damage."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fuzz_mutate
import fuzz_worker
import pytest
from fuzz_samples import MAKERS

pytest.importorskip("resource")
if not Path("/proc/self/statm").exists():
    pytest.skip("needs the memory figures of Linux", allow_module_level=True)

# Of one mutant, with room for a machine that is busy with other things.
SECONDS = 20.0
STARTING = 120.0


class Worker:
    """Mutants are read in a child, which is started again where one kills it or lasts too long."""

    def __init__(self, samples: Path) -> None:
        self.samples = samples
        self.child: subprocess.Popen[bytes] | None = None

    def outcome(
        self, kind: str, name: str = "", seed: int = -1, seconds: float = SECONDS
    ) -> tuple[str, str]:
        """Of reading the file `name` of a sample, damaged if there is a seed of 0 or more."""
        child = self._living()
        assert child.stdin is not None
        child.stdin.write(json.dumps([kind, name, seed]).encode() + b"\n")
        child.stdin.flush()
        answer = self._line(b"result ", seconds)
        if answer is None:
            code = child.poll()
            self.close()
            return "fault", "lasts too long" if code is None else f"ends the process ({code})"
        status, text = json.loads(answer)
        return status, text

    def _living(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            support = str(Path(fuzz_worker.__file__).parent)
            paths = os.pathsep.join([support, str(Path(__file__).parents[2]), *sys.path])
            self.child = subprocess.Popen(
                [sys.executable, fuzz_worker.__file__, str(self.samples)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
            assert self._line(b"ready", STARTING) is not None, "the worker did not start"
        return self.child

    def _line(self, beginning: bytes, seconds: float) -> bytes | None:
        """The rest of the next line that begins so; libraries may print others."""
        assert self.child is not None and self.child.stdout is not None
        end, received = time.monotonic() + seconds, b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.child.stdout], [], [], left)[0]:
                continue
            received += (block := self.child.stdout.read(65536))
            if not block:
                self.child.wait(10)
                return None
            lines = received.split(b"\n")[:-1]
            for line in lines:
                if line.startswith(beginning):
                    return line.removeprefix(beginning)
        return None

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("samples"))
    yield worker
    worker.close()


@pytest.mark.parametrize("kind", list(MAKERS))
def test_mutants_are_read_plausibly_or_refused(
    worker: Worker, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = worker.samples / kind
    folder.mkdir()
    name = MAKERS[kind](folder).relative_to(folder).as_posix()
    assert worker.outcome(kind, name) == ("read", "")
    number, first = request.config.getoption("--mutants"), request.config.getoption("--first")
    counts: Counter[str] = Counter()
    faults = {}
    for seed in range(first, first + number):
        status, text = worker.outcome(kind, name, seed)
        counts[status] += 1
        if status == "fault":
            faults[seed] = text
    print(f"{kind}: {dict(counts)}")
    assert faults == {}, "\n".join(f"{kind} {seed}: {text}" for seed, text in faults.items())
    assert counts["refused"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("crash", f"ends the process ({-signal.SIGABRT})"),
        ("leave", "ends the process (0)"),
        ("hang", "lasts too long"),
        ("memory", "MemoryError: "),
        ("foreign", "error: unpack requires"),
        ("foreign ValueError", "ValueError: invalid literal"),
        ("numpy's ValueError", "ValueError: buffer size"),
    ],
)
def test_what_no_reader_may_do_is_noticed(worker: Worker, kind: str, text: str) -> None:
    (worker.samples / kind).mkdir()
    worker.outcome("foreign")  # it has started: what follows is the time of the mutant alone
    status, found = worker.outcome(kind, seconds=1.0 if kind == "hang" else SECONDS)
    assert status == "fault" and found.startswith(text)
    assert worker.outcome("foreign")[1].startswith("error: unpack")  # the next one is read


def test_mutants_are_the_same_for_the_same_seed() -> None:
    files = {"a": b"ENVI\nlines = 3\n" * 9, "b": bytes(range(256))}
    mutants = [fuzz_mutate.mutated(files, str(seed)) for seed in range(200)]
    assert mutants == [fuzz_mutate.mutated(files, str(seed)) for seed in range(200)]
    changed = [tuple(name for name in files if mutant[name] != files[name]) for mutant in mutants]
    # One file at a time; now and then a block goes to where it was.
    assert {*changed} == {("a",), ("b",), ()} and changed.count(()) < 20
