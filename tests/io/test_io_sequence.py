"""Several files of one place: dates, grids and bands must fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sequence_cases import DATES, WAVELENGTH, H, L, T, W, make_cubes, write

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.image import Image
from pyro_unmix.io.sequence import _check_same_names


def write_dates(folder: Path, cubes: xr.DataArray | None = None) -> list[Path]:
    cubes = make_cubes() if cubes is None else cubes
    return [write(folder / f"{t}.nc", cubes.isel(time=t)) for t in range(cubes.sizes["time"])]


# --- dates -----------------------------------------------------------------------------------


def test_files_are_joined_in_time(tmp_path: Path) -> None:
    found = read_sequence(write_dates(tmp_path)).drop_vars("spatial_ref")
    xr.testing.assert_equal(found, make_cubes())


def test_any_order_of_the_files(tmp_path: Path) -> None:
    paths = write_dates(tmp_path)
    xr.testing.assert_equal(
        read_sequence([paths[2], paths[0], paths[1]]).drop_vars("spatial_ref"), make_cubes()
    )


def test_files_of_one_and_of_several_dates(tmp_path: Path) -> None:
    cubes = make_cubes()
    one = write(tmp_path / "a.nc", cubes.isel(time=[0, 2]))
    two = write(tmp_path / "b.nc", cubes.isel(time=1))
    xr.testing.assert_equal(read_sequence([one, two]).drop_vars("spatial_ref"), cubes)


def test_dates_of_the_caller_go_with_the_paths(tmp_path: Path) -> None:
    paths = write_dates(tmp_path)
    found = read_sequence(paths, dates=["2022-01-03", "2022-01-01", "2022-01-02"])
    assert found.time.dt.day.values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found.values, make_cubes().values[[1, 2, 0]])
    found = read_sequence(paths, dates=[1.5, 2.5, 3.5])
    assert found.time.values.tolist() == [1.5, 2.5, 3.5]
    with pytest.raises(
        ValueError, match="dates= must hold one date per image, 3 in the files, got 2"
    ):
        read_sequence(paths, dates=DATES[:2])


def test_without_dates_the_order_of_the_paths_stands(tmp_path: Path) -> None:
    paths = write_dates(tmp_path, make_cubes().drop_vars("time"))
    found = read_sequence(paths[::-1])
    assert "time" not in found.coords
    np.testing.assert_array_equal(found.values, make_cubes().values[::-1])


def test_duplicated_dates(tmp_path: Path) -> None:
    paths = write_dates(tmp_path)
    with pytest.raises(FileError, match="1.nc: dates: 2020-02-10.* appears twice, also in .*1.nc"):
        read_sequence([*paths, paths[1]])
    with pytest.raises(FileError, match="2.nc: dates: 2022-01-02.* also in .*1.nc"):
        read_sequence(paths, dates=["2022-01-01", "2022-01-02", "2022-01-02"])


def test_dates_in_some_files_only(tmp_path: Path) -> None:
    one = write(tmp_path / "a.nc", make_cubes().isel(time=0))
    two = write(tmp_path / "b.nc", make_cubes().isel(time=1, drop=True))
    with pytest.raises(FileError, match="b.nc: dates: is missing here.*pass dates="):
        read_sequence([one, two])
    three = write(tmp_path / "c.nc", make_cubes().assign_coords(time=[1.0, 2.0, 3.0]))
    with pytest.raises(FileError, match="dates: are numbers in some files and dates in others"):
        read_sequence([one, three])


# --- grids -----------------------------------------------------------------------------------


GRIDS: list[tuple[Callable[[xr.DataArray], xr.DataArray], str]] = [
    (lambda c: c.isel(x=slice(3)), r"it has 3 rows and 3 columns, not \(3, 4\)"),
    (lambda c: c.assign_coords(x=c.x + 15), "its transform is"),
    (lambda c: c.assign_coords(x=c.x * 1.0001), "its transform is"),
    (lambda c: c.drop_vars(["x", "y"]), "it has no transform"),
    (lambda c: c.assign_coords(x=[0.0, 1, 2, 4]), "it has no transform"),
    (lambda c: c.assign_coords(tile=("y", [0, 1, 1])), "it has a tile"),
    (
        lambda c: c.assign_coords(crs=xr.Variable((), 0, {"crs_wkt": 'LOCAL_CS["b"]'})),
        r"its coordinate reference system is LOCAL_CS\[\"b\"\] ..., not missing",
    ),
]


@pytest.mark.parametrize(("change", "text"), GRIDS)
def test_other_grids_are_refused(
    tmp_path: Path, change: Callable[[xr.DataArray], xr.DataArray], text: str
) -> None:
    one = write(tmp_path / "a.nc", make_cubes().isel(time=0))
    two = write(tmp_path / "b.nc", change(make_cubes().isel(time=1)))
    with pytest.raises(FileError, match=f"b.nc: grid: {text}.*a.nc: .*rio.reproject_match"):
        read_sequence([one, two])


def test_uneven_axes_are_compared(tmp_path: Path) -> None:
    uneven = make_cubes().assign_coords(x=[0.0, 1, 2, 4])
    one = write(tmp_path / "a.nc", uneven.isel(time=0))
    two = write(tmp_path / "b.nc", uneven.isel(time=1).assign_coords(x=[0.0, 1, 2, 5]))
    with pytest.raises(FileError, match="b.nc: grid: its x runs from 0.0 to 5.0, not from 0.0 to"):
        read_sequence([one, two])
    write(two, uneven.isel(time=1))
    assert read_sequence([one, two]).x.values.tolist() == [0, 1, 2, 4]


def test_rounding_is_no_other_grid(tmp_path: Path) -> None:
    one = write(tmp_path / "a.nc", make_cubes().isel(time=0))
    two = write(
        tmp_path / "b.nc", make_cubes().isel(time=1).assign_coords(x=make_cubes().x.values + 1e-4)
    )
    assert read_sequence([one, two]).sizes["time"] == 2


def test_one_crs_in_two_spellings(tmp_path: Path) -> None:
    crs = pytest.importorskip("rasterio.crs").CRS.from_epsg(32610)
    paths = []
    for t, version in enumerate(("WKT1_GDAL", "WKT2_2019")):
        place = xr.Variable((), 0, {"crs_wkt": crs.to_wkt(version=version)})
        cubes = make_cubes().isel(time=t).assign_coords(spatial_ref=place)
        paths.append(write(tmp_path / f"{t}.nc", cubes))
    assert read_sequence(paths).sizes["time"] == 2


def test_one_crs_with_and_without_identifiers(tmp_path: Path) -> None:
    """As GeoTIFF, ENVI and NetCDF write it; the axes of the register are not those of rasters."""
    pyproj = pytest.importorskip("pyproj")
    crs = pyproj.CRS.from_epsg(4326)
    two = crs.to_wkt("WKT2_2019")
    texts = [two, crs.to_wkt("WKT1_ESRI"), two.replace(',ID["EPSG",4326]', "")]
    assert "4326" not in texts[2] and texts[2] != two
    paths = []
    for t, text in enumerate(texts):
        place = xr.Variable((), 0, {"crs_wkt": text})
        cubes = make_cubes().isel(time=t).assign_coords(spatial_ref=place)
        degrees = {"x": 10 + 0.001 * np.arange(W), "y": 50 - 0.001 * np.arange(H)}
        paths.append(write(tmp_path / f"{t}.nc", cubes.assign_coords(degrees)))
    assert read_sequence(paths).sizes["time"] == T
    other = xr.Variable((), 0, {"crs_wkt": pyproj.CRS.from_epsg(4258).to_wkt()})
    cubes = xr.load_dataset(paths[2]).reflectance.assign_coords(spatial_ref=other)
    with pytest.raises(FileError, match="2.nc: grid: its coordinate reference system is GEOGCRS"):
        read_sequence([*paths[:2], write(paths[2], cubes)])


def test_a_crs_without_a_datum_is_none_of_those_with_one(tmp_path: Path) -> None:
    """As old Proj4 texts are; PROJ itself would take GRS80 for ETRS89 and intl for ED50."""
    pyproj = pytest.importorskip("pyproj")
    texts = ["+proj=utm +zone=33 +ellps=WGS84 +units=m", "EPSG:32633"]
    wkt = [pyproj.CRS.from_user_input(text).to_wkt() for text in texts]
    for first, other, which in ((0, 1, "the first"), (1, 0, "it")):
        paths = []
        for t, number in enumerate((first, other)):
            place = xr.Variable((), 0, {"crs_wkt": wkt[number]})
            cubes = make_cubes().isel(time=t).assign_coords(spatial_ref=place)
            paths.append(write(tmp_path / f"{t}.nc", cubes))
        problem = rf"grid: its coordinate .* \({which} names an ellipsoid but no datum: write"
        with pytest.raises(FileError, match=problem):
            read_sequence(paths)
    for t in (0, 1):  # both the same, in two spellings
        text = wkt[0] if t else texts[0]
        place = xr.Variable((), 0, {"crs_wkt": text})
        write(paths[t], make_cubes().isel(time=t).assign_coords(spatial_ref=place))
    assert read_sequence(paths).spatial_ref.attrs["crs_wkt"] == texts[0]


# --- bands -----------------------------------------------------------------------------------


def test_other_bands_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a.nc", make_cubes().isel(time=0))
    other = make_cubes().isel(time=1)
    two = write(tmp_path / "b.nc", other.isel(wavelength=slice(4)))
    with pytest.raises(FileError, match="b.nc: bands: has 4 bands, but .*a.nc has 5"):
        read_sequence([one, two])
    attrs = {"units": "nm"}
    shifted = ("wavelength", [450.0, 550.0, 653.0, 850.0, 1600.0], attrs)
    write(two, other.assign_coords(wavelength=shifted))
    with pytest.raises(FileError, match="b.nc: wavelength: band 2 is at 653 nm, but at 650 nm in"):
        read_sequence([one, two])
    write(two, other.drop_vars("wavelength"))
    with pytest.raises(FileError, match="b.nc: wavelength: is missing in .*b.nc"):
        read_sequence([one, two])


def test_bands_that_drift_are_joined_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fwhm = ("wavelength", np.array([10.0, 10.0, 12.0, 10.0, 15.0]), {"units": "nm"})

    def date(t: int, *shift: float) -> Path:
        cubes = make_cubes().isel(time=t)
        centres = ("wavelength", np.add(WAVELENGTH, shift), {"units": "nm"})
        return write(tmp_path / f"{t}.nc", cubes.assign_coords(wavelength=centres, fwhm=fwhm))

    paths = [date(0, 0, 0, 0, 0, 0), date(1, 0.05, -0.3, 1.1, 0, 1.4), date(2, 0, 0, 0.2, 0, 0)]
    found = read_sequence(paths)
    assert found.wavelength.values.tolist() == WAVELENGTH
    np.testing.assert_array_equal(found.values, make_cubes().values)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warnings == [
        f"{paths[1]}: bands are up to 1.4 nm off those of {paths[0]}, whose wavelengths are kept"
    ]
    date(2, 0, 0, 1.3, 0, 0)
    problem = r"band 2 is at 651.3 nm, but at 650 nm in .*0.nc, more than a tenth of its width away"
    with pytest.raises(FileError, match=f"2.nc: wavelength: {problem}: .*with bands="):
        read_sequence(paths)
    # Bands that are not read need not agree.
    chosen = read_sequence(paths, bands=[0, 1, 3])
    assert chosen.wavelength.values.tolist() == [450, 550, 850]


def test_rounded_wavelengths_are_no_shift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write_dates(tmp_path)
    rounded = ("wavelength", np.add(WAVELENGTH, 0.004), {"units": "nm"})
    write(paths[1], make_cubes().isel(time=1).assign_coords(wavelength=rounded))
    read_sequence(paths)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_one_unit_or_the_other(tmp_path: Path) -> None:
    one = write(tmp_path / "a.nc", make_cubes().isel(time=0))
    other = make_cubes().isel(time=1)
    micro = ("wavelength", np.array(WAVELENGTH) / 1000, {"units": "um"})
    two = write(tmp_path / "b.nc", other.assign_coords(wavelength=micro))
    np.testing.assert_array_equal(read_sequence([one, two]).wavelength, WAVELENGTH)


def test_a_band_without_data_at_one_date_is_dropped_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cubes = make_cubes().copy(deep=True)
    cubes[1, :, :, 3] = np.nan
    paths = write_dates(tmp_path, cubes)
    found = read_sequence(paths)
    np.testing.assert_array_equal(found.values, np.delete(make_cubes().values, 3, axis=-1))
    assert [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()] == [
        f"{paths[1]}: dropped 1 of 5 bands (counted from 0): no data: 3"
    ]


def test_a_date_without_any_data_is_a_missing_date(tmp_path: Path) -> None:
    cubes = make_cubes().copy(deep=True)
    cubes[1] = np.nan
    found = read_sequence(write_dates(tmp_path, cubes))
    assert np.isnan(found.values[1]).all()
    assert found.sizes["wavelength"] == L


def test_no_band_has_data_everywhere(tmp_path: Path) -> None:
    cubes = make_cubes().copy(deep=True)
    cubes[0, ..., :3] = np.nan
    cubes[1, ..., 3:] = np.nan
    with pytest.raises(FileError, match="0.nc: bands: no band has data in all files"):
        read_sequence(write_dates(tmp_path, cubes))


def test_settings_hold_for_all_files(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(100, 5000, (T, H, W, L)).astype("i2")
    stored[:, 0, 0] = -7
    for t in range(T):
        np.savez(tmp_path / f"{t}.npz", Y=stored[t], wavelength=[0.5, 0.6, 0.7, 0.8, 1.4])
    paths = [tmp_path / f"{t}.npz" for t in range(T)]
    found = read_sequence(
        paths,
        dates=DATES,
        scale=2e-4,
        bands=slice(1, None),
        ignore="water_vapour",
        wavelength_unit="um",
        nodata=-7,
    )
    expected = stored[..., 1:4] * 2e-4
    expected[:, 0, 0] = np.nan
    np.testing.assert_allclose(found.values, expected, rtol=2.0**-24)
    np.testing.assert_allclose(found.wavelength, [600, 700, 800], rtol=1e-15)


def test_the_offset_of_the_caller(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(2000, 9000, (H, W, L)).astype("u2")
    np.savez(tmp_path / "a.npz", cubes=stored)
    offset = np.array([-0.1, 0.0, 0.05, 0.0, 0.0])
    for given in (0.02, offset):
        found = read_sequence(tmp_path / "a.npz", scale=1e-4, offset=given)
        np.testing.assert_allclose(found.values[0], stored * 1e-4 + given, rtol=1e-6)
    for wrong in ([1.0, 2.0], np.nan, "0.1"):
        with pytest.raises(
            ValueError, match=r"offset must be a number, or one per band of .*\(5\)"
        ):
            read_sequence(tmp_path / "a.npz", scale=1e-4, offset=wrong)
    with pytest.raises(ValueError, match=r"scale must be a positive number, or one per band of"):
        read_sequence(tmp_path / "a.npz", scale=-1)
    with pytest.raises(FileError, match="a.npz: scale: the file holds integers"):
        read_sequence(tmp_path / "a.npz", offset=0.1)


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    paths = write_dates(tmp_path)
    write(paths[1], make_cubes().isel(time=1) * 1e4)
    with pytest.raises(FileError, match="1.nc: values: ") as info:
        read_sequence(paths)
    assert "0.nc" not in str(info.value)


def test_chunks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", make_cubes())
    try:
        import dask.array  # type: ignore[import-not-found]
    except ImportError:
        with pytest.raises(ImportError, match=r'chunks= needs dask: pip install "pyro-unmix\[sca'):
            read_sequence(path, chunks={"y": 1})
    else:
        found = read_sequence(path, chunks={"y": 1})
        assert isinstance(found.data, dask.array.Array)
        assert found.chunksizes["y"] == (1, 1, 1)
        xr.testing.assert_equal(found.compute(), read_sequence(path))


def test_bands_of_other_names_are_not_joined_by_position(tmp_path: Path) -> None:
    def image(names: tuple[str, ...]) -> Image:
        return Image(values=np.full((2, 2, 2), 0.3), format="any", names=list(names))

    first, other = image(("B02", "B03")), image(("B03", "B02"))
    _check_same_names(first, tmp_path / "a", first, tmp_path / "b")
    with pytest.raises(
        FileError, match=r"b: band names: are .'B03', 'B02'., but .'B02', 'B03'. in"
    ):
        _check_same_names(first, tmp_path / "a", other, tmp_path / "b")
