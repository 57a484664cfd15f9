"""Small files in each known layout, broken ones, and the layouts of published scenes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import xarray as xr

from pyro_unmix.cubes import as_cube_sequence
from pyro_unmix.io import read_cubes

T, H, W, L = 2, 3, 4, 5
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]
DATES = ["2020-01-01", "2020-02-10"]


def make_array() -> np.ndarray:
    return np.random.default_rng(0).random((T, H, W, L))


def make_cubes() -> xr.DataArray:
    return as_cube_sequence(make_array(), wavelength=WAVELENGTH, time=DATES)


def as_columns(image: np.ndarray) -> np.ndarray:
    """(H, W, L) -> (L, N), pixel n = row + H column, written out."""
    matrix = np.empty((image.shape[2], image.shape[0] * image.shape[1]), dtype=image.dtype)
    for row, column in np.ndindex(*image.shape[:2]):
        matrix[:, row + image.shape[0] * column] = image[row, column]
    return matrix


def save_v73(path: Path, **variables: np.ndarray | list[np.ndarray]) -> None:
    """As MATLAB does: axes reversed, and a cell array as references, after a block of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, list):
                cells = [file.create_dataset(f"#refs#/{i}", data=v.T) for i, v in enumerate(value)]
                grid = file.create_dataset(name, (len(cells), 1), dtype=h5py.ref_dtype)
                for i, cell in enumerate(cells):
                    grid[i, 0] = cell.ref
            else:
                file[name] = np.asarray(value).T


# --- NetCDF ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reflectance", "rho"])
def test_netcdf_comes_back_as_written(tmp_path: Path, name: str) -> None:
    cubes = make_cubes().assign_coords(tile=("y", [0, 0, 1]))
    dataset = xr.Dataset({name: cubes.transpose("wavelength", "time", "y", "x"), "elevation": 3.0})
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(read_cubes(tmp_path / "a.nc"), cubes)


def test_packed_netcdf_is_unpacked(tmp_path: Path) -> None:
    cubes = make_cubes().copy(deep=True)
    cubes[0, 1, 2] = np.nan
    packing = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -9999}
    cubes.to_dataset().to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={"reflectance": packing}
    )
    # Packing rounds to the nearest 1e-4, unpacking to float32.
    np.testing.assert_allclose(
        read_cubes(tmp_path / "a.nc").values, cubes.values, rtol=0, atol=0.5e-4 + 2.0**-23
    )


def test_several_files_are_joined_in_time(tmp_path: Path) -> None:
    cubes = make_cubes()
    paths = [tmp_path / "a.nc", tmp_path / "b.nc"]
    for t, path in enumerate(paths):
        cubes.isel(time=t).to_dataset().to_netcdf(path, engine="h5netcdf")
    xr.testing.assert_equal(read_cubes(paths), cubes)
    with pytest.raises(ValueError, match="b.nc, .*a.nc: dates must increase"):
        read_cubes(paths[::-1])


def test_netcdf_without_a_cube_lists_what_is_there(tmp_path: Path) -> None:
    make_cubes().isel(wavelength=0).to_dataset(name="LAI").to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf"
    )
    with pytest.raises(ValueError, match=r"a.nc: expected a variable 'reflectance'.*LAI\('time'"):
        read_cubes(tmp_path / "a.nc")


def test_netcdf_with_two_cubes_is_ambiguous(tmp_path: Path) -> None:
    cubes = make_cubes()
    xr.Dataset({"a": cubes, "b": cubes}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="got 2 of them among: a.*b"):
        read_cubes(tmp_path / "a.nc")


# --- npz -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["cubes", "reflectance", "Y"])
def test_npz(tmp_path: Path, key: str) -> None:
    content = {key: make_array(), "wavelength": WAVELENGTH, "time": DATES, "A": np.zeros(3)}
    np.savez(tmp_path / "a.npz", **content)
    xr.testing.assert_equal(read_cubes(tmp_path / "a.npz"), make_cubes())


def test_npz_image_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", Y=make_array()[0])
    cubes = read_cubes(str(tmp_path / "a.npz"))
    assert cubes.shape == (1, H, W, L)
    assert not cubes.coords
    np.testing.assert_array_equal(cubes.values[0], make_array()[0])


