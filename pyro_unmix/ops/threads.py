"""One thread: for many small tensors, and of all that call this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from pyro_unmix.ops.engine_lock import is_held, one_engine


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block, or inside a function that this decorates, and no other thread call an
    engine meanwhile (see `one_engine`).

    The tensors of this package are batches of small problems: threads gain nothing on them, and on a busy machine
    they wait for each other, which was measured to make a call eighty times slower.

    Gradients are taken and numbers keep their precision even where the caller does without: a fit in `torch.no_grad`
    would end untrained, without a word.
    """
    inner = is_held()
    with one_engine(), nullcontext() if inner else _as_torch_begins():
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _as_torch_begins() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield
