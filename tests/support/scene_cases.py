"""A flat library, and the mixtures of a scene."""

from __future__ import annotations

import numpy as np

FLOAT32_ROUNDING = 2.0**-24  # relative


def flat_library(num_bands: int, num_endmembers: int = 2) -> np.ndarray:
    return np.full((num_bands, num_endmembers), 0.5)
