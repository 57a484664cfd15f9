"""The command ``pyro-unmix``: arguments in, files and a table out; the work is done elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pyro_unmix
from pyro_unmix import plots
from pyro_unmix.baselines import fcls
from pyro_unmix.endmembers import match_endmembers
from pyro_unmix.fit import NonFiniteLossError
from pyro_unmix.io import read_sequence
from pyro_unmix.metrics import score
from pyro_unmix.presets import NUM_EPOCHS, NUM_STEPS, redsunn, unmix
from pyro_unmix.result import Unmixing
from pyro_unmix.simulate import Scene, scaled_scene

_METHODS: dict[str, Callable[..., Unmixing]] = {"unmix": unmix, "redsunn": redsunn}
_DEMO_SIZES = {"num_dates": 6, "height": 50, "width": 50, "num_endmembers": 3}
_QUICK_SIZES = {"num_dates": 3, "height": 24, "width": 24, "num_endmembers": 3}
_QUICK_STEPS = 20
_SCORES = ("NRMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y")
_LEGEND = (
    "Errors of the abundances (A), of the endmembers of every pixel and date (M; SAM in radians)\n"
    "and of the reconstructed images (Y). FCLS was given the reference endmembers of the result."
)


class _BadInput(Exception):
    """Something that the caller can mend; its text is all that is shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0, or 2 for bad input (argparse exits with 2 by itself).
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except _BadInput as error:
        print(f"pyro-unmix: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


# ------------------------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pyro-unmix", description=pyro_unmix.__doc__)
    version = f"pyro-unmix {pyro_unmix.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="{demo,unmix}")
    _add_demo(commands)
    _add_unmix(commands)
    return parser


def _add_demo(commands: Any) -> None:
    sizes = "{num_dates} dates, {height} x {width} pixels".format(**_DEMO_SIZES)
    demo = commands.add_parser(
        "demo",
        help="simulate a scene, unmix it, and compare with the truth",
        description=f"Simulate the first scene of the ReDSUNN paper ({sizes}), unmix it, print its "
        "scores beside those of FCLS, and write the scene, the result (NetCDF) and pictures (PNG).",
    )
    _add_out(demo, "pyro_unmix_demo")
    _add_seed(demo)
    demo.add_argument(
        "--quick",
        action="store_true",
        help=f"a small scene and {_QUICK_STEPS} steps, to see whether it works (default: off)",
    )
    demo.set_defaults(run=_demo)


def _add_unmix(commands: Any) -> None:
    command = commands.add_parser(
        "unmix",
        help="unmix image files",
        description="Unmix a sequence of images and write the result (NetCDF, and a folder for "
        "Unmixing.load) and pictures (PNG).",
    )
    command.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".nc, .npz or .mat; several files are joined in time, in the order given",
    )
    command.add_argument(
        "--endmembers",
        type=_whole_number(2),
        required=True,
        metavar="N",
        help="number of materials (no default)",
    )
    _add_out(command, "pyro_unmix_result")
    command.add_argument(
        "--method", choices=list(_METHODS), default="unmix", help="default: %(default)s"
    )
    command.add_argument(
        "--steps",
        type=_whole_number(0),
        help=f"optimisation steps (default: {NUM_STEPS} for unmix, {NUM_EPOCHS:g} passes over the pixels for "
        "redsunn)",
    )
    _add_seed(command)
    command.set_defaults(run=_unmix)


def _add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default),
        metavar="DIR",
        help="folder to write to; results of an earlier run are replaced (default: ./%(default)s)",
    )


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_whole_number(0), default=0, help="of everything random (default: 0)"
    )


def _whole_number(minimum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, got {text!r}"
            )
        return value

    return convert


# ------------------------------------------------------------------------------- commands


