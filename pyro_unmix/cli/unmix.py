"""``pyro-unmix unmix``: its options. What it does is in `unmixing`, imported when it is done: help is quick."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from pyro_unmix.cli import arguments as options
from pyro_unmix.cli.arguments import Commands
from pyro_unmix.cli.console import BadInput

#: The methods of the shell.
METHODS = (
    "unmix", "redsunn", "redsunn_published", "idnet", "fcls", "nnls", "mesma", "monte_carlo_sma", "sparse_regression",
    "minimum_volume", "online_unmixing", "kalman_em", "hbun",
)  # fmt: skip
#: Options that some methods have, and which.
OF_METHODS: dict[str, tuple[str, ...]] = {
    "shade": ("fcls", "mesma", "monte_carlo_sma"),
    "normalize": ("fcls", "mesma", "monte_carlo_sma"),
    "uncertainty": ("unmix", "fcls", "nnls", "mesma", "monte_carlo_sma", "sparse_regression"),
    "steps": ("unmix", "redsunn", "redsunn_published", "idnet", "hbun"),
    "polish": ("unmix",),
    "trained": ("unmix",),
    "checkpoint": ("unmix", "redsunn", "redsunn_published", "idnet"),
    "device": ("unmix", "redsunn", "redsunn_published", "idnet"),
    "chunks": ("unmix",),
}
_WHY = {"chunks": ", which loads the images"}


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
        type=_method,
        choices=METHODS,
        default="unmix",
        metavar="NAME",
        help=f"{', '.join(METHODS)} (default: %(default)s)",
    )
    command.add_argument(
        "--shade",
        action="store_true",
        default=None,
        help=f"of {', '.join(OF_METHODS['shade'])}: with shade (default: off)",
    )
    command.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="of the same: spectra scaled to length one (default: off)",
    )
    command.add_argument(
        "--uncertainty",
        metavar="FILE",
        help="of them, nnls, sparse_regression, unmix: weigh bands by EMIT's RFLUNCERT; "
        "'product' finds it (default: none; unmix: product)",
    )
    command.add_argument(
        "--set",
        action="append",
        type=_setting,
        metavar="NAME=VALUE",
        help="another setting, as max_rmse=0.03 (default: of the method)",
    )
    # Numbers as in the methods, which a test compares: importing them takes seconds.
    command.add_argument(
        "--steps",
        type=options.whole_number(0),
        metavar="N",
        help="optimisation steps (default: 100 for unmix, 300 for hbun, 30 passes over the pixels "
        "for redsunn)",
    )
    command.add_argument(
        "--polish",
        action=argparse.BooleanOptionalAction,
        help="of unmix: sweeps of Markov chains (default: in sequences of 3 dates or more, up to "
        "100000 pixels times dates)",
    )
    command.add_argument(
        "--trained",
        action=argparse.BooleanOptionalAction,
        help="of unmix: train (default: train where the model holds)",
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
        help="where to train: cpu, cuda, ... (default: cpu)",
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
    for name, methods in OF_METHODS.items():
        if getattr(arguments, name) is not None and arguments.method not in methods:
            why = _WHY.get(name, "")
            raise BadInput(f"--{name} is for {', '.join(methods)}, not for {arguments.method}{why}")
    if arguments.checkpoint is not None and arguments.checkpoint.is_file():
        raise BadInput(f"--checkpoint must be a folder, got the file {arguments.checkpoint}")
    if arguments.resume is not None and arguments.checkpoint is None:
        raise BadInput("--resume and --no-resume need --checkpoint DIR")
    from pyro_unmix.cli import unmixing

    return unmixing.run(arguments)


def _method(text: str) -> str:
    """A name as in Python; dashes are taken, too."""
    return text.replace("-", "_")


def _setting(text: str) -> tuple[str, Any]:
    """A name and a value: a number, True, False, None, a tuple, or else a text."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(
            f"expected NAME=VALUE, such as max_rmse=0.03, got {text!r}"
        )
    try:
        return name, ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value.strip()
