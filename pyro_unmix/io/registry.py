"""The table of readers, and the choice of one: by content first, by suffix second."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.formats import (
    desis,
    emit,
    enmap,
    envi,
    geotiff,
    matlab,
    netcdf,
    npz,
    prisma,
    sentinel2,
)
from pyro_unmix.io.image import Image
from pyro_unmix.io.integrity.kinds import check_kind
from pyro_unmix.io.reflectance import check_shapes

logger = logging.getLogger(__name__)

GROUP = "pyro_unmix.readers"


@runtime_checkable
class Reader(Protocol):
    """One file format. Instances stand in `READERS`, or in the entry points of other packages.

    A reader may also have a method ``open(path)``: as `read`, but with the numbers left in the file
    (`FileRows`), for ``chunks=``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> from pyro_unmix.io.registry import READERS
    >>> isinstance(READERS[0], pu.io.Reader), READERS[0].name
    (True, 'EMIT L2A')
    """

    @property
    def name(self) -> str:
        """The format, for messages."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """In lower case, with the dot."""
        ...

    def sniff(self, path: Path) -> bool:
        """Whether the content is of this format: cheap, and False rather than an error."""
        ...

    def read(self, path: Path) -> Image:
        """Read the file; whatever is wrong with it is a FileError."""
        ...


# Specific formats before the generic ones that they are written in.
READERS: tuple[Reader, ...] = (
    emit.READER,
    prisma.READER,
    desis.READER,
    enmap.READER,
    sentinel2.READER,
    envi.READER,
    geotiff.READER,
    matlab.READER,
    netcdf.READER,
    npz.READER,
)


def readers() -> list[Reader]:
    """Return all readers in the order in which they are asked, those of other packages first.

    Another package adds a reader by an entry point of the group `pyro_unmix.readers` that names an
    object with the attributes of `Reader`. One that cannot be loaded is left out with a warning.
    """
    found: list[Reader] = []
    for entry in entry_points(group=GROUP):
        try:
            reader = entry.load()
        except Exception as error:
            # A broken plug-in must not take the other formats with it.
            logger.warning("reader %s (%s) cannot be loaded: %s", entry.name, entry.value, error)
            continue
        if isinstance(reader, Reader):
            found.append(reader)
        else:
            logger.warning("reader %s (%s) is no Reader: left out", entry.name, entry.value)
    return [*found, *READERS]


def find_reader(path: str | os.PathLike[str]) -> Reader:
    """Return the reader of a file: the first whose format the content has, else by the suffix.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    FileError
        If no reader fits; it lists the formats.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, pyro_unmix as pu
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f'{folder}/a.npz', Y=np.full((1, 3, 4, 5), .2))
    ...     pu.io.find_reader(f'{folder}/a.npz').name
    'NumPy archive'
    """
    path = Path(path)
    if not path.exists():
        cure = ": expand it with Path.glob" if "*" in str(path) else ""
        raise FileNotFoundError(f"no such file: {path}{cure}")
    check_kind(path)
    table = readers()
    for reader in table:
        try:
            if reader.sniff(path):
                return reader
        except Exception as error:
            logger.warning("reader %s failed to sniff %s: %s", reader.name, path, error)
    for reader in table:
        if path.suffix.lower() in reader.suffixes:
            return reader
    if path.is_dir():
        problem = "is a folder, and none of the products that are folders: pass its files"
        raise FileError(path, "format", problem)
    raise FileError(path, "format", f"is none of the formats that are read: {_listed(table)}")


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read one file with the reader that fits it.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    FileError
        If no reader fits, or the file is broken.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, pyro_unmix as pu
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f'{folder}/a.npz', Y=np.full((1, 3, 4, 5), .2))
    ...     pu.io.read_image(f'{folder}/a.npz').values.shape
    (1, 3, 4, 5)
    """
    reader = find_reader(path)
    with parsing(path, "content", reader.name):
        image = reader.read(Path(path))
        check_shapes(image, path)
    return image


def _listed(table: Sequence[Reader]) -> str:
    known = [(reader.name, ", ".join(reader.suffixes)) for reader in table]
    return "; ".join(f"{name} ({suffixes})" if suffixes else name for name, suffixes in known)
