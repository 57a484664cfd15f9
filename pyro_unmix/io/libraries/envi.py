"""Spectral libraries in the format of ENVI (.sli), of which the package earthlib is one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.formats.envi import (
    check_layout,
    check_size,
    number_field,
    numbers_field,
    read_header,
    scaling,
    stored_dtype,
)
from pyro_unmix.io.libraries.tables import Label, Spectrum, known_or_given, relabel, to_nm

logger = logging.getLogger(__name__)


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


def read_sli(path: Path, *, unit: str | None, scale: float | None, label: Label) -> list[Spectrum]:
    """Spectra are the lines, channels the samples of an image of one band."""
    header_path = envi_header(path)
    if header_path is None:
        raise FileError(path, "header", f"there is no {path.stem}.hdr beside the file")
    header = read_header(header_path)
    kind = header.get("file type", "missing")
    if str(kind).strip().lower() != "envi spectral library":
        problem = f"expected 'ENVI Spectral Library', got {kind!r}: is it an image?"
        raise FileError(header_path, "file type", problem)
    check_layout(header, header_path)
    if header["bands"] != "1":
        problem = f"must be 1 in a spectral library (spectra are its lines), got {header['bands']}"
        raise FileError(header_path, "bands", problem)
    data = _envi_data(path, header_path)
    check_size(header, header_path, data)
    shape = int(header["lines"]), int(header["samples"])
    offset = int(header.get("header offset", "0"))
    stored = np.fromfile(data, stored_dtype(header), offset=offset).reshape(shape)
    return _spectra(header_path, header, stored, unit, scale)


def _spectra(
    path: Path, header: Mapping[str, Any], stored: np.ndarray, unit: str | None, scale: float | None
) -> list[Spectrum]:
    num, bands = stored.shape
    centres = _per_channel(header, "wavelength", path, bands)
    if centres is None:
        raise FileError(path, "wavelength", "the header has no wavelengths")
    said = str(header.get("wavelength units", "")).strip()
    nm = to_nm(centres, None if said.lower() in ("", "unknown", "index") else said, unit, path)
    widths = _per_channel(header, "fwhm", path, bands)
    if widths is not None:
        widths = widths * (nm[0] / centres[0])
    good = _per_channel(header, "bbl", path, bands)
    usable = np.ones(bands, dtype=bool) if good is None else good != 0
    if not usable.all():
        logger.info("%s: dropped the bad bands at %s nm", path, nm[~usable].tolist())
    missing = _missing(path, header, stored)
    values = _reflectance(path, header, stored, scale)
    if (missing == missing[0]).all():  # in no spectrum, so that nothing is to be interpolated there
        values = np.where(missing, np.nan, values)
        missing = np.zeros_like(missing)
    usable = usable & ~missing
    names = _texts(path, header, "spectra names", num) or [str(i + 1) for i in range(num)]
    classes = _texts(path, header, "spectra classes", num) or names
    sources = _texts(path, header, "spectra sources", num) or [""] * num
    spectra = []
    for name, label, source, row, kept in zip(names, classes, sources, values, usable, strict=True):
        own = None if widths is None else widths[kept]
        spectra.append(Spectrum(name, label, nm[kept], row[kept], own, source))
    return spectra


def _texts(path: Path, header: Mapping[str, Any], field: str, num: int) -> list[str] | None:
    """One text for each spectrum; None where the header has no such field."""
    if field not in header:
        return None
    texts = header[field]
    if not isinstance(texts, list) or len(texts) != num:
        got = len(texts) if isinstance(texts, list) else repr(texts)
        raise FileError(path, field, f"got {got} {field.split()[1]} for {num} spectra")
    return [str(text).strip() for text in texts]


def _missing(path: Path, header: Mapping[str, Any], stored: np.ndarray) -> np.ndarray:
    missing = np.isnan(stored)
    if "data ignore value" in header:
        ignore = np.float64(number_field(header, "data ignore value", path, finite=False))
        # In the precision of the file, in which the mark was written.
        with np.errstate(over="ignore"):
            missing |= stored == (
                ignore.astype(stored.dtype) if stored.dtype.kind == "f" else ignore
            )
    return missing


def _reflectance(
    path: Path, header: Mapping[str, Any], stored: np.ndarray, given: Any
) -> np.ndarray:
    """stored * scale + offset; the caller's scale only where the header has none."""
    facts = scaling(header, path, [])
    stated: Any = facts.get("scale")
    for name, part in facts.items():
        if np.ndim(part) and np.shape(part) != stored.shape[1:]:
            problem = (
                f"must be one number or one per channel ({stored.shape[1]}), got {np.size(part)}"
            )
            raise FileError(path, name, problem)
    if np.ndim(stated):
        if given is not None:
            raise FileError(path, "scale", "the file has one per channel: drop scale=")
        factor = stated
    else:
        factor = known_or_given(path, "scale", stated, given)
    if factor is None:
        if stored.dtype.kind in "iu":
            problem = (
                f"the file holds integers ({stored.dtype}) without a scale: pass scale= to "
                "read_library, for example scale=1e-4 (reflectance = stored x scale)"
            )
            raise FileError(path, "scale", problem)
        factor = 1.0
    if not np.all(np.asarray(factor) > 0):
        raise FileError(path, "scale", f"must be positive, got {factor}")
    return stored.astype(np.float64) * factor + facts.get("offset", 0.0)


def _per_channel(header: Mapping[str, Any], name: str, path: Path, size: int) -> np.ndarray | None:
    if name not in header:
        return None
    values = numbers_field(header, name, path)
    if len(values) != size:
        raise FileError(path, name, f"expected {size} numbers, got {len(values)}")
    return values


def read_earthlib(
    *, unit: str | None, scale: float | None, label: Label
) -> tuple[Path, list[Spectrum]]:
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
