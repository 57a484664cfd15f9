"""Scores of a result against a truth in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import run, scene

import pyro_unmix as pu
from pyro_unmix import cli


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Path, Path, pu.simulate.Scene, np.ndarray]:
    """Files of a result and a truth, the scene, and the result's abundances in its order."""
    truth = scene(snr_db=np.inf)
    path = tmp_path / "truth.nc"
    sizes = ("--num-dates", 2, "--height", 7, "--width", 8, "--snr", "inf")
    assert run("simulate", "scaled", "--out", path, *sizes) == 0
    noise = np.random.default_rng(0).uniform(0, 0.2, truth.abundances.shape)
    estimate = truth.abundances.values + noise
    turned = [2, 0, 1]  # the order of its materials says nothing
    dataset = xr.Dataset(
        {
            "abundances": (("time", "y", "x", "endmember"), estimate[..., turned]),
            "reference_endmembers": truth.reference_endmembers[:, turned].drop_vars("endmember"),
            "valid": (("time", "y", "x"), np.ones(estimate.shape[:3], dtype=bool)),
        },
        {"endmember": ["a", "b", "c"]},
    )
    written = pu.Unmixing(dataset, method="by hand").to_netcdf(tmp_path / "result.nc")
    return written, path, truth, estimate


def scores_of(*arguments: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert run("score", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def relative(estimates: list[np.ndarray], truths: list[np.ndarray]) -> float:
    ratios = [((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(estimates, truths, strict=True)]
    return float(np.sqrt(np.mean(ratios)))


def test_score_matches_materials_and_dates(
    compared: tuple[Path, Path, pu.simulate.Scene, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, path, truth, estimate = compared
    answer = scores_of(written, path, capsys=capsys)
    names = [str(name) for name in truth.abundances["endmember"].values]
    assert answer["matched"] == dict(zip(names, ["b", "c", "a"], strict=True))
    scores, abundances = answer["scores"], truth.abundances.values
    assert scores["NRMSE_A"] == pytest.approx(relative(list(estimate), list(abundances)))
    assert scores["RMSE_A"] == pytest.approx(np.sqrt(np.mean((estimate - abundances) ** 2)))
    reference = truth.reference_endmembers.values
    spectra = np.stack([truth.endmembers(t).values for t in range(2)])
    errors = ((spectra - reference) ** 2).sum((3, 4)) / (spectra**2).sum((3, 4))
    assert scores["NRMSE_M"] == pytest.approx(np.sqrt(errors.mean()), rel=1e-5)
    product = (spectra * reference).sum(3)
    product /= np.linalg.norm(spectra, axis=3) * np.linalg.norm(reference, axis=0)
    angles = np.arccos(product.clip(-1, 1))
    assert scores["SAM_M"] == pytest.approx(angles.mean(), rel=1e-4)
    images = list(truth.cubes.values.astype(float))
    assert scores["NRMSE_Y"] == pytest.approx(relative(list(estimate @ reference.T), images))
    assert run("score", written, path) == 0
    printed = capsys.readouterr().out
    assert f"NRMSE_A  {scores['NRMSE_A']:.4f}" in printed and f"{names[0]} = b" in printed


def test_score_leaves_out_what_the_result_does_not_know(
    compared: tuple[Path, Path, pu.simulate.Scene, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, path, truth, estimate = compared
    partial = cli.results.load_result(written)
    partial.dataset["abundances"][1, :3] = np.nan
    hole = partial.to_netcdf(tmp_path / "hole.nc")
    answer = scores_of(hole, path, capsys=capsys)
    assert answer["compared_share"] == pytest.approx(1 - 3 / 14)
    abundances = truth.abundances.values
    expected = relative([estimate[0], estimate[1, 3:]], [abundances[0], abundances[1, 3:]])
    assert answer["scores"]["NRMSE_A"] == pytest.approx(expected)
    assert run("score", hole, path) == 0
    assert "78.6 % of the pixels and dates" in capsys.readouterr().out


def test_score_against_another_result_and_a_truth_without_spectra(
    compared: tuple[Path, Path, pu.simulate.Scene, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, path, _, _ = compared
    itself = scores_of(written, written, capsys=capsys)
    assert itself["scores"] == dict.fromkeys(itself["scores"], pytest.approx(0, abs=1e-7))
    with xr.open_dataset(path) as dataset:
        dataset.drop_vars("endmembers").to_netcdf(tmp_path / "less.nc", engine="h5netcdf")
    less = scores_of(written, tmp_path / "less.nc", capsys=capsys)["scores"]
    full = scores_of(written, path, capsys=capsys)["scores"]
    assert less == {**full, "NRMSE_M": None, "SAM_M": None}
    assert run("score", written, tmp_path / "less.nc") == 0
    assert "unknown: TRUTH holds no endmembers" in capsys.readouterr().out


def test_score_of_other_images_is_refused(
    compared: tuple[Path, Path, pu.simulate.Scene, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written, _, _, _ = compared
    for option, message in (
        ("--height", "same (time, y, x)"),
        ("--endmembers", "shape of the truth"),
    ):
        sizes = {"--num-dates": 2, "--height": 7, "--width": 8, option: 5}
        given = [part for pair in sizes.items() for part in pair]
        assert run("simulate", "scaled", "--out", tmp_path / "other.nc", *given) == 0
        assert run("score", written, tmp_path / "other.nc") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
