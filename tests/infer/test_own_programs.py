"""Any Pyro program with any guide is fitted, and its result does all that needs no more."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from own_programs import (
    CUBES,
    LMM,
    NUM_BANDS,
    NUM_DATES,
    NUM_MATERIALS,
    NUM_PIXELS,
    SCENE,
    SPECTRA,
    amortised,
    auto,
    by_dirichlet,
    lmm,
    observe,
    plates,
    read,
    read_both,
)
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import nn

import pyro_unmix as pu
from pyro_unmix.posterior import read_out as posterior

UNIFORM = pu.metrics.rmse_abundances(np.full(SCENE.abundances.shape, 1 / 3), SCENE.abundances)


@pytest.fixture(autouse=True)
def _nothing_left():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert not list(pyro.get_param_store().keys())


def run(model, guide, cubes=CUBES, **settings):
    defaults = {"num_steps": 120, "learning_rate": 0.05, "progress": False}
    return pu.fit(model, guide, cubes, **{**defaults, **settings})


def pair(kind: str):
    """Model, guide and decode of a fit."""
    if kind == "function, autoguide":
        return lmm, auto(lmm), read_both
    if kind == "module, autoguide":
        model = LMM()
        return model, auto(model), None
    if kind == "module, function":
        return LMM(), amortised, None
    return lmm, by_dirichlet, read


KINDS = ["function, autoguide", "module, autoguide", "module, function", "function, function"]


# It learns


@pytest.mark.parametrize("batch_size", [NUM_PIXELS, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_of_programs_is_fitted_and_scored(kind, batch_size):
    model, guide, decode = pair(kind)
    num_steps = 200 * NUM_PIXELS // batch_size
    result = run(model, guide, decode=decode, batch_size=batch_size, num_steps=num_steps)
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    assert result.abundances.dims == ("time", "y", "x", "endmember")
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert (result.abundances_std > 0).all()
    scores = pu.metrics.score(result, SCENE)
    assert scores["RMSE_A"] < 0.6 * UNIFORM
    assert ("NRMSE_Y" in scores) == result.has_endmembers == (kind != "function, function")


@pytest.mark.parametrize(
    "kind",
    [AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal],
)
def test_pyros_other_guides_fit(kind):
    guide = AutoDelta(lmm, create_plates=plates) if kind is AutoDelta else kind(lmm)
    result = run(lmm, guide, decode=read_both)
    assert pu.metrics.score(result, SCENE)["RMSE_A"] < 0.6 * UNIFORM
    assert (result.abundances_std.max() < 1e-5) == (kind is AutoDelta)
    xr.testing.assert_equal(result.predict(CUBES).abundances, result.abundances)
    draws = result.sample(4)
    assert draws.shape == (4, *result.abundances.shape)


def test_a_seed_gives_the_same_bits():
    first, second = (run(lmm, auto(lmm), decode=read, num_steps=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(first.abundances, second.abundances)
    other = run(lmm, auto(lmm), decode=read, num_steps=5, seed=4)
    assert not np.array_equal(other.losses, first.losses)


def test_trying_out_leaves_the_programs_to_the_fit(monkeypatch):
    """With and without the rehearsal, a fit has the same bits."""
    result = run(LMM(), amortised, num_steps=5, seed=3)
    monkeypatch.setitem(pu.fit.__globals__, "rehearse", lambda *arguments, **keywords: False)
    again = run(LMM(), amortised, num_steps=5, seed=3)
    np.testing.assert_array_equal(again.losses, result.losses)
    np.testing.assert_array_equal(again.abundances, result.abundances)


SIGMA, PRIOR = 0.1, 0.5


def two_materials(pixels, valid, *, index=None, size=None, features=None):
    """``y_t = x_t m_1 + (1 - x_t) m_2`` with a Gaussian x: conjugate."""
    with plates(pixels, valid, index=index, size=size):
        x = pyro.sample("x", dist.Normal(torch.full((NUM_DATES,), 0.5), PRIOR).to_event(1))
        shares = torch.stack([x, 1 - x], -1)
        observe(shares, SPECTRA[:, :2], pixels, valid, SIGMA)


def exact():
    """Mean (T, N) and std of x, and log evidence (N,) of the scene's images with a cloud."""
    cubes = CUBES.copy()
    cubes[0, 1, 2] = np.nan
    m = SPECTRA.double().numpy()
    d = m[:, 0] - m[:, 1]
    y = cubes.values.reshape(NUM_DATES, NUM_PIXELS, NUM_BANDS)
    seen = np.isfinite(y).all(-1)
    rest = np.nan_to_num(y) - m[:, :2].mean(1)
    precision = 1 / PRIOR**2 + np.where(seen, d @ d / SIGMA**2, 0)
    mean = 0.5 + np.where(seen, rest @ d / SIGMA**2, 0) / precision
    covariance = SIGMA**2 * np.eye(NUM_BANDS) + PRIOR**2 * np.outer(d, d)
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(NUM_BANDS).double(), torch.tensor(covariance)
    )
    evidence = np.where(seen, marginal.log_prob(torch.tensor(rest)).numpy(), 0).sum(0)
    return cubes, mean, precision**-0.5, evidence


