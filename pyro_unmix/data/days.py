"""Dates as numbers of days."""

from __future__ import annotations

import numpy as np

from pyro_unmix.data.checks import as_times
from pyro_unmix.data.types import DatesLike


def as_days(dates: DatesLike) -> np.ndarray:
    """Days since the first of the dates, (T,); numbers are days.

    Raises
    ------
    ValueError
        If dates do not increase.
    """
    dates = np.atleast_1d(np.asarray(dates))
    if not dates.size:
        raise ValueError("dates must hold at least one date, got none")
    times = as_times(dates, dates.size)
    if times.dtype.kind == "M":
        days = (times - times[0]) / np.timedelta64(1, "D")
    else:
        days = times.astype(float) - float(times[0])  # unsigned ones cannot be subtracted
    if (np.diff(days) <= 0).any():
        raise ValueError(
            f"dates must increase, got {times.tolist()}: sort the images by date, and average or "
            "drop those of the same date"
        )
    return days


def day_numbers(dates: DatesLike) -> np.ndarray:
    """Days since 1970-01-01 in double precision; numbers are days already."""
    dates = np.atleast_1d(np.asarray(dates))
    times = as_times(dates, dates.size)
    if times.dtype.kind == "M":
        return (times - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    return times.astype(float)
