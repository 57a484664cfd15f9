"""A fitted sequence at other dates: the model's states between, after and beside the images."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix._check import as_times


def dated(model: Any, guide: Any, cubes: xr.DataArray) -> tuple[Any, Any]:
    """Model and guide at the dates of `cubes`: the given ones, or copies where theirs differ.

    A model that was built without dates takes all steps alike. Images without dates are taken at those of the model,
    if there are as many.

    Raises
    ------
    ValueError
        If the model knows its dates, and the images have none and are not as many.
    """
    known = _num_dates(model)
    if known is None:
        return model, guide
    if "time" not in cubes.coords:
        if cubes.sizes["time"] == known:
            return model, guide
        raise ValueError(
            f"the model was fitted with {known} dates, and the {cubes.sizes['time']} images have "
            "none: give them with as_cube_sequence(cubes, time=dates)"
        )
    model, guide = copy.deepcopy((model, guide))
    model.set_dates(cubes["time"].values)
    return model, guide


def _num_dates(model: Any) -> int | None:
    """How many dates a model was given that can take others; None for all other models."""
    return model.num_dates if hasattr(model, "set_dates") else None


def with_dates(cubes: xr.DataArray, dates: Any) -> tuple[xr.DataArray, np.ndarray]:
    """The images and, between them, empty ones at other dates.

    Returns
    -------
    DataArray (time, y, x, wavelength)
        NaN at dates that `cubes` do not have.
    array of int
        Where in it the given dates are, in their order.
    """
    wanted, times = _both(dates, cubes)
    union = np.union1d(times, wanted)
    return cubes.reindex(time=union), np.searchsorted(union, wanted)


def need_dates(model: Any, cubes: xr.DataArray) -> None:
    """Raise ValueError unless the model and the images have dates."""
    if _num_dates(model) is None or "time" not in cubes.coords:
        raise ValueError(
            "the model knows no dates: fit it to a sequence that has them, with unmix(cubes, ...) or "
            'SGLMM(..., dates=cubes["time"]), where cubes = as_cube_sequence(images, time=dates)'
        )


def _both(dates: Any, cubes: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """The dates asked for and those of the images, of one kind."""
    times = cubes["time"].values
    dates = np.atleast_1d(np.asarray(dates))
    if not dates.size:
        raise ValueError("dates must hold at least one date, got none")
    wanted = as_times(dates, dates.size)
    if (wanted.dtype.kind == "M") != (times.dtype.kind == "M"):
        kind = "dates" if times.dtype.kind == "M" else "numbers of days"
        raise TypeError(
            f"the images have {kind}, and so must what is asked for, got {wanted.dtype}"
        )
    return wanted, times


def check_forecast(dates: Any, cubes: xr.DataArray) -> None:
    """Raise ValueError unless all dates are after the last image."""
    wanted, times = _both(dates, cubes)
    _refuse(
        wanted, wanted <= times[-1], f"forecast is for dates after the last image ({times[-1]})"
    )


def check_interpolation(dates: Any, cubes: xr.DataArray) -> None:
    """Raise ValueError unless all dates are within the sequence."""
    wanted, times = _both(dates, cubes)
    outside = (wanted < times[0]) | (wanted > times[-1])
    _refuse(
        wanted,
        outside,
        f"interpolate is for dates from the first image to the last ({times[0]} to {times[-1]})",
    )


def _refuse(wanted: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        other = "forecast" if rule.startswith("interpolate") else "interpolate"
        raise ValueError(f"{rule}, got {wanted[wrong][0]}: the others are for {other}()")
