"""One thread: for many small tensors, and of all that call this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_unmix.ops.engine_lock import one_engine


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block, or inside a function that this decorates, and no other thread call an
    engine meanwhile (see `one_engine`).

    The tensors of this package are batches of small problems: threads gain nothing on them, and on a busy machine
    they wait for each other, which was measured to make a call eighty times slower.
    """
    with one_engine():
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)
