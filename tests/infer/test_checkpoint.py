from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_unmix as pu
from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.infer import Ramp, WeightedELBO
from pyro_unmix.priors import FixedEndmembers, Independent, JumpWalk, WhiteNoise

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(num_dates=3, height=5, width=6, library=LIBRARY, seed=1)
CUBES = SCENE.cubes


def paper(seed: int = 0, **parts):
    model = SGLMM(SCENE.reference_endmembers, **{"basis": DCT(2), "seed": seed, **parts})
    return model, BiLSTMGuide(model, seed=seed)


def ours(seed: int = 0, endmembers=SCENE.reference_endmembers, **parts):
    defaults = {
        "basis": DCT(2, scale=0.4),
        "abundance_prior": JumpWalk(),
        "variability_prior": Independent(),
        "seed": seed,
    }
    model = SGLMM(FixedEndmembers(endmembers), **{**defaults, **parts})
    return model, ConjugateGuide(model, seed=seed)


def plates(pixels, valid, *, index=None, size=None, features=None):
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def automatic(seed: int = 0):
    """A guide whose parameters are made, with random draws, at its first call."""
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), seed=seed)
    return model, AutoNormal(model, create_plates=plates, init_scale=0.3)


def plain(seed: int = 0):
    """A guide that is a function: its parameters live in the store alone, one under a constraint."""
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), seed=seed)

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("loc", lambda: 0.1 * torch.randn(3))
        positive = dist.constraints.positive
        scale = pyro.param("scale", torch.tensor(0.1), constraint=positive)
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, scale).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), scale).to_event(1))

    return model, guide


PAIRS = {"paper": paper, "ours": ours, "automatic": automatic, "plain": plain}
SETTINGS = {
    "num_steps": 12,
    "batch_size": 8,
    "learning_rate": 0.01,
    "learning_rate_decay": 0.2,
    "seed": 3,
    "progress": False,
}


def run(name: str = "ours", folder: Path | None = None, pair=None, cubes=CUBES, **settings):
    model, guide = pair or PAIRS[name]()
    checkpoints = {"checkpoint": folder, "checkpoint_every": 4} if folder else {}
    return fit(model, guide, cubes, **{**SETTINGS, **checkpoints, **settings})


def everything(result) -> dict[str, torch.Tensor]:
    """All trained numbers, losses and abundances of a result."""
    found = {"losses": torch.from_numpy(result.losses)}
    found["abundances"] = torch.from_numpy(result.abundances.values)
    for name in ("model", "guide"):
        part = getattr(result, name)
        if isinstance(part, torch.nn.Module):
            found |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
    return found | {f"loose.{k}": v.detach() for k, v in result.store["params"].items()}


