"""Families in place of the Gaussians of the abundances, and the guides that take one."""

from __future__ import annotations

import copy

import numpy as np
import pyro
import pytest
import reference
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import linalg, optimize, special, stats
from test_product import CHOICES, CUBES, DATES, NAMES, SIDE, SPECTRA, check_gradients, check_saving

from pyro_unmix import SGLMM, Unmixing, fit
from pyro_unmix.bases import DCT, LearnedBasis
from pyro_unmix.guides import (
    ConjugateGuide,
    CornerMixture,
    CornerStretch,
    Family,
    MeanFieldGuide,
    ReshapedGuide,
    SplineFlow,
    Transformer,
)
from pyro_unmix.guides.flows import Splines
from pyro_unmix.guides.mixtures import NormalMixture
from pyro_unmix.ops.distributions import DiagonalNormal, PrecisionNormal
from pyro_unmix.posterior import PlugInMean, PosteriorMean
from pyro_unmix.posterior.read_out import iterate_draws
from pyro_unmix.priors import (
    ConstantWalk,
    FixedEndmembers,
    Independent,
    KnownAbundances,
    StudentNoise,
    WhiteNoise,
)

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

WHITE = {
    "mixture": CornerMixture,
    "three": lambda: CornerMixture(3),
    "flow": SplineFlow,
    "three layers": lambda: SplineFlow(3, num_bins=4, bound=3),
}
FAMILIES = {**WHITE, "stretch": CornerStretch}


def numbers(family: Family, size: int, *batch: int) -> torch.Tensor:
    """Parameters away from zero."""
    noise = torch.randn(*batch, family.num_parameters(size), dtype=torch.double)
    return family.start(size).double() + 0.5 * noise


def moments(parameters: torch.Tensor, size: int, num: int) -> list[tuple]:
    """Weight, mean and covariance of every component, by the recipe of the docstring."""
    parts = parameters.numpy().reshape(num, -1)
    weights = np.exp(parts[:, 0]) / np.exp(parts[:, 0]).sum()
    components = []
    for weight, row in zip(weights, parts, strict=True):
        mean, scale, below = (
            row[1 : size + 1],
            np.exp(row[size + 1 : 2 * size + 1]),
            row[2 * size + 1 :],
        )
        matrix = np.zeros((size, size))
        matrix[np.tril_indices(size, -1)] = below
        # x - m = B (x - m) + s z
        root = np.linalg.solve(np.eye(size) - matrix, np.diag(scale))
        components.append((weight, mean, root @ root.T))
    return components


# Mixtures


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_density_of_a_mixture(size, num):
    family = CornerMixture(num)
    parameters = numbers(family, size)
    x = torch.randn(5, size, dtype=torch.double)
    expected = np.log(
        sum(
            w * stats.multivariate_normal(m, s).pdf(x.numpy())
            for w, m, s in moments(parameters, size, num)
        )
    )
    white = family.white(parameters, size)
    np.testing.assert_allclose(white.expand((5,)).log_prob(x), expected, rtol=1e-10)
    parameters.requires_grad_()
    white = family.white(parameters.expand(5, -1), size)
    drawn = white.rsample()
    again = white.log_prob(drawn.clone())  # not of the draw that it remembers
    torch.testing.assert_close(white.log_prob(drawn), again, rtol=1e-10, atol=1e-10)


def test_draws_of_a_mixture_have_its_moments_and_its_distribution():
    size, num, count = 3, 3, 200_000
    family = CornerMixture(num)
    parameters = numbers(family, size)
    white = family.white(parameters, size)
    draws = white.from_noise(torch.randn(count, size, dtype=torch.double)).numpy()
    components = moments(parameters, size, num)
    mean = sum(w * m for w, m, _ in components)
    np.testing.assert_allclose(white.mean, mean, rtol=1e-12)
    covariance = sum(w * (s + np.outer(m - mean, m - mean)) for w, m, s in components)
    spread = np.sqrt(np.diag(covariance) / count)
    assert (np.abs(draws.mean(0) - mean) < 5 * spread).all()
    np.testing.assert_allclose(
        np.cov(draws.T), covariance, atol=5 * np.sqrt(3 / count) * covariance.max()
    )
    for d in range(size):  # a coordinate of a mixture of Gaussians is such a mixture
        cdf = sum(
            w * stats.norm(m[d], np.sqrt(s[d, d])).cdf(np.sort(draws[:, d]))
            for w, m, s in components
        )
        distance = np.abs(cdf - (np.arange(count) + 0.5) / count).max()
        assert distance < 1.95 / np.sqrt(count)  # Kolmogorov's, p = 0.001
    half = torch.randn(4, size, dtype=torch.double)
    assert torch.equal(white.from_noise(half), white.from_noise(half.clone()))


