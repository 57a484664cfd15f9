"""A lock on a folder: one process, and in it one call, at a time; freed by the system when the process ends."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def take(folder: Path) -> int | None:
    """Lock a folder that exists; what `free` takes, None where the system has no such locks.

    Raises
    ------
    BlockingIOError
        If another process, or another call in this one, has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _TAKEN:  # some file systems of networks
                logger.debug("%s cannot be locked: %s", folder, error)
                return None
            raise BlockingIOError(
                f"{folder} is in use by another process or call: wait until that has ended, or pass "
                "another folder"
            ) from error
        # Whoever had it may have removed the folder, and another may have made it again.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except FileNotFoundError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def free(descriptor: int | None) -> None:
    """Let go of a lock."""
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside the block, nobody else has the folder; see `take`."""
    descriptor = take(folder)
    try:
        yield
    finally:
        free(descriptor)
