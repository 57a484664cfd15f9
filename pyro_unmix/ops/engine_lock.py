"""One engine at a time: Pyro's parameter store and handlers and torch's generator belong to the process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# Of the thread whose engine runs, and of the one that uses the state of the process: that one, or a tile's.
_ENGINE, _STATE = threading.RLock(), threading.Lock()


class _Held(threading.local):
    """The locks that this thread has."""

    engine: threading.RLock | None = None
    state: threading.Lock | None = None


_held = _Held()
_said = threading.Event()


def is_held() -> bool:
    """Whether this thread is inside of `one_engine` or `one_tile`."""
    return _held.state is not None


@contextmanager
def one_engine() -> Iterator[None]:
    """Inside the block, or inside a function that this decorates, the state of the process is this thread's alone.

    Another thread waits, which is logged once in the life of a process. An engine may call another one. Not for
    generators: one that is put aside would keep the others waiting.
    """
    if _held.state is not None:
        yield
        return
    engine, before = _ENGINE, _held.engine
    if not engine.acquire(blocking=False):
        if not _said.is_set():
            _said.set()
            logger.warning(
                "another thread of this process computes, and this one waits for it: Pyro has one state for all "
                "threads. Side by side run processes. (This is said once.)"
            )
        engine.acquire()
    try:
        _held.engine = engine
        with _own_state():
            yield
    finally:
        _held.engine = before
        engine.release()


@contextmanager
def one_tile() -> Iterator[None]:
    """As `one_engine`, for the tiles of a lazy result: also while the engine of another thread has `lent` the state."""
    if _held.state is not None:
        yield
        return
    with _own_state():
        yield


@contextmanager
def lent() -> Iterator[None]:
    """Inside the block, in which an engine waits for Dask or calls its user, tiles of lazy results may be computed.

    The threads of Dask could otherwise never end what an engine waits for, where its images are made of the maps of a
    lazy result. What is lent is whole again at the end of every tile, so that an engine finds all as it was.
    """
    state = _held.state
    if _held.engine is None or state is None:  # of a tile, nothing is lent
        yield
        return
    _held.state = None
    state.release()
    try:
        yield
    finally:
        state.acquire()
        _held.state = state


@contextmanager
def _own_state() -> Iterator[None]:
    state = _STATE
    with state:
        _held.state = state
        try:
            yield
        finally:
            _held.state = None


def _renew() -> None:
    """A process that was forked has none of the threads that the locks were of."""
    global _ENGINE, _STATE
    _ENGINE, _STATE = threading.RLock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
