"""The benchmarks run at their smallest size, and what they compare with is what it claims to be."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import _data
import _floor
import _idnet_scenes
import _paper_report
import _paper_scenes
import _programs
import _vegetation
import accuracy
import idnet
import numpy as np
import paper_tables
import pytest
import speed
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from scipy.optimize import nnls

from pyro_unmix import SGLMM, BiLSTMGuide, choose_start, simulate, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.posterior.read_out import as_tensors, prepare, quiet_pyro
from pyro_unmix.start import vca


def rows_of(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text: tables, rows, cells."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


# ------------------------------------------------------------------------------- accuracy


@pytest.fixture(scope="module")
def cases(data_dir: Path) -> dict[str, _data.Case]:
    return {name: _data.load(name, data_dir) for name in _data.CASES}


@pytest.mark.parametrize("name", ["ds1", "ds2"])
def test_the_truth_of_a_simulated_scene_explains_it_at_30_db(
    cases: dict[str, _data.Case], name: str
) -> None:
    scene = cases[name].scene
    signal = noise = 0.0
    for time in range(scene.cubes.sizes["time"]):
        clean = scene.reconstruct(time).values
        signal += float((clean**2).sum())
        noise += float(((scene.cubes.isel(time=time).values - clean) ** 2).sum())
    snr = 10 * math.log10(signal / noise)
    # Five standard errors of the noise power, in dB, and the rounding of the cubes to float32.
    error = 5 * 10 / math.log(10) * math.sqrt(2 / scene.cubes.size)
    assert snr == pytest.approx(30, abs=error + 1e-3)


@pytest.mark.parametrize("name", ["jasper-ridge", "samson"])
def test_the_truth_of_an_image_is_what_its_reference_was_computed_by(
    cases: dict[str, _data.Case], name: str
) -> None:
    # Non-negative least squares with endmembers of maximum one, divided by the sum, gives the
    # reference to RMSE .005 and .002; pixels or materials in another order would give over .2.
    scene = cases[name].scene
    reference = scene.reference_endmembers.values
    reference = reference / reference.max(0)
    spectra = scene.cubes.values.reshape(-1, len(reference))[::23]
    fractions = np.stack([nnls(reference, spectrum.astype(float))[0] for spectrum in spectra])
    fractions /= fractions.sum(1, keepdims=True)
    known = scene.abundances.values.reshape(-1, fractions.shape[1])[::23]
    assert np.sqrt(((fractions - known) ** 2).mean()) < 0.006


def test_a_corner_is_a_part_of_the_scene(cases: dict[str, _data.Case]) -> None:
    for case in cases.values():
        whole, part = case.scene, _data.corner(case.scene, 2, 5, 4)
        assert part.cubes.shape[1:3] == (5, 4) and part.cubes.sizes["time"] <= 2
        np.testing.assert_array_equal(part.cubes, whole.cubes[:2, :5, :4])
        np.testing.assert_array_equal(part.abundances, whole.abundances[:2, :5, :4])
        np.testing.assert_array_equal(part.endmembers(-1), whole.endmembers(
            part.cubes.sizes["time"] - 1
        )[:5, :4])  # fmt: skip
        rows = part.variation(0, slice(1, 3))
        np.testing.assert_array_equal(rows, part.endmembers(0)[1:3])


def test_vegetation_lies_where_the_tiles_have_a_red_edge(data_dir: Path) -> None:
    cubes, reference = _vegetation.load(data_dir)
    assert cubes.sizes["y"] == 18 * 32 and len(np.unique(cubes["tile"])) == 18
    row, column = reference[:, :2].astype(int).T
    # The wavelengths are not sorted, so that xarray cannot look for the nearest one.
    bands = [int(np.abs(cubes["wavelength"].values - nm).argmin()) for nm in (670, 780)]
    edge = cubes.values[0, ..., bands[1]] - cubes.values[0, ..., bands[0]]
    here = np.corrcoef(edge[row, column], reference[:, 2])[0, 1]
    assert here > 0.7
    # Rows and columns exchanged, within their tiles, mean nothing.
    tile = row // 32
    exchanged = np.corrcoef(edge[tile * 32 + column, row % 32], reference[:, 2])[0, 1]
    assert exchanged < 0.45
    spectra = xr.DataArray(
        [[0.05, 0.3, 0.002], [0.4, 0.35, 0.09]],
        dims=("wavelength", "endmember"),
        coords={"wavelength": [670.0, 780.0]},
    )  # leaves, soil, and something dark
    np.testing.assert_array_equal(_vegetation.is_vegetation(spectra), [True, False, False])


def test_the_accuracy_benchmark_runs(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.json"
    options = ["--data", str(data_dir), "--quick", "--json", str(path)]
    few = accuracy.main([*options, "--scenes", "ds1", "--rows", "fcls", "unmix", "brightness"])
    records = accuracy.main([*options, "--scenes", "samson"])
    simulated, image = rows_of(capsys.readouterr().out)
    titles = [method.title for method in accuracy.METHODS.values()]
    for table in (simulated, image):
        assert table[0] == ["method", "abundances", *accuracy.COLUMNS]
        assert all(len(row) == len(table[0]) for row in table)
    assert [row[:2] for row in simulated[2:]] == [[titles[0], "linear"], [titles[4], "linear"]]
    assert [row[:2] for row in image[2:]] == [
        [title, convention] for title in titles for convention in ("linear", "unit maximum")
    ]
    assert json.loads(path.read_text()) == records
    for record in [*few, *records]:
        real = record["scene"] == "Samson"
        assert (record["NRMSE_M"] is None) == real
        scores = [record[name] for name in accuracy.SCORES if not (real and name == "NRMSE_M")]
        assert all(0 < score < 2 for score in scores)
        assert (record["ELBO"] is None) == (record["method"] == titles[0])
        assert record["wall s"] > 0
    trained = {record["method"]: record["steps"] for record in records}
    assert trained[titles[2]] == 0 and trained[titles[4]] > 0


def test_the_accuracy_benchmark_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYRO_UNMIX_DATA", raising=False)
    with pytest.raises(SystemExit, match="pass --data DIR or set PYRO_UNMIX_DATA"):
        accuracy.main([])
    with pytest.raises(SystemExit, match="no-such-folder is not there"):
        accuracy.main(["--data", "no-such-folder"])


def test_the_elbo_is_pyros() -> None:
    scene = simulate.scaled_scene(num_dates=2, height=6, width=7, cloud_fraction=0.2, seed=1)
    result = unmix(scene.cubes, 3, num_steps=0, progress=False)
    pixels, valid = as_tensors(result.cubes, result.model)
    with quiet_pyro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(accuracy._ELBO_SEED)
        inputs = {"features": prepare(result.guide, pixels, valid)}
        elbo = Trace_ELBO(num_particles=accuracy._ELBO_DRAWS)
        loss = elbo.loss(result.model, result.guide, pixels, valid, **inputs)
    expected = -loss / (int(valid.sum()) * pixels.shape[-1])
    # Sums of some 1e4 float32 terms, in another order.
    assert accuracy.full_elbo(result) == pytest.approx(expected, rel=1e-5)


def test_the_unit_maximum_view_differs_in_abundances_only() -> None:
    scene = simulate.scaled_scene(num_dates=1, height=6, width=7, seed=1)
    result = unmix(scene.cubes, 3, num_steps=0, progress=False)
    view = accuracy._UnitMaximum(result)
    xr.testing.assert_equal(view.abundances, result.unit_maximum())
    xr.testing.assert_equal(view.endmembers(0), result.endmembers(0))
    xr.testing.assert_equal(view.reconstruct(0), result.reconstruct(0))


def test_several_seeds_give_median_and_range() -> None:
    records = [
        {"method": "m", "abundances": "linear", "A": value, "CPU s": 10 * value, "ELBO": None}
        for value in (0.3, 0.1, 0.2)
    ]
    assert rows_of(accuracy.table(records, ["A", "CPU s", "ELBO"]))[0][2] == [
        "m", "linear", "0.2000 (0.1000 to 0.3000)", "2.0 (1.0 to 3.0)", "-",
    ]  # fmt: skip


# ------------------------------------------------------------------------------- paper's tables

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


def test_the_published_page_and_the_readme_hold_the_same_tables() -> None:
    root = Path(__file__).parents[2]
    page = (root / "benchmarks" / "paper_tables.md").read_text()
    assert _paper_report.FINDINGS.read_text().strip() in page
    assert _paper_report.NOTES.strip() in page
    short = page[page.index("## In short") : page.index("## Table II")]
    table = short[short.index("| method") :].strip()
    assert table in (root / "README.md").read_text()
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


# ------------------------------------------------------------------------------- speed


def small_pair(dtype: torch.dtype = torch.float64) -> tuple[SGLMM, BiLSTMGuide]:
    """The paper's pair, every parameter moved off its start."""
    spectra = simulate.library(np.linspace(400, 2500, 14)).values[:, :3]
    model = SGLMM(spectra, basis=DCT(2), seed=1).to(dtype)
    guide = BiLSTMGuide(model, seed=2).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model, guide


