"""Read spectral libraries: ENVI .sli, CSV, ECOSTRESS and USGS spectra, and the package earthlib."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.ignored import ignored_of
from pyro_unmix.data.libraries import as_ignored, resampled, resampling_matrix, target_bands
from pyro_unmix.io.errors import FileError
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.libraries.checks import checked_spectra
from pyro_unmix.io.libraries.databases import (
    read_database,
    read_ecostress,
    read_ecostress_folder,
    read_usgs_folder,
)
from pyro_unmix.io.libraries.envi import envi_header, read_earthlib, read_sli
from pyro_unmix.io.libraries.tables import Spectrum, read_csv, relabel
from pyro_unmix.ops.checks import positive

logger = logging.getLogger(__name__)


def read_library(
    path_or_name: str | os.PathLike[str],
    *,
    wavelength: ArrayLike | xr.DataArray | None = None,
    fwhm: ArrayLike | None = None,
    unit: str | None = None,
    scale: float | None = None,
    label: str | Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ignore: Ignore = None,
) -> xr.DataArray:
    """Read a spectral library as labelled reflectance, at the library's own bands or at a scene's.

    - ENVI spectral library (`.sli`, or its `.hdr`): names from the header; the scale factor or gains and offsets, the
      bad-band list and the ignore value are applied. The class is that of the field ``spectra classes``, which
      `write_library` adds, else the name, unless `label` lists the classes.
    - CSV, one spectrum per row: columns whose header is a number are bands (nm, unless `unit` says otherwise), which
      stand side by side and in order; the others describe the spectrum. The class is the column `label`; else the first
      of class, label, material, category, type (any case); else the only text column; anything else is an error. Names
      come from the column name, id, spectrum or sample, else they are the class with a number. A column
      ``wavelength_units`` says the unit, ``source`` where each spectrum comes from; a band whose cells are empty in
      all rows is missing.
    - ECOSTRESS spectra (`.spectrum.txt`, ASCII): one file or a folder, or SPy's database of them. The class is the
      field ``Class`` (`label` may be ``type``, ``subclass``, ``genus``). Only reflectance is taken.
    - USGS splib07: the folder ``ASCIIdata`` or SPy's database. The class is the chapter.
    - ``"earthlib"`` (``pip install "pyro-unmix[library]"``): its optimised spectra. The class is ``LEVEL_2``
      (`label` may be another of its columns).

    Spectra on different grids, as ECOSTRESS's and USGS's are, need `wavelength`; those that do not cover it are
    dropped with a log line.

    A band that holds the same number in every spectrum, and is zero or as some other such band, is fill and no
    reflectance: it is missing (NaN), with a warning that lists the bands, and so is a band of the scene that sees any
    of it. Methods leave such bands out.

    Parameters
    ----------
    path_or_name : path, or "earthlib"
    wavelength : array (L,) in nm, or cubes (time, y, x, wavelength), optional
        The scene's bands; the spectra are resampled to them as `resample_library` does. Cubes give their ``fwhm``.
    fwhm : array (L,), optional
        Of the scene's bands, nm.
    unit : str, optional
        Of the library's wavelengths, where the file does not say it: "nm" or "um".
    scale : float, optional
        reflectance = stored x scale, where the file does not say it, for example 1e-4.
    label : str or sequence of str, optional
        Which column or field is the class; or the class of each spectrum in the order of the file.
    classes : sequence of str, optional
        Those to keep; default all.
    ignore : str or sequence of pairs, optional
        Leave out the bands with centres in these ranges, nm, as `read_sequence` does.

    Returns
    -------
    DataArray (wavelength, endmember)
        Reflectance; ``endmember`` holds unique names, the coordinate ``label`` the classes, and ``source``, where the
        file says it, whence each comes.

    Raises
    ------
    FileError
        If the file is broken, or unit, scale or class cannot be told; the text names file and field.
    FileNotFoundError, ImportError

    Warns
    -----
    UserWarning
        Of bands that hold only fill, and of classes whose names differ by case or spaces alone.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from pyro_unmix import read_library
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "library.csv"
    ...     _ = path.write_text("class,500,600,700\\nsoil,.1,.2,.3\\nleaf,.04,.1,.05\\n")
    ...     library = read_library(path)
    >>> dict(library.sizes), library["label"].values.tolist()
    ({'wavelength': 3, 'endmember': 2}, ['soil', 'leaf'])

    References
    ----------
    Meerdink et al., Remote Sensing of Environment 230, 2019 (ECOSTRESS); Kokaly et al., USGS Data Series 1035, 2017.
    """
    if scale is not None:
        positive(scale, "scale")
    options: dict[str, Any] = {"unit": unit, "scale": scale, "label": label}
    path = Path(path_or_name)
    if str(path_or_name) == "earthlib":
        path, spectra = read_earthlib(**options)
    else:
        if not path.exists():
            raise FileNotFoundError(f"no such spectral library: {path}")
        check_kind(path)
        spectra = _reader(path)(path, **options)
    if not spectra:
        raise FileError(path, "", "holds no reflectance spectrum")
    if label is not None and not isinstance(label, str):
        spectra = relabel(path, spectra, label)
    if classes is not None:
        spectra = _of_classes(path, spectra, classes)
    library = _assemble(path, spectra, wavelength, fwhm)
    if ignore is None:
        return library
    return library.isel(wavelength=~ignored_of(library, ignore))


def _reader(path: Path) -> Callable[..., list[Spectrum]]:
    """By content, then by suffix."""
    if path.is_dir():
        if any(path.glob("*.spectrum.txt")):
            return read_ecostress_folder
        if any(path.glob("*/*Wavelengths*.txt")) or any(path.glob("*Wavelengths*.txt")):
            return read_usgs_folder
        raise FileError(
            path,
            "",
            "holds neither *.spectrum.txt (ECOSTRESS) nor *Wavelengths*.txt (USGS splib07)",
        )
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"SQLite format 3\0"):
        return read_database
    if start.lstrip()[:5].lower() == b"name:":
        return read_ecostress
    if path.suffix.lower() == ".csv":  # also beside the header of another file
        return read_csv
    if start.startswith(b"ENVI") or envi_header(path) is not None:
        return read_sli
    raise FileError(
        path,
        "format",
        "no known spectral library: expected ENVI .sli with its .hdr, .csv, ECOSTRESS .spectrum.txt, "
        "a folder of ECOSTRESS or USGS splib07 files, or a database of SPy",
    )


def _of_classes(path: Path, spectra: list[Spectrum], classes: Sequence[str]) -> list[Spectrum]:
    if isinstance(classes, str):
        raise TypeError(f"classes must be a sequence of names, got {classes!r}: pass [{classes!r}]")
    there = dict.fromkeys(spectrum.label for spectrum in spectra)
    lacking = [name for name in classes if name not in there]
    if lacking or not len(classes):
        what = ", ".join(map(repr, lacking)) or "class asked for"
        raise FileError(path, "classes", f"there is no {what}: the classes are {', '.join(there)}")
    return [spectrum for spectrum in spectra if spectrum.label in set(classes)]


def _assemble(
    path: Path,
    spectra: list[Spectrum],
    wavelength: ArrayLike | xr.DataArray | None,
    fwhm: ArrayLike | None,
) -> xr.DataArray:
    spectra = checked_spectra(path, spectra)
    if wavelength is None:
        if fwhm is not None:
            raise ValueError("fwhm is that of the scene's bands: pass wavelength= with it")
        centres, widths = spectra[0].wavelength, spectra[0].fwhm
        if any(not np.array_equal(s.wavelength, centres) for s in spectra):
            raise FileError(
                path, "wavelength",
                "the spectra have different bands: pass wavelength= (the scene's bands, or cubes)",
            )  # fmt: skip
        columns = [s.values for s in spectra]
    else:
        centres, widths = target_bands(wavelength, fwhm)
        spectra, columns = _resample(path, spectra, centres, widths)
    coords: dict[str, Any] = {
        "wavelength": ("wavelength", centres, {"units": "nm", "long_name": "wavelength"}),
        "endmember": _unique([s.name for s in spectra]),
        "label": ("endmember", [s.label for s in spectra]),
    }
    if any(s.source for s in spectra):
        coords["source"] = ("endmember", [s.source for s in spectra])
    if widths is not None:
        coords["fwhm"] = ("wavelength", widths, {"units": "nm"})
    return xr.DataArray(
        np.stack(columns, axis=1),
        dims=("wavelength", "endmember"),
        coords=coords,
        name="library",
        attrs={"long_name": "reflectance", "units": "1"},
    )


def _resample(
    path: Path, spectra: list[Spectrum], centres: np.ndarray, widths: np.ndarray | None
) -> tuple[list[Spectrum], list[np.ndarray]]:
    matrices: dict[bytes, np.ndarray] = {}
    kept, columns, dropped = [], [], []
    for spectrum in spectra:
        own = b"" if spectrum.fwhm is None else spectrum.fwhm.tobytes()
        key = spectrum.wavelength.tobytes() + own
        if key not in matrices:
            matrices[key] = resampling_matrix(spectrum.wavelength, spectrum.fwhm, centres, widths)
        if np.isnan(matrices[key]).any():
            dropped.append(spectrum.name)
        else:
            kept.append(spectrum)
            columns.append(resampled(matrices[key], spectrum.values[:, None])[:, 0])
    if not kept:
        bad = next(iter(matrices.values()))
        missing = np.isnan(bad).any(1)
        low, high = spectra[0].wavelength.min(), spectra[0].wavelength.max()
        raise FileError(
            path, "wavelength",
            f"no spectrum covers all bands; {spectra[0].name!r} spans {low:g} to {high:g} nm and has "
            f"nothing at {missing.sum()} of {len(centres)} bands, the first at {centres[missing][0]:g} nm: "
            f"leave them out of the scene, ignore='{as_ignored(centres, missing)}'",
        )  # fmt: skip
    if dropped:
        logger.info(
            "%s: dropped %d of %d spectra that do not cover the bands: %s",
            path, len(dropped), len(spectra), ", ".join(dropped),
        )  # fmt: skip
    return kept, columns


def _unique(names: list[str]) -> list[str]:
    """Names as they are, repeated ones with a number behind."""
    total, seen, taken = Counter(names), Counter[str](), set(names)
    result = []
    for name in names:
        if total[name] > 1:
            # "a 2" may itself be the name of another spectrum.
            numbers = itertools.count(seen[name] + 1)
            seen[name] = next(n for n in numbers if f"{name} {n}" not in taken)
            name = f"{name} {seen[name]}"
            taken.add(name)
        result.append(name)
    return result
