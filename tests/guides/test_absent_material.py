"""The posterior at a corner of the simplex, against a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import linalg, stats

from pyro_unmix import SGLMM
from pyro_unmix.bases import LearnedBasis
from pyro_unmix.guides import ConjugateGuide, CornerMixture, ReshapedGuide, SplineFlow
from pyro_unmix.priors import ConstantWalk, FixedEndmembers, Independent, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
BANDS, COMPONENTS = 6, 2
NOISE, SPREAD, FIRST, STEP = 0.03, 0.3, 2.0, 0.7
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def corner(num_materials: int, num_dates: int) -> tuple[SGLMM, dict, np.ndarray]:
    """A pixel in which the first material is nearly absent (0.5 %); its model and the model's numbers."""
    rng = np.random.default_rng(1)
    spectra = rng.uniform(0.1, 0.9, size=(BANDS, num_materials))
    components = 0.3 * rng.normal(size=(BANDS, COMPONENTS, num_materials))
    a = np.full(num_materials, (1 - 0.005) / (num_materials - 1))
    a[0] = 0.005
    psi = SPREAD * rng.normal(size=(num_dates, COMPONENTS, num_materials))
    endmembers = spectra + np.einsum("lkp,tkp->tlp", components, psi)
    y = endmembers @ a + NOISE * rng.normal(size=(num_dates, BANDS))
    model = SGLMM(
        FixedEndmembers(spectra),
        basis=LearnedBasis(components),
        abundance_prior=ConstantWalk(STEP, learn=False, initial_scale=FIRST),
        variability_prior=Independent(SPREAD, learn=False),
        noise=WhiteNoise(NOISE, learn=False),
    ).double()
    return model, {"spectra": spectra, "components": components}, y


def on_a_grid(spectra, components, y, *, half: float = 14.0, points: int = 141):
    """Exact quantiles (T, P, levels) of the abundances, and log evidence, by sums over a dense grid.

    The softmax sees c but for a constant: its P - 1 orthonormal contrasts are on the grid, the variability is
    integrated out, and steps between dates are convolutions.
    """
    size = spectra.shape[1]
    axis = np.linspace(-half, half, points)
    width = axis[1] - axis[0]
    mesh = np.stack(np.meshgrid(*[axis] * (size - 1), indexing="ij"), -1)
    a = np.exp(mesh @ linalg.helmert(size))
    a /= a.sum(-1, keepdims=True)
    flat = a.reshape(-1, size)
    w = (components * flat[:, None, None, :]).reshape(len(flat), BANDS, -1)
    tril = np.linalg.cholesky(SPREAD**2 * w @ w.swapaxes(1, 2) + NOISE**2 * np.eye(BANDS))
    z = np.linalg.solve(tril, (y[:, None] - flat @ spectra.T).transpose(1, 2, 0))
    log_det = np.log(np.diagonal(tril, axis1=1, axis2=2)).sum(-1) + 0.5 * BANDS * np.log(2 * np.pi)
    likelihood = np.exp(-0.5 * (z**2).sum(1).T - log_det).reshape(len(y), *mesh.shape[:-1])
    kernel = stats.norm(0, STEP).pdf(axis[:, None] - axis) * width

    def moved(density):
        for d in range(size - 1):
            density = np.moveaxis(np.tensordot(kernel, density, axes=(1, d)), 0, d)
        return density

    before = [stats.norm(0, np.hypot(FIRST, STEP)).pdf(mesh).prod(-1)]
    for one in likelihood[:-1]:
        before.append(moved(before[-1] * one))
    after = [np.ones(mesh.shape[:-1])]
    for one in likelihood[:0:-1]:
        after.insert(0, moved(after[0] * one))
    quantiles = np.empty((len(y), size, len(LEVELS)))
    for t, parts in enumerate(zip(before, likelihood, after, strict=True)):
        posterior = np.prod(parts, axis=0).ravel()
        for p in range(size):
            order = np.argsort(flat[:, p])
            cumulative = np.cumsum(posterior[order]) / posterior.sum()
            quantiles[t, p] = np.interp(LEVELS, cumulative, flat[order, p])
    evidence = np.log((before[-1] * likelihood[-1]).sum() * width ** (size - 1))
    return quantiles, evidence


def fitted(model, guide, y, *, num_steps: int, rate: float):
    """ELBO after training the guide, and quantiles (T, P, levels) of its abundances."""
    y = torch.from_numpy(y[None])
    valid = torch.ones(y.shape[:2], dtype=torch.bool)
    features = guide.prepare(y, valid)
    adam = torch.optim.Adam(guide.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.03 ** (1 / num_steps))

    def loss(draws: int) -> torch.Tensor:
        elbo = Trace_ELBO(draws, vectorize_particles=True, max_plate_nesting=1)
        return elbo.differentiable_loss(model, guide, y, valid, features=features)

    for _ in range(num_steps):
        adam.zero_grad()
        loss(24).backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        elbo = -float(loss(5_000))

        def noise(site: str, size: int) -> torch.Tensor:
            return torch.randn(10_000, 1, size, dtype=torch.double)

        draws, _ = guide.draw(y, valid, features, noise)
    return elbo, np.quantile(draws[:, 0].numpy(), LEVELS, axis=0).transpose(1, 2, 0)


@pytest.mark.parametrize(
    "num_materials, num_dates, names", [(2, 2, ["stretch", "mixture", "flow"]), (3, 1, ["stretch"])]
)
def test_posterior_of_an_absent_material(num_materials, num_dates, names):
    model, known, y = corner(num_materials, num_dates)
    exact, evidence = on_a_grid(**known, y=y)
    guides = {
        "gaussian": ConjugateGuide(model),
        "stretch": ReshapedGuide(model),
        "mixture": ReshapedGuide(model, family=CornerMixture()),
        "flow": ReshapedGuide(model, family=SplineFlow(1)),
    }
    gaps, errors = {}, {}
    for name in ("gaussian", *names):
        steps, rate = (250, 0.05) if num_materials == 3 and name == "stretch" else (120, 0.03)
        if name == "flow":
            steps, rate = 160, 0.01
        torch.manual_seed(0)
        elbo, quantiles = fitted(model, guides[name].double(), y, num_steps=steps, rate=rate)
        gaps[name] = evidence - elbo
        # on the scale of ratios: near zero an absolute error says little
        errors[name] = np.abs(np.log(quantiles[:, 0] / exact[:, 0])).mean()
    # The best Gaussian has been found: it stays that far from the evidence.
    assert gaps["gaussian"] > 0.25
    for name in names:
        # log p - log q of a draw has a std of about one, so that an ELBO has an error of some 0.015
        assert -0.06 < gaps[name] < 0.6 * gaps["gaussian"], name
        assert errors[name] < 0.75 * errors["gaussian"], name
