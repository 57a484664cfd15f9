"""A fitted sequence at other dates: the model's states between, after and beside the images."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro.infer.autoguide import AutoGuide

from pyro_unmix.data.checks import as_times
from pyro_unmix.data.days import as_days
from pyro_unmix.data.types import DatesLike, GuideProgram, ModelProgram
from pyro_unmix.priors import SeasonalVariability

logger = logging.getLogger(__name__)

_SAME = 1e-6  # days


def check_dates(model: ModelProgram, guide: GuideProgram, cubes: xr.DataArray) -> None:
    """Refuse images at other dates than those that a model was built for; images without dates must be as many.

    Raises
    ------
    ValueError
        If dates differ, or the guide cannot serve those that the model was given after it was built.
    """
    known = _days(model)
    if known is None:
        return
    if len(known) != cubes.sizes["time"]:
        raise ValueError(
            f"the model was built for {len(known)} dates, the images have {cubes.sizes['time']}: "
            "pass dates=cubes['time'] to the model"
        )
    if not _same_dates(known, cubes):
        days = as_days(cubes["time"].values)
        first = int(np.argmax(np.abs(days - known) > _SAME))
        raise ValueError(
            f"the model was built for other dates: its date {first + 1} is {known[first]:g} days "
            f"after its first, that of the images {days[first]:g}: pass dates=cubes['time'] to the "
            "model"
        )
    if not _same_season(model, cubes):
        raise ValueError(
            "the model was built for dates at another time of the year than those of the images: pass "
            "dates=cubes['time'] to the model"
        )
    if hasattr(guide, "check_served"):
        guide.check_served()


def copies(model: ModelProgram, guide: GuideProgram, *others: Any) -> tuple[Any, ...]:
    """Copies that belong together; training or dating the originals leaves them alone."""
    modules = list(guide.modules()) if isinstance(guide, torch.nn.Module) else []
    # Pyro's autoguides keep a trace that cannot be copied and never changes.
    traces = [getattr(module, "prototype_trace", None) for module in modules]
    # They also forget their model, and the guide that they are a part of, when they are copied.
    held = [(part, part._model, part.master) for part in modules if isinstance(part, AutoGuide)]
    try:
        return copy.deepcopy(
            (model, guide, *others), {id(trace): trace for trace in traces if trace}
        )
    finally:
        for part, program, master in held:
            part._model, part.master = program, master


def has_field(model: ModelProgram) -> bool:
    """Whether the model's variability belongs to the scene that it was fitted to, as with `SmoothVariability`."""
    return getattr(getattr(model, "variability_prior", None), "of_scene", False)


def dated(model: Any, guide: Any, cubes: xr.DataArray) -> tuple[Any, Any]:
    """Model and guide at the dates of `cubes`: the given ones, or copies where theirs differ.

    A model that was built without dates takes all steps alike. Images without dates are taken at those of the model,
    if there are as many.

    Raises
    ------
    ValueError
        If the model knows its dates, and the images have none and are not as many, or the guide cannot serve theirs.
    """
    known = _days(model)
    if known is None:
        return model, guide
    if (
        len(known) == cubes.sizes["time"]
        and _same_dates(known, cubes)
        and _same_season(model, cubes)
    ):
        return model, guide
    if "time" not in cubes.coords:
        raise ValueError(
            f"the model was fitted with {len(known)} dates, and the {cubes.sizes['time']} images "
            "have none: give them with as_cube_sequence(cubes, time=dates)"
        )
    if isinstance(guide, AutoGuide):
        raise ValueError(
            f"{type(guide).__name__} is a posterior of the pixels and dates that it was fitted to, "
            "and knows no others: fit ConjugateGuide(model) instead"
        )
    places = _places(known, cubes) if has_field(model) else []
    model, guide = copies(model, guide)
    if has_field(model):
        model.add_dates(places, cubes["time"].values)
        guide.add_innovations()
    else:
        model.set_dates(cubes["time"].values)
    if hasattr(guide, "check_served"):
        guide.check_served()
    return model, guide