def test_a_conjugate_model_finds_its_exact_posterior():
    cubes, mean, std, evidence = exact()

    def decode(latents):
        return torch.stack([latents["x"], 1 - latents["x"]], -1), SPECTRA[:, :2]

    result = run(
        two_materials, auto(two_materials), cubes, decode=decode, num_steps=1500,
        learning_rate=0.03, learning_rate_decay=0.02,
    )  # fmt: skip
    found = result.abundances.values[..., 0].reshape(NUM_DATES, NUM_PIXELS)
    # The draws come in pairs z and -z: their mean is the guide's. A tenth of a std is KL = 0.005 nats.
    assert (np.abs(found - mean) / std).max() < 0.3
    assert np.sqrt(np.mean((found - mean) ** 2 / std**2)) < 0.1
    spread = result.abundances_std.values[..., 0].reshape(NUM_DATES, NUM_PIXELS) / std
    # Of 32 independent numbers, the std is off by 1 / sqrt(2 32) = 0.125, alike for all pixels of a date.
    np.testing.assert_allclose(spread, 1, atol=3 * 0.125)
    assert spread.std(1).max() < 0.1
    # The bound of a guide that is as good is the evidence, up to that divergence.
    elbo = result.diagnose(num_samples=400)
    np.testing.assert_allclose(
        elbo["importance_elbo"].values.ravel(), evidence, atol=6 * 0.3 / math.sqrt(400) + 0.01
    )
    assert elbo["pareto_k"].max() < 0.7


# Endmembers


class WithEndmembers(nn.Module):
    """A model whose decode returns them as it is told to."""

    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        lmm(pixels, valid, index=index, size=size)

    def decode(self, latents):
        return latents["a"], self.form(latents["a"])


BY_DATE = torch.stack([SPECTRA, 2 * SPECTRA])


def of_pixel(a):
    """Brightness by abundance: of every draw, pixel and date."""
    return SPECTRA * (1 + a.unsqueeze(-2))


@pytest.mark.parametrize(
    ("form", "variables"),
    [
        (lambda a: SPECTRA, {"reference_endmembers"}),
        (lambda a: SPECTRA.expand(1, 1, 1, -1, -1), {"reference_endmembers"}),
        (lambda a: BY_DATE.expand(1, 1, -1, -1, -1), {"reference_endmembers", "date_endmembers"}),
        (lambda a: BY_DATE.expand(*a.shape[:2], -1, -1, -1), {"endmembers"}),
        (of_pixel, {"endmembers"}),
        (lambda a: of_pixel(a)[:, :, :1], {"endmembers"}),
    ],
)
def test_endmembers_in_all_their_shapes(form, variables):
    model = WithEndmembers(form)
    result = run(model, auto(model), num_steps=3)
    assert {name for name in result.dataset if "endmembers" in str(name)} == variables
    # By hand: the mean over the draws.
    draws = torch.tensor(result.sample(64).transpose("sample", "y", "x", "time", ...).values)
    wanted = torch.broadcast_to(
        form(draws.flatten(1, 2)), (64, NUM_PIXELS, NUM_DATES, NUM_BANDS, NUM_MATERIALS)
    ).mean(0)
    abundances = draws.mean(0).flatten(0, 1)
    for time in range(NUM_DATES):
        spectra = result.endmembers(time)
        assert spectra.dims == ("y", "x", "wavelength", "endmember")
        np.testing.assert_allclose(
            spectra.values.reshape(wanted[:, time].shape), wanted[:, time], atol=1e-6
        )
        mixed = (wanted[:, time] @ abundances[:, time, :, None])[..., 0]
        image = result.reconstruct(time)
        np.testing.assert_allclose(image.values.reshape(mixed.shape), mixed, atol=1e-5)
    np.testing.assert_allclose(result.reference_endmembers, wanted.mean((0, 1)), atol=1e-5)
    assert result.reference_endmembers.dims == ("wavelength", "endmember")
    assert pu.metrics.score(result, SCENE).keys() >= {"NRMSE_M", "SAM_M", "NRMSE_Y"}


