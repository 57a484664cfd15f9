"""What `info` says of files, and the options that tell it more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cli_file_cases import HEADER, run

from pyro_unmix import cli
from pyro_unmix.io import read_sequence

BANDS = (0.45, 0.65, 0.86, 1.40, 1.61, 2.20)  # um; the fourth is in a window of water vapour


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
    code, (facts,), errors = info(tmp_path / "a.npz", "--ignore", "water_vapour", capsys=capsys)
    assert (code, facts["problems"], facts["bands_dropped"]) == (0, [], {"ignored": [2]})
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
    assert run("info", envi, "--ignore", "water_vapour") == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # what the readers log is in the answer
    lines = captured.out.splitlines()
    assert lines[0] == str(envi)
    facts = dict(line.split(maxsplit=1) for line in lines[1:])
    assert facts["grid"] == "3 rows x 4 columns"
    assert facts["dates"] == "1: 2021-07-31T10:15"
    dropped = "bad-band list: 0; no data: 4; ignored: 3"
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
