"""The page of a result: beside what unmix writes, and by a command of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cli_cases import assert_pictures, quick_scene, run

from pyro_unmix import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``unmix`` wrote."""
    folder = tmp_path_factory.mktemp("report")
    np.savez(folder / "images.npz", cubes=quick_scene().cubes.values[:, :12, :12, ::8])
    options = ("--endmembers", 3, "--steps", 1, "--no-polish", "--out", folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.unmix, "write_pictures", lambda *_: [])
        assert run("unmix", folder / "images.npz", *options) == 0
    return folder


def test_unmix_writes_a_page_with_its_command_and_its_notes(folder: Path) -> None:
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    command = re.findall(r"<pre>(.*?)</pre>", text)
    assert command == [
        f"pyro-unmix unmix {folder}/images.npz --endmembers 3 --steps 1 --no-polish --out {folder}/out"
    ]
    noted = text.partition("What was noted")[2].partition("<h2>")[0]
    assert "chosen by marginal log-likelihood" in noted


def test_report_of_a_folder_and_of_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "page.html"
    for name, has_images in (("saved", True), ("result.nc", False)):
        assert run("report", folder / "out" / name, "--out", out) == 0
        assert capsys.readouterr().out == f"Wrote {out}\n"
        assert ("leaves over" in out.read_text(encoding="utf-8")) == has_images


def test_report_of_a_scene_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.results.write_scene(quick_scene(), tmp_path / "scene.nc")
    assert run("report", tmp_path / "scene.nc", "--out", tmp_path / "page.html") == 2
    assert "lacks valid: expected a result" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_first_image_and_a_middle_pixel_without_data_are_no_hindrance(tmp_path: Path) -> None:
    cubes = quick_scene().cubes.values[:, :9, :9, ::16].copy()
    cubes[0] = cubes[:, 4, 4] = np.nan
    np.savez(tmp_path / "images.npz", cubes=cubes)
    out = tmp_path / "out"
    assert (
        run("unmix", tmp_path / "images.npz", "--endmembers", 3, "--method", "nnls", "--out", out)
        == 0
    )
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "spectra of the pixels at the first date that was observed, t = 1." in text
    assert_pictures(out, {"abundances", "composite", "endmembers", "endmembers_over_time", "rmse"})
