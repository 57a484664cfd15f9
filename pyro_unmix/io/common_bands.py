"""Dates of one sensor whose products do not list the same bands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.image import Image
from pyro_unmix.io.rows import FileRows

logger = logging.getLogger(__name__)

# Bands of a name are one element of one detector, and each product says which of them it uses.
_BY_NAME = ("PRISMA L2D",)


def with_common_bands(images: Sequence[Image], paths: Sequence[Path]) -> list[Image]:
    """Return the images with the bands that all of them have, where names tell which these are.

    Only of PRISMA: a warning lists what is left out of which file. Others come back as they are.

    Raises
    ------
    FileError
        If there is no common band.
    """
    names = [list(image.names or ()) for image in images]
    if any(image.format not in _BY_NAME for image in images) or all(n == names[0] for n in names):
        return list(images)
    common = [name for name in names[0] if all(name in others for others in names)]
    if not common:
        raise FileError(paths[-1], "bands", f"none is also used in {paths[0]}: drop one of them")
    for path, own in zip(paths, names, strict=True):
        extra = [name for name in own if name not in common]
        if extra:
            logger.warning(
                "%s: left out %d of %d bands, which another date does not use: %s; positions of "
                "bands= count the others only",
                path,
                len(extra),
                len(own),
                ", ".join(extra),
            )
    return [
        _only(image, np.array([own.index(name) for name in common]))
        for image, own in zip(images, names, strict=True)
    ]


def _only(image: Image, bands: np.ndarray) -> Image:
    """The image with these bands, by position."""
    lists = ("wavelength", "fwhm", "good", "names", "nodata", "scale", "offset")
    parts: dict[str, Any] = {name: getattr(image, name) for name in lists}
    parts = {name: np.asarray(part)[bands] for name, part in parts.items() if np.ndim(part)}
    values: Any = image.values
    values = values.bands(bands) if isinstance(values, FileRows) else values[..., bands]
    return replace(image, values=values, **parts)
