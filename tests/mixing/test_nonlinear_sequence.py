"""`SGLMM` with nonlinear mixing and with latent endmembers: densities by hand, guides, saving, and a fit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

import pyro_unmix as pu
from pyro_unmix.bases import DecodedBasis

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, MATERIALS, DATES, PIXELS = 7, 3, 2, 4


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def build(mixing: Any = None, basis: Any = None) -> pu.SGLMM:
    """In float64, every parameter away from its start."""
    model = pu.SGLMM(
        pu.FixedEndmembers(spectra()),
        basis=basis or pu.Brightness(0.2),
        mixing=mixing,
        variability_prior=pu.priors.AutoRegressive(0.5),
        noise=pu.priors.WhiteNoise(0.05),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


PARTS = {
    "bilinear": lambda: {"mixing": pu.mixing.BilinearMixing(0.6)},
    "two-stream": lambda: {"mixing": pu.mixing.TwoStreamMixing()},
    "decoded": lambda: {"basis": DecodedBasis(pu.bases.ScalingDecoder(0.3))},
    "published decoder": lambda: {"basis": DecodedBasis(pu.bases.PerceptronDecoder(), 3)},
    "both": lambda: {
        "mixing": pu.mixing.BilinearMixing(0.4),
        "basis": DecodedBasis(pu.bases.ScalingDecoder(0.2)),
    },
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    y = np.random.default_rng(1).uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS))
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 0] = False
    return torch.from_numpy(y), valid


def pixel_by_hand(model: pu.SGLMM, kind: str, a: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """A noiseless pixel of abundances (P,) and variability (K, P), in numpy where that is short."""
    m0 = spectra()
    if kind in ("bilinear", "two-stream"):
        m = m0 * (1 + 0.2 * psi[0])
    else:
        decoder = model.basis.decoder
        with torch.no_grad():
            net = decoder.net(torch.from_numpy(psi.T)).numpy().T
            if kind == "published decoder":
                m = 1 / (1 + np.exp(-net))
            else:
                m = m0 * np.exp(np.exp(decoder.log_brightness.numpy()) * psi[0] + net)
    y = m @ a
    if kind in ("bilinear", "both"):
        strength = 1 / (1 + np.exp(-model.mixing.logit_strength.detach().numpy()))
        for gamma, (p, q) in zip(strength, itertools.combinations(range(3), 2), strict=True):
            y = y + gamma * a[p] * a[q] * m[:, p] * m[:, q]
    if kind == "two-stream":
        with torch.no_grad():
            inputs = torch.from_numpy(np.concatenate([m.T.ravel(), a]))
            y = np.maximum(y + 0.1 * model.mixing.net(inputs).numpy(), 0)
    return y


@pytest.mark.parametrize("kind", PARTS)
def test_pixels_are_those_worked_out_by_hand(kind: str) -> None:
    model = build(**PARTS[kind]())
    y, valid = data()
    trace = poutine.trace(model).get_trace(y, valid)
    trace.compute_log_prob()
    noise = float(model.noise.scale.detach())
    for t in range(DATES):
        c = trace.nodes[f"c_{t + 1}"]["value"].detach().numpy()
        psi = trace.nodes[f"psi_{t + 1}"]["value"].detach().numpy().reshape(PIXELS, -1, MATERIALS)
        a = np.exp(c) / np.exp(c).sum(-1, keepdims=True)
        mean = np.stack([pixel_by_hand(model, kind, a[n], psi[n]) for n in range(PIXELS)])
        expected = stats.norm.logpdf(y[:, t], mean, noise).sum(-1) * valid[:, t].numpy()
        got = trace.nodes[f"y_{t + 1}"]["log_prob"].detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        with torch.no_grad():
            mixed = model.mix(torch.from_numpy(a), torch.from_numpy(psi))
        np.testing.assert_allclose(mixed, mean, rtol=1e-6)


def test_linear_mixing_is_what_it_was() -> None:
    """One matrix product and endmembers of every pixel give the same noiseless pixels."""
    model = build()
    rng = np.random.default_rng(2)
    a = torch.from_numpy(rng.dirichlet(np.ones(3), size=5))
    psi = torch.from_numpy(rng.normal(size=(5, 1, 3)))
    with torch.no_grad():
        m = model.mixing_endmembers(psi)
        expected = (m @ a.unsqueeze(-1)).squeeze(-1)
        np.testing.assert_allclose(model.mix(a, psi), expected, rtol=1e-12)
    assert hasattr(model, "components") and model.components().shape == (BANDS, 1, MATERIALS)


@pytest.mark.parametrize("kind", PARTS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model = build(**PARTS[kind]())
    guide = pu.BiLSTMGuide(model).double()
    with torch.no_grad():  # away from its zeros
        for parameter in guide.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    pyro.infer.Trace_ELBO().loss_and_grads(model, guide, *data())
    for part in (model.mixing, model.basis, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


def test_the_slopes_of_a_decoder_are_those_of_its_exponential() -> None:
    basis = DecodedBasis(pu.bases.ScalingDecoder(0.3))
    basis.setup(
        num_bands=BANDS, num_endmembers=MATERIALS, generator=torch.Generator().manual_seed(0)
    )
    slopes = basis.components(torch.from_numpy(spectra()).float()).numpy()
    np.testing.assert_allclose(slopes[:, 0], np.sinh(0.3) * spectra(), rtol=1e-5)
    assert (slopes[:, 1] == 0).all()  # the network says nothing yet


def test_a_guide_that_assumes_linear_mixing_refuses() -> None:
    for parts in PARTS.values():
        with pytest.raises(
            ValueError, match=r"ConjugateGuide cannot serve pixels that are not lin"
        ):
            pu.ConjugateGuide(build(**parts()))


@pytest.mark.parametrize("kind", ["bilinear", "both"])
def test_a_fit_reads_out_its_own_endmembers_and_pixels(kind: str, tmp_path: Path) -> None:
    scene = pu.simulate.scaled_scene(num_dates=2, height=5, width=6)
    cubes = scene.cubes.isel(wavelength=slice(None, None, 20))
    m0 = pu.FixedEndmembers(scene.reference_endmembers.isel(wavelength=slice(None, None, 20)))
    model = pu.SGLMM(m0, variability_prior=pu.priors.AutoRegressive(0.5), **PARTS[kind]())
    result = pu.fit(model, pu.BiLSTMGuide(model), cubes, num_steps=3, progress=False)
    psi = torch.from_numpy(result.dataset["variability"].values[1])
    a = torch.from_numpy(result.abundances.values[1])
    fitted = result.model
    with torch.no_grad():
        m = fitted.mixing_endmembers(psi)
        np.testing.assert_allclose(result.endmembers(1), m, atol=1e-6)
        np.testing.assert_allclose(result.reconstruct(1), fitted.mixing(m, a), atol=1e-6)
    pyro.clear_param_store()
    assert pu.posterior.degree_of_nonlinearity(result, 1).min() > 0
    assert not pyro.get_param_store().keys()  # reading leaves it as it was
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.reconstruct(1), result.reconstruct(1), atol=1e-6)
    np.testing.assert_allclose(loaded.sample(2), result.sample(2), atol=1e-6)


def test_a_fitted_decoder_starts_where_it_is_and_the_original_stays() -> None:
    scene = pu.simulate.scaled_scene(num_dates=2, height=8, width=8)
    cubes = scene.cubes.isel(wavelength=slice(None, None, 20))
    m0 = scene.reference_endmembers.isel(wavelength=slice(None, None, 20))
    first = pu.idnet(cubes.isel(time=[0]), 3, endmembers=m0, num_steps=3, progress=False)
    trained = first.model.decoder
    before = [value.detach().clone() for value in trained.parameters()]
    pyro.clear_param_store()
    model = pu.SGLMM(
        pu.FixedEndmembers(m0),
        basis=DecodedBasis(trained),
        variability_prior=pu.priors.Independent(),
    )
    assert not pyro.get_param_store().keys()  # building a model leaves it as it was
    for ours, theirs in zip(model.basis.decoder.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)
    pu.fit(model, pu.BiLSTMGuide(model), cubes, num_steps=3, progress=False)
    moved = [not torch.equal(x, y) for x, y in zip(model.basis.parameters(), before, strict=True)]
    assert any(moved)
    assert all(torch.equal(x, y) for x, y in zip(trained.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: build(mixing="bilinear"), TypeError, "mixing must be a Mixing object"),
        (lambda: DecodedBasis(pu.bases.DCT(3)), TypeError, "decoder must be a Decoder object"),
        (
            lambda: DecodedBasis(pu.bases.ScalingDecoder(), 0),
            ValueError,
            "latent_size must be at least",
        ),
        (
            lambda: build(basis=DecodedBasis(pu.IDNet(np.eye(5)[:, :2] + 0.1).decoder)),
            ValueError,
            r"the decoder was made for other numbers .* than \(7, 3, 2\): pass a new one",
        ),
    ],
)
def test_bad_parts_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
