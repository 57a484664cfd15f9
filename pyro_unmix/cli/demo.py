"""``pyro-unmix demo``: a scene, its unmixing, and the comparison with the truth."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyro_unmix.cli.arguments import Commands, add_out_folder, add_seed, make_folder
from pyro_unmix.cli.console import bad_input, say, table
from pyro_unmix.cli.results import write_scene

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing
    from pyro_unmix.simulate import Scene

_SIZES = {"num_dates": 6, "height": 50, "width": 50, "num_endmembers": 3}
_QUICK_SIZES = {"num_dates": 3, "height": 24, "width": 24, "num_endmembers": 3}
_QUICK_STEPS = 20
_COLUMNS = ("NRMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y", "seconds")
_LEGEND = (
    "Errors of the abundances (A), of the endmembers of every pixel and date (M; SAM in radians)\n"
    "and of the reconstructed images (Y). FCLS was given the reference endmembers of unmix, and\n"
    "its seconds are without the search for them, which those of unmix hold."
)


def add_command(commands: Commands) -> None:
    sizes = "{num_dates} dates, {height} x {width} pixels".format(**_SIZES)
    demo = commands.add_parser(
        "demo",
        help="simulate a scene, unmix it, and compare with the truth",
        description=f"Simulate the first scene of the ReDSUNN paper ({sizes}), unmix it, print its "
        "scores beside those of FCLS, and write the scene, the result (NetCDF) and pictures (PNG).",
    )
    add_out_folder(demo, "pyro_unmix_demo")
    add_seed(demo)
    demo.add_argument(
        "--quick",
        action="store_true",
        help=f"a small scene and {_QUICK_STEPS} steps, to see whether it works (default: off)",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from pyro_unmix.cli.pictures import write_pictures
    from pyro_unmix.methods import fcls, unmix
    from pyro_unmix.metrics import score
    from pyro_unmix.simulate import scaled_scene

    out = make_folder(arguments.out)
    settings: dict[str, Any] = {"seed": arguments.seed, "progress": True}
    scene = scaled_scene(**(_QUICK_SIZES if arguments.quick else _SIZES), seed=arguments.seed)
    steps = {"num_steps": _QUICK_STEPS} if arguments.quick else {}
    with bad_input():
        result, seconds = _timed(unmix, scene.cubes, scene.num_endmembers, **settings, **steps)
    # unmix keeps its reference endmembers, so that these are also those it started from
    reference = result.reference_endmembers
    plain, plain_seconds = _timed(fcls, scene.cubes, endmembers=reference, **settings)
    rows = {
        "FCLS, same endmembers": {**score(plain, scene), "seconds": plain_seconds},
        "unmix": {**score(result, scene), "seconds": seconds},
    }
    say(table(rows, _COLUMNS), "", _LEGEND, "")
    result = _named_as(scene, result)
    write_scene(scene, out / "scene.nc", endmembers=False)
    result.to_netcdf(out / "result.nc", overwrite=True)
    pictures = write_pictures(result, out, truth=scene)
    say(f"Wrote {out / 'result.nc'} and {', '.join(path.name for path in pictures)}")
    say(f"Wrote {out / 'scene.nc'}; to unmix it, or files of your own like it:")
    say(f"  pyro-unmix unmix {out / 'scene.nc'} --endmembers {scene.num_endmembers}")


def _timed(
    method: Callable[..., Unmixing], *inputs: Any, **settings: Any
) -> tuple[Unmixing, float]:
    started = time.perf_counter()
    return method(*inputs, **settings), time.perf_counter() - started


def _named_as(scene: Scene, result: Unmixing) -> Unmixing:
    """The result with the scene's names on its materials."""
    from pyro_unmix.start import match_endmembers

    order = match_endmembers(result.reference_endmembers, scene.reference_endmembers)
    names = scene.reference_endmembers["endmember"].values[order.argsort()]
    return replace(result, dataset=result.dataset.assign_coords(endmember=names))
