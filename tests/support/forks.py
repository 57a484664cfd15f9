"""Work in a process of its own, for the helpers that tests start and kill."""

from __future__ import annotations

import os
from collections.abc import Callable


def forked(work: Callable[[], object]) -> int:
    """The number of a child that does the work; its exit status is 1 where that fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child
