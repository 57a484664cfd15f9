"""Packed and missing values of NetCDF variables (CF conventions, sections 2.5.1 and 8.1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.stored import assume

_MARKS = ("_FillValue", "missing_value")
_LIMITS = ("valid_range", "valid_min", "valid_max")

AnyPath = str | os.PathLike[str]


def as_unsigned(
    values: np.ndarray, attrs: Mapping[Any, Any]
) -> tuple[np.ndarray, Mapping[Any, Any]]:
    """Return signed integers as the unsigned ones that `_Unsigned` says they are, marks likewise."""
    if str(attrs.get("_Unsigned", "")).lower() != "true" or values.dtype.kind != "i":
        return values, attrs
    signed, unsigned = values.dtype, values.dtype.str.replace("i", "u")
    changed = dict(attrs)
    for key in (*_MARKS, *_LIMITS):
        # The marks have the stored, signed type as well.
        if key in attrs and np.asarray(attrs[key]).dtype.kind == "i":
            changed[key] = np.atleast_1d(attrs[key]).astype(signed).view(unsigned)
    return values.view(unsigned), changed


def number(attrs: Mapping[Any, Any], key: str, path: AnyPath, name: str) -> Any:
    """An attribute as a number, or as one number per band."""
    values = _numbers(attrs, key, path, name)
    return values[0] if values.size == 1 else values


def mark_missing(
    values: np.ndarray,
    attrs: Mapping[Any, Any],
    path: AnyPath,
    name: str,
    notes: list[str],
    unwritten: Sequence[tuple[slice, ...]] = (),
) -> tuple[np.ndarray, Any]:
    """Return the stored numbers with one mark for all that is missing, and that mark.

    Missing are `_FillValue`, every number of `missing_value`, what lies outside `valid_range` or
    `valid_min` and `valid_max` (stored, not unpacked numbers), and the regions `unwritten`. Floating
    point numbers without a fill are marked NaN, and the mark returned is None.
    """
    marks = [mark for key in _MARKS if key in attrs for mark in _numbers(attrs, key, path, name)]
    low, high = _limits(attrs, values.dtype, path, name, notes)
    first = marks[0] if marks else None
    if len(marks) < 2 and low is None and high is None and not unwritten:
        return values, first
    if not values.flags.writeable:
        values = values.copy()
    mark = _one_mark(values, marks, low, high, path, name)
    for region in unwritten:
        values[region] = mark
    for part in values:  # a part at a time, so that no second copy of the image is made
        part[_is_missing(part, marks[1:], low, high)] = mark
    return values, first if values.dtype.kind == "f" else mark


def unpacked(variable: xr.Variable, path: AnyPath, name: str, notes: list[str]) -> np.ndarray:
    """The numbers that a coordinate stands for: stored * scale_factor + add_offset, NaN = missing.

    Coordinates that are neither packed nor have marks come back as they are stored.
    """
    values, attrs = as_unsigned(variable.to_numpy(), variable.attrs)
    packing = ("scale_factor", "add_offset")
    if values.dtype.kind not in "iuf" or not any(
        key in attrs for key in (*packing, *_MARKS, *_LIMITS)
    ):
        return values
    marks = [mark for key in _MARKS if key in attrs for mark in _numbers(attrs, key, path, name)]
    low, high = _limits(attrs, values.dtype, path, name, notes)
    scale, offset = (number(attrs, key, path, name) if key in attrs else None for key in packing)
    missing = _is_missing(values, marks, low, high)
    if scale is None and offset is None and not missing.any():
        return values
    result = values.astype(np.float64) * (1.0 if scale is None else scale)
    result += 0.0 if offset is None else offset
    result[missing] = np.nan
    return result


def _numbers(attrs: Mapping[Any, Any], key: str, path: AnyPath, name: str) -> np.ndarray:
    values = np.asarray(attrs[key])
    if values.dtype.kind not in "iuf" or values.ndim > 1 or values.size == 0:
        raise FileError(path, f"{name}:{key}", f"must be a number, got {attrs[key]!r:.80}")
    return values.reshape(-1)


def _limits(
    attrs: Mapping[Any, Any], dtype: np.dtype, path: AnyPath, name: str, notes: list[str]
) -> tuple[Any, Any]:
    """The smallest and the largest valid stored number, None where there is no limit."""
    given = {key: _numbers(attrs, key, path, name) for key in _LIMITS if key in attrs}
    if not given:
        return None, None
    for key, numbers in given.items():
        size = 2 if key == "valid_range" else 1
        if numbers.size != size or np.isnan(numbers).any():
            problem = f"must hold {size} number{'s'[: size - 1]}, got {attrs[key]!r:.80}"
            raise FileError(path, f"{name}:{key}", problem)
    if "valid_range" in given:
        if len(given) > 1:
            problem = "is given together with valid_min or valid_max: remove one of them"
            raise FileError(path, f"{name}:valid_range", problem)
        low, high = given["valid_range"]
    else:
        low, high = (given[key][0] if key in given else None for key in _LIMITS[1:])
    if low is not None and high is not None and low > high:
        raise FileError(path, f"{name}:{', '.join(given)}", f"no number is in {low} to {high}")
    wide = any(numbers.dtype.kind == "f" for numbers in given.values())
    if dtype.kind == "f" or not wide or "scale_factor" not in attrs:
        return low, high
    # NetCDF User Guide, appendix A: limits of a wider type than the packed one are unpacked.
    text = f"{name}: {', '.join(given)} is floating point, the numbers are packed integers: "
    assume(notes, path, f"{text}taken as limits of the unpacked numbers")
    low, high = (_packed(limit, attrs, path, name) for limit in (low, high))
    # Rounding must not move a limit past the number that it stands for.
    low = None if low is None else np.ceil(low - 1e-6 * max(1.0, abs(low)))
    high = None if high is None else np.floor(high + 1e-6 * max(1.0, abs(high)))
    return low, high


def _packed(limit: Any, attrs: Mapping[Any, Any], path: AnyPath, name: str) -> float | None:
    if limit is None:
        return None
    scale = number(attrs, "scale_factor", path, name)
    offset = number(attrs, "add_offset", path, name) if "add_offset" in attrs else 0.0
    if np.ndim(scale) or np.ndim(offset) or not scale > 0:
        problem = "are of unpacked numbers, for which scale_factor must be one positive number"
        raise FileError(path, f"{name}:valid_range", problem)
    return float((limit - offset) / scale)


def _is_missing(values: np.ndarray, marks: Sequence[Any], low: Any, high: Any) -> np.ndarray:
    missing = np.zeros(values.shape, dtype=bool)
    for mark in marks:
        # A mark such as 1e20 must be compared in the precision of the file.
        missing |= values == _as_stored(mark, values.dtype)
    if low is not None:
        missing |= values < _as_stored(low, values.dtype)
    if high is not None:
        missing |= values > _as_stored(high, values.dtype)
    return missing


def _as_stored(mark: Any, dtype: np.dtype) -> Any:
    if dtype.kind != "f":
        return mark
    with np.errstate(over="ignore"):
        return np.asarray(mark).astype(dtype)


def _one_mark(
    values: np.ndarray, marks: Sequence[Any], low: Any, high: Any, path: AnyPath, name: str
) -> Any:
    """A stored number that no measurement has."""
    dtype = values.dtype
    if dtype.kind == "f":
        return marks[0] if marks else np.nan
    if dtype.kind not in "iu":
        raise FileError(path, name, f"must be real numbers, got {dtype}")
    info = np.iinfo(dtype)
    if marks and float(marks[0]).is_integer() and info.min <= marks[0] <= info.max:
        return marks[0]
    if low is not None and low > info.min:
        return info.min
    if high is not None and high < info.max:
        return info.max
    free = [mark for mark in (info.min, info.max) if not (values == mark).any()]
    if not free:
        problem = f"uses all of {dtype}, so that nothing is left to mark missing values"
        raise FileError(path, name, problem)
    return free[0]
