"""The weighted objective against densities written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from pyro import poutine
from scipy import stats

from pyro_unmix import SGLMM, BiLSTMGuide, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.guides import PublishedGuide
from pyro_unmix.infer import Ramp, WeightedELBO
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.models.published import RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.ops.distributions import DiagonalNormal, IsotropicNormal
from pyro_unmix.priors import RandomWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 7, 3, 2, 4, 3


def perturbed(module: torch.nn.Module) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def published_pair() -> tuple[FirstDateSGLMM, PublishedGuide]:
    """Small, in float64, every parameter away from its start."""
    matrix = np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))
    model = FirstDateSGLMM(
        matrix,
        basis=RawDCT(COMPONENTS, amplitude=0.5),
        abundance_prior=VarianceWalk(),
        variability_prior=RandomWalk(0.3),
        noise=WhiteNoise(0.1),
    )
    guide = PublishedGuide(model, basis=TransposedDCT(COMPONENTS, amplitude=0.5))
    return perturbed(model.double()), perturbed(guide.double())


def paper_pair() -> tuple[SGLMM, BiLSTMGuide]:
    matrix = np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))
    model = SGLMM(matrix, basis=DCT(COMPONENTS), noise=WhiteNoise(0.1))
    guide = BiLSTMGuide(model)
    return perturbed(model.double()), perturbed(guide.double())


def data() -> tuple[torch.Tensor, torch.Tensor]:
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 2] = valid[2, 0] = False
    y = np.random.default_rng(1).uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS))
    return torch.from_numpy(y) * valid.unsqueeze(-1), valid


def kl(loc: Any, scale: Any, prior_loc: Any, prior_scale: Any) -> Any:
    """Of two diagonal Gaussians, summed over the last axis."""
    ratio = scale / prior_scale
    distance = (loc - prior_loc) / prior_scale
    return (0.5 * (ratio**2 + distance**2 - 1) - np.log(ratio)).sum(-1)


def log_likelihood_and_kl(
    model: FirstDateSGLMM, guide: PublishedGuide, y: Any, valid: Any
) -> tuple[float, float]:
    """Of the next draw, from the guide's means and scales of every site, by hand."""
    nodes = poutine.trace(guide).get_trace(y, valid).nodes
    value = {k: v.detach().numpy() for k, v in model.named_parameters()}
    net = [(value[f"abundance_prior.net.{i}.weight"], value[f"abundance_prior.net.{i}.bias"])
           for i in (0, 2)]  # fmt: skip
    m0 = value["reference.value"]
    band, k = np.arange(BANDS)[:, None], np.arange(COMPONENTS)
    columns = 0.5 * np.cos(np.pi * k * (2 * band + 1) / (2 * BANDS))
    divergence = likelihood = 0.0
    before: dict[str, Any] = {}
    for t in range(1, DATES + 1):
        for name, part in (("c", "abundance_prior"), ("psi", "variability_prior")):
            site = nodes[f"{name}_{t}"]
            loc, scale = (x.detach().numpy() for x in (site["fn"].loc, site["fn"].scale))
            if t == 1:
                prior = value[f"{part}.initial_loc"], np.exp(value[f"{part}.log_initial_scale"])
            elif name == "psi":
                prior = before["psi"], float(model.variability_prior.log_scale.exp())
            else:
                variance = 0.1 * reference.scale_network(before["c"], net)
                prior = before["c"], np.sqrt(variance)
            divergence += kl(loc, scale, *prior).sum()
        before = {name: nodes[f"{name}_{t}"]["value"].detach().numpy() for name in ("c", "psi")}
        mean = reference.mixed(
            m0,
            np.einsum("lk,lp->lkp", columns, m0),
            reference.softmax(before["c"]),
            before["psi"],
        )
        noise = np.exp(value["noise.log_scale"])
        densities = reference.log_normal(y[:, t - 1].numpy(), mean, noise)
        likelihood += densities[valid[:, t - 1].numpy()].sum()
    return likelihood, divergence


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 6.0])
def test_the_objective_is_the_hand_written_one(weight: float) -> None:
    model, guide = published_pair()
    y, valid = data()
    torch.manual_seed(5)
    likelihood, divergence = log_likelihood_and_kl(model, guide, y, valid)
    assert abs(divergence) > 1  # so that its weight is seen
    loss = WeightedELBO(weight)
    for evaluate in (loss.loss, loss.loss_and_grads):
        torch.manual_seed(5)
        got = evaluate(model, guide, y, valid)
        assert got == pytest.approx(weight * divergence - likelihood, rel=1e-10)


def test_the_weight_follows_the_updates() -> None:
    model, guide = published_pair()
    y, valid = data()
    torch.manual_seed(5)
    likelihood, divergence = log_likelihood_and_kl(model, guide, y, valid)
    loss = WeightedELBO(Ramp(4, final=2.0))
    for weight in (0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0):
        for evaluate in (loss.loss, loss.loss_and_grads):  # only the second one counts
            torch.manual_seed(5)
            got = evaluate(model, guide, y, valid)
            assert got == pytest.approx(weight * divergence - likelihood, rel=1e-10)
    assert loss.update == 7


