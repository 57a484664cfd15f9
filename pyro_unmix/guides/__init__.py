"""Approximate posteriors: `BiLSTMGuide` (the paper's) and `ConjugateGuide` (ours)."""

from pyro_unmix.guides.base import Guide
from pyro_unmix.guides.bilstm import BiLSTMGuide
from pyro_unmix.guides.conjugate import ConjugateGuide

__all__ = ["BiLSTMGuide", "ConjugateGuide", "Guide"]
