"""What callers say in place of the file: scale, offset, and that its wavelengths are none."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image


@dataclass(frozen=True, eq=False)
class Unscaled(Image):
    """An image whose format needs a scale and an offset that this file does not hold.

    Parameters
    ----------
    reason : str
        What is missing, and what to pass; the text of the error.
    """

    reason: str = ""


def needs_scaling(image: Image) -> bool:
    """Whether only the caller can know what the numbers mean."""
    return isinstance(image, Unscaled) and (image.scale is None or image.offset is None)


def with_scaling(
    image: Image,
    path: str | os.PathLike[str],
    scale: npt.ArrayLike | None = None,
    offset: npt.ArrayLike | None = None,
) -> Image:
    """Return the image with the scale and offset that the caller gave, where they gave them.

    Raises
    ------
    ValueError
        If `scale` or `offset` is neither a number nor one per band, or a scale is not positive.
    FileError
        If the file needs them and they are not given.
    """
    given = {"scale": scale, "offset": offset}
    for name, values in given.items():
        _check(name, values, image.num_bands, path)
    if isinstance(image, Unscaled) and (scale is None or offset is None):
        raise FileError(path, "scale" if scale is None else "offset", image.reason)
    known: dict[str, Any] = {n: np.asarray(v) for n, v in given.items() if v is not None}
    return replace(image, **known)


def _check(
    name: str, given: npt.ArrayLike | None, num_bands: int, path: str | os.PathLike[str]
) -> None:
    if given is None:
        return
    values = np.asarray(given)
    kind = "a positive number" if name == "scale" else "a number"
    if (
        values.dtype.kind not in "iuf"
        or values.shape not in ((), (num_bands,))
        or not np.isfinite(values).all()
        or (name == "scale" and not (values > 0).all())
    ):
        raise ValueError(
            f"{name} must be {kind}, or one per band of {path} ({num_bands}), got {given!r}"
        )


def with_wavelengths(
    image: Image, path: str | os.PathLike[str], wavelength_unit: str | None = None
) -> Image:
    """Return the image, without wavelengths if the caller says so (`wavelength_unit` "none").

    Raises
    ------
    FileError
        If they are 0, 1, 2, ... or 1, 2, 3, ...: numbers of the bands, for which no unit is right.
    """
    if image.wavelength is None:
        return image
    if wavelength_unit is not None and str(wavelength_unit).strip().lower() == "none":
        return replace(image, wavelength=None, fwhm=None, wavelength_unit=None)
    centres = np.asarray(image.wavelength)
    if _is_index(centres, wavelength_unit or image.wavelength_unit):
        problem = (
            f"is {centres[0]:g}, {centres[1]:g}, ..., {centres[-1]:g}: numbers of the bands, no "
            "wavelengths. Write the wavelengths into the file, or pass wavelength_unit='none' to "
            "read_sequence to go on without any"
        )
        raise FileError(path, "wavelength", problem)
    return image


def _is_index(centres: np.ndarray, unit: str | None) -> bool:
    if centres.dtype.kind not in "iuf" or centres.ndim != 1 or centres.size < 2:
        return False
    if centres[0] not in (0, 1) or not (np.diff(centres) == 1).all():
        return False
    # 1, 2, 3 um are wavelengths.
    name = str(unit or "").strip().lower()
    return bool(centres[0] == 0 or not name.startswith(("um", "mic", "\u00b5m", "\u03bcm")))
