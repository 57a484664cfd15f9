"""A store that is written tile by tile belongs to one scene, and to one call at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from fit_cases import CUBES, ours

from pyro_unmix import Unmixing, fit
from pyro_unmix.io import FileError
from pyro_unmix.io.write.locks import locked
from pyro_unmix.posterior import tile_store

pytest.importorskip("dask")
pytest.importorskip("zarr")

SETTINGS: dict[str, Any] = {"tile": 3, "progress": False}


def scene(values: np.ndarray | None = None, *, crs: str = "EPSG:32633", west: float = 0.0) -> Any:
    cubes = CUBES.copy(data=CUBES.values.copy() if values is None else values)
    rows, columns = cubes.sizes["y"], cubes.sizes["x"]
    return cubes.assign_coords(
        x=west + 30.0 * np.arange(columns),
        y=-30.0 * np.arange(rows),
        spatial_ref=((), 0, {"crs_wkt": crs}),
    )


@pytest.fixture(scope="module")
def result() -> Unmixing:
    return fit(*ours(), CUBES, num_steps=2, progress=False)


@contextmanager
def broken_off(after: int) -> Iterator[None]:
    """The disk fails after some tiles."""
    original, count = tile_store._write, 0

    def write(*args: Any) -> str:
        nonlocal count
        count += 1
        if count > after:
            raise OSError("disk")
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_store, "_write", write)
        with pytest.raises(OSError, match="disk"):
            yield


def changed(place: tuple[int, ...], value: float) -> np.ndarray:
    values = CUBES.values.copy()
    values[place] = value
    return values


def test_a_store_is_gone_on_with_for_the_same_images_alone(result, tmp_path):
    path = tmp_path / "a.zarr"
    with broken_off(2):
        result.predict_to_zarr(scene(), path, **SETTINGS)
    for values, place in (
        (changed((1, 2, 4, 3), float(CUBES[1, 2, 4, 3]) + 1e-6), "y 0 to 2, x 3 to"),
        (changed((0, 0, 0), np.nan), "y 0 to 2, x 0 to 2"),
    ):
        with pytest.raises(ValueError, match=f"tiles of other images, which differ at {place}"):
            result.predict_to_zarr(scene(values), path, **SETTINGS)
    result.predict_to_zarr(scene(), path, **SETTINGS)
    whole = result.predict(scene()).abundances
    stored = xr.open_zarr(path).abundances.transpose(*whole.dims)
    np.testing.assert_allclose(stored, whole, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_images_that_differ_where_no_tile_is_done_are_the_ones_that_count(result, tmp_path):
    path, other = tmp_path / "a.zarr", scene(changed((0, -1, -1), 0.3))
    with broken_off(2):
        result.predict_to_zarr(scene(), path, **SETTINGS)
    result.predict_to_zarr(other, path, **SETTINGS)
    whole = result.predict(other).abundances
    stored = xr.open_zarr(path).abundances.transpose(*whole.dims)
    np.testing.assert_allclose(stored, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("others", "text"),
    [
        (scene(west=15.0), "coordinate x is .15.0 to"),
        (scene().assign_coords(y=scene().y + 1), "coordinate y is .1.0 to -119.0"),
        (scene(crs="EPSG:32632"), "CRS in spatial_ref is .EPSG:32632"),
        (scene().drop_vars("x"), "coordinate x is None"),
        (scene().assign_coords(lat=(("y", "x"), np.ones((5, 6)))), "coordinate lat is .1.0 to 1.0"),
    ],
)
def test_a_scene_at_another_place_is_another_one(others, text, result, tmp_path):
    with broken_off(2):
        result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    with pytest.raises(ValueError, match=f"tiles of another prediction .*{text}"):
        result.predict_to_zarr(others, tmp_path / "a.zarr", **SETTINGS)


@pytest.mark.parametrize("left", ["", "half a ha"])
def test_a_mark_that_was_not_written_whole_is_none(left, result, tmp_path):
    with broken_off(2):
        result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    marks = sorted((tmp_path / ".a.zarr.tiles" / "done").iterdir())
    assert len(marks) == 2
    marks[0].write_text(left)
    result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_store_that_would_run_code_is_not_gone_on_with(result, tmp_path):
    with broken_off(2):
        result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    file = tmp_path / ".a.zarr.tiles" / "store" / "abundances" / ".zarray"
    pickled = {"filters": [{"id": "pickle", "protocol": 5}]}
    file.write_text(json.dumps(json.loads(file.read_text()) | pickled))
    with pytest.raises(FileError, match="pickle"):
        result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)


def test_what_was_killed_after_the_last_rename_is_no_store_to_go_on_with(
    result, tmp_path, monkeypatch
):
    path, work, remove = tmp_path / "a.zarr", tmp_path / ".a.zarr.tiles", shutil.rmtree

    def killed(folder: Path, **settings: Any) -> None:
        if folder == work:
            raise KeyboardInterrupt
        remove(folder, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tile_store.shutil, "rmtree", killed)
        result.predict_to_zarr(scene(), path, **SETTINGS)
    assert path.exists() and (work / "plan.json").exists()
    result.predict_to_zarr(scene(), path, overwrite=True, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_two_calls_for_one_store(result, tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / ".a.zarr.tiles").mkdir()
    with locked(tmp_path / ".a.zarr.tiles"):
        with pytest.raises(BlockingIOError, match="a.zarr.tiles is in use by another process or"):
            result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    result.predict_to_zarr(scene(), tmp_path / "a.zarr", **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_store_that_another_call_has_finished_meanwhile_is_kept(result, tmp_path, monkeypatch):
    path, prepare = tmp_path / "a.zarr", tile_store.positive_int

    def other_call_first(*args: Any) -> int:
        monkeypatch.setattr(tile_store, "positive_int", prepare)
        result.predict_to_zarr(scene(), path, **SETTINGS)
        return prepare(*args)

    monkeypatch.setattr(tile_store, "positive_int", other_call_first)
    with pytest.raises(FileExistsError, match=r"a.zarr exists: pass overwrite=True"):
        result.predict_to_zarr(scene(), path, **SETTINGS)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_before_anything_is_computed(result, tmp_path, there):
    target = tmp_path / "a.zarr"
    if there:
        result.predict_to_zarr(scene(), target, **SETTINGS)
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    with pytest.raises(FileExistsError, match="is a link: pass the store that it leads to"):
        result.predict_to_zarr(scene(), tmp_path / "link", overwrite=True, **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*["a.zarr"] * there, "link"]


def test_a_store_that_holds_other_files_is_not_replaced(result, tmp_path):
    path = tmp_path / "a.zarr"
    result.predict_to_zarr(scene(), path, **SETTINGS)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="also holds notes.txt, .* would be lost"):
        result.predict_to_zarr(scene(), path, overwrite=True, **SETTINGS)
    assert (path / "notes.txt").read_text() == "mine"
