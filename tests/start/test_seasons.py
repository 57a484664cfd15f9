"""What tells seasons from other variability before a fit, and what `unmix` makes of it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from season_cases import DATES, M, season_cubes, season_model, season_pixels, season_start

import pyro_unmix
from pyro_unmix import Brightness
from pyro_unmix.bases import DCT
from pyro_unmix.priors import AutoRegressive, ConstantWalk, Independent, SeasonalVariability
from pyro_unmix.start import Start, choose_season_start, season_share
from pyro_unmix.start.seasons import _mean_variability, _predicted_share

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function
field_module = importlib.import_module("pyro_unmix.start.field")


def test_the_start_of_the_seasons_is_the_truth():
    drawn, _ = season_pixels(25, seed=5, walk=ConstantWalk(0.02), scale=0.8)
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


def test_share_tells_seasons_from_none():
    assert season_share(season_cubes(1.0, dates=LONG), season_start()) > 0.5
    assert season_share(season_cubes(1e-3, dates=LONG), season_start()) < 0.05
    # what comes back after another time is no season of the year
    assert season_share(season_cubes(1.0, dates=LONG), season_start(), period=97.0) < 0.05


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
            start = Start(season_start().endmembers, Brightness(), 0.005, {})
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
    cubes = season_cubes(1e-3, dates=LONG)
    found, own = {}, {}
    for cycle in (250.0, 365.2425):
        common = (
            1 + 0.17 * np.cos(2 * np.pi * days / cycle) + 0.2 * np.cos(2 * np.pi * days / 365.2425)
        )
        waved = cubes * xr.DataArray(common.astype(np.float32), dims="time")
        start = Start(season_start().endmembers, Brightness(), 0.01, {})
        means, known = _mean_variability(waved, start)
        own[cycle] = _predicted_share(means[known], days[known], 365.2425)
        found[cycle] = season_share(waved, start)
    assert own[250.0] > 0.2
    assert found[250.0] < own[250.0] - 0.1, (own, found)
    assert found[365.2425] > 0.5


def test_years_are_circles():
    prior = season_model(period=360.0).variability_prior
    prior.set_days(np.array([359.999, 719.999, 1000.0]))
    assert prior.same_season(np.array([0.001, 360.001, 640.0]))
    assert not prior.same_season(np.array([1.0, 361.0, 641.0]))
    assert not prior.same_season(np.array([0.001, 360.001]))


def test_share_needs_dates_and_years():
    cubes = season_cubes(1.0, dates=LONG)
    assert season_share(cubes.drop_vars("time"), season_start()) == -np.inf
    assert season_share(cubes.isel(time=slice(0, 35)), season_start()) == -np.inf
    days = np.arange(48) * 20.0
    assert season_share(cubes.assign_coords(time=days), season_start()) == -np.inf
    hidden = cubes.copy()
    hidden[3:20] = np.nan  # too few dates that are seen
    assert season_share(hidden, season_start()) == -np.inf


def test_share_and_start_look_at_a_part_of_large_scenes(monkeypatch):
    cubes = season_cubes(1.0, dates=LONG)
    whole = season_share(cubes, season_start())
    monkeypatch.setattr("pyro_unmix.start.seasons._MOST_PIXEL_DATES", 480)
    part = season_share(cubes, season_start())
    assert part != whole and part > 0.4
    assert part == season_share(cubes, season_start())
    assert part != season_share(cubes, season_start(), seed=1)


def test_unmix_models_seasons_where_there_are_any(caplog):
    for scale, kind in ((1.0, SeasonalVariability), (1e-3, (AutoRegressive, Independent))):
        cubes = season_cubes(scale, dates=LONG)
        result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False)
        assert isinstance(result.model.variability_prior, kind)
    cubes = season_cubes(1.0, dates=LONG)
    for wish in ({"polish": True}, {"estimate": pyro_unmix.posterior.PolishedMean()}):
        caplog.clear()
        with caplog.at_level("WARNING"):
            result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False, **wish)
        assert "not polished" in caplog.text
        assert type(result.estimate) is pyro_unmix.posterior.PosteriorMean
    few = pyro_unmix.posterior.PlugInMean(4)  # no wish to polish
    result = pyro_unmix.unmix(cubes, endmembers=M, num_steps=0, progress=False, estimate=few)
    assert result.estimate == few


def test_seasons_come_before_a_field_and_beside_what_lasts(monkeypatch):
    """Where the images show both, the field is not looked for; the pixels' own chain is that without seasons."""
    monkeypatch.setattr(unmix_module.field_correlation, "unchecked", None)  # would raise
    monkeypatch.setattr(field_module, "MIN_SIDE", 5)
    for correlation, kind in ((0.5, AutoRegressive), (0.0, Independent)):
        monkeypatch.setattr(
            unmix_module.temporal_correlation, "unchecked", lambda *_, c=correlation: c
        )
        result = pyro_unmix.unmix(
            season_cubes(1.0, dates=LONG), endmembers=M, num_steps=0, progress=False
        )
        assert type(result.model.variability_prior.residual) is kind


@pytest.mark.parametrize("wave", [np.sin, np.cos])
def test_a_season_of_any_phase_is_predicted(wave: np.ufunc) -> None:
    days = 16.0 * np.arange(90)
    means = wave(2 * np.pi * days / 365.25)[:, np.newaxis]
    assert _predicted_share(means, days, 365.25) > 0.99
