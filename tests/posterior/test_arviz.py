"""Draws of chosen pixels for ArviZ: the right pixels, labelled as in the result."""

from __future__ import annotations

import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.posterior.arviz import pixel_numbers

HEIGHT, WIDTH = 3, 5
DATES = np.array(["2021-05-01", "2021-06-11"], dtype="datetime64[ns]")


@cache
def result() -> pu.Unmixing:
    scene = pu.simulate.scaled_scene(num_dates=2, height=HEIGHT, width=WIDTH, seed=3)
    cubes = scene.cubes[..., ::16].copy(deep=True)
    cubes[1, 1, 2] = np.nan
    cubes = cubes.assign_coords(
        time=DATES, y=90.0 - np.arange(HEIGHT), x=10.0 + np.arange(WIDTH), tile=("y", [0, 0, 1])
    )
    model = pu.SGLMM(
        pu.FixedEndmembers(scene.reference_endmembers[::16]), basis=pu.bases.DCT(2), dates=DATES
    )
    guide = pu.ConjugateGuide(model)
    return pu.fit(model, guide, cubes, num_steps=1, progress=False)


@pytest.fixture
def arviz() -> Any:
    return pytest.importorskip("arviz")


def test_draws_are_those_of_sample_at_the_chosen_pixels(arviz: Any, tmp_path: Path) -> None:
    data = result().to_arviz([(1, 2), (0, 4)], num_samples=6, seed=7)
    assert isinstance(data, arviz.InferenceData)
    assert data.groups() == ["posterior", "observed_data"]
    drawn = data.posterior["abundances"]
    assert drawn.dims == ("chain", "draw", "pixel", "time", "endmember")
    maps = result().sample(6, seed=7)
    for number, (y, x) in enumerate([(1, 2), (0, 4)]):
        expected = maps[:, :, y, x].transpose("sample", "time", "endmember")
        np.testing.assert_allclose(drawn[0, :, number], expected, rtol=1e-4, atol=1e-6)
    assert drawn["chain"].values.tolist() == [0] and drawn["draw"].values.tolist() == list(range(6))
    assert drawn["pixel"].values.tolist() == [7, 4]
    assert drawn["y"].values.tolist() == [89, 90] and drawn["x"].values.tolist() == [12, 14]
    assert list(drawn["endmember"].values) == list(result().abundances["endmember"].values)
    np.testing.assert_array_equal(drawn["time"], DATES)
    observed = data.observed_data["reflectance"]
    assert observed.dims == ("pixel", "time", "wavelength")
    np.testing.assert_array_equal(observed[1], result().cubes.values[:, 0, 4])
    assert observed[0, 1].isnull().all() and observed[0, 0].notnull().all()
    np.testing.assert_array_equal(observed["wavelength"], result().cubes["wavelength"])
    for attrs in (data.attrs, data.posterior.attrs, data.observed_data.attrs):
        assert attrs["inference_library"] == "pyro_unmix" and attrs["seed"] == 7
        assert attrs["inference_library_version"] == pu.__version__
        assert attrs["guide"] == "ConjugateGuide" and "not a Markov chain" in attrs["sampling"]
    data.to_netcdf(str(tmp_path / "draws.nc"), engine="h5netcdf")
    again = arviz.from_netcdf(str(tmp_path / "draws.nc"), engine="h5netcdf")
    xr.testing.assert_allclose(again.posterior["abundances"], drawn)
    means = arviz.summary(data, kind="stats", round_to=6)["mean"].values
    np.testing.assert_allclose(means, drawn.mean(("chain", "draw")).values.ravel(), atol=1e-5)


