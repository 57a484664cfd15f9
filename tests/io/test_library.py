"""Spectral libraries: reading of CSV files, and resampling."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from pyro_unmix.data import is_library, resample_library
from pyro_unmix.data.libraries import at_bands_of
from pyro_unmix.io import FileError, read_library

pytest.importorskip("spectral")


def make_library(
    spectra: np.ndarray, labels: list[str], wavelength: np.ndarray | None = None
) -> xr.DataArray:
    coords: dict[str, Any] = {
        "endmember": [f"s{i}" for i in range(len(labels))],
        "label": ("endmember", labels),
    }
    if wavelength is not None:
        coords["wavelength"] = wavelength
    return xr.DataArray(spectra, dims=("wavelength", "endmember"), coords=coords)


# Resampling


def fine_library(order: np.ndarray | slice = slice(None)) -> xr.DataArray:
    """A straight line and a parabola at bands 1 nm apart."""
    nm = np.arange(400.0, 1001.0)[order]
    spectra = np.stack([1e-3 * nm, ((nm - 700) / 400) ** 2], axis=1)
    return make_library(spectra, ["line", "parabola"], nm)


def test_gaussian_bands_leave_a_line_and_raise_a_parabola_by_the_variance_of_the_response():
    centres, fwhm = np.array([500.0, 700.0, 650.0]), np.array([20.0, 40.0, 10.0])
    got = resample_library(fine_library(), centres, fwhm)
    np.testing.assert_array_equal(got["wavelength"], centres)
    np.testing.assert_array_equal(got["fwhm"], fwhm)
    np.testing.assert_array_equal(got["label"], ["line", "parabola"])
    np.testing.assert_allclose(got[:, 0], 1e-3 * centres, rtol=1e-6)
    # A Gaussian cut off at half its maximum, z = sqrt(2 ln 2): variance s^2 (1 - 2 z phi / (2 Phi - 1)).
    z = np.sqrt(2 * np.log(2))
    variance = (fwhm / (2 * z)) ** 2 * (1 - 2 * z * norm.pdf(z) / (2 * norm.cdf(z) - 1))
    # Source bands are flat over their 1 nm, which moves the mean square by up to 1 / 12 nm^2.
    expected = ((centres - 700) ** 2 + variance) / 400**2
    np.testing.assert_allclose(got[:, 1], expected, rtol=0, atol=0.2 / 400**2)


def test_the_order_of_source_bands_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(601)
    centres, fwhm = np.array([480.0, 760.0, 512.5]), np.full(3, 12.0)
    given = fine_library().assign_coords(fwhm=("wavelength", np.full(601, 1.0)))
    got = resample_library(given[shuffled], centres, fwhm)
    np.testing.assert_allclose(got, resample_library(given, centres, fwhm), rtol=1e-12)


def test_cubes_give_wavelengths_and_fwhm():
    centres, fwhm = np.array([500.0, 700.0]), np.array([20.0, 40.0])
    cubes = xr.DataArray(
        np.full((1, 2, 2, 2), 0.5),
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": centres, "fwhm": ("wavelength", fwhm)},
    )
    expected = resample_library(fine_library(), centres, fwhm)
    xr.testing.assert_allclose(resample_library(fine_library(), cubes), expected)
    xr.testing.assert_allclose(at_bands_of(fine_library(), cubes), expected)
    same = expected.assign_coords(wavelength=centres + 0.05)
    assert at_bands_of(same, cubes) is same
    with pytest.raises(ValueError, match="no coordinate wavelength.*pass wavelength= to as_cube"):
        resample_library(fine_library(), cubes.drop_vars(["wavelength", "fwhm"]))
    with pytest.raises(ValueError, match="601 bands and the cubes have 2"):
        at_bands_of(fine_library(), cubes.drop_vars(["wavelength", "fwhm"]))


def test_an_unknown_fwhm_is_the_usual_spacing_around_a_band():
    # Two detectors that overlap, as EnMAP's and AVIRIS's do, and a hole.
    centres = np.array([500.0, 510, 520, 530, 540, 534, 544, 554, 564, 574, 784, 794, 804, 814])
    got = resample_library(fine_library(), centres)
    expected = resample_library(fine_library(), centres, np.full(14, 10.0))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("centre", [390.0, 1012.0])
def test_bands_that_the_library_does_not_cover_are_an_error(centre):
    with pytest.raises(
        ValueError,
        match=rf"nothing at 1 of 2 bands \({centre:g} nm.*leave those bands out, ignore='",
    ):
        resample_library(fine_library(), [500.0, centre], [30.0, 30.0])


def test_nothing_is_made_up_in_a_hole_of_the_library():
    nm = np.concatenate([np.arange(400, 700, 10.0), np.arange(800, 1000, 10.0)])
    library = make_library(np.full((len(nm), 2), 0.5), ["a", "b"], nm)
    with pytest.raises(ValueError, match=r"nothing at 1 of 2 bands \(750 nm"):
        resample_library(library, [500.0, 750.0], [10.0, 10.0])
    assert resample_library(library, [500.0, 850.0], [10.0, 10.0]).shape == (2, 2)


@pytest.mark.parametrize(
    "wavelength, fwhm, text",
    [
        ([500.0, 600.0], [10.0], r"one positive width per band, shape \(2,\), got shape \(1,\)"),
        ([500.0, 600.0], [10.0, 0.0], "smallest value of 0"),
        ([500.0], None, "single band has no spacing: pass fwhm="),
        ([0.5, 0.6], None, "multiply by 1000"),
    ],
)
def test_bad_target_bands_are_refused(wavelength, fwhm, text):
    with pytest.raises(ValueError, match=text):
        resample_library(fine_library(), wavelength, fwhm)


# CSV


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_the_emit_library_is_read_as_it_stands(data_dir):
    path = data_dir / "emit_endmember_library.csv"
    with path.open(encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    with pytest.warns(UserWarning, match="27 of 224 bands"):
        got = read_library(path, scale=1e-4)
    assert got.dims == ("wavelength", "endmember") and is_library(got)
    np.testing.assert_array_equal(got["wavelength"], [float(v) for v in rows[0][1:]])
    assert got["label"].values.tolist() == [row[0] for row in rows[1:]]
    assert got["endmember"].values.tolist() == ["SOIL 1", "SOIL 2", "SOIL 3", "PV", "NPV"]
    expected = np.array([[float(v) for v in row[1:]] for row in rows[1:]]) * 1e-4
    expected[:, ~expected.any(0)] = np.nan  # zero in every spectrum
    np.testing.assert_allclose(got.values.T, expected, rtol=1e-14)
    with pytest.raises(
        FileError, match=r"'SOIL' has a median.*pass scale=, for example scale=1e-4"
    ):
        read_library(path)


def test_class_and_name_columns_are_found_by_rule(tmp_path):
    text = "Name,0.5,0.6,Site,Material\nq1,0.1,0.2,x,clay\nq1,0.3,0.4,x,clay\nw,0.5,0.6,y,water\n"
    path = write(tmp_path / "a.csv", text)
    got = read_library(path, unit="um")
    assert got["endmember"].values.tolist() == ["q1 1", "q1 2", "w"]
    assert got["label"].values.tolist() == ["clay", "clay", "water"]
    np.testing.assert_allclose(got["wavelength"], [500, 600])
    np.testing.assert_allclose(got.values, [[0.1, 0.3, 0.5], [0.2, 0.4, 0.6]])
    assert read_library(path, unit="um", label="site")["label"].values.tolist() == ["x", "x", "y"]
    given = read_library(path, unit="um", label=["a", "b", "c"])
    assert given["label"].values.tolist() == ["a", "b", "c"]


def test_repeated_names_get_numbers_that_no_other_spectrum_has(tmp_path):
    rows = "".join(f"{name},a,.1,.2\n" for name in ("a", "a", "a 2", "a", "b"))
    got = read_library(write(tmp_path / "a.csv", f"Name,Class,500,600\n{rows}"))
    assert got["endmember"].values.tolist() == ["a 1", "a 3", "a 2", "a 4", "b"]


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("Site,Date,500,600\na,b,.1,.2\n", {}, "class: cannot tell .* among site, date: pass label="),
        ("500,600\n.1,.2\n", {}, "class: cannot tell .* no text columns"),
        ("Class,500,600\na,.1,.2\n", {"label": "kind"}, "no column 'kind': the text columns are class"),
        ("Class,500,600\na,.1,.2\n", {"label": ["a", "b"]}, "got 2 classes for 1 spectra"),
        ("Class,500,600\na,.1\n", {}, "row 2: has 2 cells, the header has 3"),
        ("Class,500,600\na,.1,x\n", {}, "row 2: the value at 600 is no finite number"),
        ("Class,500,600\na,nan,.1\n", {}, "row 2: the value at 500 is no finite number"),
        ("Class,500,600\n,.1,.1\n", {}, "row 2: has no class"),
        ("Class,b1,b2\na,.1,.2\n", {}, "expected wavelengths as column names, got Class, b1, b2"),
        ("Class,500,600\n", {}, "expected a header and spectra, got 1 rows"),
        ("Class,0.5,0.6\na,.1,.2\n", {}, "wavelength: the unit 'nm' contradicts .*unit='um' to read_l"),
        ("Class,500,600\na,1900,2100\n", {}, "pass scale="),
        ("Class,2019,Site,500,600\na,1,b,.1,.2\n", {}, "2019 and 500-600 are apart.*between them Site: rename"),
        ("Class,500,600,Site,700\na,.1,.2,b,.3\n", {}, "500-600 and 700 are apart"),
        ("Class,2019,500,600\na,1,.1,.2\n", {}, "header: the columns 2019 / 500-600 are not in order"),
        ("Class,500,600,7\na,.1,.2,1\n", {}, "header: the columns 500-600 / 7 are not in order"),
        ("Class,2019,2020,500,600\na,1,1,.1,.2\n", {}, "the columns 2019-2020 / 500-600 are not in order"),
        ("Class,2019,2020,500,2500\na,1,1,.1,.2\n", {}, "the columns 2019-2020 / 500-2500 are not in"),
        ("Class,500,600,600,700\na,.1,.2,.2,.3\n", {}, "the columns 500-600 / 600-700 are not in order"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be_understood_is_an_error(tmp_path, text, options, message):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(FileError, match=message) as caught:
        read_library(path, **options)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "centres",
    [
        [500, 600, 700, 650, 750, 850],  # two detectors
        [650, 750, 850, 500, 600, 700],
        [850, 750, 650, 600, 500, 400],
        [850, 750, 650, 700, 600, 500],
    ],
)
def test_bands_of_overlapping_detectors_and_from_long_to_short_are_legal(tmp_path, centres):
    text = "Class," + ",".join(map(str, centres)) + ",Site\na,.1,.2,.3,.4,.5,.6,b\n"
    got = read_library(write(tmp_path / "a.csv", text))
    np.testing.assert_array_equal(got["wavelength"], centres)
    np.testing.assert_allclose(got.values[:, 0], np.arange(1, 7) / 10)


def test_a_csv_that_is_not_utf8_and_unknown_files_are_errors(tmp_path):
    with pytest.raises(FileError, match="text: is not UTF-8.*save it as UTF-8"):
        read_library(write(tmp_path / "a.csv", "Class,500,600\nrêche,.1,.2\n", "latin-1"))
    with pytest.raises(FileError, match="format: no known spectral library: expected ENVI .sli"):
        read_library(write(tmp_path / "a.bin", "anything"))
    with pytest.raises(FileNotFoundError, match="no such spectral library"):
        read_library(tmp_path / "b.csv")
    with pytest.raises(FileError, match="neither .*ECOSTRESS.* nor .*USGS"):
        read_library(tmp_path)


def test_a_library_is_resampled_while_it_is_read(tmp_path):
    nm = np.arange(400, 701, 5.0)
    lines = ["class," + ",".join(map(str, nm)), "a," + ",".join(map(str, 1e-3 * nm))]
    path = write(tmp_path / "a.csv", "\n".join(lines))
    got = read_library(path, wavelength=[650.0, 500.0], fwhm=[20.0, 15.0])
    np.testing.assert_allclose(got[:, 0], [0.65, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(got["fwhm"], [20, 15])
    with pytest.raises(FileError, match="'a' spans 400 to 700 nm and has nothing at 1 of 2 bands"):
        read_library(path, wavelength=[650.0, 900.0])
    with pytest.raises(ValueError, match="pass wavelength= with it"):
        read_library(path, fwhm=[20.0])


# earthlib


def test_earthlib_is_a_name():
    config = pytest.importorskip("earthlib.config")
    got = read_library("earthlib")
    stored = np.fromfile(config.endmember_path, "<f4").reshape(len(config.metadata), -1)
    np.testing.assert_array_equal(got.values, stored.T)
    assert got["wavelength"].values[[0, -1]] == pytest.approx([400, 2450])
    assert got["label"].values.tolist() == config.metadata["LEVEL_2"].tolist()
    assert len(set(got["endmember"].values)) == len(stored)
    finer = read_library("earthlib", label="LEVEL_1")
    assert set(finer["label"].values) == {"pervious", "impervious"}
    with pytest.raises(FileError, match="no column 'kind': there are NAME"):
        read_library("earthlib", label="kind")
    near = read_library("earthlib", wavelength=[550.0, 860.0, 2200.0], fwhm=[10.0, 10.0, 10.0])
    bands = [int(np.abs(got["wavelength"].values - w).argmin()) for w in (550, 860, 2200)]
    np.testing.assert_allclose(near, got[bands], atol=0.01)


@pytest.mark.parametrize("scale, warned", [(1.0, False), (1e-4, True)])
def test_too_small_a_scale_of_a_library_is_warned_of(tmp_path, caplog, scale, warned):
    path = write(tmp_path / "a.csv", "Class,500,600,2200\nwater,.03,.01,0\nsoil,.2,.3,.4\n")
    read_library(path, scale=scale)
    assert ("as if the scale were too small: if so, pass scale=" in caplog.text) == warned


def test_a_csv_beside_the_header_of_an_image_is_a_csv(tmp_path):
    (tmp_path / "found.csv").write_text("class,400,500,600\nsoil,0.1,0.2,0.3\nleaf,0.1,0.1,0.2\n")
    (tmp_path / "found.hdr").write_text("ENVI\nsamples = 3\nlines = 2\nbands = 1\n")
    assert read_library(tmp_path / "found.csv", scale=1.0).sizes["endmember"] == 2


def test_the_same_bands_are_not_resampled():
    rng = np.random.default_rng(0)
    centres = np.linspace(400, 900, 20)
    library = xr.DataArray(
        rng.uniform(size=(20, 2)),
        dims=("wavelength", "endmember"),
        coords={"wavelength": centres, "fwhm": ("wavelength", np.full(20, 20.0))},
    )
    np.testing.assert_array_equal(resample_library(library, centres + 0.05), library)
    wider = resample_library(library, centres, fwhm=np.full(20, 60.0))
    assert np.abs(wider.values - library.values).max() > 0.01


def test_a_table_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"class,500,600\n")
        file.truncate(2**30 + 1)  # a hole, which takes no place on the disk
    with pytest.raises(
        FileError, match=r"a.csv: size: expected at most 1073741824 bytes, got 10737"
    ):
        read_library(path)
