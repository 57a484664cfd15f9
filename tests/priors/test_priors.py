from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from recipe_cases import rebuilt
from torch import nn

from pyro_unmix.ops.distributions import IsotropicNormal, JumpNormal
from pyro_unmix.priors import (
    AbundancePrior,
    AutoRegressive,
    FixedEndmembers,
    FreeEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    Noise,
    RandomWalk,
    SoftmaxWalk,
    VariabilityPrior,
    WhiteNoise,
)

pytestmark = pytest.mark.usefixtures("seeded")

# Starting values are rounded to float32 before a part is made double.
FLOAT32 = 1e-6


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def set_up(part, num_endmembers: int, *, seed: int = 0, **sizes: int):
    part.setup(
        num_endmembers=num_endmembers, **sizes, generator=torch.Generator().manual_seed(seed)
    )
    return part.double()


def numbers(*values: torch.Tensor) -> list[np.ndarray]:
    return [value.detach().numpy() for value in values]


def spectra(num_bands: int = 6, num_endmembers: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(num_bands, num_endmembers))


# Reference endmembers


@pytest.mark.parametrize(("kind", "learned"), [(FreeEndmembers, True), (FixedEndmembers, False)])
def test_endmembers_are_a_parameter_or_a_buffer(kind, learned):
    matrix = spectra()
    part = kind(matrix)
    np.testing.assert_array_equal(part.value.detach(), matrix.astype(np.float32))
    assert isinstance(part.value, nn.Parameter) == learned
    assert ("value" in dict(part.named_parameters())) == learned
    assert "value" in part.state_dict()
    assert part.names is None


@pytest.mark.parametrize("kind", [FreeEndmembers, FixedEndmembers])
def test_a_library_stands_for_the_means_of_its_classes(kind):
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, (6, 5))
    labels = ["soil", "water", "soil", "leaf", "soil"]
    library = xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={"label": ("endmember", labels), "wavelength": np.arange(500.0, 560, 10)},
    )
    part = kind(library)
    expected = [spectra[:, [0, 2, 4]].mean(1), spectra[:, 1], spectra[:, 3]]
    np.testing.assert_allclose(part.value.detach(), np.stack(expected, axis=1), rtol=FLOAT32)
    assert part.names == ["soil", "water", "leaf"]
    np.testing.assert_array_equal(part.wavelength, library["wavelength"])
    # Saved and rebuilt, it is the same.
    again = rebuilt(part)
    np.testing.assert_array_equal(again.value.detach(), part.value.detach())
    assert again.names == part.names


@pytest.mark.parametrize("kind", [FreeEndmembers, FixedEndmembers])
def test_endmembers_are_a_contiguous_copy(kind):
    matrix = np.asfortranarray(spectra().astype(np.float32))
    before = matrix.copy()
    part = kind(matrix)
    assert part.value.is_contiguous()
    with torch.no_grad():
        part.value.zero_()
    np.testing.assert_array_equal(matrix, before)


def test_endmembers_keep_names_and_ignore_numbers():
    dims = ("endmember", "wavelength")
    named = xr.DataArray(spectra().T, dims=dims, coords={"endmember": ["soil", "water", "road"]})
    part = FixedEndmembers(named)
    assert part.names == ["soil", "water", "road"]
    np.testing.assert_array_equal(part.value, spectra().astype(np.float32))
    assert FixedEndmembers(named.assign_coords(endmember=[0, 1, 2])).names is None


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (spectra()[0], "endmembers must have 2 dimensions, got 1"),
        (spectra().T, "at most as many columns .materials. as rows .bands.*is it transposed"),
        (np.full((6, 3), np.nan), "endmembers must be finite"),
        (1e4 * spectra(), "endmembers must be reflectances"),
    ],
)
def test_endmember_errors(matrix, text):
    with pytest.raises(ValueError, match=text):
        FreeEndmembers(matrix)


# Abundances


