"""The abundances of the conjugate guide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from guide_cases import (
    COMPONENTS,
    DATES,
    MATERIALS,
    MODELS,
    PIXELS,
    WALKS,
    build,
    conjugate_log_q,
    correction,
    data,
    dense_posterior,
    guide_trace,
    latents_of,
    numbers,
    parts_of,
    perturbed_guide,
    site_densities,
    step_scales,
)

from pyro_unmix import ConjugateGuide
from pyro_unmix.guides.conjugate import guide as conjugate_guide

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


@pytest.mark.parametrize("with_correction", [True, False])
@pytest.mark.parametrize(("walk", "chain"), MODELS)
def test_conjugate_guide_has_the_hand_written_density(walk, chain, with_correction):
    model, (y, valid) = build(walk, chain), data()
    guide = perturbed_guide(ConjugateGuide, model, correction=with_correction)
    features = guide.prepare(y, valid)
    trace = guide_trace(guide, y, valid, features=features)
    expected = conjugate_log_q(guide, y, valid, features, latents_of(trace))
    got = site_densities(trace)
    assert set(got) == set(expected)
    for name, density in expected.items():
        np.testing.assert_allclose(got[name], density, rtol=1e-9, atol=1e-8, err_msg=name)


def test_missing_dates_give_no_information_about_the_abundances():
    model, (y, valid) = build("jump", "autoregressive"), data()
    features = ConjugateGuide(model).double().prepare(y, valid)
    for name in ("curvature", "pull"):
        some = features[name].flatten(2).abs().sum(-1) > 0
        assert torch.equal(some, valid), name
    garbage = torch.where(valid.unsqueeze(-1), y, torch.full_like(y, 0.9))
    for name, value in ConjugateGuide(model).double().prepare(garbage, valid).items():
        assert torch.equal(value, features[name]), name


def test_preparation_is_the_same_in_any_chunks(monkeypatch):
    model, (y, valid) = build("jump", "random walk"), data()
    guide = ConjugateGuide(model).double()
    whole = guide.prepare(y, valid)
    shapes = {k: tuple(v.shape) for k, v in whole.items()}
    assert shapes == {
        "curvature": (PIXELS, DATES, MATERIALS, MATERIALS),
        "pull": (PIXELS, DATES, MATERIALS),
        "path": (PIXELS, DATES + 1, MATERIALS),
        "mean_square": (PIXELS, DATES),
    }
    assert not any(value.requires_grad for value in whole.values())
    monkeypatch.setattr(conjugate_guide, "_CHUNK", 1)
    many = 40  # blocks are never smaller than 64 pixels
    repeated = guide.prepare(y.repeat(many, 1, 1), valid.repeat(many, 1))
    for name, value in repeated.items():
        for part in value.split(PIXELS):
            torch.testing.assert_close(part, whole[name], rtol=1e-8, atol=1e-8)


def test_without_noise_draws_follow_the_smoothed_means():
    model, (y, valid) = build("jump", "autoregressive"), data()
    guide = ConjugateGuide(model).double()  # its heads are zero
    features = guide.prepare(y, valid)

    def silence(site: str, size: int) -> torch.Tensor:
        return torch.zeros(2, 1, size).double()

    abundances, variability = guide.draw(y, valid, features, silence)
    feature = {k: v.numpy() for k, v in features.items()}
    scales = step_scales(model, feature["path"], feature["mean_square"])
    prior = model.abundance_prior
    loc, spread = numbers(prior.initial_loc, prior.log_initial_scale.exp())
    parts = parts_of(model)
    assert abundances.shape == (2, PIXELS, DATES, MATERIALS)
    assert variability.shape == (PIXELS, DATES, COMPONENTS, MATERIALS)
    for n in range(PIXELS):
        path, _ = dense_posterior(
            feature["curvature"][n], feature["pull"][n], scales[n], loc, spread
        )
        expected = reference.softmax(path[1:])
        np.testing.assert_allclose(abundances[:, n], np.stack([expected] * 2), atol=1e-9)
        psi, _, _ = reference.variability_evidence(y[n].numpy(), valid[n], expected, **parts)
        np.testing.assert_allclose(variability[n].flatten(-2), psi[1:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("with_correction", [True, False])
@pytest.mark.parametrize("walk", WALKS)
def test_draws_are_those_of_the_conditionals(walk, with_correction):
    """``c_t = E[c_t | c_{t-1}] + C'^-1 (d_t + exp(l_t) eps_t)`` from dense algebra, at given eps."""
    model, (y, valid) = build(walk, "autoregressive"), data()
    guide = perturbed_guide(ConjugateGuide, model, correction=with_correction)
    features = guide.prepare(y, valid)
    eps = np.random.default_rng(3).normal(size=(DATES + 1, 2, MATERIALS))

    def noise(site: str, size: int) -> torch.Tensor:
        return torch.from_numpy(eps[int(site.removeprefix("c_"))]).unsqueeze(1)

    got = guide.draw(y, valid, features, noise)[0].numpy()
    feature = {k: v.numpy() for k, v in features.items()}
    scales = step_scales(model, feature["path"], feature["mean_square"])
    prior = model.abundance_prior
    loc, spread = numbers(prior.initial_loc, prior.log_initial_scale.exp())
    for n, draw in itertools.product(range(PIXELS), range(2)):
        mean, covariance = dense_posterior(
            feature["curvature"][n], feature["pull"][n], scales[n], loc, spread
        )
        shift, log_scale = correction(guide, y[n].numpy(), feature["path"][n, 1:])
        factor = np.linalg.cholesky(np.linalg.inv(covariance[0, :, 0]))
        c = mean[0] + np.linalg.solve(factor.T, eps[0, draw])
        for t in range(1, DATES + 1):
            before = covariance[t - 1, :, t - 1]
            gain = np.linalg.solve(before, covariance[t - 1, :, t]).T
            conditional = covariance[t, :, t] - gain @ covariance[t - 1, :, t]
            factor = np.linalg.cholesky(np.linalg.inv(conditional))
            step = shift[t - 1] + np.exp(log_scale[t - 1]) * eps[t, draw]
            c = mean[t] + gain @ (c - mean[t - 1]) + np.linalg.solve(factor.T, step)
            np.testing.assert_allclose(got[draw, n, t - 1], reference.softmax(c), atol=1e-8)


def test_mean_variability_is_weighted_by_the_abundances():
    model, (y, valid) = build("jump", "independent"), data()
    guide = ConjugateGuide(model).double()
    features = guide.prepare(y, valid)
    generator = torch.Generator().manual_seed(0)

    def noise(site: str, size: int) -> torch.Tensor:
        return torch.randn(2, 1, size, generator=generator).double()

    abundances, variability = (x.numpy() for x in guide.draw(y, valid, features, noise))
    parts = parts_of(model)
    for n in range(PIXELS):
        weighted = np.zeros((DATES, COMPONENTS, MATERIALS))
        for a in abundances[:, n]:
            psi, _, _ = reference.variability_evidence(y[n].numpy(), valid[n], a, **parts)
            weighted += psi[1:].reshape(DATES, COMPONENTS, MATERIALS) * a[:, None]
        expected = weighted / abundances[:, n].sum(0)[:, None]
        np.testing.assert_allclose(variability[n], expected, rtol=1e-7, atol=1e-8)
