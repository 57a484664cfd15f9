"""MATLAB files, v5 through SciPy and v7.3 through h5py, of the layouts in which scenes are shared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pyro_unmix.data.checks import MAX_MEDIAN_REFLECTANCE
from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.formats.npz import only_key, spectral_fields
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.hdf5 import check_stored, open_hdf5
from pyro_unmix.io.integrity.matlab import check_v5

_SIZES = (("nRow", "nCol"), ("lines", "cols"), ("H", "W"))
_FIELDS = ("wavelength", "wavelength_unit", "fwhm", "good", "nodata", "scale", "offset")
_IMAGES = ("Y", "V")
_WANTED = (*_IMAGES, "maxValue", *_FIELDS, *(name for pair in _SIZES for name in pair))


class _Matlab:
    """`Y`, or `V`, as (L, H, W, T); or (L, H, W) or (H, W, L); or (L, N), or a cell array of T such matrices.

    The N pixels are in column-major order. The image size is in `nRow`/`nCol`, `lines`/`cols` or
    `H`/`W`; two or three axes are understood by it alone. A `maxValue` divides it. Optional as in
    npz: wavelength with `wavelength_unit`, fwhm, good, nodata, scale, offset.
    """

    name = "MATLAB file"
    suffixes = (".mat",)

    def sniff(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(128)
        # An HDF5 file without MATLAB's text in front is MATLAB's only by its name.
        return head.startswith(b"MATLAB") or (
            path.suffix.lower() == ".mat" and bool(h5py.is_hdf5(path))
        )

    def read(self, path: Path) -> Image:
        with parsing(path, "content", "a MATLAB file"):
            content = _load_v73(path) if h5py.is_hdf5(path) else _load_v5(path)
            return _image(content, path, self.name)


READER = _Matlab()


def _load_v5(path: Path) -> dict[str, Any]:
    check_v5(path, _WANTED)
    import scipy.io

    content = scipy.io.loadmat(path, variable_names=_WANTED)
    return {
        name: list(array.ravel(order="F")) if array.dtype == object else array
        for name, array in content.items()
        if isinstance(array, np.ndarray)
    }


def _load_v73(path: Path) -> dict[str, Any]:
    """The arrays in MATLAB's axis order; a cell array as a list."""
    with open_hdf5(path, "a MATLAB file") as file:
        return {
            name: _from_hdf5(path, file, file[name])
            for name in _WANTED
            if isinstance(file.get(name), h5py.Dataset)
        }


def _from_hdf5(path: Path, file: h5py.File, dataset: h5py.Dataset) -> Any:
    # MATLAB writes its column-major arrays as they lie in memory, which reverses the axes.
    check_stored(path, dataset)
    if h5py.check_ref_dtype(dataset.dtype) is None:
        array = np.asarray(dataset[()]).T
        if dataset.attrs.get("MATLAB_class") == b"char":
            return np.array("".join(chr(code) for code in array.ravel(order="F")))
        return array
    cells = []
    for reference in dataset[()].T.ravel(order="F"):
        if not reference or not isinstance(file[reference], h5py.Dataset):
            raise FileError(path, str(dataset.name).lstrip("/"), "has a cell without an array")
        check_stored(path, file[reference])
        cells.append(np.asarray(file[reference][()]).T)
    return cells


def _image(content: Mapping[str, Any], path: Path, kind: str) -> Image:
    # Collections of scenes call the image Y or V; a file with both, which has always been read by its Y, still is.
    name = "Y" if "Y" in content else only_key(content, _IMAGES, path)
    values, layout = _values(name, content, path)
    fields = spectral_fields({n: content[n] for n in _FIELDS if n in content}, None, path)
    if "maxValue" in content:
        if "scale" in fields:
            problem = "is given together with scale: remove one of them from the file"
            raise FileError(path, "maxValue", problem)
        fields["scale"] = 1 / _divisor(name, values, content, path)
    return Image(values=values, format=kind, notes=[layout], **fields)


