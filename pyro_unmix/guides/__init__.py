"""Approximate posteriors: `BiLSTMGuide` (the paper's), `ConjugateGuide` (ours), `MeanFieldGuide`, `TwoStreamGuide` (of
`IDNet`), and encoders that take the place of the LSTM.
"""

from pyro_unmix.guides.base import Guide
from pyro_unmix.guides.bilstm import BiLSTMGuide
from pyro_unmix.guides.conjugate import ConjugateGuide
from pyro_unmix.guides.encoders import GRU, Encoder, Transformer
from pyro_unmix.guides.mean_field import MeanFieldGuide
from pyro_unmix.guides.shrinkage import NonnegativeRegression, ShrinkageSteps
from pyro_unmix.guides.two_stream import TwoStreamGuide

__all__ = [
    "GRU",
    "BiLSTMGuide",
    "ConjugateGuide",
    "Encoder",
    "Guide",
    "MeanFieldGuide",
    "NonnegativeRegression",
    "ShrinkageSteps",
    "Transformer",
    "TwoStreamGuide",
]
