"""Seeding that leaves every generator of the process as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.engine_lock import one_engine


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's CPU generator, and that of a CUDA `device`, and restore both afterwards.

    `torch.manual_seed` would seed all CUDA devices, also those that nobody restores.
    """
    seed = positive_int(seed, "seed", minimum=0)
    on_cuda = device is not None and device.type == "cuda"
    # Another thread's engine may be drawing from the same generators.
    with one_engine(), torch.random.fork_rng([device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
