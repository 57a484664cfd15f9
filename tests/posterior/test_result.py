from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import reference
import torch
import xarray as xr

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, Unmixing, fit, simulate
from pyro_unmix.bases.linear import DCT, Brightness, LearnedBasis
from pyro_unmix.guides.conjugate import guide as conjugate
from pyro_unmix.posterior import read_out as posterior
from pyro_unmix.posterior.read_out import Noise, PlugInMean, PosteriorMean
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    WhiteNoise,
)

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(
    num_dates=3, height=6, width=7, library=LIBRARY, cloud_fraction=0.15, seed=2
)
# Coordinates of all kinds, as real data have them.
CUBES = SCENE.cubes.assign_coords(
    time=np.array(["2021-05-01", "2021-06-11", "2021-07-31"], dtype="datetime64[ns]"),
    x=500.0 + 10 * np.arange(7),
    y=900.0 - 10 * np.arange(6),
)
# float32 sums of some hundred terms of order one, passed through a few solvers of condition 1e3.
SINGLE = 5e-4


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert not list(pyro.get_param_store().keys())


def paper(endmembers=SCENE.reference_endmembers, basis=None):
    model = SGLMM(endmembers, basis=basis or DCT(2))
    return model, BiLSTMGuide(model)


def ours(endmembers=SCENE.reference_endmembers, basis=None):
    model = SGLMM(
        FixedEndmembers(endmembers),
        basis=basis or DCT(2, scale=0.4),
        abundance_prior=JumpWalk(),
        variability_prior=AutoRegressive(0.4),
        noise=WhiteNoise(0.02),
    )
    return model, ConjugateGuide(model)


PAIRS = {"paper": paper, "ours": ours}


def fitted(make, cubes=CUBES, num_steps: int = 4, **settings) -> Unmixing:
    defaults = {"progress": False, "batch_size": 16, "learning_rate": 0.01}
    return fit(*make(), cubes, num_steps=num_steps, **{**defaults, **settings})


@pytest.fixture(scope="module")
def results() -> dict[str, Unmixing]:
    return {
        "paper": fitted(paper, estimate=PlugInMean()),
        "ours": fitted(ours),
    }


@pytest.fixture(params=PAIRS)
def result(request, results) -> Unmixing:
    return results[request.param]


def plain() -> Unmixing:
    """What a method without a posterior returns."""
    dataset = xr.Dataset(
        {
            "abundances": SCENE.abundances,
            "reference_endmembers": SCENE.reference_endmembers,
            "valid": CUBES.notnull().all("wavelength").drop_vars(["time", "x", "y"]),
        }
    )
    return Unmixing(dataset, method="fcls")


# What is read out


def test_layout(result):
    assert result.abundances.dims == ("time", "y", "x", "endmember")
    assert result.abundances.shape == (3, 6, 7, 3)
    assert result.abundances_std.dims == result.abundances.dims
    assert result.reference_endmembers.dims == ("wavelength", "endmember")
    assert result.endmembers().dims == ("y", "x", "wavelength", "endmember")
    assert result.reconstruct().dims == ("y", "x", "wavelength")
    assert result.change.dims == result.valid.dims == ("time", "y", "x")
    assert result.unit_maximum().dims == result.abundances.dims
    assert result.losses.shape == (4,)
    assert result.num_endmembers == 3
    for array in (result.abundances, result.change, result.valid):
        for name in ("time", "y", "x"):
            np.testing.assert_array_equal(array[name], CUBES[name])
    np.testing.assert_array_equal(result.endmembers(1).wavelength, CUBES.wavelength)
    assert list(result.abundances.endmember.values) == list(LIBRARY.endmember.values[:3])
    for name, array in result.to_dataset().data_vars.items():
        if name != "losses":
            assert array.attrs["long_name"], name


def test_abundances_are_on_the_simplex_with_a_spread(result):
    values, std = result.abundances.values, result.abundances_std.values
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert (std > 0).all()
    assert (std <= 0.5 * np.sqrt(64 / 63) + 1e-6).all()  # the most that values in [0, 1] can have


