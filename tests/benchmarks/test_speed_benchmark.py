"""The benchmark of speed runs, and what it compares with is the same ELBO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _floor
import _programs
import numpy as np
import pyro
import pytest
import speed
import torch
from benchmark_cases import rows_of
from pyro.infer import Trace_ELBO

from pyro_unmix import SGLMM, BiLSTMGuide, simulate
from pyro_unmix.bases import DCT


def small_pair(dtype: torch.dtype = torch.float64) -> tuple[SGLMM, BiLSTMGuide]:
    """The paper's pair, every parameter moved off its start."""
    spectra = simulate.library(np.linspace(400, 2500, 14)).values[:, :3]
    model = SGLMM(spectra, basis=DCT(2), seed=1).to(dtype)
    guide = BiLSTMGuide(model, seed=2).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model, guide


def pixels_with_gaps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(4)
    pixels = torch.from_numpy(rng.uniform(0.1, 0.6, size=(30, 4, 14))).to(dtype)
    valid = torch.from_numpy(rng.uniform(size=(30, 4)) > 0.2)
    valid[:, 0] = True
    return pixels, valid


@pytest.mark.parametrize("stacked", [False, True])
def test_the_hand_written_elbo_is_pyros_with_its_gradients(stacked: bool) -> None:
    model, guide = small_pair()
    pixels, valid = pixels_with_gaps()
    program = _programs.HandWritten(model, guide, stacked=stacked)
    index = torch.arange(20)
    step = speed.PyroStep(model, guide, pixels, valid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        with step.around():
            theirs = step.svi.loss_and_grads(
                step.svi.model, step.svi.guide, pixels[index], valid[index], index=index, size=30
            )
        torch.manual_seed(5)
        noise = speed.pyro_noise(program, 20, 4)
    ours = program.loss(pixels[index], valid[index], noise, scale=step.scale * 30 / 20)
    ours.backward()
    assert ours.item() == pytest.approx(theirs, rel=1e-10)
    gradients = {name: leaf.grad for name, leaf in program.parameters().items()}
    known = dict([*model.named_parameters(), *guide.named_parameters()])
    assert set(gradients) == set(known)
    for name, parameter in known.items():
        largest = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-9 * largest)


def test_another_elbo_is_found_out() -> None:
    model, guide = small_pair(torch.float32)
    pixels, valid = pixels_with_gaps(torch.float32)
    paper = speed.PyroStep(model, guide, pixels, valid)
    hand = speed.HandWrittenStep(_programs.HandWritten(model, guide, stacked=True), pixels, valid)
    with torch.random.fork_rng(devices=[]):
        assert speed.loss_difference(paper, hand) <= speed.LOSS_TOLERANCE
        hand.program.step_scale *= 1.01
        with pytest.raises(RuntimeError, match="not the same ELBO"):
            speed.loss_difference(paper, hand)


@pytest.mark.usefixtures("own_store")
def test_the_naive_form_is_the_same_elbo() -> None:
    model, guide = small_pair()
    naive = _programs.NaiveModel(model.reference.value.detach().numpy(), basis=DCT(2)).double()
    naive.load_state_dict(model.state_dict())
    naive_guide = _programs.NaiveGuide(naive).double()
    naive_guide.load_state_dict(guide.state_dict())
    pixels, _ = pixels_with_gaps()
    valid = torch.ones(pixels.shape[:2], dtype=torch.bool)
    losses = []
    for pair in ((model, guide), (naive, naive_guide)):
        with pyro.validation_enabled(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            losses.append(Trace_ELBO().loss(*pair, pixels, valid))
    # The package's regression has a ridge of 1e-6 of the mean eigenvalue; these Gram matrices are
    # conditioned below 1e3, so that it moves the regression by less than 1e-3.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_speed_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.json"
    found: list[dict[str, Any]] = speed.main(["--quick", "--json", str(path)])
    tables = rows_of(capsys.readouterr().out)
    assert len(tables) == 2 * len(speed.SHAPES)
    per_rank = [speed.FLOOR, speed.BY_DATE, speed.STACKED, speed.PAPER, speed.NAIVE]
    for times, goals, shape in zip(tables[::2], tables[1::2], speed.SHAPES.values(), strict=True):
        expected = [[name, str(rank)] for rank in shape.ranks for name in per_rank]
        expected += [
            [name, str(shape.default_rank)] for name in (speed.DEFAULT_BY_HAND, speed.DEFAULT)
        ]
        assert [row[:2] for row in times[2:]] == expected
        assert all(len(row) == len(times[0]) for row in times)
        assert len(goals) == 2 + 3 + 2 * len(shape.ranks)
        assert {row[3] for row in goals[2:]} <= {"met", "missed"}
    assert len(json.loads(path.read_text())) == len(found) == len(speed.SHAPES)
    for shape in found:
        assert shape["loss difference"] <= speed.LOSS_TOLERANCE
        for row in shape["rows"]:
            assert row["ms"] > 0
            floor = next(r for r in shape["rows"] if r["variant"] == speed.FLOOR)
            if row["K"] == floor["K"]:
                assert row["floors"] == pytest.approx(row["ms"] / floor["ms"])


def test_the_floor_is_timed_in_a_process_of_its_own() -> None:
    assert _floor.alone(2, 8, 2, 1, num_steps=2) > 0
