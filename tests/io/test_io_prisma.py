"""PRISMA L2D, from files built to the product specification (see products.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rioxarray  # noqa: F401
from products import cube, write_prisma

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.prisma import READER
from pyro_unmix.io.registry import find_reader

# In the order of the file, from long to short waves; 0 marks bands that are not used.
VNIR = [0.0, 970.0, 700.0, 410.0]
SWIR = [2490.0, 1600.0, 950.0, 0.0, 0.0]
FIELDS = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"


def _stored() -> tuple[np.ndarray, np.ndarray]:
    vnir, swir = cube(6, 5, 4, "uint16") * 100, cube(6, 5, 5, "uint16") * 90 + 7
    vnir[..., VNIR.index(0.0)] = 0
    swir[..., 3:] = 0
    return vnir, swir


def _product(folder: Path, **options) -> Path:
    vnir, swir = _stored()
    wavelengths = {"vnir_wavelength": VNIR, "swir_wavelength": SWIR}
    return write_prisma(folder / "PRS_L2D_STD_1.he5", vnir, swir, **wavelengths, **options)


def test_values_and_metadata(tmp_path: Path) -> None:
    path = _product(tmp_path, vnir_range=(0.01, 0.9), swir_range=(0.0, 0.7), compression="gzip")
    assert find_reader(path) is READER
    cubes = read_sequence(path)
    np.testing.assert_allclose(cubes.wavelength, [410, 700, 970, 950, 1600, 2490])
    np.testing.assert_allclose(cubes.fwhm, 11.5)
    vnir, swir = _stored()
    # By hand, band by band: reflectance = min + stored (max - min) / 65535.
    low, high = np.float32(0.01), np.float32(0.9)
    for position, band in enumerate((3, 2, 1)):
        expected = low + vnir[..., band] * ((high - low) / 65535)
        np.testing.assert_allclose(cubes[0, ..., position], expected, rtol=1e-5)
    for position, band in enumerate((2, 1, 0), start=3):
        expected = swir[..., band] * (np.float32(0.7) / 65535)
        np.testing.assert_allclose(cubes[0, ..., position], expected, rtol=1e-5)
    assert list(cubes.band.values) == "VNIR 4,VNIR 3,VNIR 2,SWIR 3,SWIR 2,SWIR 1".split(",")
    assert cubes.time[0] == np.datetime64("2020-04-11T10:11:12.345678")


def test_dates_whose_bands_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """List_Cw_* are of each product: by some tenths of a nm they are not the same."""
    vnir, swir = _stored()
    paths = []
    for day, shift in ((1, 0.0), (2, 0.3), (3, 1.2)):
        centres = [np.where(np.array(cw) > 0, np.add(cw, shift), 0.0) for cw in (VNIR, SWIR)]
        lists = {"vnir_wavelength": centres[0], "swir_wavelength": centres[1]}
        start = f"2020-04-0{day}T10:11:12"
        path = tmp_path / f"PRS_L2D_STD_{day}.he5"
        paths.append(write_prisma(path, vnir, swir, start=start, **lists))
    cubes = read_sequence(paths[:2])
    np.testing.assert_allclose(cubes.wavelength, [410, 700, 970, 950, 1600, 2490])
    assert "bands are up to 0.3 nm off those of" in caplog.text
    with pytest.raises(FileError, match="wavelength: band 0 is at 411.2 nm, but at 410 nm in"):
        read_sequence(paths)  # the width is 11.5 nm


@pytest.mark.parametrize("settings", [{}, {"chunks": {}}])
def test_dates_that_use_other_bands(
    tmp_path: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A band is an element of a detector: the common ones are read, by their names."""
    if settings:
        pytest.importorskip("dask")
    vnir, swir = _stored()
    paths = []
    for day, unused in ((1, 2), (2, 3)):
        lists = {"vnir_wavelength": list(VNIR), "swir_wavelength": SWIR}
        lists["vnir_wavelength"][unused] = 0.0
        path = tmp_path / f"PRS_L2D_STD_{day}.he5"
        paths.append(write_prisma(path, vnir, swir, start=f"2020-04-0{day}T10:11:12", **lists))
    cubes = read_sequence(paths, **settings)
    np.testing.assert_allclose(cubes.wavelength, [970, 950, 1600, 2490])
    assert list(cubes.band.values) == ["VNIR 2", "SWIR 3", "SWIR 2", "SWIR 1"]
    for date in cubes:
        np.testing.assert_allclose(date[..., 0], vnir[..., 1] * (0.9 / 65535), rtol=1e-5)
        np.testing.assert_allclose(date[..., 1], swir[..., 2] * (0.7 / 65535), rtol=1e-5)
    left_out = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert [text.partition(":")[0] for text in left_out] == [str(path) for path in paths]
    assert "left out 1 of 5 bands, which another date does not use: VNIR 4; pos" in left_out[0]
    assert "does not use: VNIR 3;" in left_out[1]
    caplog.clear()
    read_sequence(paths[:1], **settings)
    assert "left out" not in caplog.text


def test_dates_without_a_common_band(tmp_path: Path) -> None:
    vnir, swir = _stored()
    paths = []
    for day, unused in ((1, 0), (2, 1)):
        lists = {"vnir_wavelength": [900.0, 800.0], "swir_wavelength": [2000.0, 1000.0]}
        for centres in lists.values():
            centres[unused] = 0.0
        path = tmp_path / f"PRS_L2D_STD_{day}.he5"
        start = f"2020-04-0{day}T10:11:12"
        paths.append(write_prisma(path, vnir[..., 1:3], swir[..., :2], start=start, **lists))
    with pytest.raises(FileError, match=r"2.he5: bands: none is also used in .*1.he5: drop one"):
        read_sequence(paths)


