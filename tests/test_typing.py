"""A typed script of a user passes mypy against the package, and a wrong keyword does not."""

from __future__ import annotations

from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")

SCRIPT = """
from pathlib import Path

import numpy as np
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import SGLMM, ConjugateGuide, Unmixing
from pyro_unmix.priors import JumpWalk


def maps(cubes: np.ndarray, count: int, folder: Path) -> xr.DataArray:
    result: Unmixing = pu.unmix(cubes, count, batch_size=64, checkpoint=folder, num_steps=3)
    model = SGLMM(result.reference_endmembers, basis=pu.bases.DCT(3), abundance_prior=JumpWalk())
    again = pu.fit(model, ConjugateGuide(model), cubes, num_steps=2)
    simple = pu.methods.fcls(cubes, endmembers=result.reference_endmembers)
    return again.abundances - simple.abundances
"""
WRONG = SCRIPT.replace("batch_size=64", "batchsize=64")


def test_a_typed_script(tmp_path: Path) -> None:
    for name, text in (("right.py", SCRIPT), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    options = ["--strict", "--ignore-missing-imports", "--cache-dir", str(tmp_path / "cache")]
    right = api.run([*options, str(tmp_path / "right.py")])
    assert right[2] == 0, right[0]
    wrong = api.run([*options, str(tmp_path / "wrong.py")])
    assert wrong[2] == 1 and 'Unexpected keyword argument "batchsize" for "unmix"' in wrong[0]
