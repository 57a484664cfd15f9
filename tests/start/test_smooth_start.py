"""The start with a smooth field: maps and their transpose, gradients, correlation, and what `unmix` makes of it."""

import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import ndimage, optimize

import pyro_unmix
from pyro_unmix import simulate
from pyro_unmix.bases import DCT, Brightness
from pyro_unmix.data import as_cube_sequence
from pyro_unmix.metrics import nrmse_abundances
from pyro_unmix.priors import SmoothVariability
from pyro_unmix.start import Start, choose_smooth_start, choose_start, field_correlation
from pyro_unmix.start.field_fit import SmoothFit, conjugate_gradients

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

MATERIALS = ["vegetation", "soil", "snow"]
WAVELENGTHS = np.linspace(400, 2500, 20)


def _library():
    return simulate.library(WAVELENGTHS).sel(endmember=MATERIALS)


@pytest.fixture(scope="module")
def smooth():
    return simulate.smooth_scene(
        num_dates=3, height=12, width=11, num_endmembers=3, library=_library(),
        illumination_scale=0.2, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def independent():
    return simulate.scaled_scene(
        num_dates=3, height=12, width=11, num_endmembers=3, library=_library(), seed=0
    )


def _fit(cubes, endmembers, scale=0.3, light=None):
    cubes = as_cube_sequence(cubes)
    prior = SmoothVariability((3, 12, 11), length=3.0, scale=scale, light=light)
    prior.setup(num_endmembers=3, num_components=2, generator=torch.Generator())
    prior = prior.double().requires_grad_(False)
    fit = SmoothFit(cubes, DCT(2, scale=0.5), 0.02, prior)
    return fit, fit.begin(torch.from_numpy(np.array(endmembers)))


@pytest.mark.parametrize("light", [None, 0.4])
def test_gather_is_the_transpose_of_spread(smooth, light):
    fit, state = _fit(smooth.cubes, smooth.reference_endmembers, light=light)
    draw = torch.Generator().manual_seed(0)
    field = torch.randn(len(state.innovations), generator=draw).double()
    values = torch.randn(fit.spread(field).shape, generator=draw).double()
    assert float((fit.spread(field) * values).sum()) == pytest.approx(
        float((field * fit.gather(values)).sum()), rel=1e-9
    )


def test_misfit_is_that_of_the_best_abundances_by_scipy(smooth):
    fit, state = _fit(smooth.cubes, smooth.reference_endmembers)
    state.innovations = (
        0.5
        * torch.randn(len(state.innovations), generator=torch.Generator().manual_seed(1)).double()
    )
    psi = fit.project(state)[0]
    total = 0.0
    components = fit.basis.components(state.endmembers).numpy()
    chosen = [5, 100, 300]
    for n in chosen:
        varied = state.endmembers.numpy() + np.einsum(
            "lkp,kp->lp", components, psi[n].numpy().reshape(2, 3)
        )
        y = fit.pixels[n].numpy()
        weight = 1e4  # of the constraint that abundances sum to one
        stacked = np.vstack([varied, weight * np.ones(3)])
        best = optimize.nnls(stacked, np.append(y, weight))[0]
        assert np.allclose(state.abundances[n].numpy(), best, atol=1e-5)
        total += ((y - varied @ best) ** 2).sum()
    residual = fit.pixels[chosen] - torch.einsum(
        "nlp,np->nl",
        fit.basis.varied(state.endmembers, psi[chosen].unflatten(1, (2, 3))),
        state.abundances[chosen],
    )
    assert float(residual.square().sum()) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("light", [None, 0.4])
def test_steps_go_down_and_end_where_the_slope_is_zero(smooth, light):
    fit, state = _fit(smooth.cubes, smooth.reference_endmembers, light=light)
    values = []
    for _ in range(8):
        fit.step_field(state, learn_scales=False)
        fit.project(state)
        values.append(fit.objective(state))
    assert values[-1] == min(values)
    # The slope of the objective along random directions, abundances solved for anew.
    draw = torch.Generator().manual_seed(0)
    start = state.innovations.clone()
    for _ in range(3):
        direction = torch.randn(len(start), generator=draw).double()
        ends = []
        for sign in (1, -1):
            state.innovations = start + sign * 1e-3 * direction
            fit.project(state)
            ends.append(fit.objective(state))
        curvature = ends[0] + ends[1] - 2 * values[-1]
        assert abs(ends[0] - ends[1]) / 2 < 0.05 * curvature / 1e-3  # a step of 5 % of a std
    state.innovations = start


def test_illumination_is_told_from_the_brightness_of_single_materials():
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(3, 12, 11)), (0, 3.0, 3.0), mode="wrap")
    light = 1 + 0.1 * field / field.std()
    abundances = rng.dirichlet(np.ones(3), size=(3, 12, 11))
    spectra = light[..., None] * abundances @ _library().values.T
    cubes = xr.DataArray(
        spectra + 0.02 * rng.normal(size=spectra.shape), dims=("time", "y", "x", "wavelength")
    )
    errors = []
    for start in (None, 0.3):
        fit, state = _fit(cubes, _library().values, light=start)
        fit.run(state, 12, False, learn_scales=True, seed=0)
        found = state.abundances.unflatten(0, (3, 12, 11)).numpy().reshape(abundances.shape)
        errors.append(nrmse_abundances(found, abundances))
    assert float(fit.prior.log_light.exp()) > 3 * float(fit.prior.log_scale.exp().max())
    assert errors[1] < errors[0]


