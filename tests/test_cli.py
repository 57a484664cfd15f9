"""The command line: what it writes, what it prints, and how it says no."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """Folder and output of ``demo --quick --seed 1``, and what FCLS was given."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    given: list[Any] = []
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        solve = cli.fcls

        def recording_fcls(*inputs: Any, **settings: Any) -> Any:
            given.extend(inputs)
            return solve(*inputs, **settings)

        patch.setattr(cli, "fcls", recording_fcls)
        patch.setattr("builtins.print", lambda *text, sep=" ", **_: printed.append(sep.join(text)))
        assert run("demo", "--quick", "--seed", 1, "--out", out) == 0
    return out, "\n".join(printed), given


def quick_scene() -> pu.simulate.Scene:
    return pu.simulate.scaled_scene(num_dates=3, height=24, width=24, seed=1)


def test_demo_writes_pictures_and_netcdf(demo: tuple[Path, str, list[Any]]) -> None:
    out, _, _ = demo
    assert_pictures(out, PICTURES)
    xr.testing.assert_identical(
        read(out / "scene.nc")["reflectance"].drop_attrs(), quick_scene().cubes.drop_attrs()
    )
    result = read(out / "result.nc")
    assert result["abundances"].dims == ("time", "y", "x", "endmember")
    assert result["losses"].size == 20
    # materials are named by the truth that they resemble
    assert set(result["endmember"].values) == set(quick_scene().abundances["endmember"].values)


def test_demo_table_is_that_of_the_files(demo: tuple[Path, str, list[Any]]) -> None:
    out, printed, _ = demo
    rows = {line[:12].strip(): line[12:].split() for line in printed.splitlines()[:3]}
    assert rows[""] == ["NRMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y", "seconds"]
    scene, result = quick_scene(), read(out / "result.nc")
    truth = scene.abundances
    estimate = result["abundances"].sel(endmember=truth["endmember"]).values
    error = ((estimate - truth.values) ** 2).sum((1, 2, 3)) / (truth.values**2).sum((1, 2, 3))
    assert float(rows["unmix"][0]) == pytest.approx(np.sqrt(error.mean()), abs=6e-4)
    # noise alone leaves about 10^(-30 dB / 20) = .032 of the images unexplained
    assert 0.02 < float(rows["unmix"][3]) < 0.05
    assert float(rows["unmix"][0]) < float(rows["FCLS start"][0])
    assert float(rows["unmix"][4]) > 0


def test_fcls_is_given_the_start_of_the_result(demo: tuple[Path, str, list[Any]]) -> None:
    _, _, (cubes, endmembers) = demo
    start = pu.choose_start(quick_scene().cubes, 3, seed=1)
    # the model keeps them in single precision
    np.testing.assert_allclose(endmembers.values, start.endmembers.values, rtol=1e-6)
    np.testing.assert_array_equal(cubes, quick_scene().cubes)


