"""What both guides share: the ELBO and its gradients, written out, and the exact posterior."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from guide_cases import (
    CHAINS,
    DATES,
    MODELS,
    WALKS,
    bilstm_log_q,
    build,
    conditioned,
    conjugate_log_q,
    data,
    guide_trace,
    latents_of,
    numbers,
    perturbed_guide,
    site_densities,
)
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import integrate, special, stats

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide
from pyro_unmix.bases import DCT
from pyro_unmix.guides import Guide
from pyro_unmix.priors import AutoRegressive, FixedEndmembers, FreeEndmembers, JumpWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
GUIDES = {"bilstm": BiLSTMGuide, "conjugate": ConjugateGuide}


def hand_written_log_q(guide, y, valid, features, latents) -> dict[str, np.ndarray]:
    if isinstance(guide, BiLSTMGuide):
        return bilstm_log_q(guide, y, valid, latents)
    return conjugate_log_q(guide, y, valid, features, latents)


def log_p(model: SGLMM, latents, y, valid) -> float:
    """``log p(y, c, psi)``, whose sites are checked one by one in test_sglmm_density."""
    return conditioned(model, latents, y, valid).log_prob_sum().item()


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("walk", WALKS)
def test_elbo_is_the_hand_written_one(name, walk):
    model, (y, valid) = build(walk, "autoregressive"), data()
    guide = perturbed_guide(GUIDES[name], model)
    features = guide.prepare(y, valid)
    index = torch.tensor([3, 1, 2])
    batch = (y[index], valid[index])
    chosen = {k: v[index] for k, v in features.items()}
    keywords = {"index": index, "size": 12, "features": chosen}
    torch.manual_seed(7)
    elbo = -Trace_ELBO().loss(model, guide, *batch, **keywords)
    torch.manual_seed(7)
    latents = latents_of(guide_trace(guide, *batch, **keywords))
    log_q = hand_written_log_q(guide, *batch, chosen, latents)
    expected = log_p(model, latents, *batch) - sum(d.sum() for d in log_q.values())
    assert elbo == pytest.approx(12 / 3 * expected, rel=1e-9)


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("chain", CHAINS)
def test_elbo_of_several_particles_is_their_mean(name, chain):
    model, (y, valid) = build("jump", chain), data()
    guide = perturbed_guide(GUIDES[name], model)
    features = guide.prepare(y, valid)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(7)
    elbo = -loss.loss(model, guide, y, valid, features=features)
    torch.manual_seed(7)
    with pyro.plate("particles", 3, dim=-2):
        drawn = latents_of(guide_trace(guide, y, valid, features=features))
    expected = []
    for i in range(3):
        latents = {k: v[i] for k, v in drawn.items()}
        log_q = hand_written_log_q(guide, y, valid, features, latents)
        expected.append(log_p(model, latents, y, valid) - sum(d.sum() for d in log_q.values()))
    assert elbo == pytest.approx(np.mean(expected), rel=1e-9)
    assert np.std(expected) > 0.1  # the particles do differ


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize(("walk", "chain"), MODELS)
def test_elbo_gradients_match_finite_differences(name, walk, chain):
    model, (y, valid) = build(walk, chain), data()
    guide = perturbed_guide(GUIDES[name], model)
    features = guide.prepare(y, valid)

    def loss() -> float:
        torch.manual_seed(7)
        return Trace_ELBO().loss(model, guide, y, valid, features=features)

    torch.manual_seed(7)
    latents = latents_of(guide_trace(guide, y, valid, features=features))
    torch.manual_seed(7)
    Trace_ELBO().loss_and_grads(model, guide, y, valid, features=features)
    generator = torch.Generator().manual_seed(0)
    parameters = [("model", k, v) for k, v in model.named_parameters()]
    parameters += [("guide", k, v) for k, v in guide.named_parameters()]
    for owner, key, parameter in parameters:
        # The conjugate guide takes the abundances' transition as given: what is left is that of
        # the model's density at the draws.
        fixed = (owner, name) == ("model", "conjugate") and key.startswith("abundance_prior")
        value = (lambda: -log_p(model, latents, y, valid)) if fixed else loss
        start = parameter.detach().clone()
        direction = torch.randn(start.shape, generator=generator).double()
        step, shifted = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.copy_(start + sign * step * direction)
            shifted.append(value())
        with torch.no_grad():
            parameter.copy_(start)
        expected = (shifted[0] - shifted[1]) / (2 * step)
        got = (parameter.grad * direction).sum().item()
        # eps |f| / h, with f up to 1e4 and sums of Cholesky factors behind it; h^2 f''' / 6.
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("kind", [FreeEndmembers, FixedEndmembers])
@pytest.mark.parametrize(("walk", "chain"), MODELS)
def test_every_parameter_gets_a_gradient(name, kind, walk, chain):
    model, (y, valid) = build(walk, chain, kind), data()
    guide = perturbed_guide(GUIDES[name], model)
    features = guide.prepare(y, valid)
    Trace_ELBO().loss_and_grads(model, guide, y, valid, features=features)
    count = 0
    for module in (model, guide):
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().sum() > 0, key
            count += 1
    assert count >= 10


def test_the_heads_of_a_new_conjugate_guide_are_zero_and_get_a_gradient():
    model, (y, valid) = build("jump", "independent"), data()
    guide = ConjugateGuide(model).double()
    assert not guide.head.any()
    Trace_ELBO().loss_and_grads(model, guide, y, valid)
    assert (guide.head.grad.abs().sum(1) > 0).all()


def test_without_the_correction_nothing_is_learned_by_the_guide():
    guide = ConjugateGuide(build("jump", "independent"), correction=False)
    assert not list(guide.parameters())


@pytest.mark.parametrize("name", GUIDES)
def test_guides_built_alike_are_equal_and_no_global_state_moves(name):
    model = build("softmax", "random walk")
    before = torch.get_rng_state()
    first, second, other = (GUIDES[name](model, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    states = [guide.state_dict() for guide in (first, second, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", GUIDES)
def test_the_models_parameters_are_not_the_guides(name):
    model = build("softmax", "random walk")
    guide = GUIDES[name](model)
    assert guide.model is model
    mine = {id(parameter) for parameter in guide.parameters()}
    assert not mine & {id(parameter) for parameter in model.parameters()}
    assert not [key for key in guide.state_dict() if "model" in key]


@pytest.mark.parametrize("name", GUIDES)
def test_guide_and_model_have_the_same_latent_sites(name):
    model, (y, valid) = build("jump", "autoregressive"), data()
    guide = GUIDES[name](model).double()
    ours, theirs = (
        {
            (k, tuple(site["value"].shape))
            for k, site in poutine.trace(program).get_trace(y, valid).nodes.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        for program in (guide, model)
    )
    assert ours == theirs
    assert len(ours) == 2 * (DATES + 1) + 1


@pytest.mark.parametrize("name", GUIDES)
def test_pixels_do_not_know_of_each_other(name):
    """The density of a pixel's own draws is the same whoever is beside it."""
    model, (y, valid) = build("jump", "autoregressive"), data()
    guide = perturbed_guide(GUIDES[name], model)
    trace = guide_trace(guide, y, valid)
    latents, order = latents_of(trace), torch.tensor([2, 0])
    chosen = {k: v[order] for k, v in latents.items()}
    alone = conditioned(guide, chosen, y[order], valid[order])
    for key, density in site_densities(alone).items():
        whole = site_densities(trace)[key][order.numpy()]
        np.testing.assert_allclose(density, whole, rtol=1e-7, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("name", GUIDES)
def test_values_at_missing_dates_do_not_matter(name):
    model, (y, valid) = build("jump", "random walk"), data()
    guide = perturbed_guide(GUIDES[name], model)
    trace = guide_trace(guide, y, valid)
    garbage = torch.where(valid.unsqueeze(-1), y, torch.full_like(y, 0.9))
    other = conditioned(guide, latents_of(trace), garbage, valid)
    for key, density in site_densities(other).items():
        expected = site_densities(trace)[key]
        np.testing.assert_allclose(density, expected, rtol=1e-9, atol=1e-9, err_msg=key)


def test_base_guide_prepares_and_draws_nothing():
    guide = Guide(SGLMM(np.eye(3, 2), basis=DCT(1)))
    assert guide.prepare(None, None) == {}
    assert guide.draw(None, None, {}, None) is None


@pytest.mark.parametrize("guide", [BiLSTMGuide, ConjugateGuide])
@pytest.mark.parametrize("model", [None, np.eye(3, 2), SGLMM])
def test_guides_are_built_from_a_model(guide, model):
    with pytest.raises(TypeError, match=r"Guide is built from its model, such as SGLMM"):
        guide(model)


class TwoMaterials:
    """One date and two materials: the posterior of d = c_1 - c_2 is a one-dimensional integral.

    The prior's drift and jump differ little, so that importance weights have a variance.
    """

    def __init__(self, noise_scale: float) -> None:
        rng = np.random.default_rng(3)
        matrix = rng.uniform(0.1, 0.9, size=(6, 2))
        self.model = SGLMM(
            matrix,
            basis=DCT(1, scale=0.3),
            abundance_prior=JumpWalk(
                scale=0.4, jump_scale=0.5, jump_probability=0.3, initial_scale=0.5
            ),
            variability_prior=AutoRegressive(0.5, 0.8),
            noise=WhiteNoise(noise_scale),
        ).double()
        shares = np.array([0.4, 0.6, 0.5])
        a = np.column_stack([shares, 1 - shares])
        clean = self.model.reference.value.detach().numpy() @ a.T
        y = clean.T + noise_scale * rng.normal(size=(3, 6))
        self.y = torch.from_numpy(y)[:, None]
        self.valid = torch.ones(3, 1, dtype=torch.bool)
        self.grid = np.linspace(-25, 25, 20_001)

    def log_joint(self) -> np.ndarray:
        """``log p(y, d)`` on the grid, (pixels, grid)."""
        value = {k: v.detach().numpy() for k, v in self.model.abundance_prior.state_dict().items()}
        start = 2 * np.exp(2 * value["log_initial_scale"]).mean()
        scales = np.exp([value["log_scale"], value["log_jump_scale"]])
        jump = special.expit(value["jump_logit"])
        parts = [
            np.log(weight) + stats.norm(0, math.sqrt(start + 2 * s**2)).logpdf(self.grid)
            for weight, s in zip((1 - jump, jump), scales, strict=True)
        ]
        prior = np.logaddexp(*parts)
        return prior + np.stack([self.log_likelihood(y) for y in self.y[:, 0].numpy()])

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        endmembers, components = numbers(self.model.reference.value, self.model.components())
        variance = self.model.variability_prior.marginals(1)[1][0].detach().numpy()
        a = np.column_stack([special.expit(self.grid), special.expit(-self.grid)])
        loading = components[:, 0] * a[:, None]
        noise = self.model.noise.scale.item() ** 2 * np.eye(len(y))
        covariance = np.einsum("nlp,p,nmp->nlm", loading, variance, loading) + noise
        residual = y - a @ endmembers.T
        solved = np.linalg.solve(covariance, residual[..., None])[..., 0]
        constant = np.linalg.slogdet(covariance)[1] + len(y) * math.log(2 * math.pi)
        return -0.5 * ((residual * solved).sum(-1) + constant)

    def log_evidence(self) -> np.ndarray:
        joint = self.log_joint()
        top = joint.max(1)
        return top + np.log(integrate.simpson(np.exp(joint - top[:, None]), x=self.grid))

    def log_weights(self, guide, count: int) -> np.ndarray:
        """``log p(y, c, psi) - log q(c, psi)`` of draws, (count, pixels)."""
        with torch.no_grad(), pyro.plate("particles", count, dim=-2):
            drawn = guide_trace(guide, self.y, self.valid)
            other = poutine.trace(poutine.replay(self.model, trace=drawn))
            joint = other.get_trace(self.y, self.valid)
            joint.compute_log_prob()
        return sum(site_densities(joint).values()) - sum(site_densities(drawn).values())


@pytest.mark.parametrize("name", ["bilstm", "conjugate", "corrected"])
def test_importance_weights_average_to_the_exact_evidence(name):
    problem, count = TwoMaterials(noise_scale=0.3), 40_000
    if name == "corrected":
        guide = perturbed_guide(ConjugateGuide, problem.model)
    else:
        guide = GUIDES[name](problem.model).double()
    log_weights = problem.log_weights(guide, count)
    evidence = problem.log_evidence()
    weights = np.exp(log_weights - evidence)
    error = weights.std(0) / math.sqrt(count)
    assert (error < 0.03).all()
    assert (np.abs(weights.mean(0) - 1) < 5 * error).all()
    # Jensen: the ELBO lies below.
    bound = log_weights.mean(0) - 5 * log_weights.std(0) / math.sqrt(count)
    assert (bound < evidence).all()


def test_conjugate_guide_is_exact_in_the_limit_of_little_noise():
    """With a posterior std of sigma in c, what a Gaussian leaves out is of relative order sigma."""
    problem = TwoMaterials(noise_scale=0.01)
    problem.model.variability_prior.log_scale.data.fill_(math.log(0.05))
    guide = ConjugateGuide(problem.model).double()
    joint = problem.log_joint()
    weights = np.exp(joint - joint.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    mean = weights @ problem.grid
    std = np.sqrt(weights @ problem.grid**2 - mean**2)
    assert (std > 10 * (problem.grid[1] - problem.grid[0])).all()
    assert (std < 0.3).all()
    with torch.no_grad(), pyro.plate("particles", 20_000, dim=-2):
        c = guide_trace(guide, problem.y, problem.valid).nodes["c_1"]["value"].numpy()
    d = c[..., 0] - c[..., 1]
    assert (np.abs(d.mean(0) - mean) < std * (std + 5 / math.sqrt(20_000))).all()
    assert (np.abs(d.std(0) / std - 1) < std + 5 / math.sqrt(2 * 20_000)).all()
