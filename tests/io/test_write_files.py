"""Files that are there already, and the place of the cubes in those of every method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rasterio.crs import CRS
from writer_cases import BANDS, DATES, NORTH_UP, WAVELENGTHS, make_result, maps_of

from pyro_unmix import SGLMM, ConjugateGuide, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.io.write import rasters
from pyro_unmix.methods import fcls

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
envi = pytest.importorskip("spectral.io.envi")


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.name.startswith("."))


# ------------------------------------------------------------------ files that are there


def test_files_are_replaced_only_on_demand_and_together(tmp_path):
    old, new = make_result(), make_result(dtype="float64")
    (tmp_path / "abundances_2021-06-11.tif").write_text("mine")
    with pytest.raises(FileExistsError, match="2021-06-11.tif exists: pass overwrite=True"):
        old.to_geotiff(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["abundances_2021-06-11.tif"]
    assert (tmp_path / "abundances_2021-06-11.tif").read_text() == "mine"
    paths = old.to_geotiff(tmp_path, overwrite=True)
    new.to_geotiff(tmp_path, overwrite=True)
    with rasterio.open(paths[2]) as file:
        assert file.dtypes[0] == "float64"

    (tmp_path / "endmembers.sli").write_text("mine")
    with pytest.raises(FileExistsError, match="endmembers.sli exists"):
        old.to_envi(tmp_path)
    assert not list(tmp_path.glob("*.hdr"))
    old.to_envi(tmp_path, overwrite=True)
    header = new.to_envi(tmp_path, overwrite=True)[0]
    assert np.dtype(envi.open(header).dtype) == "float64"

    path = old.to_netcdf(tmp_path / "r.nc")
    with pytest.raises(FileExistsError, match="r.nc exists: pass overwrite=True, or another"):
        new.to_netcdf(path)
    new.to_netcdf(path, overwrite=True)
    with xr.open_dataset(path) as back:
        assert back["abundances"].dtype == "float64"
    with pytest.raises(FileExistsError, match="is a folder"):
        new.to_netcdf(tmp_path, overwrite=True)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("what", ["to_geotiff", "to_envi"])
def test_maps_of_all_dates_are_replaced_when_all_are_written(tmp_path, monkeypatch, what):
    old, new = make_result(), make_result(dtype="float64")
    getattr(old, what)(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    layers = rasters._layers

    def no_last(*args):
        *first, _ = layers(*args)
        yield from first
        yield rasters._Layer("abundances_of_nothing", "", None, [], None)

    monkeypatch.setattr(rasters, "_layers", no_last)
    with pytest.raises((AttributeError, TypeError)):
        getattr(new, what)(tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_leaves_the_old_file_and_nothing_half_done(tmp_path, monkeypatch):
    result = make_result()
    path = result.to_netcdf(tmp_path / "r.nc")
    tif = result.to_geotiff(tmp_path)[0]
    before = path.read_bytes(), tif.read_bytes()
    result.dataset.attrs["broken"] = json  # no attribute can hold a module
    with pytest.raises(TypeError):
        result.to_netcdf(path, overwrite=True)

    def full(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(rasterio.io.DatasetWriter, "update_tags", full, raising=False)
    with pytest.raises((OSError, TypeError)):
        result.to_geotiff(tmp_path, overwrite=True)
    assert (path.read_bytes(), tif.read_bytes()) == before
    assert left_over(tmp_path) == []


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "mine").write_text("")
    usual = (tmp_path / "mine").stat().st_mode
    result = make_result()
    paths = [*result.to_geotiff(tmp_path), *result.to_envi(tmp_path)]
    for path in [*paths, result.to_netcdf(tmp_path / "r.nc")]:
        assert path.stat().st_mode == usual, path


def test_writing_changes_nothing_in_the_result(tmp_path):
    result = make_result()
    before = result.dataset.copy(deep=True)
    result.to_netcdf(tmp_path / "r.nc")
    result.to_geotiff(tmp_path)
    result.to_envi(tmp_path)
    xr.testing.assert_identical(result.dataset, before)
    assert result.dataset["abundances"].dims == ("time", "y", "x", "endmember")
    assert not any(v.encoding for v in result.dataset.variables.values())


# ------------------------------------------------------------------ from cubes to files


def test_the_place_of_the_cubes_reaches_the_files_of_every_method(tmp_path):
    library = simulate.library(WAVELENGTHS)
    scene = simulate.scaled_scene(num_dates=2, height=5, width=6, library=library, seed=2)
    cubes = scene.cubes.assign_coords(
        time=DATES,
        x=500_015.0 + 30 * np.arange(6),
        y=5_799_990.0 - 20 * np.arange(5),
        fwhm=("wavelength", np.full(BANDS, 9.5)),
    )
    cubes = cubes.rio.write_crs(32633).rio.write_transform(NORTH_UP)
    cubes.attrs["standard_name"] = "surface_bidirectional_reflectance"
    model = SGLMM(scene.reference_endmembers, basis=DCT(2))
    images = [cubes.isel(time=t) for t in range(2)]
    results = {
        "fit": fit(model, ConjugateGuide(model), images, num_steps=2, progress=False),
        "fcls": fcls(cubes, 3, progress=False),
    }
    for name, result in results.items():
        with rasterio.open(result.to_geotiff(tmp_path / name)[0]) as file:
            assert file.crs == CRS.from_epsg(32633) and file.transform == NORTH_UP
            np.testing.assert_array_equal(file.read()[:-1], maps_of(result, 0))
            np.testing.assert_allclose(file.read(4), result.rmse[0], rtol=1e-6)
        library = envi.open(result.to_envi(tmp_path / name)[-1])
        np.testing.assert_allclose(library.bands.centers, WAVELENGTHS, rtol=0, atol=1e-9)
        assert library.bands.bandwidths == [9.5] * BANDS
        with xr.open_dataset(result.to_netcdf(tmp_path / name / "r.nc")) as back:
            assert back.rio.crs == CRS.from_epsg(32633)
            np.testing.assert_array_equal(back["time"], DATES)
            # Attributes of the images are not those of the mask.
            assert "standard_name" not in back["valid"].attrs
