"""The benchmark of the published program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redsunn as benchmark
import torch

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def test_the_benchmark_runs_and_resumes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ["--data", str(data_dir), "--quick", "--seeds", "0", "--cache", str(tmp_path / "c")]
    others = benchmark.main([*options, "--scenes", "ds2", "--rows", "published", "degenerate"])
    records = benchmark.main([*options, "--scenes", "ds1", "--each", "published"])
    printed = capsys.readouterr().out
    assert printed.count("| **the published program** |") == 2
    assert "published, one draw, by seed: " in printed
    known = [row for row in benchmark.ROWS if row != "degenerate"]  # ds1 has no such start
    assert [record["row"] for record in records] == known
    for record in [*records, *others]:
        assert all(0 <= record[name] < 9 for name in benchmark.COLUMNS), record["row"]

    def fail(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(benchmark, "measure", fail)
    assert benchmark.main([*options, "--scenes", "ds1"]) == records
    with pytest.raises(AssertionError, match="measured again"):
        benchmark.main([*options[:4], "1", *options[5:], "--scenes", "ds1"])


def test_the_printed_detector_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    v, a = rng.normal(0.3, 0.4, (6, 4)), rng.dirichlet(np.ones(4), 6)
    clipped = np.maximum(v, 0)
    s = clipped / clipped.sum(1, keepdims=True)
    expected = np.abs(s - a).sum(1) / (2 * 4)
    got = benchmark._printed_detector(torch.from_numpy(v), torch.from_numpy(a))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_every_row_of_the_benchmark_is_one_change() -> None:
    for row, (_, setting) in benchmark.ROWS.items():
        base = benchmark.PAPER if setting.paper else benchmark.PUBLISHED
        changed = [name for name, value in vars(base).items() if vars(setting)[name] is not value]
        together = {"basis": 2, "dct": 2, "frozen-truth": 2, "published": 0, "paper": 0}
        assert len(changed) == together.get(row, 1), (row, changed)


def test_the_table_has_medians_and_ranges() -> None:
    record = {name: 0.5 for name in benchmark.COLUMNS}
    records = [{**record, "row": "frozen", "mean": mean} for mean in (0.3, 0.1, 0.2)]
    last = benchmark.table(records).splitlines()[-1]
    assert last.startswith("| M0 not trained | 3 | 0.500 (0.500 to 0.500) | 0.200 (0.100 to 0.300)")
