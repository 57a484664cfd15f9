"""Draws, quantiles and errors of a result, and what is there without a posterior."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr
from result_cases import CUBES, SCENE, plain

pytestmark = pytest.mark.usefixtures("seeded")


# The posterior


def test_samples_are_on_the_simplex_and_reproducible(result):
    draws = result.sample(5, seed=3)
    assert draws.dims == ("sample", "time", "y", "x", "endmember")
    assert draws.shape == (5, 3, 6, 7, 3)
    assert (draws >= 0).all()
    np.testing.assert_allclose(draws.sum("endmember"), 1, atol=1e-5)
    state = torch.get_rng_state()
    xr.testing.assert_identical(draws, result.sample(5, seed=3))
    assert torch.equal(state, torch.get_rng_state())
    assert not np.allclose(draws, result.sample(5, seed=4))
    assert float(draws.std("sample").min()) > 0
    assert list(draws.endmember.values) == list(result.abundances.endmember.values)
    np.testing.assert_array_equal(draws.time, CUBES.time)


def test_quantiles_are_ordered_and_those_of_the_draws(result):
    levels = [0.05, 0.5, 0.95]
    maps = result.quantile(levels, num_samples=50, seed=1)
    assert maps.dims == ("quantile", "time", "y", "x", "endmember")
    np.testing.assert_array_equal(maps["quantile"], levels)
    assert (np.diff(maps.values, axis=0) >= 0).all()
    drawn = result.sample(50, seed=1).values
    expected = np.quantile(drawn, levels, axis=0, method="weibull")
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    ends = result.quantile([0, 1], num_samples=50, seed=1).values
    draws = result.sample(50, seed=1).values
    np.testing.assert_allclose(ends, [draws.min(0), draws.max(0)], atol=1e-6)


def test_one_quantile_has_no_dim_for_it(result):
    median = result.quantile(0.5, num_samples=20)
    assert median.dims == ("time", "y", "x", "endmember")
    assert float(median["quantile"]) == 0.5
    many = result.quantile([0.5], num_samples=20)
    assert many.dims[0] == "quantile"
    np.testing.assert_array_equal(many[0], median)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda r: r.quantile(1.2), ValueError, r"q must lie in .0, 1., got 1.2"),
        (lambda r: r.quantile([0.5, -0.1]), ValueError, r"q must lie in .0, 1., got -0.1"),
        (lambda r: r.sample(0), ValueError, "num_samples must be at least 1, got 0"),
        (lambda r: r.sample(2.5), TypeError, "num_samples must be an integer"),
        (
            lambda r: r.endmembers(3),
            IndexError,
            r"time must be the position of one of 3 dates .-3 to 2., got 3",
        ),
        (lambda r: r.reconstruct(-4), IndexError, "got -4"),
        (
            lambda r: r.predict(CUBES[..., :12]),
            ValueError,
            "expected cubes with the 20 bands of the fit, got 12: select or resample the same bands",
        ),
        (
            lambda r: r.predict(CUBES.assign_coords(wavelength=CUBES.wavelength + 30)),
            ValueError,
            "expected cubes at the wavelengths of the endmembers, got some up to 30.0 nm off: bring",
        ),
        (lambda r: r.predict("scene.nc"), FileNotFoundError, "no such file: scene.nc"),
        (
            lambda r: dataclasses.replace(r, cubes=None).sample(),
            ValueError,
            r".sample.. needs the images, and this result was saved without them: call "
            r"result.predict.cubes..sample.+ with the images",
        ),
        (
            lambda r: dataclasses.replace(r, cubes=None).quantile(0.5),
            ValueError,
            r".quantile.. needs the images",
        ),
    ],
)
def test_result_errors(results, call, error, text):
    with pytest.raises(error, match=text):
        call(results["ours"])


def test_results_are_frozen(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.losses = np.zeros(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del result.dataset


def test_to_dataset_is_a_copy_with_everything(result):
    dataset = result.to_dataset()
    assert {"abundances", "abundances_std", "valid", "change", "losses"} <= set(dataset)
    assert dataset.attrs["method"] == "fit"
    dataset["more"] = 1
    assert "losses" not in result.dataset
    assert "more" not in result.dataset


def test_the_dataset_can_be_written(result, tmp_path):
    path = tmp_path / "result.nc"
    result.to_dataset().to_netcdf(path, engine="h5netcdf")
    with xr.open_dataset(path, engine="h5netcdf") as read:
        np.testing.assert_array_equal(read["abundances"], result.abundances)
        assert list(read.endmember.values) == list(result.abundances.endmember.values)


# Without a posterior


@pytest.mark.parametrize("call", ["sample", "quantile", "predict"])
def test_without_a_posterior_an_error_names_methods_that_have_one(call):
    arguments = {"sample": (), "quantile": (0.5,), "predict": (CUBES,)}[call]
    with pytest.raises(
        ValueError,
        match=rf".{call}.. needs a posterior, and fcls has none: .*unmix.., redsunn.. or fit",
    ):
        getattr(plain(), call)(*arguments)


def test_without_a_posterior_the_rest_is_there():
    result = plain()
    assert np.isnan(result.abundances_std).all()
    assert result.abundances_std.dims == result.abundances.dims
    assert np.isnan(result.change).all()
    np.testing.assert_array_equal(result.endmembers(1)[2, 3], result.reference_endmembers)
    expected = SCENE.abundances.values[1] @ SCENE.reference_endmembers.values.T
    np.testing.assert_allclose(result.reconstruct(1), expected, atol=1e-12)
    peaks = SCENE.reference_endmembers.max("wavelength").values
    weighted = SCENE.abundances.values * peaks
    np.testing.assert_allclose(
        result.unit_maximum(), weighted / weighted.sum(-1, keepdims=True), atol=1e-12
    )
    assert result.losses.shape == (0,)


def test_spectra_by_date_are_read_by_date():
    factors = xr.DataArray([1.0, 1.1, 0.8], dims="time")
    result = plain()
    dataset = result.dataset.assign(
        date_endmembers=(factors * SCENE.reference_endmembers).transpose("time", ...)
    )
    result = dataclasses.replace(result, dataset=dataset)
    for t in range(3):
        expected = float(factors[t]) * SCENE.reference_endmembers.values
        np.testing.assert_allclose(result.endmembers(t)[1, 1], expected, atol=1e-12)
        product = SCENE.abundances.values[t] @ expected.T
        np.testing.assert_allclose(result.reconstruct(t), product, atol=1e-12)
