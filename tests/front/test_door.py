"""What is imported at the door: the time of an import is that of the packages that come with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_unmix.cli import _COMMANDS, _parser

#: Packages that may be imported with the methods, beside what torch, pyro and xarray import themselves.
DOOR = {"pyro_unmix"}
#: And with a command that only looks at a file of numpy: no torch.
READING = {"pyro_unmix", "h5py"}


def imported(script: str, before: str) -> set[str]:
    """Packages that `script` imports in a new process, beside those that are there after `before`."""
    tail = (
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - known})))"
    )
    lines = ["import json, sys", before, "known = set(sys.modules)", script, tail]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    names = set(json.loads(run.stdout.splitlines()[-1]))
    return {name for name in names if name not in sys.stdlib_module_names and name[0] != "_"}


def test_the_package_alone_imports_nothing() -> None:
    assert imported("import pyro_unmix; dir(pyro_unmix)", "") == {"pyro_unmix"}


@pytest.mark.parametrize("name", ["unmix", "fit", "sample", "methods", "SGLMM", "Unmixing"])
def test_methods_import_no_more_than_torch_pyro_and_xarray(name: str) -> None:
    script = f"import pyro_unmix; pyro_unmix.{name}"
    assert imported(script, "import torch, pyro, xarray") <= DOOR


def test_a_package_that_is_imported_is_found() -> None:
    found = imported("import pyro_unmix.io.formats.matlab", "import torch, pyro, xarray")
    assert found == {"pyro_unmix", "h5py"}


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "info a.npz",
        "library --help",
        "library info a.csv",
        *(f"{name} --help" for name in _COMMANDS if name != "library"),
    ],
)
def test_looking_at_files_imports_no_engine(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", Y=np.full((1, 2, 3, 4), 0.2))
    Path("a.csv").write_text("name,class,500,600\na,soil,0.1,0.2\nb,leaf,0.3,0.2\n")
    script = "\n".join(
        [
            "from pyro_unmix.cli import main",
            f"try: main({command.split()!r})",
            "except SystemExit: pass",
        ]
    )
    found = imported(script, "import xarray")
    assert found.isdisjoint({"torch", "pyro", "matplotlib"})
    if command in ("--help", "info a.npz"):
        assert found <= READING


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_line_of_a_command_is_what_it_says_itself(name: str) -> None:
    assert _parser([name]).format_help() == _parser([]).format_help()
