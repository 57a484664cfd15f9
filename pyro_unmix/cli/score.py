"""``pyro-unmix score``: how far a result is from a truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_unmix.cli.arguments import Commands, add_json
from pyro_unmix.cli.console import bad_input, facts, say, say_json
from pyro_unmix.cli.results import StoredTruth, load_result, load_truth
from pyro_unmix.data.names import material_names

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing

_NAMES = ("NRMSE_A", "RMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y")


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "score",
        help="compare a result with a truth",
        description="Compare a result with the truth of a simulated scene, or with another result. "
        "Materials are matched by the angles between their spectra. Scores: relative error and "
        "RMSE of the abundances (NRMSE_A, RMSE_A), relative error and mean angle in radians of the "
        "endmembers of every pixel and date (NRMSE_M, SAM_M), relative error of the reconstructed "
        "images (NRMSE_Y; against those that TRUTH reconstructs, where it holds none).",
    )
    command.add_argument(
        "result",
        type=Path,
        metavar="RESULT",
        help="folder that unmix or Unmixing.save wrote, or the NetCDF of a result",
    )
    command.add_argument(
        "truth", type=Path, metavar="TRUTH", help="NetCDF that simulate wrote, or a result as above"
    )
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    result, truth = load_result(arguments.result), load_truth(arguments.truth)
    with bad_input():
        compared = result.abundances.notnull().all("endmember")
        scores = _scores(result, truth.where(compared))
        order = _order(result, truth)
    ours = [material_names(result.reference_endmembers)[p] for p in order]
    theirs = material_names(truth.reference_endmembers)
    matched = dict(zip(theirs, ours, strict=True))
    share = float(compared.mean())
    if arguments.json:
        say_json({"scores": scores, "matched": matched, "compared_share": share})
        return
    missing = "unknown: TRUTH holds no endmembers of every pixel"
    texts = {k: missing if v is None else f"{v:.4f}" for k, v in scores.items()}
    texts["matched"] = ", ".join(f"{k} = {v}" for k, v in matched.items())
    if share < 1:  # the classical methods leave pixels out that they did not observe
        texts["compared"] = f"{100 * share:.1f} % of the pixels and dates, those that RESULT knows"
    say(*facts(texts))


def _order(result: Unmixing, truth: StoredTruth) -> Any:
    """As `metrics.score` matches: by the means over pixels and dates, where both have them."""
    from pyro_unmix.start import match_endmembers

    if truth.spectra is None:
        return match_endmembers(result.reference_endmembers, truth.reference_endmembers)
    return match_endmembers(*(_mean_spectra(part) for part in (result, truth)))


def _mean_spectra(source: Unmixing | StoredTruth) -> Any:
    times = range(source.abundances.sizes["time"])
    means = [source.endmembers(time).mean(("y", "x")) for time in times]
    return sum(mean.transpose("wavelength", "endmember").values for mean in means) / len(means)


def _scores(result: Unmixing, truth: StoredTruth) -> dict[str, float | None]:
    from pyro_unmix import metrics

    if truth.spectra is not None:
        return {**metrics.score(result, truth)}
    estimate = result.abundances.isel(endmember=_order(result, truth))
    images = (result.reconstruct(time) for time in range(estimate.sizes["time"]))
    known = {
        "NRMSE_A": metrics.nrmse_abundances(estimate, truth.abundances),
        "RMSE_A": metrics.rmse_abundances(estimate, truth.abundances),
        "NRMSE_Y": metrics.nrmse_reconstruction(images, truth.cubes),
    }
    return {name: known.get(name) for name in _NAMES}
