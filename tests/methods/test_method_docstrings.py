"""The examples in docstrings of methods and of what they take run as they stand."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

MODULES = [
    "data.bands",
    "data.ignored",
    "data.merging",
    "data.selection",
    "io.libraries.from_pixels",
    "io.libraries.library",
    "io.masks",
    "io.write.libraries",
    "metrics.agreement",
    "methods.fcls",
    "mixing.hapke",
    "methods.mesma",
    "methods.minimum_volume",
    "methods.monte_carlo_sma",
    "methods.nnls",
    "methods.sparse_regression",
    "plots.library",
    "posterior.result",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"pyro_unmix.{name}"))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", ["library", "intimate_mixtures"])
def test_pages_run(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / f"{name}.md"
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted and not found.failed
