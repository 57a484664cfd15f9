"""Pixels that masks and quality layers leave out, against those that were written into them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from products import GRID, cube, write_emit, write_enmap, write_safe, write_tiff
from rasterio.transform import Affine

import pyro_unmix as pu
from pyro_unmix.io import read_mask, read_sequence, read_uncertainty
from pyro_unmix.io.masks import SCENE_CLASSES

h5py = pytest.importorskip("h5py")

CLOUDS = np.zeros((4, 5), dtype=bool)
CLOUDS[0, 1:3] = CLOUDS[3, 4] = True
EMIT_BANDS = [
    "Cloud flag", "Cirrus flag", "Water flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550", "H2O (g cm-2)",
    "Aggregate Flag",
]  # fmt: skip
NM = [381.0, 550.0, 860.0, 1200.0, 1650.0, 2200.0]


def images(path: Path) -> Path:
    """A GeoTIFF of reflectance, 4 x 5 pixels."""
    return write_tiff(path, (cube() / 1e3).astype("f4"), tags={"time": "2021-06-07"})


def missing(cubes: xr.DataArray) -> np.ndarray:
    return cubes.isnull().all("wavelength").values


def write_emit_mask(path: Path, marked: dict[str, np.ndarray]) -> Path:
    values = np.zeros((4, 5, len(EMIT_BANDS)), dtype="f4")
    values[..., 5:7] = 0.3  # data, no flags
    for name, pixels in marked.items():
        values[..., EMIT_BANDS.index(name)] = pixels
    values[3, 0] = -9999
    with h5py.File(path, "w") as file:
        file["mask"] = values
        file["sensor_band_parameters/mask_bands"] = np.array(EMIT_BANDS, dtype="S")
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_a_geotiff_of_one_band(tmp_path: Path, dtype: str) -> None:
    image = images(tmp_path / "a.tif")
    stored = 3 * CLOUDS.astype(dtype)
    stored[2, 2] = 77
    mask = write_tiff(tmp_path / "m.tif", stored[..., None], nodata=77)
    got = read_mask(mask)
    assert got.dims == ("y", "x") and got.dtype == bool
    np.testing.assert_array_equal(got, CLOUDS)
    masked = read_sequence(image, masks=mask)
    np.testing.assert_array_equal(missing(masked)[0], CLOUDS)
    whole = read_sequence(image)
    xr.testing.assert_identical(masked, whole.where(~got))
    chosen = read_mask(mask, flags=[3, 77])
    expected = CLOUDS.copy()
    expected[2, 2] = True
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(read_mask(mask, flags=np.array([3, 77])), expected)
    np.testing.assert_array_equal(read_mask(mask, flags=[np.uint8(3), 77]), expected)


def test_masks_of_chunks_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("dask")
    image = images(tmp_path / "a.tif")
    np.save(tmp_path / "m.npy", CLOUDS)
    lazy = read_sequence(image, masks=tmp_path / "m.npy", chunks=2)
    assert lazy.chunks is not None
    expected = read_sequence(image, masks=tmp_path / "m.npy")
    np.testing.assert_array_equal(lazy.values, expected.values)
    np.testing.assert_array_equal(missing(expected)[0], CLOUDS)


def test_masks_stay_with_their_dates(tmp_path: Path) -> None:
    values = (cube() / 1e3).astype("f4")
    late = write_tiff(tmp_path / "a.tif", values, tags={"time": "2021-06-07"})
    early = write_tiff(tmp_path / "b.tif", values, tags={"time": "2021-05-07"})
    np.save(tmp_path / "m.npy", CLOUDS)
    cubes = read_sequence([late, early], masks=[tmp_path / "m.npy", None])
    np.testing.assert_array_equal(missing(cubes), np.stack([0 * CLOUDS, CLOUDS]))
    cubes = read_sequence([late, early], masks=tmp_path / "m.npy")
    np.testing.assert_array_equal(missing(cubes), np.stack([CLOUDS, CLOUDS]))
    with pytest.raises(ValueError, match="one for each of 2 files, got 1"):
        read_sequence([late, early], masks=[tmp_path / "m.npy"])


def test_a_numpy_mask_of_all_dates(tmp_path: Path) -> None:
    cubes = pu.as_cube_sequence(np.full((3, 4, 5, 2), 0.3))
    both = np.stack([CLOUDS, ~CLOUDS, CLOUDS])
    np.save(tmp_path / "m.npy", both)
    got = read_mask(tmp_path / "m.npy", cubes)
    assert got.dims == ("time", "y", "x")
    np.testing.assert_array_equal(missing(cubes.where(~got)), both)
    np.save(tmp_path / "m.npy", both[:2])
    with pytest.raises(pu.FileError, match="dates: has 2 dates, the images have 3"):
        read_mask(tmp_path / "m.npy", cubes)


def test_an_envi_mask(tmp_path: Path) -> None:
    pytest.importorskip("spectral")
    envi = pytest.importorskip("spectral.io.envi")
    envi.save_image(str(tmp_path / "m.hdr"), CLOUDS[..., None].astype("u1"), ext=".img")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.hdr"), CLOUDS)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.img"), CLOUDS)


# ------------------------------------------------------------------ products


def test_emit_flags_without_those_of_water(tmp_path: Path) -> None:
    image = write_emit(tmp_path / "EMIT_L2A_RFL_001_20220817.nc", cube() / 1e3, NM)
    water, cirrus = np.zeros_like(CLOUDS), np.zeros_like(CLOUDS)
    water[1] = True
    cirrus[2, 0] = True
    marked = {
        "Dilated Cloud Flag": CLOUDS,
        "Cirrus flag": cirrus,
        "Water flag": water,
        "Aggregate Flag": water,
    }
    with pytest.raises(
        pu.FileError, match=r"none beside it \(expected EMIT_L2A_MASK_001_20220817.nc\)"
    ):
        read_sequence(image, masks="product")
    mask = write_emit_mask(tmp_path / "EMIT_L2A_MASK_001_20220817.nc", marked)
    np.testing.assert_array_equal(
        missing(read_sequence(image, masks="product"))[0], CLOUDS | cirrus
    )
    np.testing.assert_array_equal(read_mask(mask, flags=["water flag"]), water)
    with pytest.raises(
        pu.FileError, match="flags: there is no 'snow': the bands are Cloud flag, Cirrus"
    ):
        read_mask(mask, flags=["snow"])
    with pytest.raises(pu.FileError, match="mask: holds no mask with mask_bands"):
        read_mask(image)


@pytest.mark.parametrize(
    "image, mask",
    [
        ("EMIT_L2A_RFL_001_20220827T060753_2223904_013.nc", "EMIT_L2A_MASK_002_20220827T060753_2223904_013.nc"),
        ("EMIT_L2A_RFL_002_20260919T145435.nc", "EMIT_L2A_MASK_003_20260919T145435.nc"),
    ],
)  # fmt: skip
def test_emit_masks_of_a_later_version(tmp_path: Path, image: str, mask: str) -> None:
    """Their bands are those of the product's user guide, of version 003 fewer; none but flags leave pixels out."""
    names = [
        "Cloud Flag", "Cirrus Flag", "Water Flag", "Dilated Cloud Flag", "SpecTf-Cloud Probability",
        "SpecTf-Cloud Flag", "SpecTf-Buffer Distance",
    ]  # fmt: skip
    values = np.zeros((4, 5, 7), "f4")
    values[..., 2], values[..., 4], values[..., 6] = 1, 0.7, 900
    values[..., 5] = CLOUDS
    path = write_emit(tmp_path / image, cube() / 1e3, NM)
    for name, pixels in ((mask, values), (mask.replace("20220", "20230"), 1 - values)):
        with h5py.File(tmp_path / name, "w") as file:
            file["mask"] = pixels
            file["sensor_band_parameters/mask_bands"] = np.array(names, dtype=h5py.string_dtype())
        if mask.startswith("EMIT_L2A_MASK_003"):
            break
    np.testing.assert_array_equal(missing(read_sequence(path, masks="product"))[0], CLOUDS)


