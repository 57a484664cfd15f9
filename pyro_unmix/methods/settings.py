"""What the methods that train check before they begin."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from pyro_unmix.infer.fit import fit
from pyro_unmix.ops.checks import positive_int


def checked_seed(seed: int, settings: dict[str, Any]) -> int:
    """The seed as an int; what `fit` would refuse is refused before anything is computed."""
    unknown = sorted(set(settings) - set(inspect.signature(fit).parameters))
    if unknown:
        raise TypeError(
            f"got an unexpected keyword argument {unknown[0]!r}: settings are those of `fit`"
        )
    return positive_int(seed, "seed", minimum=0)


def check_count(endmembers: ArrayLike, num_endmembers: int) -> None:
    shape = np.shape(endmembers) if not isinstance(endmembers, torch.Tensor) else endmembers.shape
    if len(shape) != 2 or shape[1] != num_endmembers:
        raise ValueError(
            f"num_endmembers is {num_endmembers}, but endmembers has shape {tuple(shape)}: pass "
            f"(bands, {num_endmembers})"
        )
