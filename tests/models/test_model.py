from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import reference
import torch
import xarray as xr
from pyro import poutine

from pyro_unmix import SGLMM
from pyro_unmix.bases import DCT, Brightness, LearnedBasis
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

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, MATERIALS, PIXELS, DATES = 7, 3, 4, 3

WALKS = {"softmax": SoftmaxWalk, "jump": JumpWalk}
CHAINS = {
    "random walk": lambda: RandomWalk(0.3, learn=True, initial_scale=0.8),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def build(walk: str = "softmax", chain: str = "random walk", num_components: int = 2) -> SGLMM:
    """A small model in float64 with all its parameters away from their start."""
    model = SGLMM(
        spectra(),
        basis=DCT(num_components, scale=0.6),
        abundance_prior=WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=WhiteNoise(0.1),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pixels(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[0, 1] = valid[2] = False
    y = torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS)))
    return y * valid.unsqueeze(-1), valid


def draws(*particles: int, num_components: int = 2) -> dict[str, torch.Tensor]:
    sizes = {"c": MATERIALS, "psi": MATERIALS * num_components}
    return {
        f"{name}_{t}": torch.randn(*particles, PIXELS, size).double()
        for name, size in sizes.items()
        for t in range(DATES + 1)
    }


def log_densities(model: SGLMM, latents, y, valid) -> dict[str, np.ndarray]:
    """``log p`` of every site, eqs. (7)-(22), from the parameters' values alone."""
    value = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    c = [latents[f"c_{t}"].numpy() for t in range(DATES + 1)]
    psi = [latents[f"psi_{t}"].numpy() for t in range(DATES + 1)]
    result = {
        "c_0": reference.log_normal(
            c[0],
            value["abundance_prior.initial_loc"],
            np.exp(value["abundance_prior.log_initial_scale"]),
        )
    }
    coefficient, step_scale, loc, scale = chain_numbers(model, value)
    result["psi_0"] = reference.log_normal(psi[0], loc, scale)
    endmembers = value["reference.value"]
    components = value["basis.scale"][0] * reference.dct_components(
        endmembers, model.num_components
    )
    for t in range(1, DATES + 1):
        result[f"c_{t}"] = log_step(model, value, c[t - 1], c[t])
        result[f"psi_{t}"] = reference.log_normal(psi[t], coefficient * psi[t - 1], step_scale)
        mean = reference.mixed(endmembers, components, reference.softmax(c[t]), psi[t])
        noise = np.exp(value["noise.log_scale"])
        observed = reference.log_normal(y[:, t - 1].numpy(), mean, noise)
        result[f"y_{t}"] = observed * valid[:, t - 1].numpy()
    return result


def chain_numbers(model: SGLMM, value: dict[str, np.ndarray]):
    of = {k.removeprefix("variability_prior."): v for k, v in value.items()}
    size = model.num_components * model.num_endmembers
    scale = np.exp(of["log_scale"]) * np.ones(size)
    if isinstance(model.variability_prior, RandomWalk):
        return 1.0, scale, of["initial_loc"], np.exp(of["log_initial_scale"])
    if isinstance(model.variability_prior, AutoRegressive):
        phi = 1 / (1 + np.exp(-of["logit"]))
        return phi, scale * np.sqrt(1 - phi**2), np.zeros(size), scale
    return 0.0, scale, np.zeros(size), scale


def log_step(model: SGLMM, value: dict[str, np.ndarray], before, after) -> np.ndarray:
    of = {k.removeprefix("abundance_prior."): v for k, v in value.items()}
    if isinstance(model.abundance_prior, JumpWalk):
        probability = 1 / (1 + np.exp(-of["jump_logit"]))
        scales = np.exp(of["log_scale"]), np.exp(of["log_jump_scale"])
        return reference.log_jump(after, before, *scales, probability)
    layers = [(of[f"weight_{i}"], of[f"bias_{i}"]) for i in range(2)]
    return reference.log_normal(after, before, reference.scale_network(before, layers))


