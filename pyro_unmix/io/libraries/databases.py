"""Spectral libraries of single spectra: ECOSTRESS and USGS splib07, as ASCII files or as databases of SPy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.integrity.sqlite import open_sqlite
from pyro_unmix.io.libraries.tables import Label, Spectrum, import_spectral, known_or_given, to_nm

logger = logging.getLogger(__name__)

_USGS_DELETED = -1e30  # the files mark deleted channels by -1.23e34


def read_ecostress_folder(path: Path, **options: Any) -> list[Spectrum]:
    found: list[Spectrum] = []
    for file in sorted(path.glob("*.spectrum.txt")):
        check_kind(file, folder=False)
        found += read_ecostress(file, **options)
    return found


def read_ecostress(
    path: Path, *, unit: str | None, scale: float | None, label: Label
) -> list[Spectrum]:
    ecostress = import_spectral("spectral.database.ecostress")
    with parsing(path, "text", "an ECOSTRESS spectrum"):
        signature = ecostress.read_ecostress_file(str(path))
        sample, measured = signature.sample, signature.measurement
        x, y = np.array(signature.x), np.array(signature.y)
    field = label.lower() if isinstance(label, str) else "class"
    if field not in sample:
        raise FileError(path, "label", f"no field {field!r}: there are {', '.join(sample)}")
    units = measured.get("x units", ""), measured.get("y units", "")
    return list(
        _ecostress_spectrum(
            path, sample.get("name", path.stem), sample[field], units, x, y, unit, scale
        )
    )


def _ecostress_spectrum(
    path: Path,
    name: str,
    label: str,
    units: tuple[str, str],
    x: np.ndarray,
    y: np.ndarray,
    unit: str | None,
    scale: float | None,
) -> Iterator[Spectrum]:
    quantity = units[1].lower()
    if not quantity.startswith("refle"):
        logger.info("%s: skipped %s, which is %s", path, name, units[1] or "of an unknown quantity")
        return
    stated = 0.01 if "percent" in quantity else None
    multiply = known_or_given(path, "scale", stated, scale) or 1.0
    said = "um" if "micromet" in units[0].lower() or "micron" in units[0].lower() else None
    if "wavenumber" in units[0].lower():
        raise FileError(path, "x units", f"expected a wavelength, got {units[0]}")
    nm = to_nm(x, said, unit, path)
    yield Spectrum(name.strip(), label.strip(), nm, y * multiply)


def read_database(
    path: Path, *, unit: str | None, scale: float | None, label: Label
) -> list[Spectrum]:
    usgs, ecostress = (
        import_spectral("spectral.database.usgs"),
        import_spectral("spectral.database.ecostress"),
    )
    with parsing(path, "database", "a database of SPy"), open_sqlite(path) as opened:
        rows = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {row[0].lower() for row in rows}
        # SPy would open it for writing.
        if "spectrometerdata" in tables:
            database = usgs.USGSDatabase()
            database.db, database.cursor = opened, opened.cursor()
            return list(_from_usgs(path, database, unit, scale, label))
        if "spectra" in tables:
            database = ecostress.EcostressDatabase()
            database.db, database.cursor = opened, opened.cursor()
            return list(_from_ecostress(path, database, unit, scale, label))
    raise FileError(
        path, "database", f"no ECOSTRESS or USGS database of SPy: tables {', '.join(tables)}"
    )


def _from_ecostress(
    path: Path, database: Any, unit: str | None, scale: float | None, label: Label
) -> Iterator[Spectrum]:
    columns = {"class": "Class", "type": "Type", "subclass": "SubClass"}
    field = label.lower() if isinstance(label, str) else "class"
    if field not in columns:
        raise FileError(path, "label", f"no field {field!r}: there are {', '.join(columns)}")
    query = (
        f"SELECT SpectrumID, Name, {columns[field]}, XUnit, YUnit FROM Samples, Spectra "
        "WHERE Samples.SampleID = Spectra.SampleID ORDER BY SpectrumID"
    )
    for number, name, cls, x_unit, y_unit in database.query(query).fetchall():
        x, y = (np.array(v, dtype=np.float64) for v in database.get_spectrum(number))
        yield from _ecostress_spectrum(path, name, cls, (x_unit, y_unit), x, y, unit, scale)


def read_usgs_folder(
    path: Path, *, unit: str | None, scale: float | None, label: Label
) -> list[Spectrum]:
    """``ASCIIdata`` with a folder per sub-library, or one of those, which holds wavelengths and chapters."""
    usgs = import_spectral("spectral.database.usgs")
    one = any(path.glob("*Wavelengths*.txt"))
    libraries = [path] if one else sorted(p for p in path.iterdir() if p.is_dir())
    with parsing(path, "folder", "the folder of USGS splib07"):
        database = usgs.USGSDatabase.create(":memory:")
        with closing(database.db):
            for library in libraries:
                for file in sorted(library.glob("*.txt")):
                    check_kind(file, folder=False)
                    _add(database._add_spectrometer_data, usgs.SpectrometerData, file)
                for file in sorted(library.glob("*/*.txt")):
                    if file.parent.name != "errorbars":
                        check_kind(file, folder=False)
                        _add(database._add_sample_data, usgs.SampleData, file, file.parent.name)
            return list(_from_usgs(path, database, unit, scale, label))


def _add(add: Callable[[Any], Any], kind: Any, file: Path, *chapter: str) -> None:
    """As SPy's own import does: one odd file among thousands is left out, but not in silence."""
    try:
        add(kind.read_from_file(str(file), *chapter))
    except Exception as error:
        logger.warning("%s: left out, SPy cannot read it: %s", file, error)


def _from_usgs(
    path: Path, database: Any, unit: str | None, scale: float | None, label: Label
) -> Iterator[Spectrum]:
    if isinstance(label, str) and label.lower() != "chapter":
        raise FileError(path, "label", f"no field {label!r}: there is chapter")
    query = (
        "SELECT SampleID, Samples.Description, Chapter, Unit, Samples.MeasurementType "
        "FROM Samples, SpectrometerData "
        "WHERE AssumedWLSpmeterDataID = SpectrometerDataID ORDER BY SampleID"
    )
    for number, name, chapter, x_unit, kind in database.query(query).fetchall():
        if "REF" not in str(kind):
            logger.info("%s: skipped %s, which is %s", path, name, kind)
            continue
        x, y = (np.array(v, dtype=np.float64) for v in database.get_spectrum(number))
        if x.shape != y.shape:
            raise FileError(path, name, f"has {len(y)} values, its spectrometer {len(x)} channels")
        kept = (y > _USGS_DELETED) & (x > 0)
        nm = to_nm(x[kept], x_unit, unit, path)
        cls = str(chapter).split("_", 1)[-1]
        yield Spectrum(name, cls, nm, y[kept] * (scale or 1.0))
