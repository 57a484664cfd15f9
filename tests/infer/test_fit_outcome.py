"""What `fit` shows on the way and what its result holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from fit_cases import CUBES, PAIRS, changed, ours, run, weights_of

from pyro_unmix import fit
from pyro_unmix.data import as_cube_sequence

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.usefixtures("told_at_once")
def test_progress_shows_the_elbo_and_the_rate(capfd):
    result = run(progress=True, num_steps=4)
    shown = capfd.readouterr().err
    assert "fit: 4 of 4 steps" in shown
    assert f"ELBO/value {-result.losses[-1]:.4f}" in shown
    assert "pixels/s" in shown
    run(progress=False)
    assert capfd.readouterr() == ("", "")


def test_gradients_that_were_left_behind_do_not_count():
    model, guide = ours()
    for parameter in [*model.parameters(), *guide.parameters()]:
        parameter.grad = torch.full_like(parameter, 3.0)
    result = fit(model, guide, CUBES, num_steps=3, batch_size=10, progress=False)
    clean = fit(*ours(), CUBES, num_steps=3, batch_size=10, progress=False)
    np.testing.assert_array_equal(result.losses, clean.losses)


@pytest.mark.parametrize("name", PAIRS)
def test_a_result_stays_as_it_was_when_training_goes_on(name):
    model, guide = PAIRS[name]()
    first = fit(model, guide, CUBES, num_steps=2, progress=False)
    draws = first.sample(3)
    second = fit(model, guide, CUBES, num_steps=5, learning_rate=0.1, progress=False)
    xr.testing.assert_identical(first.sample(3), draws)
    assert np.abs(second.sample(3) - draws).max() > 1e-3


def test_the_seed_may_be_an_integer_of_numpy():
    xr.testing.assert_identical(run(seed=np.int64(3)).abundances, run(seed=3).abundances)


def test_cuda_generators_are_left_alone_on_the_cpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", calls.append)
    for name in PAIRS:
        model, guide = PAIRS[name](seed=5)
        fit(model, guide, CUBES, num_steps=1, progress=False)
        model.sample_sequence(3, 2)
    assert calls == []


def test_device_and_dtype_are_the_models():
    model, guide = ours()
    model, guide = model.double(), guide.double()
    result = fit(model, guide, CUBES, num_steps=2, device="cpu", progress=False)
    assert result.abundances.dtype == np.float64
    assert run(ours).abundances.dtype == np.float32


def test_the_result_knows_what_was_fitted():
    model, guide = ours()
    result = fit(model, guide, CUBES, num_steps=1, method="mine", seed=4, progress=False)
    assert result.guide.model is result.model
    assert not changed(weights_of(result.model, result.guide), model, guide)
    assert result.method == "mine"
    assert result.seed == 4
    xr.testing.assert_identical(result.cubes, as_cube_sequence(CUBES))
