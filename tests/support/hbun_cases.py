"""Scales of HBUN, and values as its sites."""

from __future__ import annotations

import numpy as np
import torch

SCALES = {
    "noise_scale": 0.07,
    "spatial_scale": 0.9,
    "temporal_scale": 0.3,
    "curvature_scale": 0.04,
    "perturbation_scale": 0.05,
}


def as_sites(at: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.asarray(value)).reshape(-1) for name, value in at.items()} | {
        name: torch.tensor(at[name]) for name in SCALES
    }
