"""Packed and missing values of NetCDF variables (CF conventions, sections 2.5.1 and 8.1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import assume

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


@dataclass(frozen=True, eq=False)
class Missing:
    """Which stored numbers of a variable stand for missing, and one mark for all of them.

    Missing are `_FillValue`, every number of `missing_value`, what lies outside `valid_range` or
    `valid_min` and `valid_max` (stored, not unpacked numbers), and the regions `unwritten`.
    """

    marks: list[Any]
    low: Any
    high: Any
    unwritten: Sequence[tuple[slice, ...]]
    dtype: np.dtype[Any]

    @property
    def plain(self) -> bool:
        """Whether one number, or none, is all that marks missing."""
        limits = self.low is not None or self.high is not None
        return len(self.marks) < 2 and not limits and not self.unwritten

    @property
    def nodata(self) -> Any:
        """What marks missing numbers beforehand; floating point without a fill is marked NaN."""
        return self.marks[0] if self.marks else None

    def mark(self) -> Any:
        """A stored number that no measurement can be; None where only the numbers can tell."""
        if self.dtype.kind == "f":
            return self.marks[0] if self.marks else np.nan
        info = np.iinfo(self.dtype)
        first = self.nodata
        if self.marks and float(first).is_integer() and info.min <= first <= info.max:
            return first
        if self.low is not None and self.low > info.min:
            return info.min
        if self.high is not None and self.high < info.max:
            return info.max
        return None

    def apply(self, values: np.ndarray, mark: Any, where: Sequence[slice]) -> np.ndarray:
        """Return the numbers of a part of the variable, `where`, with `mark` for all missing ones."""
        if not values.flags.writeable:
            values = values.copy()
        for region in self.unwritten:
            inside = [_within(one, other) for one, other in zip(region, where, strict=True)]
            values[tuple(inside)] = mark
        for part in values:  # a part at a time, so that no second copy of the image is made
            part[_is_missing(part, self.marks[1:], self.low, self.high)] = mark
        return values


def missing_of(
    attrs: Mapping[Any, Any],
    dtype: np.dtype[Any],
    path: AnyPath,
    name: str,
    notes: list[str],
    unwritten: Sequence[tuple[slice, ...]] = (),
) -> Missing:
    """What the attributes of a variable, and the regions nobody wrote, say about missing numbers."""
    if dtype.kind not in "iuf":
        raise FileError(path, name, f"must be real numbers, got {dtype}")
    marks = [mark for key in _MARKS if key in attrs for mark in _numbers(attrs, key, path, name)]
    low, high = _limits(attrs, dtype, path, name, notes)
    return Missing(marks, low, high, unwritten, dtype)


def mark_missing(
    values: np.ndarray, missing: Missing, path: AnyPath, name: str
) -> tuple[np.ndarray, Any]:
    """Return all stored numbers of a variable with one mark for all that is missing, and that mark.

    Floating point numbers without a fill are marked NaN, and the mark returned is None.
    """
    if missing.plain:
        return values, missing.nodata
    mark = missing.mark()
    if mark is None:
        mark = _free_number(values, path, name)
    values = missing.apply(values, mark, [slice(0, size) for size in values.shape])
    return values, missing.nodata if values.dtype.kind == "f" else mark


def _within(region: slice, part: slice) -> slice:
    """Where a region lies in a part that begins at `part.start`."""
    return slice(max(region.start - part.start, 0), max(region.stop - part.start, 0))


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


def _free_number(values: np.ndarray, path: AnyPath, name: str) -> Any:
    """The smallest or the largest integer of the type that is not among the values."""
    info = np.iinfo(values.dtype)
    free = [mark for mark in (info.min, info.max) if not (values == mark).any()]
    if not free:
        problem = f"uses all of {values.dtype}, so that nothing is left to mark missing values"
        raise FileError(path, name, problem)
    return free[0]
