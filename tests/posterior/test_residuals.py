"""Residuals and their RMSE, where they are written, and warnings of results that cannot be right."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import plots
from pyro_unmix.methods import fcls
from pyro_unmix.posterior import residuals

NM = np.linspace(450.0, 2400.0, 12)
SPECTRA = np.random.default_rng(0).uniform(0.1, 0.6, (12, 3))
NOISE = 0.005


def scene(height: int = 12, spectra: np.ndarray = SPECTRA) -> xr.DataArray:
    rng = np.random.default_rng(1)
    mixed = rng.dirichlet(np.ones(spectra.shape[1]), (2, height, 5)) @ spectra.T
    values = mixed + rng.normal(0, NOISE, mixed.shape)
    values[1, 2, 3, 4] = np.nan
    dates = np.array(["2021-05-01", "2021-06-01"], dtype="datetime64[ns]")
    return pu.as_cube_sequence(values, wavelength=NM, time=dates)


def by_hand(result: pu.Unmixing, cubes: xr.DataArray) -> np.ndarray:
    fitted = np.einsum("tyxp,lp->tyxl", result.abundances.values, SPECTRA)
    return cubes.values - fitted


def solved(cubes: Any) -> pu.Unmixing:
    return fcls(cubes, endmembers=SPECTRA, progress=False)


def test_residuals_are_images_minus_reconstructions() -> None:
    cubes = scene()
    result = solved(cubes)
    expected = by_hand(result, cubes)
    for time in (0, 1, -1):
        left = result.residual(time)
        assert left.dims == ("y", "x", "wavelength") and left.name == "residual"
        np.testing.assert_allclose(left, expected[time], atol=1e-12)
    assert np.isnan(result.residual(1).values[2, 3]).all()
    rmse = result.rmse
    assert rmse.dims == ("time", "y", "x")
    np.testing.assert_allclose(rmse, np.sqrt((expected**2).mean(-1)), rtol=1e-12)
    assert result.rmse is rmse  # computed once
    with pytest.raises(IndexError, match="time must be the position"):
        result.residual(2)


def test_blocks_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask")
    result = solved(scene())
    whole = result.rmse
    monkeypatch.setattr(residuals, "_BLOCK", 300)
    again = replace(result, cubes=result.cubes.chunk(y=5, x=2))
    np.testing.assert_allclose(again.rmse, whole, rtol=1e-12)
    np.testing.assert_array_equal(again.to_dataset()["rmse"], again.rmse)  # the maps are there
    lazy = replace(again, dataset=again.dataset.chunk(y=4))
    np.testing.assert_allclose(lazy.rmse, whole, rtol=1e-12)
    assert "rmse" not in lazy.to_dataset()  # nothing is computed before it is asked for
    # coordinates in chunks, as images in chunks have them, are no maps
    width = xr.DataArray(np.full(12, 8.0), dims="wavelength").chunk()
    named = replace(again, dataset=again.dataset.assign_coords(fwhm=width))
    assert named.dataset.chunks and "rmse" in named.to_dataset()


def test_every_chunk_of_images_is_read_once() -> None:
    dask_array = pytest.importorskip("dask.array")
    result = solved(scene())
    read = []

    def counted(block: np.ndarray) -> np.ndarray:
        read.append(block.shape)
        return block

    images = result.cubes.chunk(y=5, x=2)
    lazy = dask_array.map_blocks(counted, images.data, dtype=images.dtype, meta=images.data._meta)
    again = replace(result, cubes=images.copy(data=lazy))
    assert "rmse" in again.to_dataset() and len(read) == 3 * 3
    assert max(shape[1] for shape in read) == 5 and max(shape[2] for shape in read) == 2


def test_residuals_follow_a_model_and_other_dates() -> None:
    cubes = scene()
    result = pu.unmix(cubes, 3, num_steps=0, progress=False)
    expected = cubes.values[0] - result.reconstruct(0).values
    np.testing.assert_allclose(result.residual(0), expected, atol=1e-7)
    between = result.interpolate(np.array(["2021-05-15", "2021-06-01"], dtype="datetime64[ns]"))
    assert between.rmse[0].isnull().all()
    left = cubes.values[1] - between.reconstruct(1).values
    np.testing.assert_allclose(between.rmse[1], np.sqrt((left**2).mean(-1)), rtol=1e-5)


def test_without_images_there_is_no_residual(tmp_path: Path) -> None:
    result = solved(scene())
    alone = replace(result, cubes=None)
    for ask in (lambda: alone.residual(), lambda: alone.rmse):
        with pytest.raises(ValueError, match="needs the images, and this result was saved without"):
            ask()
    part = replace(result, dataset=result.dataset.isel(y=slice(3)))
    with pytest.raises(ValueError, match=r"same \(time, y, x\), got \(2, 12, 5\) and \(2, 3, 5\)"):
        part.residual()
    # what was computed before is kept
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved", cubes=False))
    np.testing.assert_array_equal(loaded.rmse, result.rmse)


def test_files_hold_the_rmse(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    envi = pytest.importorskip("spectral.io.envi")
    result = solved(scene())
    with xr.open_dataset(result.to_netcdf(tmp_path / "a.nc"), engine="h5netcdf") as dataset:
        np.testing.assert_allclose(dataset["rmse"], result.rmse)
        assert dataset["rmse"].attrs["long_name"].startswith("root mean square error")
    path = result.to_geotiff(tmp_path / "geotiff")[1]
    with rasterio.open(path) as file:
        assert file.descriptions == ("material 0", "material 1", "material 2", "rmse")
        np.testing.assert_allclose(file.read(4), result.rmse[1], rtol=1e-6)
        np.testing.assert_allclose(file.read(1), result.abundances[1, ..., 0], rtol=1e-6)
    header = result.to_envi(tmp_path / "envi")[0]
    image = envi.open(str(header))
    assert image.metadata["band names"][-1] == "rmse"
    np.testing.assert_allclose(image.read_band(3), result.rmse[0], rtol=1e-6)


def test_the_picture_shows_the_rmse() -> None:
    result = solved(scene())
    figure = plots.plot_rmse(result)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_allclose(np.ma.filled(shown[0], np.nan), result.rmse[0])
    nothing = replace(result, dataset=result.dataset.assign(rmse=result.rmse * np.nan))
    with pytest.raises(ValueError, match=r"expected `.rmse` with a value"):
        plots.plot_rmse(nothing)


def test_a_missing_material_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    cubes = scene(30)
    with caplog.at_level(logging.WARNING):
        solved(cubes)
        assert not caplog.records
        fcls(cubes, endmembers=SPECTRA[:, :2], progress=False)
    assert "times the noise" in caplog.text and "one is missing" in caplog.text


def test_endmembers_beyond_zero_and_one_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    result = solved(scene())
    with caplog.at_level(logging.WARNING):
        residuals.warn_of_misfit(result, 0.01)
        assert not caplog.records
        spectra = result.dataset["reference_endmembers"].copy(deep=True)
        spectra[3, 1] = -0.3
        wrong = replace(result, dataset=result.dataset.assign(reference_endmembers=spectra))
        residuals.warn_of_misfit(wrong, None)
        assert "endmembers reach from -0.3 to " in caplog.text
        caplog.clear()
        residuals.warn_of_misfit(wrong, 0.1)  # no more than noise
        assert "reach" not in caplog.text
