"""Kernels against quadrature, rejection and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from simplex_cases import start_of

from pyro_unmix.kernels import MassMoves, Spectra
from pyro_unmix.kernels.truncated import truncated_normal
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.priors.bounded import elliptical_step


@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_mass_moves_agree_with_quadrature(noise: float) -> None:
    """Twenty thousand chains of one spectrum of two materials against its posterior, integrated."""
    components = np.array([[[0.3, 0.1]], [[0.1, -0.2]], [[-0.1, 0.3]]])
    model = SimplexMixing([[0.2, 0.6], [0.3, 0.5], [0.3, 0.2]], components=components, rank=1)
    state, _ = start_of(model, 1, 1)
    one = torch.tensor(1.0).double()
    state = state.having(
        endmembers=model.reference.centre, residual_factor=torch.zeros(3, 1).double(),
        noise_variance=one * noise**2, concentration=one * 0.3, brightness_scale=one * 0.2,
        scales=torch.tensor([0.5, 0.7]).double(),
    )  # fmt: skip
    count, y = 20_000, model.reference.centre @ torch.tensor([0.97, 0.03]).double()
    many = state.having(
        abundances=torch.full((count, 2), 0.5).double(), brightness=torch.zeros(count).double(),
        variability=torch.zeros(count, 2).double(), residual=None,
    )  # fmt: skip
    spectra = Spectra(model, y.expand(count, -1), torch.Generator().manual_seed(5))
    for _ in range(60):
        many = MassMoves()(many, spectra)

    apart, left = [v.numpy() for v in (model.reference.centre.T, y)]

    def density(x: float) -> float:
        a = np.array([x, 1 - x])
        own, bright = components[:, 0] * a * [0.5, 0.7], 0.2 * a @ apart
        covariance = noise**2 * np.eye(3) + own @ own.T + np.outer(bright, bright)
        return float(stats.multivariate_normal(a @ apart, covariance).pdf(left))

    def below(limit: float) -> float:
        """The integral up to `limit`, in powers that take the poles at 0 and 1 away."""
        low = integrate.quad(lambda u: density(u ** (1 / 0.3)) * (1 - u ** (1 / 0.3)) ** -0.7, 0,
                             min(limit, 0.5) ** 0.3, epsabs=1e-12, limit=200)[0]  # fmt: skip
        if limit <= 0.5:
            return low
        return low + integrate.quad(
            lambda u: density(1 - u ** (1 / 0.3)) * (1 - u ** (1 / 0.3)) ** -0.7,
            (1 - limit) ** 0.3, 0.5**0.3, epsabs=1e-12, limit=200)[0]  # fmt: skip

    drawn, total = many.abundances[:, 0].numpy(), below(1.0)
    for limit in (1e-6, 0.5, 0.9, 0.95, 0.97, 0.99, 0.999, 1 - 1e-6):
        expected = below(limit) / total
        error = math.sqrt(max(expected * (1 - expected), 1e-6) / count)
        assert abs((drawn <= limit).mean() - expected) < 4.5 * error


def test_mass_moves_reach_no_bound_by_rounding() -> None:
    """Fifty scales beyond a corner the normal proposal would be the corner itself, which has no density."""
    model = SimplexMixing([[0.2, 0.6], [0.3, 0.5], [0.3, 0.2]], rank=1)
    state, _ = start_of(model, 1, 1)
    one, count = torch.tensor(1.0).double(), 2000
    reference = model.reference.centre
    many = state.having(
        endmembers=reference, residual_factor=torch.zeros(3, 1).double(),
        noise_variance=one * 0.01**2, concentration=one * 0.25, brightness_scale=0 * one,
        abundances=torch.full((count, 2), 0.5).double(), brightness=torch.zeros(count).double(),
        variability=torch.zeros(count, 0).double(), residual=None,
    )  # fmt: skip
    apart = reference[:, 0] - reference[:, 1]
    y = reference[:, 1] - 50 * 0.01 * apart / apart.norm()
    spectra = Spectra(model, y.expand(count, -1), torch.Generator().manual_seed(5))
    for _ in range(60):
        many = MassMoves()(many, spectra)
    logs = many.abundances[:, 0].log10()
    assert float(logs.min()) > -60
    # x (50 |apart| / noise) is nearly gamma of shape alpha and rate one
    rate = 50 * float(apart.norm()) / 0.01
    expected = (special.digamma(0.25) - math.log(rate)) / math.log(10)
    assert abs(float(logs.mean()) - expected) < 0.5


def test_elliptical_steps_agree_with_rejection() -> None:
    """A correlated normal within a box that it mostly leaves."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    loc, root = torch.tensor([-0.5, 0.7]).double(), torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(1)
    value, kept = torch.tensor([0.3, 0.4]).double(), []
    for _ in range(20_000):
        noise = torch.randn(2, generator=generator, dtype=torch.float64)
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        value = elliptical_step(value, loc, root @ noise, 0.0, 1.0, uniform)
        kept.append(value)
    chain = torch.stack(kept)
    free = loc + torch.randn(400_000, 2, generator=generator, dtype=torch.float64) @ root.mT
    free = free[((free >= 0) & (free <= 1)).all(-1)]
    assert bool(((chain >= 0) & (chain <= 1)).all())
    for power in (1, 2):
        expected = (free**power).mean(0)
        # batch means: draws of a chain are correlated
        batches = (chain**power).reshape(50, -1, 2).mean(1)
        error = (batches.var(0) / 50 + (free**power).var(0) / len(free)).sqrt()
        assert bool(((batches.mean(0) - expected).abs() < 4 * error).all())
    product, batches = free.prod(-1).mean(), chain.prod(-1).reshape(50, -1).mean(1)
    assert abs(batches.mean() - product) < 4 * (batches.var() / 50).sqrt()


def test_truncated_normals_agree_with_scipy() -> None:
    uniform = torch.linspace(0.01, 0.99, 5).double()
    for low, high in ((-1.0, 2.0), (5.0, 6.0), (-9.0, -7.5), (20.0, 20.1)):
        bounds = [torch.full((5,), b).double() for b in (low, high)]
        zero = torch.zeros(5).double()
        drawn, inside = truncated_normal(zero, zero + 1, *bounds, uniform)
        law = stats.truncnorm(low, high)
        levels = 1 - uniform.numpy() if low > 0 else uniform.numpy()
        np.testing.assert_allclose(drawn.numpy(), law.ppf(levels), rtol=1e-7)
        # the tail on the side of zero that the bounds are on
        most, least = stats.norm.logcdf(high), stats.norm.logcdf(low)
        if low > 0:
            most, least = stats.norm.logsf(low), stats.norm.logsf(high)
        logs = most + np.log1p(-np.exp(least - most))
        np.testing.assert_allclose(inside.log().numpy(), logs, rtol=1e-8)