def test_the_file_of_the_demo_can_be_unmixed(
    demo: tuple[Path, str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, printed, _ = demo
    assert f"pyro-unmix unmix {folder / 'scene.nc'} --endmembers 3" in printed
    arguments = (folder / "scene.nc", "--endmembers", 3, "--steps", 4)
    assert run("unmix", *arguments, "--out", tmp_path) == 0
    assert str(tmp_path / "saved") in capsys.readouterr().out
    assert_pictures(tmp_path, PICTURES)
    loaded = pu.Unmixing.load(tmp_path / "saved")
    assert loaded.method == "unmix" and len(loaded.losses) == 4
    xr.testing.assert_identical(loaded.abundances, read(tmp_path / "result.nc")["abundances"])
    direct = pu.unmix(quick_scene().cubes, 3, num_steps=4, progress=False)
    np.testing.assert_array_equal(loaded.abundances, direct.abundances)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two .npz files of one image each, one with a hole."""
    paths = []
    for date, image in enumerate(quick_scene().cubes.values[:2, :8, :9, ::8]):
        image = np.where((np.arange(72).reshape(8, 9, 1) == 5) & (date == 1), np.nan, image)
        paths.append(tmp_path / f"date{date}.npz")
        np.savez(paths[-1], Y=image)
    return paths


def test_several_files_are_joined_in_time(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("unmix", *images, "--endmembers", 2, "--steps", 0, "--out", out) == 0
    result = read(out / "result.nc")
    assert result["abundances"].shape == (2, 8, 9, 2)
    assert np.argwhere(~result["valid"].values).tolist() == [[1, 0, 5]]
    assert result["abundances"].notnull().all()
    assert_pictures(out, PICTURES - {"losses"})


def test_one_image_with_the_papers_method(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--method", "redsunn", "--steps", 3, "--seed", 2, "--out", out)
    assert run("unmix", images[0], "--endmembers", 3, *arguments) == 0
    loaded = pu.Unmixing.load(out / "saved")
    assert loaded.method == "redsunn" and len(loaded.losses) == 3 and loaded.seed == 2
    assert_pictures(out, PICTURES - {"change"})


def test_errors_are_one_line_and_exit_with_2(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, two = images[0], ("--endmembers", "2")
    integers, broken, text = tmp_path / "int.npz", tmp_path / "broken.mat", tmp_path / "a.txt"
    np.savez(integers, Y=np.ones((4, 4, 5), dtype=np.int16))
    broken.write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    text.write_text("no image")
    cases = {
        (): "the following arguments are required: {demo,unmix}",
        ("dmeo",): "invalid choice: 'dmeo'",
        ("demo", "--steps", "3"): "unrecognized arguments: --steps 3",
        ("demo", "--seed", "-1"): "argument --seed: expected a whole number of at least 0",
        ("demo", "--out", text): f"cannot write to --out {text}: ",
        ("unmix", good): "the following arguments are required: --endmembers",
        ("unmix", good, "--endmembers", "1"): "expected a whole number of at least 2, got '1'",
        ("unmix", good, "--endmembers", "x"): "expected a whole number of at least 2, got 'x'",
        ("unmix", good, "--endmembers", "40"): "needs at least as many valid spectra and bands",
        ("unmix", good, *two, "--method", "nmf"): "invalid choice: 'nmf'",
        ("unmix", good, *two, "--out", good / "x"): "cannot write to --out",
        ("unmix", tmp_path / "none.nc", *two): f"no such file: {tmp_path / 'none.nc'}",
        ("unmix", text, *two): "is none of the formats",
        ("unmix", broken, *two): "is neither a MATLAB v5 nor a v7.3 file, or cut off",
        ("unmix", integers, *two): "holds integers (int16) without a scale",
        ("unmix", good, integers, *two): str(integers),
    }
    for arguments, message in cases.items():
        assert run(*arguments) == 2, arguments
        captured = capsys.readouterr()
        assert message in captured.err, arguments
        assert captured.err.startswith("pyro-unmix"), arguments
        assert captured.err.count("\n") == 1 and captured.err.endswith("\n"), arguments
        assert captured.out == "", arguments


def test_results_of_an_earlier_run_are_replaced(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for steps in (1, 0):
        assert run("unmix", images[0], "--endmembers", 2, "--steps", steps, "--out", out) == 0
    assert pu.Unmixing.load(out / "saved").losses.size == 0
    assert read(out / "result.nc")["losses"].size == 0
    assert_pictures(out, PICTURES - {"change", "losses"})


def test_bad_input_leaves_no_folder(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("unmix", tmp_path / "none.nc", "--endmembers", 2, "--out", out) == 2
    assert not out.exists()


def test_a_fault_of_ours_is_not_hidden(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli.plots, "plot_abundances", fail)
    with pytest.raises(ValueError, match="a bug"):
        run("unmix", images[0], "--endmembers", 2, "--steps", 0, "--out", tmp_path / "out")


@pytest.mark.parametrize("command", ["demo", "unmix"])
def test_help_states_every_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    options = {"--out": f"./pyro_unmix_{'demo' if command == 'demo' else 'result'}", "--seed": "0"}
    if command == "demo":
        options["--quick"] = "off"
    else:
        options["--method"] = "unmix"
        steps = inspect.signature(pu.unmix).parameters["num_steps"].default
        options["--steps"] = f"{steps} for unmix, 30 passes over the pixels for redsunn"
    for option, default in options.items():
        described = text.rpartition(f" {option} ")[2]
        assert described.partition("default: ")[2].startswith(default), option


def test_module_and_version() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "pyro_unmix", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"pyro-unmix {pu.__version__}\n"
