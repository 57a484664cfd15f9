"""The growth benchmark and the one entry point, at their smallest size."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path
from typing import Any

import growth
import numpy as np
import pytest
import run
import speed


def test_a_slope_is_the_exponent_of_the_upper_half() -> None:
    values = [10, 100, 1000, 10_000]
    assert growth.slope(values, [7 * v**1.5 for v in values]) == pytest.approx(1.5)
    assert growth.slope(values, [5.0] * 4) == pytest.approx(0, abs=1e-12)
    # What every call costs hides the growth of small ones.
    assert growth.slope(values, [1000 + v for v in values]) == pytest.approx(
        math.log10(11_000 / 2000)
    )


@pytest.mark.parametrize("shape", [growth.Shape(60, 3, 15, 4), growth.Shape(700, 2, 10, 2)])
def test_the_cubes_have_the_shape(shape: growth.Shape) -> None:
    model, _ = growth.make_pair(shape)
    cubes = growth.make_cubes(shape, model)
    assert cubes.sizes == {"time": shape.T, "y": 1, "x": shape.N, "wavelength": shape.L}
    assert model.num_endmembers == shape.P
    pixels = cubes.values[:, 0].transpose(1, 0, 2)
    np.testing.assert_array_equal(pixels[500:], pixels[: max(0, shape.N - 500)])
    assert not np.array_equal(pixels[0], pixels[1])


def test_the_growth_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "growth.json", tmp_path / "growth.png"
    options = ["--quick", "--axes", "N", "L", "--json", str(files[0]), "--plot", str(files[1])]
    found = growth.main([*options, "--no-memory"])
    assert json.loads(files[0].read_text()) == found
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert [(r["axis"], r["value"]) for r in found["records"]] == [
        ("N", 128), ("N", 256), ("L", 10), ("L", 20),
    ]  # fmt: skip
    assert all(
        record[quantity] > 0 for record in found["records"] for quantity in growth.QUANTITIES
    )
    assert set(found["slopes"]) == {"N", "L"}
    assert "| N |" in capsys.readouterr().out


def test_large_scenes_are_timed_by_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MOST_PIXELS", 150)
    found = growth.measure(growth.Shape(N=400, T=2, L=10), 1)
    assert set(found) == {"step"} and found["step"] > 0


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    found = growth.peak_memory(600, tmp_path)
    assert found["N"] == 600
    assert found["images MB"] == pytest.approx(600 * 4 * 64 * 4 / 1e6, rel=0.01)
    assert found["loaded: peak MB"] >= 0 and found["chunks: peak MB"] >= 0


# ------------------------------------------------------------------------------- all of them


def scene(paper: float, default: float, hand: float) -> dict[str, Any]:
    rows = [(speed.FLOOR, 10, 1.0), (speed.STACKED, 10, hand), (speed.PAPER, 10, paper)]
    rows.append((speed.DEFAULT, 6, default))
    return {"scene": "ds1", "rows": [{"variant": v, "K": k, "ms": ms} for v, k, ms in rows]}


def results(slow: float = 1.0, machine: float = 1.0) -> dict[str, Any]:
    """Of a run on a machine whose steps take `machine` times as long, with a default `slow` times as slow."""
    record = {"axis": "N", "value": 10, "step": 5.0 * machine, "prepare": 0.02 * machine}
    speeds = [scene(30 * machine, 40 * slow * machine, 10 * machine)]
    return {"speed": speeds, "growth": {"records": [record]}}


def test_times_count_in_hand_written_steps() -> None:
    expected = {
        "ds1: paper's preset, K = 10": 3.0,
        "ds1: default, K = 6": 4.0,
        "step, N = 10": 0.5,
        "prepare, N = 10": 2.0,
    }
    assert run.ratios(results()) == pytest.approx(expected)
    assert run.ratios(results(machine=7.0)) == pytest.approx(expected)
    assert run.ratios({"growth": results()["growth"]}) == {}


@pytest.mark.parametrize(("slow", "code"), [(1.0, 0), (1.29, 0), (1.31, 1), (0.5, 0)])
def test_what_became_slower_fails(
    slow: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    measured = [results(), results(slow, machine=3.0)]
    names = iter([tmp_path / "old.json", tmp_path / "new.json"])
    monkeypatch.setattr(run, "BENCHMARKS", {
        "speed": (lambda *_: measured[0]["speed"], False),
        "growth": (lambda *_: measured.pop(0)["growth"], False),
        "other": (lambda *_: pytest.fail("needs data"), True),
    })  # fmt: skip
    monkeypatch.delenv("PYRO_UNMIX_DATA", raising=False)
    old, new = next(names), next(names)
    assert run.main(["--json", str(old)]) == 0
    assert run.main(["--json", str(new), "--compare", str(old)]) == code
    text = capsys.readouterr().out
    assert "Skipped without --data: other" in text
    assert f"| ds1: default, K = 6 | {4 * slow:.2f} | {slow:.2f} |" in text
    assert json.loads(new.read_text())["skipped"] == ["other"]
    assert ("slower |" in text) == bool(code)


def test_runs_that_do_not_compare(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    for text in ("no json", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(
            SystemExit, match="old.json is not what benchmarks/run.py --json writes"
        ):
            run.read(path, "full")
    path.write_text(json.dumps({"size": "quick", "ratios": {}}))
    with pytest.raises(
        SystemExit, match="is of the size quick, this run of full: pass --size quic"
    ):
        run.read(path, "full")


class Parsed(Exception):
    pass


def parsed(main: Any, arguments: list[str]) -> argparse.Namespace:
    """What a program makes of its arguments, without running it."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any) -> None:
        raise Parsed(parse(self, *given))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        main(arguments)
    return caught.value.args[0]


def test_the_entry_point_calls_the_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With arguments that they take; each runs at its smallest size in a test of its own."""
    called: dict[str, list[str]] = {}

    def stand_in(name: str) -> None:
        module = importlib.import_module(name)
        whole = module.main

        def main(arguments: list[str]) -> dict[Any, Any]:
            called[name] = arguments
            options = parsed(whole, arguments)
            assert options.quick
            if name == "accuracy":
                options.json.write_text('[{"NRMSE_A": 0.1}]')
            return {}

        monkeypatch.setattr(module, "main", main)

    for name in run.BENCHMARKS:
        stand_in(name)
    monkeypatch.setattr(growth, "main", lambda arguments: {"records": [], "given": arguments})
    path = tmp_path / "all.json"
    assert run.main(["--size", "quick", "--data", str(tmp_path), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["results"]) == set(run.BENCHMARKS) and found["skipped"] == []
    assert found["results"]["accuracy"] == [{"NRMSE_A": 0.1}]
    assert found["results"]["growth"]["given"] == ["--quick"]
    assert set(called) == set(run.BENCHMARKS) - {"growth"}
