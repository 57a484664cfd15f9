"""What the command line says: errors in one line, notes, tables and JSON."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from pyro_unmix.ops.non_finite import NonFiniteLossError

# Arguments of the readers in their messages, and the options that pass them on.
_ARGUMENT = re.compile(
    r"\b(scale|offset|nodata|dates|wavelength_unit|unit|label|ignore|masks|field|layer|crs|all_touched)="
    r"(?:True\b|'([\w,.:-]+)'|(-?[\d.](?:\S*\d)?))?"
)
# What methods advise in Python, and what it is here.
_ADVICE = {
    "shade=True": "--shade",
    "normalize=True": "--normalize",
    "trained=True": "--trained",
    "trained=False": "--no-trained",
    "(min_fraction, max_fraction, max_shade": "(--set min_fraction=..., max_fraction=..., max_shade=...",
    "a larger max_rmse": "a larger --set max_rmse=...",
    "pass masks, or write it with rioxarray, cubes.rio.write_crs(...)": "give masks, --classes soil=soil.tif",
    "cubes.load(), or a part of it": "leave out --chunks, or take a --window",
    "unmix_by_chains draws": "--no-trained without --chunks draws",
    "result.rmse maps it, and .residual() shows at which wavelengths": "the maps of the RMSE show where",
}
# What would move the cursor, colour or rename a terminal, or turn a text around, and halves of characters, which none
# has. Lines may end.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


# Of the options that notes name now, as errors do.
_prefix: ContextVar[str] = ContextVar("prefix", default="")


class BadInput(Exception):
    """Something that the caller can mend; its text is all that is shown."""


@contextmanager
def bad_input(prefix: str = "") -> Iterator[None]:
    """What these errors say is meant for the user; anywhere else they would be a fault of ours. Notes meanwhile, too.

    Parameters
    ----------
    prefix : str
        Of the options that the arguments named in the texts have here, such as "library-".
    """
    before = _prefix.set(prefix)
    try:
        yield
    except (OSError, TypeError, ValueError, ImportError, NonFiniteLossError) as error:
        raise BadInput(as_options(str(error), prefix)) from error
    finally:
        _prefix.reset(before)


def as_options(text: str, prefix: str = "") -> str:
    """A message of the library in the words of the command line: ``scale=1e-4`` is ``--scale 1e-4``."""

    def option(found: re.Match[str]) -> str:
        name, *values = found.groups(default="")
        value = "".join(values)
        before = "" if name in ("ignore", "masks") else prefix  # of the images
        name = "mask" if name == "masks" else name
        return f"--{before}{name.replace('_', '-')}" + (f" {value}" if value else "")

    for in_python, here in _ADVICE.items():
        text = text.replace(in_python, here)
    return _ARGUMENT.sub(option, re.sub(r" to read_(?:sequence|library)\b", "", text))


def complain(problem: object) -> None:
    """One line on stderr."""
    say(f"pyro-unmix: error: {' '.join(str(problem).split())}", to_stderr=True)


def say(*lines: str, to_stderr: bool = False) -> None:
    """Lines for the user; characters that control terminals, or that this one cannot show, by their numbers."""
    stream = sys.stderr if to_stderr else sys.stdout
    encoding = _encoding(stream)
    for line in lines:
        shown = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)  # as JSON has it
        print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def _encoding(stream: Any) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "warning" if record.levelno >= logging.WARNING else "note"
        text = as_options(record.getMessage(), _prefix.get())
        say(f"pyro-unmix: {level}: {text}", to_stderr=True)


@contextmanager
def notes_to_stderr(lowest: int = logging.INFO) -> Iterator[None]:
    """Show what the package logs: dropped bands, choices made, warnings."""
    logger = logging.getLogger("pyro_unmix")
    handler, level = _Notes(lowest), logger.level
    logger.addHandler(handler)
    logger.setLevel(min(lowest, logger.getEffectiveLevel()))

    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            if str(message) not in said:  # a library is read at its own bands, then at the scene's
                logger.warning("%s", message)
            said.add(str(message))
        else:
            others(message, category, *place, **more)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module="pyro_unmix")
            others, warnings.showwarning = warnings.showwarning, show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _NoteKeeper(logging.Handler):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.INFO)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes.append(as_options(record.getMessage(), _prefix.get()))


@contextmanager
def kept_notes() -> Iterator[list[str]]:
    """What the package logs meanwhile, beside where else it goes."""
    logger, notes = logging.getLogger("pyro_unmix"), list[str]()
    handler = _NoteKeeper(notes)
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


def say_json(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout; what is not finite is null there."""
    plain = not _encoding(sys.stdout).lower().startswith("utf")
    say(json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.datetime64):
        return date_text(value)
    if isinstance(value, np.ndarray):
        return _plain(list(value) if value.ndim else value[()])
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def date_text(date: Any) -> str:
    """Dates without a time of day that is midnight; numbers as they are."""
    if isinstance(date, np.datetime64):
        return str(np.datetime_as_string(date, unit="auto"))
    return f"{date:g}" if isinstance(date, float | np.floating) else str(date)


def facts(rows: Mapping[str, str]) -> list[str]:
    """Indented lines "name  text", the texts below each other."""
    width = max(map(len, rows))
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]


def table(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """Numbers with three decimals, seconds with one."""
    width = max(map(len, rows))
    lines = [f"{'':<{width}}" + "".join(f"{column:>9}" for column in columns)]
    for name, values in rows.items():
        cells = (f"{values[c]:>9.{1 if c == 'seconds' else 3}f}" for c in columns)
        lines.append(f"{name:<{width}}{''.join(cells)}")
    return "\n".join(lines)
