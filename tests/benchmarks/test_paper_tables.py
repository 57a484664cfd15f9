"""The tables of the paper run and resume, with all methods from the same start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import _paper_report
import _paper_scenes
import accuracy
import numpy as np
import paper_tables
import pytest
import xarray as xr
from benchmark_cases import rows_of

from pyro_unmix import choose_start, simulate
from pyro_unmix.start import vca

LIKE = ["ds1-like", "ds2-like"]


@pytest.fixture
def measured_spectra() -> None:
    pytest.importorskip("earthlib", reason='needs pip install "pyro-unmix[library]"')


@pytest.mark.usefixtures("measured_spectra")
def test_the_paper_tables_run_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--quick", "--scenes", *LIKE, "--seeds", "0", "1", "--out", str(tmp_path)]
    options += ["--figure", "ds1-like"]
    rows = paper_tables.METHODS
    computed = paper_tables.main(options)
    # Of the four cells of the heat map one stands in the table already.
    assert len(computed) == len(LIKE) * 2 * len(rows) + 3
    for name in ("scores.png", "sensitivity.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "paper_tables.md").read_text()
    assert "Seeds 0, 1;" in text and "A quick run" in text
    short, *tables = rows_of(text)
    assert short[0] == ["method", *LIKE]
    for column, (scene, table) in enumerate(zip(LIKE, tables, strict=True), start=1):
        assert [row[0] for row in table[2:]] == [method.title for method in rows.values()]
        for method, row in zip(rows, table[2:], strict=True):
            tasks = paper_tables.table_tasks({scene: [0, 1]}, [method], True)
            files = [tmp_path / "cache" / task.file for task in tasks]
            errors = [json.loads(file.read_text())["NRMSE_A"] for file in files]
            assert all(0 < error < 2 for error in errors)
            shown = float(row[1].split()[0].strip("*"))
            assert shown == pytest.approx(sum(errors) / 2, abs=5.1e-4)  # three digits
            (cells,) = (line[column].split(" / ") for line in short if line[0] == row[0])
            assert float(cells[0].strip("*")) == shown and len(cells) == 3
            assert ("**" in cells[0]) == ("**" in row[1])

    lost = computed[3]
    (tmp_path / "cache" / lost.file).unlink()
    assert paper_tables.main(options) == [lost]
    monkeypatch.setattr(paper_tables, "compute", lambda *_: pytest.fail("computed again"))
    assert paper_tables.main(options) == []


def test_other_settings_are_another_file_of_the_cache() -> None:
    task = paper_tables.Task("ds1", "redsunn", 0, False, {"num_basis": 10, "variance": 1e-5})
    others = [
        {"scene": "ds2"}, {"method": "ou"}, {"seed": 1}, {"quick": True},
        {"settings": {"num_basis": 10, "variance": 1e-3}},
    ]  # fmt: skip
    files = {dataclasses.replace(task, **other).file for other in others}
    same = dataclasses.replace(task, settings={"variance": 1e-5, "num_basis": 10})
    assert len(files) == len(others) and task.file not in files and same.file == task.file


class Spy:
    """Takes the place of every method; keeps the images and endmembers that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, Any, dict[str, Any]]] = []
        for name in ("fcls", "online_unmixing", "kalman_em", "hbun"):
            monkeypatch.setattr(f"pyro_unmix.methods.{name}", self)
        for name in ("redsunn", "redsunn_published", "unmix"):
            monkeypatch.setattr(f"pyro_unmix.{name}", self)
        monkeypatch.setattr(paper_tables, "METHODS", self.rebuilt())

    def rebuilt(self) -> dict[str, paper_tables.Method]:
        """The rows with this in the place of the functions that they hold."""
        started = paper_tables._baseline(self)
        return {
            name: dataclasses.replace(method, run=started)
            if method.run.__qualname__.startswith("_baseline")
            else method
            for name, method in paper_tables.METHODS.items()
        }

    def __call__(self, cubes: Any, *others: Any, endmembers: Any = None, **rest: Any) -> None:
        given = others[0] if endmembers is None else endmembers
        self.calls.append((cubes, given, rest))


