"""``pyro-unmix plot``: the pictures of a result."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_unmix.cli.arguments import Commands, add_out_folder, make_folder
from pyro_unmix.cli.console import BadInput, bad_input, say
from pyro_unmix.cli.results import load_result


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "plot",
        help="draw the pictures of a result",
        description="Draw the pictures of a result as PNG: abundances, composite, endmembers and, "
        "where the result has them, uncertainty, change and losses.",
    )
    command.add_argument(
        "result",
        type=Path,
        metavar="RESULT",
        help="folder that unmix or Unmixing.save wrote, or the NetCDF of a result",
    )
    add_out_folder(command, "pyro_unmix_plots")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from pyro_unmix.cli.pictures import write_pictures

    result = load_result(arguments.result)
    if "valid" not in result.dataset:
        raise BadInput(
            f"{arguments.result}: variables: lacks valid: expected a result, as pyro-unmix unmix or "
            "Unmixing.save writes it (a scene of simulate is none: pass it to unmix first)"
        )
    out = make_folder(arguments.out)
    with bad_input():  # a NetCDF of other programs can hold anything
        pictures = write_pictures(result, out)
    say(f"Wrote {', '.join(path.name for path in pictures)} to {out}")