def write_scl(path: Path, values: np.ndarray, resolution: int = 20, west: float = 600000.0) -> Path:
    grid = Affine(resolution, 0.0, west, 0.0, -resolution, 5100000.0)
    driver = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    more = driver if path.suffix == ".jp2" else {}
    return write_tiff(
        path, values[..., None].astype("u1"), crs="EPSG:32632", transform=grid, **more
    )


CLASSES = np.arange(12).reshape(3, 4)


def test_sentinel2_classes(tmp_path: Path) -> None:
    bands = {name: np.full((3, 4), 3000, "u2") for name in ("B2", "B4", "B11")}
    safe = write_safe(tmp_path, bands)
    with pytest.raises(pu.FileError, match="mask of the product: there is none beside it"):
        read_sequence(safe, masks="product")
    folder = next(safe.glob("GRANULE/*/IMG_DATA/R20m"))
    path = write_scl(folder / "T32TPS_20240830T100559_SCL_20m.jp2", CLASSES)
    left_out = np.isin(CLASSES, [0, 1, 3, 8, 9, 10])
    assert SCENE_CLASSES == (0, 1, 3, 8, 9, 10)
    for given in (safe, folder):
        np.testing.assert_array_equal(missing(read_sequence(given, masks="product"))[0], left_out)
    np.testing.assert_array_equal(read_mask(path, flags=[6, 11]), np.isin(CLASSES, [6, 11]))


