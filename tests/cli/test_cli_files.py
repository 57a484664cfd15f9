"""The commands about files: info, endmembers, simulate, plot, score, and unmix on real products."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import cli
from pyro_unmix.io import read_sequence

SIZES: dict[str, Any] = {"num_dates": 2, "height": 7, "width": 8}


def run(*arguments: object) -> int:
    """The exit code of the command."""
    return cli.main([str(argument) for argument in arguments])


def scene(**settings: Any) -> pu.simulate.Scene:
    return pu.simulate.scaled_scene(**{**SIZES, "num_endmembers": 3, **settings})


# ------------------------------------------------------------------ info

BANDS = (0.45, 0.65, 0.86, 1.40, 1.61, 2.20)  # um; the fourth is in a window of water vapour
HEADER = """ENVI
samples = 4
lines = 3
bands = 6
data type = 2
interleave = bsq
byte order = 0
header offset = 0
data ignore value = -9999
reflectance scale factor = 10000
wavelength units = {unit}
wavelength = {{0.45, 0.65, 0.86, 1.40, 1.61, 2.20}}
fwhm = {{0.01, 0.01, 0.01, 0.01, 0.01, 0.02}}
bbl = {{0, 1, 1, 1, 1, 1}}
acquisition time = 2021-07-31T10:15:00Z
map info = {{UTM, 1, 1, 366000, 5806000, 30, 30, 33, North, WGS-84}}
"""


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


def info(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Any], str]:
    """Exit code, the objects of --json, and stderr."""
    code = run("info", *arguments, "--json")
    captured = capsys.readouterr()
    return code, json.loads(captured.out)["files"], captured.err


def test_info_warns_once_per_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks it is looked at in; in the words of the command line."""
    monkeypatch.setattr("pyro_unmix.cli.info._BLOCK", 20)
    stored = np.random.default_rng(0).integers(1, 90, (2, 6, 5, 4)).astype("i2")
    settings = {"scale": 1e-4, "wavelength": [500.0, 700.0, 1400.0, 1600.0]}
    np.savez(tmp_path / "a.npz", Y=stored, wavelength_unit="nm", **settings)  # type: ignore[arg-type]
    code, (facts,), errors = info(tmp_path / "a.npz", "--drop-water", capsys=capsys)
    assert (code, facts["problems"], facts["bands_dropped"]) == (0, [], {"water vapour": [2]})
    no_nodata, dark = errors.splitlines()
    assert no_nodata.startswith(f"pyro-unmix: warning: {tmp_path / 'a.npz'}: no nodata value is")
    assert no_nodata.endswith("pass --nodata if another number marks missing")
    assert "100.0 % of the reflectances are below 0.01, at most 0.0089," in dark
    assert "if so, pass --scale (reflectance" in dark


