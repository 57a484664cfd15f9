"""A fit that was interrupted goes on from its checkpoint and ends with the bits of one that was not."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from checkpoint_cases import PAIRS, assert_same_bits, crash, everything, files, run, stop_after
from fit_cases import CUBES, ours
from pyro.infer import Trace_ELBO

import pyro_unmix as pu
from pyro_unmix import fit
from pyro_unmix.infer import Checkpoints, Ramp, WeightedELBO
from pyro_unmix.priors import WhiteNoise

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
    settings = {"num_steps": None, "batch_size": 3, "learning_rate": 1e-9, "every": 25}
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
    keep = {"checkpoint": Checkpoints(tmp_path / "here", every=2)}
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
