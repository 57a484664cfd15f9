"""What stands in several files about the package is the same in all of them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pyro_unmix

yaml = pytest.importorskip("yaml")
tomllib = pytest.importorskip("tomllib")  # of Python 3.11

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What conda-forge calls otherwise.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_there_is_one_version() -> None:
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert version("pyro-unmix") == pyro_unmix.__version__
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == pyro_unmix.__version__


def test_the_recipe_has_the_dependencies_of_the_project() -> None:
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    python, *rest = recipe["requirements"]["run"]
    assert python.split()[0] == "python"
    assert f">={recipe['context']['python_min']}" == PROJECT["requires-python"]
    recipes = {Requirement(text).name: Requirement(text).specifier for text in rest}
    # Recipes of packages without compiled code know no markers: the lowest of all Pythons.
    projects = {}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.10"}):
            projects[CONDA.get(requirement.name, requirement.name)] = requirement.specifier
    assert recipes == projects


def test_the_workflows_run_every_python_of_the_classifiers() -> None:
    pattern = r"Python :: (3\.\d+)"
    classified = [m[1] for text in PROJECT["classifiers"] if (m := re.search(pattern, text))]
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert tests["jobs"]["tests"]["strategy"]["matrix"]["python"] == classified


def test_the_hooks_are_the_linters_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    script = (ROOT / ".ci" / "run").read_text()
    # A hook names its files itself.
    linters = re.findall(r"step \.venv/bin/((?:ruff|mypy).*)", script)
    assert [hook["entry"] for hook in hooks] == [line.removesuffix(" .") for line in linters]


def test_every_address_is_the_projects_own() -> None:
    home = "https://github.com/pyro-unmix/pyro_unmix"
    assert all(
        url.startswith((home, "https://pyro-unmix.readthedocs.io"))
        for url in PROJECT["urls"].values()
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == PROJECT["urls"]["Source"] == home
    assert citation["url"] == PROJECT["urls"]["Documentation"]
    assert citation["license"] == PROJECT["license"]
