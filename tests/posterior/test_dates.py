"""Time is real: dates are part of models, guides and saved results, and uneven ones count."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from date_cases import DATES, DAYS, cubes, dated_fit, unmixed
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy import stats

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, FixedEndmembers, Unmixing, fit, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.guides import PublishedGuide
from pyro_unmix.guides.conjugate.variability import ExactVariability, GaussianChain
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.priors import AutoRegressive, DateNoise, KnownAbundances, RandomWalk


def test_shifting_all_dates_changes_nothing() -> None:
    later = cubes().assign_coords(time=DATES + np.timedelta64(4000, "D"))
    again = unmix(later, 3, num_steps=2, progress=False)
    np.testing.assert_array_equal(again.abundances.values, unmixed().abundances.values)


def test_the_days_between_dates_count() -> None:
    even = cubes().assign_coords(time=DATES[0] + np.arange(5) * np.timedelta64(8, "D"))
    again = unmix(even, 3, num_steps=2, progress=False)
    assert np.abs(again.abundances.values - unmixed().abundances.values).max() > 1e-3


@pytest.mark.parametrize("chain", [AutoRegressive(0.7), RandomWalk(0.3)], ids=["ar", "walk"])
def test_variability_at_uneven_dates_has_the_exact_evidence(chain: Any) -> None:
    """``log p(y, psi | a) - log q(psi | y, a)`` is the evidence of a dense Gaussian, whatever psi is."""
    rng = np.random.default_rng(0)
    p, k, bands, num_dates, noise = 2, 2, 4, 4, 0.3
    elapsed = torch.tensor([1.0, 0.5, 3.0, 7.0]).double()
    chain.setup(num_endmembers=p, num_components=k, generator=torch.Generator().manual_seed(0))
    chain.double().set_elapsed(elapsed)
    design = torch.from_numpy(rng.normal(size=(bands, p + p * k)))
    a = torch.from_numpy(rng.dirichlet(np.ones(p), size=(1, num_dates)))
    y = torch.from_numpy(rng.normal(size=(1, num_dates, bands)))
    with torch.no_grad():
        exact = ExactVariability(
            gram=design.mT @ design, projected=y @ design, noise_scale=torch.tensor(noise).double(),
            chain=GaussianChain.of(chain, num_dates), valid=torch.ones(1, num_dates, dtype=torch.bool),
            abundances=a,
        )  # fmt: skip
        torch.manual_seed(0)
        psi = chain.initial().sample((1,))
        move = chain.transitions(num_dates)
        log_ratio = chain.initial().log_prob(psi) - exact.conditional(0, None).log_prob(psi)
        for t in range(1, num_dates + 1):
            following = torch.randn(1, p * k).double()
            log_ratio += move(psi, t).log_prob(following)
            log_ratio -= exact.conditional(t, psi).log_prob(following)
            e = a[:, t - 1].repeat(1, k)
            mean = a[:, t - 1] @ design[:, :p].T + (e * following) @ design[:, p:].T
            log_ratio += torch.distributions.Normal(mean, noise).log_prob(y[:, t - 1]).sum()
            psi = following
    # the dense covariance of psi_1 .. psi_T, from the chain in continuous time
    size = p * k
    phi = 0.7 if isinstance(chain, AutoRegressive) else 1.0
    at = np.cumsum(elapsed.numpy())
    apart = np.abs(at[:, None] - at)
    if phi < 1:
        psi_cov = np.kron(phi**apart, np.eye(size))
    else:
        psi_cov = np.kron(1 + 0.3**2 * np.minimum.outer(at, at), np.eye(size))
    mix = np.zeros((num_dates * bands, num_dates * size))
    for t in range(num_dates):
        e = np.tile(a[0, t].numpy(), k)
        mix[t * bands : (t + 1) * bands, t * size : (t + 1) * size] = design[:, p:].numpy() * e
    mean = (a[0].numpy() @ design[:, :p].numpy().T).ravel()
    cov = mix @ psi_cov @ mix.T + noise**2 * np.eye(len(mean))
    evidence = stats.multivariate_normal(mean, cov).logpdf(y.numpy().ravel())
    np.testing.assert_allclose(float(log_ratio), evidence, rtol=1e-6)  # parameters start in float32


def test_dates_may_have_a_time_zone_or_be_numbers_of_days() -> None:
    found = unmixed().interpolate(["2020-01-03T12:00", "2020-01-20T02:00+02:00"])
    assert found.abundances["time"].values[1] == np.datetime64("2020-01-20", "ns")
    numbers = cubes().assign_coords(time=DAYS)
    result = unmix(numbers, 3, num_steps=2, progress=False)
    same = result.interpolate([2.5, 19])
    np.testing.assert_array_equal(same.abundances["time"], [2.5, 19])
    np.testing.assert_allclose(same.abundances, found.abundances, atol=1e-5)


def test_dates_and_a_prior_on_endmembers_are_saved(tmp_path: Path) -> None:
    result = dated_fit()
    asked = ["2020-02-01", "2020-01-02"]
    result.save(tmp_path / "fit")
    loaded = Unmixing.load(tmp_path / "fit")
    assert loaded.model.time_unit == result.model.time_unit == 5.0
    for name, value in result.model.reference.state_dict().items():
        assert torch.equal(loaded.model.reference.state_dict()[name], value), name
    strength = [r.model.reference.log_prior(1).item() for r in (loaded, result)]
    assert strength[0] == strength[1] < 0
    expected = result.interpolate(asked)
    xr.testing.assert_identical(loaded.interpolate(asked).abundances, expected.abundances)
    expected.save(tmp_path / "between")
    again = Unmixing.load(tmp_path / "between")
    xr.testing.assert_equal(
        again.reflectance_quantile(0.9, num_samples=20),
        expected.reflectance_quantile(0.9, num_samples=20),
    )


def test_a_model_that_finds_its_own_dates_is_saved(tmp_path: Path) -> None:
    class Weekly(SGLMM):
        def __init__(self, endmembers: Any, num_weeks: int) -> None:
            super().__init__(endmembers, basis=DCT(1), dates=7 * np.arange(num_weeks))

    model = Weekly(unmixed().reference_endmembers, 5)
    result = fit(
        model, ConjugateGuide(model), cubes().drop_vars("time"), num_steps=0, progress=False
    )
    result.save(tmp_path / "fit")
    np.testing.assert_array_equal(Unmixing.load(tmp_path / "fit").model.days, 7 * np.arange(5))


def test_lazy_predictions_take_the_dates_of_the_images(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    other = cubes().assign_coords(time=DATES[0] + (DATES - DATES[0]) * 30)
    eager, chunked = dated_fit().predict(other), other.chunk({"y": 4, "x": 3})
    lazy = dated_fit().predict(chunked)
    rounding = 3e-4  # of float32; the dates of the fit give 1e-2
    assert np.abs(eager.abundances.values - dated_fit().abundances.values).max() > 1e-2
    np.testing.assert_allclose(lazy.abundances.values, eager.abundances.values, atol=rounding)
    pytest.importorskip("zarr")
    path = dated_fit().predict_to_zarr(chunked, tmp_path / "other.zarr", tile=3, progress=False)
    with xr.open_zarr(path) as stored:
        maps = stored["abundances"].transpose(*eager.abundances.dims)
        np.testing.assert_allclose(maps, eager.abundances, atol=rounding)
        np.testing.assert_array_equal(stored["time"], other["time"])


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (lambda c: c[:3], "built for 5 dates, the images have 3: pass dates="),
        (lambda c: c.drop_vars("time")[:3], "built for 5 dates, the images have 3"),
        (
            lambda c: c.assign_coords(
                time=[*DATES[:3], DATES[0] + np.timedelta64(12, "D"), DATES[4]]
            ),
            "its date 4 is 11 days after its first, that of the images 12",
        ),
    ],
)
def test_a_model_is_not_fitted_to_other_dates_than_its_own(images: Any, text: str) -> None:
    model = SGLMM(unmixed().reference_endmembers, basis=DCT(1), dates=DATES)
    with pytest.raises(ValueError, match=text):
        fit(model, ConjugateGuide(model), images(cubes()), num_steps=0, progress=False)
    later = cubes().assign_coords(time=DATES + np.timedelta64(9, "D"))
    for good in (later, cubes().drop_vars("time")):
        fit(model, ConjugateGuide(model), good, num_steps=0, progress=False)


def test_a_guide_that_cannot_serve_dates_given_later_is_refused() -> None:
    model = FirstDateSGLMM(unmixed().reference_endmembers, basis=DCT(1), dates=np.arange(5))
    guide = PublishedGuide(model)
    even = cubes().assign_coords(time=np.arange(5))
    result = fit(model, guide, even, num_steps=0, progress=False)
    with pytest.raises(ValueError, match="PublishedGuide cannot serve .* uneven dates"):
        result.predict(cubes())
    model.set_dates(DATES)
    with pytest.raises(ValueError, match="PublishedGuide cannot serve .* uneven dates"):
        fit(model, guide, cubes(), num_steps=0, progress=False)


def test_one_image_tells_no_unit_of_time() -> None:
    one = cubes()[:1]
    model = SGLMM(unmixed().reference_endmembers, basis=DCT(1), dates=one["time"])
    result = fit(model, ConjugateGuide(model), one, num_steps=0, progress=False)
    with pytest.raises(ValueError, match="one image does not tell the unit of time: fit SGLMM"):
        result.forecast("2020-03-01")
    model = SGLMM(unmixed().reference_endmembers, basis=DCT(1), dates=one["time"], time_unit=16)
    result = fit(model, ConjugateGuide(model), one, num_steps=0, progress=False)
    soon, late = (result.forecast(d).abundances_std.mean() for d in ("2020-01-05", "2021-01-01"))
    assert soon < late


def test_guides_that_do_not_follow_dates_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dated_fit().interpolate("2020-01-20")
        assert not caplog.records
        dated_fit(BiLSTMGuide).interpolate("2020-01-20")
    assert "BiLSTMGuide does not see how much time passes" in caplog.text
    result = dated_fit(lambda model: AutoNormal(model, create_plates=plates))
    xr.testing.assert_allclose(result.predict(cubes()).abundances, result.abundances)
    with pytest.raises(ValueError, match="AutoNormal is a posterior of the pixels and dates"):
        result.interpolate("2020-01-20")


def plates(pixels: Any, valid: Any, *, index: Any = None, size: Any = None, features: Any = None):  # type: ignore[no-untyped-def]
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def test_the_model_without_a_state_before_the_images_takes_the_days_between_them() -> None:
    """Its density is that of the formulas, with steps of 3 and 1 units and another noise at each date."""
    rng = np.random.default_rng(0)
    spectra, phi, s, scales = rng.uniform(0.1, 0.9, (6, 2)), 0.6, 0.4, np.array([0.1, 0.2, 0.3])
    known = rng.dirichlet(np.ones(2), size=(4, 3))
    model = FirstDateSGLMM(
        FixedEndmembers(spectra), basis=DCT(1), abundance_prior=KnownAbundances(known),
        variability_prior=AutoRegressive(phi, s), noise=DateNoise(scales), dates=[0, 6, 8],
        time_unit=2.0,
    ).double()  # fmt: skip
    pixels = torch.from_numpy(rng.uniform(size=(4, 3, 6)))
    scope = pyro.get_param_store().scope()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), scope:
        torch.manual_seed(0)
        sites = poutine.trace(model).get_trace(pixels, torch.ones(4, 3).bool())
        sites.compute_log_prob()
        column = model.components()[:, 0].numpy()
        with pytest.raises(ValueError, match="built for 3 dates, the images have 2"):
            model(pixels[:, :2], torch.ones(4, 2).bool())
    psi = np.stack([sites.nodes[f"psi_{t}"]["value"].numpy() for t in (1, 2, 3)])
    expected = stats.norm(0, s).logpdf(psi[0]).sum()
    for t, units in ((1, 3), (2, 1)):
        spread = s * np.sqrt(1 - phi ** (2 * units))
        expected += stats.norm(phi**units * psi[t - 1], spread).logpdf(psi[t]).sum()
    for t in range(3):
        varied = spectra + column * psi[t][:, None]
        mean = np.einsum("nlp,np->nl", varied, known[:, t])
        expected += stats.norm(mean, scales[t]).logpdf(pixels[:, t].numpy()).sum()
    np.testing.assert_allclose(sites.log_prob_sum().item(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (
            lambda r: r.interpolate("2019-01-01"),
            ValueError,
            "interpolate is for dates from the first",
        ),
        (lambda r: r.interpolate("2021-01-01"), ValueError, "the others are for forecast"),
        (lambda r: r.forecast(DATES[-1]), ValueError, "forecast is for dates after the last image"),
        (lambda r: r.forecast(400), TypeError, "the images have dates, and so must"),
        (lambda r: r.interpolate([]), ValueError, "at least one date, got none"),
        (lambda r: r.reflectance_quantile(2), ValueError, "q must lie in"),
        (
            lambda r: r.predict(cubes().drop_vars("time")[:2]),
            ValueError,
            "fitted with 5 dates, and the 2 images have none: give them with as_cube_sequence",
        ),
    ],
)
def test_errors(ask: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ask(unmixed())


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        ([], "at least one date, got none"),
        (np.array([5, 3], dtype=np.uint8), "dates must increase, got"),
        (["2020-01-02", "2020-01-02"], "dates must increase, got"),
        (np.array(["2020-01-02", "NaT"], dtype="datetime64[D]"), "no missing dates, got NaT"),
    ],
)
def test_dates_of_a_model_must_increase(dates: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SGLMM(np.eye(12, 3) + 0.1, dates=dates)


def test_a_fit_without_dates_says_so() -> None:
    result = unmix(cubes().drop_vars("time"), 3, num_steps=0, progress=False)
    with pytest.raises(ValueError, match="the model knows no dates: fit it to a sequence"):
        result.forecast("2021-01-01")
