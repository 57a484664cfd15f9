"""A room of the package imports from rooms before it, never from one after it, and in no cycle."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import pyro_unmix

PACKAGE = Path(__file__).parents[1] / "pyro_unmix"
#: Rooms in the order in which they may import from each other; those of one line stand side by side.
ORDER = """
ops
data
priors
mixing io simulate
bases
models
guides
kernels
posterior
start
infer
methods
metrics plots
cli
__main__
"""
ROW = {room: row for row, line in enumerate(ORDER.split("\n")) for room in line.split()}


def imports(package: Path, running: bool = False) -> dict[str, set[str]]:
    """Modules of the package that each of its files imports, at any depth of its code; both without its name.

    Or, `running`, without what types alone need.
    """
    graph: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        if running:
            checks = [
                n for n in nodes if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
            ]
            for_types = {n for check in checks for part in check.body for n in ast.walk(part)}
            nodes = [n for n in nodes if n not in for_types]
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [
            f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names
        ]
        prefix = f"{package.name}."
        graph[module] = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    modules = {m.rsplit(".", depth)[0] for m in graph for depth in range(m.count(".") + 1)}
    # "from module import name" imports the module, unless the name is one, or a folder of some.
    return {
        module: {name if name in modules else name.rpartition(".")[0] for name in others} - {""}
        for module, others in graph.items()
    }


def runs_up(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a room of a later row, or of another room of the same one."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if module != "__init__" and other.partition(".")[0] in ROW
        for here, there in [(module.partition(".")[0], other.partition(".")[0])]
        if here != there and ROW[there] >= ROW[here]
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, or an empty list; the files of a package are imported after it."""
    waiting = {m.removesuffix(".__init__"): others - {m} for m, others in graph.items()}
    while waiting:
        free = {m for m, others in waiting.items() if not others & waiting.keys()}
        if not free:
            return sorted(waiting)
        waiting = {m: others for m, others in waiting.items() if m not in free}
    return []


def test_every_entry_of_the_package_is_a_room() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {*ROW, "__init__", "py"}  # py.typed
    assert len(entries) <= 20


def test_the_root_and_the_tests_stay_small() -> None:
    tests = Path(__file__).parent
    assert len(pyro_unmix.__all__) <= 45
    assert len(list(tests.glob("test_*.py"))) <= 6
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in tests.rglob("*.py")
    }
    assert [path for path, length in lengths.items() if length > 400] == []


def test_no_import_runs_up() -> None:
    assert runs_up(imports(PACKAGE)) == []


def test_no_import_cycle() -> None:
    assert cycle(imports(PACKAGE, running=True)) == []


def test_no_two_classes_of_one_name() -> None:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py"))
    counts = Counter(
        n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)
    )
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(
    "text",
    [
        "import room.infer.fit",
        "from room.infer.fit import fit",
        "from room.infer import fit",
        "from room import infer",
        "def f():\n    from room.infer import fit",
    ],
)
def test_an_import_that_runs_up_is_found(tmp_path: Path, text: str) -> None:
    for name in ("ops/checks.py", "infer/fit.py"):
        (tmp_path / "room" / name).parent.mkdir(parents=True)
        (tmp_path / "room" / name).write_text(text if name.startswith("ops") else "")
    assert runs_up(imports(tmp_path / "room"))


def test_a_cycle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert cycle(graph) == ["a", "b", "c", "d"]
    assert cycle({**graph, "c": set()}) == []
