"""Keywords of `fit` and `sample` that methods hand on, spelled out so that a wrong one is a type error."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch

from pyro_unmix.infer.checkpoints import Checkpoints
from pyro_unmix.kernels import Kernel
from pyro_unmix.posterior.estimates import PosteriorMean


class FitSettings(TypedDict, total=False):
    """What `fit` takes besides programs, images, `seed`, `progress`, and how long it trains."""

    batch_size: int
    learning_rate: float | Callable[[str], float]
    learning_rate_decay: float
    loss: Any
    estimate: PosteriorMean | None
    device: str | torch.device | None
    callback: Callable[[int, float], None] | None
    checkpoint: Checkpoints | str | os.PathLike[str] | None
    memory: float
    maps: bool
    method: str


class SampleSettings(TypedDict, total=False):
    """What `sample` takes besides programs, images, `seed` and `progress`."""

    num_rounds: int
    num_chains: int
    num_spectra: int
    num_held_out: int
    num_kept: int
    num_samples: int
    num_warmup: int
    shrink: float
    kernels: Sequence[Kernel] | None
    device: str | torch.device | None
    checkpoint: Checkpoints | str | os.PathLike[str] | None