def test_missing_pixel_dates_are_filled_and_marked(result):
    expected = CUBES.notnull().all("wavelength")
    assert not expected.all()
    xr.testing.assert_equal(result.valid.astype(bool), expected)
    assert np.isfinite(result.abundances).all()
    assert np.isfinite(result.endmembers(1)).all()


@pytest.mark.parametrize("name", PAIRS)
def test_values_beside_a_missing_band_do_not_matter(name):
    cubes, other = CUBES.copy(deep=True), CUBES.copy(deep=True)
    cubes[1, 2, 3, 4] = other[1, 2, 3, 4] = np.nan
    other[1, 2, 3, 5:] = 90.0
    first, second = fitted(PAIRS[name], cubes), fitted(PAIRS[name], other)
    xr.testing.assert_identical(first.to_dataset(), second.to_dataset())
    assert not bool(first.valid[1, 2, 3])


def test_a_pixel_without_any_date_is_the_prior_and_leaves_the_others_alone():
    cubes = CUBES.copy(deep=True)
    cubes[:, 0, 0] = np.nan
    result = fitted(ours, CUBES, num_steps=0)
    gap = result.predict(cubes)
    assert np.isfinite(gap.abundances).all()
    np.testing.assert_allclose(
        gap.abundances.values[:, 1:], result.abundances.values[:, 1:], atol=SINGLE
    )
    # By symmetry of the prior no material is preferred: 64 antithetic draws.
    error = 5 * gap.abundances_std.values[:, 0, 0] / np.sqrt(64)
    assert (np.abs(gap.abundances.values[:, 0, 0] - 1 / 3) < error).all()
    assert (gap.abundances_std[:, 0, 0] > gap.abundances_std.median()).all()


def test_posterior_mean_and_std_are_those_of_the_draws(results):
    result = results["ours"]
    draws = result.sample(64, seed=result.seed).values
    np.testing.assert_allclose(result.abundances, draws.mean(0), atol=1e-5)
    np.testing.assert_allclose(result.abundances_std, draws.std(0, ddof=1), atol=1e-5)


