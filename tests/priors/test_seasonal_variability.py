"""Seasons that all pixels share: their law, their dates, and what a fit recovers of them."""

from __future__ import annotations

import importlib

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy import stats

import pyro_unmix
from pyro_unmix import (
    SGLMM,
    BiLSTMGuide,
    Brightness,
    ConjugateGuide,
    FixedEndmembers,
    MeanFieldGuide,
)
from pyro_unmix.bases import DCT
from pyro_unmix.priors import (
    AutoRegressive,
    ConstantWalk,
    Independent,
    JumpWalk,
    SeasonalVariability,
    SmoothVariability,
    WhiteNoise,
)
from pyro_unmix.priors.part import Need
from pyro_unmix.start import Start, choose_season_start, season_share
from pyro_unmix.start.seasons import _mean_variability, _predicted_share, _SeasonFit

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

WAVES = np.linspace(0, 1, 8)
M = np.stack([0.2 + 0.5 * WAVES, 0.6 - 0.4 * WAVES**2], axis=1)
DATES = np.datetime64("2019-11-20", "ns") + (np.arange(30) * 27).astype("m8[D]")


def _model(dates=DATES, walk=None, **settings):
    settings = {"scale": 0.3, "residual": Independent(0.05), **settings}
    return SGLMM(
        FixedEndmembers(M),
        basis=DCT(2, scale=0.5),
        abundance_prior=JumpWalk() if walk is None else walk,
        variability_prior=SeasonalVariability(**settings),
        noise=WhiteNoise(0.01),
        dates=dates,
    )


def _pixels(num=40, seed=1, **settings):
    drawn = _model(**settings).sample_sequence(num, len(DATES), seed=seed)
    return drawn, torch.ones(num, len(DATES), dtype=torch.bool)


def test_seasons_have_the_covariance_that_the_docstring_states():
    prior = _model(num_harmonics=2, scale=0.7, period=300.0).variability_prior
    draws = torch.randn(40_000, prior.num_innovations, generator=torch.Generator().manual_seed(0))
    offsets = prior.offsets(draws, None)[:, 0, :, 1].detach().numpy()  # (S, T)
    days = (DATES - DATES[0]) / np.timedelta64(1, "D")
    lag = 2 * np.pi * (days[:, None] - days) / 300.0
    expected = 0.7**2 * (np.cos(lag) + np.cos(2 * lag) / 4) / (1 + 1 / 4)
    assert np.allclose(np.cov(offsets.T), expected, atol=0.015)
    assert np.allclose(np.diagonal(expected), 0.49)


def test_seasons_come_back_after_a_period_and_hold_at_other_dates():
    prior = _model(period=360.0).variability_prior
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
    model = _model(residual=AutoRegressive(0.6, 0.2))
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
    one, other = (_model(d).variability_prior for d in (DATES, DATES + np.timedelta64(123, "D")))
    covariances = [p.harmonics() @ p.harmonics().mT for p in (one, other)]
    assert torch.allclose(*covariances, atol=1e-5)
    assert not torch.allclose(one.harmonics(), other.harmonics(), atol=1e-2)


@pytest.mark.parametrize("kind", [ConjugateGuide, MeanFieldGuide, BiLSTMGuide])
def test_elbo_of_batches_is_the_full_one_on_average(kind):
    model = _model()
    drawn, valid = _pixels(6)
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
    drawn, _ = _pixels(36, seed=3, walk=ConstantWalk(0.02), scale=0.8)
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
    drawn, _ = _pixels(12)
    cubes = pyro_unmix.as_cube_sequence(
        drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(30, 3, 4, 8), time=DATES
    )
    model = _model()
    result = pyro_unmix.fit(model, ConjugateGuide(model), cubes, num_steps=3, progress=False)
    result.save(tmp_path / "kept")
    again = pyro_unmix.Unmixing.load(tmp_path / "kept")
    assert torch.equal(again.model.variability_prior.days, result.model.variability_prior.days)
    wanted = DATES[[3]] + np.timedelta64(5, "D")
    one, other = (r.interpolate(wanted).abundances for r in (result, again))
    assert np.allclose(one, other, atol=1e-6)


