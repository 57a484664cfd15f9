"""Databases of strangers: what SQLite would compute without end, write, or remove for them."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from polygon_cases import cubes, write

from pyro_unmix.io import FileError, library_from_pixels, read_library

_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
_MAGIC = bytes.fromhex("d9d505f920a163d7")
_PAGE, _LOCKED = 4096, 0x40000000


def spectra(folder: Path) -> Path:
    """SPy's database with one spectrum."""
    path = folder / "a.db"
    database = pytest.importorskip("spectral").database.EcostressDatabase.create(str(path))
    with closing(database.db):
        number = database._add_sample("a", "mineral", "rock", "", "", "", "", "", "solid", "")
        units = "Wavelength (micrometers)", "Reflectance (percent)"
        values = [0.4, 0.5, 0.6], [10.0, 20.0, 30.0]
        database._add_signature(number, -1, "", "", "", *units, 0.4, 0.6, *values)
    return path


def polygons(folder: Path) -> Path:
    return write(folder / "a.gpkg")


def read(path: Path) -> xr.DataArray:
    return library_from_pixels(cubes(), path) if path.suffix == ".gpkg" else read_library(path)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


both = pytest.mark.parametrize(
    ("make", "table"), [(spectra, "Samples"), (polygons, "a")], ids=["spectra", "polygons"]
)
Maker = Callable[[Path], Path]


@both
def test_views_that_never_end_are_refused(tmp_path: Path, make: Maker, table: str) -> None:
    path = make(tmp_path)
    change(
        path,
        f"ALTER TABLE {table} RENAME TO hidden",
        f"CREATE VIEW {table} AS {_ENDLESS} SELECT hidden.* FROM hidden, c WHERE x < 0",
    )
    with pytest.raises(FileError, match=f"{path.name}: {table}: is a view, which is a program"):
        read(path)


@both
def test_columns_that_are_computed_are_refused(tmp_path: Path, make: Maker, table: str) -> None:
    path = make(tmp_path)
    slow = "length(replace(hex(zeroblob(400000000)), '0', 'ab'))"
    change(path, f"ALTER TABLE {table} ADD COLUMN more GENERATED ALWAYS AS ({slow}) VIRTUAL")
    with pytest.raises(FileError, match=f"more: is computed by a program .* column of {table}"):
        read(path)


@both
def test_tables_of_other_files_are_refused(tmp_path: Path, make: Maker, table: str) -> None:
    path = make(tmp_path)
    other = f"CREATE VIRTUAL TABLE other USING VirtualOGR('{tmp_path}/b.csv') -- USING rtree("
    change(
        path,
        "PRAGMA writable_schema = 1",
        f"INSERT INTO sqlite_master VALUES ('table', 'other', 'other', 0, '{other.replace(chr(39), chr(39) * 2)}')",
    )
    with pytest.raises(FileError, match="other: is a virtual table, which is a program"):
        read(path)


def with_journal(path: Path, victim: Path) -> Path:
    """Beside it lies a journal that names another file, as that of a change of several databases does."""
    name = str(victim).encode()
    pages = path.stat().st_size // _PAGE
    head = _MAGIC + struct.pack(">IIIII", 2**32 - 1, 7, pages, 512, _PAGE)
    named = (
        struct.pack(">I", _LOCKED // _PAGE + 1) + name + struct.pack(">II", len(name), sum(name))
    )
    beside = Path(f"{path}-journal")
    beside.write_bytes(head.ljust(512, b"\0") + named + _MAGIC)
    return beside


@both
@pytest.mark.parametrize("by_link", [False, True])
def test_a_journal_removes_no_file(tmp_path: Path, make: Maker, table: str, by_link: bool) -> None:
    path, victim = make(tmp_path), tmp_path / "thesis.txt"
    victim.write_text("all of it")
    journal, content = with_journal(path, victim), path.read_bytes()
    if by_link:
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / path.name).symlink_to(path)
        path = tmp_path / "links" / path.name
    with pytest.raises(FileError, match=f"{path.name}-journal: lies beside it"):
        read(path)
    assert victim.exists() and journal.exists() and path.read_bytes() == content
    # What this is about: SQLite itself does.
    with closing(sqlite3.connect(path)) as database:
        database.execute("SELECT count(*) FROM sqlite_master")
    assert not victim.exists()


@both
def test_pages_that_are_their_own_children_are_refused(
    tmp_path: Path, make: Maker, table: str
) -> None:
    path = make(tmp_path)
    change(path, "CREATE TABLE many (x TEXT)", "CREATE TABLE last (x TEXT)")
    change(path, *["INSERT INTO many VALUES (hex(zeroblob(1000)))"] * 20)
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'many'"
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    start = (root - 1) * size
    assert content[start] == 5  # an interior page of a table
    content[start + 8 : start + 12] = root.to_bytes(4, "big")  # its last child
    path.write_bytes(content)
    with pytest.raises(FileError, match="pages: the file is damaged: .*reference to page"):
        read(path)


def killed_editor(path: Path, *statements: str) -> None:
    """What a program leaves that is killed after changes: they lie in a log beside the database."""
    program = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in ('PRAGMA journal_mode = WAL', *sys.argv[2:]):\n"
        "    database.execute(statement)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, path, *statements], check=True)
    assert Path(f"{path}-wal").stat().st_size


@both
def test_changes_in_a_log_are_seen(tmp_path: Path, make: Maker, table: str) -> None:
    path = make(tmp_path)
    expected = read(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    killed_editor(path, "PRAGMA user_version = 7")
    xr.testing.assert_identical(read(path), expected)
    killed_editor(path, f"CREATE VIEW seen AS {_ENDLESS} SELECT x FROM c")
    content = path.read_bytes()
    with pytest.raises(FileError, match="seen: is a view"):
        read(path)
    assert path.read_bytes() == content and Path(f"{path}-wal").stat().st_size


@both
def test_a_pipe_in_the_place_of_a_log_is_refused(tmp_path: Path, make: Maker, table: str) -> None:
    path = make(tmp_path)
    for kind in ("journal", "wal", "shm"):
        os.mkfifo(f"{path}-{kind}")
        with pytest.raises(FileError, match=f"-{kind}: kind: must be a file"):
            read(path)
        os.unlink(f"{path}-{kind}")
    assert np.isfinite(read(path)).all()
