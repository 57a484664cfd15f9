from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pytest
import reference
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from scipy import integrate, special, stats

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide
from pyro_unmix.bases.linear import DCT
from pyro_unmix.guides import Guide
from pyro_unmix.guides.conjugate import guide as conjugate
from pyro_unmix.guides.conjugate.smoother import conditionals, smooth
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    FreeEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)

BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 7, 3, 2, 4, 4
SIZE = MATERIALS * COMPONENTS

WALKS = {"softmax": SoftmaxWalk, "jump": JumpWalk}
CHAINS = {
    "random walk": lambda: RandomWalk(0.3, learn=True, initial_scale=0.8),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}
MODELS = list(itertools.product(WALKS, CHAINS))


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def perturb(module: torch.nn.Module, scale: float = 0.2) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def build(walk, chain, kind=FreeEndmembers, noise_scale: float = 0.1) -> SGLMM:
    """A small model in float64 with all its parameters away from their start."""
    model = SGLMM(
        kind(spectra()),
        basis=DCT(COMPONENTS, scale=0.6),
        abundance_prior=walk if isinstance(walk, KnownAbundances) else WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=WhiteNoise(noise_scale),
    ).double()
    perturb(model)
    return model


def known() -> KnownAbundances:
    rng = np.random.default_rng(5)
    return KnownAbundances(rng.dirichlet(np.ones(MATERIALS), size=(PIXELS, DATES)))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels with no, one, the first, and all but one date missing."""
    rng = np.random.default_rng(1)
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 2] = valid[2, 0] = False
    valid[3, [0, 1, 3]] = False
    y = torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS)))
    return y * valid.unsqueeze(-1), valid


def numbers(*values: torch.Tensor) -> list[np.ndarray]:
    return [value.detach().numpy() for value in values]


def latents_of(trace: poutine.Trace) -> dict[str, torch.Tensor]:
    sites = trace.nodes.items()
    return {k: s["value"].detach() for k, s in sites if k.startswith(("c_", "psi_"))}


def guide_trace(guide, *arguments, **keywords) -> poutine.Trace:
    trace = poutine.trace(guide).get_trace(*arguments, **keywords)
    trace.compute_log_prob()
    return trace


def conditioned(program, latents, *arguments, **keywords) -> poutine.Trace:
    return guide_trace(poutine.condition(program, data=latents), *arguments, **keywords)


def site_densities(trace: poutine.Trace) -> dict[str, np.ndarray]:
    return {
        name: site["log_prob"].detach().numpy()
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name != "pixels"
    }


# ------------------------------------------------------------- smoothing of softmax states


def random_sites(batch: int, num_dates: int, size: int, seed: int = 0):
    """Curvatures that are singular along 1, as those of a softmax, and pulls in their range."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(batch, num_dates, size, size))
    root -= root.mean(-2, keepdims=True)
    curvature = root @ np.swapaxes(root, -1, -2)
    pull = np.einsum("btij,btj->bti", curvature, rng.normal(size=(batch, num_dates, size)))
    curvature[1, 1] = pull[1, 1] = 0  # a missing date
    return curvature, pull, rng.uniform(0.1, 2, size=(batch, num_dates))


def dense_posterior(curvature, pull, step_scale, loc, scale):
    """One pixel's posterior under a random walk with Gaussian sites, from joint precisions."""
    num_dates, size = pull.shape
    steps = np.repeat(step_scale[:, None], size, axis=1)
    mean, covariance = reference.chain_moments(1.0, steps, loc, scale)
    total = (num_dates + 1) * size
    prior = np.linalg.inv(covariance.reshape(total, total))
    precision, vector = prior.copy(), prior @ mean.ravel()
    for t in range(num_dates):
        block = slice((t + 1) * size, (t + 2) * size)
        precision[block, block] += curvature[t]
        vector[block] += pull[t]
    covariance = np.linalg.inv(precision)
    shape = (num_dates + 1, size)
    return (covariance @ vector).reshape(shape), covariance.reshape(shape * 2)


