"""With chunks=, files are read by the block: the same numbers, and no more memory than the part that is taken."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

dask = pytest.importorskip("dask")
rasterio = pytest.importorskip("rasterio")
pytest.importorskip("spectral")
from products import write_tiff  # noqa: E402

from pyro_unmix.io import FileError, read_sequence  # noqa: E402
from pyro_unmix.io import lazy as lazy_module  # noqa: E402
from pyro_unmix.io.sequence import _open_image  # noqa: E402

HEIGHT, WIDTH, BANDS = 70, 40, 6
HEADER = """ENVI
samples = {1}
lines = {0}
bands = {2}
data type = 12
interleave = bsq
byte order = 0
header offset = 0
data ignore value = 9
reflectance scale factor = 10000
wavelength units = nm
wavelength = {{{3}}}
"""


def stored(seed: int = 0) -> np.ndarray:
    """Numbers with nodata in some places, zeros in a whole spectrum, and one empty band."""
    values = np.random.default_rng(seed).integers(500, 6000, (HEIGHT, WIDTH, BANDS)).astype("u2")
    values[3, 4, 1] = values[50, 5] = 9
    values[60, 7] = 0
    values[..., 4] = 9
    return values


def write_envi(path: Path, values: np.ndarray) -> Path:
    height, width, bands = values.shape
    centres = ", ".join(str(500 + 10 * band) for band in range(bands))
    path.with_suffix(".hdr").write_text(HEADER.format(height, width, bands, centres))
    values.transpose(2, 0, 1).astype("<u2").tofile(path)
    return path


TILES = {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"}


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    values = stored(seed)
    if kind == "envi":
        return write_envi(folder / f"{seed}.img", values)
    scaled: dict[str, Any] = {"nodata": 9, "scales": [1e-4] * BANDS}
    path = folder / f"{seed}.tif"
    if kind == "masked":
        write_tiff(path, values, scales=[1e-4] * BANDS)
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.where((values == 9).any(axis=-1) & (values[..., 0] == 9), 0, 255))
        return path
    return write_tiff(path, values, **scaled, **(TILES if kind == "tiles" else {}))


@pytest.mark.parametrize("kind", ["strips", "tiles", "masked", "envi"])
def test_the_same_as_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.array

    paths = [make(kind, tmp_path, seed) for seed in range(2)]
    settings: dict[str, Any] = {"dates": ["2021-05-02", "2021-05-01"]}
    monkeypatch.setattr(lazy_module, "_BLOCK", 8 * WIDTH * BANDS)
    lazy = read_sequence(paths, chunks={"y": 16}, **settings)
    assert isinstance(lazy.data, dask.array.Array)
    assert lazy.chunksizes["y"] == (16, 16, 16, 16, 6)
    xr.testing.assert_identical(lazy.compute(), read_sequence(paths, **settings))
    # By hand, at the later date.
    if kind != "masked":
        expected = stored(0)[..., [0, 1, 2, 3, 5]] * 1e-4
        expected[3, 4, 1] = expected[50, 5] = expected[60, 7] = np.nan
        np.testing.assert_allclose(lazy[1], expected, rtol=1e-6)


def test_the_numbers_stay_in_the_file(tmp_path: Path) -> None:
    path = make("tiles", tmp_path)
    values = _open_image(path).values
    assert not isinstance(values, np.ndarray)
    np.testing.assert_array_equal(values[10:45], stored()[10:45])
    np.testing.assert_array_equal(values[69], stored()[69])
    with pytest.raises(IndexError, match="row 70 of 70"):
        values[70]
    cubes = read_sequence(path, chunks={})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FileError, match="0.tif: pixels: GDAL cannot read them"):
        cubes.compute()


def test_formats_that_are_loaded_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cubes=stored()[:, :, :4] * 1e-4)
    lazy = read_sequence(tmp_path / "a.npz", chunks={"x": 10})
    assert lazy.chunksizes["x"] == (10, 10, 10, 10)
    xr.testing.assert_identical(lazy.compute(), read_sequence(tmp_path / "a.npz"))


def test_a_sample_must_be_plausible(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", stored(), nodata=9, scales=[0.5] * BANDS)
    with pytest.raises(FileError, match=r"a.tif: values: .*pass scale= to read_sequence"):
        read_sequence(path, chunks={})
    with pytest.raises(FileError, match="scale: the file holds integers"):
        read_sequence(write_tiff(tmp_path / "b.tif", stored(), nodata=9), chunks={})


@pytest.mark.parametrize("mark", [0, 9])
def test_a_small_image_without_data_is_refused(tmp_path: Path, mark: int) -> None:
    """As at once."""
    numbers = stored()
    settings = {"nodata": 9, "scales": [1e-4] * BANDS}
    empty = write_tiff(tmp_path / "a.tif", np.full_like(numbers, mark), **settings)
    with pytest.raises(FileError, match=r"a.tif: values: each pixel has no data in some band, or"):
        read_sequence(empty, chunks={})
    with pytest.raises(FileError, match=r"a.tif: (values|bands): "):
        read_sequence(empty)
    numbers[2] = 9  # one row without data
    assert read_sequence(write_tiff(tmp_path / "b.tif", numbers, **settings), chunks={}).size


def _allocated(work: Callable[[], object]) -> float:
    """The most that numpy and Python held at a time, MiB; pages of memory maps are the system's."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_the_part(tmp_path: Path) -> None:
    """An image of 114 MiB stored, 229 MiB as reflectance; of it 10 x 10 pixels."""
    row = np.random.default_rng(0).integers(500, 6000, (1, 800, 50), dtype="u2")
    values = np.tile(row, (1500, 1, 1))
    tiff = write_tiff(tmp_path / "a.tif", values, nodata=9, scales=[1e-4] * 50, interleave="pixel")

    def part(path: Path) -> None:
        with dask.config.set(scheduler="synchronous"):
            lazy = read_sequence(path, chunks={}).isel(y=slice(900, 910), x=slice(5, 15))
            assert lazy.compute().shape == (1, 10, 10, 50)

    for path in (tiff, write_envi(tmp_path / "b.img", values)):
        assert _allocated(lambda path=path: part(path)) < 80  # blocks as numbers of 64 bits
    assert _allocated(lambda: read_sequence(tiff)) > 229
