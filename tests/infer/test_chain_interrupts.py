"""Ctrl-C during chains: what is there is the result, and the checkpoint is of whole rounds."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain_cases import NUM_ROUNDS, TOTAL, Rounds, assert_same_chains, draw, library, rounds_of
from checkpoint_cases import files

from pyro_unmix.infer import Sampled
from pyro_unmix.infer.chain_run import ChainRun


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_twice() -> None:
    press()
    press()


@pytest.fixture(autouse=True)
def plain_handler() -> Iterator[None]:
    """Shells ignore the signal in jobs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(at: int, what: Any = press, **settings: Any) -> tuple[Sampled, int]:
    """A result of two chains in whose round `at` somebody presses Ctrl-C, and the rounds made."""
    with pytest.MonkeyPatch.context() as patch:
        rounds = Rounds(patch, at, what)
        return draw("library", **settings), rounds.made


def test_a_round_is_ended_and_what_is_there_is_the_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the second of two chains of eight rounds, that keep four draws from the fifth round on."""
    whole = draw("library")
    with caplog.at_level(logging.WARNING, logger="pyro_unmix"):
        got, made = interrupted(NUM_ROUNDS + 7, num_kept=4)
    assert made == NUM_ROUNDS + 7
    assert "interrupted after 15 of 16 rounds" in caplog.text
    # the second has three draws of four
    assert "the result is of 1 of 2 chains, of the last with 4 of 4 draws" in caplog.text
    assert [len(chain.shared) for chain in got.chains] == [4]
    for name, drawn in got.chains[0].shared[-1].items():
        np.testing.assert_array_equal(drawn, whole.chains[0].shared[-1][name])
    assert bool(np.isfinite(got.abundances[1]).all())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_chain_that_kept_draws_enough_counts(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"num_rounds": 16, "num_kept": 8}
    whole = draw("library", **settings)
    with caplog.at_level(logging.WARNING, logger="pyro_unmix"):
        got, made = interrupted(16 + 13, **settings)
    assert made == 29
    assert "interrupted after 29 of 32 rounds" in caplog.text
    assert "is of 2 of 2 chains, of the last with 5 of 8 draws" in caplog.text
    assert [len(chain.shared) for chain in got.chains] == [8, 5]
    for ours, theirs in zip(got.chains[1].shared, whole.chains[1].shared, strict=False):
        np.testing.assert_array_equal(ours["residual_factor"], theirs["residual_factor"])
    # chains of different lengths have all that others have
    assert np.isfinite(got.diagnose()["r_hat_noise"])
    low, high = got.interval(0.8)
    assert bool((low <= high).all()) and got.weights.tolist() == [0.5, 0.5]


def test_chains_of_one_start_may_be_of_different_lengths() -> None:
    with pytest.MonkeyPatch.context() as patch:
        Rounds(patch, 16 + 12, press)
        got = draw("simplex", num_rounds=16, num_kept=8, num_chains=2)
    assert [len(chain.shared) for chain in got.chains] == [8, 4]
    assert np.isfinite(got.diagnose()["r_hat"]).all()


@pytest.mark.parametrize("kept", [1, 4])
def test_before_there_are_draws_an_interrupt_is_one(kept: int, tmp_path: Path) -> None:
    """Of a chain that is to keep one draw, one is enough; of others, four."""
    at = NUM_ROUNDS - 1
    with pytest.raises(KeyboardInterrupt, match="before they had draws for a result"):
        interrupted(at, num_kept=kept, folder=tmp_path)
    assert files(tmp_path)[-1].startswith("step-000000007-")
    got, made = rounds_of(lambda: draw("library", tmp_path, num_kept=kept))
    assert made == TOTAL - at
    assert_same_chains(got, draw("library", num_kept=kept))


def test_an_interrupt_between_rounds_leaves_a_checkpoint(tmp_path: Path) -> None:
    got, _ = interrupted(NUM_ROUNDS + 2, folder=tmp_path)
    assert len(got.chains) == 1
    assert files(tmp_path)[-1].startswith("step-000000010-")
    again, made = rounds_of(lambda: draw("library", tmp_path))
    assert made == TOTAL - 10
    assert_same_chains(again, draw("library"))


def test_a_second_ctrl_c_does_not_wait_and_nothing_half_done_is_kept(tmp_path: Path) -> None:
    """A kernel has drawn of the stream by then, which is not that of the round before any more."""

    class Drawn:
        def __call__(self, state: Any, spectra: Any) -> Any:
            spectra.normal(5)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        rounds = Rounds(patch)
        steps, step = [0], ChainRun.step

        def counted(self: ChainRun) -> None:
            steps[0] += 1
            if steps[0] == NUM_ROUNDS + 3:
                self.kernels = [Drawn()]
            step(self)

        patch.setattr(ChainRun, "step", counted)
        got = draw("library", tmp_path, every=4)
    assert rounds.made == NUM_ROUNDS + 3 and len(got.chains) == 1  # the last was not ended
    assert [name[:14] for name in files(tmp_path)] == ["step-000000004", "step-000000008"]
    assert_same_chains(draw("library", tmp_path, every=4), draw("library"))
    _, made = interrupted(NUM_ROUNDS + 2, press_twice)
    assert made == NUM_ROUNDS + 1


def test_the_programs_of_an_interrupted_run_are_those_of_its_chains() -> None:
    with pytest.MonkeyPatch.context() as patch:
        Rounds(patch, NUM_ROUNDS + 1, press)
        models = [library(), library()]
        got = draw(models=models)
    assert len(got.chains) == 1 and got.chains[0].model is models[0]


@pytest.mark.parametrize("where", ["random_spectra", "_with_values", "begin"])
def test_an_interrupt_while_chains_are_restored_leaves_the_folder_as_it_is(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(NUM_ROUNDS + 4, folder=tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "begin":
            patch.setattr(ChainRun, "_begin", stopped)
        else:
            patch.setattr(f"pyro_unmix.infer.chain_run.{where}", stopped)
        with pytest.raises(KeyboardInterrupt):
            draw("library", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
    got, made = rounds_of(lambda: draw("library", tmp_path))
    assert made == TOTAL - NUM_ROUNDS - 4
    assert_same_chains(got, draw("library"))
