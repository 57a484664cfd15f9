"""Every method from the command line, with a number of materials and with a library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_file_cases import run

import pyro_unmix as pu
from pyro_unmix import cli, methods

NM = np.linspace(400.0, 2400.0, 14)
RNG = np.random.default_rng(0)
BASES = RNG.uniform(0.1, 0.6, (14, 2))
CLASSES = ["soil", "leaf", "soil"]
SPECTRA = BASES[:, [0, 1, 0]] * RNG.uniform(0.95, 1.05, (14, 3))
NAMES = {name: name.replace("-", "_") for name in cli.unmix.METHODS} | {"online": "online_unmixing"}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pyro_unmix.cli.unmix.write_pictures", lambda *_: [])
    values = RNG.dirichlet(np.ones(2), (1, 5, 6)) @ BASES.T + RNG.normal(0, 0.005, (1, 5, 6, 14))
    cubes = pu.as_cube_sequence(values, wavelength=NM)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    rows = [",".join(["class", *map(repr, NM.tolist())])]
    for name, values in zip(CLASSES, SPECTRA.T, strict=True):
        rows.append(f"{name}," + ",".join(map(repr, values.tolist())))
    (tmp_path / "library.csv").write_text("\n".join(rows))
    return tmp_path / "a.nc"


def test_the_shell_has_every_method() -> None:
    assert set(NAMES.values()) | {"unmix_by_chains"} == set(methods.__all__)


@pytest.mark.parametrize("method", cli.unmix.METHODS)
@pytest.mark.parametrize("endmembers", ["2", "library"])
def test_a_method_from_the_shell(image: Path, method: str, endmembers: str) -> None:
    known = image.with_name("library.csv") if endmembers == "library" else endmembers
    out = image.with_name("out")
    few = ("--steps", 1) if method in cli.unmix._TRAINED else ()
    assert run("unmix", image, "--endmembers", known, "--method", method, *few, "--out", out) == 0
    result = pu.Unmixing.load(out / "saved")
    assert result.method == NAMES[method] and result.rmse.max() < 0.2
    if endmembers == "library":
        assert set(result.abundances["endmember"].values) == {"soil", "leaf"}


def test_shade_from_the_shell(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("unmix", image, "--endmembers", image.with_name("library.csv"), "--shade")
    out = ("--out", image.with_name("out"))
    assert run(*given, "--method", "mesma", *out) == 0
    brightness = pu.Unmixing.load(image.with_name("out") / "saved").dataset["brightness"]
    assert 0.5 < brightness.min() < 0.995
    assert run(*given, "--method", "nnls", *out) == 2
    said = capsys.readouterr().err
    assert "--shade is for fcls, mesma, monte-carlo-sma, not for nnls" in said
