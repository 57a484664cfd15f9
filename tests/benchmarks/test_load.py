"""The benchmark of load at its smallest size, and what it refuses."""

from __future__ import annotations

import _memory
import load
import numpy as np
import pytest

pytest.importorskip("zarr")


def test_small_loads_change_no_result(tmp_path, capsys):
    found = load.main(["--quick", "--only", "saves", "processes", "tiles", "--out", str(tmp_path)])
    assert found["saves"]["largest difference"] == found["saves"]["files beside it"] == 0
    assert found["processes"]["other results"] == 0
    assert found["processes"]["saved"] == found["processes"]["processes"] == 2
    assert found["tiles"]["tiles"] == 9 and found["tiles"]["largest difference"] < 1e-6
    assert not list(tmp_path.iterdir())
    text = capsys.readouterr().out
    assert all(f"| {part} | |" in text for part in found)


def test_sequences_and_repeated_calls_are_measured(tmp_path):
    found = load.main(["--quick", "--only", "calls", "dates", "--out", str(tmp_path)])
    assert found["calls"]["files left open"] == 0
    assert 50 < found["calls"]["MB at the end"] < 5000
    assert found["dates"]["NRMSE_A"] < 0.4  # what equal shares of all materials have is .6


def test_the_slope_is_that_of_every_call_and_not_of_one_step():
    leak = 3e4 * np.arange(200)
    noise = np.random.default_rng(0).normal(0, 1e6, 200)
    step = np.where(np.arange(200) < 190, 0.0, 8e6)
    assert load.slope(leak + step) == pytest.approx(3e4, rel=1e-6)
    assert load.slope(step) == 0
    # Least squares would have a standard error of 1e6 / sqrt(100**3 / 12) = 3500.
    assert load.slope(leak + noise) == pytest.approx(3e4, abs=5 * 3500)
    assert load.slope([1e9] * 100 + [0.0] * 100) == 0  # what the first half does is no growth


@pytest.mark.parametrize(
    ("part", "values", "text"),
    [
        ("calls", {"kB per call": 21.0}, "calls: memory grows by 21 kB with every call"),
        ("saves", {"files left open": 2}, "saves: files left open: 2"),
        ("saves", {"files beside it": 1}, "saves: files beside it: 1"),
        ("saves", {"largest difference": 1e-5}, "saves: largest difference: 1e-05"),
        ("tiles", {"peak MB": 2001.0}, "tiles: a process holds 2001 MB"),
        ("processes", {"other results": 1, "saved": 8, "processes": 8}, "other results: 1"),
        ("processes", {"saved": 7, "processes": 8}, "processes: only 7 were saved"),
    ],
)
def test_what_no_load_may_do_is_said(part, values, text):
    (said,) = load.faults({part: values}, memory=True)
    assert text in said


def test_small_runs_say_nothing_about_memory():
    found = {"calls": {"kB per call": 900.0}, "tiles": {"peak MB": 3000.0}}
    assert load.faults(found, memory=False) == []


def test_the_resident_size_is_that_of_now():
    before = _memory.resident_bytes()
    held = np.ones(25_000_000)
    after = _memory.resident_bytes()
    del held
    assert after - before == pytest.approx(200e6, rel=0.02)
    assert _memory.resident_bytes() - before < 20e6