@pytest.mark.parametrize("make", [SoftmaxWalk, JumpWalk])
def test_abundances_start_from_a_learned_gaussian(make):
    prior = set_up(make(initial_scale=0.7), 3)
    loc, scale = numbers(prior.initial_loc, prior.log_initial_scale.exp())
    np.testing.assert_array_equal(loc, np.zeros(3))
    np.testing.assert_allclose(scale, 0.7, rtol=FLOAT32)
    with torch.no_grad():
        prior.initial_loc.copy_(tensor([0.3, -1.0, 2.0]))
        prior.log_initial_scale.copy_(tensor([0.1, -0.5, 0.9]))
    x = np.random.default_rng(1).normal(size=(4, 3))
    expected = reference.log_normal(x, [0.3, -1.0, 2.0], np.exp([0.1, -0.5, 0.9]))
    np.testing.assert_allclose(prior.initial().log_prob(tensor(x)).detach(), expected, rtol=1e-12)
    learned = dict(prior.named_parameters())
    assert {"initial_loc", "log_initial_scale"} <= set(learned)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_softmax_walk_scale_is_the_small_network(num_layers):
    prior = set_up(SoftmaxWalk(num_layers=num_layers), 4)
    for layer in range(num_layers):
        getattr(prior, f"bias_{layer}").data.normal_()
    layers = [
        numbers(getattr(prior, f"weight_{i}"), getattr(prior, f"bias_{i}"))
        for i in range(num_layers)
    ]
    c = np.random.default_rng(2).normal(size=(5, 2, 4))
    expected = reference.scale_network(c, layers)
    assert expected.shape == (5, 2, 1)
    assert (np.abs(np.log(expected)) < 5).all()  # where its bound does not matter
    np.testing.assert_allclose(prior.scale(tensor(c)).detach(), expected, rtol=1e-12)
    # P neurons in each hidden layer, one output, a bias each.
    count = sum(weight.size + bias.size for weight, bias in layers)
    assert count == (num_layers - 1) * 4 * 5 + 5


def test_softmax_walk_steps_are_isotropic_gaussians_of_that_scale():
    prior = set_up(SoftmaxWalk(), 3)
    rng = np.random.default_rng(3)
    previous, x = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    scale = prior.scale(tensor(previous)).detach().numpy()
    got = prior.transitions()(tensor(previous), 1).log_prob(tensor(x))
    np.testing.assert_allclose(
        got.detach(), reference.log_normal(x, previous, scale), rtol=0, atol=1e-12
    )
    step = prior.step_scale(tensor(previous), torch.zeros(5).double())
    np.testing.assert_array_equal(step.detach(), scale[:, 0])


def test_softmax_walk_scale_cannot_overflow():
    prior = set_up(SoftmaxWalk(), 3)
    far = prior.scale(1e6 * torch.randn(50, 3).double()).detach()
    assert torch.isfinite(far).all()
    assert float(far.min()) >= math.exp(-5) * (1 - 1e-12)
    assert float(far.max()) <= math.exp(5) * (1 + 1e-12)


def test_softmax_walk_starts_from_glorot_weights_and_zero_biases():
    prior = set_up(SoftmaxWalk(num_layers=3), 40)
    for layer, outputs in enumerate((40, 40, 1)):
        weight, bias = numbers(getattr(prior, f"weight_{layer}"), getattr(prior, f"bias_{layer}"))
        bound = math.sqrt(6 / (40 + outputs))
        assert weight.shape == (outputs, 40)
        assert np.abs(weight).max() <= bound
        # The variance of a uniform on [-b, b] is b^2 / 3, that of its square 4 b^4 / 45.
        error = 5 * math.sqrt(4 / 45 / weight.size) * bound**2
        assert (weight**2).mean() == pytest.approx(bound**2 / 3, abs=error)
        assert not bias.any()


