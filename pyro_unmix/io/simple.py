"""Read cube sequences from NetCDF, NumPy and MATLAB files of a known layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import xarray as xr

from pyro_unmix._check import MAX_MEDIAN_REFLECTANCE, choice
from pyro_unmix.cubes import DIMS, as_cube_sequence


def read_cubes(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> xr.DataArray:
    """Read one file, or several that are joined in time in the order given.

    Layouts (L bands, H rows, W columns, T dates, N = H W):

    - `.nc` (NetCDF-4): the variable `reflectance`, or the only one with the dims time (may be left
      out), y, x, wavelength in any order.
    - `.npz`: one of `cubes`, `reflectance`, `Y`, each (T, H, W, L) or (H, W, L); optional
      `wavelength` (L,) in nm, `time` (T,), `scale` (one number or (L,); reflectance = stored x
      scale) and `nodata` (the stored value that marks missing).
    - `.mat` (v5 and v7.3): `Y` as (L, H, W, T); or (L, N) with pixels in column-major order and the
      image size in `nRow`/`nCol`, `lines`/`cols` or `H`/`W`; or a cell array of T such (L, N).
      A `maxValue` divides `Y`.

    Parameters
    ----------
    path : path, or list of paths

    Returns
    -------
    xarray.DataArray
        `reflectance` (time, y, x, wavelength), see `as_cube_sequence`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is unknown, the file is broken, its layout is another one, or its content is
        no valid cube sequence. The text names the file.
    """
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    raw = [_read_one(p) for p in paths]
    try:
        return as_cube_sequence(raw[0] if len(raw) == 1 else raw)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{', '.join(map(str, paths))}: {error}") from error


def _read_one(path: Path) -> xr.DataArray:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    suffix = choice(path.suffix.lower(), f"the suffix of {path}", _READERS)
    load, label = _READERS[suffix]
    try:
        content = load(path)
    except Exception as error:
        # The parsers raise whatever broken bytes lead them to: zlib, struct, key, memory errors.
        raise ValueError(
            f"{path}: cannot be read as {suffix}, it may be truncated or of another format "
            f"({type(error).__name__}: {error})"
        ) from error
    try:
        return label(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _load_nc(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def _label_nc(dataset: xr.Dataset) -> xr.DataArray:
    if "reflectance" in dataset:
        return dataset["reflectance"]
    fitting = [n for n, v in dataset.data_vars.items() if set(DIMS[1:]) <= set(v.dims) <= set(DIMS)]
    if len(fitting) != 1:
        found = ", ".join(f"{n}{v.dims}" for n, v in dataset.data_vars.items())
        raise ValueError(
            "expected a variable 'reflectance', or one variable with the dims (time, y, x, "
            f"wavelength), got {len(fitting)} of them among: {found}. Rename the dims or the "
            "variable"
        )
    return dataset[fitting[0]]


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _label_npz(content: Mapping[str, np.ndarray]) -> xr.DataArray:
    name = _only_key(content, ("cubes", "reflectance", "Y"))
    stored = content[name]
    if stored.ndim not in (3, 4):
        raise ValueError(
            f"{name} must have the axes (time, y, x, wavelength) or (y, x, wavelength), got shape "
            f"{stored.shape}"
        )
    values = stored
    if "scale" in content:
        values = stored * _as_scale(content["scale"], stored.shape[-1])
    elif stored.dtype.kind in "iu":
        raise ValueError(f"{name} holds integers without a scale: add the key 'scale'")
    if "nodata" in content:
        # Marked by the stored value: once scaled, -9999 x 1e-4 looks like a reflectance.
        values = np.where(stored == content["nodata"], np.nan, values)
    coords = {}
    if "wavelength" in content:
        coords["wavelength"] = _axis(content, "wavelength", stored.shape[-1])
    if "time" in content:
        num_dates = stored.shape[0] if stored.ndim == 4 else 1
        coords["time"] = _axis(content, "time", num_dates)
    grid = values if values.ndim == 4 else values[np.newaxis]
    return xr.DataArray(grid, dims=DIMS, coords=coords)


def _only_key(content: Mapping[str, Any], names: Sequence[str]) -> str:
    present = [name for name in names if name in content]
    if len(present) != 1:
        raise ValueError(
            f"expected exactly one of the keys {', '.join(names)}, got "
            f"{', '.join(present) or 'none of them'} among: {', '.join(content) or 'nothing'}"
        )
    return present[0]


def _as_scale(scale: np.ndarray, num_bands: int) -> np.ndarray:
    if scale.dtype.kind not in "iuf" or scale.shape not in ((), (1,), (num_bands,)):
        raise ValueError(
            f"scale must be one number or one per band ({num_bands}), got {scale.dtype} of shape "
            f"{scale.shape}"
        )
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("scale must be finite and positive")
    return scale


def _axis(content: Mapping[str, np.ndarray], name: str, size: int) -> np.ndarray:
    axis = np.atleast_1d(content[name])
    if axis.shape != (size,):
        raise ValueError(f"{name} must have the shape ({size},), got {axis.shape}")
    return axis


def _load_mat(path: Path) -> dict[str, Any]:
    """All arrays of the file in MATLAB's axis order; a cell array as a list."""
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            return {n: _from_hdf5(file, d) for n, d in file.items() if isinstance(d, h5py.Dataset)}
    content = scipy.io.loadmat(path)
    return {
        name: list(array.ravel(order="F")) if array.dtype == object else array
        for name, array in content.items()
        if isinstance(array, np.ndarray)
    }


