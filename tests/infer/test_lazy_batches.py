"""Training on scenes in chunks: pools of pixels are read from disk, and what is drawn of them."""

from __future__ import annotations

import threading
from itertools import chain

import numpy as np
import pytest
import torch
import xarray as xr
from checkpoint_cases import run
from fit_cases import CUBES, ours
from lazy_cases import CHUNKS, GAPS, SMALL, SPECTRA

import pyro_unmix as pu
from pyro_unmix import fit
from pyro_unmix.data import as_lazy_cubes
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.infer import batches
from pyro_unmix.infer.batches import FromDisk, InMemory

dask = pytest.importorskip("dask.array")
NUM_USABLE = 26


class Kind(torch.nn.Module):
    """All that a feed asks of a model: its type."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))


def feed(cubes: xr.DataArray = GAPS, memory: int = SMALL, chunks=CHUNKS, **shuffled) -> FromDisk:
    """A feed with its chunks in memory, so that tests are fast; its features are made of pixels and numbers."""
    data = FromDisk(as_lazy_cubes(cubes.chunk(chunks)), Kind(), memory=memory, progress=False)
    read = {str(tile): data._read(tile) for tile in data._tiles}
    data._read = lambda tile: read[str(tile)]
    data.prepare(lambda pixels, valid, index: {"number": index, "sum": pixels.sum((1, 2))})
    if shuffled:
        data.shuffle(**shuffled)
    return data


def drawn(data: FromDisk, count: int) -> list[list[int]]:
    return [data.draw().tolist() for _ in range(count)]


# What is drawn


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10])
def test_every_pixel_comes_once_before_any_comes_again(batch_size):
    data = feed(batch_size=batch_size, seed=2)
    assert (data.num_usable, data.num_pools) == (NUM_USABLE, 3)
    stream = list(chain.from_iterable(drawn(data, 3 * NUM_USABLE // batch_size)))
    usable = np.flatnonzero(
        (np.isfinite(GAPS).all("wavelength") & (GAPS != 0).any("wavelength")).any("time")
    )
    assert len(usable) == NUM_USABLE
    for start in range(0, len(stream) - NUM_USABLE, NUM_USABLE):
        assert sorted(stream[start : start + NUM_USABLE]) == usable.tolist()
    assert stream[:NUM_USABLE] != stream[NUM_USABLE : 2 * NUM_USABLE]
    data.close()


def test_every_pixel_has_the_same_chance_of_being_in_a_batch():
    """Whether its chunk has eight pixels or two, in the first batch, in the middle, and across the end of an epoch."""
    data, count, num_batches = feed(), 600, 6
    seen = np.zeros((num_batches, GAPS.sizes["y"] * GAPS.sizes["x"]))
    means = np.zeros((count, num_batches))
    for seed in range(count):
        data.shuffle(4, seed)
        for number in range(num_batches):
            index = data.draw()
            seen[number, index] += 1
            means[seed, number] = data.rows(index)[0].mean()
        data.close()
    seen = seen[:, seen.any(0)]
    chance = 4 / NUM_USABLE
    assert seen.shape[1] == NUM_USABLE
    error = (seen - count * chance) / np.sqrt(count * chance * (1 - chance))
    assert np.abs(error).max() < 4.5  # of 208 Gaussians
    # And so is the mean of what is computed of a batch that of the scene.
    pixels, valid = to_pixels(pu.as_cube_sequence(GAPS))
    scene = pixels[valid.any(1)].mean(dtype=float)
    assert np.abs(means.mean(0) - scene).max() < 4.5 * (means.std(0) / np.sqrt(count)).max()


@pytest.mark.parametrize("memory", [SMALL, 2 * 13 * SPECTRA, 10**9])
@pytest.mark.parametrize("chunks", [CHUNKS, {"y": 1, "x": 1}, {"time": 1, "wavelength": 7}])
def test_the_rows_are_those_of_the_pixels(memory, chunks):
    """Also of batches that begin in one pool and end in the next."""
    data = feed(memory=memory, chunks=chunks, batch_size=7, seed=1)
    pixels, valid = map(torch.from_numpy, to_pixels(pu.as_cube_sequence(GAPS)))
    for _ in range(12):
        index = data.draw()
        found, observed, features = data.rows(index)
        assert torch.equal(found, pixels[index])
        assert torch.equal(observed, valid[index])
        assert torch.equal(features["number"], index)
        torch.testing.assert_close(features["sum"], pixels[index].sum((1, 2)))
    data.close()


def test_one_pool_draws_what_a_scene_in_memory_does():
    data = feed(memory=10**6, batch_size=7, seed=5)
    loaded = InMemory(*map(torch.from_numpy, to_pixels(pu.as_cube_sequence(GAPS))))
    loaded.shuffle(7, 5)
    assert data.num_pools == 1
    assert data.num_values == loaded.num_values
    assert data.num_usable == loaded.num_usable
    assert drawn(data, 20) == [loaded.draw().tolist() for _ in range(20)]
    data.close()


def test_batches_of_a_pool_are_of_few_chunks_and_orders_differ():
    chunk = np.arange(30) // 6 // 2 * 2 + np.arange(30) % 6 // 4
    firsts = []
    for seed in range(10):
        data = feed(CUBES, batch_size=5, seed=seed)
        first = list(chain.from_iterable(drawn(data, 2)))  # all of the first pool
        firsts.append(first)
        assert len(set(chunk[first])) <= 6
        data.close()
    # Chunks of the first pool: some, and not always the same.
    assert min(len(set(chunk[first])) for first in firsts) < 6
    assert len({tuple(sorted(first)) for first in firsts}) == 10


# What is read, and when


class Counted:
    """Cubes whose chunks count how often they are read, by tile."""

    def __init__(self, cubes: xr.DataArray, chunks=(2, 4)) -> None:
        self.reads: list[tuple[int, int]] = []
        self.fails = False

        def read(block, block_info=None):
            _, (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
            self.reads.append((y0, x0))
            if self.fails:
                raise OSError("the disk is gone")
            return cubes.values[:, y0:y1, x0:x1].copy()

        shape = (-1, *chunks, -1)
        empty = dask.zeros(cubes.shape, chunks=shape, dtype=cubes.dtype, meta=np.zeros(0, "f4"))
        self.cubes = cubes.copy(
            data=empty.map_blocks(read, dtype=cubes.dtype, meta=np.zeros(0, "f4"))
        )
        self.reads.clear()


def test_a_chunk_is_read_about_once_in_an_epoch():
    counted = Counted(CUBES)
    data = FromDisk(as_lazy_cubes(counted.cubes), Kind(), memory=SMALL, progress=False)
    assert len(counted.reads) == 6  # once to look
    data.prepare(lambda *pixels: {})
    data.shuffle(10, 0)
    counted.reads.clear()
    drawn(data, 3 * 20)  # twenty epochs
    data.close()
    # The chunk in which an epoch begins is also its last one; the end of the last pool may have been read ahead.
    assert 20 * 6 <= len(counted.reads) <= 20 * 7 + 3


@pytest.mark.parametrize("cubes", [CUBES, GAPS], ids=["whole", "gaps"])
def test_all_in_memory_is_read_once(cubes, monkeypatch):
    monkeypatch.setattr(batches, "_MOVED", 3)
    counted = Counted(cubes)
    run(cubes=counted.cubes, maps=False, num_steps=30)
    assert len(counted.reads) == 6
    counted.reads.clear()
    # Where only the pixels with a date fit, what is kept is known after the first reading.
    run(cubes=counted.cubes, maps=False, num_steps=30, memory=29 * SPECTRA)
    assert len(counted.reads) > 6
    data = FromDisk(as_lazy_cubes(cubes.chunk(CHUNKS)), Kind(), memory=10**6, progress=False)
    data.prepare(lambda *pixels: {})
    data.shuffle(7, 0)
    index = data.draw()
    pixels, valid = map(torch.from_numpy, to_pixels(pu.as_cube_sequence(cubes)))
    assert data._pool is not None and torch.equal(data._pool.pixels, pixels[valid.any(1)])
    assert torch.equal(data._pool.valid, valid[valid.any(1)])
    assert torch.equal(data.rows(index)[0], pixels[index])
    data.close()


def test_no_more_than_two_pools_are_held():
    data = feed(batch_size=5, seed=0)
    held = []
    for _ in range(20):
        data.draw()
        pools = [data._pool, *([data._ahead[1].result()] if data._ahead else [])]
        held.append(sum(pool.pixels.nbytes for pool in pools))
    assert max(held) <= SMALL
    assert sum(size > SMALL // 2 for size in held) > 5  # the next pool is read before it is needed
    data.close()


def test_settings_are_refused_before_anything_is_read():
    counted = Counted(CUBES)
    model, guide = ours()
    for settings, text in (
        ({"num_steps": -1}, "num_steps must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"checkpoint": __file__}, "must be a folder"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(model, guide, counted.cubes, progress=False, **settings)
    fewer = pu.SGLMM(np.random.default_rng(0).random((7, 3)), basis=pu.bases.DCT(1))
    with pytest.raises(ValueError, match="the model has 7 bands, the cubes 20"):
        fit(fewer, pu.BiLSTMGuide(fewer), counted.cubes, progress=False)
    assert counted.reads == []


def test_memory_must_hold_a_batch():
    with pytest.raises(
        ValueError, match=r"memory=\d+ holds two pools of 10 pixels, fewer than a batch of 11"
    ):
        run(cubes=CUBES.chunk(CHUNKS), memory=SMALL, batch_size=11)
    with pytest.raises(ValueError, match="two pools of 0 pixels"):
        run(cubes=CUBES.chunk(CHUNKS), memory=1)
    run(cubes=CUBES.chunk(CHUNKS), memory=30 * SPECTRA, batch_size=30, num_steps=1)  # all fit


def test_memory_may_be_a_float_that_is_whole():
    settings = {"cubes": CUBES.chunk(CHUNKS), "num_steps": 5, "maps": False}
    expected, *got = (
        run(memory=memory, **settings).losses
        for memory in (SMALL, float(SMALL), np.float32(SMALL), np.int64(SMALL))
    )
    for losses in got:
        np.testing.assert_array_equal(losses, expected)
    for memory in (1e6 + 0.5, np.inf, np.nan, "1e9", True):
        with pytest.raises(TypeError, match="memory must be an integer, got"):
            run(memory=memory, **settings)


def test_chunks_that_are_too_large_for_a_pool_are_warned_of(caplog):
    run(cubes=CUBES.chunk(y=5), memory=SMALL, num_steps=1)
    assert "a chunk has up to 30 pixels, of all dates, and 10 fit into memory" in caplog.text


@pytest.mark.parametrize("step", [0, 3, 9])
def test_what_fails_in_the_reader_is_raised(step):
    counted = Counted(CUBES)

    def callback(number: int, elbo: float) -> None:
        counted.fails = number == step

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        run(cubes=counted.cubes, memory=SMALL, callback=callback, num_steps=30)
    assert not [t for t in threading.enumerate() if "pyro_unmix" in t.name], before


def test_values_that_are_no_reflectance_are_named_by_place():
    bad = CUBES.copy(deep=True)
    bad[1, 3, 5, 2] = np.inf
    with pytest.raises(
        ValueError, match=r"in rows 2 to 3, columns 4 to 5 of the images: .*infinite"
    ):
        run(cubes=bad.chunk(CHUNKS))
    with pytest.raises(ValueError, match="the images must have a valid pixel"):
        run(cubes=(CUBES * np.nan).chunk(CHUNKS))


def test_the_images_of_a_lazy_fit_lack_what_is_zero_in_all_bands():
    """The fill of many products; a band of zero alone is a dark one."""
    cubes = CUBES.copy(deep=True)
    cubes[0, 1, 2, 5] = 0.0
    cubes[1, 3, 4] = 0.0
    result = run(cubes=cubes.chunk(CHUNKS), num_steps=0)
    expected = cubes.copy(deep=True)
    expected[1, 3, 4] = np.nan
    np.testing.assert_array_equal(result.cubes, expected)
    np.testing.assert_array_equal(result.dataset["valid"], np.isfinite(expected).all("wavelength"))
