"""Seasons that all pixels share: their law, their dates, and what a fit recovers of them."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy import stats
from season_cases import DATES, M, season_cubes, season_model, season_pixels, season_start

import pyro_unmix
from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, FixedEndmembers, MeanFieldGuide
from pyro_unmix.bases import DCT
from pyro_unmix.priors import (
    AutoRegressive,
    ConstantWalk,
    Independent,
    SeasonalVariability,
    SmoothVariability,
    WhiteNoise,
)
from pyro_unmix.priors.part import Need
from pyro_unmix.start import Start, choose_season_start
from pyro_unmix.start.seasons import _SeasonFit


def test_seasons_have_the_covariance_that_the_docstring_states():
    prior = season_model(num_harmonics=2, scale=0.7, period=300.0).variability_prior
    draws = torch.randn(40_000, prior.num_innovations, generator=torch.Generator().manual_seed(0))
    offsets = prior.offsets(draws, None)[:, 0, :, 1].detach().numpy()  # (S, T)
    days = (DATES - DATES[0]) / np.timedelta64(1, "D")
    lag = 2 * np.pi * (days[:, None] - days) / 300.0
    expected = 0.7**2 * (np.cos(lag) + np.cos(2 * lag) / 4) / (1 + 1 / 4)
    assert np.allclose(np.cov(offsets.T), expected, atol=0.015)
    assert np.allclose(np.diagonal(expected), 0.49)


def test_seasons_come_back_after_a_period_and_hold_at_other_dates():
    prior = season_model(period=360.0).variability_prior
    field = torch.randn(prior.num_innovations, generator=torch.Generator().manual_seed(0))
    day = np.timedelta64(1, "D")
    prior.set_days(np.datetime64("2001-03-04T12:00", "ns") + np.array([0, 100, 360, 36000]) * day)
    first = prior.offsets(field, None).detach()
    assert torch.allclose(first[0, 0], first[0, 2], atol=1e-5)
    assert torch.allclose(first[0, 0], first[0, 3], atol=1e-5)
    assert not torch.allclose(first[0, 0], first[0, 1], atol=1e-2)
    prior.set_days(np.datetime64("2001-06-12T12:00", "ns") + np.array([0, 5]) * day)
    assert torch.allclose(prior.offsets(field, None)[0, 0], first[0, 1], atol=1e-5)


def test_density_of_the_model_is_that_of_its_sites_by_hand():
    model = season_model(residual=AutoRegressive(0.6, 0.2))
    valid = torch.ones(3, len(DATES), dtype=torch.bool)
    drawn = model.sample_sequence(3, len(DATES))
    with pyro.get_param_store().scope():
        trace = poutine.trace(model).get_trace(drawn["pixels"], valid)
    site = trace.nodes["field"]
    assert site["cond_indep_stack"] == ()
    value = site["value"]
    expected = stats.norm.logpdf(value.detach().numpy()).sum()
    assert float(site["fn"].log_prob(value)) == pytest.approx(expected, rel=1e-5)
    # the mean of a date's spectra, by hand from harmonics and design
    t = 7
    prior = model.variability_prior
    days = (DATES - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    z = value.detach().numpy().reshape(6, -1)
    angle = 2 * np.pi * days[t - 1] / prior.period
    norm = np.sqrt(1 + 1 / 4 + 1 / 9)
    season = sum(
        (z[h - 1] * np.cos(h * angle) + z[3 + h - 1] * np.sin(h * angle)) / h / norm
        for h in (1, 2, 3)
    )
    psi = 0.3 * season + trace.nodes[f"psi_{t}"]["value"].detach().numpy()
    a = torch.softmax(trace.nodes[f"c_{t}"]["value"], -1).detach().numpy()
    components = model.components().detach().numpy()  # (L, K, P)
    varied = M + np.einsum("lkp,nkp->nlp", components, psi.reshape(3, 2, 2))
    mean = np.einsum("nlp,np->nl", varied, a)
    assert np.allclose(trace.nodes[f"y_{t}"]["fn"].mean.detach().numpy(), mean, atol=1e-4)


def test_shifting_all_dates_leaves_the_prior_alone():
    one, other = (
        season_model(d).variability_prior for d in (DATES, DATES + np.timedelta64(123, "D"))
    )
    covariances = [p.harmonics() @ p.harmonics().mT for p in (one, other)]
    assert torch.allclose(*covariances, atol=1e-5)
    assert not torch.allclose(one.harmonics(), other.harmonics(), atol=1e-2)


@pytest.mark.parametrize("kind", [ConjugateGuide, MeanFieldGuide, BiLSTMGuide])
def test_elbo_of_batches_is_the_full_one_on_average(kind):
    model = season_model()
    drawn, valid = season_pixels(6)
    guide = kind(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )

    with torch.no_grad(), pyro.get_param_store().scope():
        sites = poutine.trace(guide).get_trace(
            drawn["pixels"], valid, index=torch.arange(6), size=6
        )
    values = {
        name: site["value"] for name, site in sites.nodes.items()
        if site["type"] == "sample" and name != "pixels"
    }  # fmt: skip

    def elbo_of(index):
        part = {n: v if n == "field" else v[index] for n, v in values.items()}
        args = (drawn["pixels"][index], valid[index])
        how = {"index": index, "size": 6}
        with torch.no_grad(), pyro.get_param_store().scope():
            model_trace = poutine.trace(poutine.condition(model, part)).get_trace(*args, **how)
            q = poutine.trace(poutine.condition(guide, part)).get_trace(*args, **how)
        return float((model_trace.log_prob_sum() - q.log_prob_sum()).detach())

    whole = elbo_of(torch.arange(6))
    parts = [elbo_of(torch.tensor([2 * k, 2 * k + 1])) for k in range(3)]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-4)


def test_a_fit_finds_the_season_and_foretells_it():
    drawn, _ = season_pixels(36, seed=3, walk=ConstantWalk(0.02), scale=0.8)
    cubes = pyro_unmix.as_cube_sequence(
        drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(30, 6, 6, 8), time=DATES
    )
    past, future = cubes.isel(time=slice(0, 22)), cubes.isel(time=slice(22, 30))
    errors = {}
    start = Start(xr.DataArray(M, dims=("wavelength", "endmember")), DCT(2, scale=0.5), 0.01, {})
    for name, prior in {
        "season": choose_season_start(past, start, residual=Independent(0.1)),
        "none": Independent(0.3),
    }.items():
        model = SGLMM(
            FixedEndmembers(M), basis=DCT(2, scale=0.5), abundance_prior=ConstantWalk(0.02),
            variability_prior=prior, noise=WhiteNoise(0.01), dates=past["time"].values,
        )  # fmt: skip
        guide = ConjugateGuide(model, correction=False)
        result = pyro_unmix.fit(
            model, guide, past, num_steps=60, batch_size=36, learning_rate=0.1,
            learning_rate_decay=0.1, progress=False,
        )  # fmt: skip
        ahead = result.forecast(DATES[22:])
        middle = ahead.reflectance_quantile(0.5, num_samples=60).values
        errors[name] = np.sqrt(np.mean((middle - future.values) ** 2))
        if name == "season":
            inside = (
                (ahead.reflectance_quantile(0.05).values <= future.values)
                & (future.values <= ahead.reflectance_quantile(0.95).values)
            ).mean()
            assert 0.82 < inside < 0.95
            # the same scene a decade later, by the trained guide alone
            later = future.assign_coords(time=future["time"] + np.timedelta64(3652, "D"))
            assert np.isfinite(result.predict(later).abundances).all()
    assert errors["season"] < 0.4 * errors["none"]


def test_a_saved_season_comes_back(tmp_path):
    drawn, _ = season_pixels(12)
    cubes = pyro_unmix.as_cube_sequence(
        drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(30, 3, 4, 8), time=DATES
    )
    model = season_model()
    result = pyro_unmix.fit(model, ConjugateGuide(model), cubes, num_steps=3, progress=False)
    result.save(tmp_path / "kept")
    again = pyro_unmix.Unmixing.load(tmp_path / "kept")
    assert torch.equal(again.model.variability_prior.days, result.model.variability_prior.days)
    wanted = DATES[[3]] + np.timedelta64(5, "D")
    one, other = (r.interpolate(wanted).abundances for r in (result, again))
    assert np.allclose(one, other, atol=1e-6)


def test_needs_and_errors():
    prior = season_model(residual=AutoRegressive()).variability_prior
    assert prior.needs == {Need.SHARED_VARIABILITY}
    prior.set_elapsed(torch.tensor([1.0, 2.0, 0.5]))
    assert prior.needs == {Need.SHARED_VARIABILITY, Need.UNEVEN_VARIABILITY}
    undated = season_model(dates=None)
    with pytest.raises(ValueError, match="needs the dates of the images"):
        undated.sample_sequence(2, 3)
    with pytest.raises(ValueError, match="num_harmonics"):
        SeasonalVariability(0)
    with pytest.raises(ValueError, match="period"):
        SeasonalVariability(period=-1)
    with pytest.raises(TypeError, match="of single pixels"):
        SeasonalVariability(residual=SmoothVariability((2, 3, 4)))


def test_seasons_given_abundances_are_those_of_dense_ridge_regression():
    cubes = season_cubes(0.8, num=5).copy(deep=True)
    cubes[4:9, :2] = np.nan
    waves = season_model().variability_prior.harmonics().double()
    fit = _SeasonFit(cubes, season_start(), waves)
    fit.solve_abundances()
    fit.solve_seasons()  # scales that are not all alike
    scale = fit.scale.numpy().copy()
    fit.solve_abundances()
    fit.solve_seasons()
    a, variance = fit.abundances.numpy(), fit.variance
    components = SGLMM(M, basis=DCT(2, scale=0.5)).components().detach().numpy()
    rows, spectra = [], []
    for n in range(5):
        for t in range(30):
            y = cubes.values[t].reshape(-1, 8)[n]
            if np.isfinite(y).all():
                effect = (components * a[n]).reshape(8, -1) * scale  # (L, K P)
                rows.append(np.einsum("h,lq->lhq", waves[t].numpy(), effect).reshape(8, -1))
                spectra.append(y - M @ a[n])
    rows, spectra = np.concatenate(rows), np.concatenate(spectra)
    precision = rows.T @ rows / variance + np.eye(rows.shape[1])
    z = np.linalg.solve(precision, rows.T @ spectra / variance).reshape(6, 4)
    effective = (1 - np.linalg.inv(precision).diagonal()).reshape(6, 4).sum(0)
    factor = np.clip((z**2).sum(0) / effective, 1 / 4, 4)
    assert np.allclose(fit.scale, scale * factor**0.5, rtol=1e-4)
    assert np.allclose(fit.innovations * fit.scale, z * scale, rtol=1e-3, atol=1e-5)
    assert np.allclose(fit.spread.flatten(), precision.diagonal() ** -0.5, rtol=1e-4)


def test_compare_prefers_seasons_that_are_there():
    cubes = season_cubes(1.0, num=10)
    results = {}
    for name, prior in {
        "season": choose_season_start(cubes, season_start(), residual=Independent(0.2)),
        "none": Independent(0.5),
    }.items():
        model = SGLMM(
            FixedEndmembers(M), basis=DCT(2, scale=0.5), abundance_prior=ConstantWalk(0.02),
            variability_prior=prior, noise=WhiteNoise(0.01), dates=DATES,
        )  # fmt: skip
        guide = ConjugateGuide(model, correction=False)
        results[name] = pyro_unmix.fit(
            model, guide, cubes, num_steps=15, learning_rate=0.05, progress=False
        )
    table = pyro_unmix.compare(results, num_samples=16, num_folds=2, progress=False)
    assert table["fit"].values[0] == "season"
    assert float(table["held_out"][0] - table["held_out"][1]) > 0.05


def test_a_fit_knows_the_time_of_the_year():
    cubes = season_cubes(1.0, num=5)
    model = season_model()
    result = pyro_unmix.fit(model, ConjugateGuide(model), cubes, num_steps=0, progress=False)
    shifted = cubes.assign_coords(time=cubes["time"] + np.timedelta64(183, "D"))
    days = (shifted["time"].values - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    found = result.predict(shifted).model.variability_prior.days
    assert np.allclose(found, days % model.variability_prior.period, atol=1e-3)
    with pytest.raises(ValueError, match="another time of the year"):
        pyro_unmix.fit(model, ConjugateGuide(model), shifted, num_steps=0, progress=False)
    years = np.timedelta64(round(4 * 365.2425 * 86400), "s")  # the same seasons
    later = cubes.assign_coords(time=cubes["time"] + years)
    assert torch.allclose(
        result.predict(later).model.variability_prior.days, model.variability_prior.days, atol=1e-2
    )
    with pytest.raises(TypeError, match="learned from dates, and these images have numbers"):
        result.predict(cubes.assign_coords(time=days))
