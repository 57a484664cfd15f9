"""`unmix`: that it is made of what it says, and what it recovers."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from scipy.optimize import nnls
from torch import nn
from unmix_cases import (
    CUBES,
    GIVEN,
    LIBRARY,
    MATRIX,
    SMALL,
    assert_same,
    batch_sizes,
    parameters,
    run,
)

from pyro_unmix import SGLMM, ConjugateGuide, fit, simulate, unmix
from pyro_unmix.bases import Brightness
from pyro_unmix.posterior import PosteriorMean, Unmixing
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    Independent,
    JumpWalk,
    RandomWalk,
    WhiteNoise,
)
from pyro_unmix.start import choose_start, match_endmembers

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function
LARGER = simulate.scaled_scene(num_dates=2, height=17, width=17, library=LIBRARY, seed=1).cubes


def by_hand(cubes: xr.DataArray, chain: Any, **given: Any) -> Unmixing:
    """`unmix` as its docstring describes it, every setting written out."""
    start = choose_start(cubes, 3, seed=0, **given)
    model = SGLMM(
        FixedEndmembers(start.endmembers),
        basis=start.basis,
        abundance_prior=JumpWalk(
            scale=0.2, jump_scale=3.0, jump_probability=0.05, initial_scale=2.5
        ),
        variability_prior=chain,
        noise=WhiteNoise(start.noise_scale, learn=True),
        seed=0,
    )
    return fit(
        model,
        ConjugateGuide(model, correction=True, seed=0),
        cubes,
        num_steps=100,
        batch_size=256,
        learning_rate=0.01,
        learning_rate_decay=0.1,
        loss=Trace_ELBO(),
        estimate=PosteriorMean(num_samples=64),
        seed=0,
        progress=False,
    )


def test_unmix_is_what_it_says(monkeypatch):
    given = {"endmembers": MATRIX, "basis": Brightness(0.2)}
    sizes = batch_sizes(monkeypatch, ConjugateGuide)
    result = unmix(LARGER, 3, progress=False, **given)
    assert sizes == [256] * 100
    assert result.method == "unmix"
    chain = AutoRegressive(0.5, 1.0, learn=True)  # steps from date to date add up in that scene
    assert_same(result, by_hand(LARGER, chain, **given))


def test_unmix_needs_nothing_but_a_number():
    result = unmix(CUBES[:2], 3, num_steps=0, progress=False)
    start = choose_start(CUBES[:2], 3, seed=0)
    np.testing.assert_allclose(result.reference_endmembers, start.endmembers, rtol=1e-6)
    assert float(result.model.noise.scale.detach()) == pytest.approx(start.noise_scale, rel=1e-6)
    m0 = torch.from_numpy(np.ascontiguousarray(start.endmembers.values))
    expected = start.basis.components(m0)
    np.testing.assert_allclose(result.dataset["components"], expected, atol=1e-6)


def varying(chain: Any, seed: int, num_dates: int = 4) -> xr.DataArray:
    """Pixels drawn from the model, with brightness that lasts or does not."""
    model = SGLMM(
        MATRIX,
        basis=Brightness(0.3),
        abundance_prior=JumpWalk(),
        variability_prior=chain,
        noise=WhiteNoise(0.005),
    )
    return simulate.state_space(model, num_dates=num_dates, height=10, width=10, seed=seed).cubes


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("truth", "chosen"),
    [
        (AutoRegressive(0.9), AutoRegressive),
        (AutoRegressive(0.5), AutoRegressive),
        (RandomWalk(0.3), AutoRegressive),
        (Independent(), Independent),
    ],
    ids=["0.9", "0.5", "walk", "independent"],
)
def test_variability_that_lasts_is_autoregressive_other_is_independent(truth, chosen, seed):
    cubes = varying(truth, seed)
    result = unmix(cubes, 3, endmembers=MATRIX, num_steps=0, progress=False)
    assert type(result.model.variability_prior) is chosen
    assert isinstance(result.model.basis, Brightness)
    if chosen is AutoRegressive:
        assert float(result.model.variability_prior.chain()[0][0].detach()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("correlation", "chosen"),
    [
        (0.0999, Independent),
        (0.1, Independent),
        (0.1001, AutoRegressive),
        (-0.9, Independent),
    ],
)
def test_the_limit_is_a_correlation_of_a_tenth(correlation, chosen, monkeypatch):
    monkeypatch.setattr(
        unmix_module.temporal_correlation, "unchecked", lambda *arguments: correlation
    )
    assert type(run("unmix", num_steps=0).model.variability_prior) is chosen


def test_one_date_has_independent_variability():
    cubes = varying(AutoRegressive(0.9), seed=0)[:1]
    assert type(run("unmix", cubes, num_steps=0).model.variability_prior) is Independent


def test_the_time_constant_is_learned():
    """From 0.5 at the start towards the truth, on either side of it."""
    ended = {}
    for truth in (0.95, 0.2):
        cubes = varying(AutoRegressive(truth), seed=2)
        result = run("unmix", cubes, basis=Brightness(0.3), num_steps=60)
        assert type(result.model.variability_prior) is AutoRegressive
        ended[truth] = float(result.model.variability_prior.chain()[0][0].detach())
    assert ended[0.95] > 0.55
    assert ended[0.2] < 0.45


def test_without_the_correction_there_is_no_lstm():
    with_it, without = (run("unmix", correction=c) for c in (True, False))
    assert any(isinstance(part, nn.LSTM) for part in with_it.guide.modules())
    assert not any(isinstance(part, nn.LSTM) for part in without.guide.modules())
    assert not list(without.guide.parameters())
    assert len(without.losses) == 3
    start = run("unmix", correction=False, num_steps=0)
    for name, value in parameters(start.model).items():
        assert (parameters(without.model)[name] != value).any(), name


def test_zero_steps_are_the_start():
    start = run("unmix", num_steps=0)
    assert start.losses.shape == (0,)
    chosen = choose_start(SMALL, 3, **GIVEN["unmix"])
    assert float(start.model.noise.scale.detach()) == pytest.approx(chosen.noise_scale, rel=1e-6)
    # The heads of the correction are zero until something is learned.
    without = run("unmix", num_steps=0, correction=False)
    np.testing.assert_allclose(start.abundances, without.abundances, atol=1e-6)
    np.testing.assert_allclose(start.abundances.sum("endmember"), 1, atol=1e-5)
    trained = run("unmix", num_steps=3)
    assert float(np.abs(trained.abundances - start.abundances).max()) > 1e-5


def fcls(spectra: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Non-negative least squares with the sum to one as a heavy row, pixel by pixel."""
    basis, triangle = np.linalg.qr(matrix)
    weight = 1e3 * np.abs(triangle).max()
    system = np.vstack([triangle, np.full(matrix.shape[1], weight)])
    flat = spectra.reshape(-1, len(matrix)).astype(float) @ basis
    found = np.array([nnls(system, np.append(y, weight))[0] for y in flat])
    return found.reshape(*spectra.shape[:-1], -1)


def nrmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """sqrt(mean_t ||A_t - Ahat_t||^2 / ||A_t||^2)"""
    dates = zip(estimate, truth, strict=True)
    return math.sqrt(np.mean([((a - b) ** 2).sum() / (b**2).sum() for a, b in dates]))


@pytest.mark.parametrize("kind", ["scaled_scene", "bundle_scene"])
def test_unmix_is_better_than_fcls_with_the_true_mean_endmembers(kind):
    """It is told the number of materials, FCLS their true mean spectra over all pixels and dates."""
    scene = getattr(simulate, kind)(num_dates=4, height=20, width=20, seed=0)
    every = slice(None, None, 4)
    cubes, truth = scene.cubes[..., every], scene.abundances.values
    dates = [scene.endmembers(t).values[:, :, every].mean((0, 1)) for t in range(4)]
    mean = np.mean(dates, axis=0)
    result = unmix(cubes, scene.num_endmembers, progress=False)
    order = match_endmembers(result.reference_endmembers.values, mean)
    got = nrmse(result.abundances.values[..., order], truth)
    assert got < nrmse(fcls(cubes.values, mean), truth)
    # Nor is it worse than saying the same everywhere.
    assert got < 0.5 * nrmse(np.broadcast_to(truth.mean((0, 1, 2)), truth.shape), truth)


@pytest.mark.parametrize("pair", ["Ca1 Si0", "Fe0 Fe1"])
def test_unmix_of_powders_that_the_spectra_do_not_hold(data_dir: Path, pair: str) -> None:
    # Every spectrum is brighter than both, or darker: all abundances are bound at a corner at the start.
    with np.load(data_dir / "minerals.npz") as data:
        names = {"Fe": "FeCa_pure_Fe", "Ca": "FeCa_pure_Ca", "Si": "FeSi_pure_Si"}
        pure = [data[names[one[:2]]][int(one[2])].reshape(-1, 113).mean(0) for one in pair.split()]
        cubes = data["CaSi_Y"][:, 5:17, 5:17]
    result = unmix(
        cubes, endmembers=np.stack(pure, axis=1), trained=True, num_steps=0, polish=False,
        progress=False,
    )  # fmt: skip
    assert np.isfinite(result.abundances).all()
