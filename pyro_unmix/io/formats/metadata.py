"""Small parts of product metadata: XML sidecars, dates, checked numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from xml.parsers import expat

import h5py
import numpy as np

from pyro_unmix.io.errors import FileError

# The largest metadata files of these products have some MB.
_MAX_XML_BYTES = 64 * 2**20

_TIME = re.compile(
    r"(\d{4})[-:/]?(\d\d)[-:/]?(\d\d)"
    r"(?:[T ]+(\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)?)?"
    r"\s*(?:(Z|UTC)|([+-])(\d\d):?(\d\d))?"
)


def parse_time(text: str) -> np.datetime64:
    """Return a date such as 2022-07-24T10:45:26.123Z, 2022:07:24 10:45:26 or 20220724 in UTC.

    Raises
    ------
    ValueError
        If the text is no such date.
    """
    match = _TIME.fullmatch(text.strip().strip("\0"))
    if match is None:
        raise ValueError(f"expected a date such as 2022-07-24T10:45:26Z, got {text!r}")
    parts = match.groups()
    # datetime knows which days a month has.
    moment = datetime(*(int(part or 0) for part in parts[:6]))  # type: ignore[arg-type]
    if parts[8]:
        shift = timedelta(hours=int(parts[9]), minutes=int(parts[10]))
        moment += shift if parts[8] == "-" else -shift
    fraction = np.timedelta64(int((parts[6] or "0").ljust(9, "0")), "ns")
    return np.datetime64(moment, "ns") + fraction


def read_time(text: str, path: Path, field: str) -> np.datetime64:
    """As `parse_time`; what is no date is a FileError."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise FileError(path, field, str(error)) from error


def read_xml(path: Path) -> ET.Element:
    """Return the root of an XML file, tags without their namespaces.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If it is too large, broken, or defines entities (which can expand without bound).
    """
    size = path.stat().st_size
    if size > _MAX_XML_BYTES:
        raise FileError(path, "size", f"expected at most {_MAX_XML_BYTES} bytes, got {size}")
    content = path.read_bytes()
    try:
        _check_doctype(content, path)
        root = ET.fromstring(content)
    except FileError:
        raise
    except (ET.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        raise FileError(path, "XML", f"is broken: {error}") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root


class _Root(Exception):
    """The root element begins."""


def _check_doctype(content: bytes, path: Path) -> None:
    """By the parser itself, which knows the encoding; a document type can only stand before the root."""

    def refuse(*_: object) -> None:
        raise FileError(path, "DOCTYPE", "is not allowed in product metadata")

    def end(*_: object) -> None:
        raise _Root

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler = end
    with suppress(_Root):
        parser.Parse(content, True)


def starts_with(path: Path, *needles: bytes, limit: int = 1 << 16) -> bool:
    """Whether all needles are among the first bytes of a file; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(limit)
    except OSError:
        return False
    return all(needle in head for needle in needles)


def text_of(element: ET.Element, name: str, path: Path) -> str:
    """The text of the element at `name` (a path within `element`); missing or empty: FileError."""
    text = element.findtext(name)
    if text is None or not text.strip():
        raise FileError(path, name, "is missing")
    return text.strip()


def number_of(element: ET.Element, name: str, path: Path) -> float:
    """The finite number at `name`."""
    text = text_of(element, name, path)
    try:
        number = float(text)
    except ValueError:
        raise FileError(path, name, f"must be a number, got {text!r}") from None
    if not np.isfinite(number):
        raise FileError(path, name, f"must be finite, got {text!r}")
    return number


def only_one(found: list[Path], folder: Path, what: str) -> Path:
    """The only path of a list; none or several are a FileError."""
    if len(found) != 1:
        listed = ", ".join(path.name for path in found[:5]) or "none"
        raise FileError(folder, what, f"expected one such file, got {len(found)}: {listed}")
    return found[0]


def attribute_text(item: h5py.HLObject, name: str) -> str | None:
    """The text of an HDF5 attribute, however it is stored; None where there is none."""
    value = item.attrs.get(name)
    if value is None:
        return None
    value = np.ravel(value)[0] if np.size(value) else ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value).strip("\0 ")
