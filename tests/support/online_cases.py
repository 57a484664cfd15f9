"""Sizes of a small scene, and Dykstra's projection."""

from __future__ import annotations

import numpy as np

T, H, W, L, P = 3, 4, 5, 8, 3


def dykstra(
    point: np.ndarray, radius: float, centre: np.ndarray, other: float, rounds: int
) -> np.ndarray:
    """Dykstra's alternating projection, as the publication does it."""
    x, p, q = point, np.zeros_like(point), np.zeros_like(point)
    for _ in range(rounds):
        y = x + p
        first = y * min(1.0, radius / max(np.linalg.norm(y), 1e-300))
        p = y - first
        z = first + q - centre
        x = centre + z * min(1.0, other / max(np.linalg.norm(z), 1e-300))
        q = first + q - x
    return x
