"""The one rule for bands that are the same, and the one for coordinate reference systems."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from pyro_unmix.data.bands import band_tolerance, local_spacing, narrower, other_bands, same_bands
from pyro_unmix.data.crs import crs_coordinates, crs_text, lacks_datum, same_crs

# ------------------------------------------------------------------ bands


def test_a_tenth_of_the_width() -> None:
    centres, fwhm = np.array([500.0, 510.0, 2200.0]), np.array([10.0, 6.0, 180.0])
    np.testing.assert_allclose(band_tolerance(centres, fwhm), [1.0, 0.6, 18.0])
    assert other_bands(centres, np.add(centres, [0.9, 0.5, 17.9]), fwhm).tolist() == []
    assert other_bands(centres, np.add(centres, [0.9, -0.7, 18.1]), fwhm).tolist() == [1, 2]
    assert other_bands(centres, [500.0, np.nan, 2200.0], fwhm).tolist() == [1]


def test_without_widths_the_spacing_counts() -> None:
    # Gaps of 5 nm, then a hole of 100 nm and gaps of 8 nm: each band has that of its own side.
    centres = np.concatenate([400 + 5.0 * np.arange(10), 545 + 8.0 * np.arange(10)])
    np.testing.assert_allclose(local_spacing(centres)[[0, 4, 15, 19]], [5, 5, 8, 8])
    tolerance = band_tolerance(centres)
    np.testing.assert_allclose(tolerance[[0, 4, 15, 19]], [0.5, 0.5, 0.8, 0.8])
    assert same_bands(centres, centres + 0.4)
    assert not same_bands(centres, centres + 0.6)
    # Bands far apart are not as wide as they are apart.
    np.testing.assert_allclose(band_tolerance([450.0, 550.0, 650.0]), 2.0)
    # One band says nothing of its width.
    assert same_bands([550.0], [550.005]) and not same_bands([550.0], [550.1])
    with pytest.raises(ValueError, match="a single band has no spacing"):
        local_spacing([550.0])


def test_the_spacing_of_bands_in_no_order_is_that_of_their_centres() -> None:
    for count in (4, 12, 40):
        centres = np.linspace(400, 2400, count) + np.geomspace(1, 200, count)
        order = np.random.default_rng(count).permutation(count)
        np.testing.assert_array_equal(local_spacing(centres[order]), local_spacing(centres)[order])
        np.testing.assert_array_equal(
            band_tolerance(centres[order]), band_tolerance(centres)[order]
        )
    # Detectors are in an order: their overlap, which has gaps of 2.5 nm by centres, does not count.
    first, second = 400 + 5.0 * np.arange(100), 852.5 + 5.0 * np.arange(100)
    for detectors in ([first, second], [first[::-1], second], [second, first]):
        np.testing.assert_allclose(local_spacing(np.concatenate(detectors)), 5)


def test_other_lengths_are_other_bands() -> None:
    assert not same_bands([450.0, 460.0], [450.0, 460.0, 470.0])


def test_the_rule_is_the_same_from_both_sides() -> None:
    one, two = np.array([10.0, 20.0]), np.array([12.0, 15.0])
    np.testing.assert_array_equal(narrower(one, two), [10, 15])
    np.testing.assert_array_equal(narrower(two, one), [10, 15])
    np.testing.assert_array_equal(narrower(one, None), one)
    assert narrower(None, None) is None


# ------------------------------------------------------------------ coordinate reference systems

CODES = (32633, 4326, 25832, 3857, 2056, 3035)


def _spellings(code: int) -> list[str]:
    from pyproj import CRS as ProjCRS
    from rasterio.crs import CRS

    first = CRS.from_epsg(code).to_wkt(version="WKT1_GDAL")
    bare = re.sub(r',AUTHORITY\["EPSG","\d+"\]', "", first)
    second = ProjCRS.from_epsg(code).to_wkt("WKT2_2019")
    return [
        first,
        bare,
        re.sub(r',AXIS\["[^"]*",\w+\]', "", bare),  # x east, y north, whatever the register says
        CRS.from_epsg(code).to_wkt(version="WKT1_ESRI"),
        second,
        re.sub(r',\s*ID\["EPSG",\d+\]', "", second),
        f"EPSG:{code}",
    ]


@pytest.mark.parametrize("without", ["", "pyproj"])
@pytest.mark.parametrize("code", CODES)
def test_one_crs_in_many_spellings(
    code: int, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    pytest.importorskip("pyproj")
    spellings = _spellings(code)
    other = [_spellings(c)[0] for c in CODES if c != code]
    if without:
        monkeypatch.setitem(sys.modules, without, None)
    for text in spellings:
        assert same_crs(spellings[0], text) and same_crs(text, spellings[0])
        assert not any(same_crs(text, wkt) for wkt in other)


def test_neighbours_are_not_the_same() -> None:
    pytest.importorskip("pyproj")
    for one, two in ((32633, 32632), (32633, 32733), (32633, 25833), (4326, 4258), (3857, 3395)):
        assert not same_crs(f"EPSG:{one}", f"EPSG:{two}")


def test_what_is_missing_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_crs(None, None) and same_crs("", None)
    assert not same_crs("EPSG:4326", None) and not same_crs(None, "EPSG:4326")
    assert same_crs("my own", "my own") and not same_crs("my own", "EPSG:4326")
    for name in ("pyproj", "rasterio.crs"):
        monkeypatch.setitem(sys.modules, name, None)
    assert same_crs("EPSG:4326", "EPSG:4326") and not same_crs("EPSG:4326", "epsg:4326")


def test_where_an_array_holds_its_crs() -> None:
    import xarray as xr

    place = xr.Variable((), 0, {"crs_wkt": "", "spatial_ref": "EPSG:4326"})
    array = xr.DataArray(np.zeros(2), dims="x", coords={"crs": place, "x": [0, 1], "time": 3})
    assert crs_coordinates(array.coords) == ["crs"]
    assert crs_text(array["crs"].attrs) == "EPSG:4326"
    assert crs_text({}) is None


@pytest.mark.parametrize("without", ["", "pyproj"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("+proj=utm +zone=33 +ellps=WGS84 +units=m +no_defs", 32633),
        ("+proj=utm +zone=33 +ellps=GRS80 +units=m +no_defs", 25833),
        ("+proj=utm +zone=33 +ellps=intl +units=m +no_defs", 23033),
    ],
)
def test_an_ellipsoid_is_no_datum(
    text: str, code: int, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL and PROJ would find the code of the likeliest datum."""
    rasterio = pytest.importorskip("rasterio.crs")
    wkt = rasterio.CRS.from_user_input(text).to_wkt()
    whole = rasterio.CRS.from_epsg(code).to_wkt()
    assert rasterio.CRS.from_user_input(text).to_epsg() == code
    if without:
        monkeypatch.setitem(sys.modules, without, None)
    assert lacks_datum(text) and lacks_datum(wkt)
    assert not lacks_datum(whole) and not lacks_datum(None)
    assert same_crs(text, wkt) and same_crs(wkt, text)
    for one in (text, wkt):
        assert not same_crs(one, whole) and not same_crs(whole, one)
    assert not lacks_datum("+proj=utm +zone=33 +datum=WGS84 +units=m +no_defs")
