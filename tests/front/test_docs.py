"""The pages list what there is; Sphinx itself (.ci/run) checks their links and runs the tutorials."""

from __future__ import annotations

import re
from pathlib import Path

import pyro_unmix as pu

DOCS = Path(__file__).parents[2] / "docs"
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
