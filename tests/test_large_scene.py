"""The benchmark of a scene on disk at its smallest size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import large_scene

pytest.importorskip("zarr")


def test_a_scene_on_disk_is_predicted_in_two_calls(tmp_path, capsys):
    found = large_scene.main(["--quick", "--out", str(tmp_path)])
    assert 0 < found["done before the interrupt"] < found["tiles"] == 16
    assert found["largest difference from memory"] <= 1e-6
    assert 0.1 < found["peak RSS, GB"] < 3
    assert "peak RSS" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_too_much_memory_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        large_scene, "run", lambda *a: {"peak RSS, GB": 4.0, "largest difference from memory": 0.0}
    )
    with pytest.raises(SystemExit, match="too much memory"):
        large_scene.main(["--quick", "--out", str(tmp_path)])
