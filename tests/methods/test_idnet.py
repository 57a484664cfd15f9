"""IDNet's programs and objective against densities written out with numpy and scipy, and its fits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import stats

import pyro_unmix
from pyro_unmix import SGLMM, Unmixing, fit, metrics, simulate
from pyro_unmix.bases import DCT, ScalingDecoder
from pyro_unmix.data import library_endmembers
from pyro_unmix.guides import (
    BiLSTMGuide,
    ConjugateGuide,
    MeanFieldGuide,
    NonnegativeRegression,
    TwoStreamGuide,
)
from pyro_unmix.infer import SelfSupervisedELBO
from pyro_unmix.methods import fcls, idnet
from pyro_unmix.methods.idnet import PUBLISHED
from pyro_unmix.mixing import BilinearMixing, LinearMixing
from pyro_unmix.models import IDNet
from pyro_unmix.posterior import PlugInMean, PosteriorMean
from pyro_unmix.posterior.read_out import Noise
from pyro_unmix.priors import BandNoise, WhiteNoise
from pyro_unmix.start import extract_bundles

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, MATERIALS, LATENTS, PIXELS = 8, 3, 2, 5
PAIRS = ["published", "ours"]


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def pair(kind: str = "published") -> tuple[IDNet, TwoStreamGuide]:
    """Small, in float64, every parameter away from its start."""
    if kind == "published":
        model = IDNet(spectra(), latent_size=LATENTS)
        guide = TwoStreamGuide(model)
    else:
        model = IDNet(
            spectra(),
            latent_size=LATENTS,
            decoder=ScalingDecoder(),
            mixing=BilinearMixing(0.3),
            noise=WhiteNoise(0.05),
            endmember_scale=0.02,
        )
        regression = NonnegativeRegression()
        guide = TwoStreamGuide(model, regression=regression, informed=True, initial_gain=0.3)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double(), guide.double()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    y = np.random.default_rng(1).uniform(0.1, 0.9, size=(PIXELS, 1, BANDS))
    valid = torch.ones(PIXELS, 1, dtype=torch.bool)
    valid[2] = False
    return torch.from_numpy(y), valid


def bundles() -> xr.DataArray:
    rng = np.random.default_rng(3)
    columns = np.concatenate([spectra()[:, [p]] * rng.uniform(0.8, 1.2, 6) for p in range(3)], 1)
    labels = np.repeat(["a", "b", "c"], 6)
    return xr.DataArray(
        columns, dims=("wavelength", "endmember"), coords={"label": ("endmember", labels)}
    )


def values_of(trace: Any) -> dict[str, np.ndarray]:
    sites = trace.nodes.items()
    return {k: v["value"].detach().numpy() for k, v in sites if v["type"] == "sample"}


# ------------------------------------------------------------------------------- densities


def model_densities(model: IDNet, value: dict[str, np.ndarray], y: np.ndarray) -> dict[str, Any]:
    """log p of every site but the mask, with scipy."""
    z, m, a = value["z_1"], value["M_1"], value["a_1"]
    lead = np.broadcast_shapes(z.shape[:-1], m.shape[:-1])
    latents = torch.from_numpy(z).unflatten(-1, (MATERIALS, LATENTS))
    decoded = model.decoder(latents, model.reference.value).detach().numpy()
    scale = np.exp(model.log_endmember_scale.detach().numpy())[:, None]
    cube = m.reshape(*m.shape[:-1], MATERIALS, BANDS)
    mean = model.mixing(torch.from_numpy(cube).mT, torch.from_numpy(a)).detach().numpy()
    noise = model.noise.log_scale.exp().item()
    return {
        "z_1": stats.norm.logpdf(z).sum(-1),
        "M_1": stats.norm.logpdf(cube, decoded, scale).sum((-2, -1)),
        "a_1": np.full(lead, np.log(2.0)),  # of a uniform density on the triangle: (P - 1)!
        "y_1": stats.norm.logpdf(y, mean, noise).sum(-1),
    }


def guide_densities(
    guide: TwoStreamGuide, value: dict[str, np.ndarray], y: np.ndarray, valid: np.ndarray
) -> dict[str, Any]:
    """log q of every site, with scipy."""
    model = guide.model
    pixels, known = torch.from_numpy(y), torch.from_numpy(valid)
    loc, scale = (x.detach().numpy() for x in guide.latents(pixels, known))
    m = torch.from_numpy(value["M_1"]).unflatten(-1, (MATERIALS, BANDS)).mT
    regression, correction = (x.detach().numpy() for x in guide.streams(pixels, m))
    kappa = 10 + 100 * np.exp(float(guide.log_precision.detach()))
    concentration = kappa * np.maximum(regression + correction, 0) + 0.01
    concentration = np.where(valid[:, None], concentration, 1.0)
    a = np.broadcast_to(value["a_1"], concentration.shape)
    log_q = [
        stats.dirichlet.logpdf(x / x.sum(), c)
        for x, c in zip(a.reshape(-1, MATERIALS), concentration.reshape(-1, MATERIALS), strict=True)
    ]
    return {
        "z_1": stats.norm.logpdf(value["z_1"], loc, scale).sum(-1),
        "M_1": model_densities(model, value, y)["M_1"],
        "a_1": np.reshape(log_q, concentration.shape[:-1]),
        "concentration": concentration,
    }


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
        ours, _ = guide.draw(y, valid, {}, Noise(num, 0, y))
        with pyro.plate("draws", num, dim=-2):
            program = poutine.trace(guide).get_trace(y, valid).nodes["a_1"]["value"].numpy()
    ours = ours[:, :, 0].numpy()
    std = program.std(0)
    assert std[valid[:, 0].numpy()].max(-1).min() > 0.05
    # two independent means; a std has an error of (kurtosis - 1)^(1/2) / 2 of its own over the root of their number
    assert (np.abs(ours.mean(0) - program.mean(0)) < 5 * std * np.sqrt(2 / num) + 1e-4).all()
    np.testing.assert_allclose(ours.std(0), std, rtol=0.25, atol=4e-3)


# ------------------------------------------------------------------------------- objective

SETTINGS = {
    "weight": 0.7,
    "label_weight": 3.0,
    "sparsity": 0.02,
    "guide_penalty": 0.3,
    "model_penalty": 0.2,
    "num_draws": 4,
}


class _Recorded(SelfSupervisedELBO):
    """Keeps the triples and the draws of Z behind its last value."""

    def triples(self, num: int) -> Any:
        self.kept = super().triples(num)
        return self.kept

    def _densities(self, program: Any, inputs: Any, kwargs: Any) -> Any:
        nodes = super()._densities(program, inputs, kwargs)
        self.latents = nodes["z_1"]["value"]
        return nodes


def by_hand(loss: _Recorded, model: IDNet, guide: TwoStreamGuide, value: Any, size: int) -> float:
    """The negative objective of the last evaluation, in numpy; `value` are the draws of the pixels."""
    y, valid = data()
    pixels, known = y[:, 0].numpy(), valid[:, 0].numpy()
    p, q = (
        model_densities(model, value, pixels),
        guide_densities(guide, value, pixels * known[:, None], known),
    )
    image = (p["z_1"] + p["a_1"] + p["y_1"] * known - q["z_1"] - q["a_1"]).sum()
    triple_y, m, one_hot = (x.numpy() for x in loss.kept)
    z = loss.latents.detach().numpy()
    smooth = 0.99 * one_hot + 0.01 / MATERIALS
    fixed = {"z_1": z, "M_1": m.reshape(PIXELS, -1)}
    everywhere = np.ones(PIXELS, dtype=bool)
    p = model_densities(model, {**fixed, "a_1": one_hot}, triple_y)
    r = guide_densities(guide, {**fixed, "a_1": smooth}, triple_y, everywhere)
    weights = np.exp(r["M_1"] - r["M_1"].max(0))
    weights /= weights.sum(0)
    ratio = p["y_1"] + p["a_1"] + p["z_1"] - r["a_1"] - r["z_1"]
    supervised = SETTINGS["weight"] / SETTINGS["num_draws"] * (weights * ratio).sum()
    labels = SETTINGS["label_weight"] * (r["a_1"] + r["M_1"].mean(0)).sum()
    sparse = (np.sqrt(q["concentration"][known]).sum(-1) ** 2).sum()
    sparse += (np.sqrt(r["concentration"]).sum(-1) ** 2).sum()
    norms = 0.3 * sum(np.linalg.norm(x.detach()) for x in guide.correction.parameters())
    if hasattr(model.mixing, "net"):
        norms += 0.2 * sum(np.linalg.norm(x.detach()) for x in model.mixing.net.parameters())
    objective = image + supervised + labels - SETTINGS["sparsity"] * sparse - PIXELS / 16 * norms
    return -objective * size / PIXELS


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("scale", [1.0, 0.003])
def test_the_objective_is_the_hand_written_one(kind: str, scale: float) -> None:
    """Also as a batch of a larger scene, and scaled as `fit` scales it."""
    model, guide = pair(kind)
    y, valid = data()
    loss = _Recorded(bundles(), **SETTINGS)
    inputs = {"index": torch.arange(PIXELS), "size": 50, "features": {}}
    torch.manual_seed(7)
    value = values_of(poutine.trace(guide).get_trace(y, valid, **inputs))
    value = {name: value[name] for name in ("z_1", "M_1", "a_1")}
    scaled = poutine.scale(model, scale=scale), poutine.scale(guide, scale=scale)
    for evaluate in (loss.loss, loss.loss_and_grads):
        torch.manual_seed(7)
        got = evaluate(*scaled, y, valid, **inputs)
        expected = scale * by_hand(loss, model, guide, value, size=50)
        assert got == pytest.approx(expected, rel=1e-6)


def test_the_importance_weights_matter() -> None:
    """With the endmembers' scale of the bundles, several draws have weight."""
    model, guide = pair("ours")
    with torch.no_grad():
        model.log_endmember_scale.fill_(-1.0)
    loss = _Recorded(bundles(), **SETTINGS)
    loss.loss(model, guide, *data())
    fixed = {"z_1": loss.latents.numpy(), "M_1": loss.kept[1].reshape(PIXELS, -1).numpy()}
    log_q = model_densities(model, {**fixed, "a_1": loss.kept[2].numpy()}, loss.kept[0].numpy())[
        "M_1"
    ]
    weights = np.exp(log_q - log_q.max(0))
    effective = weights.sum(0) ** 2 / (weights**2).sum(0)
    assert log_q.shape == (4, PIXELS) and 1.05 < effective.mean() < 4


