"""NumPy files: the stated layout, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.data import as_cube_sequence
from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.registry import find_reader

T, H, W, L = 2, 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
DATES = ["2020-01-01", "2020-02-10"]


def make_array() -> np.ndarray:
    return np.random.default_rng(0).random((T, H, W, L))


def make_cubes() -> xr.DataArray:
    return as_cube_sequence(make_array(), wavelength=WAVELENGTH, time=DATES)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["cubes", "reflectance", "Y"])
def test_sequence(tmp_path: Path, key: str, save: object) -> None:
    content = {key: make_array(), "wavelength": WAVELENGTH, "time": DATES, "A": np.zeros(3)}
    save(tmp_path / "a.npz", **content)  # type: ignore[operator]
    assert find_reader(tmp_path / "a.npz").name == "NumPy archive"
    xr.testing.assert_equal(read_sequence(tmp_path / "a.npz"), make_cubes())


def test_image_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cubes=make_array()[0])
    cubes = read_sequence(str(tmp_path / "a.npz"))
    assert cubes.shape == (1, H, W, L)
    assert not cubes.coords
    np.testing.assert_array_equal(cubes.values[0], make_array()[0])


def test_axes_in_fortran_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", Y=np.asfortranarray(make_array()))
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.npz").values, make_array())


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_array())
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.npy").values, make_array())


def test_all_that_can_be_said(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(100, 3000, (T, H, W, L)).astype("i2")
    np.savez(
        tmp_path / "a.npz",
        cubes=numbers,
        wavelength=np.array(WAVELENGTH) / 1000,
        wavelength_unit="um",
        fwhm=np.full(L, 0.01),
        good=[1, 1, 0, 1, 1],
        scale=1e-4,
        offset=-0.01,
    )
    cubes = read_sequence(tmp_path / "a.npz")
    keep = [0, 1, 3, 4]
    np.testing.assert_allclose(cubes.values, numbers[..., keep] * 1e-4 - 0.01, rtol=1e-6)
    np.testing.assert_allclose(cubes.wavelength, np.array(WAVELENGTH)[keep], rtol=1e-15)
    np.testing.assert_allclose(cubes.fwhm, 10, rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-4, [1e-4, 2e-4, 1e-4, 3e-4, 1e-4]])
def test_scaled_after_marking_nodata(tmp_path: Path, scale: float | list[float]) -> None:
    numbers = np.random.default_rng(1).integers(0, 3000, (T, H, W, L)).astype("i2")
    numbers[1, 2, 3, 4] = -9999
    np.savez(tmp_path / "a.npz", cubes=numbers, scale=scale, nodata=-9999)
    expected = numbers * np.asarray(scale)
    expected[1, 2, 3, 4] = np.nan
    np.testing.assert_allclose(read_sequence(tmp_path / "a.npz").values, expected, rtol=2.0**-24)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"A": make_array()}, "exactly one of cubes, reflectance, Y, got none .*: A"),
        ({"Y": make_array(), "cubes": make_array()}, "got cubes, Y of them among"),
        ({"Y": np.ones((H, L))}, r"Y: must have the axes .*got the shape \(3, 5\)"),
        ({"Y": np.ones((T, H, W, L), "i2")}, r"scale: .*integers \(int16\) without a scale"),
        ({"Y": make_array(), "scale": [1.0, 2.0]}, "scale: must be one number or one per band"),
        ({"Y": make_array(), "scale": 0.0}, "scale: must be positive"),
        ({"Y": make_array(), "wavelength": [400.0]}, "wavelength: must hold 5 values"),
        ({"Y": make_array(), "wavelength": [0.4, 0.5, 0.6, 0.7, 0.8]}, "'nm' contradicts"),
        ({"Y": make_array(), "time": DATES[:1]}, "dates: must hold 2 values"),
        ({"Y": make_array(), "time": [DATES[0]] * 2}, "dates: 2020-01-01.* appears twice"),
        ({"Y": make_array() * 1e4}, "values: .*a median of .*divide by the scale"),
        ({"cubes": np.array(["a"] * 8).reshape(2, 2, 2)}, "values: must be real numbers, got <U1"),
        ({"Y": np.array([{}])}, "Y: holds Python objects"),
        ({"Y": make_array(), "nodata": "none"}, "nodata: must hold numbers"),
        ({"Y": make_array(), "wavelength_unit": 3}, "wavelength_unit: must be one text"),
    ],
)
def test_refused(tmp_path: Path, content: dict[str, object], text: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(FileError, match=f"a.npz: .*{text}"):
        read_sequence(tmp_path / "a.npz")


def test_unsorted_dates_are_sorted_with_their_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", Y=make_array()[::-1], time=DATES[::-1], wavelength=WAVELENGTH)
    xr.testing.assert_equal(read_sequence(tmp_path / "a.npz"), make_cubes())


def test_simulated_scenes(data_dir: Path) -> None:
    with np.load(data_dir / "bilinear.npz") as archive:
        np.testing.assert_array_equal(
            read_sequence(data_dir / "bilinear.npz").values, archive["Y"].astype(np.float32)
        )


def test_a_real_sequence(data_dir: Path) -> None:
    path = data_dir / "sentinel2_5dates.npy"
    np.testing.assert_array_equal(read_sequence(path).values, np.load(path))


def test_a_file_without_a_cube_is_refused(data_dir: Path) -> None:
    with pytest.raises(FileError, match="landsat_p013r030.npz: Y: of shape .* must be stated"):
        read_sequence(data_dir / "landsat_p013r030.npz")


def test_three_axes_of_a_name_that_others_use_must_be_stated(tmp_path: Path) -> None:
    """Such as (band, row, column), which would be read as an image of a few rows."""
    values = make_array()[0]
    np.savez(tmp_path / "a.npz", Y=values)
    with pytest.raises(FileError, match=r"a.npz: Y: of shape .* must be stated. Store \(row, col"):
        read_sequence(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", Y=values, wavelength=WAVELENGTH)
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.npz")[0], values)
    np.savez(tmp_path / "a.npz", Y=values.transpose(2, 0, 1), wavelength=WAVELENGTH)
    with pytest.raises(FileError, match="wavelength: must hold"):
        read_sequence(tmp_path / "a.npz")