def test_names_of_materials_come_from_the_model():
    model = LMM()
    model.endmember_names = ["soil", "water", "tree"]
    result = run(model, amortised, num_steps=1)
    assert result.abundances["endmember"].values.tolist() == model.endmember_names
    model.endmember_names = ["soil", "water"]
    with pytest.raises(ValueError, match="endmember_names of the model must be 3, one per"):
        run(model, amortised, num_steps=0)


# Sites outside of the plate, and other plates


def shared_spectra(pixels, valid, *, index=None, size=None, features=None):
    spectra = pyro.sample("M", dist.Normal(SPECTRA, 0.02).to_event(2))
    with plates(pixels, valid, index=index, size=size):
        a = pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))
        observe(a, spectra, pixels, valid)


def test_a_site_that_all_pixels_share_has_one_in_their_place():
    shapes = []

    def decode(latents):
        shapes.append({name: tuple(value.shape) for name, value in latents.items()})
        return latents["a"], latents["M"].unsqueeze(2)

    guide = auto(shared_spectra)
    result = run(shared_spectra, guide, decode=decode, batch_size=8)
    assert shapes[-1] == {
        "M": (64, 1, NUM_BANDS, NUM_MATERIALS),
        "a": (64, NUM_PIXELS, NUM_DATES, NUM_MATERIALS),
    }
    loc = result.guide.locs.M.detach()
    assert (loc - SPECTRA).abs().max() > 0.005  # it has moved
    # The draws come in pairs, so that their mean is the guide's.
    np.testing.assert_allclose(result.reference_endmembers, loc, atol=1e-6)
    short = run(shared_spectra, guide, decode=lambda v: (v["a"], v["M"]), num_steps=0)
    np.testing.assert_allclose(short.reference_endmembers, loc, atol=1e-6)
    with pytest.raises(ValueError, match="site 'M' is shared by all pixels, and"):
        result.diagnose()


def test_one_guide_of_two_parts():
    guide = AutoGuideList(shared_spectra, create_plates=plates)
    block = pyro.poutine.block
    guide.append(AutoNormal(block(shared_spectra, hide=["M"])))
    guide.append(AutoMultivariateNormal(block(shared_spectra, expose=["M"])))
    settings = {"decode": lambda v: (v["a"], v["M"]), "batch_size": 8}
    result = run(shared_spectra, guide, num_steps=500, **settings)
    assert pu.metrics.score(result, SCENE)["RMSE_A"] < 0.6 * UNIFORM
    # It goes on from there: copying it for the result has not broken it.
    again = run(shared_spectra, guide, num_steps=3, **settings)
    assert again.losses.mean() < result.losses[:20].mean()


