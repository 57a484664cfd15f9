"""How far the truth may be from chains that end in several places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.infer.between_chains import spread_apart, widening


@pytest.mark.parametrize("count", [3, 6, 12])
def test_the_widened_spread_of_a_few_values_holds_another_one(count: int) -> None:
    """Values and the truth from one normal distribution: 90 % intervals about the mean of a few hold the truth."""
    rng = np.random.default_rng(count)
    values, truth = rng.standard_normal((20000, count)), rng.standard_normal(20000)
    root_mean_square = values.std(1)  # as the draws of so many chains have
    bound = stats.norm.ppf(0.95) * root_mean_square
    off = np.abs(truth - values.mean(1))
    factor = widening(np.full(count, 1 / count))
    assert abs((off < factor * bound).mean() - 0.9) < 0.01
    assert (off < bound).mean() < (0.7 if count == 3 else 0.88)


def test_unequal_weights_count_as_fewer_chains() -> None:
    assert widening(np.array([0.5, 0.5, 0.0])) == widening(np.full(3, 1 / 3))
    assert widening(np.array([0.4, 0.4, 0.1, 0.1])) > widening(np.full(4, 0.25)) > 1
    assert widening(np.full(400, 1 / 400)) == pytest.approx(1, abs=0.01)


def test_chains_are_moved_from_the_mean_of_all_and_keep_their_own_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, 5, 2, generator=generator) + n for n in (4, 8, 1)]
    found = spread_apart(draws, 1.5).split([4, 8, 1])
    centre = torch.cat(draws).mean(0)
    for own, moved in zip(draws, found, strict=True):
        torch.testing.assert_close(moved - moved.mean(0), own - own.mean(0))
        farther = 1 + 0.5 * (1 - 1 / len(own))
        torch.testing.assert_close(moved.mean(0) - centre, farther * (own.mean(0) - centre))
    torch.testing.assert_close(spread_apart(draws, 1.0), torch.cat(draws))
    weighted = spread_apart(draws, 1.5, [1.0, 0.0, 0.0])[:4]
    torch.testing.assert_close(weighted, draws[0])
