"""ENVI images (bsq, bil, bip) through Spectral Python."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.formats.envi_map import transform_and_crs
from pyro_unmix.io.image import Image, assume
from pyro_unmix.io.integrity.flat import flat_rows

# https://www.nv5geospatialsoftware.com/docs/ENVIHeaderFiles.html; 6 and 9 are complex.
_DTYPES = {
    "1": "u1",
    "2": "i2",
    "3": "i4",
    "4": "f4",
    "5": "f8",
    "12": "u2",
    "13": "u4",
    "14": "i8",
    "15": "u8",
}
_INTERLEAVES = ("bsq", "bil", "bip")
_DATA_SUFFIXES = ("", ".img", ".dat", ".raw", ".bin", ".sli", ".hyspex", ".bsq", ".bil", ".bip")
# The largest real headers have some 100 kB; the parser's time grows with the square of the lines.
_MAX_HEADER = 2 * 1024**2
_OTHER_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89HDF", b"PK\3\4")
# The EMIT mission names its scenes so; its product guide gives wavelengths in nm.
_EMIT = re.compile(r"emit(\d{4})(\d\d)(\d\d)t(\d\d)(\d\d)(\d\d)", re.IGNORECASE)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?\s*(?:(Z)|([+-])(\d\d):?(\d\d))?"
)


class _Envi:
    name = "ENVI image"
    suffixes = (".hdr", ".img", ".dat", ".bsq", ".bil", ".bip")

    def sniff(self, path: Path) -> bool:
        if _starts_with_envi(path):
            return True
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4).startswith(_OTHER_MAGIC):
                    return False
            return any(_starts_with_envi(header) for header in _header_candidates(path))
        return False

    def read(self, path: Path) -> Image:
        header_path, data_path = _both_files(path)
        header = read_header(header_path)
        kind = str(header.get("file type", "ENVI Standard")).strip().lower()
        if kind == "envi spectral library":
            problem = "is a spectral library, not an image: read it with pyro_unmix.io.read_library"
            raise FileError(header_path, "file type", problem)
        if kind not in ("envi", "envi standard"):
            problem = f"must be 'ENVI Standard', got {header['file type']!r}"
            raise FileError(header_path, "file type", problem)
        check_layout(header, header_path)
        if data_path is None:
            data_path = _find_data(header_path)
        check_size(header, header_path, data_path)
        facts = metadata(header, header_path)
        return Image(values=_stored(header, data_path), format=self.name, **facts)


READER = _Envi()


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of an ENVI header: lower-case names, texts or lists of texts.

    Raises
    ------
    FileError
        If the file is no ENVI header, or not all of it is text in UTF-8.
    ImportError
        If Spectral Python is not installed.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _MAX_HEADER:
        problem = f"an ENVI header of {size} bytes is no header: expected at most {_MAX_HEADER}"
        raise FileError(path, "header", problem)
    if not _starts_with_envi(path):
        raise FileError(path, "header", "must begin with the line ENVI")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = (
            f"byte {error.start} is not UTF-8 text: the file may be in Latin-1 or binary; save "
            "the header as UTF-8"
        )
        raise FileError(path, "header", problem) from None
    if "\0" in text:
        raise FileError(path, "header", "holds null bytes, so it is damaged or binary")
    envi = _spectral()
    with parsing(path, "header", "an ENVI header"), warnings.catch_warnings():
        # Upper-case field names are legal.
        warnings.simplefilter("ignore")
        return dict(envi.read_envi_header(str(path)))


def is_spectral_library(path: Path) -> bool:
    """Whether the header, or that of the data, says that it is a spectral library and no image."""
    headers = [path] if _starts_with_envi(path) else _header_candidates(path)
    line = re.compile(rb"^\s*file type\s*=\s*envi spectral library\s*$", re.I | re.M)
    for header in headers:
        if _starts_with_envi(header):
            with header.open("rb") as file:
                return line.search(file.read(_MAX_HEADER)) is not None
    return False


def metadata(header: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an ENVI header says about the stored numbers, as arguments of `Image`."""
    notes: list[str] = []
    unit = header.get("wavelength units")
    emit = _EMIT.search(str(header.get("description", "")))
    found: dict[str, Any] = {"wavelength_unit": unit, "notes": notes}
    for name in ("wavelength", "fwhm"):
        if name in header:
            found[name] = numbers_field(header, name, path)
    if "wavelength" in found and unit is None and emit:
        found["wavelength_unit"] = "nm"
        text = "the header gives no unit of the wavelengths: taken as nm, as in all EMIT products"
        assume(notes, path, text)
    if "bbl" in header:
        good = numbers_field(header, "bbl", path)
        if not np.isin(good, (0, 1)).all():
            raise FileError(path, "bbl", "must hold 0 (bad) or 1 (good) for each band")
        found["good"] = good == 1
    if "data ignore value" in header:
        found["nodata"] = number_field(header, "data ignore value", path, finite=False)
    found |= scaling(header, path, notes)
    if "band names" in header and isinstance(header["band names"], list):
        found["names"] = header["band names"]
    if "acquisition time" in header:
        found["dates"] = [_instant(header, path)]
    elif emit:
        year, month, day, hour, minute, second = emit.groups()
        stamp = f"{year}-{month}-{day}T{hour}:{minute}:{second}"
        with parsing(path, "description", "an EMIT scene name"):
            found["dates"] = [np.datetime64(stamp, "ns")]
        notes.append(f"acquired {stamp}, from the EMIT scene name in the description")
    found["transform"], found["crs"] = transform_and_crs(header, path, notes)
    return found