@pytest.mark.parametrize("scale", [1e-4, [1e-4, 2e-4, 1e-4, 3e-4, 1e-4]])
def test_npz_scales_after_marking_nodata(tmp_path: Path, scale: float | list[float]) -> None:
    numbers = np.random.default_rng(1).integers(0, 3000, (T, H, W, L)).astype("i2")
    numbers[1, 2, 3, 4] = -9999
    np.savez(tmp_path / "a.npz", cubes=numbers, scale=scale, nodata=-9999)
    expected = numbers * np.asarray(scale)
    expected[1, 2, 3, 4] = np.nan
    np.testing.assert_allclose(read_cubes(tmp_path / "a.npz").values, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"A": make_array()}, "exactly one of the keys cubes, reflectance, Y, got none .*: A"),
        ({"Y": make_array(), "cubes": make_array()}, "got cubes, Y among"),
        ({"Y": np.ones((H, L))}, r"axes .*got shape \(3, 5\)"),
        ({"Y": np.ones((T, H, W, L), "i2")}, "integers without a scale: add the key 'scale'"),
        ({"Y": make_array(), "scale": [1.0, 2.0]}, "scale must be one number or one per band"),
        ({"Y": make_array(), "scale": 0.0}, "scale must be finite and positive"),
        ({"Y": make_array(), "wavelength": [400.0]}, r"wavelength must have the shape \(5,\)"),
        ({"Y": make_array(), "time": DATES[:1]}, r"time must have the shape \(2,\), got \(1,\)"),
        ({"Y": make_array(), "time": DATES[::-1]}, "dates must increase"),
        ({"Y": make_array() * 1e4}, "a median of .*divide by the scale"),
        ({"Y": np.array(["a"] * 8).reshape(2, 2, 2)}, "in floating point, got <U1"),
        ({"Y": np.array([{}])}, "cannot be read as .npz.*pickle"),
    ],
)
def test_refused_npz(tmp_path: Path, content: dict[str, object], text: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=f"a.npz: .*{text}"):
        read_cubes(tmp_path / "a.npz")


# --- MATLAB ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_mat_band_row_column_time(tmp_path: Path, version: str) -> None:
    stored = make_array().transpose(3, 1, 2, 0)
    if version == "v5":
        scipy.io.savemat(tmp_path / "a.mat", {"Y": stored, "M": np.ones((L, 2))})
    else:
        save_v73(tmp_path / "a.mat", Y=stored, M=np.ones((L, 2)))
    np.testing.assert_array_equal(read_cubes(tmp_path / "a.mat").values, make_array())


@pytest.mark.parametrize("version", ["v5", "v7.3"])
@pytest.mark.parametrize("names", [("nRow", "nCol"), ("lines", "cols"), ("H", "W")])
def test_mat_columns_of_pixels(tmp_path: Path, version: str, names: tuple[str, str]) -> None:
    numbers = np.random.default_rng(1).integers(0, 5000, (H, W, L)).astype("u2")
    content = {
        "Y": as_columns(numbers),
        names[0]: np.array([[H]]),
        names[1]: np.array([[W]]),
        "maxValue": np.array([[5000.0]]),
    }
    if version == "v5":
        scipy.io.savemat(tmp_path / "a.mat", content)
    else:
        save_v73(tmp_path / "a.mat", **content)
    np.testing.assert_array_equal(read_cubes(tmp_path / "a.mat").values[0], numbers / 5000)


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_mat_cell_of_dates(tmp_path: Path, version: str) -> None:
    cells = [as_columns(image) for image in make_array()]
    size = {"H": np.array([[H]]), "W": np.array([[W]])}
    if version == "v5":
        row = np.empty((1, T), dtype=object)
        row[0] = cells
        scipy.io.savemat(tmp_path / "a.mat", {"Y": row, **size})
    else:
        save_v73(tmp_path / "a.mat", Y=cells, **size)
    np.testing.assert_array_equal(read_cubes(tmp_path / "a.mat").values, make_array())


SIZE = {"nRow": H, "nCol": W}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"M": np.ones((L, 2))}, "exactly one of the keys Y, got none of them"),
        ({"Y": make_array()[0]}, r"Y must have the axes .*got shape \(3, 4, 5\)"),
        ({"Y": as_columns(make_array()[0])}, "exactly one of nRow/nCol, lines/cols, H/W, got 0"),
        (
            {"Y": as_columns(make_array()[0]), **SIZE, "H": H, "W": W},
            "exactly one of nRow/nCol, lines/cols, H/W, got 2",
        ),
        (
            {"Y": as_columns(make_array()[0]), "nRow": H, "nCol": H},
            r"shape \(band, 9\) for 3 rows and 3 columns, got \(5, 12\)",
        ),
        ({"Y": as_columns(make_array()[0]), "nRow": -1, "nCol": W}, "nRow must be one positive"),
        (
            {"Y": np.ones((L, H * W), "i2"), **SIZE},
            "integers int16 without a scale",
        ),
        (
            {"Y": as_columns(make_array()[0]), **SIZE, "maxValue": 5000.0},
            "already reflectance, but there is a maxValue of 5000",
        ),
    ],
)
def test_refused_mat(tmp_path: Path, content: dict[str, object], text: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=f"a.mat: .*{text}"):
        read_cubes(tmp_path / "a.mat")


