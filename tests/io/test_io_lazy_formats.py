"""With chunks=, NetCDF, Zarr and products are read by rows: the same numbers, from the file when needed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

dask = pytest.importorskip("dask")
pytest.importorskip("rasterio")
from products import write_desis, write_emit, write_enmap, write_prisma  # noqa: E402

from pyro_unmix.io import FileError, read_sequence  # noqa: E402
from pyro_unmix.io import lazy as lazy_module  # noqa: E402
from pyro_unmix.io.rows import FileRows  # noqa: E402
from pyro_unmix.io.sequence import _open_image  # noqa: E402

T, H, W, L = 2, 23, 5, 6
NM = [450.0, 550.0, 650.0, 860.0, 1600.0, 2200.0]
PACKED = {"scale_factor": 1e-4, "add_offset": -0.04}


def stored(dtype: str = "i2") -> np.ndarray:
    """(T, H, W, L), nearly all different; a pixel of zeros."""
    numbers = 2000 + np.arange(T * H * W * L).reshape(T, H, W, L) % 5000
    numbers[1, 3, 2] = 0
    return numbers.astype(dtype)


def write(
    path: Path, dims: str, attrs: dict[str, Any], engine: str = "h5netcdf", **how: Any
) -> Path:
    """The numbers with the dims t, y, x, b in that order; without t, those of the first date."""
    names = {"t": "time", "y": "y", "x": "x", "b": "wavelength"}
    numbers = stored()
    if "t" not in dims:
        numbers = numbers[0]
    order = [("tyxb" if "t" in dims else "yxb").index(dim) for dim in dims]
    cube = xr.DataArray(numbers.transpose(order), dims=[names[dim] for dim in dims], attrs=attrs)
    dataset = cube.to_dataset(name="reflectance")
    dataset = dataset.assign_coords(wavelength=("wavelength", NM, {"units": "nm"}))
    if "t" in dims:
        dataset = dataset.assign_coords(time=np.array(["2021-05-01", "2021-05-03"], "M8[ns]"))
    if engine == "zarr":
        pytest.importorskip("zarr")
        dataset.to_zarr(path, zarr_format=2, encoding={"reflectance": how})
    else:
        dataset.to_netcdf(path, engine=engine, encoding={"reflectance": how})  # type: ignore[call-overload]
    return path


def same_as_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.DataArray:
    """Check that the numbers stay in the file, and are those of `read_sequence` without chunks."""
    monkeypatch.setattr(lazy_module, "_BLOCK", 4 * W * L)
    assert isinstance(_open_image(path).values, FileRows)
    lazy = read_sequence(path, chunks={"y": 7})
    assert lazy.chunksizes["y"] == (7, 7, 7, H - 21)
    computed = lazy.compute()
    xr.testing.assert_identical(computed, read_sequence(path))
    assert np.array_equal(lazy[0, 9:12, 1].values, computed[0, 9:12, 1], equal_nan=True)
    return computed


FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "contiguous": ("h5netcdf", {}),
    "chunks": ("h5netcdf", {"zlib": True, "chunksizes": (1, 4, 5, 3)}),
    "netcdf3": ("scipy", {}),
    "zarr": ("zarr", {"chunks": (1, 4, 5, 3)}),
}


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("dims", ["tyxb", "byxt", "xtby", "byx", "yxb"])
def test_netcdf_and_zarr(
    tmp_path: Path, kind: str, dims: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, how = FORMATS[kind]
    sizes = dict(zip("tyxb", (1, 4, 5, 3), strict=True))
    how = {
        key: tuple(sizes[dim] for dim in dims) if key.startswith("chunk") else value
        for key, value in how.items()
    }
    path = write(tmp_path / "a.nc", dims, PACKED, engine, **how)
    cubes = same_as_at_once(path, monkeypatch)
    expected = stored()[: cubes.sizes["time"]] * 1e-4 - 0.04  # by hand
    np.testing.assert_allclose(cubes, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("attrs", "missing"),
    [
        ({"_FillValue": np.int16(2001)}, [2001]),
        ({"missing_value": np.array([2001, 2007], "i2")}, [2001, 2007]),
        ({"valid_min": np.int16(2003)}, [0, 2000, 2001, 2002]),
        ({"valid_range": np.array([2000, 3300], "i2")}, [0, *range(3301, 3400)]),
        ({"_FillValue": np.int16(0), "valid_max": np.int16(3300)}, [0, *range(3301, 3400)]),
    ],
)
@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_missing_numbers(
    tmp_path: Path,
    attrs: dict[str, Any],
    missing: list[int],
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cubes = same_as_at_once(write(tmp_path / "a.nc", "byxt", PACKED | attrs, engine), monkeypatch)
    marked = np.isin(stored(), missing)
    assert marked.any()
    # A stored 0 is legal with this offset, unless it is marked.
    np.testing.assert_array_equal(np.isnan(cubes), marked)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_chunks_that_were_never_written(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    numbers = stored()[0]
    with h5py.File(path, "w") as file:
        file["wavelength"] = NM
        file["wavelength"].attrs["units"] = "nm"
        cube = file.create_dataset("reflectance", (H, W, L), dtype, chunks=(5, 5, 3))
        cube[:10], cube[15:] = numbers[:10], numbers[15:]
        cube.attrs["scale_factor"] = 1e-4
        for axis, name in enumerate(("y", "x", "wavelength")):
            if name not in file:
                file[name] = np.arange(numbers.shape[axis])
            file[name].make_scale(name)
            cube.dims[axis].attach_scale(file[name])
    if dtype == "f4":
        cubes = same_as_at_once(path, monkeypatch)
    else:  # which integer is free, only the numbers can tell
        assert isinstance(_open_image(path).values, np.ndarray)
        cubes = read_sequence(path, chunks={}).compute()
    assert np.isnan(cubes[0, 10:15]).all() and not np.isnan(cubes[0, :10]).any()
    np.testing.assert_allclose(cubes[0, 15:], numbers[15:] * 1e-4, rtol=1e-6)


def test_unsigned_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attrs = {"_Unsigned": "true", "scale_factor": 1e-5, "_FillValue": np.int16(-1)}
    path = write(tmp_path / "a.nc", "yxb", attrs, "scipy")
    with xr.open_dataset(path, decode_cf=False, engine="scipy") as dataset:
        changed = dataset.load().copy(deep=True)
    changed["reflectance"].values[0, 0] = [-1, -2, 5, 6, 7, 8]
    changed.to_netcdf(path, engine="scipy")
    cubes = same_as_at_once(path, monkeypatch)
    assert np.isnan(cubes[0, 0, 0, 0])
    assert float(cubes[0, 0, 0, 1]) == pytest.approx(65534e-5)


def test_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = stored()[0]
    path = write_emit(tmp_path / "emit.nc", numbers * 1e-4, NM, good=[1, 1, 0, 1, 1, 1])
    assert same_as_at_once(path, monkeypatch).sizes["wavelength"] == 5
    same_as_at_once(write_enmap(tmp_path / "enmap", numbers, NM), monkeypatch)
    same_as_at_once(write_desis(tmp_path / "desis", numbers, NM), monkeypatch)


@pytest.mark.parametrize("outside", [False, True])
def test_prisma(tmp_path: Path, outside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vnir, swir = (stored("u2")[t, ..., :4] * 9 for t in (0, 1))
    vnir[..., 0] = 0
    swir[4, 1] = 0  # a legal number
    if outside:
        vnir[8, 3], swir[8, 3] = 0, 0
    path = tmp_path / "PRS_L2D_STD_1.he5"
    lists = {
        "vnir_wavelength": [0.0, 970.0, 700.0, 410.0],
        "swir_wavelength": [2490.0, 1600.0, 950.0, 0.0],
    }
    write_prisma(path, vnir, swir, vnir_range=(0.01, 0.9), **lists, compression="gzip")  # type: ignore[arg-type]
    cubes = same_as_at_once(path, monkeypatch)
    assert bool(np.isnan(cubes[0, 8, 3]).all()) == outside
    assert not np.isnan(cubes[0, 4, 1]).any()


def test_what_is_wrong_later_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", "yxb", PACKED, zlib=True, chunksizes=(4, 5, 6))
    cubes = read_sequence(path, chunks={})
    with h5py.File(path) as file:
        chunk = file["reflectance"].id.get_chunk_info(3)
    raw = path.read_bytes()
    middle = chunk.byte_offset + chunk.size // 2
    path.write_bytes(raw[:middle] + bytes(20) + raw[middle + 20 :])
    with pytest.raises(FileError, match="a.nc: reflectance: cannot be read as an array"):
        cubes.compute()


def test_rows() -> None:
    numbers = stored()
    calls = []

    def read(time: int, start: int, stop: int) -> np.ndarray:
        calls.append((time, start, stop))
        return numbers[time, start:stop]

    rows = FileRows(numbers.shape, numbers.dtype, read, piece=4)
    second = rows[1]
    np.testing.assert_array_equal(second[5:9], numbers[1, 5:9])
    np.testing.assert_array_equal(second[22], numbers[1, 22])
    calls.clear()
    np.testing.assert_array_equal(
        np.stack(list(second.rows([0, 3, 9, 22]))), numbers[1, [0, 3, 9, 22]]
    )
    assert calls == [(1, 0, 4), (1, 8, 12), (1, 20, 23)]  # each piece once
    np.testing.assert_array_equal(np.stack(list(second)), numbers[1])
    np.testing.assert_array_equal(rows.bands(np.array([2, 0]))[0][:], numbers[0][..., [2, 0]])
    with pytest.raises(IndexError, match="row 23 of 23"):
        second[23]
    with pytest.raises(IndexError, match="date 2 of 2"):
        rows[2]


def _allocated(work: Callable[[], object]) -> float:
    """The most that numpy and Python held at a time, MiB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("engine", ["h5netcdf", "zarr"])
