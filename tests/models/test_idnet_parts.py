"""Perceptrons, decoders, mixings, regressions and Dirichlet draws against numpy and scipy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from scipy import optimize, stats

import pyro_unmix
from pyro_unmix import simulate
from pyro_unmix.bases import PerceptronDecoder, ScalingDecoder
from pyro_unmix.data import library_endmembers
from pyro_unmix.guides import NonnegativeRegression, ShrinkageSteps
from pyro_unmix.mixing import BilinearMixing, LinearMixing, Mixing, TwoStreamMixing
from pyro_unmix.ops.dirichlet import NOISE_PER_MATERIAL, dirichlet_from_noise
from pyro_unmix.ops.perceptrons import MaterialPerceptron, perceptron
from pyro_unmix.start import choose_mixing, extract_bundles
from pyro_unmix.start.interactions import _excess

BANDS, MATERIALS, PIXELS = 12, 3, 40


@pytest.fixture(autouse=True)
def _scoped(request: pytest.FixtureRequest):
    """Parameters of modules called by hand go to a store that is thrown away."""
    if request.node.name == "test_the_mixing_is_chosen_from_the_image":
        yield  # leaves the store alone by itself
    else:
        with pyro.get_param_store().scope():
            yield


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def spectra(seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, BANDS, MATERIALS)))


def fractions(seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(MATERIALS), size=PIXELS))


def prepared(mixing: Mixing) -> Mixing:
    mixing.setup(num_bands=BANDS, num_endmembers=MATERIALS, generator=generator())
    return mixing.double()


# ------------------------------------------------------------------------------- perceptrons


def numpy_perceptron(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    return x @ layers[-1][0] + layers[-1][1]


def layers_of(net: MaterialPerceptron, material: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (w[material].detach().numpy(), b[material, 0].detach().numpy())
        for w, b in zip(net.weights, net.biases, strict=True)
    ]


def test_materials_have_perceptrons_of_their_own() -> None:
    net = MaterialPerceptron(MATERIALS, (4, 7, 6, 5), generator()).double()
    x = np.random.default_rng(0).normal(size=(2, 8, MATERIALS, 4))
    got = net(torch.from_numpy(x)).detach().numpy()
    assert got.shape == (2, 8, MATERIALS, 5)
    for p in range(MATERIALS):
        expected = numpy_perceptron(layers_of(net, p), x[:, :, p])
        np.testing.assert_allclose(got[:, :, p], expected, rtol=1e-12)


def test_initial_weights_come_from_the_generator_within_their_bounds() -> None:
    before = torch.random.get_rng_state()
    first, second = (MaterialPerceptron(2, (9, 400), generator()) for _ in range(2))
    plain = perceptron((9, 50, 3), generator())
    assert torch.equal(first.weights[0], second.weights[0])
    assert torch.equal(before, torch.random.get_rng_state())
    for values in (first.weights[0], plain[0].weight):
        assert 0.3 < values.abs().max() <= 1 / 3


# ------------------------------------------------------------------------------- decoders


def test_the_published_decoder_has_the_published_sizes() -> None:
    decoder = PerceptronDecoder()
    decoder.setup(num_bands=198, num_endmembers=4, latent_size=2, generator=generator())
    assert decoder.net.sizes == (2, 20, 53, 243, 198)
    decoder.double()
    z = np.random.default_rng(0).normal(size=(6, 4, 2))
    got = decoder(torch.from_numpy(z), torch.zeros(198, 4)).detach().numpy()
    expected = 1 / (1 + np.exp(-numpy_perceptron(layers_of(decoder.net, 2), z[:, 2])))
    np.testing.assert_allclose(got[:, 2], expected, rtol=1e-12)


def test_the_scaling_decoder_scales_the_reference() -> None:
    decoder = ScalingDecoder(0.3)
    decoder.setup(num_bands=BANDS, num_endmembers=MATERIALS, latent_size=2, generator=generator())
    decoder.double()
    reference = spectra()[0]
    z = np.random.default_rng(0).normal(size=(6, MATERIALS, 2))
    # at the start only the brightness varies
    expected = reference.numpy().T * np.exp(0.3 * z[..., :1])
    np.testing.assert_allclose(decoder(torch.from_numpy(z), reference).detach(), expected)
    with torch.no_grad():
        decoder.net.weights[-1].normal_(generator=generator())
    shape = [numpy_perceptron(layers_of(decoder.net, p), z[:, p]) for p in range(MATERIALS)]
    expected = expected * np.exp(np.stack(shape, axis=1))
    np.testing.assert_allclose(decoder(torch.from_numpy(z), reference).detach(), expected)


def test_brightness_gives_the_most_probable_latents() -> None:
    """Against scipy: least ``|z|^2`` with ``sum alpha exp(-s z) = 1``, near a sum of one."""
    decoder = ScalingDecoder(0.2)
    decoder.setup(num_bands=BANDS, num_endmembers=MATERIALS, latent_size=2, generator=generator())
    decoder.double()
    amounts = 1.02 * np.array([0.6, 0.3, 0.1])
    reference = spectra()[0]
    loc, scale = decoder.brightness_posterior(
        torch.from_numpy(amounts), reference, torch.tensor(0.01).double()
    )
    constraint = {"type": "eq", "fun": lambda z: amounts @ np.exp(-0.2 * z) - 1}
    found = optimize.minimize(lambda z: z @ z, np.zeros(3), constraints=[constraint], tol=1e-14)
    np.testing.assert_allclose(loc[:, 0].detach(), found.x, rtol=0.02)
    strength = 0.2 * np.array([0.6, 0.3, 0.1]) * np.linalg.norm(reference, axis=0) / 0.01
    np.testing.assert_allclose(scale[:, 0].detach(), (1 + strength**2) ** -0.5, rtol=1e-6)
    assert (loc[:, 1] == 0).all() and (scale[:, 1] == 1).all()
    with pytest.raises(NotImplementedError, match="PerceptronDecoder has no brightness_posterior"):
        PerceptronDecoder().brightness_posterior(loc, reference, scale)


# ------------------------------------------------------------------------------- mixing


def test_linear_mixing_is_linear() -> None:
    m, a = spectra(), fractions()
    got = prepared(LinearMixing())(m, a)
    np.testing.assert_allclose(got, np.einsum("nlp,np->nl", m, a), rtol=1e-12)


def test_bilinear_mixing_adds_the_products_of_pairs() -> None:
    m, a = spectra(), fractions()
    strength = [0.2, 0.5, 0.9]
    mixing = prepared(BilinearMixing(strength))
    expected = np.einsum("nlp,np->nl", m, a)
    for gamma, (p, q) in zip(strength, itertools.combinations(range(MATERIALS), 2), strict=True):
        expected += gamma * (a[:, [p]] * a[:, [q]] * m[:, :, p] * m[:, :, q]).numpy()
    np.testing.assert_allclose(mixing(m, a).detach(), expected, rtol=1e-6)
    np.testing.assert_allclose(mixing.strength.detach(), strength, rtol=1e-6)
    # one set of spectra for all pixels
    one = mixing(m[0], a).detach()
    np.testing.assert_allclose(one, mixing(m[:1].expand_as(m), a).detach(), rtol=1e-12)


def test_bilinear_mixing_of_one_material_is_linear() -> None:
    mixing = BilinearMixing(0.5)
    mixing.setup(num_bands=BANDS, num_endmembers=1, generator=generator())
    m, a = spectra()[..., :1].float(), torch.ones(PIXELS, 1)
    np.testing.assert_array_equal(mixing(m, a).detach(), m[..., 0])


def test_the_published_mixing_is_the_hand_written_one() -> None:
    m, a = spectra() - 0.5, fractions()  # some sums are negative, where relu matters
    mixing = prepared(TwoStreamMixing(0.3))
    net = [(x.weight.detach().numpy().T, x.bias.detach().numpy()) for x in mixing.net[::2]]
    sizes = MATERIALS * (BANDS + 1), MATERIALS * BANDS, BANDS, BANDS, BANDS
    assert tuple(w.shape[0] for w, _ in net) == sizes[:-1]
    inputs = np.concatenate([m.numpy().transpose(0, 2, 1).reshape(PIXELS, -1), a.numpy()], axis=1)
    linear = np.einsum("nlp,np->nl", m, a)
    expected = np.maximum(linear + 0.3 * numpy_perceptron(net, inputs), 0)
    assert 0.1 < (expected == 0).mean() < 0.9
    np.testing.assert_allclose(mixing(m, a).detach(), expected, rtol=1e-10, atol=1e-12)
    assert len(mixing.penalised()) == 8


# ------------------------------------------------------------------------------- regressions


def test_shrinkage_steps_are_the_hand_written_ones() -> None:
    m, a = spectra().numpy(), fractions().numpy()
    y = np.einsum("nlp,np->nl", m, a) + 0.05 * np.random.default_rng(2).normal(size=(PIXELS, BANDS))
    regression = ShrinkageSteps(4, start=0.03)
    regression.setup(num_endmembers=MATERIALS, generator=generator())
    regression.double()
    got = regression(torch.from_numpy(m), torch.from_numpy(y), LinearMixing()).detach()
    for n in range(PIXELS):
        alpha = np.linalg.pinv(m[n]) @ y[n]
        for _ in range(4):
            alpha = alpha - 0.03 * m[n].T @ (m[n] @ alpha - y[n]) - 0.03 * 0.03
            alpha = np.maximum(alpha, 0)
        np.testing.assert_allclose(got[n], alpha, atol=2e-4)  # the ridge of 1e-6


def regression_of(shrinkage: float, num_corrections: int = 0) -> NonnegativeRegression:
    regression = NonnegativeRegression(num_corrections, shrinkage=shrinkage)
    regression.setup(num_endmembers=MATERIALS, generator=generator())
    return regression.double()


@pytest.mark.parametrize("shrinkage", [1e-9, 0.05])
def test_nonnegative_regression_is_that_of_scipy(shrinkage: float) -> None:
    m = spectra().numpy()
    y = np.random.default_rng(2).uniform(-0.2, 0.6, size=(PIXELS, BANDS))
    got = regression_of(shrinkage)(torch.from_numpy(m), torch.from_numpy(y), LinearMixing())
    for n in range(PIXELS):
        # lambda'alpha as a change of M'y: the root of M'M stands in for M
        gram = m[n].T @ m[n]
        root = np.linalg.cholesky(gram).T
        moment = m[n].T @ y[n] - shrinkage * np.diag(gram)
        expected, _ = optimize.nnls(root, np.linalg.solve(root.T, moment))
        np.testing.assert_allclose(got[n].detach(), expected, atol=1e-4)
    assert 0.1 < float((got == 0).double().mean()) < 0.9


def test_nonnegative_regression_has_the_gradient_of_central_differences() -> None:
    m, a = spectra()[:5].clone().requires_grad_(), fractions()[:5]
    y = (m.detach() @ a.unsqueeze(-1)).squeeze(-1) - 0.1
    regression, mixing = regression_of(0.01, 2), prepared(BilinearMixing(0.4))
    value = (regression(m, y, mixing) * torch.arange(1.0, 4.0)).sum()
    value.backward()
    for index in [(0, 1, 2), (3, 4, 0), (4, 9, 1)]:
        values = []
        for sign in (1, -1):
            moved = m.detach().clone()
            moved[index] += sign * 1e-6
            with torch.no_grad():
                values.append(float((regression(moved, y, mixing) * torch.arange(1.0, 4.0)).sum()))
        expected = (values[0] - values[1]) / 2e-6
        assert float(m.grad[index]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_corrections_undo_a_known_nonlinearity() -> None:
    m, a = spectra(), fractions()
    mixing = prepared(BilinearMixing(0.8))
    y = mixing(m, a)
    errors = [
        float((regression_of(1e-9, rounds)(m, y, mixing) - a).detach().abs().mean())
        for rounds in (0, 3, 30)
    ]
    assert errors[0] > 0.02 and errors[1] < 0.1 * errors[0] and errors[2] < 1e-5


# ------------------------------------------------------------------------------- Dirichlet


@pytest.mark.parametrize("concentration", [[0.05, 0.3, 2.0], [1.0, 1.0, 1.0], [400.0, 30.0, 0.01]])
def test_draws_have_the_dirichlet_distribution(concentration: list[float]) -> None:
    """Each marginal is a beta distribution (Kolmogorov-Smirnov), and they are jointly on the simplex."""
    noise = np.random.default_rng(0).standard_normal((20_000, 3, NOISE_PER_MATERIAL))
    alpha = torch.tensor(concentration, dtype=torch.float64)
    draws = dirichlet_from_noise(alpha, torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(draws.sum(-1), 1, rtol=1e-12)
    for p in range(3):
        marginal = stats.beta(alpha[p], alpha.sum() - alpha[p])
        assert stats.kstest(draws[:, p], marginal.cdf).pvalue > 1e-3
    expected = stats.dirichlet(alpha.numpy())
    spread = np.sqrt(np.diag(expected.cov()) / len(draws))
    assert (np.abs(draws.mean(0) - expected.mean()) < 5 * spread).all()
    product = draws[:, 0] * draws[:, 1]
    wanted = expected.cov()[0, 1] + expected.mean()[0] * expected.mean()[1]
    assert abs(product.mean() - wanted) < 5 * product.std() / len(draws) ** 0.5


def test_draws_of_a_pixel_do_not_depend_on_the_others() -> None:
    noise = torch.randn(3, NOISE_PER_MATERIAL, generator=generator())
    alpha = torch.tensor([[0.5, 2.0, 7.0], [30.0, 0.02, 1.0]])
    both = dirichlet_from_noise(alpha, noise)
    np.testing.assert_array_equal(both[1], dirichlet_from_noise(alpha[1:], noise)[0])


# ------------------------------------------------------------------------------- bundles


def test_bundles_are_the_spectra_of_smallest_angle() -> None:
    rng = np.random.default_rng(0)
    cube = rng.uniform(0.05, 0.9, size=(6, 7, 5))
    cube[2, 3] = np.nan
    matrix = rng.uniform(0.1, 0.9, size=(5, 3))
    names = ["water", "tree", "soil"]
    endmembers = xr.DataArray(matrix, dims=("wavelength", "endmember"), coords={"endmember": names})
    bundles = extract_bundles(cube, endmembers, num=4)
    pixels = cube.reshape(-1, 5)
    pixels = pixels[np.isfinite(pixels).all(1)]
    angles = np.array([[np.arccos(x @ m / np.linalg.norm(x) / np.linalg.norm(m)) for m in matrix.T]
                       for x in pixels])  # fmt: skip
    for p, name in enumerate(names):
        mine = [n for n in np.argsort(angles[:, p]) if angles[n].argmin() == p][:4]
        got = bundles.values[:, bundles["label"].values == name].T
        np.testing.assert_allclose(got, pixels[mine], rtol=1e-6)
    means = library_endmembers(bundles)
    assert means["endmember"].values.tolist() == names


def test_bundles_are_found_beside_the_endmembers() -> None:
    assert {"extract_bundles", "extract_endmembers"} <= set(pyro_unmix.start.__all__)


def test_bundle_errors() -> None:
    cube = np.random.default_rng(0).uniform(0.1, 0.9, size=(4, 4, 5))
    with pytest.raises(ValueError, match=r"no spectrum of the images is closer to endmember 1"):
        extract_bundles(np.ones((4, 4, 5)), np.array([[1.0] * 5, [1.0, 0.1, 0.1, 0.1, 0.1]]).T)
    with pytest.raises(ValueError, match="num must be at least 1"):
        extract_bundles(cube, cube.reshape(-1, 5)[:2].T, num=0)
    named = xr.DataArray(
        cube.reshape(-1, 5)[:2].T,
        dims=("wavelength", "endmember"),
        coords={"endmember": ["tree", "tree"]},
    )
    with pytest.raises(
        ValueError, match="names of endmembers must differ, got 'tree' more than once: rename"
    ):
        extract_bundles(cube, named)


# ------------------------------------------------------------------------------- choice of the mixing


def bilinear_image(strength: float, seed: int = 0, brightness: float = 0.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    library = simulate.library(np.linspace(450, 2400, 40)).values
    matrix = library[
        :, np.argsort(-library.mean(0))[:3]
    ]  # interactions of dark materials are noise
    a = rng.dirichlet(np.full(3, 1.0), size=900)
    y = a @ matrix.T * np.exp(brightness * rng.normal(size=(900, 1)))
    for p, q in itertools.combinations(range(3), 2):
        y += strength * (a[:, [p]] * a[:, [q]]) * matrix[:, p] * matrix[:, q]
    y += 0.005 * rng.normal(size=y.shape)
    return y.reshape(30, 30, -1), matrix


def test_the_mixing_is_chosen_from_the_image() -> None:
    mixing = choose_mixing(*bilinear_image(0.7))
    assert isinstance(mixing, BilinearMixing)
    np.testing.assert_allclose(mixing.start, 0.7, atol=0.15)
    for brightness in (0.0, 0.2):
        assert isinstance(choose_mixing(*bilinear_image(0.0, brightness=brightness)), LinearMixing)


def test_the_cost_of_sums_of_one_is_that_of_least_squares() -> None:
    """By numpy: what the constraint adds to the residual of an exact mixture of the materials present."""
    rng = np.random.default_rng(0)
    m = rng.uniform(0.1, 0.9, size=(BANDS, MATERIALS))
    amounts = rng.uniform(0.2, 0.6, size=(5, MATERIALS))
    amounts[np.arange(5), [2, 0, 1, 1, 0]] = 0.0
    costs = []
    for alpha in amounts:
        present = alpha > 0
        x, y = m[:, present], m @ alpha
        # sums of one: the last is one minus the others
        others, rest = x[:, :-1] - x[:, -1:], y - x[:, -1]
        found = np.linalg.lstsq(others, rest, rcond=None)[0]
        costs.append(np.linalg.norm(rest - others @ found))
    got = _excess(torch.from_numpy(amounts), torch.from_numpy(m))
    assert got == pytest.approx(np.median(costs), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BilinearMixing(1.5), "start must lie in"),
        (lambda: prepared(BilinearMixing([0.1, 0.2])), "start must be one number or 3, one per"),
        (lambda: TwoStreamMixing(-1), "scale must lie in"),
        (lambda: ShrinkageSteps(0), "num_steps must be at least 1"),
        (lambda: ScalingDecoder(0.0), "brightness must lie in"),
        (lambda: choose_mixing(*bilinear_image(0.0), least=2), "least must lie in"),
    ],
)
def test_bad_parts_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
