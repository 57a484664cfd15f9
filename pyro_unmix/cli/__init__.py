"""The command ``pyro-unmix``: arguments in, files and tables out; the work is done elsewhere.

A file a command: `info`, `library`, `unmix`, `endmembers`, `plot`, `report`, `compare`, `score`, `simulate`, `demo`.
They share `arguments` (options), `console` (what is said), `results` (results and truths from files) and `pictures`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import pyro_unmix
from pyro_unmix.cli.arguments import Parser
from pyro_unmix.cli.console import BadInput, complain, notes_to_stderr

__all__ = ["main"]

# In the order of their use, each with its line in the help; only the one that is asked for is imported.
_COMMANDS = {
    "demo": "simulate a scene, unmix it, and compare with the truth",
    "info": "say what is understood of image files",
    "library": "build, look at, resample, select, merge and draw spectral libraries",
    "unmix": "unmix image files",
    "endmembers": "extract the spectra of the materials",
    "plot": "draw the pictures of a result",
    "report": "write one HTML page of a result",
    "compare": "results of several methods side by side",
    "score": "compare a result with a truth",
    "simulate": "write a simulated scene with its truth",
}


def __getattr__(name: str) -> Any:
    if name in _COMMANDS or name in ("results", "unmixing"):
        return importlib.import_module(f"pyro_unmix.cli.{name}")
    raise AttributeError(f"module 'pyro_unmix.cli' has no attribute {name!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0; 2 for bad input (argparse exits with 2 by itself); 130 after an interrupt;
        141 if nobody reads the output any more.
    """
    arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    arguments.command = shlex.join(["pyro-unmix", *(sys.argv[1:] if argv is None else argv)])
    try:
        with notes_to_stderr(getattr(arguments, "notes", logging.INFO)):
            code = arguments.run(arguments)
    except BadInput as error:
        complain(error)
        return 2
    except BrokenPipeError:
        # The reader of our output, such as head, has seen enough; Python would complain again at
        # the end, when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # of what is printed: that of files is BadInput
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return int(code or 0)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    asked = next((text for text in argv if not text.startswith("-")), "")
    parser = Parser(
        prog="pyro-unmix",
        description="Unmix hyperspectral images, single ones or of several dates: maps of how much of each pixel is "
        "which material, with intervals. To begin: pyro-unmix demo, or pyro-unmix unmix FILE... --endmembers 4.",
        epilog="Each command has its own --help. Exit codes: 0 done, 2 bad input, 130 interrupted.",
    )
    version = f"pyro-unmix {pyro_unmix.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, text in _COMMANDS.items():
        if name == asked:
            importlib.import_module(f"pyro_unmix.cli.{name}").add_command(commands)
        else:
            commands.add_parser(name, help=text)
    return parser
