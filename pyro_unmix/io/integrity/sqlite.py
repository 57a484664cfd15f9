"""SQLite databases, as which some libraries of spectra and GeoPackages come: what could compute or write is refused.

A view or a generated column is a program that may run without end. A journal beside a database makes SQLite write to
it, and names another file that is removed then; https://www.sqlite.org/fileformat2.html#the_rollback_journal.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyro_unmix.io.errors import FileError, parsing
from pyro_unmix.io.integrity.kinds import check_kind

# An index of the places of polygons: the one kind of virtual table that opens nothing, and ends.
_INDEX = re.compile(
    r"""create\s+virtual\s+table\s+("([^"]|"")*"|\w+)\s+using\s+rtree\s*\(""", re.IGNORECASE
)
_COMPUTED = (2, 3)  # what SQLite calls a generated column among the hidden ones, virtual and stored


@contextmanager
def open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """Open for reading, with nothing written to the file or beside it.

    Raises
    ------
    FileError
        If it is damaged, computes what it holds, or is not completely written.
    """
    with parsing(path, "content", "a SQLite database"):
        with closing(sqlite3.connect(_address(path), uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA ignore_check_constraints = ON")  # programs too
            _check_schema(path, database)
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise FileError(path, "pages", f"the file is damaged: {found.splitlines()[-1]}")
            yield database


def check_sqlite(path: Path) -> None:
    """Raise FileError unless `open_sqlite` opens it."""
    with open_sqlite(path):
        pass


def _address(path: Path) -> str:
    """Without a log of changes that belong to it, SQLite is told that nobody writes: it makes no file then."""
    path = path.resolve()  # beside which SQLite looks
    if _size(path, "journal"):
        problem = (
            "lies beside it: the last change was broken off. Open the database with the program that wrote it, or "
            "remove that file if the database is whole without it"
        )
        raise FileError(path, f"{path.name}-journal", problem)
    _size(path, "shm")
    alone = "" if _size(path, "wal") else "&immutable=1"
    return f"{path.as_uri()}?mode=ro{alone}"


def _size(path: Path, kind: str) -> int:
    beside = Path(f"{os.fspath(path)}-{kind}")
    if not os.path.lexists(beside):
        return 0
    check_kind(beside, folder=False)
    return beside.stat().st_size


def _check_schema(path: Path, database: sqlite3.Connection) -> None:
    entries = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    for kind, name, text in entries:
        virtual = re.match(r"\s*create\s+virtual", str(text), re.IGNORECASE)
        if kind == "view" or (virtual and not _INDEX.match(str(text))):
            what = "a virtual table" if virtual else "a view"
            problem = f"is {what}, which is a program: copy what it shows into a table"
            raise FileError(path, str(name), problem)
    for name in [name for kind, name, _ in entries if kind == "table"]:
        columns = database.execute("SELECT name, hidden FROM pragma_table_xinfo(?)", (name,))
        computed = [column for column, hidden in columns if hidden in _COMPUTED]
        if computed:
            problem = (
                f"is computed by a program in the file: copy its values into a column of {name}"
            )
            raise FileError(path, str(computed[0]), problem)