@pytest.mark.parametrize("kind", PAIRS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model, guide = pair(kind)
    y, valid = data()
    valid[:] = True
    SelfSupervisedELBO(bundles(), **SETTINGS).loss_and_grads(model, guide, y, valid)
    for program in (model, guide):
        for name, parameter in program.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("part", ["label", "weight"])
def test_gradients_are_those_of_central_differences(part: str) -> None:
    """Of the supervised terms, whose draws of Z are reparameterised; the Dirichlet's are not there."""
    model, guide = pair("ours")
    model.mixing.logit_strength.data.fill_(-1.0)
    weights = {
        "label": {"weight": 0.0, "label_weight": 3.0},
        "weight": {"weight": 5.0, "label_weight": 5.0},
    }
    loss = SelfSupervisedELBO(bundles(), num_draws=3, **weights[part])

    def evaluate() -> torch.Tensor:
        torch.manual_seed(5)
        return loss._supervised(model, guide, PIXELS, {})[0]

    evaluate().backward()
    for name in (
        "decoder.log_brightness",
        "log_endmember_scale",
        "encoder.weights.0",
        "correction.4.weight",
    ):
        owner = model if name in dict(model.named_parameters()) else guide
        parameter = dict(owner.named_parameters())[name]
        flat, index = parameter.data.view(-1), int(parameter.grad.abs().argmax())
        old, values = float(flat[index]), []
        for sign in (1, -1):
            flat[index] = old + sign * 1e-6
            values.append(float(evaluate().detach()))
        flat[index] = old
        expected = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad.view(-1)[index]) == pytest.approx(expected, rel=1e-4), name


