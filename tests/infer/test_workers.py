"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributed as group
import worker_fits

from pyro_unmix import fit
from pyro_unmix.infer import Workers
from pyro_unmix.infer.workers import Share, device_of_worker, join

NAMES = ["killed", *worker_fits.FITS, "seeds", "plain", "interrupted"]
RANKS = (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers left, of which one was killed and both were started again."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # one run serves all processes of the tests
    folder, ended = base / "two-workers", base / "two-workers.json"
    try:
        folder.mkdir()
    except FileExistsError:
        for _ in range(3000):
            if ended.exists():
                break
            time.sleep(0.1)
    else:
        done = run_torchrun(folder)
        unfinished = ended.with_suffix(".part")
        unfinished.write_text(json.dumps([done.returncode, done.stderr[-3000:]]))
        unfinished.replace(ended)
    code, text = json.loads(ended.read_text())
    assert code == 0, text
    return folder


def run_torchrun(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(worker_fits.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "1", str(program), str(folder)]
    path = os.pathsep.join([str(program.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def of(folder: Path, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}-{rank}.npz"))


def assert_same_bits(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_all_workers_have_the_same_result(name, folder):
    assert_same_bits(of(folder, name, 1), of(folder, name, 0))


# Sums over a batch are taken in another order. Float32 rounds at 6e-8, double at 1e-16, and some
# tens of steps enlarge that (in one process too, if the data change by as much).
TOLERANCES = {"paper": 1e-7, "single": 1e-7, "particles": 1e-7, "ours": 1e-5, "whole": 1e-5}
TOLERANCES["chunks"] = 1e-5


@pytest.mark.parametrize("name", TOLERANCES)
def test_two_workers_make_the_steps_of_one_process(name, folder):
    one, two = worker_fits.run(name), of(folder, name)
    assert one.keys() == two.keys()
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=TOLERANCES[name])
    for map_of in ("map.abundances", "map.abundances_std"):
        np.testing.assert_allclose(two[map_of], one[map_of], atol=100 * TOLERANCES[name])


def test_a_worker_that_is_killed_is_resumed_to_the_same_bits(folder):
    assert (folder / "killed").exists()
    assert_same_bits(of(folder, "killed"), of(folder, "ours"))


def test_one_worker_writes_and_logs(folder):
    assert len(list((folder / "checkpoints").glob("step-000000050-*.pt"))) == 1
    assert not (folder / "elsewhere").exists()
    log = (folder / "log-0.txt").read_text()
    assert "after 20 steps" in log and "interrupted after 3 of 50 steps" in log
    assert (folder / "log-1.txt").read_text() == ""


def test_ctrl_c_at_one_worker_stops_all_after_the_same_step(folder):
    interrupted = of(folder, "interrupted")["losses"]
    np.testing.assert_array_equal(interrupted, of(folder, "paper")["losses"][:3])


def test_the_start_is_that_of_the_first_worker(folder):
    model, guide = worker_fits.paper(0)
    one = fit(model, guide, worker_fits.CUBES, progress=False, num_steps=2)
    np.testing.assert_allclose(of(folder, "seeds")["losses"], one.losses, rtol=1e-7)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data", "ValueError: the 2 workers were given different data: call fit with the same"),
        ("settings", "ValueError: the 2 workers were given different settings: call"),
        # Only the second worker meets it.
        ("failure", "NonFiniteLossError: the loss became nan: site 'y_1' of the model has a dens"),
        ("other fit", "ValueError: "),
        ("in use", "BlockingIOError: "),
    ],
)
def test_errors_are_raised_on_all_workers(name, text, rank, folder):
    said = str(of(folder, "texts", rank)[name])
    assert said.startswith(text)
    assert said == str(of(folder, "texts", 1 - rank)[name])


def test_one_worker_has_the_bits_of_none(tmp_path):
    alone = worker_fits.run("ours", num_steps=5)
    store = group.FileStore(str(tmp_path / "store"), 1)
    group.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert join(torch.device("cpu")).size == 1
        of_group = worker_fits.run("ours", num_steps=5)
        assert group.is_initialized()  # the group of the user stays
    finally:
        group.destroy_process_group()
    assert_same_bits(of_group, alone)


# ------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(("total", "size"), [(7, 2), (6, 3), (1, 2), (2, 5), (100, 7)])
def test_shares_divide_a_batch(total, size):
    index = torch.arange(50, 50 + total)
    shares = [Workers(rank, size).share(index) for rank in range(size)]
    own = [share for share in shares if share.weight]
    assert torch.equal(torch.cat([share.index for share in own]), index)
    assert sum(share.weight for share in own) == pytest.approx(1)
    counts = [round(share.weight * total) for share in shares]
    assert max(counts) - min(counts) <= 1
    for share in shares:
        assert torch.equal(share.index, index[share.first : share.first + len(share.index)])
        assert len(share.index) >= 1 and share.total == total


def sites(kind, size: int) -> torch.Tensor:
    """Draws of two sites of a plate, and of one that all pixels share."""
    shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
    with pyro.plate("pixels", 99, subsample=torch.arange(size), dim=-1):
        first = pyro.sample("a", kind(torch.full((size, 3), 2.0), torch.tensor(0.5)).to_event(1))
        second = pyro.sample("b", kind(torch.zeros(()), torch.tensor(1.0)))
    return torch.cat([first, second.unsqueeze(-1), shared.expand(size, 1)], dim=-1)


def drawn(kind, size: int, total: int = 7) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What each worker draws, and the state that this leaves."""
    found, states = [], []
    for rank in range(size):
        workers = Workers(rank, size)
        share = workers.share(torch.arange(total))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            with workers.noise(share, torch.zeros(())):
                found.append(sites(kind, len(share.index)))
            states.append(torch.get_rng_state())
    return found, states


@pytest.mark.parametrize("size", [2, 3])
def test_the_noise_of_a_share_is_that_of_its_rows_in_the_batch(size):
    (whole,), (after,) = drawn(dist.Normal, 1)
    parts, states = drawn(dist.Normal, size)
    assert torch.equal(torch.cat(parts), whole)
    assert all(torch.equal(state, after) for state in states)


def cauchy(loc, scale):
    return dist.Cauchy(loc, scale)


def test_draws_that_cannot_be_shared_are_the_workers_own():
    parts, states = drawn(cauchy, 2, total=8)
    first, second = (part[:, :4] for part in parts)
    assert not torch.isin(first, second).any()
    assert torch.equal(*states)


def test_a_share_without_pixels_counts_nothing():
    share = Workers(0, 2).share(torch.tensor([4]))
    assert share == Share(share.index, 0, 1, 0.0) and share.index.tolist() == [4]
    assert Workers(1, 2).share(torch.tensor([4])).weight == 1.0


def test_cuda_means_the_device_of_the_worker(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_worker("cuda") == torch.device("cuda", 3)
    assert device_of_worker("cuda:1") == torch.device("cuda", 1)
    assert device_of_worker("cpu") == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert device_of_worker("cuda") == torch.device("cuda")


def test_a_process_outside_torchrun_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # what schedulers set too
    assert join(torch.device("cpu")).size == 1
    assert not group.is_initialized()


def test_nccl_needs_cuda(monkeypatch):
    for name, value in {"is_initialized": True, "get_backend": "nccl"}.items():
        monkeypatch.setattr(group, name, lambda value=value: value)
    with pytest.raises(ValueError, match="NCCL and the model is on cpu: pass device='cuda'"):
        join(torch.device("cpu"))
