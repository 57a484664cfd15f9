"""The benchmark of accuracy runs at its smallest size, on scenes whose truth is what it claims to be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import _data
import _vegetation
import accuracy
import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from benchmark_cases import rows_of
from pyro.infer import Trace_ELBO
from scipy.optimize import nnls

from pyro_unmix import simulate, unmix
from pyro_unmix.posterior.programs import as_tensors


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


@pytest.mark.usefixtures("own_store")
def test_the_elbo_is_pyros() -> None:
    scene = simulate.scaled_scene(num_dates=2, height=6, width=7, cloud_fraction=0.2, seed=1)
    result = unmix(scene.cubes, 3, num_steps=0, progress=False)
    pixels, valid = as_tensors(result.cubes, result.model)
    with pyro.validation_enabled(False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(accuracy._ELBO_SEED)
        inputs = {"features": result.guide.prepare(pixels, valid)}
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
