"""`MeanFieldGuide`, the encoders that guides take, and full covariances."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import reference
import torch
from pyro import poutine
from recipe_cases import rebuilt
from scipy import special

from pyro_unmix import SGLMM
from pyro_unmix.bases import DCT, LearnedBasis
from pyro_unmix.guides import GRU, BiLSTMGuide, Encoder, MeanFieldGuide, Transformer
from pyro_unmix.guides.gaussians import Spreads, num_below
from pyro_unmix.priors import FixedEndmembers, Independent, KnownAbundances, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 6, 3, 2, 4, 3
DRAWS = 20_000
SIZE = MATERIALS * (COMPONENTS + 1)

ENCODERS = {"lstm": lambda: None, "gru": GRU, "transformer": lambda: Transformer(width=8)}
GUIDES = {"bilstm": BiLSTMGuide, "mean field": MeanFieldGuide}


def perturb(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def model() -> SGLMM:
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))
    return SGLMM(spectra, basis=DCT(COMPONENTS, scale=0.6)).double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 2] = valid[2, 0] = False
    return torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS))), valid


def build(kind: str, **keywords):
    guide = GUIDES[kind](model(), **keywords).double()
    perturb(guide)
    return guide


def sites(guide, y, valid, latents=None) -> dict[str, dict]:
    program = guide if latents is None else poutine.condition(guide, data=latents)
    trace = poutine.trace(program).get_trace(y, valid)
    trace.compute_log_prob()
    return {k: s for k, s in trace.nodes.items() if k.startswith(("c_", "psi_"))}


def latents() -> dict[str, torch.Tensor]:
    sizes = {"c": MATERIALS, "psi": MATERIALS * COMPONENTS}
    return {
        f"{name}_{t}": torch.randn(PIXELS, size).double()
        for name, size in sizes.items()
        for t in range(DATES + 1)
    }


# Encoders


def built(encoder: Encoder, inputs: int = 5, outputs: int = 4) -> Encoder:
    encoder.setup(inputs, outputs)
    encoder.double()
    perturb(encoder)
    return encoder


def gru(x, weights, suffix: str = ""):
    """Hidden states (T, H) of one direction; torch's order of the gates is reset, update, new."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, b, d = (weights[f"{name}_l0{suffix}"] for name in names)
    hidden, states = np.zeros(u.shape[1]), []
    for value in x[::-1] if suffix else x:
        ours, theirs = np.split(w @ value + b, 3), np.split(u @ hidden + d, 3)
        reset = special.expit(ours[0] + theirs[0])
        update = special.expit(ours[1] + theirs[1])
        new = np.tanh(ours[2] + reset * theirs[2])
        hidden = (1 - update) * new + update * hidden
        states.append(hidden)
    return np.stack(states[::-1] if suffix else states)


