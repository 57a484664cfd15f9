"""The benchmark of fractional cover: rows of both its tables."""

from __future__ import annotations

from pathlib import Path

import cover
import pytest

pytest.importorskip("earthlib")


def test_rows_with_and_without_truth(data_dir: Path) -> None:
    names = ["fcls", "nnls", "monte_carlo_sma"]
    rows = list(cover.with_truth(names, *cover.patch(data_dir, quick=True)))
    assert [row["method"] for row in rows] == names
    assert all(0 < row["NRMSE_A"] < 1 and row["CPU s / 1e6"] > 0 for row in rows)
    assert rows[2]["held 90%"] > 0.5 and "held 90%" not in rows[0]
    (row,) = cover.without_truth(["nnls"], *cover.emit(data_dir))
    assert row["SOIL"] + row["PV"] + row["NPV"] == pytest.approx(1)
