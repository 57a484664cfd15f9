"""Where the spectra of a batch come from: all of a scene in memory, or pools that are read from disk one by one."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.data.lazy import cleaned, tile_regions
from pyro_unmix.data.types import ModelProgram
from pyro_unmix.infer.step import Batches
from pyro_unmix.ops.engine_lock import lent
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.posterior.programs import model_dtype_and_device

logger = logging.getLogger(__name__)

_MOVED = 4096  # pixels that are copied together

#: Pixels (B, T, L), their validity (B, T) and numbers (B,) -> what a guide computes of them once.
Features = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


class PixelSource(Protocol):
    """Where the batches of a fit come from."""

    num_pixels: int
    num_usable: int
    num_values: int
    num_bands: int
    num_pools: int
    #: Whether the pixels of a batch follow each other as in the scene.
    in_order: bool

    def shuffle(self, batch_size: int, seed: int) -> None:
        """Begin batches of `batch_size` pixels, in the order that follows from `seed`."""

    def prepare(self, features: Features) -> None:
        """Have features of all pixels, by a function whose results do not change with time."""

    def draw(self) -> Tensor:
        """Numbers of the pixels of the next batch."""

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Spectra, validity and features of pixels of the batch that was drawn last."""

    def example(self) -> Tensor:
        """Some batch, without drawing one."""

    def some(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers, spectra and validity of some pixels, a batch or fewer, without drawing them."""

    def state(self) -> dict[str, Any]:
        """What comes next, for `restore`."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; after `prepare`."""

    def description(self) -> dict[str, Any]:
        """What two scenes must have in common to be the same one, read alike."""

    def close(self) -> None:
        """End the reading, and let go of what was read."""


class InMemory(PixelSource):
    """All pixels of a scene.

    Parameters
    ----------
    pixels, valid : Tensor
        (N, T, L) and (N, T).
    """

    num_pools = 1
    in_order = False

    def __init__(self, pixels: Tensor, valid: Tensor) -> None:
        self.pixels, self.valid = pixels, valid
        self.num_pixels, _, self.num_bands = pixels.shape
        self.num_values = int(valid.sum()) * self.num_bands
        self.usable = valid.any(1).nonzero().squeeze(1)
        self.num_usable, self.device = len(self.usable), pixels.device
        self._features: dict[str, Tensor] = {}

    def shuffle(self, batch_size: int, seed: int) -> None:
        self._batches = Batches(self.usable, batch_size, seed)

    def prepare(self, features: Features) -> None:
        index = torch.arange(self.num_pixels, device=self.device)
        self._features = features(self.pixels, self.valid, index)

    def draw(self) -> Tensor:
        return _in_order(next(self._batches), self.in_order)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        features = {
            name: feature.index_select(0, index) for name, feature in self._features.items()
        }
        return self.pixels.index_select(0, index), self.valid.index_select(0, index), features

    def example(self) -> Tensor:
        return _in_order(next(Batches(self.usable, self._batches.batch_size, 0)), self.in_order)

    def some(self) -> tuple[Tensor, Tensor, Tensor]:
        index = self.example()
        return index, self.pixels.index_select(0, index), self.valid.index_select(0, index)

    def state(self) -> dict[str, Any]:
        return self._batches.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._batches.restore(state)

    def description(self) -> dict[str, Any]:
        if not hasattr(self, "_hash"):
            digest = hashlib.blake2b(digest_size=16)
            for tensor in (self.pixels, self.valid):
                digest.update(_bytes(tensor))
            self._hash = digest.hexdigest()
        return {
            "shape": list(self.pixels.shape),
            "dtype": str(self.pixels.dtype),
            "values (hash)": self._hash,
        }

    def close(self) -> None:
        """There is nothing to end."""


@dataclass
class _Pool:
    """Pixels in memory, in the order of their numbers."""

    numbers: Tensor
    pixels: Tensor
    valid: Tensor
    features: dict[str, Tensor]

    def rows(self, index: Tensor, rest: _Pool | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Those of `index`; what is not here is in `rest`."""
        at = torch.searchsorted(self.numbers, index).clamp(max=len(self.numbers) - 1)
        found = [values.index_select(0, at) for values in self._all()]
        if rest is not None:
            away = (self.numbers[at] != index).nonzero().squeeze(1)
            there = torch.searchsorted(rest.numbers, index[away])
            for mine, theirs in zip(found, rest._all(), strict=True):
                mine[away] = theirs[there]
        return found[0], found[1], dict(zip(self.features, found[2:], strict=True))

    def _all(self) -> list[Tensor]:
        return [self.pixels, self.valid, *self.features.values()]


def _in_order(index: Tensor, wanted: bool) -> Tensor:
    return index.sort().values if wanted else index


class FromDisk(PixelSource):
    """A scene in chunks, of which a *pool* of pixels is in memory at a time while the next one is being read.

    An epoch lays the chunks out on a circle in random order, starts at a random pixel of the circle, and cuts the
    round into pools of equal size, the last of which is smaller where the size does not divide the number of pixels;
    the pixels of a pool are shuffled. Every pixel comes once before any comes again,
    and because the start is uniform over pixels, any pixel is as likely as any other to be in a given batch, however
    many pixels its chunk has: the gradient of a batch is unbiased over the random order. Batches of one pool are all
    of the same few chunks, though: they share what distinguishes these from the scene, and that averages out over
    pools, not over batches.

    What stays in memory for every pixel is one byte. If all fit into `memory` there is one pool of them, which is read
    once, and the batches are those of `InMemory`.

    Parameters
    ----------
    cubes : DataArray
        From `as_lazy_cubes`: all dates and bands of a pixel are in one chunk.
    model : Module
        Whose dtype and device the spectra take.
    memory : int
        Bytes of spectra: the pool, and the next one. Beside them some copies of a chunk are needed for reading.
    progress : bool
        Show a bar over the chunks while all are read once: which pixels have a date, whether the values are
        reflectances, and their hash.

    Raises
    ------
    ValueError
        If a chunk is no reflectance, or no pixel is observed.
    """

    in_order = False

    def __init__(
        self, cubes: xr.DataArray, model: ModelProgram, *, memory: int, progress: bool
    ) -> None:
        self.cubes = cubes
        self.dtype, self.device = model_dtype_and_device(model)
        num_dates, height, self._width, self.num_bands = cubes.shape
        self.num_pixels = height * self._width
        self._tiles = tile_regions(cubes)
        self._usable = np.zeros((height, self._width), dtype=bool)
        spectrum = num_dates * self.num_bands * torch.empty((), dtype=self.dtype).element_size()
        self._memory, pool = memory, memory // (2 * spectrum)
        largest = max(self._usable[tile].size for tile in self._tiles)
        if self.num_pixels * spectrum > memory and largest > pool:
            logger.warning(
                "a chunk has up to %d pixels, of all dates, and %d fit into memory at a time: batches will be of one "
                "chunk; raise memory=, or store the images in smaller chunks",
                largest, pool,
            )  # fmt: skip
        self._whole: _Pool | None = None
        self._look(progress, keep=self.num_pixels * spectrum <= memory)
        self.num_usable = int(self._usable.sum())
        if not self.num_usable:
            raise ValueError(
                "the images must have a valid pixel, but each pixel has NaN in some band at each date: drop the "
                "bands that are missing everywhere"
            )
        self._size = self.num_usable if self.num_usable * spectrum <= memory else pool
        self.num_pools = math.ceil(self.num_usable / self._size) if self._size else 0
        # Where each tile's usable pixels lie.
        self._counts = np.array([int(self._usable[tile].sum()) for tile in self._tiles])

    def _look(self, progress: bool, keep: bool) -> None:
        """Read all once, and `keep` it as the one pool."""
        digest, observed = hashlib.blake2b(digest_size=16), 0
        shape = (self.num_pixels if keep else 0, self.cubes.sizes["time"])
        spectra = torch.empty((*shape, self.num_bands), dtype=self.dtype)
        seen = torch.empty(shape, dtype=torch.bool)
        numbers = torch.arange(self.num_pixels if keep else 0).reshape(-1, self._width)
        for tile in progress_bar(self._tiles, shown=progress, desc="look", unit="chunk"):
            pixels, valid = self._read(tile)
            self._usable[tile] = valid.any(1).numpy().reshape(self._usable[tile].shape)
            observed += int(valid.sum())
            for tensor in (pixels, valid):
                digest.update(_bytes(tensor))
            if keep:
                at = numbers[tile].flatten()
                spectra[at], seen[at] = pixels, valid
        self.num_values, self._hash = observed * self.num_bands, digest.hexdigest()
        if keep:
            usable = numbers[torch.from_numpy(self._usable)]
            found = _taken(spectra, usable), _taken(seen, usable)
            self._whole = _Pool(usable, *found, {})

    def _read(self, tile: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
        """Pixels (B, T, L) and validity (B, T) of a tile."""
        rows, columns = tile
        with lent():
            values = self.cubes.isel(y=rows, x=columns).compute()
        try:
            pixels, valid = to_pixels(cleaned(values))
        except ValueError as error:
            place = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
            raise ValueError(f"in {place} of the images: {error}") from error
        return torch.from_numpy(pixels).to(self.dtype), torch.from_numpy(valid)

    def shuffle(self, batch_size: int, seed: int) -> None:
        if self._size < batch_size:
            raise ValueError(
                f"memory={self._memory} holds two pools of {self._size} pixels, fewer than a batch of {batch_size}: "
                "raise memory, or lower batch_size"
            )
        self._batch_size, self._seed = batch_size, seed
        self._generator = torch.Generator().manual_seed(seed)
        self._queue = torch.empty(0, dtype=torch.long)
        self._place: tuple[int, int] = (0, -1)  # epoch, and pool in it
        self._pool: _Pool | None = None
        self._installed = self._place
        self._rest: _Pool | None = None
        self._last: tuple[int, Tensor, Tensor] | None = None
        self._ahead: tuple[tuple[int, int], Future[_Pool]] | None = None
        self._closed = threading.Event()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pyro_unmix-read")

    def prepare(self, features: Features) -> None:
        self._features_of = features

    def draw(self) -> Tensor:
        self._rest = None  # was of the batch before
        while len(self._queue) < self._batch_size:
            self._advance()
        taken, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
        if self.num_pools > 1 and self._ahead is None and len(self._queue) < self._size // 2:
            place = self._after(self._place)
            self._ahead = place, self._reader.submit(self._read_pool, place)
        return _in_order(taken, self.in_order).to(self.device)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        assert self._pool is not None
        return self._pool.rows(index, self._rest)

    def example(self) -> Tensor:
        if self._pool is None:
            self._install(self._after(self._place))
        assert self._pool is not None
        return _in_order(next(Batches(self._pool.numbers, self._batch_size, 0)), self.in_order)

    def some(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers, spectra and validity of the first pixels with a date, as many as a batch or fewer."""
        tile = next(tile for tile in self._tiles if self._usable[tile].any())
        pixels, valid = self._read(tile)
        numbers = torch.arange(self.num_pixels).reshape(-1, self._width)[tile].flatten()
        rows = valid.any(1).nonzero().squeeze(1)[: self._batch_size]
        index, spectra, seen = (part[rows].to(self.device) for part in (numbers, pixels, valid))
        return index, spectra, seen

    def state(self) -> dict[str, Any]:
        queue, generator = self._queue.clone(), self._generator.get_state()
        epoch, pool = self._place
        return {"queue": queue, "generator": generator, "epoch": epoch, "pool": pool}

    def restore(self, state: dict[str, Any]) -> None:
        self._place = (state["epoch"], state["pool"])
        self._install(self._place)
        self._queue = state["queue"]
        self._generator.set_state(state["generator"])

    def description(self) -> dict[str, Any]:
        return {
            "shape": [self.num_pixels, self.cubes.sizes["time"], self.num_bands],
            "dtype": str(self.dtype),
            "values (hash)": self._hash,
            "chunks of y": list(self.cubes.chunksizes["y"]),
            "chunks of x": list(self.cubes.chunksizes["x"]),
            "pixels in memory": self._size,
        }

    def close(self) -> None:
        self._whole = None
        if not hasattr(self, "_closed"):
            return
        self._closed.set()
        with lent():
            self._reader.shutdown(cancel_futures=True)
        self._pool = self._rest = self._last = self._ahead = None

    # ------------------------------------------------------------------ pools

    def _after(self, place: tuple[int, int]) -> tuple[int, int]:
        epoch, number = place
        return (epoch, number + 1) if number + 1 < self.num_pools else (epoch + 1, 0)

    def _advance(self) -> None:
        """Go to the next pool; what is left of this one goes before it."""
        place = self._after(self._place)
        if self.num_pools > 1 and len(self._queue):
            left = self._queue.sort().values.to(self.device)
            self._rest = _Pool(left, *self.rows(left))
        self._install(place)
        assert self._pool is not None
        self._place = place
        order = torch.randperm(len(self._pool.numbers), generator=self._generator)
        self._queue = torch.cat([self._queue, self._pool.numbers.cpu()[order]])

    def _install(self, place: tuple[int, int]) -> None:
        """Make the pool of a place that which is in memory."""
        if self._pool is not None and (self.num_pools == 1 or self._installed == place):
            return
        if self._ahead is None or self._ahead[0] != place:
            self._ahead = place, self._reader.submit(self._read_pool, place)
        self._pool, waiting = None, self._ahead[1]
        self._ahead, self._installed = None, place
        with lent():
            pool = waiting.result()
        found = [tensor.to(self.device) for tensor in (pool.numbers, pool.pixels, pool.valid)]
        with seeded(self._seed, self.device):
            features = self._features_of(found[1], found[2], found[0])
        self._pool = _Pool(found[0], found[1], found[2], features)

    def _read_pool(self, place: tuple[int, int]) -> _Pool:
        """The pixels of one pool; runs in the reader's thread."""
        if self._whole is not None:
            whole, self._whole = self._whole, None
            return whole
        pieces = list(self._pieces(place))
        numbers = np.sort(np.concatenate([self._numbers(*piece) for piece in pieces]))
        shape = (len(numbers), self.cubes.sizes["time"])
        pixels = torch.empty((*shape, self.num_bands), dtype=self.dtype)
        valid = torch.empty(shape, dtype=torch.bool)
        for tile, start, stop in pieces:
            if self._closed.is_set():
                raise CancelledError
            # The last tile of a pool goes on in the next one.
            if self._last is None or self._last[0] != tile:
                self._last = None
                self._last = tile, *self._read(self._tiles[tile])
            chosen = np.flatnonzero(self._usable[self._tiles[tile]])[start:stop]
            at = torch.from_numpy(np.searchsorted(numbers, self._numbers(tile, start, stop)))
            pixels[at], valid[at] = self._last[1][chosen], self._last[2][chosen]
        if self.num_pools == 1:
            self._last = None
        return _Pool(torch.from_numpy(numbers), pixels, valid, {})

    def _pieces(self, place: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
        """Of one pool: a tile, and the first and last of its usable pixels that belong to it."""
        epoch, number = place
        rng = np.random.default_rng([self._seed, epoch])
        order, shift = rng.permutation(len(self._tiles)), int(rng.integers(self.num_usable))
        ends = np.cumsum(self._counts[order])
        if self.num_pools == 1:
            shift = 0
        first = shift + number * self._size
        last = shift + min((number + 1) * self._size, self.num_usable)
        for turn in (0, self.num_usable):  # around the circle
            for tile, end in zip(order, ends, strict=True):
                begin = end - self._counts[tile] + turn
                start, stop = max(first, begin), min(last, end + turn)
                if start < stop:
                    yield int(tile), int(start - begin), int(stop - begin)

    def _numbers(self, tile: int, start: int, stop: int) -> np.ndarray:
        """Numbers in the scene of usable pixels of a tile."""
        rows, columns = self._tiles[tile]
        y, x = np.nonzero(self._usable[rows, columns])
        return ((y + rows.start) * self._width + x + columns.start)[start:stop]


def _taken(values: Tensor, numbers: Tensor) -> Tensor:
    """``values[numbers]`` of increasing numbers, in the memory of `values`."""
    if len(numbers) < len(values):
        for part in torch.arange(len(numbers)).split(_MOVED):
            values[part] = values[numbers[part]]  # which are not before `part`
    return values[: len(numbers)]


def _bytes(tensor: Tensor) -> memoryview:
    return np.ascontiguousarray(tensor.cpu().numpy()).data
