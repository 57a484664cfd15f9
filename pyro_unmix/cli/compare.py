"""``pyro-unmix compare``: results of several methods side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from pyro_unmix.cli.arguments import Commands, add_json, add_seed
from pyro_unmix.cli.console import BadInput, bad_input, say, say_json, table
from pyro_unmix.cli.results import load_result

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "compare",
        help="results of several methods side by side",
        description="Results of the same images side by side: mean cover, the RMSE of the spectra (median, and what 90 "
        "percent are below), and the root mean square difference of the fractions from those of the first result. "
        "Differences are not errors: where they are large, images and spectra do not decide the question.",
    )
    command.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULT",
        help="folders that unmix or Unmixing.save wrote, or NetCDF of results; two or more",
    )
    command.add_argument(
        "--held-out",
        action="store_true",
        help="rank trained ones by how well they predict spectra that they do not see, too (default: off)",
    )
    add_seed(command)
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from pyro_unmix.metrics import side_by_side

    paths = arguments.results
    if len(paths) < 2:
        raise BadInput("expected two results or more, got one: pyro-unmix info shows a single one")
    results = dict(zip(_names(paths), map(load_result, paths), strict=True))
    with bad_input():
        found = side_by_side(results)
        ranked = _ranked(results, arguments.seed) if arguments.held_out else None
    if arguments.json:
        say_json({**_plain(found), "held_out": None if ranked is None else _plain(ranked)})
        return
    covers = [str(name) for name in found["endmember"].values]
    columns = [*covers, "RMSE", "90 %", "differs"]
    rows = {}
    for name in results:
        one = found.sel(fit=name)
        numbers = [*one["cover"].values, one["rmse"], one["rmse_90"], one["difference"][0]]
        rows[name] = dict(zip(columns, map(float, numbers), strict=True))
    say(table(rows, columns))
    share = float(found["compared"])
    if share < 1:
        say(f"compared: {100 * share:.1f} % of the pixels and dates, those that all of them know")
    if ranked is not None:
        scores = ("held_out", "held_out_se", "unreliable")
        best = {
            str(name): {score: float(ranked[score].sel(fit=name)) for score in scores}
            for name in ranked["fit"].values
        }
        say("", table(best, scores))


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [path.with_suffix("").parts if path.suffix == ".nc" else path.parts for path in paths]
    if len(set(parts)) < len(parts):
        again = next(path for path in paths if paths.count(path) > 1 or parts.count(path.parts) > 1)
        raise BadInput(f"{again} is there twice: compare different results")
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _ranked(results: dict[str, Unmixing], seed: int) -> xr.Dataset:
    from pyro_unmix.posterior.comparison import compare

    return compare(results, seed=seed, progress=sys.stderr.isatty())


def _plain(dataset: xr.Dataset) -> dict[str, Any]:
    return {
        str(name): array.values for name, array in {**dataset.coords, **dataset.data_vars}.items()
    }
