"""`unmix` on scenes in chunks, whose start is chosen on blocks, and with a polished read-out."""

from __future__ import annotations

import importlib
import logging

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.data import as_lazy_cubes
from pyro_unmix.posterior import estimates
from pyro_unmix.start import blocks, spread_blocks

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

Callback = pytest.importorskip("dask.callbacks").Callback

SCENE = pu.simulate.scaled_scene(num_dates=3, height=40, width=36, num_endmembers=3, seed=2)
CUBES = SCENE.cubes.isel(wavelength=slice(0, 224, 4))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "SIDE", 10)
    monkeypatch.setattr(blocks, "_GRID", 3)
    monkeypatch.setattr(blocks, "NUM_BLOCKS", 5)


def _lazy(cubes: xr.DataArray = CUBES) -> xr.DataArray:
    return as_lazy_cubes(cubes.chunk({"y": 10, "x": 12}))


def test_blocks_are_parts_of_the_scene_as_disjoint_tiles(small_blocks):
    found = spread_blocks(_lazy())
    assert found.sizes == {"time": 3, "y": 50, "x": 10, "wavelength": 56}
    assert list(found["tile"].values) == list(np.repeat(np.arange(5), 10))
    corners = {(y, x) for y in (0, 15, 30) for x in (0, 13, 26)}
    for tile in range(5):
        block = found.values[:, 10 * tile : 10 * tile + 10]
        equal = {
            (y, x)
            for y, x in corners
            if np.array_equal(block, CUBES.values[:, y : y + 10, x : x + 10], equal_nan=True)
        }
        assert len(equal) == 1
        corners -= equal
    again, other = spread_blocks(_lazy()), spread_blocks(_lazy(), seed=1)
    assert again.identical(found)
    assert not np.array_equal(other.values, found.values)


def test_blocks_that_are_observed_are_preferred(small_blocks):
    cubes = CUBES.copy(deep=True)
    cubes[:, :, 14:] = np.nan  # only the places at x = 0, and a column of those at 13, are seen
    found = spread_blocks(_lazy(cubes))
    shares = [float(np.isfinite(b).all(-1).mean()) for b in np.split(found.values, 5, axis=1)]
    assert shares[:3] == [1.0] * 3
    assert 0 < shares[4] < 0.2
    cubes[:] = np.nan
    with pytest.raises(ValueError, match="none of 9 blocks of 10 x 10 pixels"):
        spread_blocks(_lazy(cubes))


def test_scenes_smaller_than_a_block_are_one(small_blocks):
    found = spread_blocks(_lazy(CUBES.isel(y=slice(0, 7), x=slice(0, 5))))
    assert found.sizes["y"] == 7 and found.sizes["x"] == 5


def test_unmix_of_a_large_scene_in_chunks_never_loads_it(small_blocks, monkeypatch, caplog):
    monkeypatch.setattr(unmix_module, "MOST_PIXEL_DATES", 2000)
    sizes = []

    class Sizes(Callback):
        def _posttask(self, key, result, dsk, state, worker_id):
            sizes.append(getattr(result, "nbytes", 0))

    with caplog.at_level(logging.INFO, logger="pyro_unmix"), Sizes():
        result = pu.unmix(_lazy(), 3, num_steps=30, progress=False)
    assert "start: 5 blocks of 10 x 10 pixels" in caplog.text
    assert result.cubes.chunks is not None
    assert 0 < max(sizes) < CUBES.nbytes / 4
    truth = SCENE.reference_endmembers.isel(wavelength=slice(0, 224, 4))
    order = pu.match_endmembers(result.reference_endmembers.values, truth.values)
    found = result.abundances.values[..., order]
    error = np.linalg.norm(found - SCENE.abundances.values) / np.linalg.norm(SCENE.abundances)
    plain = pu.methods.fcls(CUBES, 3, progress=False)
    order = pu.match_endmembers(plain.reference_endmembers.values, truth.values)
    worse = np.linalg.norm(plain.abundances.values[..., order] - SCENE.abundances.values)
    assert error < 0.6 * worse / np.linalg.norm(SCENE.abundances)


def test_tiles_of_a_large_scene_in_chunks_are_refused(monkeypatch):
    monkeypatch.setattr(unmix_module, "MOST_PIXEL_DATES", 2000)
    tiled = CUBES.assign_coords(tile=("y", np.repeat([0, 1], 20))).chunk({"y": 10})
    with pytest.raises(ValueError, match="cannot be of several tiles"):
        pu.unmix(tiled, 3)


def test_small_scenes_in_chunks_give_what_they_give_in_memory():
    part = CUBES.isel(y=slice(0, 8), x=slice(0, 9))
    lazy, loaded = (pu.unmix(c, 3, num_steps=2, progress=False) for c in (_lazy(part), part))
    np.testing.assert_array_equal(lazy.abundances, loaded.abundances)


