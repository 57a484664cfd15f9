"""Smoothing of softmax states against dense algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from guide_cases import MATERIALS, columns, dense_posterior, numbers

from pyro_unmix.guides.conjugate.smoother import conditionals, smooth

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def random_sites(batch: int, num_dates: int, size: int, seed: int = 0):
    """Curvatures that are singular along 1, as those of a softmax, and pulls in their range."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(batch, num_dates, size, size))
    root -= root.mean(-2, keepdims=True)
    curvature = root @ np.swapaxes(root, -1, -2)
    pull = np.einsum("btij,btj->bti", curvature, rng.normal(size=(batch, num_dates, size)))
    curvature[1, 1] = pull[1, 1] = 0  # a missing date
    return curvature, pull, rng.uniform(0.1, 2, size=(batch, num_dates))


def test_smoother_agrees_with_dense_algebra():
    rng = np.random.default_rng(1)
    sites = random_sites(3, 4, MATERIALS)
    loc, scale = rng.normal(size=MATERIALS), rng.uniform(0.5, 2, size=MATERIALS)
    curvature, pull, variances = columns(*sites)
    precision = torch.from_numpy(scale**-2)
    given = conditionals(curvature, pull, variances, precision)
    means, covariances, squares = numbers(
        *(x.movedim(-1, 0) for x in smooth(given, variances, torch.from_numpy(loc), precision))
    )
    means, covariances = means.swapaxes(1, 2), covariances.transpose(0, 3, 1, 2)
    for n in range(3):
        mean, covariance = dense_posterior(*(x[n] for x in sites), loc, scale)
        np.testing.assert_allclose(means[n], mean, atol=1e-9)
        for t in range(5):
            np.testing.assert_allclose(covariances[n, t], covariance[t, :, t], atol=1e-9)
        for t in range(1, 5):
            spread = covariance[t, :, t] + covariance[t - 1, :, t - 1]
            spread = spread - 2 * covariance[t, :, t - 1]
            expected = (((mean[t] - mean[t - 1]) ** 2).sum() + np.trace(spread)) / MATERIALS
            assert squares[n, t - 1] == pytest.approx(expected, abs=1e-9)


def test_conditionals_hold_what_later_dates_say_about_a_state():
    curvature, pull, steps = random_sites(2, 4, MATERIALS, seed=2)
    precision = np.array([0.3, 1.0, 2.0, 0.7, 0.1])[:MATERIALS]
    found = conditionals(*columns(curvature, pull, steps), torch.from_numpy(precision))
    gains, first, vectors = numbers(*(x.movedim(-1, 0) for x in found))
    vectors = vectors.swapaxes(1, 2)
    information = np.zeros((2, 5, MATERIALS, MATERIALS))
    information[:, 0] = np.linalg.inv(first) - np.diag(precision)
    left = np.linalg.inv(gains.transpose(0, 3, 1, 2)) - np.eye(MATERIALS)
    information[:, 1:] = left / steps[..., None, None] ** 2
    eye = np.eye(MATERIALS)
    for n, t in itertools.product(range(2), range(5)):
        # Joint precision of x_t .. x_T with x_t flat, and the later ones eliminated.
        count = 5 - t
        total = np.zeros((count, MATERIALS, count, MATERIALS))
        vector = np.zeros((count, MATERIALS))
        for i in range(count):
            if t + i:
                total[i, :, i] += curvature[n, t + i - 1]
                vector[i] += pull[n, t + i - 1]
            if i:
                weight = eye / steps[n, t + i - 1] ** 2
                total[i, :, i] += weight
                total[i - 1, :, i - 1] += weight
                total[i, :, i - 1] -= weight
                total[i - 1, :, i] -= weight
        flat, size = total.reshape(count * MATERIALS, -1), MATERIALS
        rest = np.linalg.solve(
            flat[size:, size:], np.column_stack([flat[size:, :size], vector.ravel()[size:]])
        )
        expected = flat[:size, :size] - flat[:size, size:] @ rest[:, :-1]
        np.testing.assert_allclose(information[n, t], expected, atol=1e-9)
        np.testing.assert_allclose(
            vectors[n, t], vector[0] - flat[:size, size:] @ rest[:, -1], atol=1e-9
        )
