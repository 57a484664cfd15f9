"""A file that is cut while it is open ends in an error of ours, never in the end of the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("dask")
import envi_files
from products import write_emit, write_tiff

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.integrity.flat import flat_rows

SHAPE = (60, 40, 12)  # of some pages
VALUES = np.random.default_rng(6).uniform(0.1, 0.5, SHAPE).astype("f4")
CENTRES = np.linspace(500.0, 900.0, SHAPE[-1])


def make(kind: str, folder: Path) -> tuple[Path, Path]:
    """What is read, and the file that holds the numbers."""
    path = folder / f"scene.{kind}"
    if kind in ("bsq", "bil", "bip"):
        return envi_files.write(
            folder, VALUES, interleave=kind, name="a.img", reflectance_scale_factor=1
        ), folder / "a.img"
    if kind == "npy":
        np.save(path, VALUES)
    elif kind == "tif":
        write_tiff(path, VALUES, interleave="pixel")
    elif kind == "emit":
        path = write_emit(folder / "emit.nc", VALUES, CENTRES)
    else:
        array = xr.DataArray(
            VALUES,
            dims=("y", "x", "wavelength"),
            coords={"wavelength": ("wavelength", CENTRES, {"units": "nm"})},
        )
        engine: Any = "h5netcdf" if kind == "nc" else "scipy"
        array.to_dataset(name="reflectance").to_netcdf(path, engine=engine)
    return path, path


KINDS = ["bsq", "bil", "bip", "npy", "tif", "emit", "nc", "cdf"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_all_there(tmp_path: Path, kind: str) -> None:
    path, _ = make(kind, tmp_path)
    for chunks in (None, {"y": 16}):
        np.testing.assert_array_equal(read_sequence(path, chunks=chunks)[0], VALUES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a cheap process of its own")
@pytest.mark.parametrize("kind", KINDS)
def test_cut_between_opening_and_computing(tmp_path: Path, kind: str) -> None:
    """In a process of its own, as a signal of the system would end this one."""
    path, data = make(kind, tmp_path)
    child = os.fork()
    if child == 0:
        try:
            cubes = read_sequence(path, chunks={"y": 16})
            os.truncate(data, 3000)
            cubes.compute(scheduler="synchronous")
        except FileError as error:
            os._exit(1 if tmp_path.name in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize("interleave", ["bip", "bil", "bsq"])
def test_rows_of_numbers_that_lie_as_they_are(tmp_path: Path, interleave: str) -> None:
    axes = {"bip": (0, 1, 2), "bil": (0, 2, 1), "bsq": (2, 0, 1)}[interleave]
    stored = np.arange(7 * 3 * 5, dtype=">i2").reshape(7, 3, 5)
    path = tmp_path / "a"
    path.write_bytes(b"head" + stored.transpose(axes).tobytes())
    rows = flat_rows(path, "x", stored.dtype, stored.shape, offset=4, interleave=interleave)
    np.testing.assert_array_equal(rows, stored)
    np.testing.assert_array_equal(rows[2:6], stored[2:6])
    np.testing.assert_array_equal(rows[6], stored[6])
    np.testing.assert_array_equal(list(rows), stored)
    assert rows[3:3].shape == (0, 3, 5)
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(rows[0], stored[0])
    with pytest.raises(
        FileError, match=r"x: >i2 of shape \(7, 3, 5\) needs 214 bytes.*now has 213"
    ):
        rows[6]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        rows[0]


def test_rows_of_several_dates(tmp_path: Path) -> None:
    stored = np.arange(4 * 7 * 3 * 5, dtype="f8").reshape(4, 7, 3, 5)
    np.save(tmp_path / "a.npy", stored)
    rows = flat_rows(tmp_path / "a.npy", "x", stored.dtype, stored.shape, offset=128)
    np.testing.assert_array_equal(rows, stored)
    np.testing.assert_array_equal(rows[3][5:], stored[3, 5:])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(4, 7, 3), (2, 4, 7, 3)])
def test_arrays_of_numpy_in_either_order(
    tmp_path: Path, order: Any, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.5, shape)
    np.save(tmp_path / "a.npy", np.array(values, order=order))
    for chunks in (None, "auto"):
        found = read_sequence(tmp_path / "a.npy", chunks=chunks)
        np.testing.assert_array_equal(found.to_numpy().reshape(shape), values)