def test_published_sizes_weights_and_starts_are_the_papers() -> None:
    model = IDNet(np.random.default_rng(0).uniform(0.1, 0.9, size=(156, 3)))
    guide = TwoStreamGuide(model)
    widths = [layer.weight.shape for layer in guide.correction[::2]]
    assert widths == [(312, 156), (78, 312), (39, 78), (12, 39), (3, 12)]
    assert guide.encoder.sizes == (156, 10, 4, 2 * 2)  # mean and log scale share the first layers
    with torch.no_grad():
        assert guide.regression.steps.tolist() == pytest.approx([0.01] * 10)
        assert float(guide.regression.shrinkage) == pytest.approx(0.01)
        assert float(guide.log_precision) == pytest.approx(0.0, abs=1e-6)  # kappa = 10 + 100 e^0
        assert float(model.noise.scale) == pytest.approx(0.1)  # variance 0.01
        assert model.log_endmember_scale.exp().tolist() == pytest.approx([0.1] * 3)
    assert (guide.scale, model.mixing.scale) == (0.1, 0.1)
    loss = SelfSupervisedELBO(bundles())
    assert (loss.label_weight, loss.num_draws, loss.smoothing) == (11.0, 5, 0.01)
    assert PUBLISHED == {
        "bilinear": (10, 0, 1e4, 1e-3),
        "variability": (1, 0.005, 0.01, 0.1),
        "samson": (1, 0.005, 0.01, 0.1),
        "jasper_ridge": (1, 0, 0.01, 0.1),
        "cuprite": (10, 0.1, 0.05, 5),
    }


