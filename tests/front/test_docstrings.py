"""Every public name has an example, and all of them run."""

from __future__ import annotations

import doctest
import importlib
import inspect
from typing import Any

import pytest

import pyro_unmix as pu

ROOMS = [name for name in pu.__all__ if inspect.ismodule(getattr(pu, name))]
#: Packages of extras, without which the example of a name cannot run.
NEEDS = {
    "Explorer": "panel",
    "as_lazy_cubes": "dask",
    "spread_blocks": "dask",
    "Unmixer": "sklearn",
}
#: Names of types, which cannot have a docstring.
ALIASES = {"Transition"}


def public() -> dict[str, Any]:
    """Classes and functions by the name under which users reach them; each once."""
    found: dict[int, tuple[str, Any]] = {}
    for room in ROOMS:
        module = getattr(pu, room)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) and name not in ALIASES:
                found.setdefault(id(value), (f"{room}.{name}", value))
    for name in [*pu.__all__, "Unmixer"]:
        if name not in ROOMS and (name != "Unmixer" or importlib.util.find_spec("sklearn")):
            value = getattr(pu, name)
            found.setdefault(id(value), (name, value))
    return dict(found.values())


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_runs(name: str) -> None:
    value = inspect.unwrap(PUBLIC[name]) if inspect.isfunction(PUBLIC[name]) else PUBLIC[name]
    short = name.rpartition(".")[2]
    if short in NEEDS:
        pytest.importorskip(NEEDS[short])
    text = value.__doc__ or ""
    assert ">>>" in text, f"{name} has no example"
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=lambda text: None)
    assert runner.failures == 1


def test_many_names_are_looked_at() -> None:
    assert len(PUBLIC) > 170 and "priors.JumpWalk" in PUBLIC and "plots.Explorer" in PUBLIC
