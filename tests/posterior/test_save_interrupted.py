"""Writers that are interrupted at the worst lines: what was there stays, and the next call removes what is left."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.io.write import replacing
from pyro_unmix.io.write.locks import free, locked, take


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def replace(folder: Path, text: str) -> None:
    """What all writers of folders do."""
    with replacing.workshop(folder) as room:
        (room / "new").mkdir()
        (room / "new" / "file").write_text(text)
        replacing.replace_folder(room / "new", folder / "saved", room)


@pytest.mark.parametrize("rename", [1, 2])
def test_an_interrupt_right_after_a_rename_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    replace(tmp_path, "old")
    calls = 0

    def interrupted(*paths: Any) -> None:
        nonlocal calls
        os.rename(*paths)
        calls += 1
        if calls == rename:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replacing.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replace(tmp_path, "new")
    assert (tmp_path / "saved" / "file").read_text() == ("old" if rename == 1 else "new")
    assert not hidden(tmp_path)


def test_a_removal_that_is_broken_off_is_ended_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it left is not put back, should the user remove the new folder before."""
    replace(tmp_path, "old")
    remove = shutil.rmtree

    def interrupted(path: Path) -> None:
        (path / "second").write_text("is still there")
        (path / "file").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replacing.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replace(tmp_path, "new")
    assert (tmp_path / "saved" / "file").read_text() == "new" and len(hidden(tmp_path)) == 1
    remove(tmp_path / "saved")
    replacing.clean(tmp_path)
    assert not list(tmp_path.iterdir())


def test_threads_that_write_on_do_not_hide_the_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_empty(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(replacing.shutil, "rmtree", not_empty)
        with pytest.raises(KeyboardInterrupt), replacing.workshop(tmp_path) as room:
            (room / "new").mkdir()
            raise KeyboardInterrupt
    assert len(hidden(tmp_path)) == 1
    replacing.clean(tmp_path)
    assert not hidden(tmp_path)


def test_a_thread_that_writes_last_leaves_what_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir = Path.rmdir

    def late(path: Path) -> None:
        if path.name.startswith(".pyro_unmix-"):
            (path / "new").touch()
        rmdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rmdir", late)
        with replacing.workshop(tmp_path):
            pass
    assert len(hidden(tmp_path)) == 1
    replacing.clean(tmp_path)
    assert not hidden(tmp_path)


def test_a_folder_that_never_got_its_mark_is_removed(tmp_path: Path) -> None:
    """And none that holds something, is of somebody else, or is in use."""
    left, used = tmp_path / ".pyro_unmix-abcd_123", tmp_path / ".pyro_unmix-abcd_124"
    full, others = tmp_path / ".pyro_unmix-abcd_125", tmp_path / ".pyro_unmix-of-others"
    for folder in (left, used, full, others):
        folder.mkdir()
    (full / "notes.txt").touch()
    with locked(used):
        replacing.clean(tmp_path)
    assert set(tmp_path.iterdir()) == {used, full, others}


def test_a_folder_that_another_call_takes_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock."""
    make, made, held = tempfile.mkdtemp, list[Path](), list[int | None]()

    def disturbed(**settings: Any) -> str:
        made.append(Path(make(**settings)))
        if len(made) == 1:
            replacing.clean(tmp_path)
            assert not made[0].exists()
        if len(made) == 2:
            held.append(take(made[1]))  # is about to remove it
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", disturbed)
    with replacing.workshop(tmp_path) as room:
        (room / "new").touch()
        os.replace(room / "new", tmp_path / "new")
    free(*held)
    assert len(made) == 3 and (tmp_path / "new").exists()
    replacing.clean(tmp_path)
    assert not hidden(tmp_path)


def test_what_a_link_in_the_folder_leads_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "file").write_text("precious")
    with replacing.workshop(tmp_path) as room:
        (room / "link").symlink_to(tmp_path / "others", target_is_directory=True)
    assert (tmp_path / "others" / "file").read_text() == "precious"
    assert not hidden(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_a_saved_result_is_as_private_as_the_user_wants_it(tmp_path: Path, mask: int) -> None:
    values = np.full((1, 2, 2, 2), 0.5)
    maps = xr.Dataset({"abundances": (("time", "y", "x", "endmember"), values)})
    before = os.umask(mask)
    try:
        path = pu.Unmixing(maps).save(tmp_path / "saved")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    assert (path / "result.nc").stat().st_mode & 0o777 == 0o666 & ~mask
