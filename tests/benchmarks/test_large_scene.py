"""The benchmark of a scene on disk at its smallest size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import _memory
import large_scene
import pytest

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


def test_the_peak_is_that_of_a_process_and_not_of_what_started_it():
    """200 MB that a small process held for a moment, started by one that holds far more."""
    program = (
        "import _memory; before = _memory.peak_bytes(); held = bytearray(200_000_000); del held; "
        "print(before, _memory.peak_bytes())"
    )
    folder = Path(_memory.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, stdout=subprocess.PIPE
    )
    before, after = map(int, done.stdout.split())
    assert before < 50e6 < _memory.peak_bytes()
    assert after - before == pytest.approx(200e6, rel=0.02)
