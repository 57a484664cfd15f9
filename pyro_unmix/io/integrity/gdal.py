"""How files are opened with GDAL: by one driver, and without anything that other files could lead to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.integrity.tiff import check_tiff, is_tiff

_MASK = ".msk"
_MAX_SIDECAR = 64 * 2**20  # bytes; what lies beside an image as text has some kB
# A mask that is no TIFF is refused below. Should anything else name a file, it is not fetched.
_SETTINGS = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "/nothing", "GDAL_VRT_ENABLE_PYTHON": "NO"}


@contextmanager
def closed_world(rasterio: Any, path: Path, *, alone: bool) -> Iterator[None]:
    """Inside the block, GDAL opens the image at `path` without the network, and with harmless files beside it.

    Parameters
    ----------
    rasterio : module
    path : path
    alone : bool
        Leave the files beside the image alone, as if there were none.

    Raises
    ------
    FileError
        If GDAL would open one of them as an image of any format, as which a text can name other files and
        addresses, or would wait for it.
    """
    settings = dict(_SETTINGS)
    if alone:
        settings["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    else:
        _check_sidecars(path)
    with rasterio.Env(session=rasterio.session.DummySession(), **settings):
        yield


def _check_sidecars(path: Path) -> None:
    """GDAL opens the mask of an image by whatever driver fits; world files, .aux.xml and the like it reads as text."""
    name, stem = path.name.casefold(), path.stem.casefold()
    for entry in os.scandir(path.absolute().parent):
        other = entry.name.casefold()
        if other == name or not other.startswith(stem):
            continue
        beside = Path(entry.path)
        try:
            state = beside.stat()
        except OSError:  # a link to nothing
            continue
        if stat.S_ISDIR(state.st_mode):
            continue
        if not stat.S_ISREG(state.st_mode):
            raise FileError(beside, "kind", f"must be a file, as it lies beside {path.name}")
        if other == name + _MASK:
            _check_mask(beside, path)
        elif (
            other.startswith(f"{stem}.") and other.endswith(".xml") and state.st_size > _MAX_SIDECAR
        ):
            problem = (
                f"expected at most {_MAX_SIDECAR} bytes beside {path.name}, got {state.st_size}"
            )
            raise FileError(beside, "size", problem)


def _check_mask(mask: Path, path: Path) -> None:
    if not is_tiff(mask):
        problem = f"must be a TIFF file, as it is the mask of {path.name}: remove or rename it"
        raise FileError(mask, "format", problem)
    check_tiff(mask)