def test_memory_is_that_of_the_part(tmp_path: Path, engine: str) -> None:
    """76 MiB as stored, 153 MiB as reflectance; of it 10 x 10 pixels."""
    if engine == "zarr":
        pytest.importorskip("zarr")
    row = np.random.default_rng(0).integers(500, 6000, (1, 400, 100)).astype("i2")
    cube = xr.DataArray(np.tile(row, (1000, 1, 1)), dims=("y", "x", "band"), name="r")
    cube.attrs.update(scale_factor=1e-4, _FillValue=np.int16(-1))
    path = tmp_path / "a"
    if engine == "zarr":
        cube.to_dataset().to_zarr(path, zarr_format=2, encoding={"r": {"chunks": (50, 400, 100)}})
    else:
        cube.to_dataset().to_netcdf(
            path, engine="h5netcdf", encoding={"r": {"chunksizes": (50, 400, 100)}}
        )

    def part() -> None:
        with dask.config.set(scheduler="synchronous"):
            lazy = read_sequence(path, chunks={}).isel(y=slice(900, 910), x=slice(5, 15))
            assert lazy.compute().shape == (1, 10, 10, 100)

    part()  # what is imported and kept by the libraries
    assert _allocated(part) < 70  # blocks of 2 M numbers, as 64 bits, and copies of them
    assert _allocated(lambda: read_sequence(path)) > 153
