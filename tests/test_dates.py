"""Time is real: uneven dates, dates without images, forecasts, and what would be measured there."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from pyro_unmix import (
    DCT,
    SGLMM,
    AutoRegressive,
    ConjugateGuide,
    Independent,
    JumpWalk,
    RandomWalk,
    Unmixing,
    WhiteNoise,
    as_cube_sequence,
    fit,
    simulate,
    unmix,
)
from pyro_unmix.guides.variability import ExactVariability

DAYS = np.array([0, 3, 10, 11, 40])
DATES = np.datetime64("2020-01-01", "ns") + DAYS * np.timedelta64(1, "D")


@cache
def cubes() -> xr.DataArray:
    scene = simulate.scaled_scene(num_dates=5, height=6, width=5, seed=1)
    return as_cube_sequence(scene.cubes.values[..., ::10], time=DATES)


@cache
def unmixed() -> Unmixing:
    return unmix(cubes(), 3, num_steps=2, progress=False)


def test_shifting_all_dates_changes_nothing() -> None:
    later = cubes().assign_coords(time=DATES + np.timedelta64(4000, "D"))
    again = unmix(later, 3, num_steps=2, progress=False)
    np.testing.assert_array_equal(again.abundances.values, unmixed().abundances.values)


def test_the_days_between_dates_count() -> None:
    even = cubes().assign_coords(time=DATES[0] + np.arange(5) * np.timedelta64(8, "D"))
    again = unmix(even, 3, num_steps=2, progress=False)
    assert np.abs(again.abundances.values - unmixed().abundances.values).max() > 1e-3


@pytest.mark.parametrize("chain", [AutoRegressive(0.7), RandomWalk(0.3)], ids=["ar", "walk"])
def test_variability_at_uneven_dates_has_the_exact_evidence(chain: Any) -> None:
    """``log p(y, psi | a) - log q(psi | y, a)`` is the evidence of a dense Gaussian, whatever psi is."""
    rng = np.random.default_rng(0)
    p, k, bands, num_dates, noise = 2, 2, 4, 4, 0.3
    elapsed = torch.tensor([1.0, 0.5, 3.0, 7.0]).double()
    chain.setup(p, k, generator=torch.Generator().manual_seed(0))
    chain.double().set_elapsed(elapsed)
    design = torch.from_numpy(rng.normal(size=(bands, p + p * k)))
    a = torch.from_numpy(rng.dirichlet(np.ones(p), size=(1, num_dates)))
    y = torch.from_numpy(rng.normal(size=(1, num_dates, bands)))
    with torch.no_grad():
        steps, first = chain.steps(num_dates), chain.chain()[2:]
        exact = ExactVariability(
            design=design, noise_scale=torch.tensor(noise).double(), chain=(*steps, *first),
            independent=False, pixels=y, valid=torch.ones(1, num_dates, dtype=torch.bool),
            abundances=a,
        )  # fmt: skip
        torch.manual_seed(0)
        psi = chain.initial().sample((1,))
        move = chain.transitions(num_dates)
        log_ratio = chain.initial().log_prob(psi) - exact.conditional(0, None).log_prob(psi)
        for t in range(1, num_dates + 1):
            following = torch.randn(1, p * k).double()
            log_ratio += move(psi, t).log_prob(following)
            log_ratio -= exact.conditional(t, psi).log_prob(following)
            e = a[:, t - 1].repeat(1, k)
            mean = a[:, t - 1] @ design[:, :p].T + (e * following) @ design[:, p:].T
            log_ratio += torch.distributions.Normal(mean, noise).log_prob(y[:, t - 1]).sum()
            psi = following
    # the dense covariance of psi_1 .. psi_T, from the chain in continuous time
    size = p * k
    phi = 0.7 if isinstance(chain, AutoRegressive) else 1.0
    at = np.cumsum(elapsed.numpy())
    apart = np.abs(at[:, None] - at)
    if phi < 1:
        psi_cov = np.kron(phi**apart, np.eye(size))
    else:
        psi_cov = np.kron(1 + 0.3**2 * np.minimum.outer(at, at), np.eye(size))
    mix = np.zeros((num_dates * bands, num_dates * size))
    for t in range(num_dates):
        e = np.tile(a[0, t].numpy(), k)
        mix[t * bands : (t + 1) * bands, t * size : (t + 1) * size] = design[:, p:].numpy() * e
    mean = (a[0].numpy() @ design[:, :p].numpy().T).ravel()
    cov = mix @ psi_cov @ mix.T + noise**2 * np.eye(len(mean))
    evidence = stats.multivariate_normal(mean, cov).logpdf(y.numpy().ravel())
    np.testing.assert_allclose(float(log_ratio), evidence, rtol=1e-6)  # parameters start in float32


def test_the_posterior_at_the_dates_of_images_is_that_of_the_fit() -> None:
    result = unmixed()
    same = result.interpolate(DATES)
    xr.testing.assert_identical(same.abundances, result.abundances)
    np.testing.assert_array_equal(same.valid, True)


def test_dates_without_images_lie_between_and_are_less_certain() -> None:
    result = unmixed()
    asked = np.array(["2020-01-25", "2020-01-02", "2020-01-04"], dtype="datetime64[ns]")
    between = result.interpolate(asked)
    np.testing.assert_array_equal(between.abundances["time"], asked)
    np.testing.assert_array_equal(between.valid.all(("y", "x")), [False, False, True])
    certain = result.abundances_std.mean().item()
    far, near, seen = between.abundances_std.mean(("y", "x", "endmember")).values
    assert far > near > seen > 0 and near > certain
    np.testing.assert_allclose(between.abundances.sum("endmember"), 1, atol=1e-5)
    assert result.cubes is not None and result.cubes.sizes["time"] == 5
    for drawn in (between.sample(3), between.quantile([0.1, 0.9])):
        np.testing.assert_array_equal(drawn["time"], asked)


def test_forecasts_lose_certainty_with_time() -> None:
    soon, late = (
        unmixed()
        .forecast(["2020-02-15", "2021-06-01"])
        .abundances_std.mean(("y", "x", "endmember"))
    )
    assert unmixed().abundances_std[-1].mean() < soon < late


def test_predictions_take_the_dates_of_the_images() -> None:
    other = cubes().assign_coords(time=DATES[0] + (DATES - DATES[0]) * 30)
    result = unmixed()
    slow, again = result.predict(other), result.predict(cubes())
    xr.testing.assert_identical(again.abundances, result.abundances)
    assert np.abs(slow.abundances.values - result.abundances.values).max() > 1e-3
    # the fitted pair is as it was
    xr.testing.assert_identical(result.predict(cubes()).abundances, result.abundances)
    fewer = result.predict(cubes()[:3])
    assert fewer.abundances.sizes["time"] == 3


def drawn() -> tuple[SGLMM, np.ndarray]:
    """A model and 400 pixels drawn from it."""
    rng = np.random.default_rng(3)
    model = SGLMM(
        rng.uniform(0.1, 0.6, size=(8, 3)),
        basis=DCT(2),
        abundance_prior=JumpWalk(jump_probability=1e-4),
        variability_prior=Independent(0.1, learn=False),
        noise=WhiteNoise(0.02, learn=False),
        dates=DATES,
    )
    return model, model.sample_sequence(400, 5)["pixels"].numpy()


def test_what_would_be_measured_is_covered_as_often_as_stated() -> None:
    model, pixels = drawn()
    values = as_cube_sequence(pixels.transpose(1, 0, 2)[:, None], time=DATES).copy(deep=True)
    held_out = values[2].copy(deep=True)
    values[2] = np.nan
    result = fit(model, ConjugateGuide(model), values, num_steps=0, progress=False)
    low, high = result.reflectance_quantile([0.05, 0.95], num_samples=300)[:, 2]
    covered = ((held_out >= low) & (held_out <= high)).mean("wavelength").values.ravel()
    # 400 pixels; a pixel's bands are not independent, so that the spread is taken between pixels
    spread = 4 * covered.std() / np.sqrt(len(covered))
    assert abs(covered.mean() - 0.9) < spread + 0.02 and spread < 0.05, covered.mean()


def test_the_quantiles_of_one_level_have_no_dim_for_it() -> None:
    one = unmixed().reflectance_quantile(0.5, num_samples=20)
    assert one.dims == ("time", "y", "x", "wavelength")
    two = unmixed().reflectance_quantile([0.5], num_samples=20)
    xr.testing.assert_equal(two[0].drop_vars("quantile"), one.drop_vars("quantile"))
    # the median of what would be measured is close to the reconstruction
    close = np.stack([unmixed().reconstruct(t).values for t in range(5)])
    assert np.abs(one.values - close).mean() < 0.02


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (
            lambda r: r.interpolate("2019-01-01"),
            ValueError,
            "interpolate is for dates from the first",
        ),
        (lambda r: r.interpolate("2021-01-01"), ValueError, "the others are for forecast"),
        (lambda r: r.forecast(DATES[-1]), ValueError, "forecast is for dates after the last image"),
        (lambda r: r.forecast(400), TypeError, "the images have dates, and so must"),
        (lambda r: r.interpolate([]), ValueError, "at least one date, got none"),
        (lambda r: r.reflectance_quantile(2), ValueError, "q must lie in"),
        (
            lambda r: r.predict(cubes().drop_vars("time")[:2]),
            ValueError,
            "fitted with 5 dates, and the 2 images have none: give them with as_cube_sequence",
        ),
    ],
)
def test_errors(ask: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ask(unmixed())


def test_a_fit_without_dates_says_so() -> None:
    result = unmix(cubes().drop_vars("time"), 3, num_steps=0, progress=False)
    with pytest.raises(ValueError, match="the model knows no dates: fit it to a sequence"):
        result.forecast("2021-01-01")
