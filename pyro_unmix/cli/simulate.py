"""``pyro-unmix simulate``: scenes with a known truth, as files."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path

from pyro_unmix.cli.arguments import Commands, add_seed, out_file, whole_number
from pyro_unmix.cli.console import bad_input, say
from pyro_unmix.cli.results import write_scene
from pyro_unmix.simulate import Scene, bundle_scene, scaled_scene

_SCENES: dict[str, Callable[..., Scene]] = {"scaled": scaled_scene, "bundle": bundle_scene}
_BUNDLES = 4  # of bundle_scene's own


def add_command(commands: Commands) -> None:
    command = commands.add_parser(
        "simulate",
        help="write a simulated scene with its truth",
        description="Simulate a scene of the ReDSUNN paper and write images, abundances and "
        "endmembers of every pixel as NetCDF, which unmix, score and info read. "
        "scaled: reference signatures times random piecewise-linear factors; "
        "bundle: endmembers drawn from bundles of spectra.",
    )
    command.add_argument("scene", choices=list(_SCENES), help="which one (no default)")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE.nc", help="file to write (no default)"
    )
    sizes = {
        "num_dates": ("--num-dates", 1, "images"),
        "height": ("--height", 1, "rows"),
        "width": ("--width", 1, "columns"),
        "num_endmembers": ("--endmembers", 2, "materials"),
    }
    for name, (option, least, what) in sizes.items():
        command.add_argument(
            option,
            dest=name,
            type=whole_number(least),
            metavar="N",
            help=f"{what} (default: {_defaults(name)})",
        )
    command.add_argument(
        "--snr",
        dest="snr_db",
        type=float,
        metavar="DB",
        help=f"signal-to-noise ratio; inf for no noise (default: {_defaults('snr_db')})",
    )
    command.add_argument(
        "--clouds",
        dest="cloud_fraction",
        type=float,
        metavar="SHARE",
        help=f"share of each image that is missing (default: {_defaults('cloud_fraction')})",
    )
    add_seed(command)
    command.set_defaults(run=run)


def _defaults(name: str) -> str:
    values = {
        scene: inspect.signature(make).parameters[name].default for scene, make in _SCENES.items()
    }
    values = {scene: _BUNDLES if value is None else value for scene, value in values.items()}
    if len(set(values.values())) == 1:
        return f"{values['scaled']:g}"
    return ", ".join(f"{value:g} for {scene}" for scene, value in values.items())


def run(arguments: argparse.Namespace) -> None:
    names = ("num_dates", "height", "width", "num_endmembers", "snr_db", "cloud_fraction", "seed")
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    path = out_file(arguments.out, (".nc",))
    with bad_input():
        scene = _SCENES[arguments.scene](**given)
        write_scene(scene, path)
    shape = " x ".join(map(str, scene.cubes.shape))
    say(f"Wrote {path}: {shape} (time, y, x, wavelength), {scene.num_endmembers} materials")
