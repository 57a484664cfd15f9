"""What the pictures read from a result and a truth, checked and in one order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pyro_unmix.data.names import material_name
from pyro_unmix.data.types import HasAbundances

#: Dates that are drawn by default: more columns are too small to read.
MAX_DATES = 8
MAP_DIMS = ("time", "y", "x", "endmember")


def read_field(source: object, name: str, dims: tuple[str, ...]) -> xr.DataArray:
    """Attribute `name` as a DataArray in the order of `dims`, or an error that says what came.

    A DataArray is the abundances themselves, as `Unmixing.unit_maximum` gives them.
    """
    is_itself = isinstance(source, xr.DataArray) and name == "abundances"
    value = source if is_itself else getattr(source, name, None)
    if value is None:
        raise TypeError(
            f"expected a result with `.{name}`, got {type(source).__name__} without it; "
            "pass what a fitting function returned (or a simulated scene)"
        )
    if not isinstance(value, xr.DataArray) or set(value.dims) != set(dims):
        got = value.dims if isinstance(value, xr.DataArray) else type(value).__name__
        raise ValueError(f"expected `.{name}` as a DataArray with dims {dims}, got {got}")
    return value.transpose(*dims)


def missing_pixels(result: object, maps: xr.DataArray) -> NDArray[np.bool_]:
    """Missing pixel-dates ``(time, y, x)``: not `.valid`; none when that is not known."""
    valid = getattr(result, "valid", None)
    shape = maps.shape[:3]
    if valid is None:
        return np.zeros(shape, dtype=bool)
    if isinstance(valid, xr.DataArray):
        valid = valid.transpose("time", "y", "x").values
    valid = np.asarray(valid, dtype=bool)
    if valid.shape != shape:
        raise ValueError(f"expected `.valid` of shape {shape} (time, y, x), got {valid.shape}")
    return ~valid


def first_observed(result: object, maps: xr.DataArray) -> int:
    """Position of the first date with a pixel that was observed; 0 where there is none."""
    return int((~missing_pixels(result, maps)).any(axis=(1, 2)).argmax())


def truth_maps(
    truth: HasAbundances | xr.DataArray | NDArray[np.floating], maps: xr.DataArray
) -> xr.DataArray:
    """Known abundances in the shape and the order of materials of `maps`."""
    if isinstance(truth, np.ndarray):
        _check_shape(truth, maps)
        return maps.copy(data=truth)
    if isinstance(truth, xr.DataArray):
        if set(truth.dims) != set(MAP_DIMS):
            raise ValueError(f"expected truth with dims {MAP_DIMS}, got {truth.dims}")
        truth = truth.transpose(*MAP_DIMS)
    else:
        truth = read_field(truth, "abundances", MAP_DIMS)
    _check_shape(truth, maps)
    return align_materials(truth, maps)


def _check_shape(truth: NDArray[np.floating] | xr.DataArray, maps: xr.DataArray) -> None:
    if truth.shape != maps.shape:
        raise ValueError(
            f"expected truth of shape {maps.shape} (time, y, x, endmember), got {truth.shape}"
        )


def align_materials(truth: xr.DataArray, maps: xr.DataArray) -> xr.DataArray:
    """Order the truth's materials as the result's: by label when both have the same ones."""
    unlabelled = "endmember" not in maps.coords or "endmember" not in truth.coords
    ours, theirs = material_labels(maps), material_labels(truth)
    if len(ours) != len(theirs):
        raise ValueError(
            f"expected truth with {len(ours)} materials {ours}, got {len(theirs)}: {theirs}"
        )
    if unlabelled:
        return truth
    if set(ours) == set(theirs) and len(set(ours)) == len(ours):
        return truth.isel(endmember=[theirs.index(label) for label in ours])
    if set(ours) & set(theirs):
        # By position, a material could be set beside another one that the result has too.
        raise ValueError(
            f"expected truth with the materials {ours}, or with all other labels (then matched by "
            f"position), got {theirs}; rename the materials of one of them"
        )
    return truth


def material_labels(maps: xr.DataArray) -> list[Hashable]:
    """Labels of the materials; positions when there is no `endmember` coordinate."""
    if "endmember" in maps.coords:
        return list(maps.coords["endmember"].values.tolist())
    return list(range(maps.sizes["endmember"]))


def material_names(maps: xr.DataArray, names: Sequence[str] | None) -> list[str]:
    """Names to print, one per material."""
    if names is None:
        return [material_name(label) for label in material_labels(maps)]
    if isinstance(names, str) or len(names) != maps.sizes["endmember"]:
        raise ValueError(
            f"expected {maps.sizes['endmember']} names, one per material, got {names!r}"
        )
    return [str(name) for name in names]


def check_position(value: object, size: int, name: str) -> int:
    """A position below `size`, counted from the end when negative."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected {name} as integer positions, got {value!r}")
    if not -size <= value < size:
        raise ValueError(f"expected {name} between {-size} and {size - 1}, got {value}")
    return int(value) % size


def check_pixel(pixel: object, maps: xr.DataArray) -> tuple[int, int]:
    if not isinstance(pixel, (tuple, list)) or len(pixel) != 2:
        raise ValueError(f"expected pixel as (y, x), got {pixel!r}")
    y = check_position(pixel[0], maps.sizes["y"], "pixel y")
    return y, check_position(pixel[1], maps.sizes["x"], "pixel x")


def date_titles(maps: xr.DataArray) -> list[str]:
    """One title per date: the ISO date (with the time of day if needed), else "t = value"; of a single one "".

    A single image has no time but its date.
    """
    single = maps.sizes["time"] == 1
    if single and not np.issubdtype(maps["time"].dtype, np.datetime64):
        return [""]
    if "time" not in maps.coords:
        return [f"t = {position}" for position in range(maps.sizes["time"])]
    values = maps.coords["time"].values
    if np.issubdtype(values.dtype, np.datetime64):
        days: list[str] = np.datetime_as_string(values, unit="D").tolist()
        if len(set(days)) == len(days):
            return days
        # Several images of one day: its date alone would not tell them apart.
        return [text.replace("T", "\n") for text in np.datetime_as_string(values, unit="m")]
    if np.issubdtype(values.dtype, np.number):
        return [f"t = {value:.10g}" for value in values.tolist()]
    return [str(value) for value in values.tolist()]


def choose_dates(
    dates: Sequence[int] | None, maps: xr.DataArray, available: NDArray[np.integer] | None = None
) -> tuple[list[int], list[str]]:
    """Positions of the dates to draw and their titles."""
    total = maps.sizes["time"]
    titles = date_titles(maps)
    if dates is not None:
        values = [dates] if isinstance(dates, (int, np.integer)) else list(dates)
        if not values:
            raise ValueError("expected at least one position in dates, got none")
        shown = [check_position(date, total, "dates") for date in values]
        return shown, [titles[t] for t in shown]
    if available is None:
        available = np.arange(total)
    if available.size <= MAX_DATES:
        return available.tolist(), [titles[t] for t in available]
    spread = available[np.round(np.linspace(0, available.size - 1, MAX_DATES)).astype(int)]
    return spread.tolist(), [f"{titles[t]}\n{t + 1} of {total} dates" for t in spread]


def tile_edges(maps: xr.DataArray) -> list[float]:
    """Rows between two tiles, in image coordinates."""
    if "tile" not in maps.coords or maps.coords["tile"].dims != ("y",):
        return []
    tile = maps.coords["tile"].values
    return [float(row) + 0.5 for row in np.flatnonzero(tile[1:] != tile[:-1])]