def _places(known: np.ndarray, cubes: xr.DataArray) -> list[int]:
    """Where among the dates of `cubes` the known ones are, which must all be there."""
    apart = np.abs(as_days(cubes["time"].values) - known[:, np.newaxis])
    if (apart.min(1) > _SAME).any():
        raise ValueError(
            "the smooth field of the model is of the dates that it was fitted to, and the images lack some of them: "
            "fit the images of all dates, or use unmix(..., basis=DCT(6)), whose pixels stand alone"
        )
    return apart.argmin(1).tolist()


def _days(model: Any) -> np.ndarray | None:
    """The days of a model that can take others; None for all other models."""
    return model.days if hasattr(model, "set_dates") else None


def _same_dates(known: np.ndarray, cubes: xr.DataArray) -> bool:
    """Whether images, as many as the known days, are at them; those without dates are taken to be."""
    if "time" not in cubes.coords:
        return True
    return np.allclose(as_days(cubes["time"].values), known, rtol=0, atol=_SAME)


def _same_season(model: ModelProgram, cubes: xr.DataArray) -> bool:
    """Whether images as far apart as those of the model are the same to its variability."""
    prior = getattr(model, "variability_prior", None)
    if "time" not in cubes.coords or not isinstance(prior, SeasonalVariability):
        return True
    return prior.same_season(cubes["time"].values)


def check_kind_of_dates(model: ModelProgram, dates: xr.Dataset, cubes: xr.DataArray) -> None:
    """Refuse numbers of days where a model has learned seasons from dates, and the reverse.

    Raises
    ------
    TypeError
    """
    if not isinstance(getattr(model, "variability_prior", None), SeasonalVariability):
        return
    if "time" in dates.coords and "time" in cubes.coords:
        kinds = [np.dtype(c["time"].dtype).kind == "M" for c in (dates, cubes)]
        if kinds[0] != kinds[1]:
            names = [("numbers of days", "dates")[kind] for kind in kinds]
            raise TypeError(
                f"the seasons of the model were learned from {names[0]}, and these images have {names[1]}: give them "
                f"{names[0]}, as_cube_sequence(cubes, time=...)"
            )


def with_dates(cubes: xr.DataArray, dates: DatesLike) -> tuple[xr.DataArray, np.ndarray]:
    """The images and, between them, empty ones at other dates.

    Returns
    -------
    DataArray (time, y, x, wavelength)
        NaN at dates that `cubes` do not have.
    array of int
        Where in it the given dates are, in their order.
    """
    wanted, times = _both(dates, cubes)
    wanted = _snapped(wanted, times)
    union = np.union1d(times, wanted)
    return cubes.reindex(time=union), np.searchsorted(union, wanted)


def _snapped(wanted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Dates, where one is within a tenth of a second of an image the image's."""
    nearest = times[np.abs(wanted[:, np.newaxis] - times).argmin(1)]
    apart = np.abs(wanted - nearest)
    days = apart / np.timedelta64(1, "D") if apart.dtype.kind == "m" else apart.astype(float)
    return np.where(days <= _SAME, nearest, wanted)


def need_dates(model: Any, guide: GuideProgram, cubes: xr.DataArray) -> None:
    """Raise ValueError unless the model and the images have dates; warn of a guide that does not follow them."""
    if _days(model) is None or "time" not in cubes.coords:
        raise ValueError(
            "the model knows no dates: fit it to a sequence that has them, with unmix(cubes, ...) or "
            'SGLMM(..., dates=cubes["time"]), where cubes = as_cube_sequence(images, time=dates)'
        )
    if model.time_unit is None:
        raise ValueError(
            "one image does not tell the unit of time: fit SGLMM(..., dates=dates, time_unit=days), "
            "or a sequence"
        )
    if not isinstance(guide, AutoGuide) and not getattr(guide, "follows_dates", False):
        logger.warning(
            "%s does not see how much time passes: what it says at dates without images is what it "
            "learned of missing ones (ConjugateGuide follows the model's transitions)",
            type(guide).__name__,
        )


def _both(dates: DatesLike, cubes: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
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


def check_forecast(dates: DatesLike, cubes: xr.DataArray) -> None:
    """Raise ValueError unless all dates are after the last image."""
    wanted, times = _both(dates, cubes)
    _refuse(
        wanted, wanted <= times[-1], f"forecast is for dates after the last image ({times[-1]})"
    )


def check_interpolation(dates: DatesLike, cubes: xr.DataArray) -> None:
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