def _values(name: str, content: Mapping[str, Any], path: Path) -> tuple[np.ndarray, str]:
    """(T, H, W, L), and in words how it was stored."""
    stored = content[name]
    if isinstance(stored, list):
        shapes = sorted({np.shape(cell) for cell in stored})
        if len(shapes) != 1:
            problem = f"must be a cell array of matrices of one shape, got {shapes}"
            raise FileError(path, name, problem)
        images = [_from_columns(name, cell, content, path) for cell in stored]
        return np.stack(
            images
        ), f"{name}: cell array of {len(images)} dates (band, column-major pixel)"
    if stored.ndim == 4:
        _check_axes(name, stored, content, path)
        return stored.transpose(3, 1, 2, 0), f"{name}: (band, row, column, time)"
    if stored.ndim == 3:
        return _one_cube(name, stored, content, path)
    if stored.ndim == 2:
        image = _from_columns(name, stored, content, path)
        return image[np.newaxis], f"{name}: (band, column-major pixel)"
    problem = (
        "must have the axes (band, row, column, time), (band, row, column), (row, column, band) or "
        f"(band, pixel), or be a cell array of the latter, got the shape {stored.shape}"
    )
    raise FileError(path, name, problem)


def _stated_sizes(content: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Rows and columns by the names under which the file states them."""
    return {
        "/".join(pair): (
            int(_number(content, pair[0], path)),
            int(_number(content, pair[1], path)),
        )
        for pair in _SIZES
        if pair[0] in content and pair[1] in content
    }


def _one_cube(
    name: str, stored: np.ndarray, content: Mapping[str, Any], path: Path
) -> tuple[np.ndarray, str]:
    """(L, H, W) or (H, W, L) -> (1, H, W, L): which of them, only the stated sizes can say."""
    sizes = set(_stated_sizes(content, path).values())
    first, last = sizes == {stored.shape[1:]}, sizes == {stored.shape[:2]}
    if first and not last:
        return stored.transpose(1, 2, 0)[np.newaxis], f"{name}: (band, row, column)"
    if last and not first:
        return stored[np.newaxis], f"{name}: (row, column, band)"
    listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes)) or "none"
    problem = (
        f"of shape {stored.shape} is (band, row, column) or (row, column, band): which, must follow "
        f"from the rows and columns in nRow/nCol, lines/cols or H/W, got {listed}"
    )
    if first and last:
        problem += ", which fits both: store it as (band, pixel), column-major"
    raise FileError(path, name, problem)


def _check_axes(name: str, stored: np.ndarray, content: Mapping[str, Any], path: Path) -> None:
    """Sizes that the file states must be those of the axes (band, row, column, time)."""
    for names, stated in _stated_sizes(content, path).items():
        if stated != stored.shape[1:3]:
            problem = (
                f"must have the axes (band, row, column, time), but rows and columns are {stated} "
                f"by {names} and the shape is {stored.shape}: permute it"
            )
            raise FileError(path, name, problem)


def _divisor(name: str, values: np.ndarray, content: Mapping[str, Any], path: Path) -> float:
    divisor = _number(content, "maxValue", path)
    largest = np.fmax.reduce(values, axis=None)
    if divisor > MAX_MEDIAN_REFLECTANCE and largest <= MAX_MEDIAN_REFLECTANCE:
        problem = (
            f"is {divisor:g}, but {name} is at most {largest:g}, so already reflectance: remove "
            "maxValue from the file"
        )
        raise FileError(path, "maxValue", problem)
    return divisor


def _from_columns(name: str, matrix: Any, content: Mapping[str, Any], path: Path) -> np.ndarray:
    """(L, N) with pixels in column-major order -> (H, W, L)."""
    found = list(_stated_sizes(content, path).values())
    if len(found) != 1:
        problem = (
            "of shape (band, pixel) needs the image size in exactly one of nRow/nCol, lines/cols, "
            f"H/W, got {len(found)} of them among: {', '.join(content)}"
        )
        raise FileError(path, name, problem)
    height, width = found[0]
    if matrix.ndim != 2 or matrix.shape[1] != height * width:
        problem = (
            f"must have the shape (band, {height * width}) for {height} rows and {width} columns, "
            f"got {matrix.shape}"
        )
        raise FileError(path, name, problem)
    return matrix.reshape(-1, height, width, order="F").transpose(1, 2, 0)


def _number(content: Mapping[str, Any], name: str, path: Path) -> float:
    array = np.asarray(content[name])
    if array.size != 1 or array.dtype.kind not in "iuf" or not 0 < array.item() < np.inf:
        found = array.item() if array.size == 1 else f"{array.dtype} of shape {array.shape}"
        problem = f"must be one positive number, got {found}"
        raise FileError(path, name, problem)
    return float(array.item())
