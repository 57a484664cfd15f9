"""Packed and missing values of NetCDF and HDF5 files; what is expected is unpacked by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.netcdf_packing import Missing
from pyro_unmix.io.integrity.hdf5 import check_stored, unwritten
from pyro_unmix.io.registry import read_image

T, H, W, L = 2, 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
ENGINES = ["h5netcdf", "scipy"]


def make_array() -> np.ndarray:
    return np.random.default_rng(0).random((T, H, W, L))


def write_raw(
    path: Path, stored: np.ndarray, attrs: dict[str, object], engine: str = "h5netcdf"
) -> Path:
    """`stored` (L,) as the bands of one pixel, with the attributes as they are given."""
    variable = xr.Variable(("wavelength", "y", "x"), stored.reshape(-1, 1, 1), attrs)
    xr.Dataset({"a": variable}).to_netcdf(path, engine=engine)  # type: ignore[call-overload]
    return path


NAN = np.nan
PACKED = {"scale_factor": 1e-3, "add_offset": -0.1}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        # Stored: 1000, -7, 0, 1500, 300; unpacked: 0.9, -0.107, -0.1, 1.4, 0.2.
        ({}, [0.9, -0.107, -0.1, 1.4, 0.2]),
        ({"missing_value": np.array([300, 0], "i2")}, [0.9, -0.107, NAN, 1.4, NAN]),
        (
            {"_FillValue": np.int16(-7), "missing_value": np.array([300, 0], "i2")},
            [0.9, NAN, NAN, 1.4, NAN],
        ),
        ({"_FillValue": np.int16(-7), "missing_value": np.int16(-7)}, [0.9, NAN, -0.1, 1.4, 0.2]),
        ({"valid_range": np.array([0, 1000], "i2")}, [0.9, NAN, -0.1, NAN, 0.2]),
        ({"valid_min": np.int16(1)}, [0.9, NAN, NAN, 1.4, 0.2]),
        ({"valid_max": np.int16(999)}, [NAN, -0.107, -0.1, NAN, 0.2]),
        (
            {"valid_max": np.int16(1400), "_FillValue": np.int16(-7)},
            [0.9, NAN, -0.1, NAN, 0.2],
        ),
        # The whole of the type is valid, but for one number.
        ({"valid_min": np.int16(-32767)}, [0.9, -0.107, -0.1, 1.4, 0.2]),
        # Floating point for packed integers: unpacked (NetCDF User Guide, appendix A).
        ({"valid_range": np.array([-0.1, 0.9])}, [0.9, NAN, -0.1, NAN, 0.2]),
        ({"valid_max": np.float32(0.9)}, [0.9, -0.107, -0.1, NAN, 0.2]),
    ],
)
def test_missing_values_of_packed_integers(
    tmp_path: Path, attrs: dict[str, object], expected: list[float], engine: str
) -> None:
    stored = np.array([1000, -7, 0, 1500, 300], "i2")
    cubes = read_sequence(write_raw(tmp_path / "a.nc", stored, PACKED | attrs, engine), bands=None)
    # Bands without a value are dropped.
    np.testing.assert_allclose(cubes.values.ravel(), [v for v in expected if v == v], rtol=1e-6)
    image = read_image(tmp_path / "a.nc")
    found = np.where(image.values == image.nodata, NAN, image.values * 1e-3 - 0.1).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"valid_range": np.array([0, 1], "f4")}, [NAN, 0.5, NAN, NAN, 0.1]),
        ({"missing_value": np.array([-9999, 7], "f4")}, [-0.125, 0.5, NAN, NAN, 0.1]),
        (
            {"_FillValue": np.float32(7), "valid_min": np.float32(0)},
            [NAN, 0.5, NAN, NAN, 0.1],
        ),
        # 0.1 is no float32, but the file holds the nearest one; 1e39 would be infinite.
        ({"missing_value": np.array([0.1, 1e39])}, [-0.125, 0.5, 7, -9999, NAN]),
        ({"valid_min": 0.1}, [NAN, 0.5, 7, NAN, 0.1]),
    ],
)
def test_missing_values_of_floats(
    tmp_path: Path, attrs: dict[str, object], expected: list[float]
) -> None:
    stored = np.array([-0.125, 0.5, 7, -9999, 0.1], "f4")
    image = read_image(write_raw(tmp_path / "a.nc", stored, attrs))
    values = image.values.ravel().copy()
    if image.nodata is not None:
        values[values == np.float32(image.nodata)] = NAN
    np.testing.assert_array_equal(values, np.array(expected, "f4"))


def test_limits_of_unsigned_integers_are_signed_as_they_are(tmp_path: Path) -> None:
    attrs = {"_Unsigned": "true", "scale_factor": 4e-3, "valid_range": np.array([0, -56], "i1")}
    stored = np.array([100, -1, -56], "i1")  # 100, 255, 200
    image = read_image(write_raw(tmp_path / "a.nc", stored, attrs, "scipy"))
    assert image.values.ravel()[[0, 2]].tolist() == [100, 200]
    assert image.values.ravel()[1] == image.nodata


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"valid_range": np.array([0, 1, 2], "i2")}, "a:valid_range: must hold 2 numbers"),
        ({"valid_min": np.array([0, 1], "i2")}, "a:valid_min: must hold 1 number,"),
        ({"valid_max": "many"}, "a:valid_max: must be a number, got 'many'"),
        ({"valid_range": np.array([5, 1], "i2")}, "a:valid_range: no number is in 5 to 1"),
        (
            {"valid_range": np.array([0, 9], "i2"), "valid_min": np.int16(1)},
            "a:valid_range: is given together with valid_min",
        ),
        ({"valid_max": np.nan}, "a:valid_max: must hold 1 number"),
        (
            {"valid_range": np.array([0.0, 1.0]), "scale_factor": -1e-3},
            "scale_factor must be one positive number",
        ),
    ],
)
def test_limits_that_say_nothing(tmp_path: Path, attrs: dict[str, object], text: str) -> None:
    path = write_raw(tmp_path / "a.nc", np.array([1000, 300], "i2"), PACKED | attrs)
    with pytest.raises(FileError, match=f"a.nc: {text}|a.nc: a:valid_range: .*{text}"):
        read_sequence(path)


def test_packed_coordinates(tmp_path: Path) -> None:
    """As a program stores them that packs everything."""
    centres = xr.Variable(
        "wavelength",
        np.array([0, 100, 200, 400, 1150], "i2"),
        {"scale_factor": 1.0, "add_offset": 450.0, "units": "nm", "_FillValue": np.int16(-1)},
    )
    fwhm = xr.Variable(
        "wavelength", np.array([80, 81, 82, 83, 84], "u1"), {"scale_factor": 0.1, "units": "nm"}
    )
    x = xr.Variable("x", np.arange(W, dtype="i4"), {"scale_factor": 30.0, "add_offset": 500_015.0})
    y = xr.Variable("y", np.array([10, 8, 6], "i2"), {"scale_factor": 15.0})
    since = {"units": "days since 2020-01-01", "scale_factor": 0.5, "add_offset": 10.0}
    time = xr.Variable("time", np.array([0, 80], "i2"), since)
    cube = xr.Variable(("time", "y", "x", "wavelength"), make_array())
    coords = {"wavelength": centres, "fwhm": fwhm, "x": x, "y": y, "time": time}
    xr.Dataset({"a": cube}, coords=coords).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = read_sequence(tmp_path / "a.nc")
    assert found.wavelength.values.tolist() == WAVELENGTH
    np.testing.assert_allclose(found.fwhm, [8.0, 8.1, 8.2, 8.3, 8.4], rtol=1e-15)
    assert found.x.values.tolist() == [500_015, 500_045, 500_075, 500_105]
    assert found.y.values.tolist() == [150, 120, 90]
    assert read_image(tmp_path / "a.nc").transform == (30, 0, 500_000, 0, -30, 165)
    # Half days: 10 and 50 days after the first of January.
    assert found.time.values.astype("M8[D]").astype(str).tolist() == ["2020-01-11", "2020-02-20"]


def test_a_missing_coordinate_is_refused(tmp_path: Path) -> None:
    attrs = {"units": "nm", "_FillValue": np.int16(-1), "valid_max": np.int16(3000)}
    for bad in (-1, 3001):
        stored = np.array([450, 550, bad, 850, 1600], "i2")
        cube = xr.Variable(("y", "x", "wavelength"), make_array()[0])
        coords = {"wavelength": ("wavelength", stored, attrs)}
        xr.Dataset({"a": cube}, coords=coords).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with pytest.raises(FileError, match="a.nc: wavelength: must be finite, got nan at band 2"):
            read_sequence(tmp_path / "a.nc")


@pytest.mark.parametrize("fill", [None, -9999])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_chunks_that_nobody_wrote_are_missing(tmp_path: Path, dtype: str, fill: int | None) -> None:
    """HDF5 gives 0, or its fill value, where no chunk was written."""
    stored = np.random.default_rng(0).integers(1, 9, (4, 6, 3)).astype(dtype)
    # Of a chunk that was begun, the rest holds the fill value.
    end = 6 if fill is None else 5
    with h5py.File(tmp_path / "a.h5", "w") as file:
        cube = file.create_dataset("a", (4, 6, 3), dtype, chunks=(4, 4, 2), fillvalue=fill)
        cube[:, :4] = stored[:, :4]
        cube[:, 4:end, :2] = stored[:, 4:end, :2]
        cube.attrs["scale_factor"] = 0.1
        for axis, dim in enumerate(("y", "x", "wavelength")):
            file[dim] = np.arange(cube.shape[axis]) * 100 + 400
            file[dim].make_scale(dim)
            cube.dims[axis].attach_scale(file[dim])
        file["wavelength"].attrs["units"] = "nm"
    found = read_sequence(tmp_path / "a.h5").values[0]
    expected = stored * np.float32(0.1)
    expected[:, 4:] = np.nan
    expected[:, 4:end, :2] = stored[:, 4:end, :2] * 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_chunk_does_not_vouch_for_a_huge_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, size in (("sparse", 100), ("huge", 10**5)):
            cube = file.create_dataset(name, (size,) * 3, "f4", chunks=(50, 50, 50))
            cube[:50, :50, :50] = 0.1
    with h5py.File(path) as file:
        check_stored(path, file["sparse"], some_chunks=True)
        assert len(unwritten(file["sparse"])) == 7
        for settings in ({"some_chunks": False}, {"some_chunks": True}):
            with pytest.raises(FileError, match="huge: .* but 1 are in the file: it is incomplete"):
                check_stored(path, file["huge"], **settings)


@pytest.mark.parametrize(
    ("low", "high", "mark"),
    [(-32767, None, -32768), (-32768, None, None), (None, 32766, 32767), (None, 32767, None)],
)
def test_a_mark_is_no_number_within_the_valid_range(
    low: int | None, high: int | None, mark: int | None
) -> None:
    assert Missing([], low, high, (), np.dtype("i2")).mark() == mark
