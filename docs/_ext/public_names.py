"""What is public is in the reference: values with the comment of the module that defines them, and nothing missing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import pyro_unmix

logger = logging.getLogger(__name__)


def _modules(package: str) -> Iterator[str]:
    """A package and all that is in it."""
    yield package
    path = getattr(importlib.import_module(package), "__path__", [])
    yield from (found.name for found in pkgutil.walk_packages(path, f"{package}."))


def _comment(package: str, name: str) -> list[str]:
    """The lines of the ``#:`` comment above a value, wherever the package defines it."""
    for module in _modules(package):
        try:
            analyzer = ModuleAnalyzer.for_module(module)
            analyzer.analyze()
        except PycodeError:
            continue
        if lines := analyzer.attr_docs.get(("", name)):
            return list(lines)
    return []


def _describe(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    package, _, own = name.rpartition(".")
    if what == "data" and package.startswith("pyro_unmix."):
        lines[:] = _comment(package, own) or _comment("pyro_unmix", own)
        if not lines:
            logger.warning("%s has no comment that begins with '#:'", name)


def _check(app: Any, env: Any) -> None:
    known = env.domains["py"].objects
    for room in pyro_unmix._ROOMS:
        for name in getattr(pyro_unmix, room).__all__:
            if f"pyro_unmix.{room}.{name}" not in known:
                logger.warning("the reference has no pyro_unmix.%s.%s", room, name)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _describe)
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
