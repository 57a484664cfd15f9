"""``pyro-unmix report``: one HTML page of a result."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_unmix.cli.arguments import Commands, out_file
from pyro_unmix.cli.console import BadInput, bad_input, say
from pyro_unmix.cli.results import load_result


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "report",
        help="write one HTML page of a result",
        description="Write one HTML page of a result, which loads nothing from anywhere: what was read, whether its "
        "intervals can be trusted and why, maps, endmembers, what the fit leaves over, uncertainty, change and how "
        "to make it again.",
    )
    command.add_argument(
        "result",
        type=Path,
        metavar="RESULT",
        help="folder that unmix or Unmixing.save wrote, or the NetCDF of a result (which has no images)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE.html",
        help="replaced if it is there (default: ./%(default)s)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from pyro_unmix.plots import write_report

    out = out_file(arguments.out, (".html", ".htm"))
    result = load_result(arguments.result)
    if "valid" not in result.dataset:
        raise BadInput(
            f"{arguments.result}: variables: lacks valid: expected a result, as pyro-unmix unmix or "
            "Unmixing.save writes it (a scene of simulate is none: pass it to unmix first)"
        )
    with bad_input():  # a NetCDF of other programs can hold anything
        path = write_report(result, out, overwrite=True)
    say(f"Wrote {path}")
