"""Posterior means of the variability for many pixels, against the joint Gaussian of all dates in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.guides.conjugate import variability
from pyro_unmix.guides.conjugate.variability import chain_means

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
    design_, y_, a_, *parts_ = (torch.from_numpy(x) for x in (design, y, a, *parts))
    found = chain_means(
        design_.mT @ design_, torch.tensor(sigma), tuple(parts_), False,
        (y_ @ design_).permute(2, 1, 0).contiguous(), torch.from_numpy(valid).mT, a_.permute(2, 1, 0).contiguous(),
    )  # fmt: skip
    assert found.shape == (Q, T, B)
    for n in range(B):
        expected = exact(y[n], a[n], valid[n], design, sigma, parts)
        np.testing.assert_allclose(found[:, :, n].numpy().T, expected, rtol=1e-6, atol=1e-8)


def test_a_walk_of_small_steps_loses_nothing_in_single_precision(monkeypatch):
    """The information that a later date holds about an earlier state survives steps of any size."""
    rng = np.random.default_rng(0)
    parts = chain(1.0, 1e-4, 1.0)
    design, sigma, a = rng.normal(size=(L, P + Q)), 10.0, np.full((1, T, P), 0.5)
    y, valid = rng.normal(size=(1, T, L)), np.zeros((1, T), dtype=bool)
    valid[0, -1] = True

    def worst() -> float:
        design_, y_, a_, *parts_ = (torch.from_numpy(x).float() for x in (design, y, a, *parts))
        found = chain_means(
            design_.mT @ design_, torch.tensor(sigma), tuple(parts_), False,
            (y_ @ design_).permute(2, 1, 0), torch.from_numpy(valid).mT, a_.permute(2, 1, 0),
        )  # fmt: skip
        expected = exact(y[0], a[0], valid[0], design, sigma, parts)
        return float(np.abs(found[:, :, 0].numpy().T - expected).max())

    assert worst() < 1e-4
    monkeypatch.setattr(variability, "_TAME", np.inf)  # the difference of large numbers would
    assert worst() > 1e-3
