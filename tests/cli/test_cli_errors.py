"""How the command line says no, and what it leaves behind."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_cases import PICTURES, assert_pictures, quick_scene, read, run

import pyro_unmix as pu
from pyro_unmix import cli
from pyro_unmix.cli import console


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a small run."""
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two .npz files of one image each, one with a hole."""
    paths = []
    for date, image in enumerate(quick_scene().cubes.values[:2, :8, :9, ::8]):
        image = np.where((np.arange(72).reshape(8, 9, 1) == 5) & (date == 1), np.nan, image)
        paths.append(tmp_path / f"date{date}.npz")
        np.savez(paths[-1], cubes=image)
    return paths


def test_errors_are_one_line_and_exit_with_2(
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # the default of --out
    good, two = images[0], ("--endmembers", "2")
    integers, broken, text = tmp_path / "int.npz", tmp_path / "broken.mat", tmp_path / "a.txt"
    np.savez(integers, cubes=np.ones((4, 4, 5), dtype=np.int16))
    broken.write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    text.write_text("no image")
    cases = {
        (): "the following arguments are required: COMMAND",
        ("dmeo",): "invalid choice: 'dmeo'",
        ("demo", "--steps", "3"): "unrecognized arguments: --steps 3",
        ("demo", "--seed", "-1"): "argument --seed: expected a whole number of at least 0",
        ("demo", "--out", text): f"cannot write to --out {text}: ",
        ("unmix", good): "the following arguments are required: --endmembers",
        ("unmix", good, "--endmembers", "1"): "expected a whole number of at least 2, got '1'",
        (
            "unmix",
            good,
            "--endmembers",
            "x",
        ): "the file of a spectral library, got 'x': there is no such file",
        ("unmix", good, "--endmembers", "40"): "needs at least as many valid spectra and bands",
        ("unmix", good, "--endmembers", "2.5"): "expected a whole number of at least 2, got '2.5'",
        ("unmix", good, "--endmembers", good): "images have no wavelengths, which the bands of",
        ("unmix", good, *two, "--scale", "-1"): "--scale: expected a positive number, got '-1'",
        ("unmix", good, *two, "--nodata", "none"): "--nodata: expected a number, got 'none'",
        ("unmix", good, *two, "--dates", "20210731"): "write dates as 2021-07-31, got '20210731'",
        ("unmix", good, *two, "--dates", "soon"): "--dates must hold ISO dates",
        ("unmix", good, *two, "--dates", "1,2"): "--dates must hold one date per image, 1 in",
        ("unmix", good, *two, "--method", "fcls", "--steps", "3"): "--steps is for unmix, red",
        (
            "unmix",
            good,
            *two,
            "--method",
            "hbun",
            "--checkpoint",
            "c",
        ): "--checkpoint is for unmix, redsunn, redsunn_published, idnet, not",
        (
            "unmix",
            good,
            *two,
            "--method",
            "fcls",
            "--polish",
        ): "--polish is for unmix, not for fcls",
        (
            "unmix",
            good,
            *two,
            "--method",
            "fcls",
            "--trained",
        ): "--trained is for unmix, not for fcls",
        ("unmix", good, *two, "--resume"): "--resume and --no-resume need --checkpoint DIR",
        ("unmix", good, *two, "--no-resume"): "--resume and --no-resume need --checkpoint DIR",
        (
            "unmix",
            good,
            *two,
            "--checkpoint",
            good,
        ): f"--checkpoint must be a folder, got the file {good}",
        ("unmix", good, *two, "--method", "nmf"): "invalid choice: 'nmf'",
        ("unmix", good, *two, "--out", good / "x"): "cannot write to --out",
        ("unmix", tmp_path / "none.nc", *two): f"no such file: {tmp_path / 'none.nc'}",
        ("unmix", text, *two): "is none of the formats",
        ("unmix", broken, *two): "is neither a MATLAB v5 nor a v7.3 file, or cut off",
        ("unmix", integers, *two): "scale: pass --scale, for example --scale 1e-4",
        ("unmix", good, integers, *two): str(integers),
    }
    for arguments, message in cases.items():
        assert run(*arguments) == 2, arguments
        captured = capsys.readouterr()
        assert message in captured.err, arguments
        assert captured.err.startswith("pyro-unmix"), arguments
        *warnings, error = captured.err.splitlines()  # what was assumed of a file stands before
        assert not error.startswith("pyro-unmix: warning: "), arguments
        assert all(line.startswith("pyro-unmix: warning: ") for line in warnings), arguments
        assert captured.err.endswith("\n"), arguments
        assert captured.out == "", arguments


def test_results_of_an_earlier_run_are_replaced(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for steps in (1, 0):
        assert run("unmix", images[0], "--endmembers", 2, "--steps", steps, "--out", out) == 0
    assert pu.Unmixing.load(out / "saved").losses.size == 0
    assert "losses" not in read(out / "result.nc")
    assert_pictures(out, PICTURES - {"change", "endmembers_over_time", "losses"})


def test_bad_input_leaves_no_folder(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("unmix", tmp_path / "none.nc", "--endmembers", 2, "--out", out) == 2
    assert not out.exists()


def test_a_fault_of_ours_is_not_hidden(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("pyro_unmix.cli.unmixing.summary_of", fail)
    with pytest.raises(ValueError, match="a bug"):
        run("unmix", images[0], "--endmembers", 2, "--steps", 0, "--out", tmp_path / "out")


def test_a_loss_that_is_not_finite_is_one_line(
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise pu.NonFiniteLossError("the loss is nan at step 3:\nlower learning_rate")

    monkeypatch.setitem(cli.unmixing.METHODS, "redsunn", diverge)
    arguments = ("--endmembers", 2, "--method", "redsunn", "--out", tmp_path / "out")
    assert run("unmix", images[0], *arguments) == 2
    error = capsys.readouterr().err
    assert error == "pyro-unmix: error: the loss is nan at step 3: lower learning_rate\n"


def test_an_interrupt_keeps_what_is_trained(
    images: list[Path], tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(cubes: Any, num_endmembers: int, **settings: Any) -> pu.Unmixing:
        try:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does; `fit` ends its training then
            time.sleep(5)
        except KeyboardInterrupt:
            pass
        return pu.methods.fcls(cubes, num_endmembers, progress=False)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setitem(cli.unmixing.METHODS, "redsunn", interrupted)
    arguments = ("--endmembers", 2, "--method", "redsunn", "--out", tmp_path / "out")
    assert run("unmix", images[0], *arguments) == 130
    assert (tmp_path / "out" / "result.nc").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_before_exits_with_130(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.unmixing.METHODS, "unmix", interrupted)
    assert run("unmix", images[0], "--endmembers", 2, "--out", tmp_path / "out") == 130


# ------------------------------------------------------------------ what terminals would obey


ESCAPE = "\x1b]0;mine\x07\x9b2J"


def test_names_in_files_do_not_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        f"class,500,600\n{ESCAPE}soil,.1,.2\n\u202etree,.3,.2\nTREE,.1,.1\ntree,.1,.1\n"
    )
    assert run("library", "info", path) == 0
    assert run("info", tmp_path / ESCAPE) == 2
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\x9b\u202e")
    assert r"\u001b]0;mine\u0007\u009b2Jsoil" in out and r"\u202etree" in out
    assert r"no such file: " in err and r"\u009b2J" in err
    assert run("library", "info", path, "--json") == 0
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert {f"{ESCAPE}soil", "\u202etree"} < set(classes)


def test_a_terminal_without_a_character_gets_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", stream)
    console.say("Böden \udcff")
    console.say_json({"Böden": "\x9b"})
    stream.flush()
    text, found = stream.buffer.getvalue().decode("ascii").split("\n", 1)  # type: ignore[attr-defined]
    assert text == r"B\xf6den \udcff" and json.loads(found) == {"Böden": "\x9b"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_is_one_line(images: list[Path]) -> None:
    command = [sys.executable, "-m", "pyro_unmix", "info", str(images[0])]
    with open("/dev/full", "w") as full:
        unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=unbuffered, text=True
        )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: [Errno {errno.ENOSPC}]" in done.stderr