def test_endmembers_move_towards_the_truth():
    scene = simulate.smooth_scene(
        num_dates=3, height=12, width=11, num_endmembers=3, library=_library(), snr_db=40.0,
        illumination_scale=0.0, variability_scale=0.0,
    )  # fmt: skip
    fit, state = _fit(scene.cubes, scene.reference_endmembers, scale=0.01)
    true = state.endmembers.clone()
    mean = true.mean(1, keepdim=True)
    state.endmembers = mean + 0.8 * (true - mean)  # too small a simplex, as of few pure pixels
    before = float((state.endmembers - true).norm())
    fit.run(state, 8, True, learn_scales=False, seed=0)
    assert float((state.endmembers - true).norm()) < 0.5 * before


def test_conjugate_gradients_solve():
    draw = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=draw).double()
    matrix = root @ root.T + 5 * torch.eye(20)
    right = torch.randn(20, generator=draw).double()
    found = conjugate_gradients(lambda x: matrix @ x, right, torch.zeros(20).double())
    assert torch.allclose(found, torch.linalg.solve(matrix, right), rtol=1e-3, atol=1e-4)


def test_correlation_tells_smooth_from_independent(smooth, independent):
    shares = []
    for scene in (smooth, independent):
        start = choose_start(scene.cubes, 3, endmembers=scene.reference_endmembers, basis=DCT(4))
        share, length = field_correlation(scene.cubes, start)
        shares.append(share)
        assert length >= 1
    assert shares[0] > 0.3
    assert abs(shares[1]) < 0.15


@pytest.mark.parametrize("length", [1.5, 3.0])
def test_the_length_of_a_field_is_found(length):
    """White noise smoothed by a Gaussian of std l has the correlation ``exp(-r^2 / (4 l^2))``."""
    rng = np.random.default_rng(0)
    psi = ndimage.gaussian_filter(
        rng.normal(size=(4, 48, 48, 2)), (0, length, length, 0), mode="wrap"
    )
    psi /= psi.std()
    a = rng.dirichlet(np.ones(2), size=(4, 48, 48))
    matrix = _library().values[:, :2]
    cubes = ((1 + 0.1 * psi) * a) @ matrix.T + 1e-4 * rng.normal(size=(4, 48, 48, 20))
    cubes = xr.DataArray(cubes, dims=("time", "y", "x", "wavelength"))
    endmembers = xr.DataArray(matrix, dims=("wavelength", "endmember"))
    start = Start(endmembers, Brightness(0.1), 1e-4, {})
    share, found = field_correlation(cubes, start)
    assert 0 < share < 1
    # Of as many independent patches, of the area under the correlation.
    num_patches = 4 * 2 * 48**2 / (4 * np.pi * length**2)
    assert found == pytest.approx(length, rel=4 / num_patches**0.5)


def test_too_small_an_image_has_no_correlation(smooth):
    cubes = smooth.cubes.isel(y=slice(0, 1), x=slice(0, 2))
    start = choose_start(smooth.cubes, 3, endmembers=smooth.reference_endmembers, basis=DCT(2))
    assert field_correlation(cubes, start) == (0.0, 1.0)


def test_given_endmembers_are_kept(smooth):
    start = choose_start(smooth.cubes, 3, endmembers=smooth.reference_endmembers)
    found = choose_smooth_start(
        smooth.cubes, start, length=1.5, coefficient=0.8, train_endmembers=False
    )
    assert np.array_equal(found.endmembers.values, smooth.reference_endmembers.values)
    assert list(found.objectives) == ["start"]
    assert found.noise_scale == pytest.approx(smooth.noise_scale, rel=0.1)


def test_unmix_models_the_field_where_there_is_one(smooth, independent):
    known = {"num_steps": 10, "progress": False}  # which is trained in any case
    result = pyro_unmix.unmix(smooth.cubes, endmembers=smooth.reference_endmembers, **known)
    alone = pyro_unmix.unmix(
        smooth.cubes, endmembers=smooth.reference_endmembers, basis=DCT(6, scale=0.5), **known
    )
    assert isinstance(result.model.variability_prior, SmoothVariability)
    assert not isinstance(alone.model.variability_prior, SmoothVariability)
    errors = [nrmse_abundances(r.abundances, smooth.abundances) for r in (result, alone)]
    assert errors[0] < errors[1]
    other = pyro_unmix.unmix(independent.cubes, 3, **known)
    assert not isinstance(other.model.variability_prior, SmoothVariability)