def test_the_corners_are_pixel_centres(tmp_path: Path) -> None:
    cubes = read_sequence(_product(tmp_path, corner=(366000.0, 5806110.0)))
    assert float(cubes.x[0]) == 366000.0
    assert float(cubes.y[0]) == 5806110.0
    assert float(cubes.y[1]) == 5806080.0
    assert cubes.rio.crs.to_epsg() == 32633


def test_corners_that_are_pixel_edges_or_neither(tmp_path: Path) -> None:
    path = _product(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["Product_LRcorner_easting"] = 366000.0 + 30 * 5
        file.attrs["Product_LRcorner_northing"] = 5806110.0 - 30 * 6
    assert READER.read(path).transform == (30, 0, 366000.0, 0, -30, 5806110.0)
    with h5py.File(path, "r+") as file:
        file.attrs["Product_LRcorner_easting"] = 366000.0 + 31 * 7
    image = READER.read(path)
    assert image.transform is None
    assert image.crs is None
    assert "which does not fit 5 x 6 pixels of 30 m: taken without" in image.notes[-1]


def test_pixels_outside_the_scene_are_missing_but_single_zeros_are_not(tmp_path: Path) -> None:
    vnir, swir = _stored()
    vnir[0, 0], swir[0, 0] = 0, 0
    swir[1, 1] = 0
    wavelengths = {"vnir_wavelength": VNIR, "swir_wavelength": SWIR}
    # With this range, a stored 0 is no reflectance of 0.
    path = write_prisma(tmp_path / "a.he5", vnir, swir, vnir_range=(0.01, 0.9), **wavelengths)
    cubes = read_sequence(path)
    assert np.isnan(cubes[0, 0, 0]).all()
    assert int(np.isnan(cubes).sum()) == 6
    np.testing.assert_array_equal(cubes[0, 1, 1, 3:], 0)


def test_a_flag_switches_a_band_off(tmp_path: Path) -> None:
    path = _product(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["List_Cw_Vnir_Flags"] = np.array([0, 1, 0, 1], dtype="u1")
    np.testing.assert_allclose(read_sequence(path).wavelength, [410, 970, 950, 1600, 2490])


def test_other_levels_are_refused(tmp_path: Path) -> None:
    path = _product(tmp_path, level="1")
    assert find_reader(path) is READER
    with pytest.raises(FileError, match="expected PRS_L2D_HCO .*, got PRS_L1_HCO: order L2D"):
        read_sequence(path)
    with h5py.File(tmp_path / "b.he5", "w") as file:
        file["x"] = 1
    assert not READER.sniff(tmp_path / "b.he5")
    assert not READER.sniff(tmp_path)


def _without(name: str):
    def change(file: h5py.File) -> None:
        del file.attrs[name]

    return change


def _with(name: str, value):
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def _no_swir(file: h5py.File) -> None:
    del file[FIELDS]["SWIR_Cube"]


def _float_cube(file: h5py.File) -> None:
    del file[FIELDS]["SWIR_Cube"]
    file[FIELDS]["SWIR_Cube"] = np.zeros((6, 5, 5))


def _other_size(file: h5py.File) -> None:
    del file[FIELDS]["SWIR_Cube"]
    file[FIELDS]["SWIR_Cube"] = np.ones((7, 5, 5), dtype="u2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("L2ScaleVnirMax"), "L2ScaleVnirMax: is missing"),
        (_without("List_Cw_Swir"), "List_Cw_Swir: is missing"),
        (_without("Product_StartTime"), "Product_StartTime: is missing"),
        (_with("Product_StartTime", "noon"), "Product_StartTime: expected a date"),
        (_with("List_Cw_Vnir", [1.0, 2.0]), "List_Cw_Vnir: must be 4 finite numbers, got 2"),
        (_with("List_Cw_Vnir", [np.nan] * 4), "List_Cw_Vnir: must be 4 finite numbers"),
        (_with("List_Cw_Vnir", [0.0] * 4), "List_Cw_Vnir: marks no band as used"),
        (_with("List_Cw_Vnir", [0, 0.97, 0.7, 0.41]), "wavelength: the unit 'nm' contradicts"),
        (_with("L2ScaleSwirMax", 0.0), "L2ScaleSwirMax: must be larger than L2ScaleSwirMin"),
        (_with("L2ScaleSwirMax", "high"), "L2ScaleSwirMax: must be numbers, got 'high'"),
        (_with("Epsg_Code", 7), "Epsg_Code: is unknown: 7"),
        (_no_swir, "SWIR_Cube: is no dataset of the file"),
        (_float_cube, "SWIR_Cube: must be uint16 .* got float64"),
        (_other_size, "VNIR_Cube has \\(6, 5\\) pixels, SWIR_Cube \\(7, 5\\)"),
    ],
)
def test_broken_products(tmp_path: Path, change, message: str) -> None:
    path = _product(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FileError, match=message):
        read_sequence(path)


def test_truncated_products(tmp_path: Path) -> None:
    whole = _product(tmp_path).read_bytes()
    path = tmp_path / "cut.he5"
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="cut.he5: content: cannot be read as an HDF5 file"):
            READER.read(path)