def conditional_cdf(components: list[tuple], x: np.ndarray, d: int) -> float:
    """``P(X_d <= x_d | x_<d)`` of a mixture, with the Gaussians' conditionals by linear algebra."""
    total = cumulative = 0.0
    for weight, m, s in components:
        mean, variance = m[d], s[d, d]
        if d:
            gain = np.linalg.solve(s[:d, :d], s[:d, d])
            mean, variance = mean + gain @ (x[:d] - m[:d]), variance - gain @ s[:d, d]
            weight = weight * np.exp(reference.log_gaussian(x[:d], m[:d], s[:d, :d]))
        total += weight
        cumulative += weight * special.ndtr((x[d] - mean) / np.sqrt(variance))
    return cumulative / total


def test_gradients_of_a_draw_keep_its_conditional_quantiles():
    family, size, num = CornerMixture(2), 2, 2
    parameters = numbers(family, size).requires_grad_()
    drawn = family.white(parameters, size).from_noise(torch.randn(size, dtype=torch.double))
    plain, x = parameters.detach(), drawn.detach().numpy()
    quantiles = [conditional_cdf(moments(plain, size, num), x, d) for d in range(size)]

    def moved(values: torch.Tensor) -> np.ndarray:
        components, found = moments(values, size, num), x.copy()

        def gap(value: float, d: int) -> float:
            found[d] = value
            return conditional_cdf(components, found, d) - quantiles[d]

        for d in range(size):
            found[d] = optimize.brentq(gap, x[d] - 0.01, x[d] + 0.01, args=(d,), xtol=1e-13)
        return found

    jacobian = torch.stack(
        [torch.autograd.grad(drawn[d], parameters, retain_graph=True)[0] for d in range(size)]
    )
    for i, step in enumerate(1e-5 * torch.eye(len(plain), dtype=torch.double)):
        expected = (moved(plain + step) - moved(plain - step)) / 2e-5
        np.testing.assert_allclose(jacobian[:, i], expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_an_expectation():
    # E[(v'x)^2 + u'x] = sum_k w_k ((v'm_k)^2 + v'S_k v + u'm_k)
    size, num, count = 2, 2, 40_000
    family = CornerMixture(num)
    parameters = numbers(family, size)
    v, u = np.array([1.0, -0.7]), np.array([0.4, 0.9])

    def expectation(values: np.ndarray) -> float:
        parts = moments(torch.from_numpy(values), size, num)
        return sum(w * ((v @ m) ** 2 + v @ s @ v + u @ m) for w, m, s in parts)

    exact = optimize.approx_fprime(parameters.numpy(), expectation, 1e-6)
    many = parameters.expand(count, -1).clone().requires_grad_()
    x = family.white(many, size).rsample()
    value = (x @ torch.from_numpy(v)).square() + x @ torch.from_numpy(u)
    (gradients,) = torch.autograd.grad(value.sum(), many)
    error = gradients.std(0) / np.sqrt(count)
    assert (np.abs(gradients.mean(0).numpy() - exact) < 4.5 * error.numpy() + 1e-5).all()


def test_a_rare_and_distant_component_is_drawn_right_in_single_precision():
    # logits 0 and -7 (weight 9e-4), means 0 and 30, stds 1 and 0.1
    parameters = torch.tensor([0.0, 0.0, 0.0, -7.0, 30.0, float(np.log(0.1))], requires_grad=True)
    white = NormalMixture(parameters.expand(400_000, -1), 1, 2)
    x = white.rsample()
    rare = x.detach()[x.detach() > 15].numpy()
    expected = 400_000 / (1 + np.exp(7))
    assert abs(len(rare) - expected) < 5 * np.sqrt(expected)
    assert stats.kstest(rare, stats.norm(30, 0.1).cdf).pvalue > 1e-3
    white.log_prob(x).sum().backward()
    assert torch.isfinite(parameters.grad).all()


# Flows


@pytest.mark.parametrize("name", ["flow", "three layers"])
def test_density_of_a_flow_is_that_of_its_jacobian(name):
    family, size = FAMILIES[name](), 3
    parameters = numbers(family, size)
    white = family.white(parameters, size)
    for noise in torch.randn(4, size, dtype=torch.double) * 1.5:
        x = white.from_noise(noise)
        jacobian = torch.autograd.functional.jacobian(white.from_noise, noise).numpy()
        assert (jacobian != 0).all()  # every coordinate depends on all noise
        x = white.from_noise(noise)
        expected = stats.norm.logpdf(noise.numpy()).sum() - np.linalg.slogdet(jacobian)[1]
        assert float(white.log_prob(x)) == pytest.approx(expected, rel=1e-9)
        # of a value that was not drawn: by the inverse of the flow
        assert float(white.log_prob(x.clone())) == pytest.approx(expected, rel=1e-6)


def test_a_flow_is_a_distribution_and_its_mean_is_near():
    family = SplineFlow()
    white = family.white(0.7 * numbers(family, 1), 1)
    grid = torch.linspace(-40, 40, 20_001, dtype=torch.double).unsqueeze(-1)
    density = white.expand((20_001,)).log_prob(grid).exp()
    assert float(torch.trapezoid(density, dx=80 / 20_000)) == pytest.approx(1, abs=1e-4)
    mean = float(torch.trapezoid(density * grid[:, 0], dx=80 / 20_000))
    spread = np.sqrt(float(torch.trapezoid(density * (grid[:, 0] - mean) ** 2, dx=80 / 20_000)))
    assert abs(float(white.mean) - mean) < 4 * spread / np.sqrt(128)
    assert abs(mean) > 0.1 * spread


def test_splines_are_the_published_ones():
    # Durkan et al., eq. (4), bin by bin, for knots and slopes that the constraints lead to
    widths, heights, slopes = (torch.randn(1, n, dtype=torch.double) for n in (4, 4, 3))
    splines, bound = Splines(widths, heights, slopes, 2.0), 2.0

    def knots(logits):
        shares = 1e-3 + (1 - 4e-3) * special.softmax(logits.numpy()[0])
        return bound * (2 * np.concatenate([[0], np.cumsum(shares)]) - 1)

    x, y = knots(widths), knots(heights)
    offset = np.log(np.expm1(1 - 1e-3))
    ends = np.concatenate([[1], 1e-3 + np.log1p(np.exp(slopes.numpy()[0] + offset)), [1]])
    points = np.linspace(-2.5, 2.5, 201)
    expected = points.copy()
    for k in range(4):
        inside = (points > x[k]) & (points <= x[k + 1])
        xi = (points[inside] - x[k]) / (x[k + 1] - x[k])
        s = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
        above = (y[k + 1] - y[k]) * (s * xi**2 + ends[k] * xi * (1 - xi))
        below = s + (ends[k + 1] + ends[k] - 2 * s) * xi * (1 - xi)
        expected[inside] = y[k] + above / below
    found, log_slopes = splines.forwards(torch.from_numpy(points)[:, None])
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-12)
    back, same = splines.backwards(found)
    np.testing.assert_allclose(back[:, 0], points, atol=1e-10)
    torch.testing.assert_close(same, log_slopes, rtol=1e-8, atol=1e-10)


