"""Every method from the command line, with a number of materials and with a library."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_cases import run

import pyro_unmix as pu
from pyro_unmix import cli, methods

NM = np.linspace(400.0, 2400.0, 14)
RNG = np.random.default_rng(0)
BASES = RNG.uniform(0.1, 0.6, (14, 2))
CLASSES = ["soil", "leaf", "soil"]
SPECTRA = BASES[:, [0, 1, 0]] * RNG.uniform(0.95, 1.05, (14, 3))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pyro_unmix.cli.unmixing.write_pictures", lambda *_: [])
    values = RNG.dirichlet(np.ones(2), (1, 5, 6)) @ BASES.T + RNG.normal(0, 0.005, (1, 5, 6, 14))
    cubes = pu.as_cube_sequence(values, wavelength=NM)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    rows = [",".join(["class", *map(repr, NM.tolist())])]
    for name, values in zip(CLASSES, SPECTRA.T, strict=True):
        rows.append(f"{name}," + ",".join(map(repr, values.tolist())))
    (tmp_path / "library.csv").write_text("\n".join(rows))
    return tmp_path / "a.nc"


def test_the_shell_has_every_method() -> None:
    assert {*cli.unmix.METHODS, "unmix_by_chains"} == set(methods.__all__)
    assert set(cli.unmixing.METHODS) == set(cli.unmix.METHODS)


def test_an_option_is_for_the_methods_that_take_it() -> None:
    keywords = {"steps": "num_steps"}
    of_engine = {"device", "checkpoint"}  # which are among the settings of `fit`
    for option, names in cli.unmix.OF_METHODS.items():
        if option == "chunks":  # of how images are read
            continue
        keyword = keywords.get(option, option)
        for name in cli.unmix.METHODS:
            known = inspect.signature(getattr(methods, name)).parameters
            takes = keyword in known or (option in of_engine and "settings" in known)
            assert takes == (name in names), (option, name)


@pytest.mark.parametrize("method", cli.unmix.METHODS)
@pytest.mark.parametrize("endmembers", ["2", "library"])
def test_a_method_from_the_shell(image: Path, method: str, endmembers: str) -> None:
    known = image.with_name("library.csv") if endmembers == "library" else endmembers
    out = image.with_name("out")
    few = ("--steps", 1) if method in cli.unmix.OF_METHODS["steps"] else ()
    assert run("unmix", image, "--endmembers", known, "--method", method, *few, "--out", out) == 0
    result = pu.Unmixing.load(out / "saved")
    assert result.method == method and result.rmse.max() < 0.2
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
    assert "--shade is for fcls, mesma, monte_carlo_sma, not for nnls" in said


def test_normalised_spectra_from_the_shell(image: Path) -> None:
    library, out = image.with_name("library.csv"), image.with_name("out")
    given = ("unmix", image, "--endmembers", library, "--method", "mesma", "--out", out)
    assert run(*given, "--normalize") == 0
    found = pu.Unmixing.load(out / "saved")
    expected = methods.mesma(
        image, endmembers=pu.read_library(library), normalize=True, progress=False
    )
    np.testing.assert_array_equal(found.abundances, expected.abundances)
    assert found.dataset["brightness"].std() > 1e-3


@pytest.mark.parametrize(
    "method, given, settings",
    [
        ("mesma", ["max_models=3", "gain=0", "num_classes=(2,)"], {"max_models": 3, "gain": 0, "num_classes": (2,)}),
        ("monte-carlo-sma", ["num-draws = 5", "sum_to_one=False"], {"num_draws": 5, "sum_to_one": False}),
        ("sparse_regression", ["sparsity=0.01"], {"sparsity": 0.01}),
    ],
)  # fmt: skip
def test_any_setting_of_a_method_from_the_shell(
    image: Path, method: str, given: list[str], settings: dict[str, Any]
) -> None:
    library, out = image.with_name("library.csv"), image.with_name("out")
    more = [text for setting in given for text in ("--set", setting)]
    known = ("unmix", image, "--endmembers", library, "--method", method, "--out", out)
    assert run(*known, *more) == 0
    found = pu.Unmixing.load(out / "saved").abundances
    own = getattr(methods, method.replace("-", "_"))
    spectra = pu.read_library(library)
    expected = own(image, endmembers=spectra, progress=False, **settings).abundances
    np.testing.assert_array_equal(found, expected)
    plain = own(image, endmembers=spectra, progress=False).abundances
    assert np.nan_to_num(found - plain).any()


def test_a_setting_of_fit_from_the_shell(image: Path) -> None:
    out = image.with_name("out")
    given = ("unmix", image, "--endmembers", 2, "--steps", 1, "--out", out)
    assert run(*given, "--set", "batch_size=7", "--set", "learning_rate=0.02") == 0
    expected = pu.unmix(
        image, 2, num_steps=1, batch_size=7, learning_rate=0.02, progress=False
    ).abundances
    np.testing.assert_array_equal(pu.Unmixing.load(out / "saved").abundances, expected)


@pytest.mark.parametrize(
    "method, given, text",
    [
        ("mesma", "max_rms=1", "--set max_rms: mesma has no such setting, only gain, max_fraction, max_models,"),
        ("nnls", "gain=1", "--set gain: nnls has no such setting, only mixing"),
        ("mesma", "seed=1", "--set seed: it has an option of its own, --seed"),
        ("unmix", "num_steps=1", "--set num_steps: it has an option of its own, --steps"),
        ("mesma", "shade=True", "--set shade: it has an option of its own, --shade"),
        ("mesma", "max_rmse=x", "max_rmse must be one real number, got 'x'"),
        ("mesma", "progress=False", "--set progress: mesma has no such setting"),
        ("mesma", "3", "expected NAME=VALUE, such as max_rmse=0.03, got '3'"),
        ("mesma", "=3", "expected NAME=VALUE"),
    ],
)  # fmt: skip
def test_settings_that_a_method_does_not_have(
    image: Path, method: str, given: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--method", method, "--set", given, "--out", image.with_name("out"))
    assert run("unmix", image, "--endmembers", 2, *more) == 2
    assert text in capsys.readouterr().err
