"""``pyro-unmix unmix``: image files in, maps, pictures and a result out."""

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

from pyro_unmix.cli import arguments as options
from pyro_unmix.cli.arguments import Commands
from pyro_unmix.cli.console import BadInput, bad_input, facts, kept_notes, say, say_json
from pyro_unmix.cli.pictures import write_pictures
from pyro_unmix.cli.results import summary_of, texts_of
from pyro_unmix.data.libraries import library_endmembers
from pyro_unmix.infer import Checkpoints
from pyro_unmix.io import FileError, read_library, read_uncertainty
from pyro_unmix.io.formats.own_netcdf import open_netcdf
from pyro_unmix.methods import (
    fcls,
    hbun,
    idnet,
    kalman_em,
    mesma,
    minimum_volume,
    monte_carlo_sma,
    nnls,
    online_unmixing,
    sparse_regression,
)
from pyro_unmix.methods.redsunn import NUM_EPOCHS, redsunn
from pyro_unmix.methods.redsunn_published import redsunn_published
from pyro_unmix.methods.unmix import MIN_DATES, NUM_STEPS, unmix
from pyro_unmix.plots import write_report
from pyro_unmix.posterior.estimates import MOST_POLISHED
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.num_endmembers import estimate_num_endmembers

logger = logging.getLogger(__name__)