# Stretches


def gaussian(diagonal: bool, size: int = 3) -> tuple:
    """A Gaussian, its mean, and R with ``R R'`` its covariance and ``loc + R noise`` its draws."""
    rng = np.random.default_rng(1)
    loc = rng.normal(size=size)
    if diagonal:
        scale = rng.uniform(0.5, 2, size=size)
        return DiagonalNormal(torch.from_numpy(loc), torch.from_numpy(scale)), loc, np.diag(scale)
    tril = np.tril(rng.normal(size=(size, size)))
    np.fill_diagonal(tril, rng.uniform(0.5, 2, size=size))
    base = PrecisionNormal(torch.from_numpy(loc), torch.from_numpy(tril))
    return base, loc, np.linalg.inv(tril.T)


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_stretch_is_the_written_out_map_and_density(diagonal):
    base, loc, root = gaussian(diagonal)
    family = CornerStretch()
    parameters = numbers(family, 3)
    coefficients = parameters.numpy().reshape(6, 4)
    means = loc - loc.mean()
    centring = np.eye(3) - 1 / 3
    stds = np.sqrt(np.diag(centring @ root @ root.T @ centring))

    def written_out(noise: np.ndarray) -> np.ndarray:
        z = loc + root @ noise
        v = []
        for u, mean, std in zip(z - z.mean(), means, stds, strict=True):
            x, y = np.clip(mean, -8, 4) / 4, np.clip(np.log(std), -4, 2) / 2
            b, k, low, high = np.array([1, x, x * x, y, y * y, x * y]) @ coefficients
            low, high = np.exp(3 * np.tanh(low / 3)), np.exp(3 * np.tanh(high / 3))
            bent = (u - mean) / std - k
            bent = k + b + (high + low) / 2 * bent + (high - low) / 2 * np.sqrt(bent**2 + 1)
            v.append(mean + std * bent)
        return z.mean() + np.array(v) - np.mean(v)

    fn = family.around(base, parameters)
    for noise in torch.randn(5, 3, dtype=torch.double) * 2:
        value = fn.from_noise(noise)
        np.testing.assert_allclose(value, written_out(noise.numpy()), rtol=1e-10)
        jacobian = [
            reference.central_differences(lambda e, i=i: written_out(e)[i], noise.numpy(), 1e-5)
            for i in range(3)
        ]
        expected = stats.norm.logpdf(noise.numpy()).sum() - np.linalg.slogdet(jacobian)[1]
        assert float(fn.log_prob(value)) == pytest.approx(expected, rel=1e-7)
        # of a value that was not drawn: by the inverse
        assert float(fn.log_prob(value.clone())) == pytest.approx(expected, rel=1e-7)


