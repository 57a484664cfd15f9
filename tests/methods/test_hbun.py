"""HBUN: its densities against scipy and plain sums, its fit against FCLS on scenes of its own kind."""

from __future__ import annotations

import logging
import sys
from itertools import product

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from scipy.stats import lognorm, multivariate_normal, norm

from pyro_unmix import Unmixing, fit, simulate
from pyro_unmix.guides import SceneMeanField
from pyro_unmix.methods import fcls, hbun
from pyro_unmix.methods.classical import read_input
from pyro_unmix.metrics import nrmse_abundances, nrmse_endmembers
from pyro_unmix.models import PerturbedLinear
from pyro_unmix.models.smoothness import SmoothField, SmoothSpectra, curvature

pytestmark = pytest.mark.usefixtures("seeded")

hbun_module = sys.modules["pyro_unmix.methods.hbun"]  # the package holds the function

HEIGHTS, W, T, P, L = [2, 3], 3, 2, 2, 6
H = sum(HEIGHTS)
N = H * W
WAVELENGTH = np.array([700.0, 500.0, 900.0, 400.0, 1000.0, 600.0])


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------- the two priors


def field_precision(space: float, time: float, level: float) -> np.ndarray:
    """Precision (N T P, N T P), the sum of one term per pair of neighbours, pair by pair."""
    position = np.arange(N * T * P).reshape(H, W, T, P)
    tile = np.repeat(np.arange(len(HEIGHTS)), HEIGHTS)
    precision = np.eye(N * T * P) / level**2
    for y, x, t, p in product(range(H), range(W), range(T), range(P)):
        pairs = []
        if y + 1 < H and tile[y] == tile[y + 1]:
            pairs.append((position[y + 1, x, t, p], space))
        if x + 1 < W:
            pairs.append((position[y, x + 1, t, p], space))
        if t + 1 < T:
            pairs.append((position[y, x, t + 1, p], time))
        for other, scale in pairs:
            difference = np.zeros(N * T * P)
            difference[[position[y, x, t, p], other]] = 1, -1
            precision += np.outer(difference, difference) / scale**2
    return precision


def smooth_field(space: float = 0.4, time: float = 0.7, level: float = 2.0) -> SmoothField:
    return SmoothField((W, T, P), HEIGHTS, torch.tensor(space), torch.tensor(time), level)


@pytest.mark.usefixtures("_double")
def test_the_density_of_the_field_is_that_of_its_dense_precision():
    value = np.random.default_rng(0).normal(size=N * T * P)
    covariance = np.linalg.inv(field_precision(0.4, 0.7, 2.0))
    expected = multivariate_normal(cov=covariance).logpdf(value)
    assert float(smooth_field().log_prob(torch.tensor(value))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_draws_of_the_field_have_its_covariance():
    count = 20_000
    draws = smooth_field().sample((count,)).numpy()
    covariance = np.linalg.inv(field_precision(0.4, 0.7, 2.0))
    variance = np.diag(covariance)
    # the variance of a product of two jointly normal variables
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / count)
    assert (np.abs(draws.T @ draws / count - covariance) < 6 * error).all()


def second_differences() -> np.ndarray:
    """D (L - 2, L): consecutive triples in the order of the wavelengths."""
    rows = np.zeros((L - 2, L))
    ordered = np.argsort(WAVELENGTH)
    for row in range(L - 2):
        rows[row, ordered[row : row + 3]] = 1, -2, 1
    return rows


