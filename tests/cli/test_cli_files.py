"""The commands about files: endmembers, simulate, plot, and unmix on real products."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import HEADER, SIZES, run, scene

import pyro_unmix as pu
from pyro_unmix import cli


@pytest.fixture
def envi(tmp_path: Path) -> Path:
    """Band 0 is called bad, band 4 holds nodata only; one pixel is nodata and one zero in all bands."""
    stored = np.full((6, 3, 4), 2500, dtype="<i2") + np.arange(12, dtype="<i2").reshape(3, 4)
    stored[4] = -9999
    stored[:, 0, 1] = -9999
    stored[:, 2, 3] = 0
    stored[4, 2, 3] = -9999
    (tmp_path / "a.hdr").write_text(HEADER.format(unit="Micrometers"))
    stored.tofile(tmp_path / "a.img")
    return tmp_path / "a.img"


# ------------------------------------------------------------------ endmembers


@pytest.mark.parametrize("suffix", [".csv", ".nc", ".sli"])
def test_endmembers_are_those_that_unmix_starts_from(
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if suffix != ".nc":
        envi = pytest.importorskip("spectral.io.envi")
    cubes = scene(height=9, width=9).cubes[..., ::9]
    cubes.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    start = pu.choose_start(cubes, 3, seed=5).endmembers
    path = tmp_path / "new" / f"found{suffix}"
    arguments = ("endmembers", tmp_path / "a.nc", "--out", path, "--seed", 5, "--json")
    monkeypatch.setattr(pu.start, "estimate_num_endmembers", lambda *_, **__: 3)
    assert run(*arguments, "--number", "auto") == 0
    summary = json.loads(capsys.readouterr().out)
    printed = np.array(list(summary["reflectance"].values())).T
    np.testing.assert_allclose(printed, start.values)
    np.testing.assert_allclose(summary["wavelength_nm"], cubes["wavelength"])
    assert summary["number"] == 3 and str(path) in summary["written"]
    # read back by other programs
    if suffix == ".csv":
        header, *rows = list(csv.reader(path.open()))
        found = np.array([row[1:] for row in rows], dtype=float).T
        wavelength = np.array(header[1:], dtype=float)
    elif suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            found = dataset["reference_endmembers"].values
            wavelength = dataset["wavelength"].values
            assert dataset["wavelength"].attrs["units"] == "nm"
    else:
        library = envi.open(str(path.with_suffix(".hdr")), str(path))
        found, wavelength = library.spectra.T, np.array(library.bands.centers)
        assert library.bands.band_unit == "Nanometers"
    np.testing.assert_allclose(found, start.values, rtol=1e-6)
    np.testing.assert_allclose(wavelength, cubes["wavelength"])
    # and by the command
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)
    given = ("--endmembers", path, "--method", "fcls", "--out", tmp_path / "out")
    assert run("unmix", tmp_path / "a.nc", *given) == 0
    loaded = pu.Unmixing.load(tmp_path / "out" / "saved")
    np.testing.assert_allclose(loaded.reference_endmembers, start.values, rtol=1e-6)
    # the classes of a library come in the order of the file
    assert list(loaded.abundances["endmember"]) == ["material 0", "material 1", "material 2"]


def test_endmembers_without_wavelengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", Y=scene().cubes.values[..., ::9])
    arguments = ("endmembers", tmp_path / "a.npz", "--number", 2, "--out")
    assert run(*arguments, tmp_path / "a.csv") == 2
    assert "have no wavelengths, without which .csv is no library" in capsys.readouterr().err
    assert run(*arguments, tmp_path / "a.txt") == 2
    assert "suffixes .csv, .nc, .sli, got" in capsys.readouterr().err
    assert run(*arguments, tmp_path / "a.nc") == 0
    assert (tmp_path / "a.nc").exists() and not (tmp_path / "a.csv").exists()


# ------------------------------------------------------------------ simulate


@pytest.mark.parametrize("kind", ["scaled", "bundle"])
def test_simulated_files_hold_the_scene(kind: str, tmp_path: Path) -> None:
    sizes = ("--num-dates", 2, "--height", 7, "--width", 8, "--endmembers", 3)
    more = ("--snr", 20, "--clouds", 0.1, "--seed", 4)
    path = tmp_path / "new" / "scene.nc"
    assert run("simulate", kind, "--out", path, *sizes, *more) == 0
    make = pu.simulate.scaled_scene if kind == "scaled" else pu.simulate.bundle_scene
    expected = make(**SIZES, num_endmembers=3, snr_db=20, cloud_fraction=0.1, seed=4)
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        np.testing.assert_array_equal(dataset["reflectance"], expected.cubes)
        np.testing.assert_array_equal(dataset["abundances"], expected.abundances)
        reference = expected.reference_endmembers
        np.testing.assert_array_equal(dataset["reference_endmembers"], reference)
        assert dataset["endmembers"].dims == ("time", "y", "x", "wavelength", "endmember")
        for time in range(2):
            truth = expected.endmembers(time)
            np.testing.assert_allclose(dataset["endmembers"][time], truth, rtol=1e-6)
    np.testing.assert_array_equal(pu.io.read_sequence(path), expected.cubes)


def test_simulate_makes_the_folders_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "scene.nc"
    sizes = ("--num-dates", 1, "--height", 6, "--width", 6)
    assert run("simulate", "scaled", "--out", path, *sizes) == 0
    with xr.open_dataset(path, engine="h5netcdf") as written:
        assert written["reflectance"].shape == (1, 6, 6, 224)


def test_simulate_refuses_bad_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "a.nc")
    for arguments, message in {
        (*out, "--snr", "nan"): "snr_db must lie in",
        (*out, "--clouds", "2"): "cloud_fraction must lie in [0, 1), got 2",
        ("--out", tmp_path / "a.txt"): "with one of the suffixes .nc, got",
        ("--out", tmp_path): "with one of the suffixes .nc, got",
    }.items():
        assert run("simulate", "scaled", *arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "a.nc").exists()


# ------------------------------------------------------------------ results from files


@pytest.fixture(scope="module")
def result() -> pu.Unmixing:
    """One with posterior, variability, losses, a hole, dates and a place."""
    cubes = scene(height=6, width=7).cubes[..., ::9]
    cubes = cubes.where(~((cubes["time"] == 1) & (cubes["y"] == 2) & (cubes["x"] == 3)))
    cubes = cubes.assign_coords(
        time=np.array(["2021-07-31", "2021-08-02"], dtype="datetime64[ns]"),
        y=("y", 500.0 - 30 * np.arange(6)),
        x=("x", 100.0 + 30 * np.arange(7)),
    )
    found = pu.unmix(cubes, 3, num_steps=2, progress=False)
    names = ["grass", "sand", "roof"]
    return pu.Unmixing(
        found.dataset.assign_coords(endmember=names),
        losses=found.losses,
        cubes=found.cubes,
        method=found.method,
    )


def assert_same(one: pu.Unmixing, two: pu.Unmixing) -> None:
    for time in range(2):
        np.testing.assert_allclose(one.endmembers(time), two.endmembers(time))
        np.testing.assert_allclose(one.reconstruct(time), two.reconstruct(time))
    for name in ("abundances", "abundances_std", "change", "valid", "reference_endmembers"):
        expected = getattr(two, name).drop_attrs()
        actual = getattr(one, name).drop_attrs().reset_coords(drop=True)
        xr.testing.assert_equal(actual, expected.reset_coords(drop=True))


def test_a_result_is_rebuilt_from_its_netcdf(result: pu.Unmixing, tmp_path: Path) -> None:
    path = result.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(path, decode_coords="all") as dataset:
        plain = dataset.load().drop_vars("losses", errors="ignore")
    order = ("time", "y", "x", ...)
    assert_same(pu.Unmixing(plain.transpose(*order, missing_dims="ignore")), result)
    loaded = cli.results.load_result(path)
    assert_same(loaded, result)
    assert loaded.abundances.dims == result.abundances.dims
    assert loaded.valid.dtype == bool and "abundances_std" not in loaded.abundances.coords
    assert loaded.method == "unmix"
    np.testing.assert_array_equal(loaded.losses, result.losses)
    again = loaded.to_netcdf(tmp_path / "b.nc")
    with xr.open_dataset(path) as one, xr.open_dataset(again) as two:
        xr.testing.assert_equal(one, two)


def test_plot_draws_what_the_result_has(result: pu.Unmixing, tmp_path: Path) -> None:
    path = result.to_netcdf(tmp_path / "a.nc")
    assert run("plot", path, "--out", tmp_path / "new") == 0
    drawn = {file.stem for file in (tmp_path / "new").iterdir()}
    maps = {"abundances", "change", "composite", "uncertainty"}
    assert drawn == maps | {"endmembers", "endmembers_over_time", "losses", "rmse"}
    plain = pu.methods.fcls(result.cubes, 2, progress=False)
    plain.save(tmp_path / "saved")
    assert run("plot", tmp_path, "--out", tmp_path / "new") == 0
    drawn = {file.stem for file in (tmp_path / "new").iterdir()}
    assert drawn == {"abundances", "composite", "endmembers", "endmembers_over_time", "rmse"}


def test_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xr.Dataset({"LAI": ("x", np.ones(3))}).to_netcdf(tmp_path / "lai.nc", engine="h5netcdf")
    (tmp_path / "cut.nc").write_bytes((tmp_path / "lai.nc").read_bytes()[:900])
    (tmp_path / "text.nc").write_text("no NetCDF")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "recipe.json").write_text("{")
    for name, message in {
        "lai.nc": "variables: lacks abundances, reference_endmembers",
        "cut.nc": "cannot be read as the NetCDF of a result",
        "text.nc": "cannot be read as the NetCDF of a result",
        "none": "no such file or folder",
        "saved": "is not a saved result (recipe.json",
    }.items():
        for arguments in (("plot", tmp_path / name), ("score", tmp_path / name, "x")):
            assert run(*arguments, *(("--out", tmp_path / "o") if "plot" in arguments else ())) == 2
            error = capsys.readouterr().err
            assert message in error and str(tmp_path / name) in error
            assert error.count("\n") == 1 and error.startswith("pyro-unmix: error: ")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("plot", empty, "--out", tmp_path / "o") == 2
    assert "holds no result" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------ real files


@pytest.mark.parametrize(
    ("name", "sizes", "maps"),
    [
        ("emit_l2a_crop", {"time": 1, "y": 10, "x": 10, "wavelength": 244}, ["2025-03-24"]),
        ("enmap_l2a_tile.tif", {"time": 1, "y": 32, "x": 32, "wavelength": 218}, ["2022-07-24"]),
        ("redsunn_layout.mat", {"time": 6, "y": 10, "x": 10, "wavelength": 224}, list("012345")),
        ("tahoe_layout_v73.mat", {"time": 4, "y": 6, "x": 5, "wavelength": 20}, list("0123")),
    ],
)
def test_unmix_of_real_files(
    name: str,
    sizes: dict[str, int],
    maps: list[str],
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)
    arguments = ("--endmembers", 2, "--steps", 1, "--out", tmp_path, "--json")
    assert run("unmix", data_dir / "readers" / name, *arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sizes"] == {**sizes, "endmember": 2} and summary["steps"] == 1
    found = {path.name for path in (tmp_path / "geotiff").glob("*.tif")}
    assert found == {f"abundances_{date}{end}.tif" for date in maps for end in ("", "_std")}


def test_unmix_of_sentinel2_dates_as_geotiffs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)
    dates = np.load(data_dir / "sentinel2_5dates.npy", mmap_mode="r")[:, :12, :11]
    transform = rasterio.transform.from_origin(500000, 5000000, 10, 10)
    profile = {"driver": "GTiff", "count": 13, "height": 12, "width": 11, "dtype": "uint16"}
    for number, image in enumerate(dates):
        path = tmp_path / f"{number}.tif"
        with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile) as file:
            file.write(np.moveaxis(np.round(image * 1e4), -1, 0).astype("uint16"))
    files = sorted(tmp_path.glob("*.tif"))
    out, days = tmp_path / "out", [f"2020-0{month}-01" for month in range(1, 6)]
    options = ("--scale", "1e-4", "--dates", ",".join(days), "--steps", 1, "--out", out)
    assert run("unmix", *files, "--endmembers", 3, *options) == 0
    loaded = pu.Unmixing.load(out / "saved")
    assert loaded.cubes is not None
    np.testing.assert_allclose(loaded.cubes, np.round(dates * 1e4) / 1e4, atol=1e-6)
    for time, day in enumerate(days):
        with rasterio.open(out / "geotiff" / f"abundances_{day}.tif") as file:
            assert file.crs.to_epsg() == 32633 and file.transform == transform
            expected = loaded.abundances[time].transpose("endmember", "y", "x")
            np.testing.assert_array_equal(file.read([1, 2, 3]), expected)


def test_a_file_without_spectra_is_refused(
    data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = data_dir / "readers" / "uneven_dates.nc"
    assert run("unmix", path, "--endmembers", 2, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "LAI('time', 'y', 'x'). There is no spectral axis, so nothing to unmix" in error
    assert str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