def test_info_says_what_the_file_says(envi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (facts,), errors = info(envi, capsys=capsys)
    assert (code, errors, facts["problems"]) == (0, "", [])
    assert (facts["rows"], facts["columns"], facts["num_dates"]) == (3, 4, 1)
    assert facts["dates"] == ["2021-07-31T10:15"]
    assert (facts["bands"], facts["bands_kept"]) == (6, 4)
    assert facts["bands_dropped"] == {"bad-band list": [0], "no data": [4]}
    assert facts["wavelength_nm"] == pytest.approx([1000 * band for band in BANDS])
    assert facts["fwhm_nm"] == pytest.approx([10.0] * 5 + [20.0])
    assert facts["scale"] == pytest.approx(1e-4) and facts["nodata"] == -9999
    assert facts["stored"] == "int16" and facts["format"].startswith("ENVI")
    assert "UTM" in facts["crs"] and facts["crs"].endswith("(EPSG:32633)")
    assert facts["transform"] == [30.0, 0.0, 366000.0, 0.0, -30.0, 5806000.0]
    assert facts["valid_share"] == pytest.approx(10 / 12) and not facts["rotated"]


def test_info_in_words(envi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", envi, "--drop-water") == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # what the readers log is in the answer
    lines = captured.out.splitlines()
    assert lines[0] == str(envi)
    facts = dict(line.split(maxsplit=1) for line in lines[1:])
    assert facts["grid"] == "3 rows x 4 columns"
    assert facts["dates"] == "1: 2021-07-31T10:15"
    dropped = "bad-band list: 0; no data: 4; water vapour: 3"
    assert facts["bands"] == f"6, kept 3; dropped (counted from 0): {dropped}"
    assert facts["wavelength"] == "450 to 2200 nm" and facts["fwhm"] == "10 to 20 nm"
    assert facts["valid"] == "83.3 %" and facts["nodata"] == "-9999"


def test_info_takes_the_options_of_unmix(envi: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envi.with_suffix(".hdr").write_text(HEADER.format(unit="Unknown"))
    code, (facts,), errors = info(envi, capsys=capsys)
    assert code == 2 and facts["wavelength_nm"] is None and facts["bands_kept"] is None
    (problem,) = facts["problems"]
    assert "--wavelength-unit nm or --wavelength-unit um" in problem
    assert errors == f"pyro-unmix: error: {problem}\n"
    options = ("--wavelength-unit", "um", "--nodata", "0", "--scale", "2e-4")
    code, (facts,), _ = info(envi, *options, capsys=capsys)
    # with another nodata, -9999 is stored data: a reflectance of -2 in all bands of a pixel
    assert code == 2 and facts["bands_dropped"] == {"bad-band list": [0]}
    assert facts["wavelength_nm"][0] == pytest.approx(450) and facts["scale"] == 2e-4
    assert "pass --nodata" in facts["problems"][0] and facts["valid_share"] is None


def write_sequence(path: Path, wavelength: Any = (450.0, 550.0, 650.0, 850.0)) -> Path:
    """Three images without dates."""
    values = np.random.default_rng(0).uniform(0.1, 0.5, (3, 6, 7, 4)).astype("f4")
    coords = {"wavelength": ("wavelength", np.array(wavelength), {"units": "nm"})}
    array = xr.DataArray(values, dims=("time", "y", "x", "wavelength"), coords=coords)
    array.rename("reflectance").to_netcdf(path, engine="h5netcdf")
    return path


def test_wavelengths_that_are_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for start in (0, 1):
        path = write_sequence(tmp_path / f"{start}.nc", np.arange(start, start + 4))
        advice = (
            f"{path}: wavelength: is {start}, {start + 1}, ..., {start + 3}: numbers of the bands, no "
            "wavelengths. Write the wavelengths into the file, or pass --wavelength-unit none to go "
            "on without any"
        )
        for unit in ((), ("--wavelength-unit", "nm")):
            code, (facts,), errors = info(path, *unit, capsys=capsys)
            assert code == 2 and errors == f"pyro-unmix: error: {advice}\n"
            assert facts["problems"] == [advice]
            # The rest is told all the same.
            assert facts["wavelength_nm"] is None and facts["valid_share"] == 1
            assert run("endmembers", path, *unit, "--number", 2, "--out", tmp_path / "a.nc") == 2
            assert capsys.readouterr().err == f"pyro-unmix: error: {advice}\n"
        none = ("--wavelength-unit", "none")
        code, (facts,), errors = info(path, *none, capsys=capsys)
        assert (code, errors, facts["wavelength_nm"]) == (0, "", None)
        assert run("endmembers", path, *none, "--number", 2, "--out", tmp_path / "a.nc") == 0
        capsys.readouterr()
    # In um, these are wavelengths.
    cubes = read_sequence(path, wavelength_unit="um")
    assert cubes.wavelength.values.tolist() == [1000, 2000, 3000, 4000]


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        (
            "2020-01-01",
            "--dates must hold one date per image, 3 in the files, got 1: ['2020-01-01']",
        ),
        ("1,2,3,4", "--dates must hold one date per image, 3 in the files, got 4: [1.0, 2.0, 3.0"),
        (
            "a,b,c",
            "--dates must hold ISO dates such as '2021-07-31' or '2021-07-31T10:30', got 'a'",
        ),
        ("nan,1,2", "--dates must be finite, got NaN or infinite values"),
        ("1,2,2", "dates: 2.0 appears twice, also in "),
        ("1,,3", "argument --dates: expected one date or number per image, got '1,,3'"),
        ("", "argument --dates: expected one date or number per image, got ''"),
        ("20200101,20200102,20200103", "argument --dates: write dates as 2021-07-31, got '2020"),
    ],
)
def test_dates_that_do_not_fit(
    dates: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sequence(tmp_path / "a.nc")
    arguments = ("endmembers", path, "--number", 2, "--out", tmp_path / "b.nc", "--dates", dates)
    try:
        code = run(*arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and len(error.splitlines()) == 1
    assert text in error


def test_a_folder_of_band_files_without_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rasterio")
    from products import write_tiff

    folder = tmp_path / "S2A_20240830"
    stored = np.arange(3000, 3120).reshape(3, 8, 5).astype("u2")
    for band, values in zip(("B02", "B04", "B08"), stored, strict=True):
        write_tiff(folder / f"S2A_T32TPS_20240830_{band}.tif", values[..., np.newaxis])
    code, (facts,), errors = info(folder, capsys=capsys)
    assert code == 2 and facts["scale"] is None and facts["valid_share"] is None
    assert "pass --scale 1e-4 and --offset -0.1 (baseline 04.00 and later) or --offset 0" in errors
    assert facts["bands"] == 3 and facts["wavelength_nm"] == [492.4, 664.6, 832.8]
    options = ("--scale", "1e-4", "--offset", "-0.1")
    code, (facts,), errors = info(folder, *options, capsys=capsys)
    assert (code, errors) == (0, "")
    assert (facts["scale"], facts["offset"], facts["valid_share"]) == (1e-4, -0.1, 1)


def test_info_notices_short_and_foreign_files(
    envi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, text, none = tmp_path / "short.img", tmp_path / "b.txt", tmp_path / "none.nc"
    short.write_bytes(envi.read_bytes()[:-2])
    short.with_suffix(".hdr").write_text(envi.with_suffix(".hdr").read_text())
    text.write_text("no image")
    code, found, errors = info(short, text, envi, none, capsys=capsys)
    assert code == 2
    assert [len(facts["problems"]) for facts in found] == [1, 1, 0, 1]
    lines = errors.splitlines()
    assert len(lines) == 3 and all(line.startswith("pyro-unmix: error: ") for line in lines)
    assert "144 bytes, but the file has 142" in lines[0] and str(short) in lines[0]
    assert "is none of the formats" in lines[1] and "no such file" in lines[2]
    assert found[2]["valid_share"] == pytest.approx(10 / 12)


def test_info_notices_a_short_geotiff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "count": 4, "height": 40, "width": 50, "dtype": "uint16"}
    values = np.random.default_rng(0).integers(1, 9000, (4, 40, 50)).astype("uint16")
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(0, 0, 10, 10)}
    with rasterio.open(tmp_path / "whole.tif", "w", **place, **profile) as file:
        file.write(values)
    whole = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(whole[: len(whole) // 2])
    code, (facts,), errors = info(tmp_path / "short.tif", capsys=capsys)
    assert code == 2 and "truncated" in errors and "rows" not in facts
    # integers without a scale are a problem that an option mends
    code, (facts,), errors = info(tmp_path / "whole.tif", capsys=capsys)
    assert code == 2 and "pass --scale, for example --scale 1e-4" in errors
    assert (facts["rows"], facts["columns"], facts["valid_share"]) == (40, 50, None)
    assert info(tmp_path / "whole.tif", "--scale", "1e-4", capsys=capsys)[0] == 0


def test_info_says_which_file_has_another_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width in (("a", 5), ("b", 5), ("c", 6)):
        np.savez(tmp_path / f"{name}.npz", cubes=np.full((4, width, 3), 0.3))
    files = [tmp_path / f"{name}.npz" for name in "abc"]
    code, found, errors = info(*files, capsys=capsys)
    assert code == 0 and errors == ""
    assert [facts["other_grid"] is None for facts in found] == [True, True, False]
    assert "4 rows and 6 columns" in found[2]["other_grid"]
    assert run("info", *files) == 0
    assert "not one with the first file: it has 4 rows and 6" in capsys.readouterr().out


def test_info_looks_at_some_rows_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = cli.info.reflectance

    def recording(image: Any, *inputs: Any, **settings: Any) -> Any:
        sizes.append(image.values.size)
        return whole(image, *inputs, **settings)

    monkeypatch.setattr(cli.info, "reflectance", recording)
    monkeypatch.setattr(cli.info, "_BLOCK", 2 * 10 * 5)
    values = np.tile(np.linspace(0.2, 0.4, 5), (3, 20, 10, 1))
    values[1, 4] = np.nan
    np.savez(tmp_path / "a.npz", cubes=values)
    code, (facts,), _ = info(tmp_path / "a.npz", capsys=capsys)
    assert code == 0 and facts["valid_share"] == pytest.approx(59 / 60)
    assert sizes == [100] * 30
    # a row that would be no reflectance by itself is no problem of the image ...
    values[2, 10:12] = np.linspace(20, 30, 5)
    np.savez(tmp_path / "a.npz", cubes=values)
    code, (facts,), _ = info(tmp_path / "a.npz", capsys=capsys)
    assert code == 0 and facts["valid_share"] == pytest.approx(59 / 60)
    # ... and what is no reflectance as a whole is one
    np.savez(tmp_path / "a.npz", cubes=1000 * values)
    code, (facts,), errors = info(tmp_path / "a.npz", capsys=capsys)
    assert code == 2 and "pass --scale" in errors and facts["valid_share"] is None


def test_info_says_that_nothing_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", cubes=np.zeros((4, 5, 3)))
    code, (facts,), errors = info(tmp_path / "a.npz", capsys=capsys)
    assert code == 2 and facts["valid_share"] == 0
    assert "no pixel is valid in all bands" in errors


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
    monkeypatch.setattr(cli.endmembers, "estimate_num_endmembers", lambda *_, **__: 3)
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
    monkeypatch.setattr(cli.unmix, "write_pictures", lambda *_: [])
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
    assert drawn == maps | {"endmembers", "endmembers_over_time", "losses"}
    plain = pu.methods.fcls(result.cubes, 2, progress=False)
    plain.save(tmp_path / "saved")
    assert run("plot", tmp_path, "--out", tmp_path / "new") == 0
    drawn = {file.stem for file in (tmp_path / "new").iterdir()}
    assert drawn == {"abundances", "composite", "endmembers", "endmembers_over_time"}


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


# ------------------------------------------------------------------ score


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
    monkeypatch.setattr(cli.unmix, "write_pictures", lambda *_: [])
    arguments = ("--endmembers", 2, "--steps", 1, "--out", tmp_path, "--json")
    assert run("unmix", data_dir / "readers" / name, *arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sizes"] == {**sizes, "endmember": 2} and summary["steps"] == 1
    found = {path.name for path in (tmp_path / "geotiff").iterdir()}
    assert found == {f"abundances_{date}{end}.tif" for date in maps for end in ("", "_std")}


def test_unmix_of_sentinel2_dates_as_geotiffs(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.setattr(cli.unmix, "write_pictures", lambda *_: [])
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
            np.testing.assert_array_equal(file.read(), expected)


def test_a_file_without_spectra_is_refused(
    data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = data_dir / "readers" / "uneven_dates.nc"
    assert run("unmix", path, "--endmembers", 2, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "LAI('time', 'y', 'x'). There is no spectral axis, so nothing to unmix" in error
    assert str(path) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
