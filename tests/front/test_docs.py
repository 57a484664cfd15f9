"""The pages list what there is; Sphinx itself (.ci/run) checks their links and runs the tutorials."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import pyro_unmix as pu

DOCS = Path(__file__).parents[2] / "docs"
#: Pages with examples that say what comes out; a blank line ends the last one of a block.
WITH_OUTPUT = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if re.search(r"^>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]
#: What their examples need of the extras.
NEEDS = {"tables": "sklearn"}
REFERENCE = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")


def test_the_reference_has_every_name_of_the_package() -> None:
    names = re.findall(r"^   ~pyro_unmix\.(\w+)\.(\w+)$", REFERENCE, re.MULTILINE)
    rooms = re.findall(r"^   pyro_unmix\.(\w+)$", REFERENCE, re.MULTILINE)
    assert len(set(names)) == len(names)
    assert {*rooms, *(name for _, name in names)} == set(pu.__all__)
    for room, name in names:
        # Its own page is that of the room, which lists it.
        assert name in getattr(pu, room).__all__
        assert getattr(getattr(pu, room), name) is getattr(pu, name)


def test_the_rooms_of_the_reference_list_what_is_public() -> None:
    for room in re.findall(r"^   pyro_unmix\.(\w+)$", REFERENCE, re.MULTILINE):
        module = getattr(pu, room)
        assert all(hasattr(module, name) for name in module.__all__), room


def test_no_page_is_long() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in DOCS.rglob("*.md")}
    assert len(lengths) > 30
    assert [path for path, length in lengths.items() if length > 400] == []


@pytest.mark.parametrize("path", WITH_OUTPUT, ids=lambda path: path.stem)
def test_what_pages_say_comes_out(path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    text = path.read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, path.stem, str(path), 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_the_pages_with_output_are_found() -> None:
    assert {"intimate_mixtures", "library", "tables"} <= {path.stem for path in WITH_OUTPUT}