def test_sentinel2_classes_of_20_m_over_bands_of_10_m(tmp_path: Path) -> None:
    bands = {name: np.full((6, 8), 3000, "u2") for name in ("B2", "B4")}
    safe = write_safe(tmp_path, bands, resolution=10)
    coarse = next(safe.glob("GRANULE/*/IMG_DATA")) / "R20m"
    write_scl(coarse / "T32TPS_20240830T100559_SCL_20m.jp2", CLASSES)
    expected = np.kron(np.isin(CLASSES, SCENE_CLASSES), np.ones((2, 2))) > 0
    np.testing.assert_array_equal(missing(read_sequence(safe, masks="product"))[0], expected)
    fine = coarse.with_name("R10m")
    np.testing.assert_array_equal(missing(read_sequence(fine, masks="product"))[0], expected)


def test_sentinel2_dates_of_one_folder(tmp_path: Path) -> None:
    grid = {"crs": "EPSG:32632", "transform": Affine(20, 0, 600000.0, 0, -20, 5100000.0)}
    values = {"20240830": CLASSES, "20240809": CLASSES[::-1]}
    for stamp, classes in values.items():
        for band in ("B02", "B04"):
            stored = np.full((3, 4, 1), 0.3, "f4")
            write_tiff(tmp_path / f"S2A_T32TPS_{stamp}_{band}.tif", stored, **grid)
        write_scl(tmp_path / f"S2A_T32TPS_{stamp}_SCL.tif", classes)
    got = missing(read_sequence(tmp_path, masks="product"))
    expected = [np.isin(values[stamp], SCENE_CLASSES) for stamp in sorted(values)]
    np.testing.assert_array_equal(got, expected)
    (tmp_path / "S2A_T32TPS_20240809_SCL.tif").unlink()
    with pytest.raises(pu.FileError, match=r"no scene classification \(SCL\) of 2024-08-09"):
        read_sequence(tmp_path, masks="product")


def test_enmap_layers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata = write_enmap(tmp_path, cube(), NM)
    stem = metadata.name.split("-METADATA")[0]
    shadow = np.zeros_like(CLOUDS)
    shadow[2, 3] = True
    layers = {
        "CLOUD": CLOUDS,
        "CLOUDSHADOW": 2 * shadow,
        "SNOW": ~CLOUDS,
        "CLASSES": 1 + 0 * CLOUDS,
    }
    for name, values in layers.items():
        write_tiff(tmp_path / f"{stem}-QL_QUALITY_{name}.TIF", values.astype("u1")[..., None])
    write_tiff(tmp_path / "OTHER-QL_QUALITY_CLOUD.TIF", np.ones((4, 5, 1), "u1"))
    image = tmp_path / f"{stem}-SPECTRAL_IMAGE.TIF"
    for given in (metadata, image):
        np.testing.assert_array_equal(
            missing(read_sequence(given, masks="product"))[0], CLOUDS | shadow
        )
        lacking = "the quality layers QL_QUALITY_CIRRUS, QL_QUALITY_HAZE are not beside it"
        assert f"{given}: {lacking}" in caplog.text
    for name in ("CIRRUS", "HAZE"):
        write_tiff(tmp_path / f"{stem}-QL_QUALITY_{name}.TIF", 0 * CLOUDS[..., None].astype("u1"))
    caplog.clear()
    read_sequence(image, masks="product")
    assert "not beside it" not in caplog.text


