"""IDNet's objective and its gradients, written out, and the settings that it was published with."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from idnet_cases import (
    BANDS,
    MATERIALS,
    PAIRS,
    PIXELS,
    bundles,
    data,
    guide_densities,
    model_densities,
    pair,
    small_cube,
    spectra,
    values_of,
)
from pyro import poutine

import pyro_unmix
from pyro_unmix.bases import ScalingDecoder
from pyro_unmix.guides import NonnegativeRegression, TwoStreamGuide
from pyro_unmix.infer import SelfSupervisedELBO
from pyro_unmix.methods import idnet
from pyro_unmix.methods.idnet import PUBLISHED
from pyro_unmix.mixing import LinearMixing
from pyro_unmix.models import IDNet
from pyro_unmix.priors import WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
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
        lambda *_, **keywords: given.update(keywords) or SimpleNamespace(cubes=None),
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


def test_the_objective_is_among_the_losses() -> None:
    assert "SelfSupervisedELBO" in pyro_unmix.infer.__all__
