"""Bands of a library that hold no reflectance, and spectra or classes that do not fit each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import FileError, read_library
from pyro_unmix.data import library_endmembers, resample_library
from pyro_unmix.data.libraries import at_bands_of

NM = np.arange(400.0, 701.0, 10.0)
FILLED = (NM > 445) & (NM < 495) | (NM == 600)


def spectra(fill: float = 0.0) -> np.ndarray:
    """Three spectra (3, L), straight lines, with fill in some bands."""
    lines = np.outer([2e-4, 5e-4, 8e-4], NM)
    return np.where(FILLED, fill, lines)


def write(folder: Path, values: np.ndarray, classes: str = "soil leaf leaf") -> Path:
    path = folder / "library.csv"
    lines = ["class," + ",".join(map(str, NM))]
    names = classes.split("|") if "|" in classes else classes.split()
    lines += [
        f"{n}," + ",".join(map(repr, row.tolist())) for n, row in zip(names, values, strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("fill", [0.0, -0.01, -9999.0, 1.0])
def test_bands_of_fill_in_every_spectrum_are_missing(tmp_path: Path, fill: float) -> None:
    with pytest.warns(
        UserWarning, match=r"6 of 31 bands .*missing: 450.0-490.0, 600.0 nm"
    ) as caught:
        library = read_library(write(tmp_path, spectra(fill)))
    assert Path(caught[0].filename) == Path(__file__)
    np.testing.assert_array_equal(np.isnan(library.values), np.repeat(FILLED[:, None], 3, 1))
    np.testing.assert_array_equal(library.values[~FILLED], spectra()[:, ~FILLED].T)
    means = library_endmembers(library)
    np.testing.assert_array_equal(np.isnan(means.values).all(1), FILLED)


def test_a_constant_that_fills_nothing_else_and_zeros_of_single_spectra_are_kept(
    tmp_path: Path,
) -> None:
    values = np.outer([2e-4, 5e-4, 8e-4], NM)
    values[:, 3] = 0.25  # three spectra that cross
    values[0, 5:] = 0.0  # water
    assert read_library(write(tmp_path, values)).notnull().all()
    same = np.repeat(spectra()[:1], 2, axis=0)
    assert read_library(write(tmp_path, same, "soil leaf")).notnull().all()


def test_nothing_is_interpolated_across_missing_bands(tmp_path: Path) -> None:
    targets = np.arange(405.0, 700.0, 7.0)
    with pytest.warns(UserWarning, match="missing"):
        read = read_library(write(tmp_path, spectra()), wavelength=targets)
    with pytest.warns(UserWarning, match="missing"):
        later = resample_library(read_library(write(tmp_path, spectra())), targets)
    whole = read_library(write(tmp_path, np.outer([2e-4, 5e-4, 8e-4], NM)), wavelength=targets)
    missing = np.isnan(read.values)
    np.testing.assert_array_equal(missing, np.isnan(later.values))
    # a band of 7 nm touches every source band of 10 nm that is less than 8.5 nm away
    near = (np.abs(targets[:, None] - NM[FILLED]) < 8.5).any(1)
    far = (np.abs(targets[:, None] - NM[FILLED]) > 8.5 + 1e-9).all(1)
    assert missing[near].all() and not missing[far].any() and near.any()
    np.testing.assert_allclose(read.values[~missing], whole.values[~missing], rtol=1e-12)
    np.testing.assert_allclose(later.values[~missing], whole.values[~missing], rtol=1e-12)


def test_what_needs_all_bands_says_which_to_ignore(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="missing"):
        library = read_library(write(tmp_path, spectra()))
    cubes = xr.DataArray(
        np.full((1, 1, 1, len(NM)), 0.2),
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": NM},
    )
    text = r"no values at 6 of 31 bands \(450.0-490.0, 600.0 nm\): leave them out, ignore='450-490,600-600'"
    with pytest.raises(ValueError, match=text):
        at_bands_of(library, cubes)
    library.values[0, 0] = np.nan
    with pytest.raises(ValueError, match="library must be finite"):
        library_endmembers(library)


def test_a_library_of_fill_at_nearly_all_bands_is_read_with_a_warning(tmp_path: Path) -> None:
    values = np.zeros((3, len(NM)))
    values[:, 1] = [0.1, 0.2, 0.3]
    with pytest.warns(UserWarning, match="30 of 31"):
        read_library(write(tmp_path, values))
    values = np.vstack([np.zeros(len(NM)), np.ones(len(NM))])
    assert read_library(write(tmp_path, values, "shade snow")).notnull().all()


def test_spectra_in_different_scales_are_an_error_that_says_so(tmp_path: Path) -> None:
    values = np.outer([2e-4, 5e-2, 8e-2], NM)
    with pytest.raises(FileError, match="2 of 3 spectra are in another scale than the others"):
        read_library(write(tmp_path, values))


@pytest.mark.parametrize(("full", "scale"), [(100, "0.01"), (10_000, "1e-4")])
def test_the_advised_scale_gives_reflectances(tmp_path: Path, full: float, scale: str) -> None:
    path = write(tmp_path, full * np.outer([2e-4, 3e-4, 4e-4], NM))
    with pytest.raises(FileError, match=f"for example scale={scale}$"):
        read_library(path)
    np.testing.assert_allclose(
        read_library(path, scale=float(scale)), np.outer(NM, [2e-4, 3e-4, 4e-4])
    )


def test_a_spectrum_that_is_too_dark_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_library(write(tmp_path, np.outer([2e-4, 5e-4, 8e-8], NM), "soil leaf roof"))
    assert "no reflectance of roof is above 0.01" in caplog.text


def test_classes_that_differ_by_case_or_spaces_are_warned_of(tmp_path: Path) -> None:
    values = np.outer([2e-4, 5e-4, 8e-4], NM)
    with pytest.warns(UserWarning, match="'Dry soil', 'dry  soil' differ in case or spaces alone"):
        library = read_library(write(tmp_path, values, "Dry soil|leaf|dry  soil"))
    assert len(set(library["label"].values)) == 3
    with pytest.raises(FileError, match="class"):
        read_library(write(tmp_path, values, "soil||leaf"))


def test_the_library_of_emit(data_dir: Path) -> None:
    path = data_dir / "emit_endmember_library.csv"
    with pytest.warns(UserWarning, match="27 of 224 bands .*1322.6-1422.3, 1810.9-1936.3 nm"):
        library = read_library(path, scale=1e-4)
    with pytest.warns(UserWarning, match="27 of 224"):
        near = read_library(path, scale=1e-4, wavelength=[1300.0, 1310.0, 1320.0, 1330.0])
    soil = library_endmembers(library).sel(endmember="SOIL")
    assert soil.isnull().sum() == 27
    got = library_endmembers(near).sel(endmember="SOIL").values
    assert got[0] > 0.2 and np.isnan(got[2:]).all()  # 0.036 at 1320 nm if zeros were mixed in
