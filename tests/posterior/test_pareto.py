"""The tail of the importance weights: Pareto's k against draws with a known one, and against ArviZ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pyro_unmix.posterior.evidence import generalised_pareto_shape, pareto_k


@pytest.mark.parametrize("shape", [0.1, 0.4, 0.9])
def test_the_tail_shape_is_that_of_a_generalised_pareto(shape: float) -> None:
    draws = stats.genpareto(shape).rvs(size=(600, 50), random_state=1)
    found = generalised_pareto_shape(np.sort(draws, axis=0))
    # asymptotic std (1 + k) / sqrt(S), and a prior worth ten draws at 1/2
    expected = (600 * shape + 5) / 610
    spread = (1 + shape) / np.sqrt(600)
    assert abs(found.mean() - expected) < 4 * spread / np.sqrt(50) + 0.01
    assert found.std() < 1.3 * spread


def test_pareto_k_of_weights_with_a_known_tail() -> None:
    rng = np.random.default_rng(0)
    for shape in (0.3, 1.0):
        # weights u^-k have a Pareto tail of index 1/k
        weights = -shape * np.log(rng.uniform(size=(2000, 40)))
        assert pareto_k(weights + 700).mean() == pytest.approx(shape, abs=0.08)
    assert (pareto_k(np.full((100, 3), 5.0)) == 0).all()
    assert np.isinf(pareto_k(rng.normal(size=(10, 2)))).all()


def test_the_worst_posteriors_have_the_largest_k() -> None:
    """Log weights with a std of hundreds: all but one weight are zero beside the largest one."""
    normal = np.random.default_rng(0).normal(size=(200, 30))
    found = [pareto_k(spread * normal).min() for spread in (10, 30, 100, 1000)]
    assert min(found) > 2, found
    assert np.isinf(pareto_k(np.full((200, 1), -np.inf))).all()


@pytest.mark.parametrize("num_samples", [25, 100, 400, 3000])
def test_pareto_k_is_that_of_arviz(num_samples: int) -> None:
    arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(num_samples)
    weights = rng.normal(size=(num_samples, 12)) * np.linspace(0.1, 6.0, 12) - 40.0
    found, expected = pareto_k(weights), arviz.psislw(weights.T)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.ptp(found) > 1  # from the lightest tail to the heaviest


def test_the_tail_is_what_a_fifth_of_the_weights_exceed_the_next_one_by() -> None:
    excesses = stats.genpareto(0.6).ppf((np.arange(20) + 0.5) / 20)
    weights = np.concatenate([1 + excesses, np.linspace(0.1, 1.0, 80)])
    found = pareto_k(np.log(weights)[:, np.newaxis])
    scale = weights.max()
    expected = generalised_pareto_shape(excesses[:, np.newaxis] / scale)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] == pytest.approx(0.6, abs=0.1)
