"""Readers are found by a file's content, and others can be added."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from sequence_cases import T, make_cubes, write

from pyro_unmix.io import FileError, read_sequence, registry
from pyro_unmix.io.image import Image
from pyro_unmix.io.registry import READERS, Reader, find_reader, read_image


def test_missing_files_and_empty_lists(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file: .*b.nc"):
        read_sequence([tmp_path / "b.nc"])
    with pytest.raises(ValueError, match="at least one file, got an empty list"):
        read_sequence([])


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"hello")
    with pytest.raises(FileError, match=r"a.xyz: format: .*ENVI image \(.hdr.*NumPy .*\.npz"):
        read_sequence(tmp_path / "a.xyz")


def test_the_content_goes_before_the_suffix(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", Y=make_cubes().values)
    (tmp_path / "a.npz").rename(tmp_path / "a.nc")
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.nc").values, make_cubes().values)
    # Content that no reader knows is left to the reader of the suffix, which says what is wrong.
    (tmp_path / "b.nc").write_bytes(b"hello")
    with pytest.raises(FileError, match="b.nc: format: is neither NetCDF nor HDF5"):
        read_sequence(tmp_path / "b.nc")


def test_every_reader_keeps_the_protocol(tmp_path: Path) -> None:
    for reader in READERS:
        assert isinstance(reader, Reader)
        assert reader.name
        assert all(s.startswith(".") and s == s.lower() for s in reader.suffixes)
    assert len({reader.name for reader in READERS}) == len(READERS)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"II*\0", b"\x89HDF\r\n\x1a\n", b"PK\3\4", b"ENVI"]
)
def test_sniffing_garbage_raises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "folder").mkdir()
    for reader in READERS:
        reader.sniff(tmp_path / "a")
        reader.sniff(tmp_path / "folder")


class _Entry:
    """As an installed package declares it."""

    def __init__(self, thing: object) -> None:
        self.name, self.value, self._thing = "mine", "package:READER", thing

    def load(self) -> object:
        if isinstance(self._thing, Exception):
            raise self._thing
        return self._thing


class _Mine:
    name = "my format"
    suffixes = (".mine",)

    def sniff(self, path: Path) -> bool:
        return path.is_file() and path.read_bytes()[:4] == b"MINE"

    def read(self, path: Path) -> Image:
        return Image(np.full((2, 3, 4), int(path.read_bytes()[4:]), "u1"), self.name, scale=0.01)


def _declare(monkeypatch: pytest.MonkeyPatch, *things: object) -> None:
    def entry_points(*, group: str) -> list[_Entry]:
        assert group == "pyro_unmix.readers"
        return [_Entry(thing) for thing in things]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_another_package_adds_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.entry_points is importlib.metadata.entry_points
    _declare(monkeypatch, _Mine())
    (tmp_path / "a.dat").write_bytes(b"MINE25")
    assert find_reader(tmp_path / "a.dat").name == "my format"
    np.testing.assert_array_equal(read_sequence(tmp_path / "a.dat").values, np.float32(0.25))
    (tmp_path / "b.mine").write_bytes(b"MINEtext")
    with pytest.raises(FileError, match="b.mine: content: cannot be read as my format.*ValueError"):
        read_image(tmp_path / "b.mine")


def test_a_broken_reader_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(_Mine):
        def sniff(self, path: Path) -> bool:
            raise RuntimeError("no sniffing today")

    _declare(monkeypatch, ImportError("no such package"), "no reader", Raises())
    path = write(tmp_path / "a.nc", make_cubes())
    assert read_sequence(path).sizes["time"] == T
    for text in ("cannot be loaded: no such package", "is no Reader", "no sniffing today"):
        assert text in caplog.text