def test_needs_and_errors():
    prior = _model(residual=AutoRegressive()).variability_prior
    assert prior.needs == {Need.SHARED_VARIABILITY}
    prior.set_elapsed(torch.tensor([1.0, 2.0, 0.5]))
    assert prior.needs == {Need.SHARED_VARIABILITY, Need.UNEVEN_VARIABILITY}
    undated = _model(dates=None)
    with pytest.raises(ValueError, match="needs the dates of the images"):
        undated.sample_sequence(2, 3)
    with pytest.raises(ValueError, match="num_harmonics"):
        SeasonalVariability(0)
    with pytest.raises(ValueError, match="period"):
        SeasonalVariability(period=-1)
    with pytest.raises(TypeError, match="of single pixels"):
        SeasonalVariability(residual=SmoothVariability((2, 3, 4)))


def test_the_start_of_the_seasons_is_the_truth():
    drawn, _ = _pixels(25, seed=5, walk=ConstantWalk(0.02), scale=0.8)
    images = drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(30, 5, 5, 8)
    images[3, :2] = np.nan
    cubes = pyro_unmix.as_cube_sequence(images, time=DATES)
    start = Start(xr.DataArray(M, dims=("wavelength", "endmember")), DCT(2, scale=0.5), 0.01, {})
    found = choose_season_start(cubes, start, num_harmonics=3)
    found.setup(num_endmembers=2, num_components=2, generator=torch.Generator())
    found.set_days(DATES)
    psi = found.offsets(found.field_start()[0], None)[0].detach().numpy()
    true = drawn["variability"].mean(0).flatten(-2).detach().numpy()  # residuals average out
    assert np.corrcoef(psi.ravel(), true.ravel())[0, 1] > 0.95
    assert np.sqrt(np.mean((psi - true) ** 2)) < 0.3 * true.std()


def test_the_start_needs_dates():
    start = Start(xr.DataArray(M, dims=("wavelength", "endmember")), DCT(2), 0.01, {})
    with pytest.raises(ValueError, match="seasons need dates"):
        choose_season_start(np.full((3, 4, 4, 8), 0.3), start)


LONG = np.datetime64("2017-02-03", "ns") + (np.arange(48) * 31).astype("m8[D]")  # four years


def _start():
    return Start(xr.DataArray(M, dims=("wavelength", "endmember")), DCT(2, scale=0.5), 0.01, {})


def _cubes(scale, seed=5, dates=DATES, num=25):
    model = _model(dates, walk=ConstantWalk(0.02), scale=scale, residual=Independent(0.2))
    drawn = model.sample_sequence(num, len(dates), seed=seed)
    images = drawn["pixels"].detach().numpy().swapaxes(0, 1).reshape(len(dates), 5, -1, 8)
    return pyro_unmix.as_cube_sequence(images, time=dates)


def test_share_tells_seasons_from_none():
    assert season_share(_cubes(1.0, dates=LONG), _start()) > 0.5
    assert season_share(_cubes(1e-3, dates=LONG), _start()) < 0.05
    # what comes back after another time is no season of the year
    assert season_share(_cubes(1.0, dates=LONG), _start(), period=97.0) < 0.05


