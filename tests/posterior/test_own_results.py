"""The result of a program of one's own does all that needs no more, and says what it lacks."""

from __future__ import annotations

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from own_programs import (
    CUBES,
    LMM,
    NUM_DATES,
    NUM_MATERIALS,
    NUM_PIXELS,
    SCENE,
    SPECTRA,
    SavedGuide,
    SavedLMM,
    amortised,
    auto,
    by_dirichlet,
    lmm,
    observe,
    plates,
    read,
    read_both,
)
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import nn

import pyro_unmix as pu
from pyro_unmix.infer import Checkpoints
from pyro_unmix.models.base import FunctionModel


@pytest.fixture(autouse=True)
def _nothing_left():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert not list(pyro.get_param_store().keys())


def run(model, guide, cubes=CUBES, **settings):
    return pu.fit(model, guide, cubes, **{"num_steps": 3, "progress": False, **settings})


def blind(pixels, valid, *, index=None, size=None, features=None):
    with plates(pixels, valid, index=index, size=size):
        pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))


@functools.cache
def alone():
    return pu.fit(
        lmm, auto(lmm), CUBES, decode=read, num_steps=100, learning_rate=0.05, progress=False
    )


@functools.cache
def with_endmembers():
    return pu.fit(LMM(), amortised, CUBES, num_steps=100, learning_rate=0.05, progress=False)


@pytest.mark.parametrize("make", [alone, with_endmembers])
def test_a_result_has_a_posterior(make):
    result = make()
    draws = result.sample(200, seed=3)
    low, high = result.interval(0.9, seed=3)
    assert (low <= high).all() and 0.5 < ((low <= draws) & (draws <= high)).mean() < 1
    quantiles = result.quantile([0.1, 0.9], seed=3)
    assert (quantiles[0] <= quantiles[1]).all()
    np.testing.assert_allclose(result.sample(64).mean("sample"), result.abundances, atol=1e-5)
    np.testing.assert_allclose(
        result.sample(64).std("sample", ddof=1), result.abundances_std, atol=1e-5
    )
    np.testing.assert_array_equal(result.sample(3, seed=1), result.sample(3, seed=1))
    pixels = result.reflectance_quantile([0.05, 0.95])
    inside = (pixels[0] <= CUBES) & (CUBES <= pixels[1])
    assert pixels.shape == (2, *CUBES.shape) and inside.mean() > 0.5
    plugged = result.predict(CUBES, estimate=pu.posterior.PlugInMean())
    assert np.abs(plugged.abundances - result.abundances).max() < 0.3
    diagnosed = result.diagnose(num_samples=30)
    assert np.isfinite(diagnosed["elbo"]).all()
    assert (diagnosed["importance_elbo"] >= diagnosed["elbo"]).all()


def test_some_pixels_for_arviz_are_those_of_the_maps():
    result = alone()
    numbers = np.random.default_rng(0).permutation(NUM_PIXELS)
    data = result.to_arviz(numbers, num_samples=20).posterior["abundances"][0]
    maps = (
        result.sample(20).stack(pixel=("y", "x")).transpose("sample", "pixel", "time", "endmember")
    )
    np.testing.assert_allclose(data.values, maps.values[:, numbers], atol=1e-6)


@pytest.mark.parametrize("make", [alone, with_endmembers])
def test_a_result_is_written(make, tmp_path):
    result = make()
    for path in (result.to_netcdf(tmp_path / "a.nc"), result.to_zarr(tmp_path / "a.zarr")):
        opened = xr.open_dataset(path) if path.suffix == ".nc" else xr.open_zarr(path)
        with opened:
            read_back = opened["abundances"].transpose(*result.abundances.dims)
            np.testing.assert_array_equal(read_back, result.abundances)
    assert len(result.to_geotiff(tmp_path / "tif")) == 2 * NUM_DATES
    headers = result.to_envi(tmp_path / "envi")
    assert ("endmembers.hdr" in [path.name for path in headers]) == result.has_endmembers
    store = result.predict_to_zarr(CUBES, tmp_path / "tiles.zarr", tile=4, progress=False)
    with xr.open_zarr(store) as opened:
        read_back = opened["abundances"].transpose(*result.abundances.dims)
        np.testing.assert_allclose(read_back, result.abundances, atol=1e-6)
    assert set(result.to_dataset()) >= {"abundances", "abundances_std", "valid", "losses"}