def test_gradients_of_a_stretch_at_a_value_that_was_not_drawn():
    base, _, _ = gaussian(diagonal=False)
    family = CornerStretch()
    parameters, value = numbers(family, 3), torch.randn(3, dtype=torch.double)

    def log_prob(parameters, value):
        return family.around(base, parameters).log_prob(value)

    inputs = (parameters.requires_grad_(), value.requires_grad_())
    assert torch.autograd.gradcheck(log_prob, inputs, eps=1e-5, atol=1e-6)


# What all families share


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_of_zero_are_the_gaussian(name, diagonal):
    family = FAMILIES[name]()
    base, loc, root = gaussian(diagonal)
    fn = family.around(base, torch.zeros(family.num_parameters(3), dtype=torch.double))
    expected = stats.multivariate_normal(loc, root @ root.T)
    for value in torch.randn(4, 3, dtype=torch.double):
        assert float(fn.log_prob(value)) == pytest.approx(expected.logpdf(value.numpy()), rel=1e-9)
        drawn = fn.from_noise(value)
        expected_density = expected.logpdf(drawn.numpy())
        assert float(fn.log_prob(drawn)) == pytest.approx(expected_density, rel=1e-9)
    assert len(family.start(3)) == family.num_parameters(3)


@pytest.mark.parametrize("name", WHITE)
@pytest.mark.parametrize("diagonal", [True, False])
def test_density_around_a_gaussian(name, diagonal):
    family = WHITE[name]()
    base, loc, root = gaussian(diagonal)
    parameters = numbers(family, 3)
    fn, white = family.around(base, parameters), family.white(parameters, 3)
    noise = torch.randn(3, dtype=torch.double)
    x = white.from_noise(noise)
    value = fn.from_noise(noise)
    np.testing.assert_allclose(value, loc + root @ x.numpy(), rtol=1e-10)
    expected = float(white.log_prob(x.clone())) - np.linalg.slogdet(root)[1]
    assert float(fn.log_prob(value)) == pytest.approx(expected, rel=1e-8)
    assert float(fn.log_prob(value.clone())) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_and_means(name):
    family = FAMILIES[name]()
    base, _, _ = gaussian(diagonal=False)
    parameters = numbers(family, 3)
    fn = family.around(base, parameters)
    wide = family.around(base, parameters.expand(2, 3, -1))
    draws = wide.rsample((4000,))
    assert draws.shape == (4000, 2, 3, 3)
    assert fn.expand((2, 3)).rsample((5,)).shape == (5, 2, 3, 3)
    flat = draws.reshape(-1, 3)
    error = (
        flat.std(0) * (1 / 128 + 1 / len(flat)) ** 0.5
    )  # means of some families are of 128 draws
    assert (torch.abs(flat.mean(0) - fn.mean) < 4 * error).all()
    assert wide.mean.shape == (2, 3, 3)
    torch.testing.assert_close(wide.mean[1, 2], fn.mean)
    chosen = draws[0, 1, 2].clone()
    torch.testing.assert_close(fn.expand((2, 3)).log_prob(chosen)[0, 1], fn.log_prob(chosen))
    torch.testing.assert_close(wide.log_prob(chosen)[0, 1], fn.log_prob(chosen))