def test_what_lasts_is_hardly_ever_a_season():
    """Common brightness that is AR(1) over two months; a season as strong as it is found."""
    days = (LONG - LONG[0]) / np.timedelta64(1, "D")
    root = np.linalg.cholesky(np.exp(-np.abs(days[:, None] - days) / 60) + 1e-9 * np.eye(48))
    found = {0.0: 0, 1.4: 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixed = rng.dirichlet([0.6, 0.6], size=(5, 5)) @ M.T
        for season in found:
            common = root @ rng.normal(size=48) + season * np.cos(2 * np.pi * days / 365.24)
            images = mixed * (1 + 0.1 * common)[:, None, None, None]
            images += rng.normal(scale=0.005, size=images.shape)
            cubes = pyro_unmix.as_cube_sequence(images, time=LONG)
            start = Start(_start().endmembers, Brightness(), 0.005, {})
            found[season] += season_share(cubes, start) > 0.1
    assert found[0.0] <= 2
    assert found[1.4] >= 14


def _lasting(days, seed, correlation_days=400):
    rng = np.random.default_rng(seed)
    covariance = np.exp(-np.abs(days[:, None] - days) / correlation_days)
    return (np.linalg.cholesky(covariance + 1e-9 * np.eye(len(days))) @ rng.normal(size=len(days)))[
        :, None
    ]


def test_what_is_left_out_are_neighbours_in_time():
    """Those of every fifth date would be foretold by the dates around them, season or not."""
    days = np.arange(120) * 12.0
    shares = [_predicted_share(_lasting(days, seed), days, 365.25) for seed in range(30)]
    assert np.median(shares) < 0


def test_share_is_what_no_other_period_has():
    days = (LONG - LONG[0]) / np.timedelta64(1, "D")
    cubes = _cubes(1e-3, dates=LONG)
    found, own = {}, {}
    for cycle in (250.0, 365.2425):
        common = (
            1 + 0.17 * np.cos(2 * np.pi * days / cycle) + 0.2 * np.cos(2 * np.pi * days / 365.2425)
        )
        waved = cubes * xr.DataArray(common.astype(np.float32), dims="time")
        start = Start(_start().endmembers, Brightness(), 0.01, {})
        means, known = _mean_variability(waved, start)
        own[cycle] = _predicted_share(means[known], days[known], 365.2425)
        found[cycle] = season_share(waved, start)
    assert own[250.0] > 0.2
    assert found[250.0] < own[250.0] - 0.1, (own, found)
    assert found[365.2425] > 0.5


def test_years_are_circles():
    prior = _model(period=360.0).variability_prior
    prior.set_days(np.array([359.999, 719.999, 1000.0]))
    assert prior.same_season(np.array([0.001, 360.001, 640.0]))
    assert not prior.same_season(np.array([1.0, 361.0, 641.0]))
    assert not prior.same_season(np.array([0.001, 360.001]))


def test_share_needs_dates_and_years():
    cubes = _cubes(1.0, dates=LONG)
    assert season_share(cubes.drop_vars("time"), _start()) == -np.inf
    assert season_share(cubes.isel(time=slice(0, 35)), _start()) == -np.inf
    days = np.arange(48) * 20.0
    assert season_share(cubes.assign_coords(time=days), _start()) == -np.inf
    hidden = cubes.copy()
    hidden[3:20] = np.nan  # too few dates that are seen
    assert season_share(hidden, _start()) == -np.inf


def test_share_and_start_look_at_a_part_of_large_scenes(monkeypatch):
    cubes = _cubes(1.0, dates=LONG)
    whole = season_share(cubes, _start())
    monkeypatch.setattr("pyro_unmix.start.seasons._MOST_PIXEL_DATES", 480)
    part = season_share(cubes, _start())
    assert part != whole and part > 0.4
    assert part == season_share(cubes, _start())
    assert part != season_share(cubes, _start(), seed=1)


def test_unmix_models_seasons_where_there_are_any(caplog):
    for scale, kind in ((1.0, SeasonalVariability), (1e-3, (AutoRegressive, Independent))):
        cubes = _cubes(scale, dates=LONG)
        result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False)
        assert isinstance(result.model.variability_prior, kind)
    cubes = _cubes(1.0, dates=LONG)
    for wish in ({"polish": True}, {"estimate": pyro_unmix.posterior.read_out.PolishedMean()}):
        caplog.clear()
        with caplog.at_level("WARNING"):
            result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False, **wish)
        assert "not polished" in caplog.text
        assert type(result.estimate) is pyro_unmix.posterior.read_out.PosteriorMean
    few = pyro_unmix.posterior.read_out.PlugInMean(4)  # no wish to polish
    result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False, estimate=few)
    assert result.estimate == few


def test_seasons_come_before_a_field_and_beside_what_lasts(monkeypatch):
    """Where the images show both, the field is not looked for; the pixels' own chain is that without seasons."""
    monkeypatch.setattr(unmix_module, "field_correlation", None)  # would raise
    monkeypatch.setattr(unmix_module, "MIN_SIDE", 5)
    for correlation, kind in ((0.5, AutoRegressive), (0.0, Independent)):
        monkeypatch.setattr(unmix_module, "temporal_correlation", lambda *_, c=correlation: c)
        result = pyro_unmix.unmix(
            _cubes(1.0, dates=LONG), endmembers=M, num_steps=0, progress=False
        )
        assert type(result.model.variability_prior.residual) is kind


def test_seasons_given_abundances_are_those_of_dense_ridge_regression():
    cubes = _cubes(0.8, num=5).copy(deep=True)
    cubes[4:9, :2] = np.nan
    waves = _model().variability_prior.harmonics().double()
    fit = _SeasonFit(cubes, _start(), waves)
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
    cubes = _cubes(1.0, num=10)
    results = {}
    for name, prior in {
        "season": choose_season_start(cubes, _start(), residual=Independent(0.2)),
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
    cubes = _cubes(1.0, num=5)
    model = _model()
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
