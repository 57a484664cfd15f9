"""Generative programs: `SGLMM`."""

from pyro_unmix.models.sglmm import SGLMM

__all__ = ["SGLMM"]