_TRAINED = ("unmix", "redsunn", "redsunn_published", "idnet", "hbun")
_ON_DEVICES = ("unmix", "redsunn", "redsunn_published", "idnet")
_RESUMABLE = ("unmix", "redsunn", "redsunn_published")
_HBUN_STEPS = inspect.signature(hbun).parameters["num_steps"].default
#: The methods of the shell by their names there.
METHODS: dict[str, Callable[..., Unmixing]] = {
    "unmix": unmix,
    "redsunn": redsunn,
    "redsunn_published": redsunn_published,
    "idnet": idnet,
    "fcls": fcls,
    "nnls": nnls,
    "mesma": mesma,
    "monte-carlo-sma": monte_carlo_sma,
    "sparse-regression": sparse_regression,
    "minimum-volume": minimum_volume,
    "online": online_unmixing,
    "kalman-em": kalman_em,
    "hbun": hbun,
}
_WEIGHTED = ("fcls", "nnls", "mesma", "monte-carlo-sma", "sparse-regression")
_SHADED = ("fcls", "mesma", "monte-carlo-sma")


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "unmix",
        help="unmix image files",
        usage="%(prog)s FILE... --endmembers N|auto|LIBRARY [options]",
        description="Unmix a sequence of images. Writes result.nc (CF NetCDF), saved/ (for "
        "Unmixing.load), geotiff/ (with rasterio; NaN where not observed), pictures and report.html.",
    )
    options.add_files(command)
    command.add_argument(
        "--endmembers",
        type=options.materials,
        required=True,
        metavar="N",
        help="number of materials, 'auto', or a spectral library: .sli, .csv, "
        "folder, 'earthlib', .nc of endmembers (no default)",
    )
    options.add_out_folder(command, "pyro_unmix_result")
    command.add_argument(
        "--method",
        choices=METHODS,
        default="unmix",
        metavar="NAME",
        help=f"{', '.join(METHODS)} (default: %(default)s)",
    )
    command.add_argument(
        "--shade",
        action="store_true",
        help=f"of {', '.join(_SHADED)}: with shade (default: off)",
    )
    command.add_argument(
        "--uncertainty",
        type=Path,
        metavar="FILE",
        help=f"of {', '.join(_WEIGHTED)}: weigh bands by EMIT's RFLUNCERT (default: none)",
    )
    command.add_argument(
        "--steps",
        type=options.whole_number(0),
        metavar="N",
        help=f"optimisation steps (default: {NUM_STEPS} for unmix, {_HBUN_STEPS} for hbun, "
        f"{NUM_EPOCHS:g} passes over the pixels for redsunn)",
    )
    command.add_argument(
        "--polish",
        action=argparse.BooleanOptionalAction,
        help="of unmix: sweeps of Markov chains "
        f"(default: in sequences of {MIN_DATES} dates or more, up to {MOST_POLISHED} pixels times "
        "dates)",
    )
    command.add_argument(
        "--trained",
        action=argparse.BooleanOptionalAction,
        help="of unmix: train, or draw chains (default: train where the model holds)",
    )
    command.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoints, from which a killed run goes on (default: none)",
    )
    command.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="go on from them, or start anew (default: --resume)",
    )
    command.add_argument(
        "--device",
        metavar="NAME",
        help=f"of {', '.join(_ON_DEVICES)}: where to train, as torch names it (default: cpu)",
    )
    command.add_argument(
        "--chunks",
        type=options.whole_number(1),
        metavar="N",
        help="of unmix: read N x N pixels at a time (default: all at once)",
    )
    options.add_seed(command)
    options.add_json(command)
    group = command.add_argument_group("spectral library (by default as it says)")
    options.add_library_reading(group, "library-")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.steps is not None and arguments.method not in _TRAINED:
        raise BadInput(f"--steps is for {', '.join(_TRAINED)}, not for {arguments.method}")
    if arguments.checkpoint is not None and arguments.method not in _RESUMABLE:
        raise BadInput(f"--checkpoint is for {', '.join(_RESUMABLE)}, not for {arguments.method}")
    if arguments.checkpoint is not None and arguments.checkpoint.is_file():
        raise BadInput(f"--checkpoint must be a folder, got the file {arguments.checkpoint}")
    if arguments.resume is not None and arguments.checkpoint is None:
        raise BadInput("--resume and --no-resume need --checkpoint DIR")
    if arguments.polish is not None and arguments.method != "unmix":
        raise BadInput(
            f"--polish and --no-polish are of the method unmix, not of {arguments.method}"
        )
    if arguments.shade and arguments.method not in _SHADED:
        raise BadInput(f"--shade is for {', '.join(_SHADED)}, not for {arguments.method}")
    if arguments.uncertainty is not None and arguments.method not in _WEIGHTED:
        raise BadInput(f"--uncertainty is for {', '.join(_WEIGHTED)}, not for {arguments.method}")
    if arguments.device is not None and arguments.method not in _ON_DEVICES:
        raise BadInput(f"--device is for {', '.join(_ON_DEVICES)}, not for {arguments.method}")
    if arguments.device is not None:
        _check_device(arguments.device)
    if arguments.chunks is not None and arguments.method != "unmix":
        raise BadInput(f"--chunks is for unmix, not for {arguments.method}, which loads the images")
    if arguments.trained is not None and arguments.method != "unmix":
        raise BadInput(
            f"--trained and --no-trained are of the method unmix, not of {arguments.method}"
        )
    with kept_notes() as notes:
        cubes = options.read_files(arguments, arguments.chunks)
        library = _library(arguments, cubes)
        out = options.make_folder(arguments.out)
        started = time.perf_counter()
        with bad_input(), _our_words(), _interrupts() as interrupts:
            result = _unmix(arguments, cubes, library)
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
    arguments: argparse.Namespace, cubes: xr.DataArray, library: xr.DataArray | None
) -> Unmixing:
    method = arguments.method
    settings: dict[str, Any] = {"seed": arguments.seed, "progress": True}
    if arguments.steps is not None:
        settings["num_steps"] = arguments.steps
    if arguments.checkpoint is not None:
        resume = arguments.resume is not False
        settings["checkpoint"] = Checkpoints(arguments.checkpoint, resume=resume)
    if library is not None:
        known: dict[str, Any] = {"endmembers": library}
    elif arguments.endmembers == "auto":
        known = {"num_endmembers": estimate_num_endmembers(cubes, seed=arguments.seed)}
    else:
        known = {"num_endmembers": arguments.endmembers}
    if method == "unmix":
        settings |= {"polish": arguments.polish, "trained": arguments.trained}
    if arguments.uncertainty is not None:
        settings["uncertainty"] = read_uncertainty(arguments.uncertainty)
    if arguments.device is not None:
        settings["device"] = arguments.device
    if arguments.shade:
        settings["shade"] = True
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
