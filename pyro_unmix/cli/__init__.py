"""The command ``pyro-unmix``: arguments in, files and tables out; the work is done elsewhere.

A file a command: `info`, `library`, `unmix`, `endmembers`, `plot`, `report`, `compare`, `score`, `simulate`, `demo`.
They share `arguments` (options), `console` (what is said), `results` (results and truths from files) and `pictures`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence

import pyro_unmix
from pyro_unmix.cli import (
    compare,
    demo,
    endmembers,
    info,
    library,
    plot,
    report,
    score,
    simulate,
    unmix,
)
from pyro_unmix.cli.arguments import Parser
from pyro_unmix.cli.console import BadInput, complain, notes_to_stderr

__all__ = ["main"]

# In the order of their use.
_COMMANDS = (demo, info, library, unmix, endmembers, plot, report, compare, score, simulate)


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
    arguments = _parser().parse_args(argv)
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
    except KeyboardInterrupt:
        return 130
    return int(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pyro-unmix",
        description=pyro_unmix.__doc__,
        epilog="Each command has its own --help. Exit codes: 0 done, 2 bad input, 130 interrupted.",
    )
    version = f"pyro-unmix {pyro_unmix.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in _COMMANDS:
        command.add_command(commands)
    return parser
