"""Prediction does not depend on what else is there: chunks, the order of pixels and bands, common noise."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from result_cases import CUBES, LIBRARY, PAIRS, SCENE, SINGLE

from pyro_unmix import fit, simulate
from pyro_unmix.bases import Brightness, LearnedBasis
from pyro_unmix.guides.conjugate import guide as conjugate_guide
from pyro_unmix.posterior import programs, read_out
from pyro_unmix.posterior.programs import CommonNoise

pytestmark = pytest.mark.usefixtures("seeded")
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
    original = read_out.chunks

    def counting(num_pixels, per_pixel):
        parts = list(original(num_pixels, per_pixel))
        sizes.append(len(parts))
        return iter(parts)

    monkeypatch.setattr(read_out, "chunks", counting)
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 3 * 5 * 3 * 64)
    monkeypatch.setattr(conjugate_guide, "_CHUNK", 4)
    monkeypatch.setattr(conjugate_guide, "_DRAWN", 4)
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


def test_noise_is_a_function_of_seed_and_site():
    like = torch.zeros(())
    noise = CommonNoise(6, 3, like)
    first = noise("c_1", 4)
    assert first.shape == (6, 1, 4)
    assert torch.equal(first, CommonNoise(6, 3, like)("c_1", 4))
    assert torch.equal(first[0::2], -first[1::2])  # antithetic
    for other in (noise("c_2", 4), CommonNoise(6, 4, like)("c_1", 4)):
        assert not torch.equal(first, other)
    assert CommonNoise(5, 3, like)("c_1", 4).shape == (5, 1, 4)


def test_noise_is_standard_normal():
    draws = CommonNoise(20_000, 0, torch.zeros(()).double())("x", 2).numpy()[::2, 0]
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
    noise = CommonNoise(count, 0, torch.zeros(()))
    draws = programs._from_noise(site, "x", noise)
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
        programs._from_noise(site, "rate", CommonNoise(4, 0, torch.zeros(())))