def scaling(
    header: Mapping[str, Any], path: str | os.PathLike[str], notes: list[str]
) -> dict[str, Any]:
    """Scale and offset of reflectance = stored * scale + offset, as far as the header has them.

    ENVI divides by the scale factor, or multiplies by the reflectance gain of each band. `data gain
    values` count where there is neither. ENVI means radiance by them, but other programs (GDAL) any
    quantity, so a warning says that they were taken for those of reflectance.
    """
    found: dict[str, Any] = {}
    factor, gains = "reflectance scale factor", "data reflectance gain values"
    if factor in header and gains in header:
        raise FileError(path, factor, f"is given together with {gains!r}: remove one of them")
    if factor in header:
        value = number_field(header, factor, path)
        if value <= 0:
            raise FileError(path, factor, f"must be positive, got {value:g}")
        found["scale"] = 1 / value
    if gains in header:
        found["scale"] = _one_or_more(header, gains, path)
    if "data reflectance offset values" in header:
        found["offset"] = _one_or_more(header, "data reflectance offset values", path)
    plain = {
        "scale": _one_or_more(header, "data gain values", path, 1.0),
        "offset": _one_or_more(header, "data offset values", path, 0.0),
    }
    if np.all(plain["scale"] == 1) and np.all(plain["offset"] == 0):
        return found
    if not found:
        text = "'data gain values' and 'data offset values' are taken for those of reflectance"
        assume(notes, path, text)
        return plain
    # Beside reflectance gains they are those of radiance: ENVI keeps both for one image.
    if factor in header and not (
        np.allclose(plain["scale"], found["scale"], rtol=1e-5, atol=0)
        and np.all(plain["offset"] == found.get("offset", 0.0))
    ):
        problem = (
            f"contradict {factor!r} {header[factor]}: remove what does not belong to the numbers "
            "of the file"
        )
        raise FileError(path, "data gain values", problem)
    return found


def _one_or_more(
    header: Mapping[str, Any], name: str, path: str | os.PathLike[str], default: float = 1.0
) -> Any:
    if name not in header:
        return default
    values = numbers_field(header, name, path)
    return values[0] if values.size == 1 else values


def _spectral() -> ModuleType:
    try:
        from spectral.io import envi
    except ImportError as error:
        raise ImportError(
            'ENVI files need Spectral Python: pip install "pyro-unmix[io]"'
        ) from error
    return envi


