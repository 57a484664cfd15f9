"""Spectral libraries that are tables: ENVI .sli, CSV, and the package earthlib."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.spectral_axis import wavelength_to_nm

logger = logging.getLogger(__name__)

#: Columns of a CSV table that are taken for the class, in this order, and for the name of a spectrum.
CLASS_COLUMNS = ("class", "label", "material", "category", "type")
NAME_COLUMNS = ("name", "id", "spectrum", "sample")


@dataclass(frozen=True)
class Spectrum:
    """One spectrum as it was measured; channels without a value are left out."""

    name: str
    label: str
    wavelength: np.ndarray  # nm, any order
    values: np.ndarray  # reflectance, (channels,)
    fwhm: np.ndarray | None = None  # nm


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
    return [
        Spectrum(s.name, str(label), s.wavelength, s.values, s.fwhm)
        for s, label in zip(spectra, labels, strict=True)
    ]


def import_spectral(module: str) -> Any:
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            'this spectral library needs the package spectral: pip install "pyro-unmix[io]"'
        ) from error


# ----------------------------------------------------------------------------------------- CSV


def read_csv(path: Path, *, unit: Any, scale: Any, label: Any) -> list[Spectrum]:
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
    bands = [i for i, number in enumerate(numbers) if number is not None]
    if len(bands) < 2:
        raise FileError(
            path, "header", f"expected wavelengths as column names, got {', '.join(header[:5])}"
        )
    centres = to_nm(np.array([numbers[i] for i in bands]), "nm", unit, path)
    text = {cell.lower(): i for i, cell in enumerate(header) if numbers[i] is None}
    place = _class_column(path, text, label)
    name_place = next((text[n] for n in NAME_COLUMNS if n in text), place)
    spectra = []
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise FileError(
                path, f"row {line}", f"has {len(row)} cells, the header has {len(header)}"
            )
        values = [_number(row[i]) for i in bands]
        if None in values:
            empty = header[bands[values.index(None)]]
            raise FileError(path, f"row {line}", f"the value at {empty} is no finite number")
        stored = np.array(values, dtype=np.float64)
        reflectance = stored if scale is None else stored * scale
        names = row[name_place].strip(), row[place].strip()
        if not names[1]:
            raise FileError(path, f"row {line}", "has no class")
        spectra.append(Spectrum(names[0] or names[1], names[1], centres, reflectance))
    return spectra


def _class_column(path: Path, text: Mapping[str, int], label: Any) -> int:
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
    if len(text) == 1:
        return next(iter(text.values()))
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


# ---------------------------------------------------------------------------------------- ENVI


def envi_header(path: Path) -> Path | None:
    """The header beside an ENVI file, or the file itself if it is one."""
    if path.suffix.lower() == ".hdr":
        return path
    beside = (path.with_suffix(".hdr"), Path(f"{path}.hdr"))
    return next((other for other in beside if other.is_file()), None)


def _envi_data(path: Path, header: Path) -> Path:
    if path != header:
        return path
    base = header.with_suffix("")
    for other in (base, base.with_suffix(".sli"), base.with_suffix(".SLI")):
        if other.is_file():
            return other
    raise FileError(path, "data file", f"there is no {base.name}.sli beside the header")


def read_sli(path: Path, *, unit: Any, scale: Any, label: Any) -> list[Spectrum]:
    envi = import_spectral("spectral.io.envi")
    header_path = envi_header(path)
    if header_path is None:
        raise FileError(path, "header", f"there is no {path.stem}.hdr beside the file")
    with parsing(header_path, "header", "the header of an ENVI spectral library"):
        header = envi.read_envi_header(str(header_path))
        num, bands, offset = (int(header[k]) for k in ("lines", "samples", "header offset"))
        dtype = np.dtype(envi.gen_params(header).dtype)
    if str(header.get("file type", "")).lower() != "envi spectral library":
        raise FileError(
            header_path, "file type",
            f"expected 'ENVI Spectral Library', got {header.get('file type')!r}: is it an image?",
        )  # fmt: skip
    data = _envi_data(path, header_path)
    expected = offset + num * bands * dtype.itemsize
    if num < 1 or bands < 2 or offset < 0 or data.stat().st_size != expected:
        raise FileError(
            data, "size",
            f"{num} spectra of {bands} bands of {dtype} behind {offset} bytes take {expected} bytes, "
            f"the file has {data.stat().st_size}",
        )  # fmt: skip
    stored = np.fromfile(data, dtype, num * bands, offset=offset).reshape(num, bands)
    return _label_sli(header_path, header, stored.astype(np.float64), unit, scale)


def _label_sli(
    path: Path, header: Mapping[str, Any], stored: np.ndarray, unit: Any, scale: Any
) -> list[Spectrum]:
    num, bands = stored.shape
    centres = _header_numbers(path, header, "wavelength", bands)
    if centres is None:
        raise FileError(path, "wavelength", "the header has no wavelengths")
    said = str(header.get("wavelength units", "")).strip()
    nm = to_nm(centres, None if said.lower() in ("", "unknown", "index") else said, unit, path)
    widths = _header_numbers(path, header, "fwhm", bands)
    if widths is not None:
        widths = widths * (nm[0] / centres[0])
    factor = _header_number(path, header, "reflectance scale factor")
    if factor is not None and not factor > 0:
        raise FileError(path, "reflectance scale factor", f"must be positive, got {factor:g}")
    multiply = known_or_given(path, "scale", None if factor is None else 1 / factor, scale) or 1.0
    ignore = _header_number(path, header, "data ignore value")
    good = _header_numbers(path, header, "bbl", bands)
    usable = np.ones(bands, dtype=bool) if good is None else good != 0
    if not usable.all():
        logger.info("%s: dropped the bad bands at %s nm", path, nm[~usable].tolist())
    names = header.get("spectra names", [str(i + 1) for i in range(num)])
    if len(names) != num:
        raise FileError(path, "spectra names", f"got {len(names)} names for {num} spectra")
    spectra = []
    for name, row in zip(names, stored, strict=True):
        kept = usable & ~np.isnan(row)
        if ignore is not None:
            kept &= row != ignore
        own = None if widths is None else widths[kept]
        text = str(name).strip()
        spectra.append(Spectrum(text, text, nm[kept], row[kept] * multiply, own))
    return spectra


def _header_numbers(
    path: Path, header: Mapping[str, Any], field: str, size: int
) -> np.ndarray | None:
    if field not in header:
        return None
    try:
        values = np.array([float(v) for v in header[field]])
    except (TypeError, ValueError) as error:
        raise FileError(path, field, f"expected numbers: {error}") from error
    if len(values) != size:
        raise FileError(path, field, f"expected {size} numbers, got {len(values)}")
    return values


def _header_number(path: Path, header: Mapping[str, Any], field: str) -> float | None:
    values = _header_numbers(path, {field: [header[field]]} if field in header else {}, field, 1)
    return None if values is None else float(values[0])


def read_earthlib(*, unit: Any, scale: Any, label: Any) -> tuple[Path, list[Spectrum]]:
    try:
        from earthlib import config
    except ImportError as error:
        raise ImportError(
            'the library "earthlib" needs Python 3.11 and pip install "pyro-unmix[library]"'
        ) from error
    path = Path(config.endmember_path)
    spectra = read_sli(path, unit=unit, scale=scale, label=None)
    if label is not None and not isinstance(label, str):
        return path, spectra
    column = label or "LEVEL_2"
    if column not in config.metadata:
        raise FileError(
            path, "label", f"no column {column!r}: there are {', '.join(config.metadata)}"
        )
    return path, relabel(path, spectra, [str(v) for v in config.metadata[column]])
