"""How files are opened with GDAL: by one driver, and without anything that other files could lead to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_unmix.io.errors import FileError
from pyro_unmix.io.integrity.kinds import check_beside
from pyro_unmix.io.integrity.tiff import check_tiff, is_tiff

_MASK = ".msk"
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
    """GDAL opens the mask of an image by whatever driver fits; world files, .aux.xml and the like it reads as text.

    Of JPEG 2000 it asks for the metadata of satellites by itself, and these have many names (`METADATA.DIM`).
    """
    for beside in check_beside(path, whole_folder=not is_tiff(path)):
        if beside.name.casefold() == path.name.casefold() + _MASK:
            _check_mask(beside, path)


def _check_mask(mask: Path, path: Path) -> None:
    if not is_tiff(mask):
        problem = f"must be a TIFF file, as it is the mask of {path.name}: remove or rename it"
        raise FileError(mask, "format", problem)
    check_tiff(mask)