def pixels_with_gaps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(4)
    pixels = torch.from_numpy(rng.uniform(0.1, 0.6, size=(30, 4, 14))).to(dtype)
    valid = torch.from_numpy(rng.uniform(size=(30, 4)) > 0.2)
    valid[:, 0] = True
    return pixels, valid


@pytest.mark.parametrize("stacked", [False, True])
def test_the_hand_written_elbo_is_pyros_with_its_gradients(stacked: bool) -> None:
    model, guide = small_pair()
    pixels, valid = pixels_with_gaps()
    program = _programs.HandWritten(model, guide, stacked=stacked)
    index = torch.arange(20)
    step = speed.PyroStep(model, guide, pixels, valid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        with step.around():
            theirs = step.svi.loss_and_grads(
                step.svi.model, step.svi.guide, pixels[index], valid[index], index=index, size=30
            )
        torch.manual_seed(5)
        noise = speed.pyro_noise(program, 20, 4)
    ours = program.loss(pixels[index], valid[index], noise, scale=step.scale * 30 / 20)
    ours.backward()
    assert ours.item() == pytest.approx(theirs, rel=1e-10)
    gradients = {name: leaf.grad for name, leaf in program.parameters().items()}
    known = dict([*model.named_parameters(), *guide.named_parameters()])
    assert set(gradients) == set(known)
    for name, parameter in known.items():
        largest = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-9 * largest)


