"""Fits in processes that are killed, at random and at every stage of a write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_same_bits

HELPER = """
import os, pathlib, random, signal, sys, threading, time
import tqdm
sys.path.insert(0, {tests!r})
from forks import forked
import checkpoint_cases
from pyro_unmix.infer import checkpoints

def died(child):
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

here = pathlib.Path(sys.argv[1])
# Progress bars share a semaphore with the processes that are forked; one that is killed must not keep it.
tqdm.tqdm.set_lock(threading.RLock())
checkpoint_cases.run(num_steps=2)  # what torch does once, it does before the forks
{body}
"""
AT_RANDOM = """
kills, rng = int(sys.argv[2]), random.Random(int(sys.argv[3]))
started = time.monotonic()
assert not died(forked(lambda: checkpoint_cases.work(here / "whole.pt", None)))
length = time.monotonic() - started
done = 0
while True:
    child = forked(lambda: checkpoint_cases.work(here / "resumed.pt", here / "kept"))
    if done < kills:
        time.sleep(rng.uniform(0, length / kills))
        os.kill(child, signal.SIGKILL)
    if not died(child):
        break
    done += 1
print(done)
"""
IN_A_WRITE = """
def kill_self(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

class Half:
    '''A file of which only half the content arrives.'''
    def __init__(self, path, mode):
        self.file = open(path, mode)
    def __enter__(self):
        return self
    def __exit__(self, *args):
        self.file.close()
    def write(self, content):
        self.file.write(content[:len(content) // 2])
        self.file.flush()
        kill_self()

def after_replace(*args, replace=os.replace):
    replace(*args)
    kill_self()

POINTS = dict(write=("open", Half), sync=("fsync", kill_self), rename=("replace", kill_self),
              renamed=("replace", after_replace), prune=("unlink", kill_self))

def broken(point, folder):
    name, action = POINTS[point]
    place = checkpoints if name == "open" else pathlib.Path if name == "unlink" else os
    def spoil(step, elbo):
        if step == 4:  # the third write follows, and there is something to remove
            setattr(place, name, action)
    checkpoint_cases.work(here / "never.pt", folder, callback=spoil)

for point in POINTS:
    folder = here / point
    assert died(forked(lambda: broken(point, folder))), point
    print(point, sorted(path.suffix for path in folder.iterdir()))
    assert not died(forked(lambda: checkpoint_cases.work(here / (point + ".pt"), folder)))
    left = sorted(path.suffix for path in folder.iterdir())
    assert left == [".pt", ".pt"], (point, left)
"""


def helper(body: str, *arguments: object) -> str:
    """Run in a process that has imported everything and forks the ones that are killed."""
    program = HELPER.format(tests=str(Path(__file__).parents[1] / "support"), body=body)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def assert_killed_at_random(kills: int, folder: Path, done: str) -> None:
    assert int(done) >= kills / 2  # a fit may end before it was to be killed
    assert_same_bits(torch.load(folder / "resumed.pt"), torch.load(folder / "whole.pt"))


@forks
def test_a_fit_that_is_killed_ends_with_the_same_bits(tmp_path):
    """At three random instants, and at every stage of a write."""
    done, *stages = helper(AT_RANDOM + IN_A_WRITE, tmp_path, 3, 0).splitlines()
    assert_killed_at_random(3, tmp_path, done)
    assert "write ['.pt', '.pt', '.tmp']" in stages
    assert "renamed ['.pt', '.pt', '.pt']" in stages
    expected = torch.load(tmp_path / "whole.pt")
    for point in ("write", "sync", "rename", "renamed", "prune"):
        assert_same_bits(torch.load(tmp_path / f"{point}.pt"), expected)


@forks
@pytest.mark.slow
def test_a_fit_that_is_killed_at_twenty_random_instants_ends_with_the_same_bits(tmp_path):
    assert_killed_at_random(20, tmp_path, helper(AT_RANDOM, tmp_path, 20, 1))
