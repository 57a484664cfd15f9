"""A scene in chunks under a cluster of two processes has the maps and intervals that one process gives it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from chain_cases import SPECTRA

import pyro_unmix as pu
from pyro_unmix.infer import Sampled

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
unmix_module = importlib.import_module("pyro_unmix.methods.unmix")
chains_module = importlib.import_module("pyro_unmix.methods.unmix_by_chains")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    """Two processes of one thread each, which compute whatever is in chunks."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="ERROR"
        ) as two,
        distributed.Client(two) as client,
    ):
        yield client


def scene() -> xr.DataArray:
    rng = np.random.default_rng(0)
    abundances = rng.dirichlet([0.5] * 3, size=(2, 14, 18))
    noise = 0.004 * rng.standard_normal((2, 14, 18, 4))
    values = (abundances @ SPECTRA.T + noise).clip(0.001)
    values[1, 3, 4] = np.nan
    return pu.as_cube_sequence(values)


CUBES = scene()


def in_chunks(cubes: xr.DataArray, by_cluster: bool = True) -> xr.DataArray:
    """Chunks that are read by the cluster alone, or by this process alone."""
    here = os.getpid()

    def read(block: np.ndarray) -> np.ndarray:
        assert not block.size or (os.getpid() != here) is by_cluster, "read by the wrong process"
        return block

    chunked = cubes.chunk(y=7, x=9)
    return chunked.copy(data=chunked.data.map_blocks(read, dtype=cubes.dtype))


def assert_same_maps(got: xr.DataArray, expected: xr.DataArray) -> None:
    """To the rounding of single precision, in which maps may be."""
    assert got.dims == expected.dims
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-5, atol=1e-6)


def test_chunks_are_read_by_the_cluster() -> None:
    xr.testing.assert_identical(in_chunks(CUBES).compute(), CUBES)
    with pytest.raises(AssertionError, match="read by the wrong process"):
        in_chunks(CUBES, by_cluster=False).compute()
    with dask.config.set(scheduler="synchronous"):
        xr.testing.assert_identical(in_chunks(CUBES, by_cluster=False).compute(), CUBES)
        with pytest.raises(AssertionError, match="read by the wrong process"):
            in_chunks(CUBES).compute()


def test_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains_module, "_CHAINS_OF_GIVEN", 1)
    settings: dict[str, Any] = {"endmembers": SPECTRA, "trained": False, "progress": False}
    expected = pu.unmix(CUBES, **settings)
    got = pu.unmix(in_chunks(CUBES), **settings)
    assert isinstance(got, Sampled)
    for name in ("abundances", "abundances_std", "reference_endmembers"):
        assert_same_maps(got.dataset[name], expected.dataset[name])
    for joint in (False, True):
        assert_same_maps(got.interval(0.9, joint=joint), expected.interval(0.9, joint=joint))
    assert_same_maps(got.area(level=0.9)["upper"], expected.area(level=0.9)["upper"])
    other = CUBES.isel(y=slice(2, 12))
    again = got.predict(in_chunks(other))
    assert_same_maps(again.abundances, expected.predict(other).abundances)
    assert_same_maps(again.interval(0.5), expected.predict(other).interval(0.5))


def test_training_from_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As scenes that are too large for memory: start of blocks, batches of chunks, maps by tiles."""
    settings: dict[str, Any] = {"num_endmembers": 3, "num_steps": 3, "progress": False}
    monkeypatch.setattr(unmix_module, "MOST_PIXEL_DATES", 100)
    with dask.config.set(scheduler="synchronous"):
        expected = pu.unmix(in_chunks(CUBES, by_cluster=False), **settings)
        interval = expected.interval(0.9)
        maps = expected.predict(CUBES).abundances
    got = pu.unmix(in_chunks(CUBES), **settings)
    np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-6)
    for name in ("abundances", "abundances_std"):
        assert_same_maps(got.dataset[name], expected.dataset[name])
    assert_same_maps(got.interval(0.9), interval)
    # tiles that the processes of the cluster unmix
    lazy = got.predict(in_chunks(CUBES))
    assert lazy.abundances.chunks is not None
    assert_same_maps(lazy.abundances.compute(), maps)
    path = got.predict_to_zarr(in_chunks(CUBES), tmp_path / "maps.zarr", tile=8, progress=False)
    with xr.open_zarr(path) as written:
        assert_same_maps(written["abundances"].load().transpose(*maps.dims), maps)
