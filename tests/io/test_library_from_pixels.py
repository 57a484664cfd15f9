"""Libraries from masks and polygons, against pixels that are counted by hand."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from polygon_cases import BOXES, HEIGHT, NM, WIDTH, box, cubes, write

import pyro_unmix as pu
from pyro_unmix.io import FileError, library_from_pixels, read_library, write_library


def mask(rows: slice, columns: slice) -> np.ndarray:
    made = np.zeros((HEIGHT, WIDTH), dtype=bool)
    made[rows, columns] = True
    return made


SOIL, LEAF = mask(slice(0, 2), slice(0, 3)), mask(slice(4, 6), slice(5, 8))


def test_spectra_are_those_of_the_pixels() -> None:
    images = cubes()
    before = images.copy(deep=True)
    got = library_from_pixels(images, {"soil": SOIL, "leaf": LEAF})
    xr.testing.assert_identical(images, before)
    expected = [images.values[0, r, c] for r in (0, 1) for c in (0, 1, 2)]
    expected += [images.values[0, r, c] for r in (4, 5) for c in (5, 6, 7)]
    np.testing.assert_array_equal(got.values, np.array(expected).T)
    assert got["label"].values.tolist() == ["soil"] * 6 + ["leaf"] * 6
    assert got["endmember"].values[[0, 5, 6]].tolist() == ["soil 1", "soil 6", "leaf 1"]
    assert got["source"].values[[0, 11]].tolist() == ["row 0 column 0", "row 5 column 7"]
    np.testing.assert_array_equal(got["wavelength"], NM)
    np.testing.assert_array_equal(got["fwhm"], images["fwhm"])
    result = pu.methods.fcls(images, endmembers=got, progress=False)
    assert result.abundances["endmember"].values.tolist() == ["soil", "leaf"]


def test_it_is_written_and_read_back(tmp_path: Path) -> None:
    pytest.importorskip("spectral")
    got = library_from_pixels(cubes(), {"soil": SOIL, "leaf": LEAF})
    xr.testing.assert_equal(read_library(write_library(got, tmp_path / "a.sli")[0]), got)


def test_missing_and_shared_pixels_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    images = cubes().copy(deep=True)
    images[0, 0, 0, 2] = np.nan
    both = SOIL & mask(slice(0, 6), slice(2, 3))
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        got = library_from_pixels(images, {"soil": SOIL, "leaf": LEAF | both})
    assert (got["label"].values == "soil").sum() == 3 and (got["label"].values == "leaf").sum() == 6
    assert "2 pixels are in several of the classes soil, leaf" in caplog.text
    assert "soil: left out 1 of 4 pixels, which are missing" in caplog.text


def test_dates_are_chosen_and_named() -> None:
    dates = np.array(["2021-04-05", "2021-06-07"], dtype="datetime64[ns]")
    images = cubes(2).assign_coords(time=dates)
    got = library_from_pixels(images, {"soil": SOIL, "leaf": LEAF}, time=-1)
    np.testing.assert_array_equal(got.values[:, 0], images.values[1, 0, 0])
    assert got["source"].values[0] == "row 0 column 0 2021-06-07"
    all_dates = {"soil": np.stack([SOIL, LEAF]), "leaf": np.stack([LEAF, SOIL])}
    got = library_from_pixels(images, all_dates)
    assert got.sizes["endmember"] == 24
    turned = {k: xr.DataArray(v, dims=("time", "y", "x")).T for k, v in all_dates.items()}
    xr.testing.assert_identical(library_from_pixels(images, turned), got)


def test_some_are_drawn_by_the_seed() -> None:
    whole = library_from_pixels(cubes(), {"soil": SOIL, "leaf": LEAF})
    draws = [
        library_from_pixels(cubes(), {"soil": SOIL, "leaf": LEAF}, max_spectra=4, seed=seed)
        for seed in (0, 0, 1)
    ]
    xr.testing.assert_identical(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    for draw in draws:
        assert draw["label"].values.tolist() == ["soil"] * 4 + ["leaf"] * 4
        assert len(set(draw["source"].values)) == 8 and set(draw["source"].values) < set(
            whole["source"].values
        )


def test_of_chunks_only_the_pixels_are_read() -> None:
    dask = pytest.importorskip("dask.array")
    images = cubes()

    def block(block_info: Any = None) -> np.ndarray:
        row = block_info[None]["array-location"][1][0]
        assert row in (0, 1, 4, 5), row
        return images.values[:, row : row + 1]

    chunks = ((1,), (1,) * HEIGHT, (WIDTH,), (4,))
    lazy = images.copy(data=dask.map_blocks(block, chunks=chunks, dtype=float, meta=np.zeros(0)))
    classes = {"soil": SOIL, "leaf": LEAF}
    got = library_from_pixels(lazy, classes)
    xr.testing.assert_identical(got, library_from_pixels(images, classes))


@pytest.mark.parametrize(
    "classes, settings, error, text",
    [
        ({}, {}, ValueError, "a mask for each class, got none"),
        ({"soil": SOIL.astype(int)}, {}, TypeError, "mask of 'soil' must hold True and False, got int64"),
        ({"soil": SOIL[:3]}, {}, ValueError, r"must be \(6, 8\) or \(1, 6, 8\).*got \(3, 8\)"),
        ({"soil": SOIL & LEAF}, {}, ValueError, "class 'soil' has no pixel: leave it out"),
        ({" ": SOIL}, {}, ValueError, "texts that are not empty, got ' '"),
        ({"soil": SOIL}, {"field": "class"}, TypeError, "field= is of polygons, but masks are given: leave it out"),
        ({"soil": SOIL}, {"all_touched": True}, TypeError, "all_touched= is of polygons, but masks are given"),
        ({"soil": SOIL}, {"time": 3}, ValueError, "position of a date, 0 to 0, or negative from the last, got 3"),
        ({"soil": SOIL}, {"time": -2}, ValueError, "or negative from the last, got -2"),
        ({"soil": SOIL}, {"time": False}, ValueError, "position of a date, .* got False"),
        ({"soil": SOIL}, {"time": 0.0}, ValueError, "position of a date, .* got 0.0"),
        ({"soil": SOIL[None]}, {"time": 0}, ValueError, "leave out time="),
        ({"soil": SOIL}, {"max_spectra": 0}, ValueError, "max_spectra must be at least 1"),
    ],
)  # fmt: skip
def test_bad_masks_are_refused(classes: Any, settings: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        library_from_pixels(cubes(), classes, **settings)


def test_several_dates_need_one() -> None:
    with pytest.raises(ValueError, match="are of 2 dates: pass time= the position"):
        library_from_pixels(cubes(2), {"soil": SOIL})


def test_a_class_of_missing_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="'soil' has 6 pixels, all of them missing"):
        library_from_pixels(cubes().where(~SOIL[None, :, :, None]), {"soil": SOIL})


# Polygons


@pytest.mark.parametrize("suffix", [".geojson", ".shp", ".gpkg"])
@pytest.mark.parametrize("epsg", [32633, 4326, 3857])
@pytest.mark.filterwarnings("ignore:.*crs.*:UserWarning")
def test_polygons_in_any_crs_are_the_masks(tmp_path: Path, suffix: str, epsg: int) -> None:
    path = write(tmp_path / f"a{suffix}", epsg)
    # rows from 4.1 take the centre at 4.5; columns from 5.2 that at 5.5; beyond the image is nothing
    expected = library_from_pixels(cubes(), {"soil": SOIL, "leaf": LEAF})
    xr.testing.assert_identical(library_from_pixels(cubes(), path), expected)
    xr.testing.assert_identical(library_from_pixels(cubes(), str(path), field="CLASS"), expected)
    numbered = library_from_pixels(cubes(), path, field="number")
    assert set(numbered["label"].values) == {"0", "1"}


def test_geojson_without_a_crs_is_in_degrees(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    pytest.importorskip("pyogrio")
    ring = {"type": "Polygon", "coordinates": [box((0, 2), (0, 3))]}
    degrees = warp.transform_geom("EPSG:32633", "EPSG:4326", ring)
    feature = {"type": "Feature", "properties": {"class": "soil"}, "geometry": degrees}
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n" + json.dumps({"type": "FeatureCollection", "features": [feature]}))
    got = library_from_pixels(cubes(), path)
    np.testing.assert_array_equal(got, library_from_pixels(cubes(), {"soil": SOIL}))


def test_small_polygons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = ("leaf", (4.1, 4.3), (5.1, 5.2))
    path = write(tmp_path / "a.gpkg", boxes=[BOXES[0], small, BOXES[1]])
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        assert library_from_pixels(cubes(), path).sizes["endmember"] == 12
    assert "1 of 3 polygons hold no pixel centre" in caplog.text
    path = write(tmp_path / "b.gpkg", boxes=[small])
    with pytest.raises(pu.FileError, match="none holds a pixel centre.*all_touched=True"):
        library_from_pixels(cubes(), path)
    assert library_from_pixels(cubes(), path, all_touched=True).sizes["endmember"] == 1


@pytest.mark.filterwarnings("ignore:.*crs.*:UserWarning")
def test_what_polygons_lack_is_said(tmp_path: Path) -> None:
    far = write(tmp_path / "far.gpkg", boxes=[("soil", (900, 905), (0, 3))])
    with pytest.raises(
        pu.FileError,
        match=r"they span x 600000 to 600090, y 5772850 to 5773000, the image x 600000 to 600240, y 5799820 to 5800000",
    ):
        library_from_pixels(cubes(), far)
    plain = write(tmp_path / "plain.shp", None)
    with pytest.raises(pu.FileError, match=r"plain.shp: CRS: is unknown.*\.prj.*crs='EPSG:"):
        library_from_pixels(cubes(), plain)
    assert library_from_pixels(cubes(), plain, crs="EPSG:32633").sizes["endmember"] == 12
    good = write(tmp_path / "good.gpkg")
    with pytest.raises(pu.FileError, match="CRS: the file says .*, but crs='EPSG:4326' was passed"):
        library_from_pixels(cubes(), good, crs="EPSG:4326")
    with pytest.raises(pu.FileError, match="CRS: is not known to PROJ: 'EPSG:999999'"):
        library_from_pixels(cubes(), plain, crs="EPSG:999999")
    with pytest.raises(pu.FileError, match="no field 'land': pass field= one of Class, number"):
        library_from_pixels(cubes(), good, field="land")
    other = write(tmp_path / "other.gpkg", field="land")
    with pytest.raises(
        pu.FileError, match="cannot tell which field is the class: pass field= one of land, number"
    ):
        library_from_pixels(cubes(), other)
    empty = write(tmp_path / "empty.gpkg", boxes=[BOXES[0], (None, *BOXES[1][1:])])
    with pytest.raises(
        pu.FileError, match="Class|class: is empty in 1 of 2 polygons, the first of them number 2"
    ):
        library_from_pixels(cubes(), empty)
    with pytest.raises(ValueError, match="the images have no CRS, without which .*good.gpkg"):
        library_from_pixels(cubes(epsg=None), good)
    with pytest.raises(FileNotFoundError, match="no such file of polygons"):
        library_from_pixels(cubes(), tmp_path / "none.gpkg")


def test_classes_elsewhere_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.gpkg", boxes=[*BOXES, ("rock", (900, 905), (0, 3))])
    got = library_from_pixels(cubes(), path)
    assert set(got["label"].values) == {"soil", "leaf"}
    assert "no pixel of the image is of rock" in caplog.text


def test_layers_are_chosen(tmp_path: Path) -> None:
    raw = pytest.importorskip("pyogrio.raw")
    path = write(tmp_path / "a.gpkg")
    meta, _, geometry, fields = raw.read(path)
    raw.write(
        path,
        geometry,
        fields,
        meta["fields"],
        layer="more",
        geometry_type="Polygon",
        crs=meta["crs"],
        append=True,
    )
    with pytest.raises(pu.FileError, match=r"layer: there are several \(a, more\): pass layer="):
        library_from_pixels(cubes(), path)
    with pytest.raises(pu.FileError, match=r"layer: there is no layer 'b': there are a, more"):
        library_from_pixels(cubes(), path, layer="b")
    assert library_from_pixels(cubes(), path, layer="more").sizes["endmember"] == 12


def test_sources_of_a_part_count_from_the_whole() -> None:
    part = cubes().isel(y=slice(1, None), x=slice(2, None))
    mask = np.zeros((part.sizes["y"], part.sizes["x"]), dtype=bool)
    mask[0, 1] = True
    made = library_from_pixels(part, {"soil": mask}, time=0, origin=(1, 2))
    assert made["source"].item().startswith("row 1 column 3")
    np.testing.assert_array_equal(made.values[:, 0], cubes().values[0, 1, 3])
    with pytest.raises(ValueError, match="origin must be at least 0, got -1"):
        library_from_pixels(part, {"soil": mask}, time=0, origin=(-1, 2))


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("a.txt", "x", "format: expected one of the suffixes .geojson, .json, .shp, .gpkg, got '.txt'"),
        ("a.geojson", "<OGRVRTDataSource/>", "format: is not GeoJSON, in spite of its suffix"),
        ("a.gpkg", "{}", "format: is not a GeoPackage"),
        ("a.geojson", "{", "content"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, text: str) -> None:
    pytest.importorskip("pyogrio")
    (tmp_path / name).write_text(content)
    with pytest.raises(pu.FileError, match=text):
        library_from_pixels(cubes(), tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a.dbf", "a.shx", "a.prj", "a.cpg", "a.gpkg.aux.xml", "a.aux", "A.DBF"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_beside_polygons_is_refused_at_once(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = write(tmp_path / ("a.gpkg" if "aux" in name else "a.shp"))
    other = path.with_name(name)
    other.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(other)
    else:
        other.symlink_to("/dev/zero")
    with pytest.raises(FileError, match=f"must be a file, as it lies beside {path.name}"):
        library_from_pixels(cubes(), path)


def test_polygons_at_no_place_on_earth(tmp_path: Path) -> None:
    pytest.importorskip("pyogrio")
    path = write(tmp_path / "a.geojson", 4326)
    path.write_text(re.sub(r"5[12]\.\d+ \]", "95.0 ]", path.read_text()))
    with pytest.raises(
        FileError, match="a.geojson: polygons: cannot be read as polygons in the CRS"
    ):
        library_from_pixels(cubes(), path)
