"""The look at the pages in a browser finds what is wrong with them, where there is a browser."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium.webdriver")
if not (shutil.which("chromium") or shutil.which("google-chrome")) or not shutil.which(
    "chromedriver"
):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

_PATH = Path(__file__).parents[2] / "docs" / "look.py"
_SPEC = importlib.util.spec_from_file_location("look", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
look = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(look)
HEAD = "<!doctype html><meta name=viewport content='width=device-width'><body>"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    found = look.browser()
    yield found
    found.quit()


def test_what_is_wrong_with_pages_is_said(driver: Any, tmp_path: Path) -> None:
    wide = "<p style='width: 600px'>long</p>"
    (tmp_path / "good.html").write_text(
        f"{HEAD}<a href=bad.html#here>to</a><div style='overflow-x: auto'>{wide}</div>"
    )
    (tmp_path / "bad.html").write_text(
        f"{HEAD}<i id=here></i>{wide}<img src=none.png><a href=none.html>a</a><a href=good.html#no>b</a>"
    )
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    found = list(look.problems(driver, tmp_path, keep=pictures))
    narrow = [line for line in found if "wider than the page" in line]
    assert (
        len(narrow) == 1 and narrow[0].startswith("bad.html at 400 pixels") and "long" in narrow[0]
    )
    assert sum("broken picture" in line and "none.png" in line for line in found) == 2
    dead = [line.rpartition("/")[2] for line in found if "dead link" in line]
    assert dead == ["none.html", "good.html#no"]
    assert len(found) == 5 and len(list(pictures.glob("*.png"))) == 4
