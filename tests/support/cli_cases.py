"""Runs of the command, and what it must have written."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from matplotlib.image import imread

import pyro_unmix as pu
from pyro_unmix import cli

PICTURES = {
    "abundances",
    "change",
    "composite",
    "endmembers",
    "endmembers_over_time",
    "losses",
    "rmse",
    "uncertainty",
}


def run(*arguments: object) -> int:
    """The exit code of the command."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def assert_pictures(folder: Path, names: set[str]) -> None:
    """Exactly these PNGs, each with something drawn in it."""
    assert {path.stem for path in folder.glob("*.png")} == names
    for name in names:
        image = imread(folder / f"{name}.png")
        assert min(image.shape[:2]) > 100 and image[..., :3].std() > 0.02


def quick_scene() -> pu.simulate.Scene:
    return pu.simulate.scaled_scene(num_dates=3, height=24, width=24, seed=1)
