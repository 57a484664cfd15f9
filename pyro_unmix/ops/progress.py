"""Bars of what takes time: moving on a terminal and in a notebook, lines in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm as automatic
from tqdm.autonotebook import tqdm as of_the_place
from tqdm.std import tqdm

#: What is done within so many seconds says nothing.
_DELAY = 2.0
#: Seconds between two lines of a file.
_BETWEEN_LINES = 10.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit} after {elapsed}, {remaining} left{postfix}"


class _Lines(tqdm):  # type: ignore[misc]
    """A bar as lines, of which none is written over: for log files, which have no carriage returns."""

    disable: bool

    @staticmethod
    def status_printer(file: Any) -> Any:
        def write(text: str) -> None:
            file.write(f"{text}\n")
            file.flush()

        return write

    def moveto(self, n: int) -> None:
        """Nowhere: every line is a new one."""

    def close(self) -> None:
        if self.disable:
            return
        with self.get_lock():
            if self._time() - self.start_t >= self.delay and self.n > self.last_print_n:
                self.display()
            self.disable = True
            self._decr_instances(self)


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    shown: bool,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
) -> tqdm:
    """A bar of tqdm that appears where a step takes more than two seconds.

    Parameters
    ----------
    iterable
        What is gone through; without one, `update` of the bar says how far it is.
    shown : bool
        Whether it is shown at all.
    desc, unit : str
        What is done, and one of what is counted.
    total, initial : int
        How many there are, and how many are done.

    Returns
    -------
    tqdm.tqdm
        On standard error: where that is a terminal or a notebook, a bar; where it is a file or a pipe, one line in ten
        seconds.
    """
    how: dict[str, Any] = {
        "disable": not shown, "desc": desc, "unit": unit, "total": total, "initial": initial, "delay": _DELAY,
    }  # fmt: skip
    in_notebook = of_the_place is not tqdm
    if in_notebook or sys.stderr.isatty():
        return automatic(iterable, **how)
    how["unit"] = "spectra" if unit == "spectrum" else f"{unit}s"
    return _Lines(iterable, **how, mininterval=_BETWEEN_LINES, bar_format=_LINE)