def test_a_ramp_rises_in_a_line_and_stays() -> None:
    ramp = Ramp(5000)
    assert [ramp(n) for n in (0, 50, 599, 5000, 9999)] == [0.0, 0.01, 0.1198, 1.0, 1.0]
    assert Ramp(10, final=3.0)(5) == 1.5


def test_the_weighted_gradient_is_that_of_both_terms() -> None:
    """The objective is linear in the weight, and so is its gradient."""
    model, guide = published_pair()
    y, valid = data()
    gradients = []
    for weight in (0.0, 1.0, 2.5):
        torch.manual_seed(5)
        model.zero_grad()
        guide.zero_grad()
        WeightedELBO(weight).loss_and_grads(model, guide, y, valid)
        parameters = [*model.parameters(), *guide.parameters()]
        gradients.append(
            torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten()
                       for p in parameters]).numpy()
        )  # fmt: skip
    none, one, more = gradients
    np.testing.assert_allclose(more, none + 2.5 * (one - none), rtol=1e-8, atol=1e-8)
    assert np.abs(one - none).max() > 1


def test_the_gradient_is_that_of_central_differences() -> None:
    model, guide = published_pair()
    y, valid = data()
    loss = WeightedELBO(0.7)

    def evaluate(_: Any = None) -> float:
        torch.manual_seed(5)
        return loss.loss(model, guide, y, valid)

    torch.manual_seed(5)
    loss.loss_and_grads(model, guide, y, valid)
    for parameter in [*model.parameters(), *guide.parameters()]:
        flat, index = parameter.data.view(-1), parameter.numel() // 2
        old, step = float(flat[index]), 1e-6
        values = []
        for sign in (1, -1):
            flat[index] = old + sign * step
            values.append(evaluate())
        flat[index] = old
        expected = (values[0] - values[1]) / (2 * step)
        assert float(parameter.grad.view(-1)[index]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("make", [published_pair, paper_pair])
def test_every_parameter_gets_a_gradient(make: Any) -> None:
    model, guide = make()
    y, valid = data()
    WeightedELBO(0.5).loss_and_grads(model, guide, y, valid)
    for program in (model, guide):
        for name, parameter in program.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_divergences_are_those_of_scipys_densities() -> None:
    """By the mean of the log ratio over draws, and in closed form with torch's own Gaussians."""
    rng = np.random.default_rng(0)
    loc, other = rng.normal(size=(2, 5, 4))
    scale, wide = rng.uniform(0.3, 2.0, size=(2, 5, 4))
    first = DiagonalNormal(torch.from_numpy(loc), torch.from_numpy(scale))
    second = DiagonalNormal(torch.from_numpy(other), torch.from_numpy(wide[0]))
    got = torch.distributions.kl_divergence(first, second)
    draws = loc + scale * rng.normal(size=(20000, 5, 4))
    ratio = stats.norm(loc, scale).logpdf(draws) - stats.norm(other, wide[0]).logpdf(draws)
    ratio = ratio.sum(-1)
    error = 5 * ratio.std(0) / np.sqrt(len(draws))
    assert (np.abs(got.numpy() - ratio.mean(0)) < error).all()
    np.testing.assert_allclose(got, kl(loc, scale, other, wide[0]), rtol=1e-12)

    one = IsotropicNormal(torch.from_numpy(other), torch.from_numpy(np.log(wide[:, 0])))
    got = torch.distributions.kl_divergence(first, one)
    np.testing.assert_allclose(got, kl(loc, scale, other, wide[:, :1]), rtol=1e-12)
    # A scale for all pixels keeps the shape of the batch.
    alike = DiagonalNormal(torch.from_numpy(loc), torch.from_numpy(scale[0]))
    scalar = IsotropicNormal(torch.zeros(4).double(), torch.tensor(0.2, dtype=torch.float64))
    got = torch.distributions.kl_divergence(alike, scalar)
    np.testing.assert_allclose(got, kl(loc, scale[0], 0.0, np.exp(0.2)), rtol=1e-12)
    assert got.shape == (5,)


def test_fit_takes_it_and_reports_it_per_value() -> None:
    library = simulate.library(np.linspace(450, 2400, 12))
    cubes = simulate.scaled_scene(num_dates=2, height=4, width=4, library=library).cubes

    def run(loss: Any) -> Any:
        model = SGLMM(library[:, :3], basis=DCT(2))
        guide = BiLSTMGuide(model)
        return fit(model, guide, cubes, num_steps=4, loss=loss, progress=False)

    loss = WeightedELBO(Ramp(2))
    ramped = run(loss)
    assert loss.update == 4
    free, whole = run(WeightedELBO(0.0)), run(WeightedELBO(1.0))
    assert ramped.losses[0] == free.losses[0] < whole.losses[0]
    assert ramped.losses[1] > free.losses[1]
    # The same object goes on where it stopped.
    assert run(loss).losses[0] == whole.losses[0]


@pytest.mark.parametrize("weight", [None, "rising", True])
def test_a_weight_of_another_kind_is_refused(weight: Any) -> None:
    with pytest.raises(TypeError, match="kl_weight must be a number or a function"):
        WeightedELBO(weight)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="kl_weight"):
        WeightedELBO(-1.0)
    with pytest.raises(ValueError, match="num_updates"):
        Ramp(0)
    with pytest.raises(ValueError, match="final"):
        Ramp(10, final=0.0)
