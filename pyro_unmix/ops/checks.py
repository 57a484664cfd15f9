"""Input checks: each error says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

# Of a size or a seed, in torch.
_LARGEST_INT = 2**63 - 1


def finite_array(
    x: npt.ArrayLike,
    name: str,
    *,
    ndim: int | None = None,
    dtype: npt.DTypeLike = np.float64,
) -> np.ndarray:
    """Return `x` as an array of finite real numbers.

    Parameters
    ----------
    x : array_like
        Real numbers, any shape.
    name : str
        What the caller's user knows it as.
    ndim : int, optional
        The number of dimensions that it must have.
    dtype : dtype
        Of the result. The result may share memory with `x`: it is for reading.

    Raises
    ------
    TypeError
        If the elements are not real numbers.
    ValueError
        If the rank is wrong, or a value is NaN or infinite.
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"{name} must have no masked values, got {np.ma.count_masked(x)} of them")
    try:
        array = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be a regular array of numbers: {error}") from error
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype} ({type(x).__name__})")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} dimensions, got {array.ndim}: shape {array.shape}"
        )
    array = array.astype(dtype, copy=False)
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {array.size} values")
    return array


def positive_int(value: object, name: str, *, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`, of 64 bits.

    Raises
    ------
    TypeError
        If it is not an integer (a bool and a float such as 3.0 are not).
    ValueError
        If it is too small or too large.
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got the bool {value}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} must be an integer, got {value!r} ({kind})") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if number > _LARGEST_INT:
        raise ValueError(f"{name} must be at most {_LARGEST_INT}, got {number}")
    return number


def in_range(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a finite float between `low` and `high`.

    The ends belong to the range unless `open_low` or `open_high` is set.

    Raises
    ------
    TypeError
        If it is not one real number.
    ValueError
        If it is outside the range, NaN or infinite.
    """
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) != 0:  # type: ignore[arg-type]
        raise TypeError(f"{name} must be one real number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise TypeError(f"{name} must be one real number, got {value!r} ({kind})") from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below and math.isfinite(number)):
        # An infinite end is never reached, so it is shown as open.
        left = "(" if open_low or math.isinf(low) else "["
        right = ")" if open_high or math.isinf(high) else "]"
        raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}{right}, got {number:g}")
    return number


def positive(value: object, name: str) -> float:
    """Return `value` as a finite float above zero; errors as `in_range`."""
    return in_range(value, name, 0.0, open_low=True)


def true_or_false(value: object, name: str) -> bool:
    """Return `value` as a bool.

    Raises
    ------
    TypeError
        If it is none: text, None and numbers would count as one of the two.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def choice(value: object, name: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises
    ------
    ValueError
        If it is not; the text lists the choices and names the closest one.
    """
    options = list(choices)
    if isinstance(value, str) and value in options:
        return value
    close = difflib.get_close_matches(str(value), options, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    listed = ", ".join(repr(option) for option in options)
    raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")