def test_published_settings_reach_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        sys.modules["pyro_unmix.methods.idnet"],
        "fit",
        lambda *_, **keywords: given.update(keywords),
    )
    idnet(small_cube().cubes, 3, published="cuprite", progress=False)
    loss = given["loss"]
    weights = loss.weight, loss.sparsity, loss.guide_penalty, loss.model_penalty
    assert weights == (10, 0.1, 0.05, 5) and loss.label_weight == 11
    assert (given["batch_size"], given["learning_rate"], given["num_epochs"]) == (16, 1e-3, 20)
    assert given["learning_rate_decay"] == pytest.approx(0.9**10)
    # without them
    idnet(small_cube().cubes, 3, progress=False)
    assert (given["batch_size"], given["num_epochs"], given["loss"].weight) == (128, 3, 0.1)
    rates = {given["learning_rate"](name) for name in ("guide$$$encoder.weights.0", "model.mixing")}
    assert rates == {2e-3, 0.02}


def test_labels_stay_finite_at_a_one_hot() -> None:
    """Where the regression says exactly zero, the density and its gradients are finite."""
    model = IDNet(
        spectra(), decoder=ScalingDecoder(), mixing=LinearMixing(), noise=WhiteNoise(0.01)
    )
    guide = TwoStreamGuide(
        model,
        regression=NonnegativeRegression(),
        informed=True,
        initial_gain=0.0,
        initial_precision=3e3,
    )
    pure = xr.DataArray(
        spectra(),
        dims=("wavelength", "endmember"),
        coords={"label": ("endmember", ["a", "b", "c"])},
    )
    loss = SelfSupervisedELBO(pure, noise_scale=0.0)
    y = torch.tensor(spectra().T[:, None]).float()
    value = loss.loss_and_grads(model, guide, y, torch.ones(3, 1, dtype=torch.bool))
    assert np.isfinite(value)
    for parameter in [*model.parameters(), *guide.parameters()]:
        assert torch.isfinite(parameter.grad).all()


def test_triples_are_pure_pixels_of_the_bundles() -> None:
    loss = SelfSupervisedELBO(bundles(), noise_scale=0.02)
    y, m, a = (x.numpy() for x in loss.triples(600))
    assert set(np.unique(a)) == {0.0, 1.0} and (a.sum(1) == 1).all()
    assert (np.abs(a.mean(0) - 1 / 3) < 5 * np.sqrt(2 / 9 / 600)).all()
    noise = y - np.einsum("npl,np->nl", m, a)
    assert abs(noise.std() / 0.02 - 1) < 5 / np.sqrt(2 * noise.size)
    known = bundles().values.T.reshape(3, 6, BANDS)
    for p in range(3):
        distance = np.abs(m[:, p, None] - known[p]).max(-1)
        assert distance.min(1).max() < 1e-6 and len(set(distance.argmin(1))) == 6
    # 40 dB below the bundles unless it is given
    assert SelfSupervisedELBO(bundles()).noise_scale == pytest.approx(
        np.sqrt((bundles().values ** 2).mean() / 1e4), rel=1e-6
    )


# ------------------------------------------------------------------------------- fits


STRENGTH, BRIGHTNESS = 0.8, 0.15


