"""NetCDF and HDF5 through xarray; Zarr where it is installed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from pyro_unmix.data import as_cube_sequence
from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.registry import find_reader, read_image

T, H, W, L = 2, 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
DATES = ["2020-01-01", "2020-02-10"]
ENGINES = ["h5netcdf", "scipy"]


def make_array() -> np.ndarray:
    return np.random.default_rng(0).random((T, H, W, L))


def make_cubes() -> xr.DataArray:
    return as_cube_sequence(make_array(), wavelength=WAVELENGTH, time=DATES)


def write(path: Path, cubes: xr.DataArray, **settings: object) -> Path:
    name = cubes.name or "reflectance"
    cubes.to_dataset(name=name).to_netcdf(path, **({"engine": "h5netcdf"} | settings))  # type: ignore[call-overload]
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["reflectance", "rho"])
def test_a_sequence_comes_back_as_written(tmp_path: Path, name: str, engine: str) -> None:
    cubes = make_cubes().assign_coords(tile=("y", np.array([0, 0, 1], "i4")))
    dataset = xr.Dataset({name: cubes.transpose("wavelength", "time", "y", "x"), "elevation": 3.0})
    dataset.to_netcdf(tmp_path / "a.nc", engine=engine)  # type: ignore[call-overload]
    assert find_reader(tmp_path / "a.nc").name.startswith("NetCDF")
    xr.testing.assert_equal(read_sequence(tmp_path / "a.nc"), cubes)


@pytest.mark.parametrize("engine", ENGINES)
def test_packed_numbers_are_unpacked(tmp_path: Path, engine: str) -> None:
    cubes = make_cubes().copy(deep=True)
    cubes[0, 1, 2] = np.nan
    packing = {"dtype": "int16", "scale_factor": 1e-4, "add_offset": 0.1, "_FillValue": -9999}
    write(tmp_path / "a.nc", cubes, engine=engine, encoding={"reflectance": packing})
    # Packing rounds to the nearest 1e-4, unpacking to float32.
    np.testing.assert_allclose(
        read_sequence(tmp_path / "a.nc").values, cubes.values, rtol=0, atol=0.5e-4 + 2.0**-23
    )


def test_packed_integers_are_marked_by_their_stored_value(tmp_path: Path) -> None:
    stored = np.array([1000, -9999, 0, 300], "i2").reshape(1, 1, 4)
    variable = xr.Variable(("wavelength", "y", "x"), stored, {"_FillValue": np.int16(-9999)})
    variable.attrs |= {"missing_value": np.int16(300), "scale_factor": 1e-3, "add_offset": -0.1}
    xr.Dataset({"a": variable}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    np.testing.assert_allclose(
        read_sequence(tmp_path / "a.nc").values.ravel(), [0.9, np.nan, -0.1, np.nan], rtol=1e-7
    )


def test_unsigned_integers_of_classic_files(tmp_path: Path) -> None:
    stored = np.array([100, -56], "i1").reshape(1, 1, 2)  # -56 is 200
    variable = xr.Variable(("wavelength", "y", "x"), stored, {"_Unsigned": "true"})
    variable.attrs["scale_factor"] = 1e-2
    xr.Dataset({"a": variable}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    assert read_sequence(tmp_path / "a.nc").values.ravel().round(6).tolist() == [1, 2]


def test_the_fill_of_unsigned_integers_is_signed_as_they_are(tmp_path: Path) -> None:
    stored = np.array([100, -1, -56], "i1").reshape(1, 1, 3)  # -1 is 255: fill
    variable = xr.Variable(("wavelength", "y", "x"), stored, {"_Unsigned": "true"})
    variable.attrs |= {"scale_factor": 4e-3, "_FillValue": np.int8(-1)}
    xr.Dataset({"a": variable}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    got = read_sequence(tmp_path / "a.nc").values.ravel()
    np.testing.assert_allclose(got, [0.4, np.nan, 0.8], rtol=1e-6)


def test_percent(tmp_path: Path) -> None:
    cubes = (100 * make_cubes()).rename("rho").assign_attrs(units="%")
    np.testing.assert_allclose(
        read_sequence(write(tmp_path / "a.nc", cubes)).values, make_array(), rtol=1e-15
    )


def test_axes_under_other_names(tmp_path: Path) -> None:
    cubes = make_cubes().drop_vars("wavelength").rename(y="lat", x="lon", wavelength="band")
    cubes = cubes.assign_coords(
        wavelength=("band", np.array(WAVELENGTH) / 1000, {"units": "um"}),
        fwhm=("band", np.full(L, 0.01), {"units": "um"}),
        good_wavelengths=("band", np.array([1, 1, 0, 1, 1])),
        band=list("abcde"),
        lat=[50.0, 49.5, 49.0],
        lon=[8.0, 8.1, 8.2, 8.3],
    )
    found = read_sequence(write(tmp_path / "a.nc", cubes))
    keep = [0, 1, 3, 4]
    np.testing.assert_array_equal(found.values, make_array()[..., keep])
    np.testing.assert_allclose(found.wavelength, np.array(WAVELENGTH)[keep], rtol=1e-15)
    np.testing.assert_allclose(found.fwhm, 10, rtol=1e-15)
    assert found.band.values.tolist() == list("abde")
    assert found.y.values.tolist() == [50.0, 49.5, 49.0]


def test_one_image_with_a_date(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", make_cubes().isel(time=1))
    xr.testing.assert_equal(read_sequence(tmp_path / "a.nc"), make_cubes().isel(time=[1]))


def test_numbers_for_dates(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", make_cubes().assign_coords(time=[3.0, 7.5]))
    assert read_sequence(tmp_path / "a.nc").time.values.tolist() == [3.0, 7.5]


# --- place -----------------------------------------------------------------------------------


def with_place(attrs: dict[str, object], x: object = None, y: object = None) -> xr.DataArray:
    cubes = make_cubes().assign_coords(crs=xr.Variable((), 0, attrs))
    if x is not None:
        cubes = cubes.assign_coords(x=x, y=y)
    cubes.attrs["grid_mapping"] = "crs"
    return cubes


def test_files_as_rioxarray_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("rioxarray")
    cubes = make_cubes().assign_coords(x=[500_015.0 + 30 * i for i in range(W)])
    cubes = cubes.assign_coords(y=[4_000_000.0 - 20 * i for i in range(H)])
    cubes = cubes.rio.write_crs("EPSG:32610").rio.write_transform()
    found = read_sequence(write(tmp_path / "a.nc", cubes))
    assert found.rio.crs == cubes.rio.crs
    assert found.rio.transform() == cubes.rio.transform()
    np.testing.assert_array_equal(found.x, cubes.x)


def test_a_rotated_transform(tmp_path: Path) -> None:
    image = read_image(write(tmp_path / "a.nc", with_place({"GeoTransform": "9 2 1 8 1 -2"})))
    assert image.transform == (2, 1, 9, 1, -2, 8)


def test_coordinates_go_before_a_stale_geotransform(tmp_path: Path) -> None:
    cubes = with_place(
        {"GeoTransform": "0 20 0 0 0 -20"}, 110 + 20.0 * np.arange(W), 90 - 20.0 * np.arange(H)
    )
    image = read_image(write(tmp_path / "a.nc", cubes))
    assert image.transform == (20, 0, 100, 0, -20, 100)
    assert any("GeoTransform contradicts" in note for note in image.notes)


def test_uneven_coordinates_have_no_transform(tmp_path: Path) -> None:
    cubes = with_place({}, np.array([0.0, 1, 2, 4]), np.arange(3.0))
    image = read_image(write(tmp_path / "a.nc", cubes))
    assert image.transform is None
    np.testing.assert_array_equal(image.x, [0, 1, 2, 4])  # type: ignore[arg-type]


def test_a_crs_in_cf_terms(tmp_path: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    crs = pyproj.CRS.from_epsg(32610)
    attrs = {k: v for k, v in crs.to_cf().items() if k not in ("crs_wkt", "spatial_ref")}
    found = pyproj.CRS.from_wkt(read_image(write(tmp_path / "a.nc", with_place(attrs))).crs)
    facts = [
        [(part.name, part.value, part.unit_name) for part in one.coordinate_operation.params]
        for one in (found, crs)
    ]
    assert facts[0] == facts[1]


# --- refused ---------------------------------------------------------------------------------


def unit(text: str | None) -> xr.DataArray:
    cubes = make_cubes()
    cubes.wavelength.attrs = {} if text is None else {"units": text}
    return cubes


@pytest.mark.parametrize(
    ("cubes", "text"),
    [
        (unit(None), "wavelength units: are not given.*wavelength_unit="),
        (unit("um"), "the unit 'um' contradicts the values 450"),
        (unit("cm-1"), "wavelength units: must be nm or um, got 'cm-1'"),
        (make_cubes().isel(wavelength=0), r"variables: expected .*reflectance\('time', 'y', 'x'\)"),
        (make_cubes().isel(wavelength=0), "There is no spectral axis"),
        (make_cubes().rename(wavelength="lambda"), "variables: expected"),
        (make_cubes().assign_attrs(units="W m-2 sr-1 um-1"), "reflectance:units: must be refl"),
        (make_cubes().assign_attrs(scale_factor="x"), "reflectance:scale_factor: must be a number"),
        (make_cubes().assign_coords(time=DATES[::-1]).isel(time=[0, 0]), "dates: .*twice"),
        (make_cubes() * 1e4, "values: .*divide by the scale"),
        ((make_cubes() * 1e4).astype("i2"), "scale: .*integers"),
        (with_place({"GeoTransform": "1 2 3"}), "GeoTransform: must be 6 numbers"),
        (with_place({}, [0, np.nan, 2, 3], np.arange(3)), "x: must hold finite numbers"),
        (with_place({"grid_mapping_name": "nonsense"}), "grid_mapping: is no CRS"),
        (
            make_cubes().assign_coords(fwhm=("wavelength", np.full(L, 0.01), {"units": "um"})),
            "fwhm: is in 'um', but the wavelengths are in 'nm'",
        ),
    ],
)
def test_refused(tmp_path: Path, cubes: xr.DataArray, text: str) -> None:
    with pytest.raises(FileError, match=f"a.nc: .*{text}"):
        read_sequence(write(tmp_path / "a.nc", cubes))


def test_two_cubes_are_ambiguous(tmp_path: Path) -> None:
    cubes = make_cubes()
    xr.Dataset({"a": cubes, "b": cubes}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(FileError, match="a.nc: variables: .*got 2 of them among: a.*b"):
        read_sequence(tmp_path / "a.nc")


def test_a_calendar_without_real_dates(tmp_path: Path) -> None:
    attrs = {"units": "days since 2000-01-01", "calendar": "360_day"}
    cubes = make_cubes().assign_coords(time=("time", [29, 59], attrs))
    with pytest.raises(FileError, match="a.nc: time: "):
        read_sequence(write(tmp_path / "a.nc", cubes))
    found = read_sequence(
        write(tmp_path / "b.nc", make_cubes()), dates=["2001-01-01", "2002-01-01"]
    )
    assert found.time.dt.year.values.tolist() == [2001, 2002]


def test_hdf5_without_names_of_the_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["reflectance"] = make_array()
    with pytest.raises(FileError, match=r"a.h5: variables: .*reflectance\('phony_dim_0'"):
        read_sequence(tmp_path / "a.h5")


def test_hdf5_with_names_of_the_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["reflectance"] = make_array()
        for axis, dim in enumerate(("time", "y", "x", "wavelength")):
            file[dim] = np.arange(1, make_array().shape[axis] + 1) * (400 if axis == 3 else 1)
            file[dim].make_scale(dim)
            file["reflectance"].dims[axis].attach_scale(file[dim])
        file["wavelength"].attrs["units"] = "nm"
    found = read_sequence(tmp_path / "a.h5")
    np.testing.assert_array_equal(found.values, make_array())
    assert found.wavelength.values.tolist() == [400, 800, 1200, 1600, 2000]


def test_values_in_other_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", make_cubes())
    layout = h5py.VirtualLayout((T, H, W, L), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "a.nc", "reflectance", (T, H, W, L))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("reflectance", layout)
        for axis, dim in enumerate(("time", "y", "x", "wavelength")):
            file[dim] = np.arange(1.0, make_array().shape[axis] + 1)
            file[dim].make_scale(dim)
            file["reflectance"].dims[axis].attach_scale(file[dim])
    with pytest.raises(FileError, match="b.h5: reflectance: keeps its values in other files"):
        read_sequence(tmp_path / "b.h5")


def test_zarr(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    cubes = make_cubes()
    cubes.to_dataset().to_zarr(tmp_path / "a.zarr")
    xr.testing.assert_equal(read_sequence(tmp_path / "a.zarr"), cubes)


def test_zarr_that_declares_more_than_it_can_hold(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    make_cubes().to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2)
    meta = tmp_path / "a.zarr" / "reflectance" / ".zarray"
    meta.write_text(meta.read_text().replace(f" {H},", " 1000000000000,"))
    with pytest.raises(FileError, match="a.zarr: reflectance: declares .* values, but the whole"):
        read_sequence(tmp_path / "a.zarr")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FileError, match="a.zarr: format: is a folder, but no Zarr store"):
        read_sequence(tmp_path / "a.zarr")
    (tmp_path / "b").mkdir()
    with pytest.raises(
        FileError, match="b: format: is a folder, and none of the products .*: pass its"
    ):
        read_sequence(tmp_path / "b")


def test_uneven_dates_without_a_spectrum(data_dir: Path) -> None:
    with pytest.raises(FileError, match=r"uneven_dates.nc: variables: .*LAI\('time'.*no spectral"):
        read_sequence(data_dir / "readers" / "uneven_dates.nc")
