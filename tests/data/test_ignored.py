"""Ranges of wavelength that do not count, and images without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import as_cube_sequence
from pyro_unmix.data import without_bands
from pyro_unmix.data.bands import ignored_bands, ignored_ranges, ranges_in_nm

NM = np.array([350.0, 440.0, 441.0, 1310.0, 1400.0, 2100.0, 2500.0])


def test_ranges_are_text_names_or_pairs() -> None:
    expected = ((0.0, 440.0), (1310.5, 1490.0))
    assert ignored_ranges("0-440, 1310.5 - 1490") == expected
    assert ignored_ranges([(0, 440), (1310.5, 1490)]) == expected
    assert ignored_ranges(None) == ()
    emit = ((0.0, 440.0), (1310.0, 1490.0), (1770.0, 2050.0), (2440.0, 2880.0))
    assert ignored_ranges("emit") == emit
    assert ignored_ranges("0-10,emit") == ((0.0, 10.0), *emit)
    assert ignored_ranges("water_vapour") == ((1340.0, 1450.0), (1790.0, 1960.0))


def test_centres_on_the_ends_are_inside() -> None:
    inside = [True, True, False, True, True, False, False]
    assert ignored_bands(NM, "0-440,1310-1490").tolist() == inside
    assert ignored_bands(NM, None).tolist() == [False] * 7


@pytest.mark.parametrize(
    ("ignore", "error", "text"),
    [
        ("", ValueError, "ranges in nm such as '0-440,1310-1490', or water_vapour, emit, got ''"),
        ("water", ValueError, "got 'water' in 'water'"),
        ("0-440;1310-1490", ValueError, "got '0-440;1310-1490'"),
        ("440-0", ValueError, "from low to high, got 440-0"),
        ("0.4-0.44", ValueError, "must be in nm, got 0.4-0.44 .*looks like um"),
        ([(-1, 3)], ValueError, "from low to high, got -1-3"),
        ([(0, np.nan)], ValueError, "from low to high, got 0-nan"),
        (440, TypeError, "ignore must be text such as .*or pairs.*got 440"),
        ([0, 440], TypeError, r"or pairs of numbers .*got \[0, 440\]"),
    ],
)
def test_what_is_no_range_is_refused(ignore: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ignored_ranges(ignore)


def test_bands_in_words_are_runs_of_neighbours_in_wavelength() -> None:
    centres = [500.0, 520.0, 510.0, 700.0, 710.0]
    assert ranges_in_nm(centres, [1, 0, 1, 0, 1]) == "500.0-510.0, 710.0 nm"


def labelled(values: np.ndarray | None = None) -> xr.DataArray:
    values = np.arange(2 * 7.0).reshape(1, 2, 7) / 20 + 0.1 if values is None else values
    return xr.DataArray(values, dims=("y", "x", "wavelength"), coords={"wavelength": NM})


def test_images_lose_bands_with_all_their_coordinates() -> None:
    cubes = labelled().assign_coords(fwhm=("wavelength", np.arange(7.0) + 5))
    left = without_bands(cubes, "0-440,1310-1490")
    assert left["wavelength"].values.tolist() == [441.0, 2100.0, 2500.0]
    assert left["fwhm"].values.tolist() == [7.0, 10.0, 11.0]
    assert left.equals(cubes[..., [2, 5, 6]])
    several = without_bands([cubes, cubes], "0-440")
    assert [image.sizes["wavelength"] for image in several] == [5, 5]
    assert without_bands(cubes, None) is cubes and without_bands(cubes, "600-700") is cubes


def test_bands_that_are_missing_everywhere_can_be_left_out() -> None:
    values = np.full((1, 2, 7), 0.2)
    values[..., 4] = np.nan
    with pytest.raises(ValueError, match="must have a valid pixel"):
        as_cube_sequence(labelled(values))
    assert as_cube_sequence(without_bands(labelled(values), "1310-1490")).notnull().all()


def test_images_in_chunks_stay_in_chunks() -> None:
    pytest.importorskip("dask")
    left = without_bands(labelled().chunk(x=1), "emit")
    assert left.chunks is not None and left.sizes["wavelength"] == 2


def test_without_wavelengths_nothing_can_be_ignored() -> None:
    with pytest.raises(ValueError, match="needs the wavelengths.*as_cube_sequence"):
        without_bands(np.full((1, 2, 7), 0.2), "emit")
    with pytest.raises(ValueError, match="leaves 1 of 7 bands .*350 to 2500 nm.*ignore less"):
        without_bands(labelled(), "400-2600")


def test_images_without_fitting_wavelengths_are_refused() -> None:
    cubes = labelled()
    with pytest.raises(ValueError, match="same bands, got band 2 at 460 nm in image 1 and at 441"):
        other = cubes.assign_coords(wavelength=np.where(NM == 441, 460, NM))
        without_bands([cubes, other], "0-440")
    with pytest.raises(ValueError, match="which they have not"):
        without_bands([cubes, cubes.values], "0-440")
    with pytest.raises(ValueError, match="the dim 'wavelength', .* with wavelengths on 'band'"):
        without_bands(cubes.swap_dims(wavelength="band"), "0-440")
    with pytest.raises(ValueError, match=r"largest value is 2\.5, which looks like um"):
        without_bands(cubes.assign_coords(wavelength=NM / 1000), "0-440")