def test_a_bilinear_scene_has_its_products_and_its_noise() -> None:
    scene = _idnet_scenes.bilinear_scene(1, size=30)
    a, m = scene.abundances.values[0], scene.reference_endmembers.values
    residual = scene.cubes.values[0] - a @ m.T
    pairs = [(0, 1), (0, 2), (1, 2)]
    products = np.stack([m[:, p] * m[:, q] for p, q in pairs], axis=1)
    shares = np.stack([a[..., p] * a[..., q] for p, q in pairs], axis=-1)
    strength = (residual @ np.linalg.pinv(products).T) / np.maximum(shares, 1e-9)
    precise = shares.min(-1) > 0.05  # where all three are mixed
    assert precise.sum() > 10
    # uniform in [0, 1], seen with the error of the regression
    error = scene.noise_scale * np.linalg.norm(np.linalg.pinv(products), axis=1) / shares[precise]
    assert (np.abs(strength[precise] - 0.5) < 0.5 + 5 * error).all()
    pure = a.max(-1) > 0.999
    power = (residual[pure] ** 2).mean() / scene.noise_scale**2
    assert power == pytest.approx(1, abs=0.05)
    again = _idnet_scenes.bilinear_scene(1, size=30)
    np.testing.assert_array_equal(again.cubes, scene.cubes)