def trace_of(model: SGLMM, latents, *arguments, **keywords):
    trace = poutine.trace(poutine.condition(model, data=latents)).get_trace(*arguments, **keywords)
    trace.compute_log_prob()
    return trace


# The density


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_site_has_the_hand_written_density(walk, chain):
    model, latents, (y, valid) = build(walk, chain), draws(), pixels()
    trace = trace_of(model, latents, y, valid)
    expected = log_densities(model, latents, y, valid)
    sites = {k for k, site in trace.nodes.items() if site["type"] == "sample"} - {"pixels"}
    assert sites == set(expected)
    for name, density in expected.items():
        got = trace.nodes[name]["log_prob"].detach()
        np.testing.assert_allclose(got, density, rtol=1e-9, atol=1e-9, err_msg=name)
    total = sum(density.sum() for density in expected.values())
    assert trace.log_prob_sum().item() == pytest.approx(total, rel=1e-9)


def test_missing_dates_say_nothing_while_their_states_evolve():
    model, latents, (y, valid) = build(), draws(), pixels()
    trace = trace_of(model, latents, y, valid)
    other = torch.where(valid.unsqueeze(-1), y, torch.full_like(y, 17.0))
    changed = trace_of(model, latents, other, valid)
    assert trace.log_prob_sum().item() == changed.log_prob_sum().item()
    for t in range(1, DATES + 1):
        observed = trace.nodes[f"y_{t}"]["log_prob"].detach().numpy()
        assert ((observed != 0) == valid[:, t - 1].numpy()).all()
        assert (trace.nodes[f"c_{t}"]["log_prob"] != 0).all()
        assert (trace.nodes[f"psi_{t}"]["log_prob"] != 0).all()


def test_a_batch_is_scaled_to_the_scene():
    model, latents, (y, valid) = build(), draws(), pixels()
    index = torch.tensor([5, 0, 11, 3])
    batch = trace_of(model, latents, y, valid, index=index, size=20)
    alone = trace_of(model, latents, y, valid)
    ratio = 20 / PIXELS
    expected = ratio * alone.log_prob_sum().item()
    assert batch.log_prob_sum().item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(batch.nodes["pixels"]["value"], index)


@pytest.mark.parametrize("walk", WALKS)
def test_particles_are_independent_rows(walk):
    model, latents, (y, valid) = build(walk), draws(5), pixels()

    def program():
        with pyro.plate("particles", 5, dim=-2):
            model(y, valid)

    trace = trace_of(program, latents)
    each = [
        trace_of(model, {k: v[i] for k, v in latents.items()}, y, valid).log_prob_sum()
        for i in range(5)
    ]
    for name in ("c_1", "psi_2", "y_3"):
        assert trace.nodes[name]["log_prob"].shape == (5, PIXELS)
    assert trace.log_prob_sum().item() == pytest.approx(sum(each).item(), rel=1e-12)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_match_finite_differences(walk, chain):
    model, latents, (y, valid) = build(walk, chain), draws(), pixels()
    trace_of(model, latents, y, valid).log_prob_sum().backward()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            start = parameter.clone()

            def density(values, parameter=parameter):
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(values))
                return sum(d.sum() for d in log_densities(model, latents, y, valid).values())

            expected = reference.central_differences(density, start.numpy(), 1e-5)
            parameter.copy_(start)
        # The error is h^2 f''' / 6 and eps |f| / h, with |f| up to 1e4.
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(
            parameter.grad, expected, rtol=1e-5, atol=1e-6 * scale, err_msg=name
        )
        assert np.abs(expected).max() > 1e-3, name


def test_every_parameter_is_under_a_name_of_its_own():
    names = [name for name, _ in build().named_parameters()]
    assert names == list(dict.fromkeys(names))
    trace = poutine.trace(build(), param_only=True).get_trace(*pixels())
    stored = {k for k, site in trace.nodes.items() if site["type"] == "param"}
    assert stored == {f"model.{name}" for name in names}


