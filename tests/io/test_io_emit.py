"""EMIT L2A, from files built to the product specification (see products.py)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from broken_products import CASES, assert_refused
from products import cube, write_emit

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.emit import READER
from pyro_unmix.io.integrity.hdf5_heap import check_heaps
from pyro_unmix.io.registry import find_reader

NM = [381.0, 550.0, 860.0, 1380.0, 1650.0, 2200.0]


def _granule(folder: Path, **options) -> Path:
    return write_emit(folder / "EMIT_L2A_RFL_001.nc", cube() / 1e3, NM, **options)


def test_values_and_metadata(tmp_path: Path) -> None:
    values = cube() / 1e3
    values[3, 1] = -9999
    path = write_emit(tmp_path / "a.nc", values, NM, good=[1, 1, 1, 0, 1, 1], compression="gzip")
    assert find_reader(path) is READER
    cubes = read_sequence(path)
    kept = [0, 1, 2, 4, 5]
    expected = values[:, :, kept]
    expected[3, 1] = np.nan
    np.testing.assert_allclose(cubes[0], expected, rtol=1e-6)
    np.testing.assert_allclose(cubes.wavelength, np.array(NM)[kept])
    np.testing.assert_allclose(cubes.fwhm, 8.5)
    assert cubes.time[0] == np.datetime64("2022-08-17T10:05:33")
    assert "spatial_ref" not in cubes.coords
    # The same numbers as xarray reads, in the product's own order of dims.
    with xr.open_dataset(path, engine="h5netcdf") as other:
        there = other["reflectance"].transpose("downtrack", "crosstrack", "bands").values
    np.testing.assert_array_equal(cubes[0], there[:, :, kept])


def test_what_is_not_used_is_told(tmp_path: Path) -> None:
    notes = READER.read(_granule(tmp_path)).notes
    assert "lookup table of the group location is not applied" in notes[0]


def test_micrometres(tmp_path: Path) -> None:
    path = write_emit(tmp_path / "a.nc", cube() / 1e3, np.array(NM) / 1000, units="um")
    cubes = read_sequence(path)
    np.testing.assert_allclose(cubes.wavelength, NM, rtol=1e-6)
    np.testing.assert_allclose(cubes.fwhm, 8.5, rtol=1e-6)


def test_a_missing_unit(tmp_path: Path) -> None:
    path = _granule(tmp_path, units=None)
    with h5py.File(path, "r+") as file:
        file["sensor_band_parameters/fwhm"][:] = 8.5
    with pytest.raises(FileError, match="wavelength units: are not given in the file: pass wave"):
        read_sequence(path)
    np.testing.assert_allclose(read_sequence(path, wavelength_unit="nm").wavelength, NM)


def test_no_date_and_no_list_of_good_bands(tmp_path: Path) -> None:
    path = _granule(tmp_path, start=None)
    with h5py.File(path, "r+") as file:
        del file["sensor_band_parameters/good_wavelengths"]
    image = READER.read(path)
    assert image.dates is None
    assert image.good is None
    assert "no time_coverage_start" in image.notes


def test_a_chunk_that_was_never_written(tmp_path: Path) -> None:
    path = _granule(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["reflectance"]
        del file["location/lat"]
        file.create_dataset("reflectance", (4000, 5000, 6), "f4", chunks=(100, 100, 6))
        file["reflectance"][:100, :100] = 0.3
    with pytest.raises(FileError, match="reflectance: .* has 2000 chunks, but 1 are in the file"):
        READER.read(path)


def test_other_files_are_not_emit(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    assert not READER.sniff(tmp_path / "a.nc")
    assert not READER.sniff(tmp_path)
    assert not READER.sniff(tmp_path / "none.nc")
    with h5py.File(tmp_path / "b.nc", "w") as file:
        file["reflectance"] = cube()
    assert not READER.sniff(tmp_path / "b.nc")


def _transpose(file: h5py.File) -> None:
    stored = file["reflectance"][:].transpose(2, 0, 1)
    del file["reflectance"]
    file["reflectance"] = stored
    for axis, name in enumerate(("bands", "downtrack", "crosstrack")):
        file["reflectance"].dims[axis].attach_scale(file[name])


def _turn(file: h5py.File) -> None:
    stored = file["reflectance"][:].transpose(1, 0, 2)
    del file["reflectance"]
    file["reflectance"] = stored


def _flatten(file: h5py.File) -> None:
    del file["reflectance"]
    file["reflectance"] = np.zeros((4, 5))


def _shorten(file: h5py.File) -> None:
    del file["sensor_band_parameters/wavelengths"]
    file["sensor_band_parameters/wavelengths"] = np.array(NM[:4])
    file["sensor_band_parameters/wavelengths"].attrs["units"] = "nm"


def _nan(file: h5py.File) -> None:
    file["sensor_band_parameters/wavelengths"][1] = np.nan


def _text(file: h5py.File) -> None:
    file.attrs["time_coverage_start"] = "a summer day"


def _fwhm(file: h5py.File) -> None:
    file["sensor_band_parameters/fwhm"].attrs["units"] = "um"


def _virtual(file: h5py.File) -> None:
    del file["reflectance"]
    layout = h5py.VirtualLayout(shape=(4, 5, 6), dtype="f4")
    layout[:] = h5py.VirtualSource("other.nc", "reflectance", shape=(4, 5, 6))
    file.create_virtual_dataset("reflectance", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_transpose, "reflectance: must have the dims .* and 6 bands, got the shape \\(6, 4, 5\\)"),
        (_turn, "reflectance: has \\(5, 4\\) pixels, but location/lat \\(4, 5\\)"),
        (_flatten, "reflectance: must have the dims .* got the shape \\(4, 5\\)"),
        (_shorten, "reflectance: must have the dims .* and 4 bands, got the shape \\(4, 5, 6\\)"),
        (_nan, "wavelength: must be finite, got nan at band 1"),
        (_text, "time_coverage_start: expected a date such as .* got 'a summer day'"),
        (_fwhm, "sensor_band_parameters/fwhm: has the units 'um', the centres 'nm'"),
        (_virtual, "reflectance: keeps its values in other files"),
    ],
)
def test_broken_granules(tmp_path: Path, change, message: str) -> None:
    path = _granule(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FileError, match=message):
        read_sequence(path)


def test_truncated_granules(tmp_path: Path) -> None:
    whole = _granule(tmp_path).read_bytes()
    path = tmp_path / "cut.nc"
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="cut.nc: content: cannot be read as a NetCDF-4 file"):
            READER.read(path)


def test_a_heap_in_which_hdf5_would_hang(tmp_path: Path) -> None:
    path = _granule(tmp_path)
    check_heaps(path)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    # The first object becomes free space of no size.
    raw[heap + 16 : heap + 18] = bytes(2)
    raw[heap + 24 : heap + 32] = bytes(8)
    path.write_bytes(raw)
    with pytest.raises(FileError, match=f"global heap: the heap of texts at byte {heap} is broken"):
        READER.read(path)


@pytest.mark.parametrize("case", CASES["emit"])
def test_the_corpus_of_broken_files(tmp_path: Path, case: str) -> None:
    assert_refused(CASES["emit"][case](tmp_path))