def assert_same_bits(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def stop_after(steps: int):
    """A callback that breaks off as a crash does: nothing is saved on the way out."""

    def callback(step: int, elbo: float) -> None:
        if step + 1 == steps:
            raise RuntimeError("crash")

    return callback


def crash(name: str, folder: Path, steps: int, **settings) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run(name, folder, callback=stop_after(steps), **settings)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is resumed


@pytest.mark.parametrize("steps", [3, 4, 6, 9])
@pytest.mark.parametrize("name", PAIRS)
def test_a_resumed_fit_ends_with_the_bits_of_an_uninterrupted_one(name, steps, tmp_path):
    expected = everything(run(name))
    crash(name, tmp_path, steps)
    seen = []
    got = run(name, tmp_path, callback=lambda step, elbo: seen.append(step))
    assert_same_bits(everything(got), expected)
    assert seen == list(range((steps - 1) // 4 * 4, 12))  # it did not start anew


def test_checkpoints_change_nothing(tmp_path):
    for name in PAIRS:
        assert_same_bits(everything(run(name, tmp_path / name)), everything(run(name)))


def test_a_trained_pair_is_brought_back_to_the_checkpoint(tmp_path):
    """As in a notebook: the same objects are passed again after they were trained on."""
    expected = everything(run("ours"))
    pair = ours()
    with pytest.raises(RuntimeError):
        run(pair=pair, folder=tmp_path, callback=stop_after(7))
    fit(*pair, CUBES, num_steps=5, learning_rate=0.3, progress=False)
    assert_same_bits(everything(run(pair=pair, folder=tmp_path)), expected)


def test_a_fit_that_had_ended_is_only_read_out(tmp_path):
    first = run("paper", tmp_path)
    again = run("paper", tmp_path, callback=stop_after(1))
    assert_same_bits(everything(again), everything(first))


def test_a_fit_can_be_prolonged(tmp_path):
    settings = {"learning_rate_decay": 1.0}
    expected = everything(run("ours", num_steps=12, **settings))
    run("ours", tmp_path, num_steps=7, **settings)
    assert_same_bits(everything(run("ours", tmp_path, num_steps=12, **settings)), expected)
    model, guide = ours()
    with pytest.raises(ValueError, match="has made 12 steps, and num_steps is 5: ask for as many"):
        run(folder=tmp_path, pair=(model, guide), num_steps=5, **settings)
    assert_same_bits(dict(model.state_dict()), dict(ours()[0].state_dict()))


def test_a_decaying_rate_says_why_a_fit_cannot_be_prolonged(tmp_path):
    run("ours", tmp_path)
    with pytest.raises(ValueError, match="decays over num_steps: only with learning_rate_decay=1"):
        run("ours", tmp_path, num_steps=13)


def test_what_the_loss_counts_is_kept(tmp_path):
    def loss():
        return WeightedELBO(Ramp(10, 2.0))

    expected = everything(run("ours", loss=loss()))
    constant = everything(run("ours", loss=WeightedELBO(2.0)))
    assert not torch.equal(expected["losses"], constant["losses"])
    crash("ours", tmp_path, 6, loss=loss())
    resumed = loss()
    got = run("ours", tmp_path, loss=resumed)
    assert_same_bits(everything(got), expected)
    assert resumed.update == 12


def test_a_loss_with_a_state_of_its_own_is_asked_for_it(tmp_path):
    class Slow(Trace_ELBO):
        """Its weight halves at every call, from a state that is no plain attribute."""

        def __init__(self):
            super().__init__()
            self.hidden = {"calls": 0}

        def state_dict(self):
            return dict(self.hidden)

        def load_state_dict(self, state):
            self.hidden = dict(state)

        def loss_and_grads(self, *args, **kwargs):
            self.hidden["calls"] += 1
            return super().loss_and_grads(*args, **kwargs) + self.hidden["calls"]

    expected = everything(run("ours", loss=Slow()))
    crash("ours", tmp_path, 6, loss=Slow())
    assert_same_bits(everything(run("ours", tmp_path, loss=Slow())), expected)


def test_convergence_is_noticed_where_it_was(tmp_path):
    settings = {"num_steps": None, "batch_size": 3, "learning_rate": 1e-9, "checkpoint_every": 25}
    expected = run("paper", **settings)
    assert len(expected.losses) < 300
    crash("paper", tmp_path, 60, **settings)
    assert_same_bits(everything(run("paper", tmp_path, **settings)), everything(expected))
    again = run("paper", tmp_path, **settings)
    assert len(again.losses) == len(expected.losses)


@pytest.mark.parametrize("preset", [pu.unmix, pu.redsunn, pu.redsunn_published])
def test_presets_pass_checkpoints_on(preset, tmp_path):
    settings = {"num_steps": 6, "progress": False, "seed": 1}
    expected = everything(preset(CUBES, 3, **settings))
    keep = {"checkpoint": tmp_path / "here", "checkpoint_every": 2}
    with pytest.raises(RuntimeError, match="crash"):
        preset(CUBES, 3, **settings, **keep, callback=stop_after(5))
    assert_same_bits(everything(preset(CUBES, 3, **settings, **keep)), expected)


# Interrupts


def test_ctrl_c_between_steps_leaves_a_checkpoint(tmp_path):
    def interrupt(step: int, elbo: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    partial = run("ours", tmp_path, callback=interrupt)
    assert len(partial.losses) == 6
    assert any(name.startswith("step-000000006-") for name in files(tmp_path))
    assert_same_bits(everything(run("ours", tmp_path)), everything(run("ours")))


class Signals(WhiteNoise):
    """Presses Ctrl-C in the middle of a step."""

    calls, at, times = 0, 6, 1

    def distributions(self):
        type(self).calls += 1
        if type(self).calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().distributions()


@pytest.fixture
def signals():
    Signals.calls, Signals.times = 0, 1
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # shells ignore it in jobs behind
    yield Signals
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_step_waits_for_its_end(signals, tmp_path, caplog):
    handler = signal.getsignal(signal.SIGINT)
    expected = everything(run(pair=ours(noise=signals()), num_steps=12, callback=None))
    assert len(expected["losses"]) == 6
    signals.calls = 0
    partial = run(pair=ours(noise=signals()), folder=tmp_path)
    assert_same_bits(everything(partial), expected)
    assert "interrupted after 6 of 12 steps" in caplog.text
    assert signal.getsignal(signal.SIGINT) is handler
    signals.calls = 100
    got = run(pair=ours(noise=signals()), folder=tmp_path)
    signals.calls = 100
    assert_same_bits(everything(got), everything(run(pair=ours(noise=signals()))))


def test_a_second_ctrl_c_does_not_wait_and_saves_nothing_that_is_half_done(signals, tmp_path):
    signals.times = 2
    partial = run(pair=ours(noise=signals()), folder=tmp_path)
    assert len(partial.losses) == 5
    assert [name[:14] for name in files(tmp_path)] == ["step-000000004"]
    signals.calls = 100
    got = everything(run(pair=ours(noise=signals()), folder=tmp_path))
    signals.calls = 100
    assert_same_bits(got, everything(run(pair=ours(noise=signals()))))


def test_a_fit_in_a_thread_leaves_signals_alone(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run("ours", tmp_path)))
    thread.start()
    thread.join()
    assert_same_bits(everything(results[0]), everything(run("ours")))


# kill -9

HELPER = """
import os, pathlib, random, signal, sys, threading, time
import tqdm
sys.path.insert(0, {tests!r})
import test_checkpoint
from pyro_unmix.infer import checkpoints

def forked(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child

def died(child):
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

here = pathlib.Path(sys.argv[1])
# Progress bars share a semaphore with the processes that are forked; one that is killed must not keep it.
tqdm.tqdm.set_lock(threading.RLock())
test_checkpoint.run(num_steps=2)  # what torch does once, it does before the forks
{body}
"""

AT_RANDOM = """
kills, rng = int(sys.argv[2]), random.Random(int(sys.argv[3]))
started = time.monotonic()
assert not died(forked(lambda: test_checkpoint.work(here / "whole.pt", None)))
length = time.monotonic() - started
done = 0
while True:
    child = forked(lambda: test_checkpoint.work(here / "resumed.pt", here / "kept"))
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
    test_checkpoint.work(here / "never.pt", folder, callback=spoil)

for point in POINTS:
    folder = here / point
    assert died(forked(lambda: broken(point, folder))), point
    print(point, sorted(path.suffix for path in folder.iterdir()))
    assert not died(forked(lambda: test_checkpoint.work(here / (point + ".pt"), folder)))
    left = sorted(path.suffix for path in folder.iterdir())
    assert left == [".pt", ".pt"], (point, left)
"""


def work(out: Path, folder: Path | None, **settings) -> None:
    """What the killed processes do: a fit of 30 steps with a checkpoint at every second one."""
    if folder is not None:
        settings |= {"checkpoint_every": 2}
    result = run("ours", folder, num_steps=30, **settings)
    torch.save(everything(result), out)


def helper(body: str, *arguments: object) -> str:
    """Run in a process that has imported everything and forks the ones that are killed."""
    program = HELPER.format(tests=str(Path(__file__).parent), body=body)
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


# The files


def test_the_newest_two_are_kept_and_nothing_else(tmp_path):
    seen = []
    run("ours", tmp_path, callback=lambda *_: seen.append(files(tmp_path)))
    assert [name[:14] for name in files(tmp_path)] == ["step-000000008", "step-000000012"]
    assert [len(names) for names in seen] == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_not_a_checkpoint_stays(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-by-step.pt").write_text("mine too")
    run("ours", tmp_path)
    run("ours", tmp_path, resume=False)
    assert {"notes.txt", "step-by-step.pt"} < set(files(tmp_path))
    assert len(files(tmp_path)) == 4


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
    with pytest.raises(ValueError, match="can be read, all are damaged: pass resume=False"):
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


def other_cubes() -> xr.DataArray:
    cubes = CUBES.copy(deep=True)
    cubes[1, 2, 3, 4] += 1e-4
    return cubes


def gap() -> xr.DataArray:
    cubes = CUBES.copy(deep=True)
    cubes[1, 2, 3] = np.nan
    return cubes


OTHERS = {
    "guide": (
        {"pair": lambda: (lambda m: (m, BiLSTMGuide(m)))(ours()[0])},
        r"guide.class is 'BiLSTMGuide', the checkpoint has "
        r"'ConjugateGuide'",
    ),
    "basis": ({"pair": lambda: ours(basis=DCT(3, scale=0.4))}, r"model.basis.num_\w+ is 3, .* 2"),
    "prior scale": (
        {"pair": lambda: ours(basis=DCT(2, scale=0.5))},
        r"model.basis.scale is 0.5, the checkpoint has 0.4",
    ),
    "endmembers": (
        {"pair": lambda: ours(endmembers=1.01 * SCENE.reference_endmembers)},
        r"model.endmembers.endmembers is an array .20, 3. of other values",
    ),
    # Far above what rounding does in single precision, 1e-7 at each of some hundred operations.
    "endmembers, by a little": (
        {"pair": lambda: ours(endmembers=SCENE.reference_endmembers * (1 + 1e-4))},
        r"model.endmembers.endmembers is an array .20, 3. of other values",
    ),
    "precision": (
        {"pair": lambda: tuple(part.double() for part in ours())},
        r"float64",
    ),
    "seed": ({"seed": 4}, "settings.seed is 4, the checkpoint has 3"),
    "steps": ({"num_steps": 13}, "settings.num_steps is 13, the checkpoint has 12"),
    "batch": ({"batch_size": 9}, "settings.batch_size is 9, the checkpoint has 8"),
    "rate": ({"learning_rate": 0.02}, r"settings.learning_rate.guide.[\w.]+ is 0.02, the .* 0.01"),
    "rate, by a little": (
        {"learning_rate": 0.01 * (1 + 1e-4)},
        r"settings.learning_rate.guide.[\w.]+ is 0.010001, the checkpoint has 0.01",
    ),
    "rates": (
        {"learning_rate": lambda name: 0.02 if "noise" in name else 0.01},
        r"fit: settings.learning_rate.model.noise.log_scale is 0.02, the checkpoint has 0.01\. ",
    ),
    "decay": ({"learning_rate_decay": 1.0}, "settings.learning_rate_decay is 1.0, the .* 0.2"),
    "loss": ({"loss": Trace_ELBO(num_particles=2)}, "settings.loss.num_particles is 2, .* 1"),
    "schedule": ({"loss": WeightedELBO(Ramp(7))}, "settings.loss.class is .*WeightedELBO"),
    "values": ({"cubes": other_cubes()}, r"data.values .hash. is '\w+', the checkpoint has"),
    "gaps": ({"cubes": gap()}, r"data.values .hash. is"),
    "shape": ({"cubes": CUBES[:, :4]}, r"data.shape is \[24, 3, 20\], the checkpoint has \[30, 3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    crash("ours", folder, 9)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_fit_is_refused_with_the_difference(name, kept):
    other, text = OTHERS[name]
    pair = other.get("pair", ours)()
    before = [part.state_dict() for part in pair]
    before = [{k: v.clone() for k, v in state.items()} for state in before]
    listed = files(kept)
    with pytest.raises(ValueError, match=text) as error:
        run(folder=kept, **{**other, "pair": pair})
    assert "is of another fit" in str(error.value)
    assert "another folder, or resume=False to start anew" in str(error.value)
    assert files(kept) == listed
    for part, state in zip(pair, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in part.state_dict().items())


def test_another_ramp_is_another_fit(tmp_path):
    crash("ours", tmp_path, 9, loss=WeightedELBO(Ramp(10, 2.0)))
    for ramp, text in ((Ramp(20, 2.0), "num_updates is 20"), (Ramp(10, 3.0), "final is 3.0")):
        with pytest.raises(ValueError, match=rf"settings.loss.kl_weight.{text}, the checkpoint"):
            run("ours", tmp_path, loss=WeightedELBO(ramp))
    crash("ours", tmp_path / "constant", 9, loss=WeightedELBO(2.0))
    with pytest.raises(ValueError, match=r"loss.kl_weight.constants is \[3.0\], .* \[2.0\]"):
        run("ours", tmp_path / "constant", loss=WeightedELBO(3.0))


def test_the_loose_parameters_of_another_function_are_refused(tmp_path):
    crash("plain", tmp_path, 9)

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("elsewhere", torch.zeros(3))
        with plates(pixels, valid, index=index, size=size):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, 0.1).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), 0.1).to_event(1))

    guide.__qualname__ = "plain.<locals>.guide"
    with pytest.raises(ValueError, match="a parameter 'loc' of shape .3,., which the guide does"):
        run(pair=(plain()[0], guide), folder=tmp_path)


def test_a_start_that_differs_by_rounding_is_the_same_fit(tmp_path):
    """As `unmix` finds it on another machine; the checkpoint's is used."""
    crash("ours", tmp_path, 9)
    got = run(pair=ours(endmembers=SCENE.reference_endmembers * (1 + 1e-7)), folder=tmp_path)
    assert_same_bits(everything(got), everything(run("ours")))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"checkpoint_every": 2.5}, TypeError, "checkpoint_every must be an integer"),
        ({"resume": "yes"}, TypeError, "resume must be True or False, got 'yes'"),
        ({"checkpoint": __file__}, ValueError, "checkpoint must be a folder, got the file"),
    ],
)
def test_checkpoint_errors(settings, error, text, tmp_path):
    with pytest.raises(error, match=text):
        run("ours", tmp_path, **settings)


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    class BadGradient(WhiteNoise):
        def distributions(self):
            scale = self.log_scale + 0 * (self.log_scale - self.log_scale).sqrt()
            return lambda mean: dist.Normal(mean, scale.exp()).to_event(1)

    with pytest.raises(pu.NonFiniteLossError):
        run(pair=ours(noise=BadGradient()), folder=tmp_path, checkpoint_every=1)
    assert files(tmp_path) == []


def test_a_checkpoint_costs_little(tmp_path):
    """Writing is a matter of milliseconds, not of the number of pixels."""
    started = time.perf_counter()
    run("ours", tmp_path, num_steps=1, checkpoint_every=1)
    once = sum(path.stat().st_size for path in tmp_path.iterdir())
    cubes = xr.concat([CUBES.drop_vars(["y", "x"], errors="ignore")] * 20, dim="y")
    run("ours", tmp_path / "large", cubes=cubes, num_steps=1, checkpoint_every=1)
    large = sum(path.stat().st_size for path in (tmp_path / "large").iterdir())
    assert large - once < 10 * 20 * 30  # eight bytes a pixel: the queue
    assert time.perf_counter() - started < 60