def test_pixels_that_have_numbers_of_their_own_in_the_model(arviz: Any) -> None:
    known = np.random.default_rng(0).dirichlet(np.ones(3), size=(HEIGHT * WIDTH, 2))
    spectra = result().reference_endmembers.values
    prior = pu.priors.KnownAbundances(known)
    model = pu.SGLMM(pu.FixedEndmembers(spectra), basis=pu.bases.DCT(1), abundance_prior=prior)
    guide = pu.ConjugateGuide(model, correction=False)
    cubes = result().cubes.drop_vars(["time", "y", "x", "tile"])
    fit = pu.fit(model, guide, cubes, num_steps=0, progress=False)
    data = fit.to_arviz([13, 2], num_samples=3)
    drawn = data.posterior["abundances"]
    np.testing.assert_allclose(drawn[0], np.tile(known[[13, 2]], (3, 1, 1, 1)), atol=1e-6)
    # without coordinates, places are positions
    assert data.posterior["y"].values.tolist() == [2, 0]
    assert data.posterior["x"].values.tolist() == [3, 2]


def test_dates_are_those_of_the_result(arviz: Any) -> None:
    between = np.datetime64("2021-05-20", "ns")
    found = result().interpolate([between])
    data = found.to_arviz([3], num_samples=4)
    assert data.posterior["time"].values.tolist() == np.array([between]).tolist()
    assert data.observed_data["reflectance"].isnull().all()
    expected = found.sample(4)[:, :, 0, 3]
    np.testing.assert_allclose(
        data.posterior["abundances"][0, :, 0], expected, rtol=1e-4, atol=1e-6
    )


def test_a_mask_a_list_of_pairs_and_numbers_are_the_same_pixels() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[0, 3] = mask[2, 1] = True
    labelled = xr.DataArray(mask.T, dims=("x", "y"))
    chosen: list[Any] = [
        mask,
        mask.tolist(),
        labelled,
        [(0, 3), (2, 1)],
        [3, 11],
        np.uint8([3, 11]),
    ]
    for pixels in chosen:
        assert pixel_numbers(pixels, HEIGHT, WIDTH).tolist() == [3, 11]
    assert pixel_numbers([(2, 1), (0, 3)], HEIGHT, WIDTH).tolist() == [11, 3]


@pytest.mark.parametrize(
    ("pixels", "error", "text"),
    [
        (
            [],
            ValueError,
            "mask of shape (3, 5), or numbers from 0 to 14, got none: choose at least",
        ),
        (np.zeros((3, 5), dtype=bool), ValueError, "got none: choose at least one pixel"),
        (
            np.ones((5, 3), dtype=bool),
            ValueError,
            "shape (3, 5), or numbers from 0 to 14, got a mask",
        ),
        ([15], ValueError, "pixels must have numbers from 0 to 14, got 15"),
        ([-1], ValueError, "pixels must have numbers from 0 to 14, got -1"),
        ([(3, 0)], ValueError, "pixels must have rows from 0 to 2, got 3"),
        ([(0, 5)], ValueError, "pixels must have columns from 0 to 4, got 5"),
        ([(0, 1, 2)], ValueError, "got an array of shape (1, 3)"),
        (4, ValueError, "got an array of shape ()"),
        ([(0, 1), (2,)], ValueError, "got rows of different lengths"),
        ([0.5], TypeError, "got elements of type float64"),
        (["a"], TypeError, "got elements of type <U1"),
        (None, TypeError, "got elements of type object"),
        ([(1, 2), (1, 2)], ValueError, "chosen once each, got (y, x) = (1, 2) more than once"),
    ],
)
def test_bad_pixels(pixels: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        pixel_numbers(pixels, HEIGHT, WIDTH)
    assert text in str(caught.value)


def test_without_arviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r'needs arviz: pip install "pyro-unmix\[arviz\]"'):
        result().to_arviz([0])
    newer = types.ModuleType("arviz")
    newer.__version__ = "1.0.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arviz", newer)
    with pytest.raises(ImportError, match="with InferenceData, which version 1.0.0 does not have"):
        result().to_arviz([0])


def test_a_method_without_posterior_has_no_draws(arviz: Any) -> None:
    classical = pu.methods.fcls(
        result().cubes, endmembers=result().reference_endmembers, progress=False
    )
    with pytest.raises(ValueError, match=".to_arviz.. needs a posterior, and fcls has none"):
        classical.to_arviz([0])
