"""The benchmark of honesty: its scores on intervals that are known, and a row of its table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import trust


def test_shares_and_widths_of_intervals() -> None:
    truth = np.array([0.0, 0.2, 0.5, 1.0])
    bounds = np.stack(
        [truth - np.array([0.0, 0.1, -0.1, 0.1]), truth + np.array([0.1, 0.1, 0.2, -0.001])]
    )
    found = trust._honesty(bounds, truth, 0.1, 0.9)
    # the last bound misses by less than the tolerance, the third by more
    assert found["held 90%"] == 0.75
    assert found["width 90%"] == pytest.approx(np.mean([0.1, 0.2, 0.1, 0.099]) / 0.1)


def test_the_table_has_a_row_per_record() -> None:
    rows = [{"scene": "mix", "NRMSE_A": 0.12345}, {"scene": "dlr", "area 3 m": 0.05}]
    lines = trust.table(rows).splitlines()
    assert lines[0] == "| scene | NRMSE_A | area 3 m |"
    assert lines[2] == "| mix | 0.123 |  |" and lines[3] == "| dlr |  | 0.05 |"


@pytest.mark.parametrize("method", ["FCLS", "unmix_by_chains"])
def test_a_row_on_the_data(data_dir: Path, method: str) -> None:
    known = trust.scenes(data_dir, quick=True)
    row = trust.measure(known["mix"](0), method, 0, quick=True)
    assert 0 < row["NRMSE_A"] < 1.5 and row["CPU s"] > 0
    assert ("held 90%" in row) == (method != "FCLS")
