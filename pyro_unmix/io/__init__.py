"""Files in: one file per format family."""

from __future__ import annotations

from pyro_unmix.io.simple import read_cubes

__all__ = ["read_cubes"]
