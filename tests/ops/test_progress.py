"""Bars on terminals, lines in files, and nothing of what is quick."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from tqdm.std import tqdm

from pyro_unmix.ops import progress as module
from pyro_unmix.ops.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds of all bars, which pass when a test says so."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("tqdm.std.time", lambda: now.seconds)
    return now


def told(
    monkeypatch: pytest.MonkeyPatch,
    clock: SimpleNamespace,
    stream: io.StringIO,
    seconds: float,
    shown: bool = True,
) -> str:
    """What is written to a stream while 40 steps take so many seconds each."""
    monkeypatch.setattr("sys.stderr", stream)
    for _ in progress_bar(range(40), shown=shown, desc="fit", unit="step"):
        clock.seconds += seconds
    return stream.getvalue()


def test_a_file_has_lines_ten_seconds_apart(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    text = told(monkeypatch, clock, io.StringIO(), 1.0)
    assert "\r" not in text and text.endswith("\n")
    lines = text.splitlines()
    done = [int(re.match(r"fit: (\d+) of 40 steps after 00:(\d\d), ", line)[1]) for line in lines]  # type: ignore[index]
    assert done == [10, 20, 30, 40]


@pytest.mark.parametrize("seconds", [2.5, 5.0, 9.9])
def test_a_file_has_one_line_of_what_takes_less_than_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, seconds: float
) -> None:
    text = told(monkeypatch, clock, io.StringIO(), seconds / 40)
    assert text == f"fit: 40 of 40 steps after 00:0{int(seconds)}, 00:00 left\n"


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    text = told(monkeypatch, clock, Terminal(), 1.0)
    assert text.count("\r") > 10 and "40/40" in text


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_what_is_quick_or_not_to_be_shown_says_nothing(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, stream: type[io.StringIO]
) -> None:
    assert told(monkeypatch, clock, stream(), 0.04) == ""
    assert told(monkeypatch, clock, stream(), 1.0, shown=False) == ""


def test_plurals_and_what_is_written_beside(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(shown=True, desc="mesma", unit="spectrum", total=100, initial=20) as bar:
        bar.set_postfix_str("ELBO 1", refresh=False)
        clock.seconds += 30
        bar.update(40)
    assert stream.getvalue() == "mesma: 60 of 100 spectra after 00:30, 00:30 left, ELBO 1\n"


def test_a_notebook_has_its_own_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfNotebooks(tqdm):
        pass

    monkeypatch.setattr(module, "of_the_place", OfNotebooks)
    monkeypatch.setattr(module, "automatic", OfNotebooks)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar(shown=True, desc="a", unit="b") as bar:
        assert type(bar) is OfNotebooks
