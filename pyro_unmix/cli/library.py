"""``pyro-unmix library``: spectral libraries built from images, looked at, resampled, selected, merged and drawn."""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.cli import arguments as options
from pyro_unmix.cli.arguments import Commands
from pyro_unmix.cli.console import BadInput, bad_input, say, say_json
from pyro_unmix.cli.console import facts as fact_lines
from pyro_unmix.data.bands import ranges_in_nm
from pyro_unmix.data.libraries import missing_bands, resample_library
from pyro_unmix.data.merging import merge_libraries
from pyro_unmix.data.selection import (
    ORDERS,
    library_scores,
    select_from_library,
    select_iteratively,
)
from pyro_unmix.io import library_from_pixels, read_library, read_mask, read_sequence, write_library

_SUFFIXES = (".csv", ".sli")
_MAX_RMSE = inspect.signature(library_scores).parameters["max_rmse"].default
_BY = (*ORDERS, "iterative")


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "library",
        help="build, look at, resample, select, merge and draw spectral libraries",
        description="Spectral libraries, which unmix --endmembers takes. Each command has its own --help.",
    )
    parts = command.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in (_add_build, _add_info, _add_resample, _add_select, _add_merge, _add_plot):
        add(parts)


def _add(
    parts: Commands, name: str, run: Callable[[argparse.Namespace], None], **texts: Any
) -> argparse.ArgumentParser:
    part = parts.add_parser(name, **texts)
    part.set_defaults(run=run)
    return part


def _add_library(part: argparse.ArgumentParser, *, several: bool = False) -> None:
    part.add_argument(
        "libraries" if several else "library",
        nargs="+" if several else None,
        type=options.library,
        metavar="LIBRARY",
        help=".csv, .sli, ECOSTRESS or USGS spectra, or 'earthlib'",
    )
    group = part.add_argument_group("reading (by default as the library says)")
    options.add_library_reading(group)
    options.add_ignore(group)  # also of an image whose bands are taken


def _add_out(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"library to write, {' or '.join(_SUFFIXES)}; one that is there is replaced (no default)",
    )


def _read(arguments: argparse.Namespace, path: Path) -> xr.DataArray:
    given = {
        name: getattr(arguments, name) for name in ("label", "classes", "unit", "scale", "ignore")
    }
    with bad_input():
        return read_library(path, **given)


def _write(library: xr.DataArray, arguments: argparse.Namespace) -> None:
    path = options.out_file(arguments.out, _SUFFIXES)
    with bad_input():
        written = write_library(library, path, overwrite=True)
    say(f"Wrote {', '.join(map(str, written))}: {_counted(library)}")


def _counted(library: xr.DataArray) -> str:
    counts = Counter(library["label"].to_numpy().astype(str).tolist())
    return ", ".join(f"{number} {label}" for label, number in counts.items())


# ------------------------------------------------------------------ build


def _add_build(parts: Commands) -> None:
    part = _add(
        parts,
        "build",
        _build,
        help="take spectra from pixels whose class is known",
        usage="%(prog)s FILE... --classes POLYGONS|CLASS=MASK... --out FILE.csv|.sli [options]",
        description="Take spectra from pixels of images whose class is known: those in polygons with a field for the "
        "class, or those above 0 in the mask of each class.",
    )
    options.add_files(part)
    part.add_argument(
        "--classes",
        nargs="+",
        required=True,
        metavar="FILE",
        help=".geojson, .shp or .gpkg, or masks of whole images as soil=soil.tif leaf=leaf.npy (no default)",
    )
    _add_out(part)
    part.add_argument(
        "--date",
        type=options.whole_number(0),
        metavar="N",
        help="position (from 0) of the date at which classes hold (default: of the only one)",
    )
    part.add_argument(
        "--max-spectra",
        type=options.whole_number(1),
        metavar="N",
        help="of each class, drawn at random (default: all)",
    )
    options.add_seed(part)
    group = part.add_argument_group("polygons")
    group.add_argument(
        "--field", metavar="NAME", help="with the class (default: class, label, material, ...)"
    )
    group.add_argument("--layer", metavar="NAME", help="of a GeoPackage (default: the only one)")
    group.add_argument(
        "--crs", metavar="CRS", help="EPSG:32633 and the like (default: of the file)"
    )
    group.add_argument(
        "--all-touched",
        action="store_true",
        help="also pixels whose centre is outside (default: off)",
    )