def test_the_idnet_benchmark_runs(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(data_dir), "--quick", "--seeds", "0", "--out", str(tmp_path)]
    few = idnet.main(
        [*options, "--scenes", "own-bilinear", "samson", "--rows", "fcls", "published"]
    )
    image = rows_of((tmp_path / "idnet.md").read_text())[1]
    records = idnet.main([*options, "--scenes", "own-bilinear"])
    simulated = rows_of((tmp_path / "idnet.md").read_text())[0]
    assert [r for r in records if r in few] == few  # not computed again
    titles = [method.title for method in idnet.methods("bilinear").values()]
    for table in (simulated, image):
        assert table[0] == ["method", "abundances", *idnet.COLUMNS]
    assert [row[:2] for row in simulated[2:]] == [[title, "linear"] for title in titles]
    assert [row[:2] for row in image[2:]] == [
        [title, convention]
        for title in (titles[0], titles[3])
        for convention in ("linear", "unit maximum")
    ]
    assert json.loads((tmp_path / "records.json").read_text()) == records
    assert all(math.isfinite(record[name]) for record in records for name in idnet.COLUMNS)


def test_another_elbo_is_found_out() -> None:
    model, guide = small_pair(torch.float32)
    pixels, valid = pixels_with_gaps(torch.float32)
    paper = speed.PyroStep(model, guide, pixels, valid)
    hand = speed.HandWrittenStep(_programs.HandWritten(model, guide, stacked=True), pixels, valid)
    with torch.random.fork_rng(devices=[]):
        assert speed.loss_difference(paper, hand) <= speed.LOSS_TOLERANCE
        hand.program.step_scale *= 1.01
        with pytest.raises(RuntimeError, match="not the same ELBO"):
            speed.loss_difference(paper, hand)


def test_the_naive_form_is_the_same_elbo() -> None:
    model, guide = small_pair()
    naive = _programs.NaiveModel(model.reference.value.detach().numpy(), basis=DCT(2)).double()
    naive.load_state_dict(model.state_dict())
    naive_guide = _programs.NaiveGuide(naive).double()
    naive_guide.load_state_dict(guide.state_dict())
    pixels, _ = pixels_with_gaps()
    valid = torch.ones(pixels.shape[:2], dtype=torch.bool)
    losses = []
    for pair in ((model, guide), (naive, naive_guide)):
        with quiet_pyro(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            losses.append(Trace_ELBO().loss(*pair, pixels, valid))
    # The package's regression has a ridge of 1e-6 of the mean eigenvalue; these Gram matrices are
    # conditioned below 1e3, so that it moves the regression by less than 1e-3.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_speed_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.json"
    found: list[dict[str, Any]] = speed.main(["--quick", "--json", str(path)])
    tables = rows_of(capsys.readouterr().out)
    assert len(tables) == 2 * len(speed.SHAPES)
    per_rank = [speed.FLOOR, speed.BY_DATE, speed.STACKED, speed.PAPER, speed.NAIVE]
    for times, goals, shape in zip(tables[::2], tables[1::2], speed.SHAPES.values(), strict=True):
        expected = [[name, str(rank)] for rank in shape.ranks for name in per_rank]
        expected += [
            [name, str(shape.default_rank)] for name in (speed.DEFAULT_BY_HAND, speed.DEFAULT)
        ]
        assert [row[:2] for row in times[2:]] == expected
        assert all(len(row) == len(times[0]) for row in times)
        assert len(goals) == 2 + 3 + 2 * len(shape.ranks)
        assert {row[3] for row in goals[2:]} <= {"met", "missed"}
    assert len(json.loads(path.read_text())) == len(found) == len(speed.SHAPES)
    for shape in found:
        assert shape["loss difference"] <= speed.LOSS_TOLERANCE
        for row in shape["rows"]:
            assert row["ms"] > 0
            floor = next(r for r in shape["rows"] if r["variant"] == speed.FLOOR)
            if row["K"] == floor["K"]:
                assert row["floors"] == pytest.approx(row["ms"] / floor["ms"])


def test_the_floor_is_timed_in_a_process_of_its_own() -> None:
    assert _floor.alone(2, 8, 2, 1, num_steps=2) > 0