def spectra_moments(
    reference: np.ndarray, curve: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (L, P) and covariance (L, L) of every column."""
    differences = second_differences()
    covariance = np.linalg.inv(differences.T @ differences / curve**2 + np.eye(L) / level**2)
    return covariance @ reference / level**2, covariance


@pytest.mark.usefixtures("_double")
def test_the_density_of_the_spectra_and_its_draws():
    rng = np.random.default_rng(1)
    reference, value = rng.uniform(0.1, 0.6, (2, L, P))
    eigen = tuple(map(torch.tensor, np.linalg.eigh(curvature(WAVELENGTH))))
    prior = SmoothSpectra(torch.tensor(reference), eigen, torch.tensor(0.05), 0.2)
    mean, covariance = spectra_moments(reference, 0.05, 0.2)
    expected = sum(multivariate_normal(mean[:, p], covariance).logpdf(value[:, p]) for p in (0, 1))
    got = float(prior.log_prob(torch.tensor(value).flatten()))
    assert got == pytest.approx(expected, rel=1e-9)
    draws = prior.sample((20_000,)).numpy().reshape(-1, L, P)
    error = np.sqrt(np.diag(covariance) / len(draws))[:, None]
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    ratio = draws.var(0) / np.diag(covariance)[:, None]
    assert (np.abs(ratio - 1) < 5 * np.sqrt(2 / len(draws))).all()


# ------------------------------------------------------------------------------- the log joint


def tiny_cubes(missing: bool = True) -> xr.DataArray:
    rng = np.random.default_rng(2)
    cubes = xr.DataArray(
        rng.uniform(0.1, 0.5, (T, H, W, L)),
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": WAVELENGTH, "tile": ("y", np.repeat([7, 3], HEIGHTS))},
    )
    if missing:
        cubes[0, 1, 2, 3] = np.nan
        cubes[1, 4, 0] = np.nan
    return cubes


def reference_spectra() -> np.ndarray:
    return np.random.default_rng(3).uniform(0.1, 0.6, (L, P))


SCALES = {
    "noise_scale": 0.07,
    "spatial_scale": 0.9,
    "temporal_scale": 0.3,
    "curvature_scale": 0.04,
    "perturbation_scale": 0.05,
}
MEDIANS = {
    "noise_scale": 0.02,
    "spatial_scale": 0.5,
    "temporal_scale": 0.6,
    "curvature_scale": 0.03,
    "perturbation_scale": 0.01,
}


def values(seed: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "endmembers": rng.uniform(0.1, 0.6, (L, P)),
        "perturbations": rng.normal(0, 0.05, (T, L, P)),
        "states": rng.normal(0, 1, (H, W, T, P)),
        **{name: np.float64(scale * rng.uniform(0.8, 1.2)) for name, scale in SCALES.items()},
    }


def likelihood(cubes: xr.DataArray, at: dict[str, np.ndarray]) -> np.ndarray:
    """Log-density of every valid pixel-date (H, W, T), 0 where one is missing."""
    result = np.zeros((H, W, T))
    for y, x, t in product(range(H), range(W), range(T)):
        spectrum = cubes.values[t, y, x]
        weights = np.exp(at["states"][y, x, t])
        mean = (at["endmembers"] + at["perturbations"][t]) @ (weights / weights.sum())
        if np.isfinite(spectrum).all():
            result[y, x, t] = norm(mean, at["noise_scale"]).logpdf(spectrum).sum()
    return result


def log_prior(at: dict[str, np.ndarray]) -> float:
    total = sum(lognorm(s=1, scale=MEDIANS[name]).logpdf(at[name]) for name in MEDIANS)
    precision = field_precision(at["spatial_scale"], at["temporal_scale"], 1.5)
    total += multivariate_normal(cov=np.linalg.inv(precision)).logpdf(at["states"].ravel())
    mean, covariance = spectra_moments(reference_spectra(), at["curvature_scale"], 0.15)
    for p in range(P):
        total += multivariate_normal(mean[:, p], covariance).logpdf(at["endmembers"][:, p])
    return float(total + norm(0, at["perturbation_scale"]).logpdf(at["perturbations"]).sum())


def as_sites(at: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.asarray(value)).reshape(-1) for name, value in at.items()} | {
        name: torch.tensor(at[name]) for name in SCALES
    }


def tiny_model(cubes: xr.DataArray) -> PerturbedLinear:
    scales = {"state_scale": 1.5, "reference_scale": 0.15, **MEDIANS}
    return PerturbedLinear(reference_spectra(), cubes, **scales)


def tensors(cubes: xr.DataArray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (N, T, L) and validity (N, T)."""
    array = cubes.values.transpose(1, 2, 0, 3).reshape(N, T, L)
    valid = np.isfinite(array).all(-1)
    return torch.tensor(np.where(valid[..., None], array, 0)), torch.tensor(valid)


def log_joint(model: PerturbedLinear, at: dict[str, np.ndarray], *data: torch.Tensor, **k) -> float:
    conditioned = poutine.condition(model, data=as_sites(at))
    return float(poutine.trace(conditioned).get_trace(*data, **k).log_prob_sum())


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("missing", [False, True])
def test_the_log_joint_is_the_sum_written_out(missing: bool):
    cubes, at = tiny_cubes(missing), values()
    expected = log_prior(at) + likelihood(cubes, at).sum()
    got = log_joint(tiny_model(cubes), at, *tensors(cubes))
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_a_batch_scales_the_likelihood_but_not_the_prior():
    cubes, at = tiny_cubes(), values()
    model, (pixels, valid) = tiny_model(cubes), tensors(cubes)
    index = torch.tensor([13, 5, 2, 12, 0])
    by_pixel = likelihood(cubes, at).reshape(N, T).sum(1)
    expected = log_prior(at) + by_pixel[index.numpy()].sum() * 14 / 5
    got = log_joint(model, at, pixels[index], valid[index], index=index, size=14)
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_vectorised_particles_have_their_own_log_joints():
    cubes = tiny_cubes()
    model, data = tiny_model(cubes), tensors(cubes)
    each = [values(seed) for seed in (5, 6, 7)]
    together = {
        name: torch.stack([as_sites(at)[name] for at in each]).unsqueeze(1)
        for name in as_sites(each[0])
    }

    def program(*args):
        with pyro.plate("particles", 3, dim=-2):
            model(*args)

    trace = poutine.trace(poutine.condition(program, data=together)).get_trace(*data)
    trace.compute_log_prob()
    total = sum(
        site["log_prob"].sum(-1)
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["name"] not in ("particles", "pixels")
    )
    np.testing.assert_allclose(total, [log_joint(model, at, *data) for at in each], rtol=1e-10)


def test_the_program_simulates_a_scene():
    cubes = tiny_cubes()
    model = tiny_model(cubes)
    sites = poutine.trace(model).get_trace(None, torch.ones(N, T, dtype=torch.bool)).nodes
    assert sites["y_2"]["value"].shape == (N, L)
    latents = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    abundances, pick = model.decode(latents)
    weights = np.exp(sites["states"]["value"].numpy().reshape(N, T, P))
    np.testing.assert_allclose(abundances, weights / weights.sum(-1, keepdims=True), rtol=1e-5)
    assert pick.shape == (N, T, T, P)


# ------------------------------------------------------------------------------- the method


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
    return hbun(cubes, endmembers=endmembers, **{"progress": False, "num_steps": 150, **settings})


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
