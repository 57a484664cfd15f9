"""Distributions of softmax states against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from distribution_cases import tensor
from scipy import stats

from pyro_unmix.ops.softmax_distributions import PresentOrAbsent, SoftmaxDirichlet

pytestmark = pytest.mark.usefixtures("seeded")


# SoftmaxDirichlet


@pytest.mark.parametrize("size", [2, 3, 5])
def test_softmax_dirichlet_is_scipys_dirichlet_after_a_change_of_variables(size):
    rng = np.random.default_rng(22)
    alpha = rng.uniform(0.3, 4, size=size)
    for c in rng.normal(size=(4, size)):

        def coordinates(c):
            return np.append(reference.softmax(c)[:-1], c.sum() / math.sqrt(size))

        jacobian = [
            (coordinates(c + 1e-5 * e) - coordinates(c - 1e-5 * e)) / 2e-5 for e in np.eye(size)
        ]
        expected = stats.dirichlet(alpha).logpdf(reference.softmax(c))
        expected += stats.norm.logpdf(c.sum() / math.sqrt(size))
        expected += np.linalg.slogdet(jacobian)[1]
        got = SoftmaxDirichlet(tensor(alpha)).log_prob(tensor(c))
        assert float(got) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("alpha", [[0.05, 0.7, 3.0], [2.0, 9.0, 4.0]])
def test_softmax_dirichlet_draws_have_dirichlet_abundances_and_the_stated_moments(alpha):
    alpha = np.array(alpha)
    states = SoftmaxDirichlet(tensor(alpha))
    draws = states.sample((20_000,)).numpy()
    for p in range(3):  # marginals of a Dirichlet are beta
        marginal = stats.beta(alpha[p], alpha.sum() - alpha[p])
        a = reference.softmax(draws)[:, p].clip(1e-300)  # 1e-300 and less: where the cdf is flat
        assert stats.kstest(a[:4000], marginal.cdf).pvalue > 1e-4
    spread = draws.std(0)
    error = 5 / math.sqrt(len(draws))
    np.testing.assert_array_less(np.abs(draws.mean(0) - states.mean.numpy()), error * spread)
    # Standard error of a variance from the draws' own fourth moments.
    squares = (draws - draws.mean(0)) ** 2
    gap = np.abs(squares.mean(0) - states.variance.numpy())
    np.testing.assert_array_less(gap, error * squares.std(0))
    np.testing.assert_allclose(states.scale**2, states.variance, rtol=1e-12)


def test_softmax_dirichlet_survives_tiny_concentrations():
    states = SoftmaxDirichlet(torch.full((4,), 1e-3, requires_grad=True))
    draw = states.rsample((100,))
    assert torch.isfinite(draw).all()
    density = states.log_prob(draw).sum()
    density.backward()
    assert torch.isfinite(density) and torch.isfinite(states.concentration.grad).all()


def test_softmax_dirichlet_gradients_match_finite_differences():
    def density(log_alpha, c):
        return SoftmaxDirichlet(log_alpha.exp()).log_prob(c)

    rng = np.random.default_rng(23)
    inputs = (tensor(rng.normal(size=(3, 4))).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(density, tuple(inputs))


# PresentOrAbsent


def test_present_or_absent_is_the_written_out_mixture():
    rng = np.random.default_rng(24)
    presence, c = rng.uniform(0.1, 0.9, size=3), rng.normal(-2, 3, size=(5, 3))
    logits = tensor(np.log(presence / (1 - presence)))
    states = PresentOrAbsent(logits, tensor(4.0), tensor(0.7))
    present, absent = (stats.norm(loc, 0.7).pdf(c) for loc in (0, -4))
    expected = np.log(presence * present + (1 - presence) * absent).sum(-1)
    np.testing.assert_allclose(states.log_prob(tensor(c)), expected, rtol=1e-12)
    np.testing.assert_allclose(states.mean, -4 * (1 - presence), rtol=1e-12)
    second = 0.49 + 16 * (1 - presence)
    np.testing.assert_allclose(states.variance, second - states.mean.numpy() ** 2, rtol=1e-12)
    draws = states.sample((20_000,)).numpy()
    error = 5 * states.scale.numpy() / math.sqrt(20_000)
    np.testing.assert_array_less(np.abs(draws.mean(0) - states.mean.numpy()), error)
    assert (draws[:, 0] < -2).mean() == pytest.approx(1 - presence[0], abs=0.03)
