"""The faults that the tests are measured with still apply, and the run of them says what it finds."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import mutants
import pytest
from _mutants import MUTANTS, Mutant

FAULT = Mutant("ops/a.py", "x + 1", "x - 1", "ops/test_a.py")


def test_every_mutant_applies_and_is_still_a_program() -> None:
    package = mutants.REPOSITORY / "pyro_unmix"
    for mutant in MUTANTS:
        text = (package / mutant.file).read_text(encoding="utf-8")
        changed = ast.dump(ast.parse(mutants.mutated(text, mutant)))
        assert changed != ast.dump(ast.parse(text)), mutant
        assert mutant.tests
        for name in mutant.tests.split():
            assert (mutants.REPOSITORY / "tests" / name.split("::")[0]).exists(), mutant


def test_every_room_has_its_share() -> None:
    rooms = Counter(mutant.file.split("/")[0] for mutant in MUTANTS)
    folders = {p.name for p in (mutants.REPOSITORY / "pyro_unmix").iterdir() if p.is_dir()}
    assert rooms.keys() == folders - {"__pycache__"}
    assert min(rooms.values()) >= 3
    assert len(set(MUTANTS)) == len(MUTANTS) >= 60


@pytest.mark.parametrize("text", ["y = 1\n", "y = x + 1\nz = x + 1\n"])
def test_what_does_not_stand_there_once_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ops/a.py: 'x \+ 1' stands there [02] times, expected 1"):
        mutants.mutated(text, FAULT)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one function with a test of its own, in place of ours."""
    for name in ("pyro_unmix/ops", "tests/ops", "benchmarks"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pyro_unmix/ops/a.py").write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "tests/ops/test_a.py").write_text(
        "from pyro_unmix.ops.a import f\n\ndef test_f():\n    assert f(1) == 2\n"
    )
    (tmp_path / "tests/ops/test_b.py").write_text("def test_nothing():\n    pass\n")
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\naddopts = -p no:randomly\n")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(mutants, "REPOSITORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("table", "code", "text"),
    [
        ([FAULT], 0, "1 of 1 killed"),
        ([FAULT, FAULT._replace(tests="ops/test_b.py")], 1, "1 of 2 killed"),
        ([FAULT, FAULT._replace(tests="ops/test_c.py")], 2, "pytest ended with 4"),
        ([FAULT._replace(old="x - 1")], 2, ""),
    ],
    ids=["killed", "survived", "no such test", "no such text"],
)
def test_the_run_says_what_it_finds(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: list[Mutant],
    code: int,
    text: str,
) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", table)
    assert mutants.main([]) == code
    assert text in capsys.readouterr().out
    assert "x + 1" in (small / "pyro_unmix/ops/a.py").read_text()  # the original stays


def test_tests_that_do_not_end_are_said_apart(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "tests/ops/test_a.py").write_text("import time\n\ndef test_f():\n    time.sleep(60)\n")
    monkeypatch.setattr(mutants, "MUTANTS", [FAULT])
    monkeypatch.setattr(mutants, "SECONDS", 1.0)
    assert mutants.main([]) == 0
    shown = capsys.readouterr().out
    assert "endless" in shown and "1 of 1 killed, 1 of them by 1 s" in shown
