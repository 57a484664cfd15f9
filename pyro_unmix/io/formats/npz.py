"""NumPy archives (.npz) and arrays (.npy) of a stated layout."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.integrity.flat import flat_rows

CUBE_NAMES = ("cubes", "reflectance", "Y")
_TEXTS = ("wavelength_unit",)
_OTHERS = ("wavelength", "fwhm", "good", "nodata", "scale", "offset", "time", *_TEXTS)
_BLOCK = 2**16


class _Npz:
    """One of `cubes`, `reflectance`, `Y`: (T, H, W, L) or (H, W, L); `Y` of three axes needs
    `wavelength`, as other programs keep the bands of such arrays first.

    Optional: `wavelength`, `fwhm` (L,) in `wavelength_unit` (default nm), `good` (L,), `nodata`
    (the stored value that marks missing), `scale` and `offset` (one number or (L,); reflectance =
    stored x scale + offset), `time` (T,).
    """

    name = "NumPy archive"
    suffixes = (".npz", ".npy")

    def sniff(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                return True
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())

    def read(self, path: Path) -> Image:
        with parsing(path, "content", "a NumPy file"):
            if path.suffix.lower() == ".npy" or not zipfile.is_zipfile(path):
                return _image({"cubes": _load_npy(path)}, path, self.name)
            return _image(_load_npz(path), path, self.name)


READER = _Npz()


def _load_npy(path: Path) -> Any:
    """The array, or its rows where these lie together."""
    with path.open("rb") as file:
        shape, fortran, dtype = _check_header(file, path.stat().st_size, path, "array")
        if len(shape) in (3, 4) and 0 not in shape and not fortran:
            return flat_rows(path, "array", dtype, shape, offset=file.tell())
    return load_array(path)


def load_array(path: Path) -> np.ndarray:
    """The array of an .npy file, after its size was compared with the file."""
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size, path, "array")
        file.seek(0)
        with parsing(path, "array", "a NumPy array"):
            return np.lib.format.read_array(file, allow_pickle=False)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members: dict[str, str] = {}
        for name in archive.namelist():
            key = name.removesuffix(".npy")
            if key in members:
                problem = "is in the archive twice, and which of them counts nobody can know"
                raise FileError(path, key, f"{problem}: write it again")
            members[key] = name
        cube = only_key(members, CUBE_NAMES, path)
        return {
            key: _load_member(archive, members[key], path)
            for key in (cube, *_OTHERS)
            if key in members
        }


def _load_member(archive: zipfile.ZipFile, member: str, path: Path) -> np.ndarray:
    field = member.removesuffix(".npy")
    with parsing(path, field, "an array of .npz"):
        declared = archive.getinfo(member).file_size
        with archive.open(member) as file:
            _check_header(file, declared, path, field)
            # To the end, where the checksum is compared, before memory is taken for all of it.
            total = file.tell()
            while block := file.read(_BLOCK):
                total += len(block)
        if total != declared:
            raise FileError(path, field, f"has {total} bytes, not {declared}: it is incomplete")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(
    file: IO[bytes], size: int, path: Path, field: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Compare the declared shape with the number of bytes that are there; shape, order and type."""
    with parsing(path, field, "a NumPy array"):
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise FileError(path, field, f"is of the unknown version {version}")
        shape, fortran, dtype = read[version](file)
        if dtype.hasobject:
            problem = "holds Python objects (a pickle), which are never loaded: save plain arrays"
            raise FileError(path, field, problem)
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if any(n < 0 for n in shape) or expected != size:
            problem = (
                f"{dtype} of shape {shape} needs {expected} bytes with its header, but there are "
                f"{size}: it is incomplete or damaged"
            )
            raise FileError(path, field, problem)
        return shape, fortran, dtype


def _image(content: Mapping[str, np.ndarray], path: Path, kind: str) -> Image:
    name = only_key(content, CUBE_NAMES, path)
    values = content[name]
    if values.ndim not in (3, 4):
        problem = (
            "must have the axes (time, y, x, wavelength) or (y, x, wavelength), got the shape "
            f"{values.shape}"
        )
        raise FileError(path, name, problem)
    if name == "Y" and values.ndim == 3 and "wavelength" not in content:
        # The name is that of other programs, too, which keep the bands first.
        problem = (
            f"of shape {values.shape} is (row, column, band) or (band, row, column): which, must be "
            "stated. Store (row, column, band) under the name cubes, or add the wavelengths"
        )
        raise FileError(path, name, problem)
    axes = "(time, row, column, band)" if values.ndim == 4 else "(row, column, band)"
    notes = [f"{name}: {axes}"]
    if "wavelength" in content and "wavelength_unit" not in content:
        assume(notes, path, "the wavelengths are taken as nm: store wavelength_unit in the file")
    return Image(
        values=values,
        format=kind,
        dates=list(np.atleast_1d(content["time"])) if "time" in content else None,
        notes=notes,
        **spectral_fields(content, "nm", path),
    )


def spectral_fields(
    content: Mapping[str, np.ndarray], unit: str | None, path: Path
) -> dict[str, Any]:
    """Wavelength, fwhm, good, nodata, scale and offset of a file of named arrays."""
    found: dict[str, Any] = {"wavelength_unit": unit}
    if "wavelength_unit" in content:
        found["wavelength_unit"] = _text(content["wavelength_unit"], path)
    for key in ("wavelength", "fwhm", "good"):
        if key in content:
            found[key] = _numeric(content, key, path).reshape(-1)
    if "good" in found:
        found["good"] = found["good"] != 0
    for key in ("nodata", "scale", "offset"):
        if key in content:
            array = _numeric(content, key, path)
            found[key] = array.item() if array.size == 1 else array.reshape(-1)
    return found


def _text(array: np.ndarray, path: Path) -> str:
    if array.size != 1 or array.dtype.kind not in "US":
        raise FileError(path, "wavelength_unit", f"must be one text, got {array.dtype}")
    value = array.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _numeric(content: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    array = np.asarray(content[key])
    if array.dtype.kind not in "biuf":
        raise FileError(path, key, f"must hold numbers, got {array.dtype}")
    return array


def only_key(content: Mapping[str, Any], names: tuple[str, ...], path: Path) -> str:
    """Return the one of `names` that is in the file."""
    present = [name for name in names if name in content]
    if len(present) != 1:
        problem = (
            f"expected exactly one of {', '.join(names)}, got {', '.join(present) or 'none'} of "
            f"them among: {', '.join(content) or 'nothing'}"
        )
        raise FileError(path, "variables", problem)
    return present[0]