def test_polish_widens_and_does_not_worsen():
    part = CUBES.isel(y=slice(0, 16), x=slice(0, 16))
    truth = SCENE.abundances.isel(y=slice(0, 16), x=slice(0, 16)).values
    reference = SCENE.reference_endmembers.isel(wavelength=slice(0, 224, 4))
    covered, errors = {}, {}
    for polish in (False, True):
        result = pu.unmix(part, endmembers=reference, polish=polish, num_steps=30, progress=False)
        low, high = result.interval(0.9, num_samples=64).values
        covered[polish] = ((low <= truth) & (truth <= high)).mean()
        errors[polish] = np.sqrt(np.mean((result.abundances.values - truth) ** 2))
    assert isinstance(result.estimate, pu.posterior.PolishedMean)
    assert result.estimate.noise_factor >= 1
    assert covered[True] > covered[False] + 0.02
    assert errors[True] < 1.05 * errors[False]


TINY = CUBES.isel(y=slice(0, 4), x=slice(0, 4))
TRUTH = SCENE.reference_endmembers.isel(wavelength=slice(0, 224, 4))


def test_sequences_are_polished_by_sixteen_fast_sweeps_and_the_misfit(monkeypatch):
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: 1.5)
    wanted = pu.posterior.PolishedMean(num_sweeps=16, noise_factor=1.5, exact=False)
    for settings in ({}, {"polish": True}):
        result = pu.unmix(TINY, endmembers=TRUTH, num_steps=0, progress=False, **settings)
        assert result.estimate == wanted


@pytest.mark.parametrize(
    ("num_dates", "most", "settings", "wanted"),
    [
        (2, 100_000, {}, pu.posterior.PosteriorMean()),
        (3, 47, {}, pu.posterior.PosteriorMean()),  # 3 dates of 16 pixels are 48
        (3, 100_000, {"polish": False}, pu.posterior.PosteriorMean()),
        (3, 100_000, {"estimate": pu.posterior.PosteriorMean(32)}, pu.posterior.PosteriorMean(32)),
        (3, 48, {}, None),
        (1, 10, {"polish": True}, None),
    ],
)
def test_when_unmix_polishes(monkeypatch, num_dates, most, settings, wanted):
    monkeypatch.setattr(estimates, "MOST_POLISHED", most)
    cubes = TINY.isel(time=slice(0, num_dates))
    result = pu.unmix(cubes, endmembers=TRUTH, num_steps=0, progress=False, **settings)
    if wanted is None:
        assert isinstance(result.estimate, pu.posterior.PolishedMean)
    else:
        assert result.estimate == wanted


def test_from_fifty_dates_on_fewer_are_polished():
    assert not estimates.are_many_to_polish(2000, 50)
    assert estimates.are_many_to_polish(2001, 50)
    assert not estimates.are_many_to_polish(125, 200)  # a fourth of the pixel-dates
    assert estimates.are_many_to_polish(126, 200)


def test_other_images_are_read_out_as_is_asked():
    result = pu.unmix(TINY, endmembers=TRUTH, num_steps=0, progress=False)
    plain = pu.unmix(TINY, endmembers=TRUTH, num_steps=0, polish=False, progress=False)
    xr.testing.assert_equal(result.predict(TINY).abundances, result.abundances)
    other = result.predict(TINY, estimate=pu.posterior.PosteriorMean())
    assert other.estimate == pu.posterior.PosteriorMean()
    xr.testing.assert_equal(other.abundances, plain.abundances)
    assert abs(other.abundances - result.abundances).max() > 1e-3
    xr.testing.assert_equal(other.sample(4), plain.sample(4))
    with pytest.raises(TypeError, match="estimate must be PosteriorMean"):
        result.predict(TINY, estimate="mean")


def test_a_large_scene_to_be_polished_is_warned_of(monkeypatch, caplog):
    result = pu.unmix(TINY, endmembers=TRUTH, num_steps=0, progress=False)
    monkeypatch.setattr(estimates, "MOST_POLISHED", 47)
    with caplog.at_level(logging.WARNING):
        result.predict(TINY.isel(time=slice(0, 2)))  # 32 pixel-dates
        result.predict(TINY, estimate=pu.posterior.PosteriorMean())
        assert "millisecond" not in caplog.text
        result.predict(TINY)
    assert "each of 48 pixel-dates" in caplog.text


def test_polish_is_checked():
    with pytest.raises(TypeError, match="polish must be True, False or None, got 8"):
        pu.unmix(CUBES, 3, polish=8)
    with pytest.raises(ValueError, match="polish=True or an estimate, got both"):
        pu.unmix(CUBES, 3, polish=True, estimate=pu.posterior.PosteriorMean())