def test_mat_cells_must_agree(tmp_path: Path) -> None:
    one, two = (as_columns(image) for image in make_array())
    size = {"H": np.array([[H]]), "W": np.array([[W]])}
    save_v73(tmp_path / "a.mat", Y=[one, two[:-1]], **size)
    with pytest.raises(ValueError, match="a.mat: the cells of Y must have one shape"):
        read_cubes(tmp_path / "a.mat")


# --- broken files ----------------------------------------------------------------------------


def test_unknown_suffix_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*")
    with pytest.raises(ValueError, match="suffix of .*a.tif must be one of '.nc', '.npz', '.mat'"):
        read_cubes(tmp_path / "a.tif")
    with pytest.raises(FileNotFoundError, match="no such file: .*b.nc"):
        read_cubes([tmp_path / "b.nc"])
    with pytest.raises(ValueError, match="at least one"):
        read_cubes([])


@pytest.mark.parametrize("kind", ["nc", "npz", "mat v5", "mat v7.3"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / f"a.{kind.split()[0]}"
    if kind == "nc":
        make_cubes().to_dataset().to_netcdf(path, engine="h5netcdf")
    elif kind == "npz":
        np.savez(path, Y=make_array())
    elif kind == "mat v5":
        scipy.io.savemat(path, {"Y": make_array().transpose(3, 1, 2, 0)}, do_compression=True)
    else:
        save_v73(path, Y=make_array().transpose(3, 1, 2, 0))
    whole = path.read_bytes()
    read_cubes(path)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"a.{path.suffix[1:]}: "):
        read_cubes(path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, Y=make_array())
    with zipfile.ZipFile(path) as archive:
        middle = archive.getinfo("Y.npy").file_size // 2
    damaged = bytearray(path.read_bytes())
    damaged[middle] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.npz: cannot be read as .npz, it may be truncated"):
        read_cubes(path)


# --- published scenes ------------------------------------------------------------------------


def test_layout_of_the_published_scenes(data_dir: Path) -> None:
    path = data_dir / "readers" / "redsunn_layout.mat"
    content = scipy.io.loadmat(path)
    cubes = read_cubes(path)
    assert dict(cubes.sizes) == {"time": 6, "y": 10, "x": 10, "wavelength": 224}
    # The file holds its own truth, in the same axes: y = M_nt a + white noise. With any two axes
    # exchanged, the residual would hold the signal.
    clean = np.einsum("lphwt,phwt->thwl", content["M_nt"], content["A"])
    residual = cubes.values - clean
    chance = 5 / np.sqrt(residual.size)
    assert abs(np.corrcoef(residual.ravel(), clean.ravel())[0, 1]) < chance
    assert abs(residual.mean() / residual.std()) < chance


def test_layout_of_the_published_lake(data_dir: Path) -> None:
    cubes = read_cubes(data_dir / "readers" / "tahoe_layout_v73.mat")
    expected = np.load(data_dir / "readers" / "tahoe_layout_v73_expected.npy")
    # The expected cube was rounded to float32, of values below 1.
    np.testing.assert_allclose(cubes.values, expected, rtol=0, atol=2.0**-25)


@pytest.mark.parametrize(
    ("name", "sizes", "divisor"),
    [("jasper_ridge_r198.mat", (1, 100, 100, 198), 5000), ("samson.mat", (1, 95, 95, 156), 1)],
)
def test_published_images(
    data_dir: Path, name: str, sizes: tuple[int, ...], divisor: float
) -> None:
    stored = scipy.io.loadmat(data_dir / name)["Y"]
    cubes = read_cubes(data_dir / name)
    assert cubes.shape == sizes
    height, width = sizes[1:3]
    for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (17, 42)):
        np.testing.assert_array_equal(
            cubes.values[0, row, column], stored[:, row + height * column] / divisor
        )


def test_simulated_scenes(data_dir: Path) -> None:
    with np.load(data_dir / "bilinear.npz") as archive:
        np.testing.assert_array_equal(
            read_cubes(data_dir / "bilinear.npz").values, archive["Y"].astype(np.float32)
        )


def test_files_without_a_cube_are_refused(data_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"uneven_dates.nc: expected a variable .*LAI\('time'"):
        read_cubes(data_dir / "readers" / "uneven_dates.nc")
    with pytest.raises(ValueError, match="landsat_p013r030.npz: Y holds integers without a scale"):
        read_cubes(data_dir / "landsat_p013r030.npz")
