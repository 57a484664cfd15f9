"""With known abundances all is exact: the variability, its ELBO and its gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from guide_cases import (
    BANDS,
    CHAINS,
    DATES,
    MATERIALS,
    PIXELS,
    SIZE,
    build,
    conditioned,
    data,
    exact_log_q,
    guide_trace,
    latents_of,
    parts_of,
)
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_unmix import SGLMM, ConjugateGuide
from pyro_unmix.priors import FixedEndmembers, FreeEndmembers, KnownAbundances

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def known() -> KnownAbundances:
    rng = np.random.default_rng(5)
    return KnownAbundances(rng.dirichlet(np.ones(MATERIALS), size=(PIXELS, DATES)))


def exact_parts(model: SGLMM, index=None):
    """What the hand-written calculations need from the model, as numpy."""
    abundances = reference.softmax(model.abundance_prior.values[:, 1:].numpy())
    return abundances if index is None else abundances[index], parts_of(model)


def marginals_of_conditionals(guide, y, valid):
    """Means and covariances of psi_0 .. psi_T from the sites' own linear-Gaussian conditionals.

    Every conditional is probed at zero and at each unit vector.
    """
    index = torch.arange(len(y))
    probes = torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double()
    traces = [
        conditioned(
            guide,
            {f"psi_{t}": probe.expand(len(y), SIZE) for t in range(DATES + 1)},
            y,
            valid,
            index=index,
            features={},
        )
        for probe in probes
    ]
    locs = np.stack(
        [
            [tr.nodes[f"psi_{t}"]["fn"].mean.detach().numpy() for t in range(DATES + 1)]
            for tr in traces
        ]
    )
    trils = [
        traces[0].nodes[f"psi_{t}"]["fn"].precision_tril.detach().numpy() for t in range(DATES + 1)
    ]
    means = np.zeros((len(y), DATES + 1, SIZE))
    covariances = np.zeros((len(y), DATES + 1, SIZE, SIZE))
    for n, t in itertools.product(range(len(y)), range(DATES + 1)):
        conditional = np.linalg.inv(trils[t][n] @ trils[t][n].T)
        offset = locs[0, t, n]
        gain = (locs[1:, t, n] - offset).T
        if t == 0:
            assert not gain.any()
            means[n, 0], covariances[n, 0] = offset, conditional
        else:
            means[n, t] = gain @ means[n, t - 1] + offset
            covariances[n, t] = gain @ covariances[n, t - 1] @ gain.T + conditional
    return means, covariances


@pytest.mark.parametrize("chain", CHAINS)
def test_variability_equals_an_rts_smoother(chain):
    model, (y, valid) = build(known(), chain), data()
    guide = ConjugateGuide(model).double()
    means, covariances = marginals_of_conditionals(guide, y, valid)
    abundances, parts = exact_parts(model)
    coefficient, step_scale, loc, scale = parts["chain"]
    for n in range(PIXELS):
        matrices, residuals = reference.variability_regression(
            y[n].numpy(), valid[n], abundances[n], parts["endmembers"], parts["components"]
        )
        smoothed, spreads, _ = reference.rts_smoother(
            coefficient,
            np.tile(step_scale, (DATES, 1)),
            loc,
            scale,
            matrices,
            residuals,
            parts["noise_scale"],
        )
        np.testing.assert_allclose(means[n], smoothed, rtol=0, atol=1e-6)
        std = np.sqrt(np.diagonal(spreads, axis1=1, axis2=2))
        got = np.sqrt(np.diagonal(covariances[n], axis1=1, axis2=2))
        np.testing.assert_allclose(got, std, rtol=1e-6)


def evidences(model: SGLMM, y, valid, index=None) -> list[float]:
    """Exact log evidence of every pixel given the known abundances, by dense algebra."""
    abundances, parts = exact_parts(model, index)
    return [
        reference.variability_evidence(y[n].numpy(), valid[n], abundances[n], **parts)[2]
        for n in range(len(y))
    ]


@pytest.mark.parametrize("chain", CHAINS)
def test_one_draw_of_the_elbo_is_the_exact_evidence(chain):
    model, (y, valid) = build(known(), chain), data()
    guide = ConjugateGuide(model).double()
    expected = sum(evidences(model, y, valid))
    for _ in range(3):
        elbo = -Trace_ELBO().loss(model, guide, y, valid, index=torch.arange(PIXELS), features={})
        assert elbo == pytest.approx(expected, rel=1e-9)


def test_both_reference_smoothers_agree():
    model, (y, valid) = build(known(), "autoregressive"), data()
    abundances, parts = exact_parts(model)
    coefficient, step_scale, loc, scale = parts["chain"]
    for n in range(PIXELS):
        dense = reference.variability_evidence(y[n].numpy(), valid[n], abundances[n], **parts)
        matrices, residuals = reference.variability_regression(
            y[n].numpy(), valid[n], abundances[n], parts["endmembers"], parts["components"]
        )
        steps = np.tile(step_scale, (DATES, 1))
        filtered = reference.rts_smoother(
            coefficient, steps, loc, scale, matrices, residuals, parts["noise_scale"]
        )
        np.testing.assert_allclose(filtered[0], dense[0], atol=1e-9)
        for t in range(DATES + 1):
            np.testing.assert_allclose(filtered[1][t], dense[1][t, :, t], atol=1e-9)
        assert filtered[2] == pytest.approx(dense[2], rel=1e-9)


ELBOS = {
    "trace": lambda: Trace_ELBO(),
    "graph": lambda: TraceGraph_ELBO(),
    "mean field": lambda: TraceMeanField_ELBO(),
    "enum": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "renyi": lambda: RenyiELBO(alpha=0.5, num_particles=2),
    "particles": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "vectorized renyi": lambda: RenyiELBO(
        alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
}


# Pyro warns that analytic divergences are not known for these distributions.
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pyro")
@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_elbo_of_pyro_gives_the_scaled_evidence(elbo, chain):
    model, (y, valid) = build(known(), chain), data()
    guide = ConjugateGuide(model).double()
    index = torch.tensor([2, 0, 1])
    arguments = (model, guide, y[index], valid[index])
    got = -ELBOS[elbo]().loss(*arguments, index=index, size=12, features={})
    expected = 12 / 3 * sum(evidences(model, y[index], valid[index], index))
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("elbo", ["trace", "particles", "graph"])
@pytest.mark.parametrize("kind", [FreeEndmembers, FixedEndmembers])
@pytest.mark.parametrize("chain", CHAINS)
def test_elbo_gradients_are_those_of_the_exact_evidence(chain, kind, elbo):
    model, (y, valid) = build(known(), chain, kind), data()
    guide = ConjugateGuide(model).double()
    loss = ELBOS[elbo]()
    loss.loss_and_grads(model, guide, y, valid, index=torch.arange(PIXELS), features={})
    checked = 0
    for name, parameter in model.named_parameters():
        start = parameter.detach().clone()

        def evidence(values, parameter=parameter):
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(values))
            return sum(evidences(model, y, valid))

        expected = reference.central_differences(evidence, start.numpy(), 1e-5)
        with torch.no_grad():
            parameter.copy_(start)
        # The differences' own error: h^2 f''' / 6 and eps |f| / h, f up to 1e4.
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(
            -parameter.grad, expected, rtol=1e-5, atol=1e-6 * scale, err_msg=name
        )
        checked += parameter.numel()
    assert checked >= 1 + (BANDS * MATERIALS if kind is FreeEndmembers else 0)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("chain", CHAINS)
def test_every_variability_site_has_the_dense_conditional_density(chain, own):
    model, (y, valid) = build(known(), chain), data()
    guide = ConjugateGuide(model).double()
    keywords = {"index": torch.arange(PIXELS), "features": {}}
    trace = guide_trace(guide, y, valid, **keywords)
    if not own:
        latents = {k: v + 0.1 for k, v in latents_of(trace).items() if k.startswith("psi")}
        trace = conditioned(guide, latents, y, valid, **keywords)
    psi = np.stack([trace.nodes[f"psi_{t}"]["value"].numpy() for t in range(DATES + 1)], axis=1)
    expected = exact_log_q(model, y, valid, exact_parts(model)[0], psi)
    for t in range(DATES + 1):
        got = trace.nodes[f"psi_{t}"]["log_prob"].detach()
        np.testing.assert_allclose(got, expected[t], rtol=1e-9, atol=1e-8)


def test_densities_at_given_values_have_the_gradient_of_each_site():
    model, (y, valid) = build(known(), "autoregressive"), data()
    guide = ConjugateGuide(model).double()
    latents = {f"psi_{t}": torch.randn(PIXELS, SIZE).double() for t in range(DATES + 1)}
    keywords = {"index": torch.arange(PIXELS), "features": {}}
    trace = conditioned(guide, latents, y, valid, **keywords)
    parameter = model.noise.log_scale
    start = parameter.detach().clone()
    abundances, _ = exact_parts(model)
    psi = np.stack([latents[f"psi_{t}"].numpy() for t in range(DATES + 1)], axis=1)
    step, shifted = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.copy_(start + sign * step)
        shifted.append(exact_log_q(model, y, valid, abundances, psi).sum(1))
    with torch.no_grad():
        parameter.copy_(start)
    expected = (shifted[0] - shifted[1]) / (2 * step)
    for t in range(DATES + 1):
        density = trace.nodes[f"psi_{t}"]["log_prob"].sum()
        (got,) = torch.autograd.grad(density, parameter, retain_graph=True)
        assert got.item() == pytest.approx(expected[t], rel=1e-5, abs=1e-4)


def test_known_abundances_need_no_preparation():
    model, (y, valid) = build(known(), "independent"), data()
    guide = ConjugateGuide(model).double()
    assert guide.prepare(y, valid) == {}
    assert guide.draw(y, valid, {}, None) is None
