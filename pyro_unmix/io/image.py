"""What a reader returns."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Image:
    """What one file holds: the stored numbers and what the file says about them.

    Reflectance = stored * scale + offset, where stored is not nodata. L bands, H rows, W columns,
    T dates.

    Parameters
    ----------
    values : numpy.ndarray (H, W, L) or (T, H, W, L)
        The stored numbers, as they are in the file; `FileRows`, which leave them there, will do.
    format : str
        What the file was understood to be.
    wavelength, fwhm : numpy.ndarray (L,), optional
        Band centres and widths in `wavelength_unit`.
    wavelength_unit : str or None
        As the file gives it; None where the file does not say it, which is an error unless the
        caller says it.
    good : numpy.ndarray (L,) of bool, optional
        False for the bands that the file calls bad.
    nodata : number or numpy.ndarray (L,), optional
        The stored value that marks missing.
    scale, offset : number or numpy.ndarray (L,), optional
        None: unknown.
    dates : sequence of T datetime64 or numbers, optional
    crs : str, optional
        WKT.
    transform : 6 numbers, optional
        (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f, at pixel corners.
    x, y : numpy.ndarray (W,), (H,), optional
        Pixel centres, where the file holds them; else they follow from `transform`.
    tile : numpy.ndarray (H,) of int, optional
        Number of the disjoint tile of each row.
    names : sequence of L str, optional
        Of the bands.
    notes : list of str
        What was understood, left out or assumed, for a person to read. What was assumed is added
        with `assume`, so that it is also logged.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> image = pu.io.Image(np.full((1, 3, 4, 5), 2000), 'my format', scale=1e-4, nodata=-9999)
    >>> image.num_dates, image.num_bands
    (1, 5)
    """

    values: np.ndarray
    format: str
    wavelength: np.ndarray | None = None
    fwhm: np.ndarray | None = None
    wavelength_unit: str | None = "nm"
    good: np.ndarray | None = None
    nodata: Any = None
    scale: Any = None
    offset: Any = None
    dates: Sequence[Any] | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    tile: np.ndarray | None = None
    names: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def num_bands(self) -> int:
        return self.values.shape[-1]

    @property
    def num_dates(self) -> int:
        return self.values.shape[0] if self.values.ndim == 4 else 1

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W)."""
        return self.values.shape[-3], self.values.shape[-2]

    def date(self, time: int) -> Any:
        """The stored numbers of one date (H, W, L); of a file that is read by rows, such rows."""
        return self.values[time] if self.values.ndim == 4 else self.values


def assume(notes: list[str], path: str | os.PathLike[str], text: str) -> None:
    """Add to the notes what the file does not say but the reader goes on with, and log it: WARNING.

    What a reader merely understood is appended to the notes alone; those are logged as DEBUG.
    """
    notes.append(text)
    logger.warning("%s: %s", path, text)
