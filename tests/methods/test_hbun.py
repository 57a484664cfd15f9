"""HBUN's fit against FCLS on scenes of its own kind."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from hbun_cases import as_sites
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal

from pyro_unmix import Unmixing, fit, simulate
from pyro_unmix.guides import SceneMeanField
from pyro_unmix.methods import fcls, hbun
from pyro_unmix.methods.classical import read_input
from pyro_unmix.metrics import nrmse_abundances, nrmse_endmembers
from pyro_unmix.models import PerturbedLinear

pytestmark = pytest.mark.usefixtures("seeded")
hbun_module = sys.modules["pyro_unmix.methods.hbun"]  # the package holds the function


def smooth_scene(
    height: int = 9, width: int = 10, num_dates: int = 4, noise: float = 0.03
) -> tuple[xr.DataArray, np.ndarray, np.ndarray, np.ndarray]:
    """Cubes, abundances (T, H, W, P), endmembers by date (T, L, P), and the start M0 (L, P)."""
    rng = np.random.default_rng(8)
    bands, count = 30, 3
    wavelength = np.linspace(450, 2400, bands)
    spectra = simulate.library(wavelength).values[:, :count]
    y, x = np.mgrid[:height, :width] / max(height, width)
    logits = np.empty((num_dates, height, width, count))
    for p in range(count):
        a, b, phase = rng.uniform(2, 5, 3)
        logits[..., p] = 1.5 * np.sin(a * y + b * x + phase)
        logits[..., p] += 0.3 * np.arange(num_dates)[:, None, None] * np.cos(phase)
    abundances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    waves = np.sin(np.linspace(0, 6, bands)[None, :, None] + rng.uniform(0, 6, (num_dates, 1, 3)))
    by_date = spectra + 0.04 * waves
    images = np.einsum("tyxp,tlp->tyxl", abundances, by_date)
    images = images + rng.normal(0, noise, images.shape)
    cubes = xr.DataArray(
        images, dims=("time", "y", "x", "wavelength"), coords={"wavelength": wavelength}
    )
    return cubes, abundances, by_date, spectra


CUBES, TRUTH, BY_DATE, START = smooth_scene()


def run(cubes=CUBES, endmembers=START, **settings) -> Unmixing:
    given = "num_endmembers" if isinstance(endmembers, int) else "endmembers"
    defaults = {"progress": False, "num_steps": 150, given: endmembers}
    return hbun(cubes, **{**defaults, **settings})


def endmember_error(result: Unmixing) -> float:
    dates = range(len(BY_DATE))
    spectra = (result.endmembers(t).values for t in dates)
    shape = (*TRUTH.shape[1:3], *START.shape)
    return nrmse_endmembers(spectra, (np.broadcast_to(BY_DATE[t], shape) for t in dates))


@pytest.mark.parametrize("guide", [AutoDelta, SceneMeanField], ids=["mode", "mean field"])
def test_on_a_scene_of_its_kind_it_beats_fcls(guide):
    least_squares = fcls(CUBES, endmembers=START, progress=False)
    result = run(guide=guide)
    error = nrmse_abundances(result.abundances, TRUTH)
    assert error < 0.7 * nrmse_abundances(least_squares.abundances, TRUTH)
    assert endmember_error(result) < 0.8 * endmember_error(least_squares)
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)


def test_the_mode_is_climbed_without_falling_back():
    losses = run(guide=AutoDelta).losses
    assert losses[-1] < losses[0] - 0.1
    rises = np.diff(losses).clip(min=0)
    assert rises.sum() < 0.01 * (losses[0] - losses[-1])


def test_the_first_loss_is_the_log_joint_at_fcls():
    """The loss is per observed value, and the start what the docstring says."""
    result = run(guide=AutoDelta, num_steps=1, spatial_scale=0.4)
    model = PerturbedLinear(START, CUBES, spatial_scale=0.4)
    start = fcls(CUBES, endmembers=START, progress=False).abundances.values
    logs = np.log(start + 0.01)
    states = np.moveaxis(logs - logs.mean(-1, keepdims=True), 0, 2)
    noise = np.sqrt(np.mean((CUBES.values - start @ START.T) ** 2))
    at = {
        "endmembers": START,
        "perturbations": np.zeros_like(BY_DATE),
        "states": states,
        **{name: np.float64(median) for name, median in model.medians.items()},
        "noise_scale": np.float64(noise),
    }
    sites = {name: value.float() for name, value in as_sites(at).items()}
    pixels = torch.tensor(np.moveaxis(CUBES.values, 0, 2).reshape(90, 4, 30)).float()
    valid = torch.ones(90, 4, dtype=torch.bool)
    trace = poutine.trace(poutine.condition(model, data=sites)).get_trace(pixels, valid)
    assert result.losses[0] == pytest.approx(-float(trace.log_prob_sum()) / CUBES.size, rel=1e-4)


def test_every_step_is_of_all_pixels():
    """However many: neighbours depend on each other, and a part of them has another loss."""
    cubes = smooth_scene(height=12, width=12)[0]
    settings = {"guide": AutoDelta, "noise_scale": 0.03}
    result = run(cubes, **settings, num_steps=1)
    model = PerturbedLinear(START, cubes, noise_scale=0.03)
    sites = hbun_module._start(model, read_input(cubes, None, START, 0))
    pixels = torch.tensor(np.moveaxis(cubes.values, 0, 2).reshape(144, 4, 30)).float()
    valid = torch.ones(144, 4, dtype=torch.bool)
    trace = poutine.trace(poutine.condition(model, data=sites)).get_trace(pixels, valid)
    assert result.losses[0] == pytest.approx(-float(trace.log_prob_sum()) / cubes.size, rel=1e-5)


def test_the_mode_has_no_posterior_and_can_be_written(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pyro_unmix.methods.hbun"):
        result = run(guide=AutoDelta, num_steps=3)
    assert "spatial_scale" in caplog.text
    assert result.method == "hbun"
    assert np.isnan(result.abundances_std).all()
    with pytest.raises(ValueError, match="needs a posterior, and hbun has none"):
        result.sample(2)
    again = Unmixing.load(result.save(tmp_path / "result"))
    xr.testing.assert_allclose(again.endmembers(2), result.endmembers(2))
    result.to_netcdf(tmp_path / "result.nc")


def test_a_saved_result_has_its_posterior(tmp_path):
    """With tiles and wavelengths, which the model needs, and without the images."""
    result = run(num_steps=3)
    again = Unmixing.load(result.save(tmp_path / "with images"))
    assert again.model.tile_heights == result.model.tile_heights
    xr.testing.assert_identical(again.sample(2), result.sample(2))
    for time in (0, 3):
        xr.testing.assert_identical(again.endmembers(time), result.endmembers(time))
    predicted = again.predict(CUBES)
    xr.testing.assert_identical(predicted.abundances, result.predict(CUBES).abundances)
    np.testing.assert_allclose(predicted.abundances, result.abundances, rtol=1e-6)
    with pytest.raises(ValueError, match="expected pixels of the images that this model was made"):
        again.predict(CUBES + 0.01)
    # The densities are those of one model: of the prior of the field over the tiles, too.
    valid = torch.ones(90, 4, dtype=torch.bool)
    pixels = torch.tensor(np.moveaxis(CUBES.values, 0, 2).reshape(90, 4, 30)).float()
    logs = []
    with torch.no_grad(), pyro.get_param_store().scope():
        latents = poutine.trace(again.guide).get_trace(pixels, valid)
        for model in (again.model, result.model):
            program = poutine.trace(poutine.replay(model, trace=latents))
            logs.append(float(program.get_trace(pixels, valid).log_prob_sum()))
    assert logs[0] == logs[1]
    folder = result.save(tmp_path / "result", cubes=False)
    assert (folder / "weights.pt").stat().st_size < CUBES.nbytes / 2
    xr.testing.assert_identical(
        Unmixing.load(folder).predict(CUBES).abundances, predicted.abundances
    )


def test_the_endmembers_of_a_date_are_the_guides():
    result = run(num_steps=30)
    locs = result.guide.locs
    mean = locs.endmembers.detach().numpy().reshape(START.shape)
    shifts = locs.perturbations.detach().numpy().reshape(BY_DATE.shape)
    np.testing.assert_array_equal(result.reference_endmembers, mean)
    for time in (0, -1):
        spectra = result.endmembers(time).values
        np.testing.assert_allclose(spectra[3, 4], mean + shifts[time], rtol=1e-6)
        expected = result.abundances.values[time] @ (mean + shifts[time]).T
        np.testing.assert_allclose(result.reconstruct(time), expected, rtol=1e-5)


def test_the_mean_field_draws():
    result = run(num_steps=60)
    std = result.abundances_std.values
    assert (std > 0).all()
    # The posterior of a state is normal: an independent draw of all of them.
    locs, scales = result.guide.locs.states, result.guide.scales.states
    rng = np.random.default_rng(0)
    draws = rng.normal(locs.detach().numpy(), scales.detach().numpy(), (4000, len(locs)))
    weights = np.exp(draws.reshape(4000, 9, 10, 4, 3))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.moveaxis(weights.std(0), 2, 0)
    # 32 antithetic pairs behind every std
    assert np.median(np.abs(std / expected - 1)) < 3 / np.sqrt(2 * 32)
    assert abs(np.median(std / expected) - 1) < 0.05
    low, high = result.quantile([0.05, 0.95]).values
    assert ((low < result.abundances) & (result.abundances < high)).all()
    assert result.sample(3).sizes["sample"] == 3


def test_a_fit_answers_for_its_own_images_only():
    result = run(num_steps=20)
    again = result.predict(CUBES)
    xr.testing.assert_allclose(again.abundances, result.abundances)
    np.testing.assert_allclose(again.endmembers(1), result.endmembers(1), atol=1e-6)
    for other in (CUBES[::-1], CUBES[:2], CUBES[:, 2:5], CUBES + 0.01):
        with pytest.raises(ValueError, match="expected pixels of the images"):
            result.predict(other)


def test_missing_pixel_dates_are_filled_in():
    cubes = CUBES.copy(deep=True)
    cubes[1, 2:5, 3:6] = np.nan  # a cloud
    cubes[:, 7, 7, 0] = np.nan  # never observed
    untouched = cubes.copy(deep=True)
    result = run(cubes)
    xr.testing.assert_identical(cubes, untouched)
    missing = np.isnan(cubes.values).any(-1)
    np.testing.assert_array_equal(result.valid, ~missing)
    uniform = np.full_like(TRUTH[missing], 1 / 3)
    error = np.abs(result.abundances.values[missing] - TRUTH[missing]).mean()
    assert error < 0.35 * np.abs(uniform - TRUTH[missing]).mean()


def test_the_order_of_the_bands_does_not_matter():
    order = np.random.default_rng(9).permutation(30)
    settings = {"guide": AutoDelta, "num_steps": 60}
    shuffled = run(CUBES[..., order], START[order], **settings)
    straight = run(**settings)
    np.testing.assert_allclose(shuffled.abundances, straight.abundances, atol=2e-3)
    np.testing.assert_allclose(
        shuffled.reference_endmembers, straight.reference_endmembers[order], atol=2e-3
    )


@pytest.mark.parametrize("guide", [AutoDelta, SceneMeanField], ids=["mode", "mean field"])
def test_seeds(guide):
    first, again, other = (run(guide=guide, num_steps=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.losses, again.losses)
    xr.testing.assert_identical(first.abundances, again.abundances)
    if guide is AutoDelta:  # nothing random
        np.testing.assert_allclose(first.abundances, other.abundances, atol=1e-4)
    else:
        assert (first.losses != other.losses).all()
    assert first.seed == 1


@pytest.mark.parametrize("names", [["soil", "water", "tree"], [4, 9, 7]])
def test_names_are_kept(names):
    given = xr.DataArray(START, dims=("wavelength", "endmember"), coords={"endmember": names})
    result = run(endmembers=given.T, num_steps=2)
    assert result.abundances["endmember"].values.tolist() == names
    assert result.endmembers(0)["endmember"].values.tolist() == names


def test_a_count_and_a_single_narrow_image():
    found = run(CUBES.values[0, :, :1], 3, num_steps=2)
    assert found.abundances.shape == (1, 9, 1, 3)
    assert np.isfinite(found.abundances).all()


def test_a_batch_of_pixels_trains_too():
    model = PerturbedLinear(START, CUBES, noise_scale=0.03)
    guide = AutoDelta(model, create_plates=model.plates)
    result = fit(
        model, guide, CUBES, num_steps=150, batch_size=45, learning_rate=0.05, progress=False
    )
    assert result.losses[-20:].mean() < result.losses[:5].mean()
    assert nrmse_abundances(result.abundances, TRUTH) < 0.5


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "text"),
    [
        ((CUBES, START), {"guide": "map"}, TypeError, "guide must make a guide .* got 'map'"),
        ((CUBES, START), {"guide": lambda model, **k: 3}, TypeError, "with a median.* got 3"),
        ((CUBES, START), {"spatial_scale": 0.0}, ValueError, "spatial_scale must lie in"),
        ((CUBES, START), {"reference_scale": -1.0}, ValueError, "reference_scale must lie in"),
        ((CUBES, START), {"smoothness": 1.0}, TypeError, "unexpected keyword argument 'smooth"),
        ((CUBES, START), {"num_steps": -1}, ValueError, "num_steps must be at least 0"),
        ((CUBES, START[:20]), {}, ValueError, "one row per band"),
        ((CUBES, 1), {}, ValueError, "endmembers must be at least 2"),
        ((CUBES.isel(x=0), START), {}, ValueError, "time"),
    ],
)
def test_bad_input(arguments, settings, error, text):
    with pytest.raises(error, match=text):
        run(*arguments, **settings)


def test_a_guide_without_the_plate_is_refused():
    model = PerturbedLinear(START, CUBES)
    with pytest.raises(ValueError, match="create_plates=model.plates"):
        fit(model, AutoDiagonalNormal(model), CUBES, num_steps=1, progress=False)


def test_the_package_holds_the_function_not_the_module_of_its_name():
    assert hbun is sys.modules["pyro_unmix.methods.hbun"].hbun
