"""Prediction of scenes in tiles: lazily, and into a Zarr store that can be resumed."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from checkpoint_cases import automatic, plain
from fit_cases import CUBES as WITHOUT_GAPS
from result_cases import CUBES, PAIRS, SINGLE, fitted

from pyro_unmix import Unmixing, fit
from pyro_unmix.posterior import read_out, tile_store

pytestmark = pytest.mark.usefixtures("seeded")

dask = pytest.importorskip("dask.array")
pytest.importorskip("zarr")

MAPS = ("abundances", "abundances_std", "variability", "change")


def in_double(make) -> Unmixing:
    model, guide = make()
    return fit(
        model.double(), guide.double(), CUBES, num_steps=4, learning_rate=0.01, progress=False
    )


@pytest.fixture(scope="module")
def results() -> dict[str, Unmixing]:
    return {name: in_double(make) for name, make in PAIRS.items()}


def assert_same(got: xr.Dataset, expected: xr.Dataset, tolerance: float = 1e-6) -> None:
    assert set(got.variables) == set(expected.variables)
    xr.testing.assert_identical(
        got.drop_vars(list(got.data_vars)), expected.drop_vars(list(expected.data_vars))
    )
    for name in expected.data_vars:
        assert got[name].dims == expected[name].dims, name
        assert got[name].dtype == expected[name].dtype, name
        assert got[name].attrs == expected[name].attrs, name
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


# Lazily


@pytest.mark.parametrize("chunks", [{"y": 4, "x": 4}, {"y": 1}, {"time": 1, "wavelength": 7}])
@pytest.mark.parametrize("name", PAIRS)
def test_the_numbers_are_those_of_the_scene_in_one_piece(name, chunks, results):
    lazy = results[name].predict(CUBES.chunk(chunks))
    for key in (*MAPS, "valid"):
        assert lazy.dataset[key].chunks is not None, key
    assert lazy.dataset.chunksizes["y"] == CUBES.chunk(chunks).chunksizes["y"]
    assert_same(lazy.dataset.compute(), results[name].predict(CUBES).dataset)


@pytest.mark.parametrize("name", PAIRS)
def test_in_single_precision_they_are_up_to_rounding(name):
    result = fitted(PAIRS[name])
    got = result.predict(CUBES.chunk(y=4, x=3)).dataset.compute()
    assert_same(got, result.predict(CUBES).dataset, SINGLE)


def counted(cubes: xr.DataArray, tile: int) -> tuple[xr.DataArray, list[int]]:
    """Cubes whose tiles are made when they are read, and the number alive at each reading."""
    alive, seen = set(), []

    def read(block: np.ndarray, block_info=None) -> np.ndarray:
        (t0, t1), (y0, y1), (x0, x1), bands = block_info[None]["array-location"]
        values = cubes.values[t0:t1, y0:y1, x0:x1, slice(*bands)].copy()
        mark = len(seen)
        alive.add(mark)
        weakref.finalize(values, alive.discard, mark)
        seen.append(len(alive))
        return values

    empty = dask.zeros(cubes.shape, chunks=(-1, tile, tile, -1), dtype=cubes.dtype)
    return cubes.copy(data=empty.map_blocks(read, dtype=cubes.dtype)), seen


def test_nothing_is_read_before_it_is_asked_for(results):
    cubes, seen = counted(CUBES, 3)
    lazy = results["ours"].predict(cubes)
    assert seen == []
    tile = lazy.abundances.isel(y=slice(0, 3), x=slice(3, 6)).compute()
    assert len(seen) == 1
    expected = results["ours"].abundances.isel(y=slice(0, 3), x=slice(3, 6))
    np.testing.assert_allclose(tile, expected, atol=1e-6)


def test_a_tile_without_any_valid_pixel_is_filled_by_the_prior(results):
    cubes = CUBES.copy(deep=True)
    cubes[:, :3, :3] = np.nan
    cubes[:, 3:, 3:6] = 0.0  # the fill of many products
    got = results["ours"].predict(cubes.chunk(y=3, x=3)).dataset.compute()
    assert not got["valid"][:, :3, :3].any()
    assert not got["valid"][:, 3:, 3:6].any()
    assert_same(got, results["ours"].predict(cubes).dataset)


def test_dims_in_another_order_and_one_image(results):
    model, guide = PAIRS["ours"]()
    result = fit(model.double(), guide.double(), CUBES[:1], num_steps=1, progress=False)
    image = CUBES[0].transpose("wavelength", "x", "y")
    got = result.predict(image.chunk(y=4)).dataset.compute()
    assert_same(got, result.predict(image).dataset)
    swapped = CUBES.transpose("wavelength", "x", "time", "y")
    got = results["paper"].predict(swapped.chunk(x=4)).dataset.compute()
    assert_same(got, results["paper"].predict(swapped).dataset)


def test_a_guide_with_parameters_for_every_pixel_gets_its_own():
    model, guide = automatic()
    image = WITHOUT_GAPS[:1]
    result = fit(model.double(), guide.double(), image, num_steps=40, learning_rate=0.05,
                 progress=False)  # fmt: skip
    got = result.predict(image.chunk(y=4, x=3)).dataset.compute()
    assert_same(got, result.predict(image).dataset)
    assert float(got["abundances"].std("x").max()) > 0.05


def test_a_guide_that_is_a_function_takes_its_parameters_along():
    model, guide = plain()
    result = fit(model, guide, CUBES, num_steps=20, learning_rate=0.3, progress=False)
    got = result.predict(CUBES.chunk(y=4, x=3)).dataset.compute()
    assert_same(got, result.predict(CUBES).dataset, SINGLE)


def test_draws_of_a_lazy_result_are_those_of_the_images(results):
    cubes = CUBES.copy(deep=True)
    cubes[1, 2] = 0.0
    lazy, whole = (results["ours"].predict(c) for c in (cubes.chunk(y=2), cubes))
    np.testing.assert_allclose(lazy.sample(3), whole.sample(3), atol=1e-6)
    np.testing.assert_allclose(lazy.reconstruct(1), whole.reconstruct(1), atol=1e-6)


def test_the_users_cubes_stay_as_they_are(results):
    cubes = CUBES.copy(deep=True).chunk(y=3)
    results["ours"].predict(cubes).dataset.compute()
    xr.testing.assert_identical(cubes.compute(), CUBES)


@pytest.mark.parametrize(
    ("cubes", "error", "text"),
    [
        (CUBES[..., :12], ValueError, "expected cubes with the 20 bands of the fit, got 12"),
        (
            CUBES.assign_coords(wavelength=CUBES.wavelength + 30),
            ValueError,
            "expected cubes at the wavelengths of the endmembers, got some up to 30.0 nm off",
        ),
        (CUBES.fillna(0).astype(int), TypeError, "must be reflectance in floating point, got the"),
        (CUBES.rename(x="column"), ValueError, "must have the dims .*missing: .'x'."),
        (CUBES[:0], ValueError, "must not be empty"),
        (CUBES[::-1], ValueError, "dates must increase"),
    ],
)
def test_what_can_be_refused_without_reading_is(cubes, error, text, results):
    with pytest.raises(error, match=text):
        results["ours"].predict(cubes.chunk())


def test_values_are_refused_when_they_are_read(results):
    lazy = results["ours"].predict((1e4 * CUBES).chunk(y=3))
    with pytest.raises(ValueError, match="reflectance must be about 0 to 1"):
        lazy.dataset.compute()


# Into a store


def opened(path: Path) -> xr.Dataset:
    return xr.open_zarr(path).load()


@pytest.fixture
def whole(results, tmp_path) -> xr.Dataset:
    """What `to_zarr` writes of the scene in one piece."""
    return opened(results["ours"].predict(CUBES).to_zarr(tmp_path / "whole.zarr"))


def assert_stored(path: Path, expected: xr.Dataset) -> None:
    got = opened(path)
    assert got.attrs == expected.attrs
    # the RMSE would take the reconstruction of every tile
    assert_same(got, expected.drop_vars("rmse", errors="ignore"))


def test_the_store_is_that_of_the_scene_in_one_piece(results, whole, tmp_path):
    path = results["ours"].predict_to_zarr(CUBES, tmp_path / "new.zarr", tile=4, progress=False)
    assert path == tmp_path / "new.zarr"
    assert_stored(path, whole)
    assert {p.name for p in tmp_path.iterdir()} == {"whole.zarr", "new.zarr"}
    assert xr.open_zarr(path).abundances.chunksizes["y"] == (4, 2)


def test_no_more_than_a_few_tiles_are_in_memory(results, whole, tmp_path):
    cubes, seen = counted(CUBES, 2)
    results["ours"].predict_to_zarr(cubes, tmp_path / "new.zarr", tile=2, progress=False)
    assert_stored(tmp_path / "new.zarr", whole)
    assert len(seen) == 3 * 4  # each read once
    assert max(seen) <= 2


def test_two_processes_write_the_same(results, whole, tmp_path):
    path = results["ours"].predict_to_zarr(
        CUBES, tmp_path / "new.zarr", tile=3, num_workers=2, progress=False
    )
    assert_stored(path, whole)


def test_one_process_computes_tiles_in_its_main_thread(results, tmp_path):
    threads = set()

    def read(block: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread())
        return block

    cubes = CUBES.chunk(y=3, x=3)
    cubes = cubes.copy(data=cubes.data.map_blocks(read, dtype=cubes.dtype))
    results["ours"].predict_to_zarr(cubes, tmp_path / "new.zarr", tile=3, progress=False)
    assert threads == {threading.main_thread()}


@pytest.mark.parametrize("half", [False, True])
def test_a_prediction_that_was_broken_off_goes_on(half, results, whole, tmp_path, monkeypatch):
    path, written = tmp_path / "new.zarr", []
    original = tile_store._write

    def write(tile, store, region):
        written.append(region)
        if len(written) == 4:
            if half:  # what a killed process leaves of a tile
                original(tile.map(lambda a: a * 0), store, region)
            raise OSError("disk")
        return original(tile, store, region)

    monkeypatch.setattr(tile_store, "_write", write)
    with pytest.raises(OSError, match="disk"):
        results["ours"].predict_to_zarr(CUBES, path, tile=3, progress=False)
    assert not path.exists()
    first = written[:3]
    cubes, seen = counted(CUBES, 3)
    results["ours"].predict_to_zarr(cubes, path, tile=3, progress=False)
    assert len(seen) == 6  # three to make, and three whose images are compared
    assert not [region for region in written[4:] if region in first]
    assert_stored(path, whole)
    assert {p.name for p in tmp_path.iterdir()} == {"whole.zarr", "new.zarr"}


def test_a_store_that_was_not_made_whole_is_made_anew(results, whole, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(tile_store.json, "dumps", fails)
        with pytest.raises(OSError, match="disk"):
            results["ours"].predict_to_zarr(CUBES, tmp_path / "new.zarr", progress=False)
    results["ours"].predict_to_zarr(CUBES, tmp_path / "new.zarr", progress=False)
    assert_stored(tmp_path / "new.zarr", whole)


def test_tiles_of_another_prediction_are_refused(results, tmp_path, monkeypatch):
    def fails(*args):
        raise OSError("disk")

    path, ours = tmp_path / "new.zarr", results["ours"]
    later = CUBES.assign_coords(time=CUBES.time + np.timedelta64(1, "D"))
    with monkeypatch.context() as patch:
        patch.setattr(tile_store, "_write", fails)
        with pytest.raises(OSError, match="disk"):
            ours.predict_to_zarr(CUBES, path, tile=3, progress=False)
    for other, cubes, tile, text in (
        (ours, CUBES, 2, "tile is 2, there it is 3"),
        (ours, CUBES[:, :5], 3, "sizes is .*'y': 5"),
        (ours, later, 3, "dates is .*2021-05-02.*, there it is .*2021-05-01"),
        (ours, CUBES.drop_vars("time"), 3, "dates is None, there it is .*2021-05-01"),
        (results["paper"], CUBES, 3, "trained parameters .hash. is"),
        (dataclasses.replace(ours, seed=9), CUBES, 3, "seed is 9, there it is 0"),
    ):
        with pytest.raises(ValueError, match=f"tiles of another prediction .*{text}") as error:
            other.predict_to_zarr(cubes, path, tile=tile, progress=False)
        assert "or remove that folder" in str(error.value)


def test_an_existing_store_is_replaced_only_if_asked_for(results, whole, tmp_path):
    path = tmp_path / "whole.zarr"
    with pytest.raises(FileExistsError, match="exists: pass overwrite=True to replace a Zarr"):
        results["ours"].predict_to_zarr(CUBES, path, progress=False)
    results["paper"].predict_to_zarr(CUBES, path, overwrite=True, progress=False)
    np.testing.assert_allclose(
        opened(path).abundances.transpose(*results["paper"].abundances.dims),
        results["paper"].predict(CUBES).abundances,
        atol=1e-6,
    )
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match="photos exists"):
        results["ours"].predict_to_zarr(CUBES, tmp_path / "photos", overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("cubes", "settings", "error", "text"),
    [
        (CUBES.values, {}, TypeError, "cubes must be a DataArray, got ndarray: as_cube_sequence"),
        (CUBES, {"tile": 0}, ValueError, "tile must be at least 1, got 0"),
        (CUBES, {"num_workers": 0}, ValueError, "num_workers must be at least 1, got 0"),
    ],
)
def test_store_errors(cubes, settings, error, text, results, tmp_path):
    with pytest.raises(error, match=text):
        results["ours"].predict_to_zarr(cubes, tmp_path / "new.zarr", progress=False, **settings)


# In chunks of a tile


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 4096, 4097, 16384, 100_000])
@pytest.mark.parametrize("per_pixel", [1, 1344, 60_000, 10**9])
def test_chunks_are_of_one_length_and_hold_every_pixel_once(count, per_pixel):
    parts = list(read_out.chunks(count, per_pixel))
    edges = [0, *(p.stop for p in parts)]
    assert edges == [*(p.start for p in parts), count]
    lengths = [p.stop - p.start for p in parts]
    limit = max(1, min(4096, read_out._CHUNK_ELEMENTS // per_pixel))
    assert max(lengths) <= limit + (127 if limit > 512 else 0)
    assert len(set(lengths[:-1])) <= 1
    if len(parts) > 1 and lengths[0] > 512:
        assert lengths[0] % 128 == 64  # no power of two


def test_the_std_is_that_of_numpy():
    drawn = torch.rand(5, 3, 64, 70, generator=torch.Generator().manual_seed(0))
    drawn = (0.3 + 1e-3 * drawn).permute(2, 3, 0, 1)  # as guides lay them out
    expected = drawn.double().numpy().std(0, ddof=1)
    np.testing.assert_allclose(read_out._std(drawn, drawn.mean(0)), expected, rtol=1e-3)
