"""Libraries that were written come back as they were, also in other programs."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import FileError, read_library
from pyro_unmix.io import write_library
from pyro_unmix.io.write.libraries import _texts

envi = pytest.importorskip("spectral.io.envi")

NM = np.array([500.0, 612.3456789, 700.1, 655.0, 2400.0])


def library(**more: Any) -> xr.DataArray:
    """Three spectra of two classes at bands in no order."""
    spectra = np.random.default_rng(0).uniform(0.05, 0.9, size=(5, 3))
    return xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={
            "wavelength": NM,
            "endmember": ["plot 7", "plot 8", "oak"],
            "label": ("endmember", ["soil", "soil", "leaf"]),
            **more,
        },
    )


SOURCE = {"source": ("endmember", ["field 2021", "field 2021", "lab"])}
FWHM = {"fwhm": ("wavelength", [5.0, 6.25, 7.0, 8.0, 9.0])}


@pytest.mark.parametrize("suffix", [".csv", ".sli"])
@pytest.mark.parametrize("missing", [[], [1], [0, 4]])
@pytest.mark.parametrize("more", [{}, SOURCE])
def test_what_was_written_is_read_back(
    tmp_path: Path, suffix: str, missing: list[int], more: dict[str, Any]
) -> None:
    given = library(**more, **(FWHM if suffix == ".sli" else {}))
    given[missing] = np.nan
    before = given.copy(deep=True)
    written = write_library(given, tmp_path / "new" / f"a{suffix}")
    xr.testing.assert_identical(given, before)
    assert [p.suffix for p in written] == ([".csv"] if suffix == ".csv" else [".sli", ".hdr"])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in written)
    xr.testing.assert_equal(read_library(written[0]), given)


def test_a_single_spectrum_keeps_its_missing_bands(tmp_path: Path) -> None:
    given = library(**SOURCE)[:, 2:]
    given[2] = np.nan
    for name in ("a.csv", "a.sli"):
        xr.testing.assert_equal(read_library(write_library(given, tmp_path / name)[0]), given)


def test_other_programs_read_them(tmp_path: Path) -> None:
    given = library(**SOURCE, **FWHM)
    sli, header = write_library(given, tmp_path / "a.sli")
    theirs = envi.open(str(header), str(sli))
    np.testing.assert_array_equal(theirs.spectra, given.values.T)
    np.testing.assert_array_equal(theirs.bands.centers, NM)
    np.testing.assert_array_equal(theirs.bands.bandwidths, given["fwhm"])
    assert theirs.names == given["endmember"].values.tolist()
    assert theirs.bands.band_unit == "Nanometers"
    with write_library(given, tmp_path / "a.csv")[0].open() as file:
        header_row, *rows = csv.reader(file)
    assert header_row[:4] == ["name", "class", "source", "wavelength_units"]
    assert [row[:4] for row in rows][2] == ["oak", "leaf", "lab", "nm"]
    np.testing.assert_array_equal(np.array(header_row[4:], dtype=float), NM)
    np.testing.assert_array_equal(np.array([row[4:] for row in rows], dtype=float), given.values.T)


def test_names_are_made_where_there_are_none_and_dims_may_be_turned(tmp_path: Path) -> None:
    given = library().drop_vars("endmember").T
    path = write_library(given, tmp_path / "a.csv")[0]
    assert read_library(path)["endmember"].values.tolist() == ["soil 1", "soil 2", "leaf 3"]
    np.testing.assert_array_equal(read_library(path), given.T)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float16", "float32", ">f4"])
@pytest.mark.parametrize("suffix", [".csv", ".sli"])
def test_other_kinds_of_numbers_are_written(tmp_path: Path, dtype: str, suffix: str) -> None:
    numbers = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype)
    given = library().copy(data=numbers)
    path = write_library(given, tmp_path / f"a{suffix}")[0]
    np.testing.assert_array_equal(read_library(path), numbers.astype(float))


def test_names_of_many_spectra_are_compared_at_once(tmp_path: Path) -> None:
    given = library().isel(endmember=np.zeros(30_000, dtype=int))
    given = given.assign_coords(endmember=[f"s{i}" for i in range(30_000)])
    start = time.perf_counter()
    names, _ = _texts(given)
    assert len(names) == 30_000 and time.perf_counter() - start < 2  # of pairs, tens of seconds


def test_files_that_are_there_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.hdr").write_text("mine")
    with pytest.raises(FileExistsError, match="a.hdr exists: pass overwrite=True"):
        write_library(library(), tmp_path / "a.sli")
    assert (tmp_path / "a.hdr").read_text() == "mine" and not (tmp_path / "a.sli").exists()
    write_library(library(), tmp_path / "a.sli", overwrite=True)
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        write_library(library(**FWHM), tmp_path / "a.csv")
    assert "holds no band widths (fwhm): write .sli" in caplog.text


@pytest.mark.parametrize(
    "change, name, text",
    [
        (lambda x: x, "a.txt", r"written as .csv or .sli, got .*a.txt"),
        (lambda x: x.drop_vars("label"), "a.csv", "coordinate label along endmember"),
        (lambda x: x.drop_vars("wavelength"), "a.csv", "no coordinate wavelength: add it, in nm"),
        (lambda x: x.assign_coords(wavelength=NM / 1000), "a.csv", "multiply by 1000"),
        (lambda x: x.values, "a.csv", "must be a DataArray"),
        (lambda x: x.where(x.endmember != "oak"), "a.csv", "library must be finite"),
        (lambda x: x.assign_coords(endmember=["a", "b", "a"]), "a.csv", "must differ, got 'a' more"),
        (lambda x: x.assign_coords(endmember=["a", " ", "c"]), "a.csv", "must not be empty"),
        (lambda x: x.assign_coords(endmember=["a", "b ", "c"]), "a.csv", "spaces at their ends.*'b '"),
        (lambda x: x.assign_coords(endmember=["a", "\udcff", "c"]), "a.sli", "must be texts of UTF-8"),
        (lambda x: x.assign_coords(endmember=["a", "b,c", "d"]), "a.sli", "spectra names .*'b,c'"),
        (lambda x: x.assign_coords(label=("endmember", ["{", "b", "d"])), "a.sli", "classes .*'{'"),
    ],
)  # fmt: skip
def test_bad_libraries_are_refused(tmp_path: Path, change: Any, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        write_library(change(library()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_name_with_a_comma_stands_in_a_table(tmp_path: Path) -> None:
    given = library().assign_coords(endmember=["a, b", 'c "d"', "é"])
    xr.testing.assert_equal(read_library(write_library(given, tmp_path / "a.csv")[0]), given)


def test_the_unit_of_a_table_is_that_of_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("class,wavelength_units,0.5,0.6\na,um,.1,.2\nb,um,.3,.4\n")
    np.testing.assert_allclose(read_library(path)["wavelength"], [500, 600])
    path.write_text("class,wavelength_units,0.5,0.6\na,um,.1,.2\nb,nm,.3,.4\n")
    with pytest.raises(FileError, match="wavelength_units: must hold one unit.*'nm', 'um'"):
        read_library(path)


def test_a_single_empty_cell_is_a_fault_and_an_empty_column_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("class,500,600,700\na,.1,,.2\nb,.3,,.4\n")
    np.testing.assert_array_equal(np.isnan(read_library(path)).all("endmember"), [0, 1, 0])
    path.write_text("class,500,600,700\na,.1,,.2\nb,.3,.1,.4\n")
    with pytest.raises(FileError, match="row 2: the value at 600 is no finite number"):
        read_library(path)
    path.write_text("class,500,600,700\na,.1,,\nb,.3,,\n")
    with pytest.raises(FileError, match="fewer than 2 channels hold a value"):
        read_library(path)