def test_endmembers_of_every_pixel_are_written(tmp_path):
    def decode(latents):
        return latents["a"], SPECTRA * (1 + latents["a"].unsqueeze(-2))

    result = run(lmm, alone().guide, decode=decode, num_steps=0)
    headers = result.to_envi(tmp_path / "envi")
    assert "endmembers.hdr" in [path.name for path in headers]
    with xr.open_dataset(result.to_netcdf(tmp_path / "maps.nc")) as opened:
        np.testing.assert_array_equal(
            opened["endmembers"].transpose(*result.dataset["endmembers"].dims),
            result.dataset["endmembers"],
        )
        np.testing.assert_allclose(opened["reference_endmembers"], result.reference_endmembers)
    store = result.predict_to_zarr(CUBES, tmp_path / "tiles.zarr", tile=4, progress=False)
    with xr.open_zarr(store) as opened:
        read_back = opened["endmembers"].transpose(*result.dataset["endmembers"].dims)
        np.testing.assert_allclose(read_back, result.dataset["endmembers"], atol=1e-6)


def test_plug_in_means_need_means():
    base = dist.Normal(torch.zeros(2, 2), 1.0).to_event(2)
    to_simplex = torch.distributions.transforms.StickBreakingTransform()

    def guide(pixels, valid, *, index=None, size=None, features=None):
        pyro.param("unused", torch.zeros(()))
        with plates(pixels, valid, index=index, size=size):
            pyro.sample("a", dist.TransformedDistribution(base, [to_simplex]))

    with pytest.raises(
        TypeError, match="site 'a' of the guide is Transformed.*, which has no mean"
    ):
        run(lmm, guide, decode=read, num_steps=0, estimate=pu.posterior.PlugInMean())


def test_pictures():
    for result in (alone(), with_endmembers()):
        pu.plots.plot_abundances(result, truth=SCENE)
        pu.plots.plot_uncertainty(result)
        pu.plots.plot_losses(result)
    pu.plots.plot_endmembers(with_endmembers(), truth=SCENE)


def test_what_a_result_lacks_is_said():
    result = alone()
    assert not result.has_endmembers and with_endmembers().has_endmembers
    text = "needs endmembers, and decode returned abundances alone: let it return a pair"
    for method in (result.endmembers, result.reconstruct):
        with pytest.raises(ValueError, match=rf"\.{method.__name__}\(\) {text}"):
            method(0)
    with pytest.raises(ValueError, match=text):
        result.unit_maximum()
    with pytest.raises(AttributeError, match=rf"\.reference_endmembers {text}"):
        _ = result.reference_endmembers
    with pytest.raises(ValueError, match=text):
        pu.plots.plot_endmembers(result)
    for either in (result, with_endmembers()):
        with pytest.raises(AttributeError, match=r"\.change needs endmembers in a basis"):
            _ = either.change
        for method in (either.interpolate, either.forecast):
            with pytest.raises(ValueError, match="the model knows no dates: fit it"):
                method(1.5)


def test_abundances_are_scored_without_endmembers():
    """In the order of materials that the truth speaks for."""
    result = alone()
    turned = run(lmm, result.guide, decode=lambda v: v["a"].flip(-1), num_steps=0)
    assert pu.metrics.score(turned, SCENE) == pytest.approx(
        pu.metrics.score(result, SCENE), rel=1e-5
    )
    assert pu.metrics.score(result, SCENE)["RMSE_A"] == pytest.approx(
        pu.metrics.rmse_abundances(result.abundances, SCENE.abundances), rel=1e-6
    )


def test_fits_of_ones_own_are_compared():
    def loose(pixels, valid, *, index=None, size=None, features=None):
        with plates(pixels, valid, index=index, size=size):
            a = pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))
            observe(a, SPECTRA, pixels, valid, 0.5)

    fits = {
        "lmm": run(lmm, by_dirichlet, decode=read),
        "loose": run(loose, by_dirichlet, decode=read),
    }
    table = pu.compare(fits, num_folds=2, num_samples=20, progress=False)
    assert set(table["fit"].values) == {"lmm", "loose"}