def drawn_scene(
    num_pixels: int = 400, noise_scale: float = 0.01
) -> tuple[IDNet, dict[str, torch.Tensor], np.ndarray]:
    """Pixels drawn from the model itself, and its endmembers."""
    library = simulate.library(np.linspace(450, 2400, 30)).values
    matrix = library[:, np.argsort(-library.mean(0))[:3]]
    model = IDNet(
        matrix,
        decoder=ScalingDecoder(BRIGHTNESS),
        mixing=BilinearMixing(STRENGTH),
        noise=WhiteNoise(noise_scale),
        endmember_scale=0.003,
    )
    return model, model.sample_sequence(num_pixels, seed=3), matrix


def posterior_means(y: np.ndarray, matrix: np.ndarray, noise_scale: float) -> np.ndarray:
    """``E[a | y]`` under the truth: draws from the prior, weighted by the likelihood."""
    rng = np.random.default_rng(0)
    a = rng.dirichlet(np.ones(3), size=100_000)
    parts = (a * np.exp(BRIGHTNESS * rng.normal(size=a.shape)))[:, None] * matrix
    mean = parts.sum(-1)
    for p, q in ((0, 1), (0, 2), (1, 2)):
        mean += STRENGTH * parts[..., p] * parts[..., q]
    log_weights = (y @ mean.T - 0.5 * (mean**2).sum(1)) / noise_scale**2
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return weights @ a / weights.sum(1, keepdims=True)


def test_recovery_of_data_drawn_from_the_model() -> None:
    """Abundances and noiseless pixels, from a start that knows neither strengths, brightness nor noise.

    The least error that any method can have is that of the exact posterior mean; ours may be half a posterior std
    (in the mean square) away from it, which makes an error at most 12 % larger. Noiseless pixels are as close as a
    least-squares fit of a pixel's five free numbers. Strengths are not recovered: the decoders can take their place.
    """
    sigma, bands = 0.03, 30
    truth, drawn, matrix = drawn_scene(noise_scale=sigma)
    model = IDNet(
        matrix,
        decoder=ScalingDecoder(0.3),
        mixing=BilinearMixing(0.2),
        noise=WhiteNoise(2 * sigma),
        endmember_scale=0.01,
    )
    guide = TwoStreamGuide(
        model,
        regression=NonnegativeRegression(),
        informed=True,
        initial_gain=0.0,
        initial_precision=1e3,
    )
    y, a = drawn["pixels"][:, 0].numpy(), drawn["abundances"][:, 0].numpy()
    cube = y.reshape(1, 20, 20, bands)
    result = fit(
        model, guide, cube, num_steps=150, batch_size=100, progress=False,
        learning_rate=lambda name: 1e-3 if "net" in name or "correction" in name else 0.05,
        learning_rate_decay=0.1, estimate=PosteriorMean(16),
    )  # fmt: skip
    best = posterior_means(y, matrix, sigma)
    least = ((best - a) ** 2).mean()
    ours = result.abundances.values.reshape(-1, 3)
    assert ((ours - best) ** 2).mean() < 0.25 * least
    assert ((ours - a) ** 2).mean() < 1.25 * least
    noiseless = truth.mix(drawn["abundances"][:, 0], drawn["variability"][:, 0]).detach().numpy()
    wrong = ((result.reconstruct().values.reshape(-1, bands) - noiseless) ** 2).mean()
    assert wrong < sigma**2 * 5 / bands
    # between the residual of that fit and the largest that noise and endmember scale explain
    learned = float(result.model.noise.scale.detach())
    assert sigma * np.sqrt(1 - 5 / bands) < learned < 1.1 * sigma


def small_cube(side: int = 12) -> simulate.Scene:
    library = simulate.library(np.linspace(450, 2400, 24))
    return simulate.scaled_scene(num_dates=1, height=side, width=side, library=library)


def quick(**settings: Any) -> Unmixing:
    return idnet(small_cube().cubes, 3, progress=False, num_steps=3, **settings)


