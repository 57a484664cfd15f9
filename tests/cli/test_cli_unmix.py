"""The command line: the demo and the methods, what they write and print."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from chain_cases import Rounds, rounds_of
from cli_cases import PICTURES, assert_pictures, quick_scene, read, run

import pyro_unmix as pu
from pyro_unmix import cli
from pyro_unmix.infer import Sampled
from pyro_unmix.infer.fit_run import Run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """Folder and output of ``demo --quick --seed 1``, and what FCLS was given."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    given: list[Any] = []
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        solve = pu.methods.fcls

        def recording_fcls(*inputs: Any, **settings: Any) -> Any:
            given.extend([*inputs, settings["endmembers"]])
            return solve(*inputs, **settings)

        patch.setattr(pu.methods, "fcls", recording_fcls)
        assert run("demo", "--quick", "--seed", 1, "--out", out) == 0
    return out, printed.getvalue(), given


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a small run."""
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)


def test_demo_writes_pictures_and_netcdf(demo: tuple[Path, str, list[Any]]) -> None:
    out, _, _ = demo
    assert_pictures(out, PICTURES)
    scene = read(out / "scene.nc")
    for name, part in (("reflectance", "cubes"), ("abundances", "abundances")):
        expected = getattr(quick_scene(), part)
        xr.testing.assert_identical(scene[name].drop_attrs(), expected.rename(name).drop_attrs())
    result = read(out / "result.nc")
    assert result.attrs["Conventions"].startswith("CF-")
    assert result["abundances"].dims == ("endmember", "time", "y", "x")
    assert result["losses"].size == 20
    # materials are named by the truth that they resemble
    assert set(result["endmember"].values) == set(quick_scene().abundances["endmember"].values)


def test_demo_table_is_that_of_the_files(demo: tuple[Path, str, list[Any]]) -> None:
    out, printed, _ = demo
    lines = printed.splitlines()[:3]
    assert lines[0].split() == ["NRMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y", "seconds"]
    rows = {line[:-45].strip(): line[-45:].split() for line in lines[1:]}
    scene, result = quick_scene(), read(out / "result.nc")
    truth = scene.abundances
    matched = result["abundances"].sel(endmember=truth["endmember"])
    estimate = matched.transpose(*truth.dims).values
    error = ((estimate - truth.values) ** 2).sum((1, 2, 3)) / (truth.values**2).sum((1, 2, 3))
    assert float(rows["unmix"][0]) == pytest.approx(np.sqrt(error.mean()), abs=6e-4)
    # noise alone leaves about 10^(-30 dB / 20) = .032 of the images unexplained
    assert 0.02 < float(rows["unmix"][3]) < 0.05
    assert float(rows["unmix"][0]) < float(rows["FCLS, same endmembers"][0])
    assert float(rows["unmix"][4]) > 0


def test_fcls_is_given_the_start_of_the_result(demo: tuple[Path, str, list[Any]]) -> None:
    _, _, (cubes, endmembers) = demo
    start = pu.choose_start(quick_scene().cubes, 3, seed=1)
    # the model keeps them in single precision
    np.testing.assert_allclose(endmembers.values, start.endmembers.values, rtol=1e-6)
    np.testing.assert_array_equal(cubes, quick_scene().cubes)


def test_the_file_of_the_demo_can_be_unmixed(
    demo: tuple[Path, str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, printed, _ = demo
    assert f"pyro-unmix unmix {folder / 'scene.nc'} --endmembers 3" in printed
    arguments = (folder / "scene.nc", "--endmembers", 3, "--steps", 4)
    assert run("unmix", *arguments, "--out", tmp_path) == 0
    assert str(tmp_path / "saved") in capsys.readouterr().out
    assert_pictures(tmp_path, PICTURES)
    loaded = pu.Unmixing.load(tmp_path / "saved")
    assert loaded.method == "unmix" and len(loaded.losses) == 4
    written = read(tmp_path / "result.nc")["abundances"].transpose(*loaded.abundances.dims)
    xr.testing.assert_equal(loaded.abundances, written)
    direct = pu.unmix(quick_scene().cubes, 3, num_steps=4, progress=False)
    np.testing.assert_array_equal(loaded.abundances, direct.abundances)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two .npz files of one image each, one with a hole."""
    paths = []
    for date, image in enumerate(quick_scene().cubes.values[:2, :8, :9, ::8]):
        image = np.where((np.arange(72).reshape(8, 9, 1) == 5) & (date == 1), np.nan, image)
        paths.append(tmp_path / f"date{date}.npz")
        np.savez(paths[-1], cubes=image)
    return paths


