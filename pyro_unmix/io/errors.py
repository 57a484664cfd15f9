"""The one error of the readers: which file, which field of it, what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Not the fault of the file's content: they pass as they are.
_PASSED_ON = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError)


class FileError(ValueError):
    """A file that cannot be read without guessing: broken, incomplete, ambiguous or of no use here.

    Parameters
    ----------
    path : path
        The file.
    field : str
        What of it: a header field, a variable, `size`, ...; may be empty.
    problem : str
        What was expected, what came, what to do.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import pyro_unmix as pu
    >>> with TemporaryDirectory() as folder:
    ...     with open(f'{folder}/a.txt', 'w') as file:
    ...         _ = file.write('no image')
    ...     try:
    ...         cubes = pu.read_sequence(f'{folder}/a.txt')
    ...     except pu.FileError as error:
    ...         print(error.field)
    format
    """

    def __init__(self, path: str | os.PathLike[str], field: str, problem: str) -> None:
        super().__init__(os.fspath(path), field, problem)
        self.path, self.field, self.problem = os.fspath(path), field, problem

    def __str__(self) -> str:
        return ": ".join(part for part in (self.path, self.field, self.problem) if part)


@contextmanager
def parsing(path: str | os.PathLike[str], field: str, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on broken bytes into a FileError.

    Parsers raise what the bytes lead them to: zlib, struct, key, memory, recursion errors. The
    errors of `FileError` itself, of a missing file or of a missing library pass unchanged.

    Parameters
    ----------
    path, field
        As of `FileError`.
    what : str
        The format, in words: "a MATLAB file".
    """
    try:
        yield
    except (FileError, *_PASSED_ON):
        raise
    except Exception as error:
        # The texts of parsers can hold the bytes that they stumbled over.
        text = str(error).replace("\n", " ")[:200]
        problem = (
            f"cannot be read as {what}, it may be truncated or of another format "
            f"({type(error).__name__}: {text})"
        )
        raise FileError(path, field, problem) from error