# Saving


def test_a_model_and_a_guide_of_ones_own_are_saved(tmp_path):
    model = SavedLMM(SPECTRA.numpy())
    result = run(model, SavedGuide(model), num_steps=20)
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved"))
    xr.testing.assert_identical(loaded.abundances, result.abundances)
    np.testing.assert_array_equal(loaded.sample(5), result.sample(5))
    np.testing.assert_array_equal(loaded.predict(CUBES).abundances, result.abundances)
    with pytest.raises(AttributeError, match="change needs"):
        _ = loaded.change


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            alone,
            "cannot save decode read, a function: .*derive the model from pyro_unmix.models.Model",
        ),
        (with_endmembers, r"cannot save the parameters \['scale', 'weights'\] of Pyro's store"),
    ],
)
def test_what_cannot_be_made_again_is_not_saved(make, text, tmp_path):
    with pytest.raises(TypeError, match=text) as error:
        make().save(tmp_path / "new" / "saved")
    assert "to_netcdf()" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_guide_that_cannot_be_made_again_is_named(tmp_path):
    model = SavedLMM(SPECTRA.numpy())
    for guide, kind in ((auto(model), "AutoNormal, a module"), (blind, "blind, a function")):
        result = run(model, guide)
        with pytest.raises(TypeError, match=f"cannot save the guide {kind}"):
            result.save(tmp_path / "saved")
    program = FunctionModel(lmm, torch.zeros(()))
    program.decode = read
    with pytest.raises(TypeError, match="cannot save the model lmm, a function"):
        run(program, blind, num_steps=0).save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


# Checkpoints


class Killed(Exception):
    pass


@pytest.mark.parametrize("guide_of", [auto, AutoDiagonalNormal, lambda model: by_dirichlet])
def test_a_killed_fit_goes_on_with_the_same_bits(guide_of, tmp_path):
    settings = {"decode": read_both, "num_steps": 12, "learning_rate": 0.05}

    def kill(step, elbo):
        if step == 8:
            raise Killed

    whole = run(lmm, guide_of(lmm), **settings)
    with pytest.raises(Killed):
        run(
            lmm, guide_of(lmm), checkpoint=Checkpoints(tmp_path, every=4), callback=kill, **settings
        )
    steps = []
    again = run(
        lmm,
        guide_of(lmm),
        checkpoint=Checkpoints(tmp_path, every=4),
        callback=lambda n, e: steps.append(n),
        **settings,
    )
    assert steps == [8, 9, 10, 11]
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(again.abundances, whole.abundances)

    def other(pixels, valid, *, index=None, size=None, features=None):
        lmm(pixels, valid, index=index, size=size)

    with pytest.raises(ValueError, match=r"model.function is .*other.* the checkpoint has 'lmm'"):
        run(other, guide_of(other), checkpoint=Checkpoints(tmp_path, every=4), **settings)


# Type and device


def test_a_function_computes_in_the_type_of_its_guide():
    seen = []

    def model(pixels, valid, *, index=None, size=None, features=None):
        seen.append(pixels.dtype)
        with plates(pixels, valid, index=index, size=size):
            ones = torch.ones(NUM_DATES, NUM_MATERIALS, dtype=pixels.dtype)
            a = pyro.sample("a", dist.Dirichlet(ones).to_event(1))
            observe(a, SPECTRA.to(pixels), pixels, valid)

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(20, 3).double()

        def forward(self, pixels, valid, *, index=None, size=None, features=None):
            pyro.module("net", self.net)
            with plates(pixels, valid, index=index, size=size):
                pyro.sample("a", dist.Dirichlet(self.net(pixels).exp()).to_event(1))

    assert run(model, Doubled(), decode=read).abundances.dtype == np.float64
    assert set(seen) == {torch.float64}
    assert run(model, by_dirichlet, decode=read, device="cpu").abundances.dtype == np.float32
