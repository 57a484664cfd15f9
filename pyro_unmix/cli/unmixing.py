"""What ``pyro-unmix unmix`` does, once its options are checked: read, unmix, write."""

from __future__ import annotations

import argparse
import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from pyro_unmix import methods
from pyro_unmix.cli import arguments as options
from pyro_unmix.cli.console import BadInput, bad_input, facts, kept_notes, say, say_json
from pyro_unmix.cli.pictures import write_pictures
from pyro_unmix.cli.results import summary_of, texts_of
from pyro_unmix.data.libraries import has_several, library_endmembers
from pyro_unmix.infer import Checkpoints
from pyro_unmix.infer.settings import FitSettings
from pyro_unmix.io import FileError, read_library, read_uncertainty
from pyro_unmix.io.companions import companion, is_reflectance
from pyro_unmix.io.formats.own_netcdf import open_netcdf
from pyro_unmix.methods.unmix import MOST_PIXEL_DATES
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.plots import write_report
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.num_endmembers import estimate_num_endmembers

logger = logging.getLogger(__name__)

#: The methods of the shell by their names; `unmix` takes the other by itself.
METHODS: dict[str, Callable[..., Unmixing]] = {
    name: getattr(methods, name) for name in methods.__all__ if name != "unmix_by_chains"
}


def run(arguments: argparse.Namespace) -> int:
    if arguments.device is not None:
        _check_device(arguments.device)
    settings = _settings(arguments)
    with kept_notes() as notes:
        cubes = options.read_files(arguments, arguments.chunks)
        library = _library(arguments, cubes)
        settings |= _weights_of_product(arguments, cubes, library)
        out = options.make_folder(arguments.out)
        started = time.perf_counter()
        with bad_input(), _our_words(), _interrupts() as interrupts:
            result = _unmix(arguments, cubes, library, settings)
    seconds = time.perf_counter() - started
    with bad_input():
        result.save(out / "saved", overwrite=True)
        result.to_netcdf(out / "result.nc", overwrite=True)
    maps, problem = _write_maps(result, out / "geotiff")
    drawn, undrawn = _draw(result, out, notes, arguments.command)
    written = [out / "saved", out / "result.nc", *maps, *drawn]
    summary = {
        **summary_of(result),
        "files": arguments.files,
        "seconds": seconds,
        "written": written,
    }
    if arguments.json:
        say_json({**summary, "no_geotiff": problem, "not_drawn": undrawn})
    else:
        say(*facts({**texts_of(summary), "seconds": f"{seconds:.1f}"}))
        say(f"Wrote {_named(written, out)}")
    if problem:
        say(f"pyro-unmix: note: no GeoTIFF: {problem}", to_stderr=True)
    for text in undrawn:
        say(f"pyro-unmix: note: {text}", to_stderr=True)
    return 130 if interrupts else 0


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise BadInput(f"--device {name} cannot be used: {why}") from error


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the options what the method takes by name."""
    settings: dict[str, Any] = {"seed": arguments.seed, "progress": True}
    settings |= _named_settings(arguments)
    if arguments.steps is not None:
        settings["num_steps"] = arguments.steps
    if arguments.checkpoint is not None:
        resume = arguments.resume is not False
        settings["checkpoint"] = Checkpoints(arguments.checkpoint, resume=resume)
    if arguments.uncertainty not in (None, "none"):
        with bad_input():
            settings["uncertainty"] = _uncertainty(arguments.uncertainty, arguments.files)
    for name in ("polish", "trained", "device", "shade", "normalize"):
        value = getattr(arguments, name)
        if value is not None:
            settings[name] = value
    return settings


def _uncertainty(path: str, files: list[str]) -> xr.DataArray:
    """Of the file, or of those beside all images."""
    if path != "product":
        return read_uncertainty(path)
    for file in files:
        if not is_reflectance(Path(file)):
            raise BadInput(
                f"{file}: --uncertainty product is for EMIT_L2A_RFL_*.nc, beside which EMIT_L2A_RFLUNCERT_*.nc lies: "
                "pass --uncertainty the file of the uncertainty"
            )
    each = [read_uncertainty(file) for file in files]
    return xr.concat(each, "file", join="exact")  # whose root mean square counts


def _weights_of_product(
    arguments: argparse.Namespace, cubes: xr.DataArray, library: xr.DataArray | None
) -> dict[str, Any]:
    """The uncertainty beside all images, where `unmix` draws chains of a library and none was asked for."""
    given = (arguments.uncertainty, arguments.trained, arguments.steps, arguments.polish)
    asked = arguments.set or arguments.chunks or any(value is not None for value in given)
    if arguments.method != "unmix" or asked or not has_several(library):
        return {}
    many = cubes.size // cubes.sizes["wavelength"] > MOST_PIXEL_DATES
    files = [Path(file) for file in arguments.files]
    if many or not all(is_reflectance(f) and companion(f, "RFLUNCERT") for f in files):
        return {}
    try:
        found = _uncertainty("product", arguments.files)
        band_weights(found, cubes)
    except ValueError as error:  # FileError is one
        logger.warning("bands are not weighed by the uncertainty of the product: %s", error)
        return {}
    logger.info("bands are weighed by the uncertainty of the product; not with --uncertainty none")
    return {"uncertainty": found}


def _named_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of ``--set``, which the method must have."""
    method, given = arguments.method, dict(arguments.set or [])
    parameters = inspect.signature(METHODS[method]).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        known |= set(FitSettings.__annotations__)
    with_options = {**{name: name for name in vars(arguments)}, "num_steps": "steps"}
    others = sorted(known - set(with_options) - {"progress"})
    for name in given:
        if name in known & set(with_options):
            raise BadInput(f"--set {name}: it has an option of its own, --{with_options[name]}")
        if name not in others:
            raise BadInput(f"--set {name}: {method} has no such setting, only {', '.join(others)}")
    return given