def test_enmap_layers_as_cloud_optimised_files(tmp_path: Path) -> None:
    """As EnMAP's archive offers them one by one."""
    stem = write_enmap(tmp_path, cube(), NM).name.split("-METADATA")[0]
    image = tmp_path / f"{stem}-SPECTRAL_IMAGE_COG.tiff"
    (tmp_path / f"{stem}-SPECTRAL_IMAGE.TIF").rename(image)
    write_tiff(tmp_path / f"{stem}-QL_QUALITY_CLOUD_COG.tiff", CLOUDS.astype("u1")[..., None])
    np.testing.assert_array_equal(missing(read_sequence(image, masks="product"))[0], CLOUDS)


# ------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda p: write_tiff(p / "m.tif", np.zeros((3, 5, 1), "u1")), r"grid: has 3 rows and 5 columns, but"),
        (lambda p: write_tiff(p / "m.tif", np.zeros((4, 5, 1), "u1"), transform=GRID @ Affine.translation(1, 0)),
         "m.tif: grid: its transform is"),
        (lambda p: write_tiff(p / "m.tif", np.zeros((4, 5, 1), "u1"), crs="EPSG:32634"), "coordinate reference system"),
        (lambda p: write_tiff(p / "m.tif", np.zeros((4, 5, 2), "u1")), "bands: expected one, or names that end in"),
        (lambda p: np.save(p / "m.npy", np.zeros(4)), r"must hold \(H, W\) or \(T, H, W\)"),
        (lambda p: np.save(p / "m.npy", np.full((4, 5), "a")), r"must hold .* got <U1 \(4, 5\)"),
        (lambda p: (p / "m.npy").write_text("x"), "array: cannot be read as a NumPy array"),
        (lambda p: (p / "m.txt").write_text("x"), "format: is no mask: read masks from GeoTIFF, ENVI"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, make: Any, text: str) -> None:
    image = images(tmp_path / "a.tif")
    make(tmp_path)
    (mask,) = tmp_path.glob("m.*")
    with pytest.raises(pu.FileError, match=text):
        read_sequence(image, masks=mask)
    with pytest.raises(pu.FileError, match=text):
        read_mask(mask, read_sequence(image))


def test_what_is_not_there(tmp_path: Path) -> None:
    image = images(tmp_path / "a.tif")
    with pytest.raises(FileNotFoundError, match="no such mask"):
        read_sequence(image, masks=tmp_path / "none.tif")
    with pytest.raises(pu.FileError, match="there is none beside it"):
        read_sequence(image, masks="product")


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_a_mask_without_a_place_lies_on_any_image(tmp_path: Path) -> None:
    mask = write_tiff(tmp_path / "m.tif", CLOUDS[..., None].astype("u1"), crs=None, transform=None)
    np.testing.assert_array_equal(
        missing(read_sequence(images(tmp_path / "a.tif"), masks=mask))[0], CLOUDS
    )


def test_an_archive_or_a_pipe_in_the_place_of_a_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", CLOUDS)
    (tmp_path / "m.npz").rename(tmp_path / "m.npy")
    with pytest.raises(pu.FileError, match="m.npy: array: cannot be read as a NumPy array"):
        read_mask(tmp_path / "m.npy")
    with (tmp_path / "large.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**4)}
        )
    with pytest.raises(pu.FileError, match="needs 80000000128 bytes with its header, but there"):
        read_mask(tmp_path / "large.npy")
    os.mkfifo(tmp_path / "EMIT_L2A_RFLUNCERT.nc")
    for read in (read_mask, read_uncertainty):
        with pytest.raises(pu.FileError, match="kind: must be a file, got a pipe"):
            read(tmp_path / "EMIT_L2A_RFLUNCERT.nc")
