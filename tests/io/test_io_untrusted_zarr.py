"""Zarr stores of others: no code of theirs is run, and nothing is read that the store does not hold."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.io import FileError, read_sequence

pytest.importorskip("zarr")

PICKLE = {"id": "pickle", "protocol": 5}


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def cubes() -> xr.DataArray:
    values = np.random.default_rng(0).uniform(0.1, 0.5, (1, 4, 5, 6)).astype("f4")
    return xr.DataArray(
        values,
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": np.linspace(500.0, 900.0, 6)},
        name="reflectance",
    )


def format_2(path: Path, changed: str = "", **changes: Any) -> Path:
    """A store of format 2, written by hand; `changes` to the metadata of the array `changed`."""
    path.mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    array = cubes()
    for name, values, dims in (
        ("reflectance", array.to_numpy(), list(array.dims)),
        ("wavelength", array["wavelength"].to_numpy(), ["wavelength"]),
    ):
        meta = {
            "zarr_format": 2,
            "shape": values.shape,
            "chunks": values.shape,
            "dtype": values.dtype.str,
            "compressor": None,
            "filters": None,
            "fill_value": None,
            "order": "C",
        }
        attrs = {"_ARRAY_DIMENSIONS": dims} | ({"units": "nm"} if name == "wavelength" else {})
        (path / name).mkdir()
        content = values.tobytes()
        if name == changed:
            meta |= changes
            if "pickle" in json.dumps(changes):
                content = pickle.dumps(_Trap(path.parent / "ran"))
        (path / name / ".zarray").write_text(json.dumps(meta))
        (path / name / ".zattrs").write_text(json.dumps(attrs))
        (path / name / ".".join("0" * values.ndim)).write_bytes(content)
    return path


def consolidate(path: Path) -> Path:
    """All metadata into one file, which is then the one that counts."""
    files = [f for f in path.rglob(".z*") if f.name != ".zmetadata"]
    metadata = {str(f.relative_to(path)): json.loads(f.read_text()) for f in files}
    content = {"zarr_consolidated_format": 1, "metadata": metadata}
    (path / ".zmetadata").write_text(json.dumps(content))
    return path


def test_the_store_of_these_tests_is_a_good_one(tmp_path: Path) -> None:
    for path in (format_2(tmp_path / "a"), consolidate(format_2(tmp_path / "b"))):
        np.testing.assert_array_equal(read_sequence(path), cubes())


@pytest.mark.parametrize("name", ["reflectance", "wavelength"])
@pytest.mark.parametrize(
    "changes",
    [
        {"filters": [PICKLE]},
        {"compressor": PICKLE},
        {"filters": [{"id": "vlen-utf8"}, PICKLE], "dtype": "|O"},
        {"filters": [PICKLE], "dtype": "|O"},
        {"filters": [{"id": "n5_wrapper", "compressor_config": {"id": "pickle"}}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("chunks", [None, "auto"], ids=["whole", "lazy"])
def test_pickled_chunks_are_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], chunks: Any
) -> None:
    path = format_2(tmp_path / "scene.zarr", name, **changes)
    with pytest.raises(FileError, match="codec .* is not read") as caught:
        read_sequence(path, chunks=chunks).to_numpy()
    assert name in caught.value.field
    assert not (tmp_path / "ran").exists()


def test_consolidated_metadata_count_too(tmp_path: Path) -> None:
    path = consolidate(format_2(tmp_path / "scene.zarr", "wavelength", compressor=PICKLE))
    meta = json.loads((path / "wavelength" / ".zarray").read_text())
    (path / "wavelength" / ".zarray").write_text(json.dumps(meta | {"compressor": None}))
    with pytest.raises(FileError, match="codec 'pickle' is not read"):
        read_sequence(path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_zarr_would_take_for_another_kind_of_store(tmp_path: Path) -> None:
    path = format_2(tmp_path / "scene.n5")
    attributes = {
        "dimensions": [6],
        "blockSize": [6],
        "dataType": "float64",
        "compression": {"type": "pickle"},
        "_ARRAY_DIMENSIONS": ["wavelength"],
    }
    (path / "attributes.json").write_text('{"n5": "2.0.0"}')
    for name in ("reflectance", "wavelength"):
        (path / name / "attributes.json").write_text(json.dumps(attributes))
        head = np.array([0, 1], ">u2").tobytes() + np.array([6], ">u4").tobytes()
        (path / name / "0").write_bytes(head + pickle.dumps(_Trap(tmp_path / "ran")))
    with pytest.raises(FileError):  # the chunk of format 2 has the same name
        read_sequence(path)
    assert not (tmp_path / "ran").exists()


def format_3(path: Path, codecs: list[Any]) -> Path:
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    array = cubes()
    for name, values, dims in (
        ("reflectance", array.to_numpy(), list(array.dims)),
        ("wavelength", array["wavelength"].to_numpy(), ["wavelength"]),
    ):
        (path / name).mkdir()
        meta = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": values.shape,
            "data_type": str(values.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": values.shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": codecs,
            "attributes": {"units": "nm"} if name == "wavelength" else {},
            "dimension_names": dims,
        }
        (path / name / "zarr.json").write_text(json.dumps(meta))
        chunk = path.joinpath(name, "c", *"0" * values.ndim)
        chunk.parent.mkdir(parents=True, exist_ok=True)
        chunk.write_bytes(values.tobytes())
    return path


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def test_codecs_of_format_3(tmp_path: Path) -> None:
    import zarr

    if not zarr.__version__.startswith("2."):
        path = format_3(tmp_path / "good", [_BYTES])
        np.testing.assert_array_equal(read_sequence(path), cubes())
    inner = {"chunk_shape": [1, 4, 5, 6], "codecs": [{"name": "pickle"}]}
    sharded = [{"name": "sharding_indexed", "configuration": inner}]
    for number, codecs in enumerate(([_BYTES, {"name": "pickle"}], [_BYTES, "pickle"], sharded)):
        with pytest.raises(FileError, match="codec 'pickle' is not read"):
            read_sequence(format_3(tmp_path / str(number), codecs))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = format_2(tmp_path / "scene.zarr")
    chunk = path / "wavelength" / "0"
    chunk.unlink()
    if kind == "pipe":
        os.mkfifo(chunk)
    else:
        chunk.symlink_to("/dev/zero")
    with pytest.raises(FileError, match="is neither a file nor a folder"):
        read_sequence(path)


def test_folders_behind_links_are_looked_into(tmp_path: Path) -> None:
    path = format_2(tmp_path / "scene.zarr")
    other = format_2(tmp_path / "other.zarr", "wavelength", compressor=PICKLE)
    os.rename(path / "wavelength", tmp_path / "aside")
    (path / "wavelength").symlink_to(other / "wavelength", target_is_directory=True)
    (path / "again").symlink_to(path, target_is_directory=True)
    with pytest.raises(FileError, match="codec 'pickle' is not read"):
        read_sequence(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-1]},
        {"shape": ["6"]},
        {"shape": 6},
        {"chunks": [10**12]},
        {"dtype": f"|S{2**31 - 1}"},
        {"filters": "pickle"},
        {"filters": [["pickle"]]},
    ],
    ids=str,
)
def test_odd_metadata(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FileError):
        read_sequence(format_2(tmp_path / "scene.zarr", "wavelength", **changes))


def test_metadata_that_are_nested_without_end_or_too_large(tmp_path: Path) -> None:
    for number, text in enumerate(("[" * 100_000, " " * 2**27)):
        path = format_2(tmp_path / str(number))
        (path / "wavelength" / ".zarray").write_text(text)
        with pytest.raises(FileError):
            read_sequence(path)


def test_metadata_without_a_group_are_no_missing_file(tmp_path: Path) -> None:
    path = consolidate(format_2(tmp_path / "a"))
    text = (path / ".zmetadata").read_text()
    (path / ".zmetadata").write_text(text.replace('"wavelength/.zattrs"', '"wavelengt/.zattrs"'))
    for chunks in (None, "auto"):
        with pytest.raises(FileError, match="a: metadata: are damaged: no group is found"):
            read_sequence(path, chunks=chunks)