def _demo(arguments: argparse.Namespace) -> None:
    out = _folder(arguments.out)
    settings: dict[str, Any] = {"seed": arguments.seed, "progress": sys.stderr.isatty()}
    scene = scaled_scene(**(_QUICK_SIZES if arguments.quick else _DEMO_SIZES), seed=arguments.seed)
    steps = {"num_steps": _QUICK_STEPS} if arguments.quick else {}
    with _bad_input():
        result, seconds = _timed(unmix, scene.cubes, scene.num_endmembers, **settings, **steps)
    # unmix keeps its reference endmembers, so that these are also those it started from
    reference = result.reference_endmembers
    start, start_seconds = _timed(fcls, scene.cubes, reference, **settings)
    rows = {
        "FCLS start": {**score(start, scene), "seconds": start_seconds},
        "unmix": {**score(result, scene), "seconds": seconds},
    }
    print(_table(rows), _LEGEND, sep="\n\n", end="\n\n")
    result = _named_as(scene, result)
    scene.cubes.to_netcdf(out / "scene.nc", engine="h5netcdf")
    _write(result, out, truth=scene)
    print(f"Wrote {out / 'scene.nc'}; to unmix it, or files of your own like it:")
    print(f"  pyro-unmix unmix {out / 'scene.nc'} --endmembers {scene.num_endmembers}")


def _unmix(arguments: argparse.Namespace) -> None:
    with _bad_input():
        cubes = read_sequence(arguments.files)
    out = _folder(arguments.out)
    settings: dict[str, Any] = {"seed": arguments.seed, "progress": sys.stderr.isatty()}
    if arguments.steps is not None:
        settings["num_steps"] = arguments.steps
        if arguments.method == "redsunn":
            settings["num_epochs"] = None
    with _bad_input():
        result = _METHODS[arguments.method](cubes, arguments.endmembers, **settings)
        result.save(out / "saved", overwrite=True)
    print(f"Wrote {out / 'saved'} (for Unmixing.load)")
    _write(result, out)


@contextmanager
def _bad_input() -> Iterator[None]:
    """What these errors say is meant for the user; anywhere else they would be a fault of ours."""
    try:
        yield
    except (OSError, TypeError, ValueError, NonFiniteLossError) as error:
        raise _BadInput(error) from error


def _folder(path: Path) -> Path:
    """Made before the work, so that a bad path does not cost the result."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _BadInput(f"cannot write to --out {path}: {error.strerror}") from error
    return path


def _timed(
    method: Callable[..., Unmixing], *inputs: Any, **settings: Any
) -> tuple[Unmixing, float]:
    started = time.perf_counter()
    return method(*inputs, **settings), time.perf_counter() - started


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = (*_SCORES, "seconds")
    lines = [f"{'':<12}" + "".join(f"{column:>9}" for column in columns)]
    for name, values in rows.items():
        scores = "".join(f"{values[column]:>9.3f}" for column in _SCORES)
        lines.append(f"{name:<12}{scores}{values['seconds']:>9.1f}")
    return "\n".join(lines)


def _named_as(scene: Scene, result: Unmixing) -> Unmixing:
    """The result with the scene's names on its materials."""
    order = match_endmembers(result.reference_endmembers, scene.reference_endmembers)
    names = scene.reference_endmembers["endmember"].values[order.argsort()]
    return replace(result, dataset=result.dataset.assign_coords(endmember=names))


def _write(result: Unmixing, out: Path, truth: Scene | None = None) -> None:
    """NetCDF and PNGs."""
    result.to_dataset().to_netcdf(out / "result.nc", engine="h5netcdf")
    middle = (result.valid.sizes["y"] // 2, result.valid.sizes["x"] // 2)
    fans = plots.plot_endmembers_over_time(result, pixel=middle, truth=truth)
    figures = {
        "abundances": plots.plot_abundances(result, truth=truth),
        "composite": plots.plot_abundance_composite(result, truth=truth),
        "endmembers": plots.plot_endmembers(result, truth=truth),
        "endmembers_over_time": fans,
        "uncertainty": plots.plot_uncertainty(result),
        "change": plots.plot_change(result) if result.change.notnull().any() else None,
        "losses": plots.plot_losses(result) if result.losses.size else None,
    }
    for name, figure in figures.items():
        path = out / f"{name}.png"
        if figure is not None:
            figure.savefig(path, dpi=110)
        else:
            path.unlink(missing_ok=True)  # of an earlier run
    written = ", ".join(f"{name}.png" for name, figure in figures.items() if figure is not None)
    print(f"Wrote {out / 'result.nc'} and {written}")
