"""``pyro-unmix info``: what is understood of files, before anything is computed from them."""

from __future__ import annotations

import argparse
import importlib
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.cli.arguments import READING, Commands, add_files, add_json
from pyro_unmix.cli.console import (
    BadInput,
    as_options,
    bad_input,
    complain,
    date_text,
    say,
    say_json,
)
from pyro_unmix.cli.console import facts as fact_lines
from pyro_unmix.cli.results import is_result, load_result, summary_of, texts_of
from pyro_unmix.io import FileError
from pyro_unmix.io.given import needs_scaling, with_scaling, with_wavelengths
from pyro_unmix.io.grid import check_same_grid, is_rotated
from pyro_unmix.io.image import Image
from pyro_unmix.io.reflectance import Darkness, kept_bands, reflectance
from pyro_unmix.io.registry import read_image
from pyro_unmix.io.spectral_axis import choose_bands, fwhm_in_nm, ranges, wavelength_in_nm

_BLOCK = 2**22  # numbers that are made reflectance at once
_SHOWN_DATES = 6


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "info",
        help="say what is understood of image files",
        usage="%(prog)s FILE... [options]",
        description="Say what is understood of image files, without unmixing them: format, grid, "
        "dates, bands kept and dropped, wavelengths, scale, nodata, CRS, share of valid pixels; or "
        "what a result of the command unmix holds: method, mean abundances, RMSE. A "
        "file that is short, or that needs an option to be read, is named on stderr, with exit "
        "code 2.",
    )
    add_files(command, dates=False)
    add_json(command)
    # The bands that are dropped, which the readers log, are in the answer.
    command.set_defaults(run=run, notes=logging.WARNING)


def run(arguments: argparse.Namespace) -> int:
    settings = {name: getattr(arguments, name) for name in READING}
    found, first = [], None
    for path in map(Path, arguments.files):
        facts: dict[str, Any] = {"file": str(path)}
        problems: list[str] = []
        if is_result(path):
            found.append({**facts, **summary_of(load_result(path)), "problems": problems})
            if not arguments.json:
                say(str(path), *fact_lines(texts_of(found[-1])))
            continue
        try:
            with bad_input():
                image = read_image(path)
            image = _as_told(image, path, settings, problems)
            facts |= _described(image, path, settings, problems)
            without_values = _outline(image)
            first = first or (without_values, path)
            facts["other_grid"] = _other_grid(*first, without_values, path)
        except BadInput as error:
            problems.append(str(error))
        facts["problems"] = problems
        found.append(facts)
        if not arguments.json and len(facts) > 2:
            say(str(path), *fact_lines(_texts(facts)))
        for problem in problems:
            complain(problem)
    if arguments.json:
        say_json({"files": found})
    return 2 if any(facts["problems"] for facts in found) else 0


def _try(problems: list[str], ask: Any, *inputs: Any, **settings: Any) -> Any:
    """The answer, or None and a problem more."""
    try:
        return ask(*inputs, **settings)
    except (FileError, ValueError, TypeError) as error:
        text = as_options(str(error))
        if text not in problems:
            problems.append(text)
        return None


def _as_told(image: Image, path: Path, settings: dict[str, Any], problems: list[str]) -> Image:
    """With what the options say; where that is not enough, with less, so that the rest is told."""
    scaled = _try(problems, with_scaling, image, path, settings["scale"], settings["offset"])
    image = image if scaled is None else scaled
    known = _try(problems, with_wavelengths, image, path, settings["wavelength_unit"])
    return with_wavelengths(image, path, "none") if known is None else known


def _other_grid(first: Image, first_path: Path, image: Image, path: Path) -> str | None:
    """Why a file cannot be joined with the first one; no problem of the file alone."""
    try:
        check_same_grid(first, first_path, image, path)
    except FileError as error:
        return error.problem
    return None