def test_a_polished_result_is_written(images: list[Path], tmp_path: Path) -> None:
    arguments = ("--endmembers", 2, "--steps", 0, "--polish", "--out", tmp_path / "out")
    assert run("unmix", *images, *arguments) == 0
    estimate = pu.Unmixing.load(tmp_path / "out" / "saved").estimate
    assert isinstance(estimate, pu.posterior.PolishedMean) and not estimate.exact


def test_chains_are_drawn_if_asked_for(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--endmembers", 2, "--no-trained", "--out", out)
    assert run("unmix", *images, *arguments) == 0
    assert isinstance(pu.Unmixing.load(out / "saved"), Sampled)
    assert (out / "abundances.png").is_file() and not (out / "change.png").exists()


def test_several_files_are_joined_in_time(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--endmembers", 2, "--steps", 0, "--out", out)
    assert run("unmix", *images, *arguments, "--dates", "2021-07-01,2021-06-01") == 0
    result = read(out / "result.nc")
    assert dict(result["abundances"].sizes) == {"endmember": 2, "time": 2, "y": 8, "x": 9}
    assert [str(date)[:10] for date in result["time"].values] == ["2021-06-01", "2021-07-01"]
    valid = result["valid"].transpose("time", "y", "x").values
    assert np.argwhere(valid == 0).tolist() == [[0, 0, 5]]
    assert result["abundances"].notnull().all()
    assert_pictures(out, PICTURES - {"losses"})


@pytest.mark.parametrize("method", ["redsunn", "redsunn_published"])
def test_one_image_with_the_papers_method(method: str, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--method", method, "--steps", 3, "--seed", 2, "--out", out)
    assert run("unmix", images[0], "--endmembers", 3, *arguments) == 0
    loaded = pu.Unmixing.load(out / "saved")
    assert loaded.method == method and len(loaded.losses) == 3 and loaded.seed == 2
    assert_pictures(out, PICTURES - {"change", "endmembers_over_time"})


@pytest.mark.parametrize("method", ["fcls", "online_unmixing", "kalman-em"])
def test_classical_methods(method: str, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--endmembers", 2, "--method", method, "--seed", 4, "--out", out)
    assert run("unmix", images[0], *arguments) == 0
    solve = getattr(pu.methods, method.replace("-", "_"))
    expected = solve(np.load(images[0])["cubes"], 2, seed=4, progress=False)
    loaded = pu.Unmixing.load(out / "saved")
    np.testing.assert_array_equal(loaded.abundances, expected.abundances)
    assert {"abundances", "endmembers"} <= {path.stem for path in out.glob("*.png")}
    assert not (out / "uncertainty.png").exists()


def test_hbun_is_a_method_with_steps(images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--endmembers", 2, "--method", "hbun", "--seed", 4, "--out", out)
    assert run("unmix", *images, *arguments, "--dates", "1,2", "--steps", 3) == 0
    sequence = np.stack([np.load(path)["cubes"] for path in images])
    expected = pu.methods.hbun(sequence, 2, seed=4, progress=False, num_steps=3)
    loaded = pu.Unmixing.load(out / "saved")
    assert loaded.method == "hbun" and len(loaded.losses) == 3
    np.testing.assert_allclose(loaded.abundances, expected.abundances, rtol=1e-6)
    np.testing.assert_allclose(loaded.endmembers(1), expected.endmembers(1), rtol=1e-6)
    assert {"abundances", "endmembers", "uncertainty"} <= {path.stem for path in out.glob("*.png")}


def test_what_was_not_observed_is_nodata_in_the_maps(
    images: list[Path], tmp_path: Path, no_pictures: None
) -> None:
    rasterio = pytest.importorskip("rasterio")
    out = tmp_path / "out"
    assert run("unmix", *images, "--endmembers", 2, "--steps", 0, "--out", out) == 0
    with rasterio.open(out / "geotiff" / "abundances_1.tif") as file:
        assert np.argwhere(np.isnan(file.read()).any(0)).tolist() == [[0, 5]]  # the hole
        assert file.descriptions == ("material 0", "material 1", "rmse")
    assert pu.Unmixing.load(out / "saved").abundances.notnull().all()


def test_maps_are_geotiffs_of_the_dates(
    images: list[Path], tmp_path: Path, no_pictures: None
) -> None:
    rasterio = pytest.importorskip("rasterio")
    grid = {"x": 100.0 + 30 * np.arange(9), "y": 500.0 - 30 * np.arange(8)}
    cubes = quick_scene().cubes[:2, :8, :9, ::8].assign_coords(grid)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    out = tmp_path / "out"
    arguments = ("--endmembers", 2, "--method", "fcls", "--out", out)
    assert run("unmix", *images, *arguments, "--dates", "3,4") == 0
    assert run("unmix", tmp_path / "a.nc", *arguments) == 0
    # those of the first run are gone
    assert {path.name for path in (out / "geotiff").glob("*.tif")} == {
        "abundances_t0.tif",
        "abundances_t1.tif",
    }
    expected = pu.methods.fcls(cubes, 2, progress=False).abundances
    with rasterio.open(out / "geotiff" / "abundances_t1.tif") as file:
        found = file.read([1, 2])
        np.testing.assert_allclose(found, expected[1].transpose("endmember", "y", "x"))
        assert tuple(file.transform)[:6] == (30.0, 0.0, 85.0, 0.0, -30.0, 515.0)


def test_a_grid_without_geotiff_is_said(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cubes = quick_scene().cubes[:1, :8, :9, ::8].assign_coords(x=np.arange(9.0) ** 2)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    arguments = ("--endmembers", 2, "--method", "fcls", "--out", tmp_path / "out", "--json")
    assert run("unmix", tmp_path / "a.nc", *arguments) == 0
    captured = capsys.readouterr()
    assert "no GeoTIFF: expected evenly spaced x" in captured.err
    assert "expected evenly spaced x" in json.loads(captured.out)["no_geotiff"]
    assert (tmp_path / "out" / "result.nc").exists()


def test_json_is_all_of_stdout(
    images: list[Path],
    tmp_path: Path,
    no_pictures: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = ("--endmembers", "auto", "--steps", 1, "--out", out, "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.unmixing, "estimate_num_endmembers", lambda *_, **__: 3)
        assert run("unmix", images[1], *arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sizes"] == {"time": 1, "y": 8, "x": 9, "endmember": 3, "wavelength": 28}
    assert summary["valid_share"] == pytest.approx(71 / 72)
    loaded = pu.Unmixing.load(out / "saved")
    observed = loaded.abundances.values[loaded.valid.values]
    assert list(summary["mean_abundances"]) == ["material 0", "material 1", "material 2"]
    shares = list(summary["mean_abundances"].values())
    assert shares == pytest.approx(observed.mean(0), rel=1e-5)
    assert summary["loss"] == pytest.approx(loaded.losses[-1]) and summary["steps"] == 1
    assert summary["files"] == [str(images[1])] and summary["dates"] is None
    assert all(Path(path).exists() for path in summary["written"])


def test_a_library_gives_the_endmembers(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spectral")
    scene = pu.simulate.scaled_scene(num_dates=1, height=8, width=9, num_endmembers=2)
    # the bands overlap, so that resampling the library to them would blur it
    fwhm = ("wavelength", np.full(28, 200.0), {"units": "nm"})
    cubes = scene.cubes[..., ::8].assign_coords(fwhm=fwhm)
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    spectra = scene.reference_endmembers[::8]
    rows = [",".join(["label", *(f"{w:.6f}" for w in cubes["wavelength"].values)])]
    for name, values in zip(("grass", "sand"), spectra.values.T, strict=True):
        rows.append(",".join([name, *(f"{1e4 * value:.8f}" for value in values)]))
    (tmp_path / "library.csv").write_text("\n".join(rows))
    arguments = ("unmix", tmp_path / "a.nc", "--endmembers", tmp_path / "library.csv")
    # stored in ten-thousandths: the option that mends it is named as the command has it
    assert run(*arguments) == 2
    assert "pass --library-scale, for example --library-scale 1e-4" in capsys.readouterr().err
    out = tmp_path / "out"
    for method in ("unmix", "redsunn", "fcls"):
        given = ("--method", method, "--library-scale", "1e-4", "--out", out)
        steps = ("--steps", 0) if method != "fcls" else ()
        assert run(*arguments, *given, *steps) == 0
        loaded = pu.Unmixing.load(out / "saved")
        assert list(loaded.abundances["endmember"]) == ["grass", "sand"]
        found = loaded.reference_endmembers.values
        np.testing.assert_allclose(found, spectra.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["unmix", "redsunn"])
def test_a_run_goes_on_from_its_checkpoints(
    method: str,
    images: list[Path],
    tmp_path: Path,
    no_pictures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "checkpoints"
    made = []

    def losses(seed: int, *more: object) -> np.ndarray | int:
        arguments = ("--endmembers", 2, "--method", method, "--steps", 3, "--seed", seed, *more)
        code = run("unmix", images[0], *arguments, "--out", tmp_path / "out")
        return code or pu.Unmixing.load(tmp_path / "out" / "saved").losses

    step = Run.step

    def counted(self: Any) -> float:
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt  # in the second step
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", counted)
        assert len(losses(5, "--checkpoint", folder)) == 1
        found = losses(5, "--checkpoint", folder)
        assert len(made) == 4  # two more, after the one that counts and the one that was broken off
    assert len(list(folder.glob("step-*.pt"))) == 2
    np.testing.assert_array_equal(found, losses(5))
    # of another fit: refused, in the words of the command, unless it is to start anew
    capsys.readouterr()
    assert losses(6, "--checkpoint", folder, "--resume") == 2
    assert "another folder, or --no-resume to start anew" in capsys.readouterr().err
    anew = losses(6, "--checkpoint", folder, "--no-resume")
    np.testing.assert_array_equal(anew, losses(6))


def test_chains_go_on_from_their_checkpoints(
    images: list[Path],
    tmp_path: Path,
    no_pictures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken off in the short chains of the starts: the command has no result then."""
    folder = tmp_path / "checkpoints"
    chains = importlib.import_module("pyro_unmix.methods.unmix_by_chains")
    several = chains.several_starts
    monkeypatch.setattr(chains, "several_starts", lambda *a, **k: several(*a, **k)[:2])

    def unmixed(*more: object) -> int:
        arguments = ("--endmembers", 2, "--no-trained", *more, "--out", tmp_path / "out")
        return run("unmix", images[0], *arguments)

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        Rounds(patch, 70, stop)
        assert unmixed("--checkpoint", folder) == 130
    code, made = rounds_of(lambda: unmixed("--checkpoint", folder))
    assert code == 0 and made == 50 + 400  # of chains of either kind
    found = pu.Unmixing.load(tmp_path / "out" / "saved").abundances
    assert unmixed() == 0
    xr.testing.assert_identical(found, pu.Unmixing.load(tmp_path / "out" / "saved").abundances)
    capsys.readouterr()
    assert unmixed("--checkpoint", folder, "--seed", 3) == 2
    assert "another folder, or --no-resume to start anew" in capsys.readouterr().err
