"""Posterior means of the variability against the joint Gaussian of all dates in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.guides.conjugate.variability import ExactVariability, GaussianChain

L, P, K, T, B = 12, 2, 3, 4, 5
Q = K * P


def chain(coefficient: float, step_scale: float, initial_scale: float) -> tuple[np.ndarray, ...]:
    """Coefficients and step scales (T, K P) that differ by date and component; start of psi_0."""
    rng = np.random.default_rng(1)
    vary = rng.uniform(0.8, 1.0, (2, T, Q))
    return (
        coefficient * vary[0],
        step_scale * vary[1],
        rng.normal(size=Q),
        initial_scale * vary[0, 0],
    )


def exact(y: np.ndarray, a: np.ndarray, valid: np.ndarray, design: np.ndarray, sigma: float, parts):  # type: ignore[no-untyped-def]
    """``E[psi_1 .. psi_T | y, a]`` (T, K P) of one pixel, by the precision of psi_0 .. psi_T."""
    coefficient, step_scale, loc, scale = parts
    precision = np.zeros((T + 1, Q, T + 1, Q))
    linear = np.zeros((T + 1, Q))
    precision[0, :, 0] = np.diag(scale**-2)
    linear[0] = loc / scale**2
    for t in range(1, T + 1):
        phi, weight = coefficient[t - 1], step_scale[t - 1] ** -2
        precision[t, :, t] += np.diag(weight)
        precision[t - 1, :, t - 1] += np.diag(phi**2 * weight)
        precision[t, :, t - 1] -= np.diag(phi * weight)
        precision[t - 1, :, t] -= np.diag(phi * weight)
        if valid[t - 1]:
            seen = design[:, P:] * np.tile(a[t - 1], K)
            precision[t, :, t] += seen.T @ seen / sigma**2
            linear[t] += seen.T @ (y[t - 1] - design[:, :P] @ a[t - 1]) / sigma**2
    size = (T + 1) * Q
    solution = np.linalg.solve(precision.reshape(size, size), linear.ravel())
    return solution.reshape(T + 1, Q)[1:]


def means_of(y, a, valid, design, sigma, parts, dtype=torch.float64) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The same (B, T, K P) of all pixels, by the filter."""
    design, y, a, phi, step, loc, scale = (
        torch.from_numpy(x).to(dtype) for x in (design, y, a, *parts)
    )
    states = GaussianChain(
        torch.cat([loc[None], phi]), torch.cat([scale[None], step]).square(), independent=False
    )
    posterior = ExactVariability(
        gram=design.mT @ design, projected=y @ design, noise_scale=torch.tensor(sigma, dtype=dtype),
        chain=states.later(), valid=torch.from_numpy(valid), abundances=a,
    )  # fmt: skip
    return posterior.means().numpy()


@pytest.mark.parametrize(
    "parts",
    [chain(0.9, 0.4, 1.0), chain(1.0, 1e-2, 1.0), chain(0.0, 0.7, 1.0)],
    ids=["tame", "steps much smaller than the states", "dates alone"],
)
def test_means_are_those_of_the_joint_gaussian(parts):
    rng = np.random.default_rng(0)
    design, sigma = rng.normal(size=(L, P + Q)), 0.1
    a = rng.dirichlet(np.ones(P), (B, T))
    y = rng.normal(size=(B, T, L))
    valid = np.ones((B, T), dtype=bool)
    valid[1, 2] = valid[2, T - 1] = valid[3, 0] = False
    valid[4] = False
    means = means_of(y, a, valid, design, sigma, parts)
    assert means.shape == (B, T, Q)
    for n in range(B):
        expected = exact(y[n], a[n], valid[n], design, sigma, parts)
        np.testing.assert_allclose(means[n], expected, rtol=1e-6, atol=1e-8)


def test_a_walk_of_small_steps_loses_nothing_in_single_precision():
    """The information that a later date holds about an earlier state survives steps of any size."""
    rng = np.random.default_rng(0)
    parts = chain(1.0, 1e-4, 1.0)
    design, sigma, a = rng.normal(size=(L, P + Q)), 10.0, np.full((1, T, P), 0.5)
    y, valid = rng.normal(size=(1, T, L)), np.zeros((1, T), dtype=bool)
    valid[0, -1] = True
    means = means_of(y, a, valid, design, sigma, parts, torch.float32)
    expected = exact(y[0], a[0], valid[0], design, sigma, parts)
    np.testing.assert_allclose(means[0], expected, atol=1e-4)