def test_setup_takes_its_randomness_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (set_up(SoftmaxWalk(), 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.weight_0, again.weight_0)
    assert not torch.equal(first.weight_0, other.weight_0)


def test_jump_walk_is_the_written_out_mixture():
    prior = set_up(JumpWalk(scale=0.3, jump_scale=2.5, jump_probability=0.1), 3)
    assert {"log_scale", "log_jump_scale", "jump_logit"} <= set(dict(prior.named_parameters()))
    rng = np.random.default_rng(4)
    previous = rng.normal(size=(20, 3))
    x = previous + rng.normal(scale=2, size=(20, 3))
    step = prior.transitions()(tensor(previous), 1)
    assert isinstance(step, JumpNormal)
    expected = reference.log_jump(x, previous, 0.3, 2.5, 0.1)
    np.testing.assert_allclose(step.log_prob(tensor(x)).detach(), expected, rtol=20 * FLOAT32)


def test_jump_walk_stand_in_lies_between_drift_and_jump():
    prior = set_up(JumpWalk(scale=0.3, jump_scale=2.5, jump_probability=0.1), 3)
    square = np.array([0.0, 0.05, 0.5, 1.0, 50.0])
    got = prior.step_scale(torch.zeros(5, 3).double(), tensor(square)).detach().numpy()
    # Precision averaged over the posterior of a jump, given a step of that squared length.
    drift = 0.9 * np.exp(-0.5 * 3 * square / 0.3**2) / 0.3**3
    jump = 0.1 * np.exp(-0.5 * 3 * square / 2.5**2) / 2.5**3
    share = jump / (jump + drift)
    expected = ((1 - share) / 0.3**2 + share / 2.5**2) ** -0.5
    np.testing.assert_allclose(got, expected, rtol=100 * FLOAT32)
    assert (np.diff(got) >= 0).all()
    assert got[0] == pytest.approx(0.3, rel=1e-3)  # odds of a jump are 2e-4 there
    assert got[-1] == pytest.approx(2.5, rel=FLOAT32)


def test_known_abundances_are_a_point_mass_at_each_pixel():
    a = np.random.default_rng(5).dirichlet(np.ones(3), size=(4, 2))
    a[0, 0] = [1, 0, 0]
    prior = KnownAbundances(a)
    prior.setup(num_endmembers=3, generator=torch.Generator())
    assert not prior.is_random
    assert not list(prior.parameters())
    for t in (1, 2):
        site = prior.transitions()(None, t)
        assert site.event_shape == (3,)
        np.testing.assert_allclose(reference.softmax(site.mean.numpy()), a[:, t - 1], atol=1e-6)
    picked = prior.transitions(torch.tensor([2, 0]))(None, 2).mean
    assert torch.equal(picked, prior.transitions()(None, 2).mean[[2, 0]])
    assert torch.equal(prior.initial().mean, prior.transitions()(None, 1).mean)
    assert float(prior.initial().log_prob(prior.initial().mean).abs().max()) == 0


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: SoftmaxWalk(num_layers=0), ValueError, "num_layers must be at least 1, got 0"),
        (lambda: SoftmaxWalk(initial_scale=0), ValueError, r"initial_scale must lie in .0, inf"),
        (lambda: JumpWalk(scale=-1), ValueError, r"scale must lie in .0, inf.*got -1"),
        (lambda: JumpWalk(scale=2, jump_scale=1), ValueError, r"jump_scale must lie in .2, inf"),
        (lambda: JumpWalk(jump_probability=0), ValueError, "jump_probability must lie in"),
        (lambda: JumpWalk(jump_probability=0.9), ValueError, "jump_probability must lie in"),
        (
            lambda: KnownAbundances(np.full((2, 1, 3), 0.5)),
            ValueError,
            "non-negative and sum to one over the last axis, got sums 1.5 to 1.5: divide them by",
        ),
        (
            lambda: KnownAbundances(np.array([[[1.5, -0.5]]])),
            ValueError,
            "must be non-negative and sum to one",
        ),
        (lambda: KnownAbundances(np.ones((2, 3))), ValueError, "must have 3 dimensions, got 2"),
        (
            lambda: KnownAbundances(np.full((2, 1, 2), 0.5)).setup(
                num_endmembers=3, generator=torch.Generator()
            ),
            ValueError,
            r"KnownAbundances has 2 materials, the model 3: pass abundances of shape "
            r".pixels, dates, 3.",
        ),
        (lambda: AbundancePrior().initial(), NotImplementedError, r"must implement initial"),
        (lambda: AbundancePrior().transitions(), NotImplementedError, "must implement transitions"),
        (
            lambda: AbundancePrior().step_scale(None, None),
            NotImplementedError,
            "must implement step_scale",
        ),
        (lambda: VariabilityPrior().chain(), NotImplementedError, "must implement chain"),
        (lambda: Noise().distributions(), NotImplementedError, "must implement distributions"),
        (lambda: RandomWalk(0), ValueError, r"scale must lie in .0, inf"),
        (lambda: RandomWalk(initial_scale=-1), ValueError, "initial_scale must lie in"),
        (lambda: AutoRegressive(1.0), ValueError, "coefficient must lie in"),
        (lambda: AutoRegressive(-0.1), ValueError, "coefficient must lie in"),
        (lambda: AutoRegressive("0.5"), TypeError, "coefficient must be one real number"),
        (lambda: Independent(scale=0), ValueError, "scale must lie in"),
        (lambda: WhiteNoise(0), ValueError, r"scale must lie in .0, inf"),
        (lambda: WhiteNoise(float("nan")), ValueError, "scale must lie in"),
    ],
)
def test_prior_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


# Variability