def test_the_number_of_draws_is_the_estimates():
    few = fitted(ours, num_steps=0, estimate=PosteriorMean(num_samples=2))
    draws = few.sample(2, seed=0).values
    np.testing.assert_allclose(few.abundances, draws.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        PosteriorMean(num_samples=1)
    with pytest.raises(TypeError, match="num_samples must be an integer"):
        PlugInMean(num_samples=4.0)


def algorithm_1(guide: BiLSTMGuide, cubes: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper in numpy: the means of eqs. (33)-(35) and (44)-(47), fed forward.

    Returns abundances (T, N, P) and variability (T, N, K P).
    """
    value = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    weights = {k.removeprefix("encoder.lstm."): v for k, v in value.items() if "lstm" in k}
    endmembers = guide.model.reference.value.detach().numpy()
    components = reference.dct_components(endmembers, guide.model.num_components)
    num_bands, num_components, p = components.shape
    spectra = cubes.values.astype(float).reshape(len(cubes), -1, num_bands).swapaxes(0, 1)
    valid = np.isfinite(spectra).all(-1)
    spectra[~valid] = 0
    abundances, variability = [], []
    for y, seen in zip(spectra, valid, strict=True):
        hidden = reference.bilstm(y, weights)
        c, psi = value["initial_loc"][:p], value["initial_loc"][p:]
        for t, h in enumerate(hidden):
            before, factors = reference.softmax(c), psi.reshape(num_components, p)
            matrix = endmembers + np.einsum("lkp,kp->lp", components, factors)
            gram = matrix.T @ matrix
            ridge = 1e-6 * np.trace(gram) / p
            v = np.linalg.solve(gram + ridge * np.eye(p), matrix.T @ y[t])
            s = np.maximum(v, 0) + 1e-12
            u = 0.5 * np.abs(s / s.sum() - before).sum() if seen[t] else 0.0
            keep, new = value["alpha"]
            mixed = keep * (1 - u) * before + new * u * (v + value["shift_c"] @ h)
            logs = np.log(np.maximum(mixed, 0) + 1e-8)
            c = logs - logs.mean()
            psi = value["beta"] * psi + value["shift_psi"] @ h
            abundances.append(reference.softmax(c))
            variability.append(psi)
    shape = (len(spectra), len(cubes), -1)
    return tuple(np.reshape(x, shape).swapaxes(0, 1) for x in (abundances, variability))


def test_plug_in_mean_is_algorithm_1():
    """The means fed forward, against numpy alone, at parameters away from their start."""
    model, guide = paper()
    model, guide = model.double(), guide.double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    result = fit(model, guide, CUBES, num_steps=3, progress=False, estimate=PlugInMean())
    missing = ~result.valid.values
    assert missing[0].any() and missing[1].any() and missing[2].any()
    abundances, variability = algorithm_1(guide, CUBES)
    assert abundances.std(axis=(0, 1)).min() > 0.1
    got = result.abundances.values.reshape(abundances.shape)
    np.testing.assert_allclose(got, abundances, rtol=1e-9, atol=1e-9)
    got = result.dataset["variability"].values.reshape(variability.shape)
    np.testing.assert_allclose(got, variability, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_change_is_the_formula(name, results):
    result = results[name]
    change = result.change.values
    assert np.isnan(change[0]).all()
    cubes, valid = result.cubes.values.astype(float), result.valid.values
    for t in (1, 2):
        matrices = result.endmembers(t - 1).values.astype(float)
        a = result.abundances.values[t - 1].astype(float)
        for y, x in np.ndindex(6, 7):
            if not valid[t, y, x]:
                assert np.isnan(change[t, y, x])
                continue
            v = np.linalg.lstsq(matrices[y, x], cubes[t, y, x], rcond=None)[0]
            s = np.maximum(v, 0)
            expected = 0.5 * np.abs(s / s.sum() - a[y, x]).sum()
            # Its regression has a ridge of 1e-6 of the mean eigenvalue, in float32.
            gram = matrices[y, x].T @ matrices[y, x]
            ridge = 3e-6 * np.trace(gram) / 3 / np.linalg.eigvalsh(gram)[0]
            assert change[t, y, x] == pytest.approx(expected, abs=SINGLE + ridge)


def test_endmembers_and_reconstruction_are_the_written_out_products(result):
    psi, components = result.dataset["variability"], result.dataset["components"]
    for t in (0, 2, -1):
        expected = result.reference_endmembers + (components * psi.isel(time=t)).sum("component")
        expected = expected.transpose("y", "x", "wavelength", "endmember")
        got = result.endmembers(t)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        product = np.einsum("yxlp,yxp->yxl", got.values, result.abundances.values[t])
        np.testing.assert_allclose(result.reconstruct(t), product, atol=1e-5)
    xr.testing.assert_equal(result.endmembers(-1), result.endmembers(2))


def test_components_are_the_models(result):
    with torch.no_grad():
        components = result.model.components()
        reference = result.model.reference.value.detach()
    np.testing.assert_array_equal(result.dataset["components"], components)
    np.testing.assert_array_equal(result.reference_endmembers, reference)


def test_unit_maximum_is_the_formula(result):
    got = result.unit_maximum().values
    for t in range(3):
        weighted = result.abundances.values[t] * result.endmembers(t).values.max(2)
        np.testing.assert_allclose(got[t], weighted / weighted.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


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
        (lambda r: r.predict("scene.nc"), TypeError, "a cube sequence must be a numpy array"),
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


# Prediction does not depend on what else is there

READ_OUT = ("abundances", "abundances_std", "variability", "change")


def assert_close(got: xr.Dataset, expected: xr.Dataset) -> None:
    for name in READ_OUT:
        scale = 1 + float(np.abs(expected[name]).max())
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=SINGLE * scale)
    np.testing.assert_array_equal(got["valid"], expected["valid"])


def test_prediction_of_the_training_images_is_the_result(result):
    again = result.predict(CUBES)
    assert_close(again.dataset, result.dataset)
    assert again.model is result.model
    assert again.predict(CUBES).method == result.method


@pytest.mark.parametrize("name", PAIRS)
def test_prediction_of_a_part_is_the_part_of_the_prediction(name, results):
    window = {"y": slice(1, 4), "x": slice(2, 7)}
    part = results[name].predict(CUBES.isel(window))
    assert_close(part.dataset, results[name].dataset.isel(window))
    pixel = results[name].predict(CUBES.isel(y=[4], x=[0]))
    assert_close(pixel.dataset, results[name].dataset.isel(y=[4], x=[0]))


@pytest.mark.parametrize("name", PAIRS)
def test_prediction_does_not_depend_on_chunks(name, results, monkeypatch):
    sizes = []
    original = posterior.chunks

    def counting(num_pixels, per_pixel):
        parts = list(original(num_pixels, per_pixel))
        sizes.append(len(parts))
        return iter(parts)

    monkeypatch.setattr(posterior, "chunks", counting)
    monkeypatch.setattr(posterior, "_CHUNK_ELEMENTS", 3 * 5 * 3 * 64)
    monkeypatch.setattr(conjugate, "_CHUNK", 4)
    monkeypatch.setattr(conjugate, "_DRAWN", 4)
    again = results[name].predict(CUBES)
    assert sizes == [9]  # of five pixels
    assert_close(again.dataset, results[name].dataset)
    draws = results[name].sample(64, seed=0)
    monkeypatch.undo()
    expected = results[name].sample(64, seed=0)
    np.testing.assert_allclose(draws, expected, atol=2 * SINGLE)
    levels = results[name].quantile([0.1, 0.9])
    assert levels.shape == (2, 3, 6, 7, 3)


@pytest.mark.parametrize("name", PAIRS)
def test_permuted_pixels_give_permuted_results(name, results):
    order = np.random.default_rng(0).permutation(42)
    flat = CUBES.values.reshape(3, 42, 20)[:, order].reshape(3, 6, 7, 20)
    moved = results[name].predict(CUBES.copy(data=flat))
    for key in READ_OUT:
        expected = results[name].dataset[key].values
        expected = expected.reshape(3, 42, *expected.shape[3:])[:, order]
        got = moved.dataset[key].values
        scale = 1 + np.nanmax(np.abs(expected))
        np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=SINGLE * scale)


@pytest.mark.parametrize("basis", ["brightness", "learned"])
@pytest.mark.parametrize("name", PAIRS)
def test_permuted_bands_give_the_same(name, basis):
    """With the LSTM's input weights permuted alike."""
    rng = np.random.default_rng(1)
    order = rng.permutation(20)
    matrix = SCENE.reference_endmembers
    components = 0.1 * rng.normal(size=(20, 2, 3))
    outcomes = []
    for bands in (np.arange(20), order):
        made = LearnedBasis(components[bands]) if basis == "learned" else Brightness()
        model, guide = PAIRS[name](matrix[bands], made)
        with torch.no_grad():
            for key, value in guide.encoder.named_parameters():
                if "weight_ih" in key:
                    value[:, :20] = value[:, :20][:, torch.from_numpy(bands)]
        cubes = CUBES.isel(wavelength=bands)
        settings = {"num_steps": 3, "batch_size": 42, "progress": False}
        outcomes.append(fit(model, guide, cubes, **settings))
    first, second = outcomes
    np.testing.assert_allclose(second.losses, first.losses, rtol=1e-4)
    np.testing.assert_allclose(second.abundances, first.abundances, atol=20 * SINGLE)
    np.testing.assert_allclose(
        second.reconstruct(1), first.reconstruct(1).values[..., order], atol=20 * SINGLE
    )


def test_other_dates_can_be_predicted(result):
    """Four dates more than the three that were fitted."""
    more = simulate.scaled_scene(num_dates=7, height=4, width=3, library=LIBRARY, seed=9)
    predicted = result.predict(more.cubes)
    assert predicted.abundances.shape == (7, 4, 3, 3)
    np.testing.assert_array_equal(predicted.losses, result.losses)
    np.testing.assert_allclose(predicted.abundances.sum("endmember"), 1, atol=1e-5)


def test_prediction_of_cubes_as_a_plain_array(result):
    predicted = result.predict(CUBES.values)
    assert_close(predicted.dataset, result.dataset)


# Common random numbers


def test_noise_is_a_function_of_seed_and_site():
    like = torch.zeros(())
    noise = Noise(6, 3, like)
    first = noise("c_1", 4)
    assert first.shape == (6, 1, 4)
    assert torch.equal(first, Noise(6, 3, like)("c_1", 4))
    assert torch.equal(first[0::2], -first[1::2])  # antithetic
    for other in (noise("c_2", 4), Noise(6, 4, like)("c_1", 4)):
        assert not torch.equal(first, other)
    assert Noise(5, 3, like)("c_1", 4).shape == (5, 1, 4)


def test_noise_is_standard_normal():
    draws = Noise(20_000, 0, torch.zeros(()).double())("x", 2).numpy()[::2, 0]
    assert (np.abs(draws.mean(0)) < 5 / np.sqrt(10_000)).all()
    assert draws.std(0) == pytest.approx(1, rel=5 / np.sqrt(2 * 10_000))


@pytest.mark.parametrize(
    "site",
    [
        dist.Normal(torch.tensor([0.5, -1.0]), 0.3).to_event(1),
        dist.Normal(torch.zeros(2), 1.0).to_event(1).expand([4]),
        dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0], [0.5, 2.0]])),
        dist.Delta(torch.tensor([1.0, 2.0])).to_event(1),
        dist.Normal(torch.tensor(0.5), torch.tensor(2.0)),
    ],
    ids=["normal", "expanded", "multivariate", "delta", "scalar"],
)
def test_draws_from_common_noise_have_the_distribution(site):
    count = 4000
    noise = Noise(count, 0, torch.zeros(()))
    draws = posterior._from_noise(site, "x", noise)
    draws = draws.expand(count, *draws.shape[1:]) if draws.dim() > len(site.event_shape) else draws
    mean, std = site.mean, site.variance.sqrt()
    if isinstance(getattr(site, "base_dist", None), dist.Delta):
        assert torch.equal(draws, mean)
        return
    assert draws.shape[0] == count
    # Antithetic pairs have the mean exactly.
    torch.testing.assert_close(draws.mean(0), mean.expand(draws.shape[1:]), atol=1e-3, rtol=1e-3)
    assert ((draws.std(0) / std - 1).abs() < 5 / np.sqrt(count)).all()


