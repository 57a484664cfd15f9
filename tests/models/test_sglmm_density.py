"""The density of `SGLMM`, site by site, against one written by hand."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import reference
import torch
from model_cases import CHAINS, DATES, PIXELS, WALKS, build, draws, pixels
from pyro import poutine

from pyro_unmix import SGLMM
from pyro_unmix.priors import AutoRegressive, JumpWalk, RandomWalk

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


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
