"""The field of a fit: what it follows, at other dates than those of the images, and saved."""

import math

import numpy as np
import pyro
import pytest
import torch
from field_cases import NUM_PIXELS, field_model, field_pixels
from pyro import poutine

import pyro_unmix
from pyro_unmix.guides import ConjugateGuide
from pyro_unmix.priors import Independent


@pytest.mark.parametrize("light", [None, 1.0])
def test_fit_follows_a_smooth_field(light):
    """Scenes drawn with a field: its fitted mean resembles the truth, and so do endmembers."""
    model = field_model(residual=Independent(0.02), scale=1.0, learn=False, light=light)
    pyro.set_rng_seed(0)
    with torch.no_grad(), pyro.get_param_store().scope():
        trace = poutine.trace(model).get_trace(None, torch.ones(NUM_PIXELS, 3, dtype=torch.bool))
        true = model.variability_prior.offsets(trace.nodes["field"]["value"], None).numpy()
        pixels = torch.stack([trace.nodes[f"y_{t}"]["value"] for t in (1, 2, 3)], 1)
    cubes = pixels.swapaxes(0, 1).reshape(3, 5, 6, 8).numpy()
    result = pyro_unmix.fit(
        model, ConjugateGuide(model), cubes, num_steps=150, learning_rate=0.05, progress=False
    )
    found = (
        result.dataset["variability"].transpose("y", "x", "time", "component", "endmember").values
    )
    found = found.reshape(NUM_PIXELS, 3, 4)
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.5
    assert math.isfinite(result.losses[-1]) and result.losses[-1] < result.losses[0]


@pytest.mark.parametrize("light", [None, 0.5])
def test_saved_result_comes_back(tmp_path, light):
    model = field_model(light=light)
    pixels, valid = field_pixels()
    cubes = np.where(valid[..., None], pixels, np.nan).swapaxes(0, 1).reshape(3, 5, 6, 8)
    result = pyro_unmix.fit(model, ConjugateGuide(model), cubes, num_steps=2, progress=False)
    result.save(tmp_path / "fit.nc")
    again = pyro_unmix.Unmixing.load(tmp_path / "fit.nc")
    drawn = [r.sample(num_samples=4, seed=0).values for r in (result, again)]
    assert np.array_equal(*drawn, equal_nan=True)
    assert result.diagnose(num_samples=8)["elbo"].notnull().sum() == NUM_PIXELS - 1


@pytest.fixture(scope="module", params=[None, 0.5], ids=["own", "light"])
def fitted(request):
    model = field_model(light=request.param)
    pixels, _ = field_pixels()
    cubes = pyro_unmix.as_cube_sequence(
        pixels.swapaxes(0, 1).reshape(3, 5, 6, 8).numpy(), time=[0, 1, 3]
    ).assign_coords(y=30.0 * np.arange(5), x=30.0 * np.arange(6))
    model.set_dates(cubes["time"].values)
    return pyro_unmix.fit(model, ConjugateGuide(model), cubes, num_steps=1, progress=False), cubes


def test_the_field_is_of_the_images_that_were_fitted(fitted):
    result, cubes = fitted
    again = result.predict(cubes)
    assert np.allclose(again.abundances, result.abundances, atol=1e-6)
    for other in (cubes.isel(x=slice(0, 5)), cubes + 0.01):
        with pytest.raises(ValueError, match="belongs to the images that it was fitted to"):
            result.predict(other)
    with pytest.raises(ValueError, match="lack some of them"):
        result.predict(cubes.isel(time=[0, 2]))
    more = cubes.reindex(time=[0, 1, 2, 3])
    assert result.predict(more).abundances.sizes["time"] == 4
    others = more.copy(), more.copy()
    others[0][2] = 0.3  # an image that the field has not seen
    others[1][0] += 0.01  # another image at one of its dates
    for other in others:
        with pytest.raises(ValueError, match="belongs to the images that it was fitted to"):
            result.predict(other)


