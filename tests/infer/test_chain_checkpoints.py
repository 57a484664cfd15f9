"""Chains that were killed go on from their checkpoint, and end with the bits of chains that were not."""

from __future__ import annotations

import errno
import importlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain_cases import (
    CUBES,
    EVERY,
    MODELS,
    NUM_ROUNDS,
    SETTINGS,
    TOTAL,
    assert_same_chains,
    crash_at,
    draw,
    library,
    rounds_of,
    simplex,
)
from checkpoint_cases import files
from checkpoint_cases import run as fit_pair

from pyro_unmix.infer import Checkpoints, Sampled, sample
from pyro_unmix.io.write.locks import locked
from pyro_unmix.kernels import LIBRARY_ROUND

checkpoints = importlib.import_module("pyro_unmix.infer.checkpoints")


@pytest.fixture(scope="module", params=sorted(MODELS))
def whole(request: pytest.FixtureRequest) -> tuple[str, Sampled]:
    return request.param, draw(request.param)


# ---------------------------------------------------------------- what is resumed


def test_resumed_chains_end_with_the_bits_of_uninterrupted_ones(
    whole: tuple[str, Sampled], tmp_path: Path
) -> None:
    """Broken off before the first checkpoint, at one, within a chain, between two, in the last round."""
    name, expected = whole
    for number in (1, 3, 4, 8, 9, 10, 14, TOTAL):
        folder = tmp_path / str(number)
        crash_at(number, lambda folder=folder: draw(name, folder))
        got, made = rounds_of(lambda folder=folder: draw(name, folder))
        assert made == TOTAL - (number - 1) // EVERY * EVERY, number
        assert_same_chains(got, expected)


def test_chains_killed_again_and_again_come_to_their_end(
    whole: tuple[str, Sampled], tmp_path: Path
) -> None:
    name, expected = whole
    for _ in range(4):
        crash_at(5, lambda: draw(name, tmp_path))
    assert_same_chains(draw(name, tmp_path), expected)


