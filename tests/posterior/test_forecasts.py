"""Dates without images: interpolation, forecasts, and what would be measured there."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from date_cases import DATES, cubes, dated_fit, unmixed

from pyro_unmix import SGLMM, ConjugateGuide, as_cube_sequence, fit, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.posterior import PolishedMean
from pyro_unmix.priors import Independent, JumpWalk, WhiteNoise


def test_the_posterior_at_the_dates_of_images_is_that_of_the_fit() -> None:
    result = unmixed()
    same = result.interpolate(DATES)
    xr.testing.assert_identical(same.abundances, result.abundances)
    np.testing.assert_array_equal(same.valid, True)


def test_dates_without_images_lie_between_and_are_less_certain() -> None:
    result = unmix(cubes(), 3, polish=False, num_steps=2, progress=False)
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


def test_polished_draws_of_dates_ahead_are_less_certain_the_later() -> None:
    result = unmixed()
    assert isinstance(result.estimate, PolishedMean)
    ahead = result.forecast(DATES[-1] + np.array([10, 400]) * np.timedelta64(1, "D"))
    soon, late = ahead.abundances_std.mean(("y", "x", "endmember")).values
    assert late > 1.3 * soon > 1.3 * result.abundances_std.mean().item()


def test_dates_come_in_the_order_in_which_they_are_asked_for() -> None:
    backwards = unmixed().interpolate(DATES[::-1])
    for drawn in (backwards.sample(3), backwards.quantile([0.1]), backwards.abundances):
        np.testing.assert_array_equal(drawn["time"], DATES[::-1])
    np.testing.assert_array_equal(backwards.sample(3)[:, ::-1], unmixed().sample(3))


def test_a_date_just_after_an_image_is_that_of_the_image() -> None:
    result = dated_fit()
    at_image = result.interpolate(DATES[1])
    after = result.interpolate(DATES[1] + np.timedelta64(1, "ns"))
    np.testing.assert_allclose(after.abundances.values, at_image.abundances.values, atol=0.02)
    np.testing.assert_allclose(after.abundances_std, at_image.abundances_std, atol=0.02)


@pytest.mark.parametrize("hours", [1, 6, -6])
def test_a_date_some_hours_from_an_image_is_another_one(hours: int) -> None:
    asked = DATES[1] + np.timedelta64(hours, "h")
    between = dated_fit().interpolate(asked)
    np.testing.assert_array_equal(between.abundances["time"], [asked])
    assert not between.valid.any()
    moved = cubes().assign_coords(time=[DATES[0], asked, *DATES[2:]])
    with pytest.raises(ValueError, match="built for other dates: its date 2 is 3 days after"):
        fit(dated_fit().model, dated_fit().guide, moved, num_steps=0, progress=False)
    np.testing.assert_allclose(dated_fit().predict(moved).model.days[1], 3 + hours / 24)


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
    assert again.model is result.model  # no copy where dates are the same
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
