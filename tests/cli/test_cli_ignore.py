"""Bands that do not count, and libraries that lack bands, from the command line."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import run

import pyro_unmix as pu
from pyro_unmix.cli.console import _ADVICE, as_options

mesma_module = importlib.import_module("pyro_unmix.methods.mesma")
NM = np.linspace(400.0, 2400.0, 14)
RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.05, 0.6, (14, 2))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = RNG.dirichlet(np.ones(2), (1, 5, 6)) @ SPECTRA.T
    cubes = pu.as_cube_sequence(values, wavelength=NM)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    return tmp_path / "a.nc"


def write_library(folder: Path, values: np.ndarray) -> Path:
    rows = [",".join(["class", *map(repr, NM.tolist())])]
    rows += [f"{n}," + ",".join(map(repr, v.tolist())) for n, v in zip("ab", values.T, strict=True)]
    (folder / "library.csv").write_text("\n".join(rows))
    return folder / "library.csv"


def test_info_says_which_bands_are_ignored(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", image, "--ignore", "0-560,water_vapour", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)["files"]
    assert facts["bands_dropped"] == {"ignored": [0, 1, 10]} and facts["bands_kept"] == 11
    assert run("info", image, "--ignore", "0-560") == 0
    assert "kept 12; dropped (counted from 0): ignored: 0-1" in capsys.readouterr().out


def test_the_command_unmixes_without_ignored_bands(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = write_library(tmp_path, SPECTRA)
    given = ("--endmembers", path, "--method", "fcls", "--out", out, "--ignore", "0-560")
    assert run("unmix", image, *given) == 0
    found = pu.Unmixing.load(out / "saved")
    np.testing.assert_array_equal(found.dataset["wavelength"], NM[2:])
    np.testing.assert_allclose(found.reference_endmembers, SPECTRA[2:], rtol=1e-12)


def test_bands_of_fill_are_said_and_left_out(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holes = SPECTRA.copy()
    holes[[4, 7]] = 0
    given = ("--endmembers", write_library(tmp_path, holes), "--method", "fcls")
    assert run("unmix", image, *given, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert said.count("pyro-unmix: warning: ") == 2
    assert "2 of 14 bands hold the same number, fill, in every spectrum" in said
    assert "left out 2 of 14 bands that the library does not have: 1015.4, 1476.9 nm" in said
    with xr.open_dataset(tmp_path / "out" / "result.nc", engine="h5netcdf") as dataset:
        assert dataset.sizes["wavelength"] == 12


def test_the_advice_of_an_error_can_be_followed(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spectral")
    path = tmp_path / "short.csv"
    rows = [",".join(["class", *map(repr, (NM[:11] + 3).tolist())])]
    rows += [
        f"{n}," + ",".join(map(repr, v.tolist())) for n, v in zip("ab", SPECTRA[:11].T, strict=True)
    ]
    path.write_text("\n".join(rows))
    given = ("unmix", image, "--endmembers", path, "--method", "fcls", "--out", tmp_path / "out")
    assert run(*given) == 2
    said = capsys.readouterr().err
    assert "--ignore 2092-2400" in said
    assert run(*given, "--ignore", "2092-2400") == 0


def test_wrong_ranges_are_refused(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("info", image, "--ignore", "0.4-0.5")
    assert "argument --ignore: in nm, got 0.4-0.5" in capsys.readouterr().err


def test_info_of_a_result_says_what_it_left(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--endmembers", write_library(tmp_path, SPECTRA), "--method", "fcls", "--out", out)
    assert run("unmix", image, *given) == 0
    assert "RMSE" in capsys.readouterr().out and (out / "rmse.png").exists()
    for path in (out, out / "result.nc"):
        assert run("info", path, "--json") == 0
        (facts,) = json.loads(capsys.readouterr().out)["files"]
        assert facts["method"] == "fcls" and set(facts["mean_abundances"]) == {"a", "b"}
        rmse = pu.Unmixing.load(out / "saved").rmse.values
        assert facts["rmse"]["median"] == pytest.approx(np.median(rmse))
    assert run("info", out) == 0
    assert "RMSE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ranges", "left"), [("0-2350", "1 of 14 is left"), ("0-3000", "none of the 14 is left")]
)
def test_two_bands_at_least_must_be_left(
    ranges: str, left: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("info",), ("unmix", "--endmembers", "2", "--out", tmp_path / "out")):
        run(command[0], image, *command[1:], "--ignore", ranges)
        said = "".join(capsys.readouterr())
        assert f"{left}, two at least must be: ignored: 0-1" in said
        assert "Leave out less, --ignore" in said and "bands=" not in said
    with pytest.raises(pu.io.FileError, match="Leave out less, ignore="):
        pu.io.read_sequence(image, ignore=ranges)


def test_a_library_scale_is_positive(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_library(tmp_path, SPECTRA)
    given = ("unmix", image, "--endmembers", path, "--out", tmp_path / "out")
    with pytest.raises(SystemExit):
        run(*given, "--library-scale=-1")
    assert "--library-scale: expected a positive number, got '-1'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="scale must lie in"):
        pu.io.libraries.read_library(path, scale=-1)


def test_a_warning_of_a_library_names_the_option_of_the_library(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_library(tmp_path, SPECTRA)
    given = ("unmix", image, "--endmembers", path, "--out", tmp_path / "out", "--method", "nnls")
    run(*given, "--library-scale", "1e-4")
    said = capsys.readouterr().err
    assert "warning" in said and "--library-scale" in said
    assert "pass --scale" not in said


@pytest.mark.parametrize(
    ("in_python", "here"),
    [
        ("pixels fit no model; " + mesma_module._ADVICE, "--set min_fraction=..., max_fraction"),
        ("darker than it, shade=True, or normalize=True", "darker than it, --shade, or --normalize"),
        ("trained=False: cubes.load(), or a part of it", "--no-trained: leave out --chunks, or take a --window"),
        ("a scale: pass scale=1e-4 to read_sequence", "a scale: pass --scale 1e-4"),
        ("pass masks, or write it with rioxarray, cubes.rio.write_crs(...)", "give masks, --classes soil=soil.tif"),
    ],
)  # fmt: skip
def test_what_methods_advise_is_said_in_options(in_python: str, here: str) -> None:
    said = as_options(in_python)
    assert here in said
    assert "=True" not in said and "=False" not in said


@pytest.mark.parametrize("in_python", _ADVICE)
def test_what_is_said_in_options_is_something_that_is_said(in_python: str) -> None:
    package = Path(pu.__file__).parent
    texts = (p.read_text() for p in package.rglob("*.py") if p.parent.name != "cli")
    joined = (re.sub(r'"\s*\n\s*f?"', "", text) for text in texts)  # as the compiler joins them
    assert any(in_python in text for text in joined)