def _starts_with_envi(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(rb"ENVI\s", file.read(5) + b"\n") is not None


def _header_candidates(data: Path) -> list[Path]:
    names = [data.name, data.stem]
    return [data.with_name(name + suffix) for name in names for suffix in (".hdr", ".HDR")]


def _both_files(path: Path) -> tuple[Path, Path | None]:
    """Header and data file; None for the data file if only the header was named."""
    if _starts_with_envi(path) or path.suffix.lower() == ".hdr":
        return path, None
    headers = [header for header in _header_candidates(path) if header.is_file()]
    if not headers:
        problem = f"there is no {_header_candidates(path)[0].name} beside the file"
        raise FileError(path, "header", problem)
    return headers[0], path


def _find_data(header_path: Path) -> Path:
    stem = header_path.with_suffix("") if header_path.suffix.lower() == ".hdr" else header_path
    names = [stem.name + end for suffix in _DATA_SUFFIXES for end in {suffix, suffix.upper()}]
    # A file system that ignores case shows one file under two names.
    found: dict[Any, Path] = {}
    for path in (stem.with_name(name) for name in names):
        if path.is_file() and not path.samefile(header_path):
            found.setdefault(path.stat().st_ino or path, path)
    if len(found) != 1:
        which = ", ".join(path.name for path in found.values())
        problem = (
            f"there are several beside the header: {which}. Name the data file instead"
            if found
            else f"there is none beside the header: expected {stem.name} without a suffix or with "
            f"one of {', '.join(_DATA_SUFFIXES[1:])}"
        )
        raise FileError(header_path, "data file", problem)
    return next(iter(found.values()))


def check_layout(header: Mapping[str, Any], path: Path) -> None:
    """Refuse what the parser of the data would take for something else."""
    for name in ("samples", "lines", "bands", "data type", "interleave", "byte order"):
        if name not in header:
            raise FileError(path, name, "is missing in the header")
    for name in ("samples", "lines", "bands"):
        _whole(header, name, path, 1)
    _whole(header, "header offset", path, 0)
    if header["data type"] not in _DTYPES:
        problem = f"must be one of {', '.join(_DTYPES)} (real numbers), got {header['data type']!r}"
        raise FileError(path, "data type", problem)
    layouts = [*_INTERLEAVES, *map(str.upper, _INTERLEAVES)]
    if header["interleave"] not in layouts:
        problem = f"must be one of {', '.join(_INTERLEAVES)}, got {header['interleave']!r}"
        raise FileError(path, "interleave", problem)
    if header["byte order"] not in ("0", "1"):
        problem = f"must be 0 (little) or 1 (big), got {header['byte order']!r}"
        raise FileError(path, "byte order", problem)
    if str(header.get("file compression", "0")) != "0":
        raise FileError(path, "file compression", "must be 0: decompress the data file first")


def stored_dtype(header: Mapping[str, Any]) -> np.dtype:
    """Of the numbers in the data file, after `check_layout`."""
    return np.dtype("<>"[int(header["byte order"])] + _DTYPES[header["data type"]])


def check_size(header: Mapping[str, Any], header_path: Path, data_path: Path) -> None:
    """Raise FileError unless the data file is as long as the header declares."""
    sizes = [_whole(header, name, header_path, 1) for name in ("lines", "samples", "bands")]
    offset = _whole(header, "header offset", header_path, 0)
    itemsize = stored_dtype(header).itemsize
    expected = offset + math.prod(sizes) * itemsize
    actual = data_path.stat().st_size
    if actual != expected:
        problem = (
            f"{header_path.name} declares {sizes[0]} lines x {sizes[1]} samples x {sizes[2]} bands "
            f"x {itemsize} bytes + {offset} = {expected} bytes, but the file has {actual}: it is "
            f"{'incomplete' if actual < expected else 'too long'}, or the header is not its own"
        )
        raise FileError(data_path, "size", problem)


def _stored(header: Mapping[str, Any], data_path: Path) -> Any:
    """Rows (y, x, band), after `check_size`."""
    shape = tuple(int(header[name]) for name in ("lines", "samples", "bands"))
    offset = int(header.get("header offset", "0"))
    interleave = header["interleave"].lower()
    dtype = stored_dtype(header)
    return flat_rows(data_path, "size", dtype, shape, offset=offset, interleave=interleave)


def _whole(header: Mapping[str, Any], name: str, path: Path, minimum: int) -> int:
    text = header.get(name, "0")
    # int() would also take "1_0" and digits of other scripts.
    if not (isinstance(text, str) and re.fullmatch(r"\+?[0-9]{1,18}", text)) or int(text) < minimum:
        problem = f"must be a whole number of at least {minimum}, got {_short(text)}"
        raise FileError(path, name, problem)
    return int(text)


def number_field(
    header: Mapping[str, Any], name: str, path: str | os.PathLike[str], *, finite: bool = True
) -> float:
    """A field that holds one number."""
    try:
        value = float(header[name])
    except (TypeError, ValueError):
        problem = f"must be one number, got {_short(header[name])}"
        raise FileError(path, name, problem) from None
    if finite and not math.isfinite(value):
        raise FileError(path, name, f"must be finite, got {value}")
    return value


def numbers_field(header: Mapping[str, Any], name: str, path: str | os.PathLike[str]) -> np.ndarray:
    """A field that holds finite numbers in braces."""
    texts = header[name] if isinstance(header[name], list) else [header[name]]
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        problem = f"must be a list of numbers in braces, got {_short(header[name])}"
        raise FileError(path, name, problem) from None
    if not np.isfinite(values).all():
        raise FileError(path, name, f"must be finite, got {values[~np.isfinite(values)][0]}")
    return values


def _instant(header: Mapping[str, Any], path: str | os.PathLike[str]) -> np.datetime64:
    text = str(header["acquisition time"]).strip()
    match = _TIME.fullmatch(text)
    if match is None:
        problem = f"must be an ISO time such as 2014-04-10T18:30:00Z, got {_short(text)}"
        raise FileError(path, "acquisition time", problem)
    day, time, _, sign, hours, minutes = match.groups()
    with parsing(path, "acquisition time", "an ISO time"):
        instant = np.datetime64(f"{day}T{time}" if time else day, "ns")
        if sign:
            shift = np.timedelta64(60 * int(hours) + int(minutes), "m")
            instant = instant - shift if sign == "+" else instant + shift
    return instant


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
