"""Spectral libraries as tables of text (CSV), and what all kinds of libraries share."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.spectral_axis import wavelength_to_nm

logger = logging.getLogger(__name__)

#: Columns of a CSV table that are taken for the class, in this order, and for the name of a spectrum.
CLASS_COLUMNS = ("class", "label", "material", "category", "type")
NAME_COLUMNS = ("name", "id", "spectrum", "sample")
#: Columns that say where a spectrum comes from, and in what unit the wavelengths of the header are.
SOURCE_COLUMN, UNIT_COLUMN = "source", "wavelength_units"
_MAX_CSV = 2**30  # bytes; as texts in memory they are five times as many
#: A field that holds the classes, or the classes themselves.
Label: TypeAlias = str | Sequence[str] | None


@dataclass(frozen=True)
class Spectrum:
    """One spectrum as it was measured; channels without a value are left out, or NaN where no spectrum has any."""

    name: str
    label: str
    wavelength: np.ndarray  # nm, any order
    values: np.ndarray  # reflectance, (channels,)
    fwhm: np.ndarray | None = None  # nm
    source: str = ""  # where it comes from, as the file says


def to_nm(values: np.ndarray, said: str | None, given: str | None, path: Path) -> np.ndarray:
    """Wavelengths in nm; the unit given by the caller stands in for the one that the file says."""
    try:
        return wavelength_to_nm(values, given or said, path)
    except FileError as error:
        # The advice of the cube readers, in the words of this one.
        problem = error.problem.replace("wavelength_unit=", "unit=")
        problem = problem.replace("read_sequence", "read_library")
        raise FileError(path, error.field, problem) from None


def known_or_given(path: Path, field: str, stated: Any, given: Any) -> Any:
    if stated is not None and given is not None and stated != given:
        raise FileError(
            path, field, f"the file says {stated}, but {field}={given} was passed: drop it"
        )
    return given if stated is None else stated


def relabel(path: Path, spectra: list[Spectrum], labels: Sequence[str]) -> list[Spectrum]:
    if len(labels) != len(spectra):
        raise FileError(
            path, "label", f"got {len(labels)} classes for {len(spectra)} spectra: pass one each"
        )
    return [replace(s, label=str(label)) for s, label in zip(spectra, labels, strict=True)]


def import_spectral(module: str) -> Any:
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            'this spectral library needs the package spectral: pip install "pyro-unmix[io]"'
        ) from error


# ----------------------------------------------------------------------------------------- CSV


def read_csv(path: Path, *, unit: str | None, scale: float | None, label: Label) -> list[Spectrum]:
    if (size := path.stat().st_size) > _MAX_CSV:
        problem = f"expected at most {_MAX_CSV} bytes, got {size}: write large libraries as .sli"
        raise FileError(path, "size", problem)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if any(map(str.strip, row))]
    except UnicodeDecodeError as error:
        raise FileError(path, "text", f"is not UTF-8 ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise FileError(path, "text", f"is no CSV table: {error}") from error
    if len(rows) < 2:
        raise FileError(path, "rows", f"expected a header and spectra, got {len(rows)} rows")
    header = [cell.strip() for cell in rows[0]]
    numbers = [_number(cell) for cell in header]
    bands = _band_columns(path, header, numbers)
    text = {cell.lower(): i for i, cell in enumerate(header) if numbers[i] is None}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise FileError(
                path, f"row {line}", f"has {len(row)} cells, the header has {len(header)}"
            )
    said = _stated_unit(path, rows[1:], text)
    centres = to_nm(np.array([numbers[i] for i in bands]), said, unit, path)
    place = _class_column(path, text, label)
    name_place = next((text[n] for n in NAME_COLUMNS if n in text), place)
    source_place = text.get(SOURCE_COLUMN)
    # A band that no spectrum has is missing, but a single hole in the table is a fault.
    holes = {i for i in bands if not any(row[i].strip() for row in rows[1:])}
    spectra = []
    for line, row in enumerate(rows[1:], start=2):
        values = [np.nan if i in holes else _number(row[i]) for i in bands]
        if None in values:
            empty = header[bands[values.index(None)]]
            raise FileError(path, f"row {line}", f"the value at {empty} is no finite number")
        stored = np.array(values, dtype=np.float64)
        reflectance = stored if scale is None else stored * scale
        names = row[name_place].strip(), row[place].strip()
        if not names[1]:
            raise FileError(path, f"row {line}", "has no class")
        source = "" if source_place is None else row[source_place].strip()
        spectrum = Spectrum(names[0] or names[1], names[1], centres, reflectance, source=source)
        spectra.append(spectrum)
    return spectra


def _stated_unit(path: Path, rows: Sequence[Sequence[str]], text: Mapping[str, int]) -> str:
    """What the column for the unit says, the same in all rows; nm without one."""
    if UNIT_COLUMN not in text:
        return "nm"
    stated = {row[text[UNIT_COLUMN]].strip() for row in rows}
    if len(stated) > 1 or not all(stated):
        problem = (
            f"must hold one unit, the same in all rows, got {', '.join(map(repr, sorted(stated)))}"
        )
        raise FileError(path, UNIT_COLUMN, problem)
    return stated.pop()


def _band_columns(path: Path, header: Sequence[str], numbers: Sequence[float | None]) -> list[int]:
    """The columns whose names are wavelengths: side by side and in order, else one may be a year.

    In order is from short to long, from long to short, or so for each of several detectors that
    overlap.
    """
    bands = [i for i, number in enumerate(numbers) if number is not None]
    if len(bands) < 2:
        listed = ", ".join(header[:5])
        raise FileError(path, "header", f"expected wavelengths as column names, got {listed}")
    for before, after in pairwise(_runs(bands, lambda i, j: j == i + 1)):
        problem = (
            f"columns named by numbers are wavelengths and must stand side by side, but "
            f"{_span(header, before)} and {_span(header, after)} are apart, between them "
            f"{', '.join(header[before[-1] + 1 : after[0]])}: rename those that are no bands"
        )
        raise FileError(path, "header", problem)
    centres = {i: number for i, number in enumerate(numbers) if number is not None}
    up = np.sum(np.sign(np.diff(list(centres.values())))) >= 0
    detectors = _runs(bands, lambda i, j: np.sign(centres[j] - centres[i]) == (1 if up else -1))
    if not _overlap([sorted(centres[i] for i in run) for run in detectors]):
        problem = (
            f"the columns {' / '.join(_span(header, run) for run in detectors[:5])} are not in order, "
            "as wavelengths are: rename those that are no bands, or sort the columns"
        )
        raise FileError(path, "header", problem)
    return bands


def _runs(items: Sequence[int], together: Callable[[int, int], Any]) -> list[list[int]]:
    """Split where two neighbours do not belong together."""
    runs = [[items[0]]]
    for before, after in pairwise(items):
        if together(before, after):
            runs[-1].append(after)
        else:
            runs.append([after])
    return runs


def _overlap(ranges: Sequence[Sequence[float]]) -> bool:
    """Whether each range begins and ends behind the one before, or each ahead of it, without a gap."""
    steps = [
        (np.sign(b[0] - a[0]), np.sign(b[-1] - a[-1]), a[0] < b[-1] and b[0] < a[-1])
        for a, b in pairwise(ranges)
    ]
    return len(set(steps)) <= 1 and all(s[0] == s[1] != 0 and s[2] for s in steps)


def _span(header: Sequence[str], run: Sequence[int]) -> str:
    return header[run[0]] if len(run) == 1 else f"{header[run[0]]}-{header[run[-1]]}"


def _class_column(path: Path, text: Mapping[str, int], label: Label) -> int:
    if isinstance(label, str):
        if label.lower() not in text:
            raise FileError(
                path,
                "label",
                f"there is no column {label!r}: the text columns are {', '.join(text)}",
            )
        return text[label.lower()]
    for name in CLASS_COLUMNS:
        if name in text:
            return text[name]
    others = [i for name, i in text.items() if name not in (SOURCE_COLUMN, UNIT_COLUMN)]
    if len(others) == 1:
        return others[0]
    raise FileError(
        path, "class",
        f"cannot tell which column is the class among {', '.join(text) or 'no text columns'}: pass "
        f"label= the name of the column (known names: {', '.join(CLASS_COLUMNS)})",
    )  # fmt: skip


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