def test_checkpoints_do_not_change_chains(whole: tuple[str, Sampled], tmp_path: Path) -> None:
    name, expected = whole
    before = torch.get_rng_state()
    assert_same_chains(draw(name, tmp_path, every=1), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert [file[:14] for file in files(tmp_path)] == ["step-000000015", "step-000000016"]


def test_chains_that_had_ended_are_only_read_out(
    whole: tuple[str, Sampled], tmp_path: Path
) -> None:
    name, expected = whole
    draw(name, tmp_path)
    again, made = rounds_of(lambda: draw(name, tmp_path))
    assert made == 0
    assert_same_chains(again, expected)
    more, made = rounds_of(lambda: draw(name, tmp_path, num_samples=12, num_warmup=3))
    assert made == 0
    assert_same_chains(more, draw(name, num_samples=12, num_warmup=3))


def test_more_chains_prolong_those_of_one_program(tmp_path: Path) -> None:
    draw("library", tmp_path)
    got, made = rounds_of(lambda: draw("library", tmp_path, num_chains=3))
    assert made == NUM_ROUNDS
    assert_same_chains(got, draw("library", num_chains=3))
    with pytest.raises(ValueError, match="has made 24 rounds, and num_rounds of all chains is 8"):
        draw("library", tmp_path, num_chains=1)
    draw("simplex", tmp_path / "several")
    with pytest.raises(ValueError, match="settings.num_chains is 3, the checkpoint has 1"):
        draw("simplex", tmp_path / "several", num_chains=3)


def test_what_kernels_count_goes_on(tmp_path: Path) -> None:
    class Counting:
        """Counts in an attribute, and in what its state_dict gives."""

        def __init__(self) -> None:
            self.calls, self.hidden = 0, [0]

        def __call__(self, state: Any, spectra: Any) -> Any:
            self.calls += 1
            self.hidden[0] += 2
            return state

        def state_dict(self) -> dict[str, int]:
            return {"hidden": self.hidden[0]}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.hidden[0] = state["hidden"]

    crash_at(8, lambda: draw("library", tmp_path, kernels=[*LIBRARY_ROUND, Counting()]))
    counting = Counting()
    got = draw("library", tmp_path, kernels=[*LIBRARY_ROUND, counting])
    assert counting.calls == 16 and counting.hidden == [32]
    assert_same_chains(got, draw("library"))


# ---------------------------------------------------------------- what is refused


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"models": [simplex(), simplex(2)]}, "models.1.components is an array .* other val"),
    "concentration": (
        {"models": [simplex(), simplex(1, concentration=(0.1, 0.4))]},
        r"models.1.concentration is \[0.1, 0.4\], the checkpoint has missing",
    ),
    "number": ({"models": [simplex()], "num_chains": 2}, "models.1 is missing, the checkpoint has .*SimplexMixing"),
    "seed": ({"seed": 4}, r"settings.seeds is \[4, 2\], the checkpoint has \[3, 2\]"),
    "rounds": ({"num_rounds": 9}, "num_rounds is 9, .* has 8.*: a chain cannot go on for longer"),
    "kept": ({"num_kept": 3}, "settings.num_kept is 3, the checkpoint has 4"),
    "spectra": ({"num_spectra": 20}, "settings.num_spectra is 20, the checkpoint has 30"),
    "held out": ({"num_held_out": 9}, r"data.shape is \[38, 4\], the checkpoint has \[39, 4\]"),
    "values": ({"cubes": CUBES + 0.001}, r"data.values .hash. is '\w+', the checkpoint has"),
    "kernels": ({"kernels": LIBRARY_ROUND[:1]}, "settings.kernels.0.class is 'MemberMoves'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    crash_at(12, lambda: draw("simplex", folder))
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_other_chains_is_refused_with_the_difference(name: str, kept: Path) -> None:
    settings, text = OTHERS[name]
    listed = files(kept)
    with pytest.raises(ValueError, match=f"is of another run of chains.*{text}") as error:
        draw("simplex", kept, **settings)
    assert "another folder, or Checkpoints(folder, resume=False) to start anew" in str(error.value)
    assert files(kept) == listed
    with locked(kept):  # which was let go
        pass


def test_a_checkpoint_of_the_other_engine_is_refused(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a checkpoint of sample, not of fit: pass another fo"):
        fit_pair("ours", kept)
    fit_pair("ours", tmp_path, num_steps=1)
    with pytest.raises(ValueError, match="is a checkpoint of fit, not of sample: pass another fo"):
        draw("library", tmp_path)


def test_resume_false_begins_anew(tmp_path: Path) -> None:
    crash_at(9, lambda: draw("library", tmp_path))
    crash_at(2, lambda: draw("library", tmp_path, resume=False))
    assert files(tmp_path) == []  # chains that are killed now must not go on from the old ones
    assert rounds_of(lambda: draw("library", tmp_path))[1] == 16


def test_one_object_serves_several_calls(tmp_path: Path) -> None:
    """As in a notebook: what the call before kept is not spared, nor taken for what this one has kept."""
    anew = Checkpoints(tmp_path, every=3, resume=False)
    draw("library", checkpoint=anew)
    crash_at(2, lambda: draw("library", checkpoint=anew))
    assert files(tmp_path) == []
    on = Checkpoints(tmp_path, every=3)
    draw("library", checkpoint=on)
    for path in tmp_path.iterdir():
        path.unlink()
    draw("library", checkpoint=on)
    assert [name[:14] for name in files(tmp_path)] == ["step-000000015", "step-000000016"]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    names = ("num_rounds", "num_spectra", "num_held_out", "num_kept", "seed")
    settings = {name: np.int64(SETTINGS[name]) for name in names}
    draw("library", tmp_path, num_chains=np.int64(2), **settings)
    assert rounds_of(lambda: draw("library", tmp_path))[1] == 0


def test_a_folder_belongs_to_one_call(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError, match="is in use by another process"):
        draw("library", tmp_path)


@pytest.mark.parametrize("given", [3, __file__])
def test_what_is_no_folder_is_refused(given: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be a folder|not 'int'|not int"):
        sample(library(), CUBES, checkpoint=given)


# ---------------------------------------------------------------- files that went wrong


def test_a_damaged_newest_checkpoint_of_chains_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crash_at(12, lambda: draw("library", tmp_path))
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    got, made = rounds_of(lambda: draw("library", tmp_path))
    assert "is damaged: the checkpoint before it is taken" in caplog.text
    assert made == 16 - 6
    assert_same_chains(got, draw("library"))


def _shorter(state: Any) -> None:
    state["chains"] = state["chains"][:0]


def _negative(state: Any) -> None:
    state["chains"][0][0]["noise_variance"] *= -1


def _nan(state: Any) -> None:
    state["under way"]["state"]["amounts"][0] = torch.nan


def _other_shape(state: Any) -> None:
    state["under way"]["state"]["amounts"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update(rounds=5), "expected chains after 15 rounds, .* got 5"),
        (lambda s: s.pop("rounds"), "expected chains after 15 rounds, .* got none"),
        (_shorter, "chains are not those of so many rounds"),
        (_negative, "noise_variance must be positive"),
        (_nan, "amounts of chain 1 after round 7 holds NaN or infinity"),
        (_other_shape, "amounts is none of these chains"),
        (lambda s: s["under way"].update(draws=[]), "is damaged .*expected 3 draws of a chain"),
        (lambda s: s["under way"].update(random=torch.zeros(3)), "is damaged"),
        (lambda s: s.update(counted=3), "is damaged"),
        (lambda s: s.pop("fingerprint"), "is damaged"),
    ],
)
def test_checkpoints_of_chains_that_others_made(change: Any, text: str, tmp_path: Path) -> None:
    crash_at(16, lambda: draw("library", tmp_path))
    newest = sorted(tmp_path.iterdir())[-1]
    state = torch.load(newest, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "new")
    digest = checkpoints._digest((tmp_path / "new").read_bytes())
    os.replace(tmp_path / "new", tmp_path / f"{newest.name[:15]}{digest}.pt")
    newest.unlink()
    with pytest.raises(ValueError, match=text):
        draw("library", tmp_path)


def test_a_full_disk_is_a_warning_and_the_chains_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace, calls = os.replace, []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING, logger="pyro_unmix"):
        got = draw("library", tmp_path)
    assert "no checkpoint after 3 rounds: [Errno 28] No space left" in caplog.text
    assert "The run of chains goes on" in caplog.text
    assert caplog.text.count("will go on from the start") == 1
    assert caplog.text.count("step-000000006") == 1
    assert_same_chains(got, draw("library"))
    assert not list(tmp_path.glob("*.tmp"))


def test_chains_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    def spoilt(state: Any, spectra: Any) -> Any:
        return state.having(amounts=state.amounts + torch.nan)

    with pytest.raises(ArithmeticError, match="amounts of chain 0 after round 1 holds NaN or"):
        draw("library", tmp_path, every=1, kernels=[spoilt])
    assert files(tmp_path) == []
    with pytest.raises(ArithmeticError, match="amounts of chain 0 after round 8 holds NaN or"):
        draw("library", kernels=[spoilt])