CHAINS = {
    "random walk": (lambda: RandomWalk(0.3, learn=True, initial_scale=0.8), 1.0, 0.3, 0.8),
    "autoregressive": (lambda: AutoRegressive(0.6, 0.5), 0.6, 0.4, 0.5),
    "independent": (lambda: Independent(0.5), 0.0, 0.5, 0.5),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chain_has_the_stated_numbers(name):
    make, coefficient, step_scale, scale = CHAINS[name]
    got = numbers(*set_up(make(), 3, num_components=2).chain())
    for vector, expected in zip(got, (coefficient, step_scale, 0.0, scale), strict=True):
        assert vector.shape == (6,)
        np.testing.assert_allclose(vector, expected, rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_chain_distributions_and_marginals_follow_from_the_numbers(name):
    prior = set_up(CHAINS[name][0](), 3, num_components=2)
    if name == "random walk":
        prior.initial_loc.data.normal_()
    coefficient, step_scale, loc, scale = numbers(*prior.chain())
    rng = np.random.default_rng(6)
    previous, x = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    np.testing.assert_allclose(
        prior.initial().log_prob(tensor(x)).detach(),
        reference.log_normal(x, loc, scale),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        prior.transitions()(tensor(previous)).log_prob(tensor(x)).detach(),
        reference.log_normal(x, coefficient * previous, step_scale),
        rtol=1e-12,
    )
    mean, covariance = reference.chain_moments(coefficient, np.tile(step_scale, (4, 1)), loc, scale)
    locs, variances = numbers(*prior.marginals(4))
    np.testing.assert_allclose(locs, mean[1:], atol=1e-12)
    expected = [np.diag(covariance[t, :, t]) for t in range(1, 5)]
    np.testing.assert_allclose(variances, expected, rtol=1e-12)


def test_autoregressive_variance_is_stationary():
    _, variances = set_up(AutoRegressive(0.9, 0.7), 2, num_components=1).marginals(6)
    np.testing.assert_allclose(variances.detach(), 0.49, rtol=FLOAT32)


@pytest.mark.parametrize(
    ("prior", "learned"),
    [
        (RandomWalk(), {"initial_loc", "log_initial_scale"}),
        (RandomWalk(learn=True), {"initial_loc", "log_initial_scale", "log_scale"}),
        (AutoRegressive(), {"logit", "log_scale"}),
        (AutoRegressive(learn=False), set()),
        (Independent(), {"log_scale"}),
        (Independent(learn=False), set()),
    ],
)
def test_what_a_chain_learns(prior, learned):
    set_up(prior, 3, num_components=2)
    assert set(dict(prior.named_parameters())) == learned


def test_default_random_walk_is_the_papers():
    # Sec. VI-A gives sigma_psi^2 = 1e-5, Sec. V-C zero means and unit scales at t = 0.
    coefficient, step_scale, loc, scale = numbers(
        *set_up(RandomWalk(), 3, num_components=2).chain()
    )
    np.testing.assert_array_equal(coefficient, 1)
    np.testing.assert_allclose(step_scale**2, 1e-5, rtol=10 * FLOAT32)
    np.testing.assert_array_equal(loc, 0)
    np.testing.assert_array_equal(scale, 1)


# Noise


@pytest.mark.parametrize("learn", [True, False])
def test_white_noise_is_a_normal_around_the_mean(learn):
    noise = WhiteNoise(0.03, learn=learn)
    noise.setup(num_bands=5, generator=torch.Generator())
    noise.double()
    assert set(dict(noise.named_parameters())) == ({"log_scale"} if learn else set())
    assert float(noise.scale.detach()) == pytest.approx(0.03, rel=FLOAT32)
    rng = np.random.default_rng(7)
    mean, x = rng.uniform(size=(4, 5)), rng.uniform(size=(4, 5))
    site = noise.distributions()(tensor(mean))
    assert isinstance(site, IsotropicNormal)
    expected = reference.log_normal(x, mean, float(noise.scale.detach()))
    np.testing.assert_allclose(site.log_prob(tensor(x)).detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("num_components", [1, 2])
def test_every_site_has_one_event_dim(num_components):
    size = num_components * 3
    start = set_up(SoftmaxWalk(), 3).initial()
    step = set_up(JumpWalk(), 3).transitions()(start.mean, 1)
    chain = set_up(RandomWalk(), 3, num_components=num_components)
    (noise := WhiteNoise()).setup(num_bands=5, generator=torch.Generator())
    spectrum = noise.distributions()(torch.zeros(4, 5))
    for site, event in ((start, 3), (step, 3), (chain.initial(), size), (spectrum, 5)):
        assert site.event_shape == (event,)