@pytest.mark.parametrize("light", [None, 0.4])
def test_spreads_are_those_of_the_precision(smooth, light):
    """Against the matrix itself, built column by column from the Gauss-Newton step's ingredients."""
    fit, state = _fit(smooth.cubes, smooth.reference_endmembers, light=light)
    fit.step_field(state, learn_scales=False)
    found = fit.spreads(state)
    _, gram, *_ = fit.project(state)
    e = state.abundances.repeat(1, 2)
    for number in (0, 7, len(found) - 1):
        unit = torch.zeros_like(state.innovations)
        unit[number] = 1.0
        moved = (e * fit.spread(unit)) @ gram[3:, 3:]
        precision = 1 + float((moved * e * fit.spread(unit)).sum()) / fit.variance
        assert float(found[number]) == pytest.approx(precision**-0.5, rel=1e-6)


def test_two_dates_have_no_field(smooth):
    result = pyro_unmix.unmix(
        smooth.cubes.isel(time=[0, 1]), endmembers=smooth.reference_endmembers, num_steps=0,
        progress=False,
    )  # fmt: skip
    assert not isinstance(result.model.variability_prior, SmoothVariability)


def test_a_date_without_images_is_no_hindrance(smooth):
    cubes = smooth.cubes.copy(deep=True)
    cubes[1] = np.nan
    start = choose_start(cubes, 3, endmembers=smooth.reference_endmembers, basis=DCT(4))
    share, length = field_correlation(cubes, start)
    assert share > 0.2 and length >= 1


def test_variability_smooth_in_space_alone_has_no_memory(smooth, monkeypatch):
    monkeypatch.setattr(unmix_module.temporal_correlation, "unchecked", lambda cubes, start: -0.02)
    result = pyro_unmix.unmix(
        smooth.cubes, endmembers=smooth.reference_endmembers, num_steps=0, progress=False
    )
    assert float(result.model.variability_prior.logit.detach().sigmoid()) == pytest.approx(1e-4)


def test_large_sequences_are_unmixed_pixel_by_pixel(smooth, monkeypatch, caplog):
    monkeypatch.setattr(unmix_module, "MOST_PIXEL_DATES", 100)
    result = pyro_unmix.unmix(
        smooth.cubes, endmembers=smooth.reference_endmembers, num_steps=0, progress=False
    )
    assert not isinstance(result.model.variability_prior, SmoothVariability)
    assert "more than 100 pixel-dates" in caplog.text


def test_large_images_are_looked_at_in_their_middle(smooth, monkeypatch):
    start = choose_start(smooth.cubes, 3, endmembers=smooth.reference_endmembers, basis=DCT(4))
    monkeypatch.setattr("pyro_unmix.start.field._WIDEST", 8)
    middle = smooth.cubes.isel(y=slice(2, 10), x=slice(1, 9))
    assert field_correlation(smooth.cubes, start) == field_correlation(middle, start)


def test_learning_scales_leaves_the_variability_as_it_is(smooth):
    fit, state = _fit(smooth.cubes, smooth.reference_endmembers)
    fit.step_field(state, learn_scales=False)
    before, scales = fit.spread(state.innovations), fit.prior.log_scale.clone()
    fit.learn_scales(state, lambda z: 2.0 * z)  # every innovation known by half
    assert torch.allclose(fit.spread(state.innovations), before, rtol=1e-9)
    size = len(scales)
    squares = fit.prior.num_innovations / size / 2
    assert fit.num_effective == pytest.approx(size * squares)
    assert not torch.allclose(fit.prior.log_scale, scales)


def test_images_of_one_material_alone_leave_the_field_as_free_as_it_is():
    # Every abundance is bound at a corner: no change of it takes up anything of the field.
    bright = np.linspace(0.5, 0.9, 20)
    dark = 0.1 * bright
    light = 1 + 0.05 * ndimage.gaussian_filter(
        np.random.default_rng(0).normal(size=(3, 12, 11)), (0, 3, 3), mode="wrap"
    )
    cubes = as_cube_sequence(1.5 * light[..., None] * bright)
    prior = SmoothVariability((3, 12, 11), length=3.0, scale=0.3)
    prior.setup(num_endmembers=2, num_components=2, generator=torch.Generator())
    fit = SmoothFit(cubes, DCT(2, scale=0.5), 0.02, prior.double().requires_grad_(False))
    state = fit.begin(torch.tensor(np.stack([bright, dark], axis=1)))
    fit.project(state)
    before = fit.objective(state)
    assert (state.abundances.amax(-1) == 1).all()
    fit.run(state, 1, False, learn_scales=False, seed=0)
    assert fit.objective(state) < before
