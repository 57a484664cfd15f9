"""What is no file: pipes and devices, which a reader would wait for, or read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pyro_unmix.io.errors import FileError


def check_kind(path: str | os.PathLike[str], *, folder: bool = True) -> None:
    """Raise unless `path` is a file that can be opened, or (with `folder`) a folder.

    Raises
    ------
    FileNotFoundError, PermissionError
        As the system says.
    FileError
        If it is a pipe, a device or a socket, or the system cannot read it.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) and folder:
            return
        if not stat.S_ISREG(mode):
            wanted = "a file or a folder" if folder else "a file"
            got = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or the like"
            raise FileError(path, "kind", f"must be {wanted}, got {got}")
        with path.open("rb") as file:
            file.read(1)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # a network that does not answer, a disk that fails
        raise FileError(path, "content", f"cannot be read: {error.strerror or error}") from error