def _library(arguments: argparse.Namespace, cubes: xr.DataArray) -> xr.DataArray | None:
    path = arguments.endmembers
    if not isinstance(path, Path):
        return None
    if path.suffix.lower() == ".nc":
        with bad_input():
            return _of_command(path)
    if "wavelength" not in cubes.coords:
        raise BadInput(f"the images have no wavelengths, which the bands of {path} need")
    given = {
        "unit": arguments.library_unit,
        "scale": arguments.library_scale,
        "label": arguments.library_label,
        "classes": arguments.library_classes,
    }
    with bad_input("library-"):
        with suppress(FileError):  # such as spectra that have no bands in common
            return read_library(path, **given)  # which methods bring to the bands of the images
        return read_library(path, wavelength=cubes, **given)


def _of_command(path: Path) -> xr.DataArray:
    """The NetCDF of the command ``endmembers``."""
    with open_netcdf(path) as dataset:
        if "reference_endmembers" not in dataset or "label" not in dataset.coords:
            raise ValueError(f"{path}: expected a file that pyro-unmix endmembers wrote")
        return dataset["reference_endmembers"].load()


def _unmix(
    arguments: argparse.Namespace,
    cubes: xr.DataArray,
    library: xr.DataArray | None,
    settings: dict[str, Any],
) -> Unmixing:
    method = arguments.method
    if library is not None:
        known: dict[str, Any] = {"endmembers": library}
    elif arguments.endmembers == "auto":
        known = {"num_endmembers": estimate_num_endmembers(cubes, seed=arguments.seed)}
    else:
        known = {"num_endmembers": arguments.endmembers}
    result = METHODS[method](cubes, **known, **settings)
    if method.startswith("redsunn") and library is not None:
        return _named_as(library, result)
    return result


def _named_as(library: xr.DataArray, result: Unmixing) -> Unmixing:
    """The classes of the library as names; redsunn keeps the order of what it starts from."""
    names = library_endmembers(library)["endmember"].values
    return replace(result, dataset=result.dataset.assign_coords(endmember=names))


@contextmanager
def _our_words() -> Iterator[None]:
    """Messages of `fit` about its checkpoints, with the option of the command."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            str(error).replace("Checkpoints(folder, resume=False)", "--no-resume")
        ) from error


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The interrupts (Ctrl-C) meanwhile: training ends with what it has, and it shall be written."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _write_maps(result: Unmixing, folder: Path) -> tuple[list[Path], str | None]:
    """GeoTIFFs, or why there are none."""
    for path in folder.glob("abundances_*.tif"):  # of an earlier run
        path.unlink()
    try:
        return result.to_geotiff(folder, overwrite=True), None
    except (ImportError, OSError, ValueError) as error:
        return [], str(error)


def _draw(
    result: Unmixing, out: Path, notes: list[str], command: str
) -> tuple[list[Path], list[str]]:
    """Pictures and the page, and why some are missing: the run and its files are worth more than these."""
    report = out / "report.html"
    drawing: dict[str, Callable[[], list[Path]]] = {
        "pictures": lambda: write_pictures(result, out),
        "report": lambda: [
            write_report(result, report, notes=notes, command=command, overwrite=True)
        ],
    }
    written, problems = list[Path](), list[str]()
    for what, draw in drawing.items():
        try:
            written += draw()
        except Exception as error:
            logger.debug("no %s", what, exc_info=True)
            problems.append(f"no {what}: {type(error).__name__}: {' '.join(str(error).split())}")
            if what == "report":  # of an earlier run
                report.unlink(missing_ok=True)
    return written, problems


def _named(written: list[Path], out: Path) -> str:
    """What was written, in short."""
    pictures = "".join(f", {path.name}" for path in written if path.suffix == ".png")
    report = "".join(f", {path}" for path in written if path.suffix == ".html")
    maps = sum(path.suffix == ".tif" for path in written)
    folder = f", {out / 'geotiff'} ({maps} files)" if maps else ""
    return f"{out / 'saved'} (for Unmixing.load){folder}, {out / 'result.nc'}{report}{pictures}"
