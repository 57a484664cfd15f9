"""NUTS as the referee of posteriors: it finds what quadrature finds, and the comparison is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyro_unmix import DCT, SGLMM, ConstantWalk, FixedEndmembers, Independent, WhiteNoise

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _referee


def test_draws_are_compared_in_stds_of_the_referee() -> None:
    rng = np.random.default_rng(0)
    shape = (4000, 2, 3, 2)
    found = {"draws": rng.normal(1.0, 2.0, shape), "r_hat": np.full(shape[1:], 1.001)}
    found["ess"] = np.full(shape[1:], 500.0)
    scores = _referee.compared(rng.normal(2.0, 1.0, shape), found)
    assert scores["mean, median"] == pytest.approx(0.5, abs=0.05)
    assert scores["std, worst"] == pytest.approx(0.5, abs=0.05)
    assert (scores["R-hat"], scores["ESS"]) == (1.001, 500.0)
    same = _referee.compared(rng.normal(1.0, 2.0, shape), found)
    assert same["mean, worst"] < 0.1 and same["std, worst"] < 0.1


def test_the_referees_density_and_draws_are_the_posteriors() -> None:
    model = SGLMM(
        FixedEndmembers(np.array([[0.1, 0.6], [0.2, 0.4], [0.5, 0.3]])), basis=DCT(1),
        abundance_prior=ConstantWalk(0.5, learn=False), noise=WhiteNoise(0.1, learn=False),
        variability_prior=Independent(0.1, learn=False),
    ).double()  # fmt: skip
    pixel = np.array([0.3, 0.25, 0.35])
    y = torch.from_numpy(pixel)[None, None]
    components = model.components().numpy()[:, 0]  # (L, P)

    def likelihood(a: np.ndarray) -> float:
        spread = 0.1**2 * (components * a**2) @ components.T + 0.1**2 * np.eye(3)
        return float(
            stats.multivariate_normal(model.reference.value.numpy() @ a, spread).pdf(pixel)
        )

    # the density of states, up to its digits
    states = np.array([[0.3, -0.4], [0.9, 0.1]])
    values = {f"c_{t}": torch.from_numpy(states[t])[None] for t in range(2)}
    with pyro.get_param_store().scope():
        trace = poutine.trace(poutine.condition(_referee.program_of(model, y), values)).get_trace()
    density = stats.norm(0, 1).logpdf(states[0]).sum()
    density += stats.norm(states[0], 0.5).logpdf(states[1]).sum()
    density += np.log(likelihood(np.exp(states[1]) / np.exp(states[1]).sum()))
    assert trace.log_prob_sum().item() == pytest.approx(density, abs=1e-5)

    # and few draws: c_1 - c_2 ~ N(0, 2 (1 + 0.5^2))
    draws = _referee.referee(model, y, 100, 60, max_tree_depth=3)["draws"]
    grid = np.linspace(-12, 12, 401)
    first = 1 / (1 + np.exp(-grid))
    weight = [
        stats.norm(0, np.sqrt(2.5)).pdf(x) * likelihood(np.array([a, 1 - a]))
        for x, a in zip(grid, first, strict=True)
    ]
    mean = np.average(first, weights=weight)
    std = np.sqrt(np.average((first - mean) ** 2, weights=weight))
    assert draws[:, 0, 0, 0].mean() == pytest.approx(mean, abs=0.5 * std)
    assert draws[:, 0, 0, 0].std() == pytest.approx(std, rel=0.4)