def _outline(image: Image) -> Image:
    """The image without its numbers, of the same shape."""
    return replace(image, values=np.broadcast_to(image.values.dtype.type(0), image.values.shape))


# ------------------------------------------------------------------ facts


def _described(
    image: Image, path: Path, settings: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """Ready for JSON; None where the file says nothing."""
    unit = _unit(settings)
    marks = image.nodata if settings["nodata"] is None else settings["nodata"]
    return {
        "format": image.format,
        "stored": str(image.values.dtype),
        "rows": image.grid[0],
        "columns": image.grid[1],
        "tiles": None if image.tile is None else len(np.unique(image.tile)),
        "num_dates": image.num_dates,
        "dates": None if image.dates is None else list(image.dates),
        **_bands(image, path, settings, problems),
        "wavelength_nm": _try(problems, _centres, image, path, unit),
        "fwhm_nm": _try(problems, _widths, image, path, unit),
        "scale": _brief(image.scale),
        "offset": _brief(image.offset),
        "nodata": _brief(marks),
        "crs": _crs_name(image.crs),
        "transform": image.transform,
        "rotated": image.transform is not None and is_rotated(image.transform),
        "notes": image.notes,
    }


def _unit(settings: dict[str, Any]) -> str | None:
    return None if settings["wavelength_unit"] == "none" else settings["wavelength_unit"]


def _bands(
    image: Image, path: Path, settings: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """Bands, why some are dropped, and the share of valid pixels in the others."""
    nodata, unit = settings["nodata"], _unit(settings)
    given = {"path": path, "nodata": nodata, "wavelength_unit": unit}
    counts: dict[str, Any] = {"bands": image.num_bands}
    known = _try(problems, kept_bands, image, **given)
    keep = known
    if known is not None and settings["ignore"]:
        keep = _try(problems, _without_ignored, image, path, known, unit, settings["ignore"])
    if keep is None or known is None:
        return {**counts, "bands_kept": None, "bands_dropped": None, "valid_share": None}
    good = np.ones(image.num_bands, dtype=bool) if image.good is None else image.good
    reasons = {
        "bad-band list": ~known & ~good,
        "no data": ~known & good,
        "ignored": known & ~keep,
    }
    dropped = {why: np.flatnonzero(which) for why, which in reasons.items() if which.any()}
    share = None
    if not needs_scaling(image):
        share = _try(problems, _valid_share, image, keep, path, nodata)
    if share == 0:
        problems.append(f"{path}: values: no pixel is valid in all bands that are kept")
    return {
        **counts,
        "bands_kept": int(keep.sum()),
        "bands_dropped": {why: which.tolist() for why, which in dropped.items()},
        "valid_share": share,
    }


def _without_ignored(
    image: Image, path: Path, keep: np.ndarray, unit: str | None, ignore: str
) -> np.ndarray:
    centres = None
    if image.wavelength is not None:
        centres = wavelength_in_nm(image.wavelength, image.wavelength_unit, path, unit)
    return choose_bands(image.num_bands, path=path, good=keep, wavelength=centres, ignore=ignore)


def _valid_share(image: Image, keep: np.ndarray, path: Path, nodata: Any) -> float:
    """Share of pixel-dates that are neither missing nor fill, some rows at a time.

    What is implausible in the whole image is so in some of the rows; only then, as rows alone can
    also look odd, are all of them looked at together.
    """
    height, width = image.grid
    step = max(1, _BLOCK // (width * image.num_bands))
    observed, darkness = 0, Darkness()
    settings: dict[str, Any] = {"path": path, "nodata": nodata}
    try:
        for t in range(image.num_dates):
            for row in range(0, height, step):
                part = replace(image, values=image.date(t)[row : row + step])
                observed += _count(reflectance(part, keep, darkness=darkness, **settings))
        darkness.warn(path)
    except FileError:
        observed = _count(reflectance(image, keep, **settings))
    return observed / (image.num_dates * height * width)


def _count(values: np.ndarray) -> int:
    # Zeros in all bands are fill, as in `as_cube_sequence`.
    return int(np.count_nonzero(~np.isnan(values).any(axis=-1) & values.any(axis=-1)))


def _centres(image: Image, path: Path, unit: str | None) -> list[float] | None:
    if image.wavelength is None:
        return None
    return list(wavelength_in_nm(image.wavelength, image.wavelength_unit, path, unit))


def _widths(image: Image, path: Path, unit: str | None) -> list[float] | None:
    if image.fwhm is None:
        return None
    return list(fwhm_in_nm(image.fwhm, image.wavelength_unit, path, unit))


def _brief(value: Any) -> Any:
    """One number where all bands have the same."""
    if value is None:
        return None
    numbers = np.unique(np.asarray(value))
    return numbers[0].item() if numbers.size == 1 else np.asarray(value).tolist()


def _crs_name(wkt: str | None) -> str | None:
    """The name in the WKT, with the EPSG code where rasterio finds one."""
    if not wkt:
        return None
    name = re.search(r'"([^"]*)"', wkt)
    text = name[1] if name else wkt[:40]
    try:
        code = importlib.import_module("rasterio.crs").CRS.from_wkt(wkt).to_epsg()
    except Exception:  # no rasterio, or a WKT that it does not know: the name alone
        code = None
    return text if code is None else f"{text} (EPSG:{code})"


# ------------------------------------------------------------------ words


def _texts(facts: dict[str, Any]) -> dict[str, str]:
    texts = {
        "format": f"{facts['format']}, {facts['stored']}",
        "grid": f"{facts['rows']} rows x {facts['columns']} columns",
        "dates": _dates(facts),
        "bands": _kept(facts),
        "wavelength": _range(facts["wavelength_nm"]),
        "fwhm": _range(facts["fwhm_nm"]).partition(",")[0],
        "scale": _listed(facts["scale"]),
        "offset": _listed(facts["offset"]),
        "nodata": _listed(facts["nodata"]),
        "CRS": facts["crs"] or "none",
        "transform": _transform(facts),
        "valid": "unknown"
        if facts["valid_share"] is None
        else f"{100 * facts['valid_share']:.1f} %",
    }
    if facts["tiles"] is not None:
        texts["grid"] += f", {facts['tiles']} disjoint tiles"
    if facts["other_grid"]:
        texts["sequence"] = f"not one with the first file: {facts['other_grid']}"
    for number, note in enumerate(facts["notes"]):
        texts["note" if len(facts["notes"]) == 1 else f"note {number + 1}"] = note
    return texts


def _dates(facts: dict[str, Any]) -> str:
    if facts["dates"] is None:
        return f"{facts['num_dates']}, without a date"
    names = [date_text(date) for date in facts["dates"]]
    if len(names) > _SHOWN_DATES:
        names = [*names[:3], "...", *names[-2:]]
    return f"{facts['num_dates']}: {', '.join(names)}"


def _kept(facts: dict[str, Any]) -> str:
    if facts["bands_kept"] is None:
        return f"{facts['bands']}"
    text = f"{facts['bands']}, kept {facts['bands_kept']}"
    dropped = [f"{why}: {ranges(which)}" for why, which in facts["bands_dropped"].items()]
    return text + (f"; dropped (counted from 0): {'; '.join(dropped)}" if dropped else "")


def _range(values: list[float] | None) -> str:
    if values is None:
        return "unknown"
    text = f"{min(values):g} to {max(values):g} nm"
    return text if (np.diff(values) >= 0).all() else f"{text}, not sorted"


def _listed(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"{min(value):g} to {max(value):g}, per band"
    return f"{value:g}"


def _transform(facts: dict[str, Any]) -> str:
    if facts["transform"] is None:
        return "none"
    numbers = " ".join(f"{number:.10g}" for number in facts["transform"])
    return f"{numbers}{' (rotated)' if facts['rotated'] else ''}"
