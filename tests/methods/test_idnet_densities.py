"""IDNet's programs against densities written out with numpy and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from idnet_cases import (
    LATENTS,
    PAIRS,
    PIXELS,
    data,
    guide_densities,
    model_densities,
    pair,
    spectra,
    values_of,
)
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_unmix.bases import ScalingDecoder
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide, MeanFieldGuide, TwoStreamGuide
from pyro_unmix.mixing import BilinearMixing
from pyro_unmix.models import IDNet
from pyro_unmix.posterior.programs import CommonNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


# ------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("kind", PAIRS)
def test_densities_are_those_of_scipy(kind: str) -> None:
    model, guide = pair(kind)
    y, valid = data()
    drawn = poutine.trace(guide).get_trace(y, valid)
    joint = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(y, valid)
    drawn.compute_log_prob()
    joint.compute_log_prob()
    value, pixels = values_of(joint), y[:, 0].numpy()
    of_model = model_densities(model, value, pixels)
    of_model["y_1"] = of_model["y_1"] * valid[:, 0].numpy()
    masked = pixels * valid.numpy()
    of_guide = guide_densities(guide, value, masked, valid[:, 0].numpy())
    for trace, expected in ((joint, of_model), (drawn, of_guide)):
        for name in ("z_1", "M_1", "a_1", *(["y_1"] if trace is joint else [])):
            got = trace.nodes[name]["log_prob"].detach().numpy()
            np.testing.assert_allclose(got, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_missing_pixel_has_the_prior() -> None:
    _, guide = pair("ours")
    y, valid = data()
    drawn = poutine.trace(guide).get_trace(y, valid).nodes
    assert (drawn["z_1"]["fn"].loc[2] == 0).all() and (drawn["z_1"]["fn"].scale[2] == 1).all()
    assert (drawn["a_1"]["fn"].concentration[2] == 1).all()
    y[2] = np.nan  # whatever stands there
    again = poutine.trace(guide).get_trace(y, valid).nodes
    assert torch.equal(drawn["a_1"]["fn"].concentration[2], again["a_1"]["fn"].concentration[2])


def test_the_degree_of_nonlinearity_of_the_guide_compares_its_streams() -> None:
    _, guide = pair("published")
    y, valid = data()
    m = torch.from_numpy(spectra()).expand(PIXELS, -1, -1)
    got = guide.degree_of_nonlinearity(y, valid, m).detach().numpy()
    net = [(x.weight.detach().numpy().T, x.bias.detach().numpy()) for x in guide.correction[::2]]
    h = y[:, 0].numpy()
    for weight, bias in net[:-1]:
        h = np.maximum(h @ weight + bias, 0)
    h = 0.1 * np.linalg.norm(h @ net[-1][0] + net[-1][1], axis=1)
    r = guide.regression(m, y[:, 0], guide.model.mixing).detach().numpy()
    expected = h / (h + np.linalg.norm(r, axis=1))
    assert np.isnan(got[2]) and np.delete(expected, 2).min() > 0.001
    np.testing.assert_allclose(np.delete(got, 2), np.delete(expected, 2), rtol=1e-6)
    of_mean = guide.degree_of_nonlinearity(y, valid)
    assert not torch.isnan(of_mean[:2]).any() and (of_mean[:2] != torch.from_numpy(got[:2])).all()


@pytest.mark.parametrize("kind", PAIRS)
def test_a_plate_of_particles_goes_through(kind: str) -> None:
    model, guide = pair(kind)
    y, valid = data()
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    assert np.isfinite(loss.loss(model, guide, y, valid))


def test_read_out_draws_as_the_program_does() -> None:
    """Mean and std of the abundances, where the latents make most of their spread."""
    model, guide = pair("ours")
    with torch.no_grad():
        model.decoder.log_brightness.fill_(0.0)
        guide.log_precision.fill_(4.0)
        guide.encoder.biases[-1][..., LATENTS:] += 2.0
    (y, valid), num = data(), 1000
    with torch.no_grad():
        ours, _ = guide.draw(y, valid, {}, CommonNoise(num, 0, y))
        with pyro.plate("draws", num, dim=-2):
            program = poutine.trace(guide).get_trace(y, valid).nodes["a_1"]["value"].numpy()
    ours = ours[:, :, 0].numpy()
    std = program.std(0)
    assert std[valid[:, 0].numpy()].max(-1).min() > 0.05
    # two independent means; a std has an error of (kurtosis - 1)^(1/2) / 2 of its own over the root of their number
    assert (np.abs(ours.mean(0) - program.mean(0)) < 5 * std * np.sqrt(2 / num) + 1e-4).all()
    np.testing.assert_allclose(ours.std(0), std, rtol=0.25, atol=4e-3)


# ------------------------------------------------------------------------------- objective


@pytest.mark.parametrize("guide", [BiLSTMGuide, ConjugateGuide, MeanFieldGuide])
def test_guides_of_sequences_say_that_they_are(guide: Any) -> None:
    text = f"{guide.__name__} is a guide of SGLMM, got IDNet: use TwoStreamGuide"
    with pytest.raises(TypeError, match=text):
        guide(pair()[0])


@pytest.mark.parametrize("kind", PAIRS)
def test_building_leaves_the_global_state_alone(kind: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    build = (lambda: IDNet(spectra(), seed=4)) if kind == "published" else (
        lambda: IDNet(spectra(), seed=4, decoder=ScalingDecoder(), mixing=BilinearMixing())
    )  # fmt: skip
    first, second = build(), build()
    guides = TwoStreamGuide(first, seed=2), TwoStreamGuide(second, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    for one, other in ((first, second), guides):
        for x, y in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(x, y)
