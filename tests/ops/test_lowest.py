"""`constraints/lowest.txt` has the lowest versions that pyproject.toml claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPO = Path(__file__).parents[2]
OTHERWISE = {"torch": "2.13.0"}  # see the first lines of that file


def claimed() -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # What builds the pages is no dependency of a user.
    lists = [project["dependencies"], *(extras[name] for name in extras if name != "docs")]
    found = [Requirement(text) for some in lists for text in some]
    return [requirement for requirement in found if requirement.name != "pyro-unmix"]


def lowest(requirement: Requirement, operator: str) -> Version:
    (version,) = (s.version for s in requirement.specifier if s.operator == operator)
    return Version(version)


def test_the_constraints_are_the_lower_bounds():
    lines = (REPO / "constraints" / "lowest.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    for python in ("3.10", "3.11", "3.13"):
        bounds, pins = (
            {
                r.name: lowest(r, operator)
                for r in some
                if r.marker is None or r.marker.evaluate({"python_version": python})
            }
            for some, operator in ((claimed(), ">="), (pinned, "=="))
        )
        bounds |= {name: Version(version) for name, version in OTHERWISE.items()}
        pins = {name: version for name, version in pins.items() if name in bounds}
        assert pins == bounds
    assert {r.name for r in pinned} == {r.name for r in claimed()}
