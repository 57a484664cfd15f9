"""HDF5 files of others: nothing hangs, and nothing is read that another file holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from products import write_emit, write_prisma

from pyro_unmix import Unmixing, as_cube_sequence
from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.formats.own_netcdf import open_netcdf
from pyro_unmix.io.integrity import hdf5_heap
from pyro_unmix.io.integrity.hdf5_heap import check_heaps
from pyro_unmix.io.integrity.hdf5_links import without_links


def texts(path: Path, width: int = 8, userblock: int = 0) -> Path:
    """A file whose heap holds some texts; its lengths are of so many bytes."""
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_sizes(8, width)
    settings.set_userblock(userblock)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, settings, access).close()
    with h5py.File(path, "r+") as file:
        file.attrs["a"] = "seven b"
        file.attrs["b"] = "some more text"
    return path


def damaged(path: Path, *objects: tuple[int, int, int], width: int = 8) -> int:
    """Write objects (place behind the first, index, size) into the heap; return where it begins."""
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    for place, index, size in objects:
        at = heap + 16 + place
        raw[at : at + 2] = index.to_bytes(2, "little")
        raw[at + 8 : at + 8 + width] = size.to_bytes(width, "little")
    path.write_bytes(raw)
    return heap


@pytest.mark.parametrize(
    "objects",
    [
        [(0, 0, 0)],
        [(0, 1, 2**64 - 16)],
        [(0, 1, 2**64 - 20)],
        [(0, 1, 2**64 - 40)],
        [(0, 0, 2**64 - 8)],
        # Of free space the library takes the size as it stands: the next object begins at 16 + 7.
        [(0, 1, 0), (16, 0, 7), (16 + 7, 0, 0)],
    ],
    ids=str,
)
def test_heaps_in_which_hdf5_would_go_in_a_circle(
    tmp_path: Path, objects: list[tuple[int, int, int]]
) -> None:
    path = texts(tmp_path / "texts.h5")
    check_heaps(path)
    heap = damaged(path, *objects)
    with pytest.raises(FileError, match=f"global heap: the heap of texts at byte {heap} is broken"):
        check_heaps(path)


def test_bytes_that_hdf5_does_not_look_at_hide_no_heap(tmp_path: Path) -> None:
    """Reserved ones of the head; and a heap that ends where free space lies, in which the library goes on."""
    path = texts(tmp_path / "texts.h5")
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 5 : heap + 10] = b"\0\0\xff\xff\x10"
    path.write_bytes(raw + bytes(256))
    with pytest.raises(FileError, match=f"at byte {heap} is broken"):
        check_heaps(path)
    raw[heap + 8 : heap + 16] = bytes([255] * 8)
    path.write_bytes(raw)
    check_heaps(path)
    with pytest.raises(OSError), h5py.File(path) as file:
        file.attrs["a"]


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_names_whose_free_places_go_in_a_circle(tmp_path: Path, width: int, userblock: int) -> None:
    path = texts(tmp_path / "names.h5", width, userblock)
    with h5py.File(path, "r+") as file:
        file["a name"] = 1.0
        file["another"] = 2.0
        del file["a name"]
    check_heaps(path)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"HEAP")
    numbers = heap + 8 + width
    first = int.from_bytes(raw[numbers : numbers + width], "little")
    place = userblock + int.from_bytes(raw[numbers + width : numbers + width + 8], "little") + first
    raw[heap + 5 : heap + 8] = b"abc"
    raw[place : place + width] = first.to_bytes(width, "little")
    path.write_bytes(raw)
    with pytest.raises(FileError, match=f"local heap: the heap of names at byte {heap} is broken"):
        check_heaps(path)
    with pytest.raises(FileError, match="local heap"):
        read_sequence(path)


def test_a_large_file_is_searched_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = texts(tmp_path / "texts.h5")
    os.utime(path, (1e9, 1e9))
    check_heaps(path)
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_heap, "_found", None)
        check_heaps(path)
    damaged(path, (0, 0, 0))  # this moment: nothing is kept
    for _ in range(2):
        with pytest.raises(FileError, match="heap of texts"):
            check_heaps(path)
    texts(path)
    check_heaps(path)


@pytest.mark.parametrize("userblock", [0, 1024])
def test_lengths_of_four_bytes(tmp_path: Path, userblock: int) -> None:
    path = texts(tmp_path / "texts.h5", width=4, userblock=userblock)
    check_heaps(path)
    # What follows the length is no part of it.
    damaged(path, (0, 0, 2**32), width=8)
    with pytest.raises(FileError, match="heap of texts"):
        check_heaps(path)


def test_heaps_are_found_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = texts(tmp_path / "texts.h5")
    heap = damaged(path, (0, 0, 0))
    for block in (64, heap + 1, heap + 4, heap + 7, heap + 8, heap):
        monkeypatch.setattr(hdf5_heap, "_BLOCK", block)
        with pytest.raises(FileError, match=f"at byte {heap} is broken"):
            check_heaps(path)


def test_what_only_looks_like_a_heap_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = texts(tmp_path / "texts.h5")
    inner = path.read_bytes()
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        file["inner"] = np.frombuffer(inner, dtype="u1")
        file["begun"] = np.frombuffer(b"GCOL\x01\0\0\0", dtype="u1")
    check_heaps(tmp_path / "outer.h5")
    for name, content in (("none", b"GCOL\x01\0\0\0" + bytes(64)), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        check_heaps(tmp_path / name)


# ------------------------------------------------------------------ other files

VALUES = np.random.default_rng(4).uniform(0.1, 0.5, (4, 5, 6)).astype("f4")
CENTRES = np.linspace(500.0, 900.0, 6)


def emit(folder: Path) -> Path:
    return write_emit(folder / "emit.nc", VALUES, CENTRES)


def prisma(folder: Path) -> Path:
    numbers = (VALUES * 60_000).astype("u2")
    lists = {"vnir_wavelength": CENTRES[::-1], "swir_wavelength": CENTRES[::-1] + 500}
    return write_prisma(folder / "prisma.he5", numbers, numbers, **lists)


def netcdf(folder: Path) -> Path:
    array = xr.DataArray(
        VALUES,
        dims=("y", "x", "wavelength"),
        coords={"wavelength": ("wavelength", CENTRES, {"units": "nm"}), "x": np.arange(5.0)},
        name="reflectance",
    )
    array.to_netcdf(folder / "plain.nc", engine="h5netcdf")
    return folder / "plain.nc"


def matlab(folder: Path) -> Path:
    with h5py.File(folder / "scene.mat", "w") as file:
        file["Y"] = VALUES[np.newaxis].transpose(0, 2, 1, 3)
    return folder / "scene.mat"


MAKERS: dict[Callable[[Path], Path], list[str]] = {
    emit: ["reflectance", "sensor_band_parameters", "sensor_band_parameters/wavelengths"],
    prisma: ["HDFEOS", "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"],
    netcdf: ["reflectance", "wavelength", "x"],
    matlab: ["Y"],
}
LINKS = [(maker, name) for maker, names in MAKERS.items() for name in names]
IDS = [f"{maker.__name__}-{name.rpartition('/')[2]}" for maker, name in LINKS]


@pytest.mark.parametrize(("maker", "name"), LINKS, ids=IDS)
@pytest.mark.parametrize("chunks", [None, "auto"], ids=["whole", "lazy"])
def test_links_to_other_files_are_not_followed(
    tmp_path: Path, maker: Callable[[Path], Path], name: str, chunks: str | None
) -> None:
    path = maker(tmp_path)
    read_sequence(path)  # is whole
    other = path.rename(tmp_path / "other")
    with h5py.File(path, "w") as file, h5py.File(other) as whole:
        for key in whole:
            whole.copy(key, file)
        file.attrs.update(whole.attrs)
        del file[name]
        file[name] = h5py.ExternalLink("other", f"/{name}")
    with pytest.raises(FileError, match="is a link to another file, which is not followed"):
        read_sequence(path, chunks=chunks)


def test_finding_out_the_format_follows_no_link(tmp_path: Path) -> None:
    """A link to a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("reflectance", "sensor_band_parameters", "HDFEOS"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_group("sensor_band_parameters/wavelengths")
            file["own"] = 1.0
            if name in file:
                del file[name]
            file[name] = h5py.ExternalLink("pipe", "/x")
        with pytest.raises(FileError, match="which is not followed"):
            read_sequence(tmp_path / f"{name}.h5")


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    path = emit(tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("sensor_band_parameters/wavelengths", "elsewhere")
        file["sensor_band_parameters/wavelengths"] = h5py.SoftLink("/elsewhere")
        file["circle"] = file["/"]
    np.testing.assert_array_equal(read_sequence(path)[0], VALUES)


def _virtual(file: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other[name] = data
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[...] = h5py.VirtualSource(folder / "secret.h5", name, data.shape)
    file.create_virtual_dataset(name, layout)


def _external(file: h5py.File, name: str, data: np.ndarray, folder: Path) -> None:
    (folder / "secret.raw").write_bytes(data.tobytes())
    places = [(str(folder / "secret.raw"), 0, data.nbytes)]
    file.create_dataset(name, data.shape, data.dtype, external=places)


@pytest.mark.parametrize("elsewhere", [_virtual, _external])
@pytest.mark.parametrize("name", ["x", "wavelength", "fwhm"])
def test_coordinates_that_lie_in_other_files_are_refused(
    tmp_path: Path, elsewhere: Callable[..., None], name: str
) -> None:
    path = netcdf(tmp_path)
    with h5py.File(path, "r+") as file:
        data = np.arange(100.0, 105) if name == "x" else CENTRES
        if name in file:
            for dim in file["reflectance"].dims:
                if dim and dim[0].name == f"/{name}":
                    dim.detach_scale(dim[0])
            del file[name]
        elsewhere(file, name, data, tmp_path)
        file[name].make_scale(name)
        if name != "fwhm":
            file["reflectance"].dims["yx".find(name) if name == "x" else 2].attach_scale(file[name])
    with pytest.raises(FileError, match="keeps its values in other files"):
        read_sequence(path)


# ------------------------------------------------------------------ results


def result(folder: Path) -> Path:
    cubes = as_cube_sequence(VALUES)
    dataset = xr.Dataset(
        {
            "abundances": (("time", "y", "x", "endmember"), np.full((1, 4, 5, 2), 0.5)),
            "reference_endmembers": (("wavelength", "endmember"), np.full((6, 2), 0.3)),
            "valid": (("time", "y", "x"), np.ones((1, 4, 5), dtype=bool)),
        }
    )
    return Unmixing(dataset, cubes=cubes).save(folder / "saved")


@pytest.mark.parametrize("name", ["result.nc", "cubes.nc"])
def test_results_follow_no_link(tmp_path: Path, name: str) -> None:
    path = result(tmp_path)
    loaded = Unmixing.load(path)
    np.testing.assert_array_equal(loaded.cubes, VALUES[np.newaxis])
    variable = "abundances" if name == "result.nc" else "reflectance"
    (path / name).rename(path / "other.nc")
    with h5py.File(path / name, "w") as file, h5py.File(path / "other.nc") as whole:
        for key in whole:
            whole.copy(key, file)
        del file[variable]
        file[variable] = h5py.ExternalLink("other.nc", f"/{variable}")
    with pytest.raises(ValueError, match=f"{name}: {variable}: is a link to another file"):
        Unmixing.load(path)


def test_results_that_declare_more_than_the_file_holds(tmp_path: Path) -> None:
    path = result(tmp_path)
    with h5py.File(path / "result.nc", "r+") as file:
        file.create_dataset("large", (2**40,), "f8", chunks=(2**20,))
    with pytest.raises(ValueError, match="result.nc: large: .*it is incomplete"):
        Unmixing.load(path)


def test_results_with_empty_parts_are_read(tmp_path: Path) -> None:
    dataset = xr.Dataset(
        {"losses": ("step", np.zeros(0)), "names": ("m", ["a", "b"]), "one": 3.0},
        coords={"spatial_ref": ((), 0, {"crs_wkt": "x"})},
    )
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with open_netcdf(tmp_path / "a.nc") as found:
        xr.testing.assert_identical(found.load(), dataset)
    with without_links(tmp_path / "a.nc") as file:
        assert "names" in file