def test_gru_is_the_mean_of_both_directions():
    encoder = built(GRU())
    weights = {k: v.detach().numpy() for k, v in encoder.gru.named_parameters()}
    x = np.random.default_rng(2).normal(size=(2, DATES, 5))
    expected = [0.5 * (gru(row, weights) + gru(row, weights, "_reverse")) for row in x]
    got = encoder(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(got, expected, atol=1e-12)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def attention(x, w, num_heads: int):
    """Scaled dot-product attention of one sequence (T, D)."""
    q, k, v = np.split(x @ w["in_proj_weight"].T + w["in_proj_bias"], 3, axis=-1)
    heads = []
    for qh, kh, vh in zip(*(np.split(y, num_heads, axis=-1) for y in (q, k, v)), strict=True):
        scores = special.softmax(qh @ kh.T / math.sqrt(qh.shape[-1]), axis=-1)
        heads.append(scores @ vh)
    return np.concatenate(heads, -1) @ w["out_proj.weight"].T + w["out_proj.bias"]


def transformer(x, w, num_layers: int, num_heads: int):
    width = len(w["enter.bias"])
    rates = 1e4 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(len(x))[:, None] * rates
    hidden = x @ w["enter.weight"].T + w["enter.bias"]
    hidden = hidden + np.concatenate([np.sin(angles), np.cos(angles)], -1)
    for i in range(num_layers):
        of = {k.removeprefix(f"layers.{i}."): v for k, v in w.items() if f"layers.{i}." in k}
        inner = {k.removeprefix("self_attn."): v for k, v in of.items()}
        seen = normalised(hidden) * of["norm1.weight"] + of["norm1.bias"]
        hidden = hidden + attention(seen, inner, num_heads)
        seen = normalised(hidden) * of["norm2.weight"] + of["norm2.bias"]
        seen = np.maximum(seen @ of["linear1.weight"].T + of["linear1.bias"], 0)
        hidden = hidden + seen @ of["linear2.weight"].T + of["linear2.bias"]
    return hidden @ w["leave.weight"].T + w["leave.bias"]


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_transformer_is_the_written_out_network(num_layers, training):
    encoder = built(Transformer(num_layers, num_heads=2, width=8)).train(training)
    weights = {k: v.detach().numpy() for k, v in encoder.named_parameters()}
    x = np.random.default_rng(3).normal(size=(2, DATES, 5))
    expected = [transformer(row, weights, num_layers, 2) for row in x]
    with torch.no_grad():
        got = encoder(torch.from_numpy(x))
    np.testing.assert_allclose(got, expected, atol=1e-11)


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_guides_take_a_copy_of_an_encoder_and_are_rebuilt_with_it(kind, name):
    given = ENCODERS[name]()
    before = torch.get_rng_state()
    guide = GUIDES[kind](model(), encoder=given)
    assert torch.equal(before, torch.get_rng_state())
    assert not list(given.parameters())
    assert type(guide.encoder) is type(given)
    again = rebuilt(guide, model=guide.model)
    for ours, theirs in zip(guide.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other = GUIDES[kind](model(), encoder=given, seed=1)
    pairs = zip(guide.encoder.parameters(), other.encoder.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Transformer(0), ValueError, "num_layers must be at least 1"),
        (lambda: Transformer(num_heads=3), ValueError, "multiple of 2 num_heads = 6, got 32"),
        (
            lambda: MeanFieldGuide(model(), encoder="gru"),
            TypeError,
            r"encoder must be an Encoder object such as GRU\(\) or Transformer\(\), got 'gru'",
        ),
        (lambda: BiLSTMGuide(model(), encoder=GRU), TypeError, "encoder must be an Encoder object"),
        (lambda: Encoder().setup(1, 1), NotImplementedError, "must implement setup"),
        (lambda: Encoder()(torch.ones(1, 1, 1)), NotImplementedError, "must implement forward"),
        (lambda: MeanFieldGuide(SGLMM), TypeError, "is built from its model"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


# Spreads


@pytest.mark.parametrize("full", [False, True])
def test_spreads_have_the_stated_covariance(full):
    rng = np.random.default_rng(4)
    log_scale = rng.normal(size=(2, DATES, 4))
    below = rng.normal(size=(2, DATES, num_below(4))) if full else None
    spreads = Spreads(*(None if x is None else torch.from_numpy(x) for x in (log_scale, below)))
    mean, x = rng.normal(size=(2, 2, 4))
    for t in range(DATES):
        got = spreads.around(torch.from_numpy(mean), t).log_prob(torch.from_numpy(x))
        for n in range(2):
            unit = np.eye(4)
            if below is not None:
                unit[np.tril_indices(4, -1)] = below[n, t]
            factor = unit @ np.diag(np.exp(-log_scale[n, t]))
            covariance = np.linalg.inv(factor @ factor.T)
            expected = reference.log_gaussian(x[n], mean[n], covariance)
            assert float(got[n]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", GUIDES)
def test_a_full_covariance_starts_diagonal_and_is_learned(kind):
    values = latents()
    y, valid = data()
    diagonal, full = (
        GUIDES[kind](model(), full_covariance=flag).double() for flag in (False, True)
    )
    pairs = sites(diagonal, y, valid, values), sites(full, y, valid, values)
    for name in values:
        torch.testing.assert_close(pairs[0][name]["log_prob"], pairs[1][name]["log_prob"])
    total = sum(site["log_prob"].sum() for site in pairs[1].values())
    total.backward()
    assert (full.below.grad.abs() > 0).all()


# The mean-field guide


@pytest.mark.parametrize("name", ENCODERS)
def test_mean_field_has_the_written_out_densities(name):
    guide = build("mean field", encoder=ENCODERS[name]())
    y, valid = data()
    values = latents()
    got = sites(guide, y, valid, values)
    seen = (y * valid.unsqueeze(-1)).numpy()
    with torch.no_grad():
        hidden = guide.encoder(torch.from_numpy(seen)).numpy()
    value = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    m0 = guide.model.reference.value.detach().numpy()
    solved = np.linalg.lstsq(m0, seen.reshape(-1, BANDS).T, rcond=None)[0]
    solved = solved.T.reshape(PIXELS, DATES, MATERIALS)
    start = np.log(solved.clip(0) + 0.01)
    start -= start.mean(-1, keepdims=True)
    start[1, 2], start[2, 0] = start[1, :2].mean(0), start[2, 1:].mean(0)
    loc = hidden @ value["shift"].T
    loc[..., :MATERIALS] += start
    scale = np.exp(value["log_scale"] + hidden @ value["spread"].T)
    for t in range(DATES + 1):
        for site, part in (("c", slice(MATERIALS)), ("psi", slice(MATERIALS, None))):
            x = values[f"{site}_{t}"].numpy()
            if t:
                # the regression has a ridge of 1e-6
                expected = reference.log_normal(x, loc[:, t - 1, part], scale[:, t - 1, part])
                tolerance = {"rtol": 1e-3, "atol": 1e-3}
            else:
                spread = np.exp(value["log_initial_scale"][part])
                expected = reference.log_normal(x, value["initial_loc"][part], spread)
                tolerance = {"rtol": 1e-10, "atol": 0.0}
            found = got[f"{site}_{t}"]["log_prob"].detach().numpy()
            np.testing.assert_allclose(found, expected, **tolerance)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("kind", GUIDES)
def test_what_is_missing_is_not_looked_at_and_pixels_are_independent(kind, name):
    guide = build(kind, encoder=ENCODERS[name](), full_covariance=True)
    y, valid = data()
    values = latents()
    base = sites(guide, y, valid, values)
    changed = torch.where(valid.unsqueeze(-1), y, 123.0)
    other = sites(guide, changed, valid, values)
    part = [2, 0]
    few = {k: v[part] for k, v in values.items()}
    alone = sites(guide, y[part], valid[part], few)
    for site, node in base.items():
        torch.testing.assert_close(node["log_prob"], other[site]["log_prob"])
        expected = node["log_prob"].expand(PIXELS)[part]
        torch.testing.assert_close(alone[site]["log_prob"].expand(2), expected)


@pytest.mark.parametrize("kind", GUIDES)
def test_known_abundances_are_taken_as_they_are(kind):
    a = np.random.default_rng(5).dirichlet(np.ones(MATERIALS), size=(PIXELS, DATES))
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))
    known = KnownAbundances(a)
    program = SGLMM(spectra, basis=DCT(COMPONENTS), abundance_prior=known).double()
    guide = GUIDES[kind](program).double()
    y, valid = data()
    index = torch.tensor([3, 1])
    trace = poutine.trace(guide).get_trace(y[index], valid[index], index=index, size=PIXELS)
    for t in range(1, DATES + 1):
        c = trace.nodes[f"c_{t}"]["value"].numpy()
        np.testing.assert_allclose(reference.softmax(c), a[index, t - 1], atol=1e-6)
    assert math.isfinite(trace.log_prob_sum().detach())


def linear_gaussian() -> tuple[SGLMM, np.ndarray]:
    """The first material alone, its two components alike; and W with ``y = m0 + W psi + noise``."""
    rng = np.random.default_rng(6)
    m0 = rng.uniform(0.3, 0.6, size=(BANDS, 2))
    alone = KnownAbundances(np.tile([1.0, 0.0], (1, 1, 1)))
    first = rng.normal(size=BANDS)
    w = 0.1 * np.stack([first, first + 0.5 * rng.normal(size=BANDS)], axis=1)
    program = SGLMM(
        FixedEndmembers(m0),
        basis=LearnedBasis(np.repeat(w[:, :, None], 2, axis=2)),
        abundance_prior=alone,
        variability_prior=Independent(1.0, learn=False),
        noise=WhiteNoise(0.1, learn=False),
    )
    return program.double(), w


def trained_gap(full: bool) -> float:
    """Evidence minus ELBO of one pixel at one date after training, in nats."""
    program, w = linear_gaussian()
    y, valid = program.sample_sequence(1, 1, seed=3)["pixels"], torch.ones(1, 1, dtype=torch.bool)
    guide = MeanFieldGuide(program, full_covariance=full).double()
    parameters = [p for p in [*guide.parameters(), *program.parameters()] if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.96)

    def loss(draws: int) -> torch.Tensor:
        elbo = pyro.infer.Trace_ELBO(draws, vectorize_particles=True, max_plate_nesting=1)
        return elbo.differentiable_loss(program, guide, y, valid)

    for _ in range(100):
        adam.zero_grad()
        loss(16).backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        elbo = -float(loss(DRAWS))
    covariance = w @ w.T + 0.01 * np.eye(BANDS)
    m0 = program.reference.value[:, 0].numpy()
    return reference.log_gaussian(y[0, 0].numpy(), m0, covariance) - elbo


def test_full_covariance_reaches_what_a_diagonal_one_cannot():
    # The best diagonal Gaussian misses one of precision Lambda by
    # KL = (sum log Lambda_ii - log det Lambda) / 2 (Bishop, PRML, sec. 10.1.2).
    _, w = linear_gaussian()
    precision = w.T @ w / 0.1**2 + np.eye(2)
    least = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert least > 0.2
    diagonal, full = trained_gap(False), trained_gap(True)
    # log p - log q of a draw has a std of about one where q is not the posterior.
    error = 4 / math.sqrt(DRAWS)
    assert diagonal > least - error
    assert diagonal < 1.2 * least
    assert -error < full < 0.2 * least
