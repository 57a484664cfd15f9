"""The files of checkpoints: which are kept, and what is done where they are damaged or malicious."""

from __future__ import annotations

import logging
import os
import pickle
import time
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from checkpoint_cases import assert_same_bits, crash, everything, files, run, stop_after
from fit_cases import CUBES, ours

import pyro_unmix as pu
from pyro_unmix.priors import WhiteNoise

# The files


def test_the_newest_two_are_kept_and_nothing_else(tmp_path):
    seen = []
    run("ours", tmp_path, callback=lambda *_: seen.append(files(tmp_path)))
    assert [name[:14] for name in files(tmp_path)] == ["step-000000008", "step-000000012"]
    assert [len(names) for names in seen] == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_not_a_checkpoint_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    own = {"notes.txt", "step-by-step.pt", "step-by-step.tmp", f"step-{0:09d}-{0:016x}.txt"}
    for name in own:
        (tmp_path / name).write_text("mine")
    (tmp_path / f"step-{0:09d}-{0:016x}.tmp").write_text("broken off")
    run("ours", tmp_path)
    run("ours", tmp_path, resume=False)
    assert own < set(files(tmp_path))
    assert len(files(tmp_path)) == len(own) + 2


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / f"step-{4:09d}-{0:016x}.pt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(pu.FileError, match=f"{path.name}: kind: must be a file"):
        run("ours", tmp_path)


def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path, caplog):
    crash("ours", tmp_path, 9)
    newest = sorted(tmp_path.iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    seen = []
    with caplog.at_level(logging.WARNING, logger="pyro_unmix"):
        got = run("ours", tmp_path, callback=lambda step, elbo: seen.append(step))
    assert f"{newest} is damaged: the checkpoint before it is taken" in caplog.text
    assert seen[0] == 4
    assert_same_bits(everything(got), everything(run("ours")))
    assert [name[:14] for name in files(tmp_path)] == ["step-000000008", "step-000000012"]


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 5000])
def test_a_cut_file_is_damaged(content, tmp_path, caplog):
    crash("ours", tmp_path, 9)
    sorted(tmp_path.iterdir())[-1].write_bytes(content)
    assert_same_bits(everything(run("ours", tmp_path)), everything(run("ours")))
    assert "is damaged" in caplog.text


def test_if_all_are_damaged_the_way_out_is_named(tmp_path):
    crash("ours", tmp_path, 9)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="can be read, all are damaged: pass Checkpoints"):
        run("ours", tmp_path)
    assert_same_bits(everything(run("ours", tmp_path, resume=False)), everything(run("ours")))


def test_resume_false_starts_anew(tmp_path):
    crash("ours", tmp_path, 9)
    seen = []
    with pytest.raises(RuntimeError):
        run("ours", tmp_path, resume=False, callback=stop_after(2))
    assert files(tmp_path) == []  # a fit that is killed now must not go on from the old one
    run("ours", tmp_path, callback=lambda step, elbo: seen.append(step))
    assert seen[0] == 0


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hashed(folder: Path, content: bytes) -> Path:
    """A file whose name has the hash of its content: not damaged."""
    import hashlib

    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    path = folder / f"step-000000099-{digest}.pt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_malicious_file_is_refused_and_not_run(kind, tmp_path):
    evil, folder = Evil(), tmp_path / "kept"
    evil.path = tmp_path / "was-run"
    run("ours", folder)
    if kind == "pickle":
        content = pickle.dumps({"format": 1, "fingerprint": evil})
    else:
        torch.save({"format": 1, "fingerprint": evil}, tmp_path / "evil.pt")
        content = (tmp_path / "evil.pt").read_bytes()
    path = hashed(folder, content)
    with pytest.raises(ValueError, match="is not a checkpoint of fit, which holds nothing but"):
        run("ours", folder)
    assert not evil.path.exists()
    # The file does run code where it is trusted.
    torch.load(path, weights_only=False) if kind == "torch" else pickle.loads(content)
    assert evil.path.exists()


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format": 99}, tmp_path / "new.pt")
    hashed(tmp_path, (tmp_path / "new.pt").read_bytes())
    with pytest.raises(ValueError, match="has format 99, this version goes on from 2"):
        run("ours", tmp_path)


# What is refused


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    class BadGradient(WhiteNoise):
        def distributions(self):
            scale = self.log_scale + 0 * (self.log_scale - self.log_scale).sqrt()
            return lambda mean: dist.Normal(mean, scale.exp()).to_event(1)

    with pytest.raises(pu.NonFiniteLossError):
        run(pair=ours(noise=BadGradient()), folder=tmp_path, every=1)
    assert files(tmp_path) == []


def test_a_checkpoint_costs_little(tmp_path):
    """Writing is a matter of milliseconds, not of the number of pixels."""
    started = time.perf_counter()
    run("ours", tmp_path, num_steps=1, every=1)
    once = sum(path.stat().st_size for path in tmp_path.iterdir())
    cubes = xr.concat([CUBES.drop_vars(["y", "x"], errors="ignore")] * 20, dim="y")
    run("ours", tmp_path / "large", cubes=cubes, num_steps=1, every=1)
    large = sum(path.stat().st_size for path in (tmp_path / "large").iterdir())
    assert large - once < 10 * 20 * 30  # eight bytes a pixel: the queue
    assert time.perf_counter() - started < 60
