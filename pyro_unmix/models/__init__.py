"""Generative programs: `SGLMM`, and `IDNet` for one image."""

from pyro_unmix.models.idnet import IDNet
from pyro_unmix.models.sglmm import SGLMM

__all__ = ["SGLMM", "IDNet"]
