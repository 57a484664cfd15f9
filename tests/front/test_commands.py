"""Commands that pages show are such that the shell takes them."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
from pathlib import Path

import pytest

from pyro_unmix import methods
from pyro_unmix.cli import _parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """Page and arguments of every ``pyro-unmix`` in a block of shell."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    if words and words[0].endswith("pyro-unmix"):
                        found.append((page.name, words[1:]))
    return found


COMMANDS = commands()


@pytest.mark.parametrize(
    "page, words", COMMANDS, ids=[" ".join(words)[:60] for _, words in COMMANDS]
)
def test_the_shell_takes_a_command_of_a_page(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in words:  # libraries must be there
        if re.fullmatch(r"[\w-]+\.(csv|sli)", word):
            Path(word).touch()
    assert callable(_parser(words).parse_args(words).run)


def test_many_commands_are_looked_at() -> None:
    assert len(COMMANDS) > 15 and {"README.md", "shell.md", "library.md"} <= {
        page for page, _ in COMMANDS
    }


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                found |= options_of(part)
    return found


def test_what_other_programs_have_is_here_under_the_names_that_are_said() -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    table = text.partition("## If you know SpectralUnmixing.jl")[2].partition("\n## ")[0]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 10
    here = " ".join(row[2] for row in rows)
    known = options_of(_parser(["unmix"])) | options_of(_parser(["library"]))
    assert set(re.findall(r"(?<!\w)--[a-z][\w-]*", here)) <= known
    assert set(re.findall(r"--method (\w+)", here)) <= set(methods.__all__)
    settings = set(re.findall(r"--set \"?(\w+)=", here))
    taken = {*inspect.signature(methods.mesma).parameters}
    taken |= {*inspect.signature(methods.monte_carlo_sma).parameters}
    assert settings and settings <= taken