def _build(arguments: argparse.Namespace) -> None:
    options.out_file(arguments.out, _SUFFIXES)  # before the work
    whole = options.read_whole(arguments)
    cubes = options.windowed(whole, arguments)
    classes = _classes(arguments, whole)
    polygons = {name: getattr(arguments, name) for name in ("field", "layer", "crs")}
    with bad_input():
        try:
            library = library_from_pixels(
                cubes, classes, time=arguments.date, max_spectra=arguments.max_spectra,
                all_touched=arguments.all_touched, seed=arguments.seed,
                origin=tuple(arguments.window[:2]) if arguments.window else (0, 0), **polygons,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(str(error).replace("time=", "--date")) from error
    _write(library, arguments)


def _classes(arguments: argparse.Namespace, whole: xr.DataArray) -> Any:
    given: list[str] = arguments.classes
    if len(given) == 1 and (Path(given[0]).exists() or "=" not in given[0]):
        return given[0]
    masks: dict[str, xr.DataArray] = {}
    for text in given:
        label, equals, path = text.partition("=")
        if not (label and equals and path):
            raise BadInput(
                f"expected --classes with one file of polygons, or masks as CLASS=FILE, got {text!r}"
            )
        if label in masks:
            raise BadInput(f"--classes has {label!r} twice: give each class one mask")
        with bad_input():
            masks[label] = options.windowed(read_mask(path, whole), arguments)
    return masks


# ------------------------------------------------------------------ info


def _add_info(parts: Commands) -> None:
    part = _add(
        parts,
        "info",
        _info,
        help="say what is understood of a library",
        description="Say what is understood of a library: its classes, bands and reflectances.",
    )
    _add_library(part)
    options.add_json(part)


def _info(arguments: argparse.Namespace) -> None:
    library = _read(arguments, arguments.library)
    nm = library["wavelength"].to_numpy()
    missing = missing_bands(library)
    values = library.to_numpy()[~missing]
    counts = Counter(library["label"].to_numpy().astype(str).tolist())
    facts = {
        "library": str(arguments.library),
        "spectra": library.sizes["endmember"],
        "classes": dict(counts),
        "bands": len(nm),
        "wavelength_nm": nm,
        "fwhm_nm": library["fwhm"].to_numpy() if "fwhm" in library.coords else None,
        "missing_bands": np.flatnonzero(missing),
        "reflectance": [float(values.min()), float(values.max())],
    }
    if arguments.json:
        say_json(facts)
        return
    say(
        str(arguments.library),
        *fact_lines(
            {
                "spectra": str(facts["spectra"]),
                "classes": ", ".join(f"{label}: {number}" for label, number in counts.items()),
                "bands": f"{len(nm)}, {nm.min():g} to {nm.max():g} nm",
                "fwhm": "unknown" if facts["fwhm_nm"] is None else _range(library["fwhm"]),
                "missing": ranges_in_nm(nm, missing) if missing.any() else "none",
                "reflectance": f"{values.min():.4g} to {values.max():.4g}",
            }
        ),
    )


def _range(widths: xr.DataArray) -> str:
    return f"{float(widths.min()):g} to {float(widths.max()):g} nm"


# ------------------------------------------------------------------ resample, select, merge, plot


def _add_resample(parts: Commands) -> None:
    part = _add(
        parts,
        "resample",
        _resample,
        help="bring a library to the bands of an image",
        description="Bring a library to the bands of an image, as its sensor would see the spectra. unmix does so by "
        "itself.",
    )
    _add_library(part)
    part.add_argument("--bands-of", required=True, metavar="IMAGE", help="image (no default)")
    _add_out(part)


def _resample(arguments: argparse.Namespace) -> None:
    library = _read(arguments, arguments.library)
    with bad_input():
        library = resample_library(library, _image(arguments))
    _write(library, arguments)


def _image(arguments: argparse.Namespace) -> xr.DataArray:
    path: str = arguments.bands_of
    cubes = read_sequence(path, ignore=arguments.ignore)
    if "wavelength" not in cubes.coords:
        raise BadInput(f"{path} has no wavelengths: name an image that has, --bands-of IMAGE")
    return cubes


def _add_select(parts: Commands) -> None:
    part = _add(
        parts,
        "select",
        _select,
        help="keep few spectra that stand for their classes, for mesma",
        description="Keep the spectra that stand best for their classes: by the mean RMSE (ear) or angle (masa) of "
        "what they model of their class, by how many they model (cob); or the set that tells the classes apart "
        "(iterative).",
    )
    _add_library(part)
    part.add_argument("--by", choices=_BY, default="ear", help="see above (default: %(default)s)")
    part.add_argument(
        "--number",
        type=options.whole_number(1),
        metavar="N",
        help="spectra of each class, not of iterative (default: 1)",
    )
    part.add_argument(
        "--max-rmse",
        type=options.number(positive=True),
        default=_MAX_RMSE,
        metavar="R",
        help="of cob and iterative: largest RMSE of a model (default: %(default)g)",
    )
    _add_out(part)


def _select(arguments: argparse.Namespace) -> None:
    if arguments.by == "iterative" and arguments.number is not None:
        raise BadInput("--by iterative finds the number of spectra itself: leave out --number")
    library = _read(arguments, arguments.library)
    with bad_input():
        if arguments.by == "iterative":
            library = select_iteratively(library, max_rmse=arguments.max_rmse)
        else:
            library = select_from_library(
                library, arguments.number or 1, by=arguments.by, max_rmse=arguments.max_rmse
            )
    _write(library, arguments)


def _add_merge(parts: Commands) -> None:
    part = _add(
        parts,
        "merge",
        _merge,
        help="make one library of several",
        description="Make one library of several, at the bands of the first.",
    )
    _add_library(part, several=True)
    part.add_argument(
        "--bands-of", metavar="IMAGE", help="bands of this image instead (default: of the first)"
    )
    _add_out(part)


def _merge(arguments: argparse.Namespace) -> None:
    libraries = [_read(arguments, path) for path in arguments.libraries]
    with bad_input():
        image = None if arguments.bands_of is None else _image(arguments)
        library = merge_libraries(libraries, wavelength=image)
    _write(library, arguments)


def _add_plot(parts: Commands) -> None:
    part = _add(
        parts,
        "plot",
        _plot,
        help="draw the spectra of each class",
        description="Draw the spectra of each class and their mean.",
    )
    _add_library(part)
    part.add_argument(
        "--out",
        type=Path,
        default=Path("library.png"),
        metavar="FILE.png",
        help="replaced if it is there (default: ./%(default)s)",
    )


def _plot(arguments: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt

    from pyro_unmix.plots import plot_library

    path = options.out_file(arguments.out, (".png", ".pdf", ".svg"))
    library = _read(arguments, arguments.library)
    with bad_input():
        figure = plot_library(library)
        figure.savefig(path, dpi=110)
    plt.close(figure)
    say(f"Wrote {path}: {_counted(library)}")
