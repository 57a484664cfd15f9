"""Write spectral libraries: tables (CSV) and ENVI ``.sli``, which `read_library` reads back as they were."""

from __future__ import annotations

import csv
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.data.checks import can_be_written
from pyro_unmix.data.libraries import checked_library
from pyro_unmix.io.libraries.tables import SOURCE_COLUMN, UNIT_COLUMN
from pyro_unmix.io.write.datasets import check_free, workshop
from pyro_unmix.ops.extras import need

logger = logging.getLogger(__name__)

_SUFFIXES = (".csv", ".sli")


def write_library(
    library: xr.DataArray, path: str | os.PathLike[str], *, overwrite: bool = False
) -> list[Path]:
    """Write a spectral library as a table or for ENVI.

    - ``.csv``: one spectrum per row, with the columns ``name``, ``class``, ``source`` (where known),
      ``wavelength_units`` (nm) and one for each band. Missing bands are empty. A table has no place for band widths
      (``fwhm``), of which a log line tells.
    - ``.sli``: an ENVI spectral library with its header ``.hdr`` beside it: names, wavelengths in nm, fwhm, and in the
      fields ``spectra classes`` and ``spectra sources`` the rest, which other programs pass over. Missing bands are
      NaN, the ``data ignore value``.

    Numbers keep their precision in both.

    Parameters
    ----------
    library : DataArray (wavelength, endmember)
        Reflectance with the coordinates ``wavelength`` (nm), ``label`` (the classes) and perhaps ``endmember`` (names,
        each once), ``source`` and ``fwhm``; see `read_library`. Not changed.
    path : path
        Ends in ``.csv`` or ``.sli``; its folder is made.
    overwrite : bool
        Replace files that are there.

    Returns
    -------
    list of Path
        The files: the table, or ``.sli`` and ``.hdr``. They appear whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another, the library is not as described, a name is there twice, or a text cannot stand in an
        ENVI header.
    FileExistsError
        If a file is there and is not to be replaced.
    ImportError
        Without SPy, for ``.sli`` (``pip install "pyro-unmix[io]"``).

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import xarray as xr, pyro_unmix as pu
    >>> library = xr.DataArray([[.1, .04], [.2, .1], [.3, .05]], dims=("wavelength", "endmember"),
    ...     coords={"wavelength": [500., 600., 700.], "endmember": ["plot 7", "oak"],
    ...             "label": ("endmember", ["soil", "leaf"]), "source": ("endmember", ["field", "lab"])})
    >>> with TemporaryDirectory() as folder:
    ...     path, = pu.io.write_library(library, Path(folder) / "library.csv")
    ...     print(path.read_text().splitlines()[1])
    ...     pu.read_library(path).equals(library)
    plot 7,soil,field,nm,0.1,0.2,0.3
    True

    References
    ----------
    ENVI header files, NV5 Geospatial (the fields of a spectral library).
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"a library is written as {' or '.join(_SUFFIXES)}, got {path}: choose one of the suffixes"
        )
    library = checked_library(library)
    names, columns = _texts(library)
    if path.suffix.lower() == ".csv":
        check_free([path], overwrite)
        with workshop(path.parent) as folder:
            _write_table(library, names, columns, folder / path.name)
            os.replace(folder / path.name, path)
        if "fwhm" in library.coords:
            logger.info("%s: a table holds no band widths (fwhm): write .sli to keep them", path)
        return [path]
    paths = [path, path.with_suffix(".hdr")]
    check_free(paths, overwrite)
    fields = {f"spectra {name}": texts for name, texts in columns.items()}
    with workshop(path.parent) as folder:
        made = write_sli(library, names, folder / path.name, "spectral library", fields)
        for new, target in zip(made, paths, strict=True):
            os.replace(new, target)
    return paths


def _texts(library: xr.DataArray) -> tuple[list[str], dict[str, list[str]]]:
    """Names, and classes with, where there are any, sources."""
    labels = library["label"].to_numpy().astype(str).tolist()
    if "endmember" in library.coords:
        names = [str(name) for name in library["endmember"].to_numpy().tolist()]
    else:
        names = [f"{label} {number}" for number, label in enumerate(labels, start=1)]
    again = sorted(name for name, count in Counter(names).items() if count > 1)
    if again:
        raise ValueError(
            f"the names of spectra must differ, got {', '.join(map(repr, again[:5]))} more than once: rename them, "
            "library.assign_coords(endmember=[...])"
        )
    columns = {"classes": labels}
    if "source" in library.coords and library["source"].dims == ("endmember",):
        columns["sources"] = library["source"].to_numpy().astype(str).tolist()
    for text in [*names, *labels]:
        if not can_be_written(text) or text != text.strip():
            raise ValueError(
                "names and classes of spectra must not be empty, and must be texts of UTF-8 without null characters "
                f"and without spaces at their ends, which a table does not keep, got {text!r}: rename it"
            )
    return names, columns


def _write_table(
    library: xr.DataArray, names: Sequence[str], columns: dict[str, list[str]], path: Path
) -> None:
    bands = library["wavelength"].to_numpy().astype(np.float64)
    texts = {"name": names, "class": columns["classes"]}
    if "sources" in columns:
        texts[SOURCE_COLUMN] = columns["sources"]
    texts[UNIT_COLUMN] = ["nm"] * len(names)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*texts, *map(repr, bands.tolist())])
        for number, values in enumerate(library.to_numpy().T.astype(np.float64)):
            cells = ["" if np.isnan(value) else repr(value) for value in values.tolist()]
            writer.writerow([*(column[number] for column in texts.values()), *cells])


def write_sli(
    spectra: xr.DataArray,
    names: Sequence[str],
    path: Path,
    description: str,
    fields: dict[str, list[str]] | None = None,
) -> tuple[Path, Path]:
    """Write spectra (wavelength, endmember) as ``.sli`` with its header; the files may be there.

    Parameters
    ----------
    spectra : DataArray (wavelength, endmember)
        With the coordinates wavelength and fwhm (nm) as far as they are known.
    names : sequence of str
    path : Path
        Of the ``.sli``.
    description : str
    fields : dict, optional
        More fields of the header, a text for each spectrum.
    """
    envi = need("spectral.io.envi", "io")
    for field, texts in {"spectra names": names, **(fields or {})}.items():
        for text in texts:
            if set(text) & set(",{}\r\n"):
                raise ValueError(
                    f"{field} in an ENVI header cannot hold commas, braces or line breaks, got {text!r}: rename it, or "
                    "write .csv"
                )
    stored = spectra.transpose("endmember", "wavelength").to_numpy()
    if stored.dtype not in (np.float32, np.float64):
        stored = stored.astype(np.float64)
    header: dict[str, Any] = {
        "description": description,
        "samples": stored.shape[1],
        "lines": stored.shape[0],
        "bands": 1,
        "header offset": 0,
        "data type": {"float32": 4, "float64": 5}[stored.dtype.name],
        "interleave": "bsq",
        "byte order": 0,
        "spectra names": list(names),
        **(fields or {}),
    }
    if np.isnan(stored).any():
        header["data ignore value"] = "nan"
    for key in ("wavelength", "fwhm"):
        if key in spectra.coords:
            header[key] = spectra[key].to_numpy().tolist()
            header["wavelength units"] = "Nanometers"
    # Not SPy's SpectralLibrary.save, which rounds to float32.
    beside = path.with_suffix(".hdr")
    envi.write_envi_header(str(beside), header, is_library=True)
    stored.astype(stored.dtype.newbyteorder("<")).tofile(path)
    return path, beside