# The guides


def tiny(basis=None, **parts) -> SGLMM:
    return SGLMM(SPECTRA, basis=basis or DCT(2), **parts)


GUIDES = {
    "conjugate, stretch": ReshapedGuide,
    "conjugate, mixture": lambda m: ReshapedGuide(m, family=CornerMixture()),
    "conjugate, flow, transformer": lambda m: ReshapedGuide(
        m, family=SplineFlow(1, num_bins=3), encoder=Transformer(width=8)
    ),
    "mean field, stretch": lambda m: MeanFieldGuide(m, family=CornerStretch()),
    "mean field, mixture": lambda m: MeanFieldGuide(m, family=CornerMixture(3)),
    "mean field, flow": lambda m: MeanFieldGuide(m, family=SplineFlow(), full_covariance=True),
}
OTHERS = [name for name in NAMES if name != "guide"]
ROUNDS = max(len(CHOICES[name]) for name in OTHERS)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("kind", GUIDES)
def test_every_part_goes_with_every_new_guide(kind, number):
    chosen = {name: list(CHOICES[name])[number % len(CHOICES[name])] for name in OTHERS}
    if kind.startswith("conjugate") and chosen["noise"] in ("date", "student"):
        chosen["noise"] = "white"
    part = {name: CHOICES[name][choice] for name, choice in chosen.items()}
    model = tiny(
        part["basis"](),
        abundance_prior=part["walk"](initial=part["start"]()),
        variability_prior=part["chain"](),
        noise=part["noise"](),
        dates=part["dates"](),
    )
    result = fit(
        model, GUIDES[kind](model), CUBES, num_steps=1, progress=False, estimate=PosteriorMean(4)
    )
    assert np.isfinite(result.losses).all()
    assert np.isfinite(result.abundances).all()
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    check_saving(result.model, result.guide)
    check_gradients(result.model, result.guide)


def test_new_guides_meet_all_choices_but_noise_that_is_refused():
    assert ROUNDS == max(map(len, (CHOICES[name] for name in OTHERS)))
    with pytest.raises(ValueError, match="ReshapedGuide cannot serve noise that is not Gaussian"):
        ReshapedGuide(tiny(noise=StudentNoise()))


def trained(kind: str, **settings) -> Unmixing:
    model = tiny(abundance_prior=ConstantWalk())
    guide = GUIDES[kind](model)
    return fit(model, guide, CUBES, learning_rate=0.05, progress=False, seed=1, **settings)


FEW = ["conjugate, stretch", "mean field, flow"]


@pytest.mark.parametrize("kind", FEW)
def test_saved_loaded_and_resumed(kind, tmp_path):
    whole = trained(kind, num_steps=6)
    trained(kind, num_steps=4, checkpoint=tmp_path / "kept", checkpoint_every=2)
    resumed = trained(kind, num_steps=6, checkpoint=tmp_path / "kept", checkpoint_every=2)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.abundances, whole.abundances)
    again = Unmixing.load(whole.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.sample(5), whole.sample(5))
    np.testing.assert_array_equal(
        again.predict(CUBES).abundances.values, whole.predict(CUBES).abundances.values
    )


@pytest.mark.parametrize("kind", FEW)
def test_read_out_does_not_depend_on_the_other_pixels(kind):
    result = trained(kind, num_steps=4)
    draws = next(iterate_draws(result.model, result.guide, result.cubes, 16, 0))[1]["draws"]
    rows = slice(1, 3)
    few = next(iterate_draws(result.model, result.guide, result.cubes, 16, 0, rows=rows))[1][
        "draws"
    ]
    torch.testing.assert_close(few, draws[:, rows], rtol=1e-4, atol=1e-6)
    assert float(draws.std(0).min()) > 0
    mean = fit(
        result.model, result.guide, CUBES, num_steps=0, progress=False, estimate=PlugInMean(8)
    )
    assert np.isfinite(mean.abundances).all()


