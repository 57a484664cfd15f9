"""Folders, and files that belong together, that are replaced as a whole: the old is kept until the new is in place.

What is written lies in a hidden folder beside the target, ``.pyro_unmix-...``, which is locked while somebody writes
to it. One that is not locked is a leftover of a killed process: the next call puts back what was to be replaced, where
nothing is in its place, and removes the rest. An interrupt can come at any line, also in here, so that every call ends
in the same way.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyro_unmix.io.write.locks import free, take

logger = logging.getLogger(__name__)

_PREFIX = ".pyro_unmix-"
_OLD, _MARK = "old", "for"
#: Folders of finished files before and after those that they replace are set aside, and of the latter.
_FINISHED, _GOING, _ASIDE = "finished", "going", "aside"
_EMPTY = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # as tempfile names them


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the targets, from where finished files are renamed into place."""
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    room, lock = _taken(folder)
    try:
        (room / _MARK).mkdir()
        yield room
    finally:
        try:
            _put_back(room)
            _remove(room)
        except OSError as error:  # such as threads of Zarr that still write after an interrupt
            logger.debug("%s is left for the next call: %s", room, error)
        finally:
            free(lock)


def _taken(folder: Path) -> tuple[Path, int | None]:
    """A new hidden folder, and its lock; before it is locked, another call may take it for a leftover and remove it."""
    while True:
        room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        try:
            return room, take(room)
        except (FileNotFoundError, BlockingIOError):
            continue


def replace_folder(new: Path, path: Path, room: Path) -> None:
    """Put a finished folder into place; `room` is the workshop, in which what is there is kept meanwhile."""
    if not path.exists():
        os.replace(new, path)
        return
    # By this name the next call knows where it belongs, should this one be killed here.
    mark = room / _MARK / path.name
    mark.touch()
    try:
        os.replace(path, room / _OLD)
        os.replace(new, path)
    except BaseException:
        _put_back(room)
        raise
    mark.unlink()  # should the user remove the new one, the old one is not to come back


def replace_files(names: Sequence[str], room: Path) -> None:
    """Put finished files of the workshop into place, which belong together: never some of them beside older ones.

    The older ones are set aside first, all of them. Who is killed meanwhile leaves files out, and the next call puts
    them there: the older ones where not all of these were aside, else the new ones.
    """
    finished, aside, directory = room / _FINISHED, room / _ASIDE, room.parent
    finished.mkdir()
    aside.mkdir()
    for name in names:
        os.replace(room / name, finished / name)
    for name in names:
        if (directory / name).exists() or (directory / name).is_symlink():
            os.replace(directory / name, aside / name)
    os.replace(finished, room / _GOING)
    for name in names:
        os.replace(room / _GOING / name, directory / name)


def clean(folder: Path) -> None:
    """Put back and remove what killed processes left in a folder."""
    for room in folder.glob(f"{_PREFIX}*") if folder.is_dir() else ():
        lock = None
        try:
            if not _is_ours(room):
                continue
            lock = take(room)
            if lock is not None:  # else nobody can know whether it is in use
                _put_back(room)
                _remove(room)
        except OSError as error:  # in use, or of another user
            logger.debug("%s is left alone: %s", room, error)
        finally:
            free(lock)


def _is_ours(room: Path) -> bool:
    """By its mark; or an empty folder of our names, of a process that was killed just before it set the mark."""
    if room.is_symlink() or not room.is_dir():
        return False
    if (room / _MARK).is_dir():
        return True
    return bool(_EMPTY.fullmatch(room.name)) and not any(room.iterdir())


def _put_back(room: Path) -> None:
    _put_files_back(room)
    names = [mark.name for mark in _marks(room)]
    target = room.parent / names[0] if len(names) == 1 else None
    if target is None or target.exists() or not (room / _OLD).exists():
        return
    os.replace(room / _OLD, target)
    logger.warning("%s was being replaced when that was broken off: it is what it was", target)


def _put_files_back(room: Path) -> None:
    """Of files that were being put into place: on to the new ones where the older ones are all aside, else back."""
    going = (room / _GOING).is_dir()
    left = room / (_GOING if going else _ASIDE)
    missing = [
        file
        for file in (left.iterdir() if left.is_dir() else ())
        if not (room.parent / file.name).exists()
    ]
    for file in missing:
        os.replace(file, room.parent / file.name)
    if missing:
        logger.warning(
            "files of %s were being replaced when that was broken off: they are %s",
            room.parent, "the new ones" if going else "what they were",
        )  # fmt: skip


def _remove(room: Path) -> None:
    """Its mark last, by which the next call knows what is left if this is broken off, and has nothing to put back."""
    for mark in _marks(room):
        mark.unlink()
    for entry in list(room.iterdir()):
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        elif entry.name != _MARK:
            shutil.rmtree(entry)
    if (room / _MARK).exists():
        (room / _MARK).rmdir()
    try:
        room.rmdir()
    except OSError:  # a thread of Zarr has written meanwhile
        (room / _MARK).mkdir()
        raise


def _marks(room: Path) -> list[Path]:
    return list((room / _MARK).iterdir()) if (room / _MARK).is_dir() else []