@pytest.mark.usefixtures("measured_spectra")
def test_all_methods_start_from_the_same_endmembers(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    monkeypatch.setattr(paper_tables.metrics, "score", lambda *_: {})
    tasks = paper_tables.table_tasks({"ds1-like": [3, 4]}, list(paper_tables.METHODS), True)
    for task in tasks:
        paper_tables.compute(task, None)
    for task, (cubes, given, rest) in zip(tasks, spy.calls, strict=True):
        expected = _paper_scenes.ds1_like(task.seed, quick=True).cubes
        xr.testing.assert_identical(cubes, expected)  # the scene of the seed
        assert rest["seed"] == task.seed
        if task.method in ("fcls", "unmix"):
            assert given == 3
        elif task.method.endswith("-start"):
            start = choose_start(expected, 3, seed=task.seed).endmembers
            np.testing.assert_array_equal(given, start)
        else:
            start = vca(expected.values.reshape(-1, 20), 3, seed=task.seed)
            np.testing.assert_array_equal(given, start)
        assert ("first_endmembers" in rest) == (task.method == "kalman-start")
        if task.method == "kalman-start":
            np.testing.assert_array_equal(rest["first_endmembers"], start)


def test_the_papers_sigma_psi_is_the_root_of_its_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    cubes = simulate.scaled_scene(num_dates=2, height=6, width=7, seed=1).cubes
    for name in ("redsunn", "published"):
        settings = {"variance": 0.25, "num_basis": 2}
        paper_tables.METHODS[name].run(cubes, np.ones((9, 3)), 0, settings)
    assert [(rest["sigma_psi"], rest["num_basis"]) for _, _, rest in spy.calls] == [(0.5, 2)] * 2


def test_the_published_pages_hold_the_same_tables() -> None:
    root = Path(__file__).parents[2]
    page = (root / "benchmarks" / "paper_tables.md").read_text()
    assert _paper_report.FINDINGS.read_text().strip() in page
    assert _paper_report.NOTES.strip() in page
    short = page[page.index("## In short") : page.index("## Table II")]
    table = short[short.index("| method") :].strip()
    assert table in (root / "docs" / "explanation" / "results.md").read_text()
    titles = [row[0] for row in rows_of(table)[0][2:]]
    assert titles == [method.title for method in paper_tables.METHODS.values()]


@pytest.mark.usefixtures("measured_spectra")
@pytest.mark.parametrize("make", [_paper_scenes.ds1_like, _paper_scenes.ds2_like])
def test_the_scenes_of_the_tables_have_materials_apart(make: Any) -> None:
    means = []
    for seed in (0, 1, 0):
        spectra = make(seed, quick=True).reference_endmembers.values
        units = spectra / np.linalg.norm(spectra, axis=0)
        cosines = (units.T @ units)[~np.eye(units.shape[1], dtype=bool)]
        assert np.arccos(cosines.max()) >= _paper_scenes.LEAST_ANGLE
        means.append(spectra)
    np.testing.assert_array_equal(means[0], means[2])
    assert not np.array_equal(means[0], means[1])


def test_table_iii_needs_no_truth(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_UNMIX_DATA", str(data_dir))
    options = ["--quick", "--scenes", "sentinel-2", "--figure"]
    rows = ["fcls", "kalman", "kalman-start"]
    paper_tables.main([*options, "--rows", *rows, "--out", str(tmp_path)])
    (table,) = rows_of((tmp_path / "paper_tables.md").read_text())
    assert table[0] == ["method", "NRMSE_Y", "CPU s"]
    assert [row[0] for row in table[2:]] == ["FCLS", "Kalman"]
    assert all(0 < float(row[1]) < 0.1 for row in table[2:])


def test_quartiles_and_the_best_of_a_column() -> None:
    records = [
        {
            "method": name,
            "seed": seed,
            "CPU s": 1.0,
            **dict.fromkeys(accuracy.SCORES, shift + value),
        }
        for name, shift in (("a", 0.1), ("b", 0.0))
        for seed, value in enumerate((0.9, 0.1, 0.2, 0.4, 0.3))  # mean 0.38
    ]
    first, second = rows_of(_paper_report.table_ii(records, {"a": "A", "b": "B"}))[0][2:]
    assert first[:2] == ["A", "0.400 (0.300 to 0.500)"]
    assert second[:2] == ["B", "**0.300** (0.200 to 0.400)"]
    assert second[-1] == "1.0 (1.0 to 1.0)"