def test_a_site_that_noise_cannot_draw_is_named():
    site = dist.Gamma(torch.ones(2), torch.ones(2)).to_event(1)
    with pytest.raises(TypeError, match="site 'rate' of the guide is Gamma, which cannot be drawn"):
        posterior._from_noise(site, "rate", Noise(4, 0, torch.zeros(())))


# Saving

LOADER = """
import sys
import numpy as np
import xarray as xr
from pyro_unmix import Unmixing
result = Unmixing.load(sys.argv[1])
cubes = xr.open_dataarray(sys.argv[2], engine="h5netcdf")
np.savez(
    sys.argv[3],
    abundances=result.abundances.values,
    std=result.abundances_std.values,
    losses=result.losses,
    predicted=result.predict(cubes).abundances.values,
    drawn=(result if result.cubes is not None else result.predict(cubes)).sample(4).values,
)
"""


def load_elsewhere(saved: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Load in a fresh process, predict and draw there."""
    cubes, out = tmp_path / "given.nc", tmp_path / "out.npz"
    CUBES.to_netcdf(cubes, engine="h5netcdf")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", LOADER, str(saved), str(cubes), str(out)]
    subprocess.run(arguments, env=environment, check=True, timeout=120)
    return dict(np.load(out))


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_result_is_the_same_in_a_fresh_process(name, results, tmp_path):
    result = results[name]
    path = result.save(tmp_path / "saved", cubes=name == "ours")
    assert path == tmp_path / "saved"
    there = load_elsewhere(path, tmp_path)
    np.testing.assert_array_equal(there["abundances"], result.abundances)
    np.testing.assert_array_equal(there["std"], result.abundances_std)
    np.testing.assert_array_equal(there["losses"], result.losses)
    np.testing.assert_array_equal(there["predicted"], result.predict(CUBES).abundances)
    np.testing.assert_array_equal(there["drawn"], result.sample(4))


PARTS = {
    "learned basis, fixed M0, jumps": lambda: SGLMM(
        FixedEndmembers(SCENE.reference_endmembers.values),
        basis=LearnedBasis(np.random.default_rng(0).normal(size=(20, 2, 3))),
        abundance_prior=JumpWalk(scale=0.1, jump_probability=0.02),
        variability_prior=AutoRegressive(0.3, 0.8, learn=False),
        noise=WhiteNoise(0.03, learn=False),
        seed=3,
    ),
    "scaled DCT, named M0, walks": lambda: SGLMM(
        SCENE.reference_endmembers,
        basis=DCT(3, scale=[0.5, 0.2, 0.1]),
        variability_prior=RandomWalk(0.05, learn=True),
    ),
    "known abundances, brightness": lambda: SGLMM(
        SCENE.reference_endmembers,
        basis=Brightness(0.2),
        abundance_prior=KnownAbundances(SCENE.abundances.values.reshape(3, 42, 3).swapaxes(0, 1)),
        variability_prior=Independent(0.7),
    ),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("kind", [BiLSTMGuide, ConjugateGuide])
def test_every_part_is_saved_and_loaded(name, kind, tmp_path):
    model = PARTS[name]()
    # A Gaussian guide has no density under a point mass.
    kind = kind if model.abundance_prior.is_random else ConjugateGuide
    guide = kind(model, seed=2)
    result = fit(model, guide, CUBES, num_steps=1, progress=False, method="mine", seed=5)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    for ours, theirs in ((result.model, loaded.model), (result.guide, loaded.guide)):
        assert type(theirs) is type(ours)
        state, other = ours.state_dict(), theirs.state_dict()
        assert state.keys() == other.keys()
        for key, value in state.items():
            assert torch.equal(value, other[key]), key
            assert value.dtype == other[key].dtype
    assert loaded.guide.model is loaded.model
    assert loaded.model.endmember_names == result.model.endmember_names
    assert (loaded.method, loaded.seed, loaded.estimate) == ("mine", 5, result.estimate)
    xr.testing.assert_equal(loaded.to_dataset(), result.to_dataset())
    np.testing.assert_array_equal(loaded.predict(CUBES).abundances, result.abundances)
    np.testing.assert_array_equal(loaded.sample(3), result.sample(3))
    again = fit(loaded.model, loaded.guide, CUBES, num_steps=1, progress=False)
    assert np.isfinite(again.losses).all()


def test_a_loaded_result_is_trained_on_as_if_it_had_not_been_saved(tmp_path):
    result = fitted(ours)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    settings = {"num_steps": 3, "progress": False, "seed": 1}
    expected = fit(result.model, result.guide, CUBES, **settings)
    got = fit(loaded.model, loaded.guide, CUBES, **settings)
    np.testing.assert_array_equal(got.losses, expected.losses)
    np.testing.assert_array_equal(got.abundances, expected.abundances)


def test_double_precision_is_kept(tmp_path):
    model, guide = ours()
    result = fit(model.double(), guide.double(), CUBES, num_steps=1, progress=False)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.model.noise.log_scale.dtype == torch.float64
    assert loaded.guide.head.dtype == torch.float64
    np.testing.assert_array_equal(loaded.predict(CUBES).abundances, result.abundances)


def test_a_result_without_a_posterior_is_saved_too(tmp_path):
    result = plain()
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.model is None
    assert loaded.method == "fcls"
    np.testing.assert_array_equal(loaded.abundances, result.abundances)
    np.testing.assert_array_equal(loaded.reference_endmembers, result.reference_endmembers)
    with pytest.raises(ValueError, match="fcls has none"):
        loaded.sample()


def test_without_the_images_a_loaded_result_predicts_and_says_what_it_cannot(results, tmp_path):
    loaded = Unmixing.load(results["ours"].save(tmp_path / "saved", cubes=False))
    assert not (tmp_path / "saved" / "cubes.nc").exists()
    with pytest.raises(ValueError, match="saved without them: call result.predict"):
        loaded.sample()
    predicted = loaded.predict(CUBES)
    np.testing.assert_array_equal(predicted.sample(3), results["ours"].sample(3))


def test_coordinates_survive_saving(results, tmp_path):
    loaded = Unmixing.load(results["ours"].save(tmp_path / "saved"))
    for name in ("time", "y", "x", "wavelength"):
        np.testing.assert_array_equal(loaded.cubes[name], CUBES[name])
    xr.testing.assert_identical(loaded.abundances, results["ours"].abundances)
    tiled = CUBES.assign_coords(tile=("y", [0, 0, 0, 4, 4, 4]))
    other = results["ours"].predict(tiled)
    loaded = Unmixing.load(other.save(tmp_path / "tiled"))
    np.testing.assert_array_equal(loaded.cubes.tile, tiled.tile)
    assert loaded.cubes.tile.dtype.kind == "i"


def test_nothing_saved_is_pickled_code(results, tmp_path):
    path = results["ours"].save(tmp_path / "saved")
    names = {file.name for file in path.iterdir()}
    assert names == {"recipe.json", "weights.pt", "result.nc", "cubes.nc"}
    torch.load(path / "weights.pt", weights_only=True)
    recipe = json.loads((path / "recipe.json").read_text())
    assert recipe["format"] == 1


def test_an_existing_folder_is_replaced_only_if_asked_for(results, tmp_path):
    path = tmp_path / "deep" / "saved"
    results["ours"].save(path)
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True to replace a saved"):
        results["paper"].save(path)
    results["paper"].save(path, overwrite=True)
    assert isinstance(Unmixing.load(path).guide, BiLSTMGuide)
    assert [child.name for child in path.parent.iterdir()] == ["saved"]
    # What is not a saved result is never removed.
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_text("")
    with pytest.raises(FileExistsError, match="photos exists"):
        results["paper"].save(foreign, overwrite=True)
    assert (foreign / "cat.png").exists()


def test_a_failed_save_leaves_what_was_there(results, tmp_path):
    path = results["ours"].save(tmp_path / "saved")
    model, _ = paper()
    odd = BiLSTMGuide(model, change_detector=lambda v, a: a[..., 0])
    broken = dataclasses.replace(results["paper"], model=model, guide=odd)
    with pytest.raises(TypeError, match="cannot save <function .*put it into such a subclass"):
        broken.save(path, overwrite=True)
    assert isinstance(Unmixing.load(path).guide, ConjugateGuide)
    assert [child.name for child in tmp_path.iterdir()] == ["saved"]


def test_load_errors(results, tmp_path):
    with pytest.raises(ValueError, match="is not a saved result .recipe.json: .*pass the folder"):
        Unmixing.load(tmp_path / "nowhere")
    path = results["ours"].save(tmp_path / "saved", cubes=False)
    recipe = json.loads((path / "recipe.json").read_text())
    for change, text in (
        ({"format": 99}, "has format 99, this version reads 1: load it with the version"),
        (
            {"guide": {"class": "elsewhere.MyGuide", "arguments": {}}},
            "uses the class elsewhere.MyGuide, which is not defined here: import the module",
        ),
    ):
        (path / "recipe.json").write_text(json.dumps({**recipe, **change}))
        with pytest.raises(ValueError, match=text):
            Unmixing.load(path)
