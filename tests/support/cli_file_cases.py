"""Scenes and files for the command."""

from __future__ import annotations

from typing import Any

import pyro_unmix as pu
from pyro_unmix import cli

SIZES: dict[str, Any] = {"num_dates": 2, "height": 7, "width": 8}


def run(*arguments: object) -> int:
    """The exit code of the command."""
    return cli.main([str(argument) for argument in arguments])


def scene(**settings: Any) -> pu.simulate.Scene:
    return pu.simulate.scaled_scene(**{**SIZES, "num_endmembers": 3, **settings})


HEADER = """ENVI
samples = 4
lines = 3
bands = 6
data type = 2
interleave = bsq
byte order = 0
header offset = 0
data ignore value = -9999
reflectance scale factor = 10000
wavelength units = {unit}
wavelength = {{0.45, 0.65, 0.86, 1.40, 1.61, 2.20}}
fwhm = {{0.01, 0.01, 0.01, 0.01, 0.01, 0.02}}
bbl = {{0, 1, 1, 1, 1, 1}}
acquisition time = 2021-07-31T10:15:00Z
map info = {{UTM, 1, 1, 366000, 5806000, 30, 30, 33, North, WGS-84}}
"""