def traced(guide, y, valid, latents):
    trace = poutine.trace(poutine.condition(guide, data=latents)).get_trace(y, valid)
    trace.compute_log_prob()
    return {k: s["log_prob"] for k, s in trace.nodes.items() if k.startswith("c_")}


def perturbed(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def test_reshaped_guide_starts_as_the_conjugate_one_and_stays_so_without_data():
    model = tiny(abundance_prior=ConstantWalk()).double()
    y = torch.rand(3, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(3, DATES, dtype=torch.bool)
    valid[0, 1] = valid[1, 2] = False
    valid[2] = False
    size = SPECTRA.shape[1]
    latents = {f"c_{t}": torch.randn(3, size, dtype=torch.double) for t in range(DATES + 1)}
    expected = traced(ConjugateGuide(model, correction=False).double(), y, valid, latents)
    guide = ReshapedGuide(model, family=SplineFlow()).double()
    start = traced(guide, y, valid, latents)
    moved = traced(perturbed(guide), y, valid, latents)
    seen = torch.cat([valid.any(1, keepdim=True), valid], dim=1)
    for t in range(DATES + 1):
        torch.testing.assert_close(start[f"c_{t}"], expected[f"c_{t}"], rtol=1e-9, atol=1e-9)
        same = torch.isclose(moved[f"c_{t}"], expected[f"c_{t}"], rtol=1e-9, atol=1e-9)
        assert torch.equal(same, ~seen[:, t])


def test_reshaped_guide_looks_at_the_previous_state():
    model = tiny(abundance_prior=ConstantWalk()).double()
    guide = perturbed(ReshapedGuide(model, family=SplineFlow()).double())
    y = torch.rand(1, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(1, DATES, dtype=torch.bool)
    chain = guide._abundance_chain(y, valid, guide.prepare(y, valid))
    one, other = (chain(torch.full((1, 2), value).double(), 1).white.parameters for value in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_known_abundances_are_taken_as_they_are():
    a = np.random.default_rng(5).dirichlet(np.ones(2), size=(SIDE * SIDE, DATES))
    for kind in GUIDES:
        model = tiny(abundance_prior=KnownAbundances(a))
        result = fit(model, GUIDES[kind](model), CUBES, num_steps=1, progress=False)
        found = result.abundances.values.reshape(DATES, -1, 2).swapaxes(0, 1)
        np.testing.assert_allclose(found, a, atol=1e-5)


@pytest.mark.parametrize("kind", GUIDES)
def test_a_particle_has_the_density_that_it_has_alone(kind):
    model = tiny(abundance_prior=ConstantWalk()).double()
    guide = perturbed(GUIDES[kind](model).double())
    y = torch.rand(4, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(4, DATES, dtype=torch.bool)
    with pyro.plate("particles", 3, dim=-2):
        many = poutine.trace(guide).get_trace(y, valid)
    many.compute_log_prob()
    one = {f"c_{t}": many.nodes[f"c_{t}"]["value"][1].detach() for t in range(DATES + 1)}
    for name, log_prob in traced(guide, y, valid, one).items():
        together = many.nodes[name]["log_prob"].expand(3, 4)[1]
        torch.testing.assert_close(together, log_prob.expand(4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
def test_a_guide_takes_the_family_that_it_is_given(build):
    assert isinstance(ReshapedGuide(tiny()).family, CornerStretch)
    given = SplineFlow(3, num_bins=4)
    guide = build(tiny(), family=given)
    assert isinstance(guide.family, SplineFlow) and guide.family is not given
    assert guide.family.num_layers == 3
    assert guide.shape_start.shape == (given.num_parameters(2),)


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
@pytest.mark.parametrize("wrong", ["mixture", CornerMixture, 3])
def test_a_family_is_an_object(build, wrong):
    with pytest.raises(
        TypeError, match=r"family must be a Family object such as CornerStretch\(\)"
    ):
        build(tiny(), family=wrong)


def test_numbers_of_families_are_checked():
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        CornerMixture(0)
    with pytest.raises(ValueError, match="num_bins must be at least 2, got 1"):
        SplineFlow(num_bins=1)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        SplineFlow(0)
    with pytest.raises(ValueError, match=r"bound must lie in \(0, inf\), got 0"):
        SplineFlow(bound=0.0)
    for method, arguments in {
        "num_parameters": (2,),
        "white": (torch.zeros(3), 2),
    }.items():
        with pytest.raises(NotImplementedError, match=rf"Family must implement {method}\(\)"):
            getattr(Family(), method)(*arguments)


# Encoders that see the time


def test_transformer_positions_count_the_time():
    torch.manual_seed(3)
    encoder = Transformer(width=8)
    encoder.setup(5, 4)
    encoder.double()
    x, width = torch.randn(2, DATES, 5, dtype=torch.double), 8
    times = np.array([0.0, 0.4, 3.1])
    # positions written out, and added to what enters a network that adds those of 0, 1, 2
    angles = [
        t[:, None] * 1e4 ** (-np.arange(0, width, 2) / width) for t in (times, np.arange(3.0))
    ]
    there, even = (np.concatenate([np.sin(a), np.cos(a)], -1) for a in angles)
    entered = encoder.enter(x) + torch.from_numpy(there - even)
    layers = copy.deepcopy(encoder)
    layers.enter = torch.nn.Identity()
    torch.testing.assert_close(encoder(x, torch.from_numpy(times)), layers(entered))
    torch.testing.assert_close(encoder(x, torch.arange(3.0).double()), encoder(x))
    assert (encoder(x, torch.from_numpy(times)) - encoder(x)).abs().max() > 1e-3


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
def test_guides_tell_their_transformer_the_time(build):
    y, valid = torch.rand(2, DATES, len(SPECTRA)), torch.ones(2, DATES, dtype=torch.bool)
    latents = {f"c_{t}": torch.randn(2, 2) for t in range(DATES + 1)}
    found = {}
    for name, dates in {
        "none": None,
        "even": [3, 6, 9],
        "uneven": [0, 5, 25],
        "shifted": [7, 12, 32],
    }.items():
        model = tiny(variability_prior=Independent(), abundance_prior=KnownSteps(), dates=dates)
        guide = build(model, encoder=Transformer(width=8))
        torch.manual_seed(5)
        found[name] = traced(perturbed(guide), y, valid, latents)["c_2"]
    torch.testing.assert_close(found["even"], found["none"])
    torch.testing.assert_close(found["shifted"], found["uneven"])
    assert (found["uneven"] - found["even"]).abs().max() > 1e-4


class KnownSteps(ConstantWalk):
    """A walk that is blind to time, so that only the encoder can see it."""

    def set_elapsed(self, elapsed) -> None:
        pass


# The posterior at a corner of the simplex

BANDS, COMPONENTS = 6, 2
NOISE, SPREAD, FIRST, STEP = 0.03, 0.3, 2.0, 0.7
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def corner(num_materials: int, num_dates: int) -> tuple[SGLMM, dict, np.ndarray]:
    """A pixel in which the first material is nearly absent (0.5 %); its model and the model's numbers."""
    rng = np.random.default_rng(1)
    spectra = rng.uniform(0.1, 0.9, size=(BANDS, num_materials))
    components = 0.3 * rng.normal(size=(BANDS, COMPONENTS, num_materials))
    a = np.full(num_materials, (1 - 0.005) / (num_materials - 1))
    a[0] = 0.005
    psi = SPREAD * rng.normal(size=(num_dates, COMPONENTS, num_materials))
    endmembers = spectra + np.einsum("lkp,tkp->tlp", components, psi)
    y = endmembers @ a + NOISE * rng.normal(size=(num_dates, BANDS))
    model = SGLMM(
        FixedEndmembers(spectra),
        basis=LearnedBasis(components),
        abundance_prior=ConstantWalk(STEP, learn=False, initial_scale=FIRST),
        variability_prior=Independent(SPREAD, learn=False),
        noise=WhiteNoise(NOISE, learn=False),
    ).double()
    return model, {"spectra": spectra, "components": components}, y


def on_a_grid(spectra, components, y, *, half: float = 14.0, points: int = 141):
    """Exact quantiles (T, P, levels) of the abundances, and log evidence, by sums over a dense grid.

    The softmax sees c but for a constant: its P - 1 orthonormal contrasts are on the grid, the variability is
    integrated out, and steps between dates are convolutions.
    """
    size = spectra.shape[1]
    axis = np.linspace(-half, half, points)
    width = axis[1] - axis[0]
    mesh = np.stack(np.meshgrid(*[axis] * (size - 1), indexing="ij"), -1)
    a = np.exp(mesh @ linalg.helmert(size))
    a /= a.sum(-1, keepdims=True)
    flat = a.reshape(-1, size)
    w = (components * flat[:, None, None, :]).reshape(len(flat), BANDS, -1)
    tril = np.linalg.cholesky(SPREAD**2 * w @ w.swapaxes(1, 2) + NOISE**2 * np.eye(BANDS))
    z = np.linalg.solve(tril, (y[:, None] - flat @ spectra.T).transpose(1, 2, 0))
    log_det = np.log(np.diagonal(tril, axis1=1, axis2=2)).sum(-1) + 0.5 * BANDS * np.log(2 * np.pi)
    likelihood = np.exp(-0.5 * (z**2).sum(1).T - log_det).reshape(len(y), *mesh.shape[:-1])
    kernel = stats.norm(0, STEP).pdf(axis[:, None] - axis) * width

    def moved(density):
        for d in range(size - 1):
            density = np.moveaxis(np.tensordot(kernel, density, axes=(1, d)), 0, d)
        return density

    before = [stats.norm(0, np.hypot(FIRST, STEP)).pdf(mesh).prod(-1)]
    for one in likelihood[:-1]:
        before.append(moved(before[-1] * one))
    after = [np.ones(mesh.shape[:-1])]
    for one in likelihood[:0:-1]:
        after.insert(0, moved(after[0] * one))
    quantiles = np.empty((len(y), size, len(LEVELS)))
    for t, parts in enumerate(zip(before, likelihood, after, strict=True)):
        posterior = np.prod(parts, axis=0).ravel()
        for p in range(size):
            order = np.argsort(flat[:, p])
            cumulative = np.cumsum(posterior[order]) / posterior.sum()
            quantiles[t, p] = np.interp(LEVELS, cumulative, flat[order, p])
    evidence = np.log((before[-1] * likelihood[-1]).sum() * width ** (size - 1))
    return quantiles, evidence


def fitted(model, guide, y, *, num_steps: int, rate: float):
    """ELBO after training the guide, and quantiles (T, P, levels) of its abundances."""
    y = torch.from_numpy(y[None])
    valid = torch.ones(y.shape[:2], dtype=torch.bool)
    features = guide.prepare(y, valid)
    adam = torch.optim.Adam(guide.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.03 ** (1 / num_steps))

    def loss(draws: int) -> torch.Tensor:
        elbo = Trace_ELBO(draws, vectorize_particles=True, max_plate_nesting=1)
        return elbo.differentiable_loss(model, guide, y, valid, features=features)

    for _ in range(num_steps):
        adam.zero_grad()
        loss(24).backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        elbo = -float(loss(5_000))

        def noise(site: str, size: int) -> torch.Tensor:
            return torch.randn(10_000, 1, size, dtype=torch.double)

        draws, _ = guide.draw(y, valid, features, noise)
    return elbo, np.quantile(draws[:, 0].numpy(), LEVELS, axis=0).transpose(1, 2, 0)


@pytest.mark.parametrize(
    "num_materials, num_dates, names", [(2, 2, ["stretch", "mixture", "flow"]), (3, 1, ["stretch"])]
)
def test_posterior_of_an_absent_material(num_materials, num_dates, names):
    model, known, y = corner(num_materials, num_dates)
    exact, evidence = on_a_grid(**known, y=y)
    guides = {
        "gaussian": ConjugateGuide(model),
        "stretch": ReshapedGuide(model),
        "mixture": ReshapedGuide(model, family=CornerMixture()),
        "flow": ReshapedGuide(model, family=SplineFlow(1)),
    }
    gaps, errors = {}, {}
    for name in ("gaussian", *names):
        steps, rate = (250, 0.05) if num_materials == 3 and name == "stretch" else (120, 0.03)
        if name == "flow":
            steps, rate = 160, 0.01
        torch.manual_seed(0)
        elbo, quantiles = fitted(model, guides[name].double(), y, num_steps=steps, rate=rate)
        gaps[name] = evidence - elbo
        # on the scale of ratios: near zero an absolute error says little
        errors[name] = np.abs(np.log(quantiles[:, 0] / exact[:, 0])).mean()
    # The best Gaussian has been found: it stays that far from the evidence.
    assert gaps["gaussian"] > 0.25
    for name in names:
        # log p - log q of a draw has a std of about one, so that an ELBO has an error of some 0.015
        assert -0.06 < gaps[name] < 0.6 * gaps["gaussian"], name
        assert errors[name] < 0.75 * errors["gaussian"], name
