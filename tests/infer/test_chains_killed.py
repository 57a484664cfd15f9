"""Chains in processes that get real signals: SIGKILL in the midst of rounds and writes, and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_same_bits

HELPER = """
import os, pathlib, signal, sys, threading, time
import tqdm
sys.path.insert(0, {tests!r})
from forks import forked
import chain_cases

def ended(child):
    return os.waitpid(child, 0)[1]

def await_rounds(folder, number):
    '''Until there is a checkpoint of so many rounds.'''
    before = time.monotonic()
    while not any(int(p.name[5:14]) >= number for p in folder.glob("step-*.pt")):
        assert time.monotonic() - before < 100
        time.sleep(0.002)

here = pathlib.Path(sys.argv[1])
# Progress bars share a semaphore with the processes that are forked; one that is killed must not keep it.
tqdm.tqdm.set_lock(threading.RLock())
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in jobs behind
chain_cases.draw("library")  # what torch does once, it does before the forks
assert ended(forked(lambda: chain_cases.work_on_chains(here / "whole.pt", None))) == 0
resumed = lambda: chain_cases.work_on_chains(here / "resumed.pt", here / "kept")
for number in (1, 120, 195, 260):
    child = forked(resumed)
    await_rounds(here / "kept", number)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(ended(child)), number
child = forked(resumed)
await_rounds(here / "kept", 310)
os.kill(child, signal.SIGINT)
assert ended(child) == 0
os.replace(here / "resumed.pt", here / "interrupted.pt")
assert ended(forked(resumed)) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_chains_that_are_killed_end_with_the_same_bits(tmp_path: Path) -> None:
    """Killed in the first chain four times and in the second, and interrupted there: two chains of 200 rounds."""
    program = HELPER.format(tests=str(Path(__file__).parents[1] / "support"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("interrupted after") == 1
    expected, resumed = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "resumed"))
    assert_same_bits(resumed, expected)
    interrupted = torch.load(tmp_path / "interrupted.pt")
    # the chain that was done, and the other one if it had kept all its draws
    assert {"noise_variance 0"} < interrupted.keys() <= expected.keys()
    assert torch.equal(interrupted["noise_variance 0"], expected["noise_variance 0"])
