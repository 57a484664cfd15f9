"""Images by their paths: what every method and engine takes in place of an array."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import xarray as xr

from pyro_unmix.data.cube_input import with_our_dims
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.data.types import CubesLike, ImagesLike
from pyro_unmix.io.errors import FileError

logger = logging.getLogger(__name__)
#: Names of what lies beside images: masks, EMIT's uncertainties, EnMAP's quality layers, Sentinel-2's classes, GDAL's
#: overviews and masks.
_BESIDE = re.compile(r"(^|[_.-])(MASK|RFLUNCERT|QL|SCL)([_.-]|$)|\.(ovr|msk)$", re.IGNORECASE)

_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result", covariant=True)


class TakesImages(Protocol[_Rest, _Result]):
    """A function of images or their files."""

    def __call__(
        self, cubes: ImagesLike, /, *args: _Rest.args, **kwargs: _Rest.kwargs
    ) -> _Result: ...

    @property
    def unchecked(self) -> Callable[Concatenate[xr.DataArray, _Rest], _Result]:
        """The same of what `as_cube_sequence` returned, which is not looked at again."""


def open_images(images: ImagesLike) -> CubesLike:
    """Images in memory as they are, files as `read_sequence` reads them.

    Parameters
    ----------
    images : path, list or iterator of paths, or anything that `as_cube_sequence` takes
        A folder stands for the images in it, in the order of their dates, or of their names where they have none,
        unless it is itself one image (a Zarr store, a Sentinel-2 product).
        Passed over is what is of no format that is read, ENVI's spectral libraries, and what has MASK, RFLUNCERT, QL or
        SCL as a part of its name or ends in ``.ovr`` or ``.msk``: quality layers, which are not applied (see
        `read_mask`), and overviews. Where a file does not say its scale, dates or bands, call `read_sequence` yourself,
        which takes them.

    Returns
    -------
    DataArray (time, y, x, wavelength), reflectance
        Of paths. Arrays come back unchanged, a DataArray with the dims band, lat, lon or date by our names.

    Raises
    ------
    TypeError
        If a list holds paths and other things.
    ValueError
        If a path is empty.
    FileNotFoundError
        If there is no such file or folder.
    FileError
        If a folder holds no image, or as `read_sequence`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, pyro_unmix as pu
    >>> with TemporaryDirectory() as folder:
    ...     for day in ("2024-05-01", "2024-06-01"):
    ...         image = np.full((2, 3, 4), 0.2)
    ...         np.savez(f"{folder}/{day}.npz", Y=image[None], time=[day])
    ...     pu.io.open_images(folder).sizes["time"]
    2
    """
    if isinstance(images, (str, os.PathLike)):
        path = _as_files(images)[0]
        files = _files(path)
        try:
            return _read(files)
        except FileError as error:
            if files == [path]:
                raise
            problem = f"{error.problem}; found in the folder {path}: pass a list of the images"
            raise FileError(error.path, error.field, problem) from error
    if isinstance(images, xr.DataArray):
        return with_our_dims(images)
    if isinstance(images, Iterator):
        images = list(images)
        if not images:
            return _read(images)
    if not isinstance(images, Sequence):
        return images
    items: Sequence[Any] = images
    are_paths = [isinstance(item, (str, os.PathLike)) for item in items]
    if any(are_paths):
        if not all(are_paths):
            kinds = ", ".join(sorted({type(item).__name__ for item in items}))
            raise TypeError(
                f"a list of images must hold paths only or arrays only, got {kinds}: read the files "
                "with read_sequence"
            )
        return _read(items)
    renamed = [with_our_dims(x) if isinstance(x, xr.DataArray) else x for x in items]
    return cast(CubesLike, renamed)


def takes_images(
    function: Callable[Concatenate[xr.DataArray, _Rest], _Result],
) -> TakesImages[_Rest, _Result]:
    """Let a function of checked cubes take anything that `as_cube_sequence` takes, and files as `open_images` does.

    `unchecked` is the function itself: a whole method checks its images once, at its own door, and passes them on.
    """

    @functools.wraps(function)
    def public(cubes: ImagesLike, *args: Any, **kwargs: Any) -> _Result:
        return function(as_cube_sequence(open_images(cubes)), *args, **kwargs)

    public.unchecked = function  # type: ignore[attr-defined]
    return cast(TakesImages[_Rest, _Result], public)


def _read(paths: Sequence[Any]) -> xr.DataArray:
    from pyro_unmix.io.sequence import read_sequence  # with all the readers

    return read_sequence(paths)


def _as_files(paths: Any) -> list[Path]:
    from pyro_unmix.io.sequence import as_files

    return as_files(paths)


def _find_reader(path: Path) -> Any:
    from pyro_unmix.io.registry import find_reader

    return find_reader(path)


def _files(path: Path) -> list[Path]:
    """The path itself, or the images in a folder."""
    if not path.is_dir() or _is_image(path):
        return [path]
    entries = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
    found = [p for p in entries if _is_image(p)]
    files = [p for p in found if not (_BESIDE.search(p.name) or _is_library(p))]
    headers = {p.name.casefold() for p in files if p.suffix.lower() == ".hdr"}
    # ENVI's data come with a header of the same name, and are read by it.
    files = [p for p in files if p.name.casefold() in headers or not _headers_of(p) & headers]
    passed_over = [p.name for p in found if _BESIDE.search(p.name) or _is_library(p)]
    if passed_over:
        logger.info("%s: passed over %s", path, ", ".join(passed_over))
    if not files:
        problem = f"is a folder without an image among its {len(entries)} entries"
        if passed_over:
            problem += f"; passed over {', '.join(passed_over)}: pass a list of the images"
        raise FileError(path, "content", problem)
    logger.info("%s: %s", path, ", ".join(p.name for p in files))
    return files


def _headers_of(path: Path) -> set[str]:
    """The names that the header of ENVI's data may have, casefolded."""
    if _find_reader(path).name != "ENVI image":
        return set()
    return {f"{name}.hdr".casefold() for name in (path.name, path.stem)}


def _is_library(path: Path) -> bool:
    """Whether it is an ENVI header of a spectral library, or its data."""
    from pyro_unmix.io.formats.envi import is_spectral_library

    return is_spectral_library(path)


def _is_image(path: Path) -> bool:
    try:
        _find_reader(path)
    except (FileError, OSError):
        return False
    return True
