"""What is no file: pipes and devices, which a reader would wait for, or read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pyro_unmix.io.errors import FileError

_TEXTS = (".xml", ".prj", ".cpg")
_MAX_TEXT = 64 * 2**20  # bytes; what lies beside a file as text has some kB


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


def check_beside(path: Path, *, whole_folder: bool = False) -> list[Path]:
    """The files beside `path` whose names begin with its own without the suffix, which GDAL reads with it.

    With `whole_folder`, the others in the folder are looked at, too.

    Raises
    ------
    FileError
        If one of them is a pipe, a device or the like, or a text that is larger than any.
    """
    name, stem = path.name.casefold(), path.stem.casefold()
    found = []
    for entry in os.scandir(path.absolute().parent):
        other = entry.name.casefold()
        is_named_so = other.startswith(stem)
        if other == name or not (is_named_so or whole_folder):
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
        is_text = other.startswith(f"{stem}.") and other.endswith(_TEXTS)
        if is_text and state.st_size > _MAX_TEXT:
            problem = f"expected at most {_MAX_TEXT} bytes beside {path.name}, got {state.st_size}"
            raise FileError(beside, "size", problem)
        if is_named_so:
            found.append(beside)
    return found