# Its parameters


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_theta_has_the_count_of_table_1(num_layers):
    num_components, bands = 4, 12
    model = SGLMM(
        np.random.default_rng(0).uniform(0.1, 0.9, size=(bands, MATERIALS)),
        basis=DCT(num_components),
        abundance_prior=SoftmaxWalk(num_layers=num_layers),
    )
    p = MATERIALS
    # Table I counts P outputs for every layer of sigma_a; its last layer has one (eq. 18).
    network = p * (p + 1) * num_layers - (p - 1) * (p + 1)
    table = bands * p + 1 + network + 2 * (num_components + 1) * p
    assert sum(parameter.numel() for parameter in model.parameters()) == table


def test_the_default_model_starts_as_the_paper_says():
    model = SGLMM(np.random.default_rng(0).uniform(0.1, 0.9, size=(20, 3)))
    assert isinstance(model.basis, DCT)
    assert model.num_components == 10
    assert isinstance(model.reference, FreeEndmembers)
    assert isinstance(model.variability_prior, RandomWalk)
    # The printed 0.0001 is the variance: 0.5 against 0.01 is 34 dB.
    assert float(model.noise.scale.detach()) == pytest.approx(0.01, rel=1e-6)
    for prior in (model.abundance_prior, model.variability_prior):
        assert not prior.initial_loc.any()
        assert not prior.log_initial_scale.any()
    assert not model.abundance_prior.bias_0.any()