@pytest.mark.parametrize("published", [None, *PUBLISHED])
def test_the_preset_gives_a_whole_result(published: str | None, tmp_path: Path) -> None:
    result = quick(published=published)
    assert result.method == "idnet" and len(result.losses) == 3
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert (result.abundances_std > 0).all()
    assert result.dataset["variability"].sizes["component"] == 2
    endmembers, picture = result.endmembers(), result.reconstruct()
    assert endmembers.dims == ("y", "x", "wavelength", "endmember")
    psi = torch.from_numpy(result.dataset["variability"].values[0])
    with torch.no_grad():
        m = result.model.decoder(psi.transpose(-1, -2), result.model.reference.value).mT
        a = torch.from_numpy(result.abundances.values[0])
        np.testing.assert_allclose(endmembers, m, atol=1e-6)
        np.testing.assert_allclose(picture, result.model.mixing(m, a), atol=1e-6)
        if published is not None:  # read out at the decoded endmembers, without their white noise
            y = torch.from_numpy(small_cube().cubes.values.reshape(144, -1)).float()
            c = result.guide.concentration(y, torch.ones(144, dtype=torch.bool), m.flatten(0, 1))
            np.testing.assert_allclose(a.flatten(0, 1), c / c.sum(-1, keepdim=True), atol=1e-5)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.reconstruct(), picture, atol=1e-6)
    np.testing.assert_allclose(loaded.sample(2), result.sample(2), atol=1e-6)


def test_read_out_does_not_depend_on_the_neighbours_and_repeats() -> None:
    scene = small_cube()
    result = idnet(scene.cubes, 3, progress=False, num_steps=2)
    part = scene.cubes.isel(y=slice(3, 7), x=slice(2, 4))
    alone = result.predict(part)
    whole = result.abundances.isel(y=slice(3, 7), x=slice(2, 4))
    np.testing.assert_allclose(alone.abundances, whole, atol=1e-5)
    again = idnet(scene.cubes, 3, progress=False, num_steps=2)
    np.testing.assert_array_equal(again.abundances, result.abundances)
    means = idnet(scene.cubes, 3, progress=False, num_steps=2, estimate=PlugInMean())
    np.testing.assert_allclose(means.abundances, result.abundances, atol=0.1)


def test_std_and_mean_are_those_of_the_dirichlet() -> None:
    """With latents held in place, the draws' moments are a Dirichlet distribution's."""
    scene = small_cube(4)
    model = IDNet(
        scene.reference_endmembers,
        decoder=ScalingDecoder(1e-4),
        mixing=LinearMixing(),
        endmember_scale=1e-6,
    )
    guide = TwoStreamGuide(model, regression=NonnegativeRegression(), initial_precision=40.0)
    result = fit(
        model, guide, scene.cubes, num_steps=0, progress=False, estimate=PosteriorMean(4000)
    )
    y = torch.from_numpy(scene.cubes.values.reshape(16, -1)).float()
    with torch.no_grad():
        c = guide.concentration(y, torch.ones(16, dtype=torch.bool), model.reference.value).numpy()
    total = c.sum(1, keepdims=True)
    std = np.sqrt(c * (total - c) / total**2 / (total + 1)).reshape(1, 4, 4, 3)
    mean = (c / total).reshape(1, 4, 4, 3)
    assert (np.abs(result.abundances - mean) < 5 * std / np.sqrt(4000) + 1e-4).all()
    np.testing.assert_allclose(result.abundances_std, std, rtol=0.12, atol=2e-3)


def test_missing_pixels_are_filled() -> None:
    scene = small_cube()
    cubes = scene.cubes.copy(deep=True)
    cubes[0, 4, 5] = np.nan
    result = idnet(cubes, 3, progress=False, num_steps=2)
    assert np.isfinite(result.abundances).all() and not result.valid[0, 4, 5]
    assert (result.abundances_std[0, 4, 5] > 0.1).all()


def test_known_endmembers_and_libraries_are_used() -> None:
    scene = small_cube()
    names = ["a", "b", "c"]
    known = scene.reference_endmembers.assign_coords(endmember=names)
    result = quick(endmembers=known)
    np.testing.assert_allclose(result.reference_endmembers, known, atol=1e-6)
    assert result.abundances["endmember"].values.tolist() == names
    library = extract_bundles(scene.cubes, known, 5)
    result = quick(endmembers=library)
    assert result.abundances["endmember"].values.tolist() == names


def test_the_defaults_beat_fcls_on_a_bilinear_scene() -> None:
    _, drawn, matrix = drawn_scene(900)
    cube = drawn["pixels"].numpy().reshape(1, 30, 30, -1)
    truth = drawn["abundances"].numpy().reshape(1, 30, 30, 3)
    known = xr.DataArray(matrix, dims=("wavelength", "endmember"))
    ours = idnet(cube, 3, endmembers=known, progress=False, num_epochs=2)
    linear = fcls(cube, endmembers=known, progress=False)
    assert isinstance(ours.model.mixing, BilinearMixing)
    error, other = (metrics.nrmse_abundances(r.abundances, truth) for r in (ours, linear))
    assert error < 0.6 * other


