from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix import SGLMM, ConjugateGuide, Unmixing, fit, metrics, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.methods import fcls
from pyro_unmix.posterior.intervals import credible_interval
from pyro_unmix.priors import FixedEndmembers, JumpWalk

SCENE = simulate.scaled_scene(
    num_dates=3, height=5, width=6, library=simulate.library(np.linspace(450, 2400, 20)), seed=3
)


@pytest.fixture(scope="module")
def result() -> Unmixing:
    model = SGLMM(
        FixedEndmembers(SCENE.reference_endmembers), basis=DCT(2), abundance_prior=JumpWalk()
    )
    return fit(model, ConjugateGuide(model), SCENE.cubes, num_steps=3, progress=False)


def ends(distribution: stats.rv_continuous, level: float, num: int = 20001) -> np.ndarray:
    """The rule's bounds of evenly spaced quantiles of a distribution."""
    draws = distribution.ppf((np.arange(num) + 0.5) / num)
    return credible_interval(torch.as_tensor(draws)[:, None], level)[:, 0].numpy()


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize(
    ("alpha", "beta", "side"),
    [
        (30, 40, "inside"),
        (2.2, 40, "inside"),
        (1.8, 40, "zero"),
        (0.3, 5, "zero"),
        (40, 1.8, "one"),
        (5, 0.3, "one"),
        (0.3, 0.3, "inside"),  # as much at one end as at the other
        (0.5, 1.5, "zero"),
        (1.5, 0.5, "one"),
    ],
)
def test_an_interval_reaches_to_a_bound_where_the_density_does(
    alpha: float, beta: float, side: str, level: float
) -> None:
    law = stats.beta(alpha, beta)
    expected = {
        "inside": (law.ppf((1 - level) / 2), law.ppf((1 + level) / 2)),
        "zero": (0.0, law.ppf(level)),
        "one": (law.ppf(1 - level), 1.0),
    }[side]
    np.testing.assert_allclose(ends(law, level), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.9, 2.5, 30.0])
def test_an_interval_holds_one_more_draw_as_often_as_it_says(alpha: float) -> None:
    draws = np.random.default_rng(0).beta(alpha, 20, (65, 20000))
    low, high = credible_interval(torch.as_tensor(draws[1:]), 0.9).numpy()
    # four standard errors of 20 000 trials, and that the side is chosen by the same draws
    assert abs(metrics.coverage(low, high, draws[0]) - 0.9) < 0.012


def test_draws_without_spread_are_an_interval_of_no_width() -> None:
    for value in (0.0, 0.2, 1.0):
        bounds = credible_interval(torch.full((8, 1), value), 0.9)
        np.testing.assert_array_equal(bounds, np.full((2, 1), value, dtype=np.float32))


def test_of_two_values_alone_the_mean_tells_the_side() -> None:
    rare = torch.tensor([0.0] * 7 + [1.0] * 3).unsqueeze(1)
    np.testing.assert_array_equal(credible_interval(rare, 0.5)[:, 0], [0, 0])
    np.testing.assert_array_equal(credible_interval(1 - rare, 0.5)[:, 0], [1, 1])


def test_intervals_of_a_result_are_maps_of_two_bounds(result: Unmixing) -> None:
    maps = result.interval(0.8, num_samples=50, seed=1)
    assert maps.dims == ("bound", *result.abundances.dims)
    assert list(maps["bound"].values) == ["lower", "upper"]
    lower, upper = maps
    assert ((lower >= 0) & (lower < upper) & (upper <= 1)).all()
    central = result.quantile([0.1, 0.9], num_samples=50, seed=1)
    one_low, one_high = result.quantile([0.2, 0.8], num_samples=50, seed=1)
    inside = (lower > 0) & (upper < 1)
    assert 0 < inside.mean() < 1
    for bound, quantile, one_sided in ((lower, central[0], one_low), (upper, central[1], one_high)):
        ending = ((upper == 1) & (bound < 1)) | ((lower == 0) & (bound > 0))
        np.testing.assert_array_equal(bound.values[inside], quantile.values[inside])
        np.testing.assert_array_equal(bound.values[ending], one_sided.values[ending])


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, float("nan")])
def test_a_level_outside_is_refused(result: Unmixing, level: float) -> None:
    with pytest.raises(ValueError, match="level must"):
        result.interval(level)


def test_without_a_posterior_there_are_no_intervals() -> None:
    with pytest.raises(ValueError, match="interval"):
        fcls(SCENE.cubes, 3).interval()


@pytest.mark.parametrize(("shape", "at_zero"), [(1.95, True), (2.05, False)])
def test_an_interval_begins_at_zero_where_the_beta_of_its_moments_does(
    shape: float, at_zero: bool
) -> None:
    """Beta(alpha, beta) of mean m and variance v has ``alpha + beta = m (1 - m) / v - 1``."""
    mean, size = 0.2, shape / 0.2
    draws = np.random.default_rng(0).uniform(size=200)
    draws = mean + (draws - draws.mean()) / draws.std(ddof=1) * np.sqrt(
        mean * (1 - mean) / (size + 1)
    )
    low, high = credible_interval(torch.as_tensor(draws[:, None]), 0.9)
    assert (float(low) == 0) == at_zero and float(high) < 1