def columns(curvature, pull, steps) -> tuple[torch.Tensor, ...]:
    """The same with pixels last and matrix axes first, and variances of the steps."""
    arrays = curvature.transpose(2, 3, 1, 0), pull.transpose(2, 1, 0), steps.T**2
    return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)


def test_smoother_agrees_with_dense_algebra():
    rng = np.random.default_rng(1)
    sites = random_sites(3, 4, MATERIALS)
    loc, scale = rng.normal(size=MATERIALS), rng.uniform(0.5, 2, size=MATERIALS)
    curvature, pull, variances = columns(*sites)
    precision = torch.from_numpy(scale**-2)
    given = conditionals(curvature, pull, variances, precision)
    means, covariances, squares = numbers(
        *(x.movedim(-1, 0) for x in smooth(given, variances, torch.from_numpy(loc), precision))
    )
    means, covariances = means.swapaxes(1, 2), covariances.transpose(0, 3, 1, 2)
    for n in range(3):
        mean, covariance = dense_posterior(*(x[n] for x in sites), loc, scale)
        np.testing.assert_allclose(means[n], mean, atol=1e-9)
        for t in range(5):
            np.testing.assert_allclose(covariances[n, t], covariance[t, :, t], atol=1e-9)
        for t in range(1, 5):
            spread = covariance[t, :, t] + covariance[t - 1, :, t - 1]
            spread = spread - 2 * covariance[t, :, t - 1]
            expected = (((mean[t] - mean[t - 1]) ** 2).sum() + np.trace(spread)) / MATERIALS
            assert squares[n, t - 1] == pytest.approx(expected, abs=1e-9)


def test_conditionals_hold_what_later_dates_say_about_a_state():
    curvature, pull, steps = random_sites(2, 4, MATERIALS, seed=2)
    precision = np.array([0.3, 1.0, 2.0, 0.7, 0.1])[:MATERIALS]
    found = conditionals(*columns(curvature, pull, steps), torch.from_numpy(precision))
    gains, first, vectors = numbers(*(x.movedim(-1, 0) for x in found))
    vectors = vectors.swapaxes(1, 2)
    information = np.zeros((2, 5, MATERIALS, MATERIALS))
    information[:, 0] = np.linalg.inv(first) - np.diag(precision)
    left = np.linalg.inv(gains.transpose(0, 3, 1, 2)) - np.eye(MATERIALS)
    information[:, 1:] = left / steps[..., None, None] ** 2
    eye = np.eye(MATERIALS)
    for n, t in itertools.product(range(2), range(5)):
        # Joint precision of x_t .. x_T with x_t flat, and the later ones eliminated.
        count = 5 - t
        total = np.zeros((count, MATERIALS, count, MATERIALS))
        vector = np.zeros((count, MATERIALS))
        for i in range(count):
            if t + i:
                total[i, :, i] += curvature[n, t + i - 1]
                vector[i] += pull[n, t + i - 1]
            if i:
                weight = eye / steps[n, t + i - 1] ** 2
                total[i, :, i] += weight
                total[i - 1, :, i - 1] += weight
                total[i, :, i - 1] -= weight
                total[i - 1, :, i] -= weight
        flat, size = total.reshape(count * MATERIALS, -1), MATERIALS
        rest = np.linalg.solve(
            flat[size:, size:], np.column_stack([flat[size:, :size], vector.ravel()[size:]])
        )
        expected = flat[:size, :size] - flat[:size, size:] @ rest[:, :-1]
        np.testing.assert_allclose(information[n, t], expected, atol=1e-9)
        np.testing.assert_allclose(
            vectors[n, t], vector[0] - flat[:size, size:] @ rest[:, -1], atol=1e-9
        )


# ------------------------------------------------------------- known abundances: all is exact


def exact_parts(model: SGLMM, index=None):
    """What the hand-written calculations need from the model, as numpy."""
    abundances = reference.softmax(model.abundance_prior.values[:, 1:].numpy())
    return abundances if index is None else abundances[index], parts_of(model)


