"""What the help states, and the command as a module and in a pipe."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import quick_scene, run

import pyro_unmix as pu
from pyro_unmix.methods.redsunn import NUM_EPOCHS
from pyro_unmix.methods.unmix import MIN_DATES, NUM_STEPS
from pyro_unmix.posterior.estimates import MOST_POLISHED


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two .npz files of one image each, one with a hole."""
    paths = []
    for date, image in enumerate(quick_scene().cubes.values[:2, :8, :9, ::8]):
        image = np.where((np.arange(72).reshape(8, 9, 1) == 5) & (date == 1), np.nan, image)
        paths.append(tmp_path / f"date{date}.npz")
        np.savez(paths[-1], cubes=image)
    return paths


SCENE = {"--dates": "of the files", "--mask": "none", "--window": "all"}
LIBRARY = {
    "--label": "of the file",
    "--classes": "all",
    "--unit": "of the file",
    "--scale": "of the file",
    "--ignore": "none",
}
READING = {
    "--scale": "of the file",
    "--offset": "of the file",
    "--wavelength-unit": "of the file",
    "--nodata": "of the file",
    "--ignore": "none",
}
HBUN_STEPS = inspect.signature(pu.methods.hbun).parameters["num_steps"].default
DEFAULTS: dict[str, dict[str, str]] = {
    "demo": {"--out": "./pyro_unmix_demo", "--seed": "0", "--quick": "off"},
    "info": {**READING, "--json": "off"},
    "unmix": {
        **READING,
        **SCENE,
        "--device": "cpu",
        "--chunks": "all at once",
        "--out": "./pyro_unmix_result",
        "--method": "unmix",
        "--shade": "off",
        "--normalize": "off",
        "--set": "of the method",
        "--uncertainty": "none; unmix: product",
        "--steps": f"{NUM_STEPS} for unmix, {HBUN_STEPS} for hbun, {NUM_EPOCHS:g} passes over the "
        "pixels for redsunn",
        "--polish": f"in sequences of {MIN_DATES} dates or more, up to {MOST_POLISHED} pixels times dates",
        "--trained": "train where the model holds",
        "--checkpoint": "none",
        "--resume": "--resume",
        "--seed": "0",
        "--json": "off",
        "--library-label": "of the file",
        "--library-classes": "all",
        "--library-unit": "of the file",
        "--library-scale": "of the file",
    },
    "endmembers": {**READING, **SCENE, "--seed": "0", "--json": "off"},
    "library build": {
        **READING,
        **SCENE,
        "--date": "of the only one",
        "--max-spectra": "all",
        "--seed": "0",
        "--field": "class, label, material",
        "--layer": "the only one",
        "--crs": "of the file",
        "--all-touched": "off",
    },
    "library info": {**LIBRARY, "--json": "off"},
    "library resample": LIBRARY,
    "library select": {**LIBRARY, "--by": "ear", "--number": "1", "--max-rmse": "0.025"},
    "library merge": {**LIBRARY, "--bands-of": "of the first"},
    "library plot": {**LIBRARY, "--out": "./library.png"},
    "compare": {"--held-out": "off", "--seed": "0", "--json": "off"},
    "simulate": {
        "--num-dates": "6 for scaled, 15 for bundle",
        "--height": "50",
        "--width": "50",
        "--endmembers": "3 for scaled, 4 for bundle",
        "--snr": "30",
        "--clouds": "0",
        "--seed": "0",
    },
    "report": {"--out": "./report.html"},
    "plot": {"--out": "./pyro_unmix_plots"},
    "score": {"--json": "off"},
}


@pytest.mark.parametrize("command", DEFAULTS)
def test_help_states_every_default(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert run(*command.split(), "--help") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 50  # one screen
    options = printed.partition("options:")[2]
    described = dict(re.findall(r"^  (?:-h, )?(--[\w-]+)(.*(?:\n {6,}.*)*)", options, re.M))
    assert described.pop("--help")
    for option, default in DEFAULTS[command].items():
        text = " ".join(described.pop(option).split())
        assert text.partition("default: ")[2].startswith(default), option
    for option, text in described.items():  # those that must be given
        assert "(no default)" in " ".join(text.split()), option


def test_help_begins_with_what_the_shell_offers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "pyro-unmix demo" in printed and "Pyro." not in printed and "`" not in printed


def test_steps_of_the_presets_are_those_of_the_help() -> None:
    scene = quick_scene().cubes[:1, :8, :9, ::8]
    result = pu.unmix(scene, 2, progress=False)
    assert len(result.losses) == NUM_STEPS


def test_module_and_version() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pyro_unmix", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"pyro-unmix {pu.__version__}\n"


def test_output_that_nobody_reads_is_no_traceback(images: list[Path]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-u", "-m", "pyro_unmix", "info", str(images[0])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141