def test_lazy_images_are_compared_by_all_but_their_values(fitted, tmp_path):
    result, cubes = fitted
    lazy = cubes.chunk(y=2)
    again = result.predict(lazy)
    assert np.allclose(again.abundances, result.abundances, atol=1e-6)
    for other in (
        lazy.isel(x=slice(0, 5)),
        lazy.isel(y=slice(1, 5)),
        lazy.assign_coords(y=lazy["y"] + 30),
        lazy.assign_coords(x=lazy["x"].values[::-1]),
    ):
        with pytest.raises(ValueError, match="fitted to, and these are others: fit them"):
            result.predict(other)
    message = "lazy images cannot be given other dates: load them"
    for other in (
        lazy.assign_coords(time=lazy["time"] + 365),  # the same gaps
        lazy.reindex(time=[0, 1, 2, 3]),
    ):
        with pytest.raises(ValueError, match=message):
            result.predict(other)
    with pytest.raises(ValueError, match=message):
        result.predict_to_zarr(cubes.reindex(time=[0, 1, 2, 3]), tmp_path / "maps.zarr")


def test_the_field_at_other_dates_is_conditional_on_that_of_the_images(fitted):
    """Against the formulas of Gaussian conditioning, from the covariance that the docstring states."""
    result, _ = fitted
    prior = result.model.variability_prior
    phi = float(torch.sigmoid(prior.logit.detach()))
    own, new = np.array([0.0, 1.0, 3.0]), np.array([0.5, 2.0, 5.0])
    cross = phi ** (np.abs(new[:, None] - own) / 1.5)  # 1.5: the median gap
    gain = cross @ np.linalg.inv(phi ** (np.abs(own[:, None] - own) / 1.5))
    before = result.guide.mean_offsets(None).detach().numpy()  # (N, T, K P)
    for dates, rows in (([0.5, 2.0], [0, 1]), ([5.0], [2])):
        there = result.interpolate(dates) if len(rows) == 2 else result.forecast(dates)
        offsets = there.guide.mean_offsets(None).detach().numpy()
        at = np.searchsorted(np.union1d(own, dates), dates)
        places = np.searchsorted(np.union1d(own, dates), own)
        assert np.allclose(offsets[:, places], before, atol=1e-5)
        expected = np.einsum("st,ntk->nsk", gain[rows], before)
        assert np.allclose(offsets[:, at], expected, atol=1e-4)
        # covariance of the prior at all dates, of the field at one pixel
        field = torch.randn(
            20_000, there.model.variability_prior.num_innovations,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        drawn = there.model.variability_prior.offsets(field, torch.tensor([7]))[:, 0]
        times = np.union1d(own, dates)
        variance = drawn[:, 0, 0].var().item()
        stated = variance * phi ** (np.abs(times[:, None] - times) / 1.5)
        assert np.allclose(np.cov(drawn[..., 0].detach().numpy().T), stated, atol=0.06 * variance)
        # what is new is not known: the guide has the prior's law for it
        assert np.allclose(there.guide.field_log_scale.detach()[len(result.guide.field_loc) :], 0.0)
        low, high = there.reflectance_quantile([0.05, 0.95], num_samples=20).values
        assert (low < high).all()


def test_dates_close_to_an_image_are_interpolated(fitted):
    result, _ = fitted
    before = result.guide.mean_offsets(None).detach()[:, 1]
    assert result.interpolate([1 + 1e-9]).cubes.sizes["time"] == 3  # the image's own date
    for apart, tolerance in ((1e-9, 1e-5), (1.1e-6, 1e-3), (1e-5, 1e-3), (1e-2, 0.05)):
        there = result.interpolate([1 + apart])
        offsets = there.guide.mean_offsets(None).detach()
        at = int(np.argmin(np.abs(there.cubes["time"].values - (1 + apart))))
        assert float((offsets[:, at] - before).abs().max()) < tolerance * float(before.abs().max())


def test_a_saved_interpolation_comes_back(fitted, tmp_path):
    result, _ = fitted
    there = result.interpolate([2])
    there.save(tmp_path / "kept")
    again = pyro_unmix.Unmixing.load(tmp_path / "kept")
    assert again.model.variability_prior.order == [0, 1, 3, 2]
    assert torch.equal(again.guide.mean_offsets(None), there.guide.mean_offsets(None))


def test_compare_refuses_a_field(fitted):
    result, _ = fitted
    with pytest.raises(ValueError, match="share a smooth field"):
        pyro_unmix.compare({"one": result, "two": result}, progress=False)
