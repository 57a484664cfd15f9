"""Approximate posteriors: `BiLSTMGuide` (the paper's), `ConjugateGuide` (ours), `TwoStreamGuide` (of `IDNet`)."""

from pyro_unmix.guides.base import Guide
from pyro_unmix.guides.bilstm import BiLSTMGuide
from pyro_unmix.guides.conjugate import ConjugateGuide
from pyro_unmix.guides.shrinkage import NonnegativeRegression, ShrinkageSteps
from pyro_unmix.guides.two_stream import TwoStreamGuide

__all__ = [
    "BiLSTMGuide",
    "ConjugateGuide",
    "Guide",
    "NonnegativeRegression",
    "ShrinkageSteps",
    "TwoStreamGuide",
]
