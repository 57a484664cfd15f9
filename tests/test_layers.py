"""A module imports only from its own row of the architecture or from rows below, in no cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyro_unmix"

CLASSICAL = ["_common", "fcls", "kalman_em", "online"]

# The ground floor first. A package stands for all its modules, unless one is named by itself.
ROWS = [
    [
        "_bands",
        "_check",
        "_crs",
        "_names",
        "_random",
        "_recipe",
        "_heap",
        "_threads",
        "clipped_adam",
        "small_matrices",
        "trace_elbo",
    ],
    [
        "cubes",
        "_cube_input",
        "distributions",
        "libraries",
        "mixing",
        "priors",
        "softmax_distributions",
        "solvers",
        "_spectra",
        "bundles",
        "decoders",
        "dirichlet",
        "nonlinear",
        "perceptrons",
    ],
    [
        "io",
        "endmembers",
        "num_endmembers",
        "selection",
        "collapsed",
        "state_chains",
        "dates",
        "draws",
        "estimates",
        "evidence",
        "inference_data",
        "misfit",
        "observations",
        "posterior",
        "per_pixel",
        "pixel_maps",
        "prediction",
        "predictive",
        "result",
        "saving",
        "sweeps",
        "tile_store",
    ],
    ["comparison", "metrics", "plots", "models", *(f"baselines.{name}" for name in CLASSICAL)],
    ["guides", "interactions", "kernels", "losses", "published", "self_supervised", "simulate"],
    ["checkpoint", "feed", "fingerprint", "fit", "infer", "plan", "training", "workers"],
    # the list of the package of baselines holds hbun, which ends in fit
    ["presets", "presets_chains", "presets_idnet", "baselines"],
    ["cli", "__init__", "__main__"],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}


def row_of(module: str) -> int:
    """The row of a module, named relative to the package ("" is the package itself)."""
    name = module or "__init__"
    while name:
        if name in ROW:
            return ROW[name]
        name = name.rpartition(".")[0]
    raise LookupError(f"{module} stands in no row: add it to ROWS in {Path(__file__).name}")


def modules_of(package: Path) -> dict[str, Path]:
    """Files by module name relative to the package: "" for the package, "io", "io.simple", ..."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, files: dict[str, Path], package: str) -> set[str]:
    """Modules of the package that a module imports, at any depth of its code."""
    path = files[module]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [package, *module.split(".")] if module else [package]
                depth = node.level - (path.name == "__init__.py")
                parent = here[: len(here) - depth]
                base = ".".join([*parent, base] if base else parent)
            # "from package import name" imports the module of that name, if there is one.
            targets = [
                inner if inner.removeprefix(f"{package}.") in files else base
                for inner in (f"{base}.{alias.name}" for alias in node.names)
            ]
        else:
            continue
        for target in targets:
            if target == package or target.startswith(f"{package}."):
                found.add(target.removeprefix(package).removeprefix("."))
    return found - {module}


def graph_of(package: Path) -> dict[str, set[str]]:
    files = modules_of(package)
    return {module: imports_of(module, files, package.name) for module in files}


def violations(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{module or '__init__'} (row {row_of(module)}) imports {other or '__init__'} "
        f"(row {row_of(other)})"
        for module, others in graph.items()
        for other in sorted(others)
        if row_of(other) > row_of(module)
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some cycle of imports, or an empty list."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if found := visit(other, [*trail, module]):
                return found
        done.add(module)
        return []

    for start in graph:
        if found := visit(start, []):
            return found
    return []


def test_every_module_has_a_row() -> None:
    graph = graph_of(PACKAGE)
    assert "cubes" in graph
    for module in graph:
        row_of(module)


def test_imports_point_down() -> None:
    assert violations(graph_of(PACKAGE)) == []


def test_no_import_cycle() -> None:
    assert cycle(graph_of(PACKAGE)) == []


def _package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "pkg"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(
    "text",
    [
        "import pkg.fit",
        "from pkg.fit import fit",
        "from pkg import fit",
        "from . import fit",
        "from .fit import fit",
        "def f():\n    from .fit import fit",
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, text: str) -> None:
    package = _package(tmp_path, {"__init__.py": "", "fit.py": "", "cubes.py": text})
    assert graph_of(package)["cubes"] == {"fit"}
    assert violations(graph_of(package)) == ["cubes (row 1) imports fit (row 5)"]


def test_relative_imports_in_packages_are_resolved(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .models import sglmm",
        "models/__init__.py": "from .sglmm import SGLMM",
        "models/sglmm.py": "from .. import mixing\nfrom ..guides.base import Guide\nimport numpy",
        "guides/base.py": "",
        "mixing.py": "from . import __version__",
    }
    graph = graph_of(_package(tmp_path, files))
    assert graph == {
        "": {"models.sglmm"},
        "models": {"models.sglmm"},
        "models.sglmm": {"mixing", "guides.base"},
        "guides.base": set(),
        "mixing": {""},
    }
    assert violations(graph) == [
        "mixing (row 1) imports __init__ (row 7)",
        "models.sglmm (row 3) imports guides.base (row 4)",
    ]


def test_a_cycle_within_a_row_is_found(tmp_path: Path) -> None:
    files = {
        "cubes.py": "from . import mixing",
        "mixing.py": "from . import priors",
        "priors.py": "from .cubes import valid_mask",
    }
    graph = graph_of(_package(tmp_path, files))
    assert violations(graph) == []
    assert cycle(graph) == ["cubes", "mixing", "priors", "cubes"]


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(LookupError, match="new_idea stands in no row: add it to ROWS"):
        row_of("new_idea")
