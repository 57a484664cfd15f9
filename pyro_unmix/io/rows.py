"""Stored numbers that stay in their file until rows of them are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

# Numbers that are read together, at most, so that what a file holds in one piece is unpacked once.
_LARGEST_SLAB = 2**23


class FileRows:
    """An image (y, x, band), or a sequence (time, y, x, band) of them, that reads its rows.

    As much of an array as the readers use: shape, dtype, ndim, dates by number, rows of a date by
    number or slice.

    Parameters
    ----------
    shape : 3 or 4 int
    dtype : numpy.dtype
        Of what `read` returns.
    read : callable
        ``read(time, start, stop)`` returns the rows of a date (stop - start, x, band); the time of
        an image is 0.
    piece : int
        Rows that the file holds in one piece; no more of them are read together than is wise.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[int, int, int], np.ndarray],
        piece: int = 1,
    ) -> None:
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read
        most = max(1, _LARGEST_SLAB // (shape[-2] * shape[-1]))
        self.slab = max(1, min(piece, shape[-3], most))  # rows that are best read together

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it in memory."""
        parts = [np.asarray(self[t]) for t in range(len(self))] if self.ndim == 4 else None
        whole = self[:] if parts is None else np.stack(parts)
        return np.asarray(whole, dtype=dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Any:
        if self.ndim == 4:
            if isinstance(index, slice) or not 0 <= index < len(self):
                raise IndexError(f"date {index} of {len(self)}")
            return FileRows(self.shape[1:], self.dtype, self._of_date(index), self.slab)
        if isinstance(index, slice):
            return self._read(0, *index.indices(len(self))[:2])
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._read(0, index, index + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 4:
            return (self[time] for time in range(len(self)))
        return self.rows(range(len(self)))

    def rows(self, wanted: Iterable[int]) -> Iterator[np.ndarray]:
        """Rows of an image by increasing numbers; what is read together is read once."""
        for start, numbers in groupby(wanted, lambda row: row // self.slab * self.slab):
            piece = self._read(0, start, min(start + self.slab, len(self)))
            yield from (piece[row - start] for row in numbers)

    def bands(self, positions: np.ndarray) -> FileRows:
        """The same with these bands only."""

        def read(time: int, start: int, stop: int) -> np.ndarray:
            return self._read(time, start, stop)[..., positions]

        return FileRows((*self.shape[:-1], len(positions)), self.dtype, read, self.slab)

    def _of_date(self, time: int) -> Callable[[int, int, int], np.ndarray]:
        return lambda _, start, stop: self._read(time, start, stop)
