"""Generative programs: `SGLMM`, `IDNet` for one image, and `Model`, the class of your own."""

from pyro_unmix.models.base import Model, VariabilityModel
from pyro_unmix.models.idnet import IDNet
from pyro_unmix.models.sglmm import SGLMM

__all__ = ["SGLMM", "IDNet", "Model", "VariabilityModel"]