def parts_of(model: SGLMM):
    endmembers, components = numbers(model.reference.value, model.components())
    return {
        "endmembers": endmembers,
        "components": components,
        "chain": tuple(numbers(*model.variability_prior.chain())),
        "noise_scale": model.noise.scale.item(),
    }


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


def exact_log_q(model: SGLMM, y, valid, abundances, psi) -> np.ndarray:
    """``log q(psi_t | psi_{t-1}, ...)`` (T+1, N) from each pixel's dense posterior."""
    parts, result = parts_of(model), []
    for n in range(len(y)):
        mean, covariance, _ = reference.variability_evidence(
            y[n].numpy(), valid[n], abundances[n], **parts
        )
        result.append(reference.log_conditionals(psi[n], mean, covariance))
    return np.stack(result, axis=1)


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


# ------------------------------------------------------------- the conjugate guide's abundances


def perturbed_guide(kind, model: SGLMM, **settings):
    guide = kind(model, **settings).double()
    perturb(guide, 0.1)
    return guide


def step_scales(model: SGLMM, path: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Std of the Gaussian that stands in for each transition, (N, T)."""
    value = {k: v.detach().numpy() for k, v in model.abundance_prior.state_dict().items()}
    if isinstance(model.abundance_prior, SoftmaxWalk):
        layers = [(value[f"weight_{i}"], value[f"bias_{i}"]) for i in range(2)]
        return reference.scale_network(path[:, :-1], layers)[..., 0]
    scales = np.exp([value["log_scale"], value["log_jump_scale"]])
    squared = mean_square * path.shape[-1]
    odds = value["jump_logit"] + path.shape[-1] * np.log(scales[0] / scales[1])
    odds = odds + 0.5 * squared * (scales[0] ** -2 - scales[1] ** -2)
    jump = special.expit(odds)
    return ((1 - jump) / scales[0] ** 2 + jump / scales[1] ** 2) ** -0.5


def conjugate_log_q(guide, y, valid, features, latents) -> dict[str, np.ndarray]:
    """``log q`` of every site, from dense Gaussian conditioning and a hand-written LSTM."""
    model = guide.model
    feature = {k: v.numpy() for k, v in features.items()}
    scales = step_scales(model, feature["path"], feature["mean_square"])
    loc, spread = numbers(
        model.abundance_prior.initial_loc, model.abundance_prior.log_initial_scale.exp()
    )
    c = np.stack([latents[f"c_{t}"].numpy() for t in range(DATES + 1)], axis=1)
    psi = np.stack([latents[f"psi_{t}"].numpy() for t in range(DATES + 1)], axis=1)
    result = {f"c_{t}": np.zeros(len(y)) for t in range(DATES + 1)}
    for n in range(len(y)):
        mean, covariance = dense_posterior(
            feature["curvature"][n], feature["pull"][n], scales[n], loc, spread
        )
        result["c_0"][n] = reference.log_gaussian(c[n, 0], mean[0], covariance[0, :, 0])
        shift, log_scale = correction(guide, y[n].numpy(), feature["path"][n, 1:])
        for t in range(1, DATES + 1):
            before = covariance[t - 1, :, t - 1]
            gain = np.linalg.solve(before, covariance[t - 1, :, t]).T
            conditional = covariance[t, :, t] - gain @ covariance[t - 1, :, t]
            factor = np.linalg.cholesky(np.linalg.inv(conditional))
            centre = mean[t] + gain @ (c[n, t - 1] - mean[t - 1])
            centre = centre + np.linalg.solve(factor.T, shift[t - 1])
            root = factor @ np.diag(np.exp(-log_scale[t - 1]))
            spreads = np.linalg.inv(root @ root.T)
            result[f"c_{t}"][n] = reference.log_gaussian(c[n, t], centre, spreads)
    densities = exact_log_q(model, y, valid, reference.softmax(c[:, 1:]), psi)
    return result | {f"psi_{t}": densities[t] for t in range(DATES + 1)}


def correction(guide, y: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not guide.correction:
        return np.zeros((2, DATES, MATERIALS))
    weights = {k: v.detach().numpy() for k, v in guide.encoder.lstm.named_parameters()}
    hidden = reference.bilstm(np.concatenate([y, path], axis=-1), weights)
    head = guide.head.detach().numpy()
    return tuple(np.split(hidden @ head.T, 2, axis=-1))


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
    monkeypatch.setattr(conjugate, "_CHUNK", 1)
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


# ------------------------------------------------------------- the paper's guide


def bilstm_log_q(guide: BiLSTMGuide, y, valid, latents) -> dict[str, np.ndarray]:
    """``log q`` of every site by eqs. (33)-(35) and (41)-(47), pixel by pixel."""
    value = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    endmembers, components = numbers(guide.model.reference.value, guide.model.components())
    weights = {k.removeprefix("encoder.lstm."): v for k, v in value.items() if "lstm" in k}
    loc, scale = value["initial_loc"], np.exp(value["log_initial_scale"])
    c = [latents[f"c_{t}"].numpy() for t in range(DATES + 1)]
    psi = [latents[f"psi_{t}"].numpy() for t in range(DATES + 1)]
    p = MATERIALS
    result = {
        "c_0": reference.log_normal(c[0], loc[:p], scale[:p]),
        "psi_0": reference.log_normal(psi[0], loc[p:], scale[p:]),
    }
    for t in range(1, DATES + 1):
        result[f"c_{t}"], result[f"psi_{t}"] = np.zeros((2, len(y)))
    for n in range(len(y)):
        hidden = reference.bilstm(y[n].numpy(), weights)
        for t in range(1, DATES + 1):
            h, before = hidden[t - 1], reference.softmax(c[t - 1][n])
            matrix = endmembers + np.einsum(
                "lkp,kp->lp", components, psi[t - 1][n].reshape(COMPONENTS, p)
            )
            gram = matrix.T @ matrix
            ridge = 1e-6 * np.trace(gram) / p
            v = np.linalg.solve(gram + ridge * np.eye(p), matrix.T @ y[n, t - 1].numpy())
            s = np.maximum(v, 0) + 1e-12
            u = 0.5 * np.abs(s / s.sum() - before).sum() if valid[n, t - 1] else 0.0
            keep, new = value["alpha"]
            mixed = keep * (1 - u) * before + new * u * (v + value["shift_c"] @ h)
            logs = np.log(np.maximum(mixed, 0) + 1e-8)
            result[f"c_{t}"][n] = reference.log_normal(
                c[t][n], logs - logs.mean(), np.exp(value["scale_c"] @ h)
            )
            result[f"psi_{t}"][n] = reference.log_normal(
                psi[t][n],
                value["beta"] * psi[t - 1][n] + value["shift_psi"] @ h,
                np.exp(value["scale_psi"] @ h),
            )
    return result


@pytest.mark.parametrize("chain", CHAINS)
def test_bilstm_guide_has_the_hand_written_density(chain):
    model, (y, valid) = build("softmax", chain), data()
    guide = perturbed_guide(BiLSTMGuide, model)
    trace = guide_trace(guide, y, valid)
    expected = bilstm_log_q(guide, y, valid, latents_of(trace))
    got = site_densities(trace)
    assert set(got) == set(expected)
    for name, density in expected.items():
        np.testing.assert_allclose(got[name], density, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("bands", "materials", "components"), [(12, 3, 4), (8, 2, 1)])
def test_bilstm_guide_has_the_parameter_count_of_table_1(bands, materials, components):
    matrix = np.random.default_rng(0).uniform(0.1, 0.9, size=(bands, materials))
    guide = BiLSTMGuide(SGLMM(matrix, basis=DCT(components)))
    p, k = materials, components
    hidden = (k + 1) * p
    table = (
        8 * hidden * (hidden + bands + 1)  # both LSTMs
        + 3  # alpha_1, alpha_2, beta
        + 2 * p**2 * (k + 1)  # W_c, V_c
        + 2 * k * p**2 * (k + 1)  # W_psi, V_psi
        + 2 * hidden  # zeta, xi
    )
    # torch has a second bias per gate, in both directions.
    assert sum(x.numel() for x in guide.parameters()) == table + 8 * hidden


def test_bilstm_guide_starts_as_in_section_5c():
    model = SGLMM(spectra(), basis=DCT(COMPONENTS))
    guide = BiLSTMGuide(model)
    start = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    assert not start["shift_c"].any()
    assert not start["shift_psi"].any()
    np.testing.assert_array_equal(start["alpha"], [1, 1])
    assert start["beta"] == 1
    assert not start["initial_loc"].any()
    assert not start["log_initial_scale"].any()
    hidden = MATERIALS + SIZE
    for name, value in start.items():
        if "bias" in name:
            assert not value.any(), name
    # Glorot per gate: uniform within sqrt(6 / (rows + columns)), and close to both ends.
    matrices = [("scale_c", 1), ("scale_psi", 1)]
    matrices += [(k, 4) for k in start if "lstm.weight" in k]
    assert len(matrices) == 6
    for name, gates in matrices:
        rows, columns = start[name].shape
        assert rows % gates == 0
        bound = math.sqrt(6 / (rows // gates + columns))
        largest = np.abs(start[name]).max()
        # The largest of n uniform numbers falls short of its bound by 5 / n or less (e^-5).
        assert bound * (1 - 5 / start[name].size) <= largest <= bound, name
    assert start["encoder.lstm.weight_ih_l0"].shape == (4 * hidden, BANDS)


def test_bilstm_guide_carries_abundances_over_missing_dates():
    model = build("softmax", "random walk")
    guide = BiLSTMGuide(model).double()
    y, valid = data()
    trace = guide_trace(guide, y, torch.zeros_like(valid))
    for t in range(1, DATES + 1):
        before = reference.softmax(trace.nodes[f"c_{t - 1}"]["value"].detach().numpy())
        logs = np.log(before + 1e-8)
        got = trace.nodes[f"c_{t}"]["fn"].mean.detach()
        np.testing.assert_allclose(got, logs - logs.mean(-1, keepdims=True), rtol=1e-9, atol=1e-9)


def test_bilstm_guide_takes_another_change_detector():
    model, (y, valid) = build("softmax", "random walk"), data()
    seen = []

    def always(regression, previous):
        seen.append((regression.shape, previous.shape))
        return torch.ones_like(previous[..., 0])

    guide = BiLSTMGuide(model, change_detector=always).double()
    trace = guide_trace(guide, y, valid)
    assert seen == [((PIXELS, MATERIALS), (PIXELS, MATERIALS))] * DATES
    # With u = 1 and W = 0 the mean is pi^-1 of the regression alone.
    endmembers, components = numbers(model.reference.value, model.components())
    psi = trace.nodes["psi_0"]["value"].detach().numpy()[0].reshape(COMPONENTS, MATERIALS)
    matrix = endmembers + np.einsum("lkp,kp->lp", components, psi)
    gram = matrix.T @ matrix
    ridge = 1e-6 * np.trace(gram) / MATERIALS * np.eye(MATERIALS)
    v = np.linalg.solve(gram + ridge, matrix.T @ y[0, 0].numpy())
    logs = np.log(np.maximum(v, 0) + 1e-8)
    got = trace.nodes["c_1"]["fn"].mean[0].detach()
    np.testing.assert_allclose(got, logs - logs.mean(), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------- both guides

GUIDES = {"bilstm": BiLSTMGuide, "conjugate": ConjugateGuide}


def hand_written_log_q(guide, y, valid, features, latents) -> dict[str, np.ndarray]:
    if isinstance(guide, BiLSTMGuide):
        return bilstm_log_q(guide, y, valid, latents)
    return conjugate_log_q(guide, y, valid, features, latents)


def log_p(model: SGLMM, latents, y, valid) -> float:
    """``log p(y, c, psi)``, whose sites are checked one by one in test_model."""
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


# ------------------------------------------------------------- against the exact posterior


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