def _from_hdf5(file: h5py.File, dataset: h5py.Dataset) -> Any:
    # MATLAB writes its column-major arrays as they lie in memory, which reverses the axes.
    if h5py.check_ref_dtype(dataset.dtype) is not None:
        return [np.asarray(file[reference]).T for reference in dataset[()].T.ravel(order="F")]
    return np.asarray(dataset[()]).T


def _label_mat(content: Mapping[str, Any]) -> xr.DataArray:
    _only_key(content, ("Y",))
    stored = content["Y"]
    if isinstance(stored, list):
        images = [_from_columns(cell, content) for cell in stored]
        if len({image.shape for image in images}) != 1:
            raise ValueError(
                f"the cells of Y must have one shape, got {[image.shape for image in images]}"
            )
        values = np.stack(images)
    elif stored.ndim == 4:
        values = stored.transpose(3, 1, 2, 0)
    elif stored.ndim == 2:
        values = _from_columns(stored, content)[np.newaxis]
    else:
        raise ValueError(
            "Y must have the axes (band, row, column, time), or (band, pixel), or be a cell array "
            f"of the latter, got shape {stored.shape}"
        )
    if "maxValue" in content:
        values = _divided(values, content["maxValue"])
    return xr.DataArray(values, dims=DIMS)


def _divided(values: np.ndarray, max_value: Any) -> np.ndarray:
    divisor = _number({"maxValue": max_value}, "maxValue")
    largest = np.fmax.reduce(values, axis=None)
    if divisor > MAX_MEDIAN_REFLECTANCE and largest <= MAX_MEDIAN_REFLECTANCE:
        raise ValueError(
            f"Y is at most {largest:g}, so already reflectance, but there is a maxValue of "
            f"{divisor:g} to divide by: remove maxValue from the file"
        )
    return values / divisor


def _from_columns(matrix: Any, content: Mapping[str, Any]) -> np.ndarray:
    """(L, N) with pixels in column-major order -> (H, W, L)."""
    pairs = (("nRow", "nCol"), ("lines", "cols"), ("H", "W"))
    found = [pair for pair in pairs if pair[0] in content and pair[1] in content]
    if len(found) != 1:
        raise ValueError(
            "Y of shape (band, pixel) needs the image size in exactly one of nRow/nCol, "
            f"lines/cols, H/W, got {len(found)} of them among: {', '.join(content)}"
        )
    height, width = (int(_number(content, name)) for name in found[0])
    if matrix.ndim != 2 or matrix.shape[1] != height * width:
        raise ValueError(
            f"Y must have the shape (band, {height * width}) for {height} rows and {width} "
            f"columns, got {matrix.shape}"
        )
    return matrix.reshape(-1, height, width, order="F").transpose(1, 2, 0)


def _number(content: Mapping[str, Any], name: str) -> float:
    array = np.asarray(content[name])
    if array.size != 1 or array.dtype.kind not in "iuf" or not 0 < array.item() < np.inf:
        raise ValueError(f"{name} must be one positive number, got {array.dtype} {array.shape}")
    return float(array.item())


# For each suffix: bytes to arrays (may fail in any way), then arrays to a labelled array.
_READERS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], xr.DataArray]]] = {
    ".nc": (_load_nc, _label_nc),
    ".npz": (_load_npz, _label_npz),
    ".mat": (_load_mat, _label_mat),
}