def test_models_built_alike_are_equal_and_no_global_state_moves():
    before = torch.get_rng_state()
    first, second, other = (SGLMM(spectra(), basis=DCT(3), seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert any(
        not torch.equal(value, other.state_dict()[name])
        for name, value in first.state_dict().items()
    )


def test_parts_are_copied():
    prior, start = JumpWalk(), FixedEndmembers(spectra())
    models = [SGLMM(start, basis=DCT(2), abundance_prior=prior) for _ in range(2)]
    assert not dict(prior.named_parameters())  # the caller's object knows no sizes
    assert models[0].abundance_prior is not prior
    assert models[0].abundance_prior is not models[1].abundance_prior
    with torch.no_grad():
        models[0].abundance_prior.log_scale.fill_(7)
        models[0].reference.value.fill_(7)
    assert float(models[1].abundance_prior.log_scale.detach()) != 7
    np.testing.assert_array_equal(start.value, spectra().astype(np.float32))


def test_an_array_is_the_start_of_free_endmembers_and_stays_as_it_is():
    matrix = spectra()
    before = matrix.copy()
    model = SGLMM(matrix, basis=Brightness())
    with torch.no_grad():
        model.reference.value.zero_()
    np.testing.assert_array_equal(matrix, before)


def test_names_of_materials_are_kept():
    coords = {"endmember": ["soil", "water", "tree"]}
    named = xr.DataArray(spectra(), dims=("wavelength", "endmember"), coords=coords)
    assert SGLMM(named, basis=Brightness()).endmember_names == ["soil", "water", "tree"]
    assert SGLMM(spectra(), basis=Brightness()).endmember_names is None


# Decoding and simulating


@pytest.mark.parametrize("particles", [(), (5,)])
def test_decode_maps_states_to_abundances_and_variability(particles):
    model, latents = build(), draws(*particles)
    abundances, variability = model.decode(latents)
    assert abundances.shape == (*particles, PIXELS, DATES, MATERIALS)
    assert variability.shape == (*particles, PIXELS, DATES, 2, MATERIALS)
    for t in range(1, DATES + 1):
        np.testing.assert_allclose(
            abundances[..., t - 1, :], reference.softmax(latents[f"c_{t}"].numpy()), rtol=1e-12
        )
        flat = variability[..., t - 1, :, :].flatten(-2)
        assert torch.equal(flat, latents[f"psi_{t}"])


def test_mixing_endmembers_is_eq_7():
    model = build()
    psi = np.random.default_rng(2).normal(size=(4, 2, MATERIALS))
    got = model.mixing_endmembers(torch.from_numpy(psi)).detach().numpy()
    endmembers = model.reference.value.detach().numpy()
    scale = float(model.basis.scale[0])
    columns = scale * reference.dct_columns(BANDS, 2)
    for n in range(4):
        expected = endmembers * (1 + columns @ psi[n])
        np.testing.assert_allclose(got[n], expected, atol=1e-13)


def test_design_is_made_of_m0_and_the_components():
    model = build()
    got = model.design().detach().numpy()
    components = model.components().detach().numpy()
    assert got.shape == (BANDS, 3 * MATERIALS)
    np.testing.assert_array_equal(got[:, :MATERIALS], model.reference.value.detach())
    for k in range(2):
        block = got[:, (k + 1) * MATERIALS : (k + 2) * MATERIALS]
        np.testing.assert_array_equal(block, components[:, k])


def test_sample_sequence_is_reproducible_and_leaves_no_trace():
    model = build()
    before = torch.get_rng_state()
    first, again, other = (model.sample_sequence(6, 4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    shapes = {k: tuple(v.shape) for k, v in first.items()}
    assert shapes == {
        "pixels": (6, 4, BANDS),
        "abundances": (6, 4, MATERIALS),
        "variability": (6, 4, 2, MATERIALS),
    }
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])
        assert not value.requires_grad


def test_sample_sequence_draws_from_the_stated_program():
    count = 4000
    model = build("jump", "autoregressive")
    drawn = {k: v.numpy() for k, v in model.sample_sequence(count, 3, seed=1).items()}
    endmembers, components = model.reference.value, model.components()
    mean = reference.mixed(
        endmembers.detach().numpy(),
        components.detach().numpy(),
        drawn["abundances"],
        drawn["variability"].reshape(count, 3, -1),
    )
    noise, scale = drawn["pixels"] - mean, float(model.noise.scale.detach())
    assert noise.std() == pytest.approx(scale, rel=5 / math.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * scale / math.sqrt(noise.size)
    coefficient, _, _, stationary = (x.detach().numpy() for x in model.variability_prior.chain())
    psi = drawn["variability"].reshape(count, 3, -1) / stationary
    assert psi.var(axis=(0, 1)) == pytest.approx(1, rel=5 * math.sqrt(2 / count))
    lagged = (psi[:, 1:] * psi[:, :-1]).mean(axis=(0, 1))
    assert lagged == pytest.approx(coefficient, abs=5 * math.sqrt(2 / count))


# Errors


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: SGLMM(spectra(), basis="dct"),
            TypeError,
            r"basis must be a Basis object such as DCT.., got 'dct' .str.",
        ),
        (
            lambda: SGLMM(spectra(), abundance_prior=RandomWalk()),
            TypeError,
            r"abundance_prior must be a AbundancePrior object such as SoftmaxWalk..",
        ),
        (
            lambda: SGLMM(spectra(), variability_prior=JumpWalk),
            TypeError,
            r"variability_prior must be a VariabilityPrior object such as RandomWalk..",
        ),
        (
            lambda: SGLMM(spectra(), noise=0.1),
            TypeError,
            r"noise must be a Noise object such as WhiteNoise.., got 0.1 .float.",
        ),
        (lambda: SGLMM(spectra()), ValueError, "needs at least as many bands, got 7"),
        (
            lambda: SGLMM(spectra(), basis=LearnedBasis(np.zeros((BANDS, 1, 2)))),
            ValueError,
            "this basis was learned for",
        ),
        (
            lambda: SGLMM(
                spectra(), basis=DCT(2), abundance_prior=KnownAbundances(np.full((1, 1, 2), 0.5))
            ),
            ValueError,
            "KnownAbundances has 2 materials, the model 3",
        ),
        (lambda: build().sample_sequence(0, 3), ValueError, "num_pixels must be at least 1"),
        (lambda: build().sample_sequence(3, 1.5), TypeError, "num_dates must be an integer"),
        (
            lambda: build()(*pixels(), index=torch.arange(3)),
            ValueError,
            r"index must have one entry per pixel .4., got 3",
        ),
    ],
)
def test_model_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
