"""The page of a result: beside what unmix writes, and by a command of its own."""

from __future__ import annotations

import json
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
        patch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
        assert run("unmix", folder / "images.npz", *options) == 0
    return folder


def test_unmix_writes_a_page_with_its_command_and_its_notes(folder: Path) -> None:
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    command = re.findall(r"<pre>(.*?)</pre>", text)
    assert command == [
        f"pyro-unmix unmix {folder}/images.npz --endmembers 3 --steps 1 --no-polish --out {folder}/out"
    ]
    noted = text.partition("What was noted")[2].partition("<h2>")[0]
    assert "because they explain the spectra best" in noted


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


def test_pictures_and_a_page_that_fail_leave_the_run_its_files_and_its_summary(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no\nink")

    monkeypatch.setattr(cli.unmixing, "write_pictures", fail)
    monkeypatch.setattr(cli.unmixing, "write_report", fail)
    (tmp_path / "report.html").write_text("of an earlier run")
    arguments = ("--endmembers", 3, "--method", "fcls", "--out", tmp_path)
    assert run("unmix", folder / "images.npz", *arguments) == 0
    said = capsys.readouterr()
    assert "materials" in said.out or "endmember" in said.out
    assert f"Wrote {tmp_path / 'saved'}" in said.out and ".html" not in said.out
    assert "pyro-unmix: note: no pictures: RuntimeError: no ink" in said.err
    assert "pyro-unmix: note: no report: RuntimeError: no ink" in said.err
    assert not (tmp_path / "report.html").exists() and (tmp_path / "result.nc").exists()
    assert run("unmix", folder / "images.npz", *arguments, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["not_drawn"]) == 2


def test_the_page_needs_the_suffix_of_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (tmp_path / "page.png", tmp_path / "a.html"):
        (tmp_path / "a.html").mkdir(exist_ok=True)
        assert run("report", folder / "out" / "saved", "--out", out) == 2
        assert capsys.readouterr().err.startswith("pyro-unmix: error:")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
