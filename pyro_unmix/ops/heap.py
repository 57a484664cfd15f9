"""Memory that a loop over chunks gives back and asks for again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_PIECE = 2**25 - 2**16  # bytes; just below 32 MB, from which on glibc maps every array anew


@contextmanager
def roomy_heap(num_bytes: int = 2**28) -> Iterator[None]:
    """Inside the block, arrays below 32 MB take memory that the process already has.

    Where the top of the heap is free, glibc returns it to the system, and every page that is asked for again costs a
    fault and its zeros: a fifth of the time of a read-out. So an array is held above `num_bytes` of free memory.
    Nothing of these is touched, so that they take up no memory before they are used. With other allocators, and
    outside the main thread, nothing changes. What was used may stay with the process afterwards, free for what comes.

    Parameters
    ----------
    num_bytes : int
        What a chunk of the loop takes at most.
    """
    _array(_PIECE)  # its end raises the size up to which glibc takes arrays from the heap
    # The last one is as large as the others: it finds no hole below them.
    *room, pin = [_array(_PIECE) for _ in range(1 + -(-num_bytes // _PIECE))]
    del room
    try:
        yield
    finally:
        del pin


def _array(num_bytes: int) -> np.ndarray:
    return np.empty(num_bytes, dtype=np.uint8)