def evaluate(library: xr.DataArray, model: IDNet | None = None) -> float:
    model = IDNet(spectra()) if model is None else model
    return SelfSupervisedELBO(library).loss(model, TwoStreamGuide(model), *data())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: quick(published="moon"), ValueError, "published must be one of 'bilinear'"),
        (lambda: quick(steps=3), TypeError, "unexpected keyword argument 'steps'"),
        (
            lambda: idnet(simulate.scaled_scene(num_dates=2, height=4, width=4).cubes, 3),
            ValueError,
            r"idnet unmixes one image, got 2 dates: select one with .isel\(time=\[0\]\)",
        ),
        (
            lambda: quick(endmembers=np.ones((24, 2)) * [0.2, 0.5]),
            ValueError,
            "num_endmembers is 3",
        ),
        (lambda: IDNet(spectra(), latent_size=0), ValueError, "latent_size must be at least 1"),
        (lambda: IDNet(spectra(), mixing="linear"), TypeError, "mixing must be a Mixing object"),
        (lambda: IDNet(spectra(), decoder=LinearMixing()), TypeError, "decoder must be a Decoder"),
        (lambda: IDNet(spectra(), endmember_scale=0.0), ValueError, "endmember_scale must lie in"),
        (
            lambda: TwoStreamGuide(SGLMM(np.ones((12, 2)) * [0.2, 0.5])),
            TypeError,
            "built from an IDNet",
        ),
        (
            lambda: TwoStreamGuide(pair()[0], regression=3),
            TypeError,
            "regression must be a Regression",
        ),
        (
            lambda: TwoStreamGuide(pair()[0], informed=True),
            ValueError,
            r"needs a decoder with a brightness_posterior, such as ScalingDecoder\(\), got Perceptron",
        ),
        (
            lambda: TwoStreamGuide(IDNet(spectra(), noise=BandNoise(0.1))),
            ValueError,
            "TwoStreamGuide serves white noise only, got BandNoise",
        ),
        (lambda: SelfSupervisedELBO(spectra()), TypeError, "bundles must be a DataArray"),
        (lambda: SelfSupervisedELBO(bundles() * np.nan), ValueError, "bundles must be finite"),
        (
            lambda: evaluate(bundles()[:, :12]),
            ValueError,
            "the model has 3 materials and 8 bands, the bundles have 2 and 8: make them by extract_b",
        ),
        (
            lambda: evaluate(bundles()[:5]),
            ValueError,
            "3 materials and 8 bands, the bundles have 3 and 5",
        ),
        (
            lambda: evaluate(bundles(), IDNet(library_endmembers(bundles()[:, ::-1]))),
            ValueError,
            r"in the order of the model's materials, \['c', 'b', 'a'\], got \['a', 'b', 'c'\]",
        ),
        (
            lambda: SelfSupervisedELBO(bundles()).loss(
                SGLMM(spectra(), basis=DCT(2)), None, *data()
            ),
            TypeError,
            "SelfSupervisedELBO is the objective of IDNet, got a SGLMM",
        ),
        (lambda: SelfSupervisedELBO(bundles(), weight=-1), ValueError, "weight must lie in"),
        (
            lambda: SelfSupervisedELBO(bundles(), weight=10, label_weight=1),
            ValueError,
            "label_weight must be at least weight / num_draws = 2",
        ),
        (
            lambda: pair()[0](None, torch.ones(3, 2, dtype=torch.bool)),
            ValueError,
            "IDNet unmixes one image, got 2 dates",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("guide", [BiLSTMGuide, ConjugateGuide, MeanFieldGuide])
def test_guides_of_sequences_say_that_they_are(guide: Any) -> None:
    text = f"{guide.__name__} is a guide of SGLMM, got IDNet: use TwoStreamGuide"
    with pytest.raises(TypeError, match=text):
        guide(pair()[0])


def test_the_objective_is_among_the_losses() -> None:
    assert "SelfSupervisedELBO" in pyro_unmix.infer.__all__


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
