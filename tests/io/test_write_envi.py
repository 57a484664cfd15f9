"""ENVI files that we write, read back by SPy and rasterio (GDAL)."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS
from writer_cases import (
    BANDS,
    GRIDS,
    HEIGHT,
    NAMES,
    NORTH_UP,
    PLACES,
    WAVELENGTHS,
    WIDTH,
    at,
    grid,
    make_result,
    maps_of,
    place,
)

from pyro_unmix import Unmixing
from pyro_unmix.io.write import write_envi, write_geotiff

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rioxarray")
envi = pytest.importorskip("spectral.io.envi")


@pytest.mark.parametrize("epsg", [32633, 32733, 25833, 3035, 4326])
def test_envi_is_what_spy_and_gdal_read(tmp_path, epsg):
    result = make_result(crs=epsg)
    headers = result.to_envi(tmp_path)
    assert [p.name for p in headers] == [
        "abundances_2021-05-01.hdr",
        "abundances_2021-05-01_std.hdr",
        "abundances_2021-06-11.hdr",
        "abundances_2021-06-11_std.hdr",
        "endmembers.hdr",
    ]
    assert len(list(tmp_path.iterdir())) == 10
    for header, (time, name) in zip(
        headers, [(t, n) for t in (0, 1) for n in ("abundances", "abundances_std")], strict=False
    ):
        image = envi.open(header)
        expected = maps_of(result, time, name)
        np.testing.assert_array_equal(image.open_memmap(interleave="bsq"), expected)
        assert image.metadata["band names"] == NAMES
        assert image.metadata["data ignore value"] == "nan"
        date = ["2021-05-01T00:00:00Z", "2021-06-11T10:15:30Z"][time]
        assert image.metadata["acquisition time"] == date
        with rasterio.open(header.with_suffix(".img")) as file:
            np.testing.assert_array_equal(file.read(), expected)
            assert file.descriptions == tuple(NAMES)
            assert np.isnan(file.nodata)
            assert file.crs == CRS.from_epsg(epsg)
            assert file.transform.almost_equals(NORTH_UP, precision=1e-9)


def test_envi_says_utm_where_it_is(tmp_path):
    """For programs that read `map info` alone."""
    for epsg, expected in ((32633, ["33", "North", "WGS-84"]), (32701, ["1", "South", "WGS-84"])):
        fields = envi.open(make_result(crs=epsg).to_envi(tmp_path / str(epsg))[0]).metadata
        assert fields["map info"][0] == "UTM"
        assert [float(v) for v in fields["map info"][1:7]] == [1, 1, 500_000, 5_800_000, 30, 20]
        assert fields["map info"][7:] == expected
    fields = envi.open(make_result(crs=4326).to_envi(tmp_path / "geographic")[0]).metadata
    assert fields["map info"][0] == "Geographic Lat/Lon"


@pytest.mark.parametrize("kind", [name for name in GRIDS if name != "sheared"])
def test_envi_pixels_lie_where_they_belong(tmp_path, kind):
    result = make_result(GRIDS[kind])
    header = result.to_envi(tmp_path)[2]
    for row, column in PLACES:
        found = at(header.with_suffix(".img"), GRIDS[kind], row, column)
        np.testing.assert_array_equal(found, maps_of(result, 1)[:, row, column])
    with rasterio.open(header.with_suffix(".img")) as file:
        assert file.crs == CRS.from_epsg(32633)
        # The same footprint.
        corners = [(row, column) for row in (0, HEIGHT) for column in (0, WIDTH)]
        found = sorted(place(file.transform, *corner) for corner in corners)
        expected = sorted(place(GRIDS[kind], *corner) for corner in corners)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", [GRIDS["sheared"], grid(30, -20, 25)])
def test_envi_refuses_a_transform_that_it_cannot_hold(tmp_path, transform):
    with pytest.raises(ValueError, match="no sheared images.*not square.*write GeoTIFF"):
        make_result(transform).to_envi(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_envi_library_of_the_endmembers(tmp_path, dtype):
    result = make_result(dtype=dtype)
    library = envi.open(result.to_envi(tmp_path)[-1])
    assert isinstance(library, envi.SpectralLibrary)
    np.testing.assert_array_equal(library.spectra, result.reference_endmembers.to_numpy().T)
    assert library.spectra.dtype == dtype
    assert library.names == NAMES
    assert library.bands.centers == WAVELENGTHS.tolist()
    assert library.bands.bandwidths == np.linspace(8, 12.5, BANDS).tolist()
    assert library.bands.band_unit == "Nanometers"


def test_envi_library_without_wavelengths(tmp_path):
    dataset = make_result().dataset.drop_vars(["wavelength", "fwhm"])
    header = Unmixing(dataset).to_envi(tmp_path)[-1]
    assert "wavelength" not in header.read_text(encoding="utf-8")
    assert envi.open(header).bands.centers is None


@pytest.mark.parametrize("name", ["soil, dry", "so}il", "two\nlines"])
def test_envi_refuses_names_that_a_header_cannot_hold(tmp_path, name):
    with pytest.raises(ValueError, match="commas, braces or line breaks.*assign_coords"):
        make_result(names=["a", name, "c"]).to_envi(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with rasterio.open(make_result(names=["a", name, "c"]).to_geotiff(tmp_path)[0]) as file:
        assert file.descriptions[1] == name


def test_what_was_not_observed_is_nodata_unless_asked_for(tmp_path):
    result = make_result()
    valid = result.valid.to_numpy()
    assert 0 < valid.mean() < 1
    for write, suffix in ((write_geotiff, ".tif"), (write_envi, ".img")):
        for filled in (False, True):
            folder = tmp_path / f"{suffix}{filled}"
            write(result.to_dataset(), folder, filled=filled)
            for time, date in enumerate(("2021-05-01", "2021-06-11")):
                for name, end in (("abundances", ""), ("abundances_std", "_std")):
                    with rasterio.open(folder / f"abundances_{date}{end}{suffix}") as file:
                        found, known = file.read(), file.dataset_mask() > 0
                    expected = result.dataset[name][time].transpose("endmember", "y", "x").values
                    seen = valid[time] | filled
                    np.testing.assert_array_equal(found[:, seen], expected[:, seen])
                    assert np.isnan(found[:, ~seen]).all()
                    np.testing.assert_array_equal(known, seen & ~np.isnan(expected[0]))
    # The result itself keeps what the model says.
    assert result.abundances.notnull().values[~valid].any()


def test_materials_without_names_are_numbered(tmp_path):
    result = make_result(names=[0, 1, 2])
    with rasterio.open(result.to_geotiff(tmp_path)[0]) as file:
        assert file.descriptions == ("material 0", "material 1", "material 2")
    assert envi.open(result.to_envi(tmp_path)[0]).metadata["band names"] == [
        "material 0",
        "material 1",
        "material 2",
    ]
