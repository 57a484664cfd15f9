"""A folder of checkpoints belongs to one fit at a time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from checkpoint_cases import assert_same_bits, everything, run
from fit_cases import CUBES

from pyro_unmix.io.write.locks import free, locked, take

pytest.importorskip("fcntl")


def test_two_fits_for_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    with locked(folder), pytest.raises(BlockingIOError, match="kept is in use by another process"):
        run(folder=folder)
    run(folder=folder)
    with locked(folder):  # free again
        pass


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    run(folder=tmp_path)
    with pytest.raises(ValueError, match="is of another fit"):
        run(folder=tmp_path, cubes=CUBES + 0.01)
    with locked(tmp_path):
        pass


def test_a_fit_within_a_fit_does_not_take_its_folder(tmp_path: Path) -> None:
    def callback(step: int, elbo: float) -> None:
        if step == 5:
            with pytest.raises(BlockingIOError, match="is in use"):
                run(folder=tmp_path)

    got = run(folder=tmp_path, callback=callback)
    assert_same_bits(everything(got), everything(run()))


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        take(tmp_path)
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    with pytest.raises(BlockingIOError):
        take(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    free(take(tmp_path))
    os.close(ready)
    os.close(tell)


def test_a_folder_that_was_made_anew_is_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    first = take(folder)
    folder.rmdir()
    folder.mkdir()
    second = take(folder)
    free(first)
    with pytest.raises(BlockingIOError):
        take(folder)
    free(second)
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        take(folder)