def test_other_plates_follow_the_pixels():
    def model(pixels, valid, *, index=None, size=None, features=None):
        with pyro.plate("materials", NUM_MATERIALS, dim=-1):
            pyro.sample("shift", dist.Normal(torch.zeros(4), 1).to_event(1))
        pixel = plates(pixels, valid, index=index, size=size)
        with pyro.plate("dates", NUM_DATES, dim=-2), pixel:
            a = pyro.sample("a", dist.Dirichlet(torch.ones(NUM_MATERIALS)))
            site = dist.Normal(a @ SPECTRA.T, 0.05).to_event(1)
            pyro.sample("y", site.mask(valid.T), obs=pixels.transpose(0, 1))

    shapes = []

    def decode(latents):
        shapes.append({name: tuple(value.shape) for name, value in latents.items()})
        return latents["a"]

    def both(pixels, valid, *, index=None, size=None, features=None):
        yield plates(pixels, valid, index=index, size=size)
        yield pyro.plate("dates", NUM_DATES, dim=-2)

    guide = AutoNormal(model, create_plates=lambda *a, **k: list(both(*a, **k)))
    result = run(model, guide, decode=decode, batch_size=8, num_steps=200)
    assert shapes[-1] == {"shift": (64, 1, 3, 4), "a": (64, NUM_PIXELS, NUM_DATES, 3)}
    assert pu.metrics.score(result, SCENE)["RMSE_A"] < 0.6 * UNIFORM
    with pytest.raises(ValueError, match=r"needs a site of the model .* y_1, y_2, and it has no"):
        result.reflectance_quantile(0.5)


# Pixels stand alone


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_do_not_change_a_pixel(kind, monkeypatch):
    model, guide, decode = pair(kind)
    result = run(model, guide, decode=decode, num_steps=20)
    monkeypatch.setattr(posterior, "_CHUNK_ELEMENTS", 7 * 64 * (3 * 6 + 1))
    again = result.predict(CUBES)
    for name in ("abundances", "abundances_std"):
        np.testing.assert_allclose(again.dataset[name], result.dataset[name], atol=1e-6)
    lazy = result.predict(CUBES.chunk({"y": 2, "x": 4}))
    assert lazy.abundances.chunks is not None
    np.testing.assert_allclose(lazy.abundances.values, result.abundances, atol=1e-6)


def test_a_scene_in_chunks_has_the_endmembers_of_its_pixels():
    model = WithEndmembers(of_pixel)
    result = run(model, auto(model), CUBES.chunk({"y": 2, "x": 4}), num_steps=3, batch_size=8)
    loaded = result.predict(CUBES)
    for time in range(NUM_DATES):
        np.testing.assert_allclose(result.endmembers(time), loaded.endmembers(time), atol=1e-6)
    assert "wavelength" in result.endmembers(0).coords
    left = run(model, auto(model), CUBES.chunk({"y": 2}), num_steps=3, maps=False)
    assert left.endmembers(0).shape == (5, 6, NUM_BANDS, NUM_MATERIALS)


@pytest.mark.parametrize("kind", ["module, function", "function, function"])
def test_a_guide_that_looks_at_pixels_predicts_others(kind):
    model, guide, decode = pair(kind)
    result = run(model, guide, decode=decode)
    part = CUBES.isel(y=slice(1, 3), x=slice(2, 6))
    predicted = result.predict(part.values)
    wanted = result.abundances.isel(y=slice(1, 3), x=slice(2, 6))
    np.testing.assert_allclose(predicted.abundances, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_guide_of_the_pixels_of_a_scene_says_that_it_knows_no_others(kind):
    model, guide, decode = pair(kind)
    result = run(model, guide, decode=decode, num_steps=2)
    for other in (CUBES * 0.9, CUBES.isel(y=slice(3)), CUBES.isel(y=slice(3)).chunk({"y": 1})):
        with pytest.raises(ValueError, match="AutoNormal has parameters of every pixel of the im"):
            result.predict(other)


def test_parameters_by_pixel_of_a_function_are_noticed():
    def guide(pixels, valid, *, index=None, size=None, features=None):
        with plates(pixels, valid, index=index, size=size):
            shape = (size or len(pixels), NUM_DATES, NUM_MATERIALS)
            loc = pyro.param("loc", lambda: torch.zeros(shape), event_dim=2)
            pyro.sample("c", dist.Normal(loc, 0.1).to_event(2))

    for batch_size in (8, NUM_PIXELS):
        result = run(LMM(), guide, batch_size=batch_size, num_steps=200 * NUM_PIXELS // batch_size)
        assert pu.metrics.score(result, SCENE)["RMSE_A"] < 0.6 * UNIFORM
    with pytest.raises(ValueError, match="guide has parameters of every pixel"):
        result.predict(CUBES * 0.9)
