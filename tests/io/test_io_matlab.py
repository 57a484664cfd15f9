"""MATLAB files v5 and v7.3: the layouts in which scenes are published."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from pyro_unmix.io import FileError, read_sequence
from pyro_unmix.io.registry import find_reader

T, H, W, L = 2, 3, 4, 5
VERSIONS = ["v5", "v5 packed", "v5 big-endian", "v7.3"]


def make_array() -> np.ndarray:
    return np.random.default_rng(0).random((T, H, W, L))


def as_columns(image: np.ndarray) -> np.ndarray:
    """(H, W, L) -> (L, N), pixel n = row + H column, written out."""
    matrix = np.empty((image.shape[2], image.shape[0] * image.shape[1]), dtype=image.dtype)
    for row, column in np.ndindex(*image.shape[:2]):
        matrix[:, row + image.shape[0] * column] = image[row, column]
    return matrix


def save_v73(path: Path, **variables: np.ndarray | list[np.ndarray] | str) -> None:
    """As MATLAB does: axes reversed, and a cell array as references, after a block of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, list):
                cells = [file.create_dataset(f"#refs#/{i}", data=v.T) for i, v in enumerate(value)]
                grid = file.create_dataset(name, (len(cells), 1), dtype=h5py.ref_dtype)
                for i, cell in enumerate(cells):
                    grid[i, 0] = cell.ref
            elif isinstance(value, str):
                file[name] = np.array([[ord(letter)] for letter in value], dtype="u2")
                file[name].attrs["MATLAB_class"] = np.bytes_("char")
            else:
                file[name] = np.asarray(value).T
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def save_big_endian(path: Path, **variables: object) -> None:
    """After "MAT-File Format" by The MathWorks; SciPy writes no big-endian files."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(name: str, value: object) -> bytes:
        if isinstance(value, list):
            kind, shape, data = 1, (1, len(value)), b"".join(matrix("", cell) for cell in value)
        elif isinstance(value, str):
            codes = np.array([ord(letter) for letter in value], ">u2")
            kind, shape, data = 4, (1, len(value)), element(4, codes.tobytes())
        else:
            array = np.atleast_2d(np.asarray(value))
            # Class and type of double, uint16 and int64.
            kind, code = {"f8": (6, 9), "u2": (11, 4), "i8": (14, 12)}[array.dtype.str[1:]]
            big = array.astype(array.dtype.newbyteorder(">"))
            shape, data = array.shape, element(code, big.tobytes(order="F"))
        head = element(6, struct.pack(">II", kind, 0))
        head += element(5, struct.pack(f">{len(shape)}i", *shape))
        body = head + element(1, name.encode()) + data
        return struct.pack(">II", 14, len(body)) + body

    text = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    path.write_bytes(text + b"".join(matrix(n, v) for n, v in variables.items()))


def save(path: Path, version: str, **variables: object) -> None:
    if version == "v7.3":
        save_v73(path, **variables)  # type: ignore[arg-type]
        return
    if version == "v5 big-endian":
        save_big_endian(path, **variables)
        return
    for name, value in variables.items():
        if isinstance(value, list):
            row = np.empty((1, len(value)), dtype=object)
            row[0] = value
            variables[name] = row
    scipy.io.savemat(path, variables, do_compression=version == "v5 packed")


@pytest.mark.parametrize("version", VERSIONS)
def test_band_row_column_time(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.mat"
    save(path, version, Y=make_array().transpose(3, 1, 2, 0), M=np.ones((L, 2)))
    assert find_reader(path).name == "MATLAB file"
    np.testing.assert_array_equal(read_sequence(path).values, make_array())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("names", [("nRow", "nCol"), ("lines", "cols"), ("H", "W")])
def test_columns_of_pixels(tmp_path: Path, version: str, names: tuple[str, str]) -> None:
    numbers = np.random.default_rng(1).integers(0, 5000, (H, W, L)).astype("u2")
    size = {names[0]: np.array([[H]]), names[1]: np.array([[W]])}
    divisor = np.array([[5000.0]])
    save(tmp_path / "a.mat", version, Y=as_columns(numbers), maxValue=divisor, **size)
    cubes = read_sequence(tmp_path / "a.mat")
    np.testing.assert_allclose(cubes.values[0], numbers / 5000, rtol=2.0**-23)


@pytest.mark.parametrize("version", VERSIONS)
def test_cell_of_dates(tmp_path: Path, version: str) -> None:
    cells = [as_columns(image) for image in make_array()]
    save(tmp_path / "a.mat", version, Y=cells, H=np.array([[H]]), W=np.array([[W]]))
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.mat").values, make_array())


@pytest.mark.parametrize("version", VERSIONS)
def test_wavelengths_need_their_unit(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.mat"
    cube = make_array().transpose(3, 1, 2, 0)
    wavelength = np.linspace(0.45, 2.2, L)[:, np.newaxis]
    save(path, version, Y=cube, wavelength=wavelength, wavelength_unit="um")
    np.testing.assert_allclose(read_sequence(path).wavelength, 1000 * wavelength[:, 0], rtol=1e-15)
    save(path, version, Y=cube, wavelength=wavelength)
    with pytest.raises(FileError, match="a.mat: wavelength units: are not given.*wavelength_unit="):
        read_sequence(path)
    assert read_sequence(path, wavelength_unit="um").wavelength[0] == 450


def test_small_arrays_stand_in_their_tags(tmp_path: Path) -> None:
    # MATLAB writes data of up to four bytes into the tag, and doubles of small integers as bytes.
    cube = np.array([1, 0, 1], "u1").reshape(3, 1, 1, 1)
    scipy.io.savemat(tmp_path / "a.mat", {"Y": cube, "scale": 1.0})
    assert read_sequence(tmp_path / "a.mat").values.ravel().tolist() == [1, 0, 1]


@pytest.mark.parametrize("version", ["v5", "v5 packed", "v5 big-endian"])
def test_an_incomplete_file_is_noticed_behind_the_cube(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.mat"
    save(path, version, Y=make_array().transpose(3, 1, 2, 0), Z=make_array()[0, 0])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(FileError, match="a.mat: size: an array of .* it is incomplete"):
        read_sequence(path)


SIZE = {"nRow": H, "nCol": W}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"M": np.ones((L, 2))}, "variables: expected exactly one of Y, V, got none of them"),
        ({"Y": make_array()[0, 0, 0]}, "Y: of shape .band, pixel. needs"),  # (1, 5)
        (
            {"Y": make_array()[..., None]},
            r"Y: must have the axes .*got the shape \(2, 3, 4, 5, 1\)",
        ),
        (
            {"Y": make_array()[0]},
            r"Y: of shape \(3, 4, 5\) is .band, row, column. or .*nRow/nCol, .* got none",
        ),
        ({"Y": make_array()[0], "H": 5, "W": 3}, "Y: of shape .3, 4, 5. is .*got 5 x 3"),
        (
            {"Y": make_array()[0], **SIZE, "H": 4, "W": 5},
            "Y: of shape .3, 4, 5. is .*got 3 x 4, 4 x 5",
        ),
        ({"Y": np.ones((4, 4, 4)), "H": 4, "W": 4}, "got 4 x 4, which fits both: store it as"),
        ({"Y": as_columns(make_array()[0])}, "exactly one of nRow/nCol, lines/cols, H/W, got 0"),
        (
            {"Y": as_columns(make_array()[0]), **SIZE, "H": H, "W": W},
            "exactly one of nRow/nCol, lines/cols, H/W, got 2",
        ),
        (
            {"Y": as_columns(make_array()[0]), "nRow": H, "nCol": H},
            r"shape \(band, 9\) for 3 rows and 3 columns, got \(5, 12\)",
        ),
        ({"Y": as_columns(make_array()[0]), "nRow": -1, "nCol": W}, "nRow: must be one positive"),
        ({"Y": np.ones((L, H * W), "i2"), **SIZE}, r"scale: .*integers \(int16\) without a scale"),
        (
            {"Y": as_columns(make_array()[0]), **SIZE, "maxValue": 5000.0},
            "maxValue: is 5000, but Y is at most .* already reflectance",
        ),
        (
            {"Y": as_columns(make_array()[0]), **SIZE, "maxValue": 1.0, "scale": 1.0},
            "maxValue: is given together with scale",
        ),
        ({"Y": "text"}, "values|Y: "),
        ({"Y": {"field": 1}}, "Y: "),
    ],
)
def test_refused(tmp_path: Path, content: dict[str, object], text: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(FileError, match=f"a.mat: .*{text}"):
        read_sequence(tmp_path / "a.mat")


@pytest.mark.parametrize("version", VERSIONS)
def test_cells_must_agree(tmp_path: Path, version: str) -> None:
    one, two = (as_columns(image) for image in make_array())
    save(tmp_path / "a.mat", version, Y=[one, two[:-1]], H=np.array([[H]]), W=np.array([[W]]))
    with pytest.raises(FileError, match="a.mat: Y: must be a cell array of matrices of one shape"):
        read_sequence(tmp_path / "a.mat")


# --- published scenes ------------------------------------------------------------------------


def test_layout_of_the_published_scenes(data_dir: Path) -> None:
    path = data_dir / "readers" / "redsunn_layout.mat"
    content = scipy.io.loadmat(path)
    cubes = read_sequence(path)
    assert dict(cubes.sizes) == {"time": 6, "y": 10, "x": 10, "wavelength": 224}
    # The file holds its own truth, in the same axes: y = M_nt a + white noise. With any two axes
    # exchanged, the residual would hold the signal.
    clean = np.einsum("lphwt,phwt->thwl", content["M_nt"], content["A"])
    residual = cubes.values - clean
    chance = 5 / np.sqrt(residual.size)
    assert abs(np.corrcoef(residual.ravel(), clean.ravel())[0, 1]) < chance
    assert abs(residual.mean() / residual.std()) < chance


def test_layout_of_the_published_lake(data_dir: Path) -> None:
    cubes = read_sequence(data_dir / "readers" / "tahoe_layout_v73.mat")
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
    cubes = read_sequence(data_dir / name)
    assert cubes.shape == sizes
    height, width = sizes[1:3]
    for row, column in ((0, 0), (0, width - 1), (height - 1, 0), (17, 42)):
        np.testing.assert_allclose(
            cubes.values[0, row, column], stored[:, row + height * column] / divisor, rtol=2.0**-23
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_axes_of_one_image_follow_from_its_stated_size(
    tmp_path: Path, version: str, axes: tuple[int, ...]
) -> None:
    image = make_array()[0]
    size = {"lines": np.array([[float(H)]]), "cols": np.array([[float(W)]])}
    save(tmp_path / "a.mat", version, Y=image.transpose(axes), **size)
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.mat").values[0], image)


def test_stated_sizes_contradict_another_order_of_axes(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    values = np.random.default_rng(0).uniform(
        0.1, 0.5, size=(4, 5, 7, 3)
    )  # row, column, band, time
    scipy.io.savemat(path, {"Y": values, "nRow": 4, "nCol": 5})
    with pytest.raises(FileError, match=r"Y: must have the axes .band, row, column, time.*permute"):
        read_sequence(path)
    scipy.io.savemat(path, {"Y": values.transpose(2, 0, 1, 3), "nRow": 4, "nCol": 5})
    np.testing.assert_array_equal(read_sequence(path), values.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_by_the_name_of_v(tmp_path: Path, version: str) -> None:
    image = make_array()[0]
    columns, sizes = (
        as_columns(image),
        {"nRow": np.array([[float(H)]]), "nCol": np.array([[float(W)]])},
    )
    path = tmp_path / "a.mat"
    save(path, version, V=columns, **sizes)
    np.testing.assert_array_equal(read_sequence(path)[0], image)
    # Y is the image where both are there, and an error speaks of what is there.
    save(path, version, V=columns, Y=columns / 2, **sizes)
    np.testing.assert_array_equal(read_sequence(path)[0], image / 2)
    save(path, version, V=columns, nRow=sizes["nRow"])
    with pytest.raises(FileError, match="V: of shape .band, pixel. needs the image size"):
        read_sequence(path)
    save(path, version, X=columns, **sizes)
    with pytest.raises(FileError, match="expected exactly one of Y, V, got none"):
        read_sequence(path)
