"""One thread for many small tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block, or inside a function that this decorates.

    The tensors of this package are batches of small problems: threads gain nothing on them, and on a busy machine
    they wait for each other, which was measured to make a call eighty times slower.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
