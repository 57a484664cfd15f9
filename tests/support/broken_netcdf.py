"""Broken NetCDF files, and what may be broken in any HDF5 file."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from broken_case import WAVELENGTH, Case, H, L, W, garbage, truncated, values, written


def hdf5_changes(name: str) -> dict[str, Callable[[h5py.File], None]]:
    def remade(shape: tuple[int, ...], dtype: Any = "f4", **how: Any) -> Callable[..., None]:
        def change(file: h5py.File) -> None:
            attrs = {k: v for k, v in file[name].attrs.items() if "DIMENSION" not in k}
            del file[name]
            file.create_dataset(name, shape, dtype, **how).attrs.update(attrs)

        return change

    def dropped(file: h5py.File) -> None:
        del file[name]

    def grouped(file: h5py.File) -> None:
        del file[name]
        file.create_group(name)

    huge = (10**5, 10**5, 10**5)
    return {
        "never written": remade((L, H * W)),
        "huge": remade(huge),
        "huge chunks": remade(huge, chunks=(10, 10, 10)),
        "huge packed": remade(huge, chunks=(10, 10, 10), compression="gzip"),
        "compound": remade((3,), np.dtype([("a", "f4"), ("b", "i2")])),
        "strings": remade((L, H * W), h5py.string_dtype()),
        "references": remade((3, 3), h5py.ref_dtype),
        "scalar": remade(()),
        "no dataset": dropped,
        "a group": grouped,
    }


def _dataset(**changes: Any) -> xr.Dataset:
    coords = {
        "wavelength": ("wavelength", WAVELENGTH, {"units": "nm"}),
        "x": 500_000 + 30.0 * np.arange(W),
        "y": 4_000_000 - 30.0 * np.arange(H),
        "time": np.datetime64("2021-07-31", "ns"),
    }
    cube = xr.DataArray(values().astype("f4"), dims=("y", "x", "wavelength"), coords=coords)
    return xr.Dataset({"reflectance": cube}).assign_coords(**changes)


def netcdf4(folder: Path) -> Iterator[Case]:
    _dataset().to_netcdf(folder / "whole.nc", engine="h5netcdf")
    yield Case("whole", folder / "whole.nc")
    yield from truncated(folder / "whole.nc", folder, "content|format")
    yield from garbage(folder, ".nc", "format")
    how = {"reflectance": {"zlib": True, "chunksizes": (12, 20, 10)}}
    _dataset().to_netcdf(folder / "packed.nc", engine="h5netcdf", encoding=how)
    yield Case("packed", folder / "packed.nc")
    (folder / "packed").mkdir()
    yield from truncated(folder / "packed.nc", folder / "packed", "content|format")
    raw = (folder / "packed.nc").read_bytes()
    with h5py.File(folder / "packed.nc") as file:
        chunks = [file["reflectance"].id.get_chunk_info(i) for i in range(3)]
    for chunk in chunks:
        middle = chunk.byte_offset + chunk.size // 2
        damaged = raw[:middle] + bytes(64) + raw[middle + 64 :]
        yield written(folder, f"chunk {middle}", ".nc", damaged, "reflectance|content")
    whole = (folder / "whole.nc").read_bytes()
    for place in range(0, 48, 8):
        damaged = whole[:place] + bytes([255] * 8) + whole[place + 8 :]
        if damaged != whole:  # an address that is not used is all ones already
            field = "content" if place else "format"
            yield written(folder, f"superblock {place}", ".nc", damaged, field)
    for name, change in hdf5_changes("reflectance").items():
        path = folder / f"changed_{name}.nc".replace(" ", "_")
        shutil.copy(folder / "whole.nc", path)
        with h5py.File(path, "r+") as file:
            change(file)
        yield Case(name, path, "reflectance|content|variables")
    path = folder / "huge_axis.nc"
    shutil.copy(folder / "whole.nc", path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("lon", (10**12,), "f8", chunks=(10,)).make_scale("lon")
    yield Case("huge axis", path, "lon")
    yield from _netcdf_contents(folder, "h5netcdf")


_NETCDF_FIELDS = {
    "no unit": "wavelength units",
    "wrong unit": "wavelength",
    "odd unit": "wavelength units",
    "nan wavelength": "wavelength",
    "nan x": "x",
    "integers": "scale",
    "percent": "values",
    "infinite": "nodata",
    "all missing": "values",
    "twice": "dates",
    "no band": "values|content",  # NetCDF 3 has no axes of size zero
    "scale_factor x": "reflectance:scale_factor",
    "add_offset x": "reflectance:add_offset",
    "units K": "reflectance:units",
}


def _netcdf_contents(folder: Path, engine: Any) -> Iterator[Case]:
    wavelength = ("wavelength", WAVELENGTH, {"units": "nm"})
    nan = ("wavelength", np.full(L, np.nan), {"units": "nm"})
    dates = ("time", ["2021-07-31", "2021-07-31"])
    contents = {
        "no unit": _dataset(wavelength=wavelength[:2]),
        "wrong unit": _dataset(wavelength=(*wavelength[:2], {"units": "um"})),
        "odd unit": _dataset(wavelength=(*wavelength[:2], {"units": "bananas"})),
        "nan wavelength": _dataset(wavelength=nan),
        "nan x": _dataset(x=np.full(W, np.nan)),
        "no cube": _dataset().rename(wavelength="lambda"),
        "two cubes": _dataset().assign(a=_dataset().reflectance).rename(reflectance="b"),
        "integers": (_dataset() * 1e4).astype("i2"),
        "percent": _dataset() * 100,
        "infinite": _dataset() * np.inf,
        "all missing": _dataset() * np.nan,
        "twice": _dataset().drop_vars("time").expand_dims(time=2).assign_coords(time=dates),
        "empty": xr.Dataset(),
        "one number": xr.Dataset({"reflectance": 3.0}),
        "no band": _dataset().isel(wavelength=slice(0)),
    }
    for attribute, value in {"scale_factor": "x", "add_offset": "x", "units": "K"}.items():
        changed = _dataset()
        changed["reflectance"].attrs[attribute] = value
        contents[f"{attribute} {value}"] = changed
    for name, dataset in contents.items():
        path = folder / f"content_{name}.nc".replace(" ", "_")
        dataset.to_netcdf(path, engine=engine)
        yield Case(name, path, _NETCDF_FIELDS.get(name, "variables"))


def netcdf3(folder: Path) -> Iterator[Case]:
    dataset = _dataset().drop_vars("time")
    dataset.to_netcdf(folder / "whole.nc", engine="scipy", format="NETCDF3_64BIT")
    yield Case("whole", folder / "whole.nc")
    yield from truncated(folder / "whole.nc", folder, "content")
    raw = (folder / "whole.nc").read_bytes()
    start = raw.index(struct.pack(">I", H))
    for name, content in {
        "version 5": b"CDF\x05" + raw[4:],
        "version 9": b"CDF\x09" + raw[4:],
        "more rows": raw[:start] + struct.pack(">I", H + 1) + raw[start + 4 :],
        "huge rows": raw[:start] + struct.pack(">I", 2**31 - 1) + raw[start + 4 :],
        "records": raw[:4] + struct.pack(">I", 2**31 - 1) + raw[8:],
        "tags": raw[:8] + b"\xff" * 8 + raw[16:],
    }.items():
        if name != "records":  # there are no record variables, so that their number says nothing
            field = "format" if name.startswith("version") else "content"
            yield written(folder, name, ".nc", content, field)
    yield from _netcdf_contents(folder, "scipy")
