"""Priors over time: what a walk, a start and a chain do over any time between dates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from scipy import special, stats
from walk_cases import (
    CHAINS,
    ELAPSED,
    FLOAT32,
    STARTS,
    WALKS,
    set_up,
    step_density,
    tensor,
    values_of,
)

from pyro_unmix.priors import (
    DirichletStart,
    DirichletWalk,
    OrnsteinUhlenbeck,
    SparseStart,
    StudentWalk,
)

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def states(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 3))


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dated", [False, True])
def test_steps_have_the_written_out_density(walk, dated):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED if dated else None)
    before, after = states(1, 4), states(2, 4)
    step = prior.transitions()
    for t, passed in enumerate(ELAPSED if dated else [1.0] * 3, start=1):
        expected = step_density(walk, values_of(prior), before, after, passed)
        site = step(tensor(before), t)
        assert site.event_shape == (3,)
        got = site.log_prob(tensor(after)).detach()
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dated", [False, True])
def test_gradients_of_a_step_reach_every_parameter(walk, dated):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED if dated else None)
    density = prior.transitions()(tensor(states(1, 4)), 3).log_prob(tensor(states(2, 4)))
    (density.sum() + prior.initial().log_prob(tensor(states(3, 4))).sum()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("walk", WALKS)
def test_decades_and_minutes_between_dates_are_finite(walk):
    prior = set_up(WALKS[walk](), 3, elapsed=[1.0, 1e-4, 1e4]).float()
    before, after = torch.zeros(4, 3), torch.ones(4, 3)
    step = prior.transitions()
    sum(step(before, t).log_prob(after).sum() for t in (1, 2, 3)).backward()
    for name, parameter in prior.named_parameters():
        if not name.startswith(("initial", "log_initial")):
            assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(prior.step_scale(before.unsqueeze(-2), torch.ones(4, 3))).all()


@pytest.mark.parametrize("walk", ["constant", "student", "ornstein", "dirichlet"])
def test_what_is_not_learned_is_kept(walk):
    prior = set_up(WALKS[walk](learn=False), 3)
    assert set(dict(prior.named_parameters())) == {"initial_loc", "log_initial_scale"}
    # It is saved all the same.
    assert len(prior.state_dict()) > 2


# Starts


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("start", ["dirichlet", "sparse"])
def test_every_walk_takes_every_start(walk, start):
    given = STARTS[start]()
    prior = set_up(WALKS[walk](initial=given), 3)
    assert not list(given.parameters())  # the user's object is copied
    names = {n for n, _ in prior.named_parameters()}
    assert {n for n in names if "initial" in n} == {n for n in names if "initial_state." in n}
    value = {n.partition(".")[2]: v for n, v in values_of(prior).items() if "." in n}
    c = states(4, 5)
    if start == "dirichlet":
        alpha, a = np.exp(value["log_concentration"]), reference.softmax(c)
        expected = [stats.dirichlet(alpha).logpdf(x) for x in a]
        expected += stats.norm.logpdf(c.sum(-1) / math.sqrt(3)) + 0.5 * math.log(3)
        expected += np.log(a).sum(-1)
    else:
        rho, scale = special.expit(value["presence_logit"]), np.exp(value["log_spread"])
        absent = stats.norm(-np.exp(value["log_depth"]), scale).pdf(c)
        expected = np.log(rho * stats.norm(0, scale).pdf(c) + (1 - rho) * absent).sum(-1)
    np.testing.assert_allclose(prior.initial().log_prob(tensor(c)).detach(), expected, rtol=1e-10)


def test_starts_begin_as_stated():
    start = DirichletStart(0.3)
    start.setup(num_endmembers=3, generator=torch.Generator())
    np.testing.assert_allclose(start.initial().concentration.detach(), 0.3, rtol=FLOAT32)
    sparse = SparseStart(0.2, depth=5, scale=0.5)
    sparse.setup(num_endmembers=3, generator=torch.Generator())
    site = sparse.initial()
    np.testing.assert_allclose(site.loc.detach(), -0.8 * 5, rtol=FLOAT32)
    np.testing.assert_allclose(site.variance.detach(), 0.25 + 0.16 * 25, rtol=FLOAT32)
    kept = DirichletStart(learn=False)
    kept.setup(num_endmembers=3, generator=torch.Generator())
    assert not list(kept.parameters())


# The Gaussian step that stands in for a transition


@pytest.mark.parametrize("walk", WALKS)
def test_stand_ins_of_dates_are_those_of_each_step(walk):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED)
    previous, square = tensor(states(5, 4, 3)), tensor(np.abs(states(6, 4)))
    together = prior.step_scale(previous, square)
    assert together.shape == (4, 3)
    for t, passed in enumerate(ELAPSED):
        prior.set_elapsed(tensor([passed]))
        alone = prior.step_scale(previous[:, [t]], square[:, [t]])
        torch.testing.assert_close(together[:, [t]], alone)


def test_stand_in_of_a_student_step_weighs_it_as_em_does():
    prior = set_up(StudentWalk(0.5, dof=3), 3)
    value = values_of(prior)
    variance, dof = np.exp(2 * value["log_scale"]), np.exp(value["log_dof"])
    square = np.array([0.0, 0.3, 20.0])
    # The mixture's precision is gamma distributed; its mean given the step (Lange et al., 1989).
    precision = (dof + 3) / (dof + 3 * square / variance) / variance
    got = prior.step_scale(torch.zeros(3, 3).double(), tensor(square)).detach()
    np.testing.assert_allclose(got, precision**-0.5, rtol=1e-10)


def test_stand_in_of_an_ornstein_uhlenbeck_step_is_its_root_mean_square():
    prior = set_up(OrnsteinUhlenbeck(0.8, 1.5), 3)
    value = values_of(prior)
    scale, phi = np.exp(value["log_scale"]), special.expit(value["logit"])
    # Var(c_t - c_{t-1}) of the stationary process, from its covariances s^2 and phi s^2.
    expected = math.sqrt(2 * scale**2 - 2 * phi * scale**2)
    got = prior.step_scale(torch.zeros(2, 3).double(), torch.zeros(2).double()).detach()
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_stand_in_of_a_dirichlet_step_has_its_spread():
    prior = set_up(DirichletWalk(20.0, floor=0.7), 3)
    previous = tensor(states(7, 1))
    draws = prior.transitions()(previous.expand(20_000, 3), 1).sample().numpy()
    expected = math.sqrt(draws.var(0).mean())
    got = float(prior.step_scale(previous, torch.zeros(1).double()).detach())
    assert got == pytest.approx(expected, rel=0.05)  # of 20 000 draws with heavy tails


# Variability over any time


@pytest.mark.parametrize("chain", CHAINS)
def test_two_parts_of_a_step_are_the_step(chain):
    prior = set_up(CHAINS[chain](), 3, num_components=2)
    coefficient, scale, loc, spread = (x.detach().numpy() for x in prior.chain())
    if chain != "independent":  # that one draws anew at every date, however near
        prior.set_elapsed(tensor([0.3, 0.7, 2.0]))
        (a, b, two), (s, r, q) = (x.detach().numpy() for x in prior.steps(3))
        np.testing.assert_allclose(a * b, coefficient, rtol=1e-9)
        np.testing.assert_allclose(b**2 * s**2 + r**2, scale**2, rtol=1e-9)
        np.testing.assert_allclose(two, coefficient**2, rtol=1e-9)
        np.testing.assert_allclose(q**2, (coefficient**2 + 1) * scale**2, rtol=1e-9)
    prior.set_elapsed(tensor(ELAPSED))
    x = np.random.default_rng(8).normal(size=(2, 4, 6))
    steps = [y.detach().numpy() for y in prior.steps(3)]
    for t, (phi, step_scale) in enumerate(zip(*steps, strict=True), start=1):
        got = prior.transitions(3)(tensor(x[0]), t).log_prob(tensor(x[1])).detach()
        expected = reference.log_normal(x[1], phi * x[0], step_scale)
        np.testing.assert_allclose(got, expected, rtol=1e-10)
    mean, variance = loc, spread**2
    for t, found in enumerate(zip(*prior.marginals(3), strict=True)):
        mean = steps[0][t] * mean
        variance = steps[0][t] ** 2 * variance + steps[1][t] ** 2
        np.testing.assert_allclose(found[0].detach(), mean, atol=1e-12)
        np.testing.assert_allclose(found[1].detach(), variance, rtol=1e-10)


@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_of_uneven_steps_reach_every_parameter(chain):
    prior = set_up(CHAINS[chain](), 3, num_components=2, elapsed=ELAPSED)
    x = torch.randn(2, 4, 6).double()
    density = prior.transitions(3)(x[0], 2).log_prob(x[1]).sum() + prior.initial().log_prob(x).sum()
    density.backward()
    for name, parameter in prior.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name
