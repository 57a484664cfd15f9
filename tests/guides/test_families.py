"""Families in place of the Gaussians of the abundances: mixtures, flows and stretches."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from scipy import optimize, special, stats

from pyro_unmix.guides import CornerMixture, CornerStretch, Family, SplineFlow
from pyro_unmix.guides.flows import Splines
from pyro_unmix.guides.mixtures import NormalMixture
from pyro_unmix.ops.distributions import DiagonalNormal, PrecisionNormal

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
