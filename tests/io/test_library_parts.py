"""Libraries of which only some classes are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from pyro_unmix import cli
from pyro_unmix.io import FileError, read_library

TEXT = "name,class,500,600\na,soil,0.1,0.2\nb,leaf,0.3,0.2\nc,soil,0.2,0.1\nd,snow,0.9,0.8\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "library.csv").write_text(TEXT)
    return tmp_path / "library.csv"


def test_some_classes_are_read(path: Path) -> None:
    whole = read_library(path)
    part = read_library(path, classes=["snow", "soil"])
    xr.testing.assert_identical(part, whole.isel(endmember=[0, 2, 3]))


@pytest.mark.parametrize(
    "classes, text",
    [
        (["soil", "Snow"], "classes: there is no 'Snow': the classes are soil, leaf, snow"),
        ([], "classes: there is no class asked for"),
    ],
)
def test_classes_that_are_not_there(path: Path, classes: list[str], text: str) -> None:
    with pytest.raises(FileError, match=text):
        read_library(path, classes=classes)
    name: Any = "soil"
    with pytest.raises(TypeError, match=r"a sequence of names, got 'soil': pass \['soil'\]"):
        read_library(path, classes=name)


def test_some_classes_from_the_shell(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = path.with_name("part.csv")
    given = ["library", "select", str(path), "--out", str(out)]
    assert cli.main([*given, "--classes", "soil, snow", "--number", "2"]) == 0
    assert sorted(read_library(out)["label"].values) == ["snow", "soil", "soil"]
    assert cli.main([*given, "--classes", "soil,ice"]) == 2
    assert "there is no 'ice': the classes are soil, leaf, snow" in capsys.readouterr().err
