"""Approximate posteriors: `BiLSTMGuide` (the paper's), `ConjugateGuide` (ours), `MeanFieldGuide`, `TwoStreamGuide` (of
`IDNet`), and encoders that take the place of the LSTM.
"""

from pyro_unmix.guides.base import Guide
from pyro_unmix.guides.bilstm import BiLSTMGuide
from pyro_unmix.guides.conjugate import ConjugateGuide
from pyro_unmix.guides.encoders import GRU, Encoder, Transformer
from pyro_unmix.guides.families import Family
from pyro_unmix.guides.flows import SplineFlow
from pyro_unmix.guides.mean_field import MeanFieldGuide
from pyro_unmix.guides.mixtures import CornerMixture
from pyro_unmix.guides.reshaped import ReshapedGuide
from pyro_unmix.guides.shrinkage import NonnegativeRegression, ShrinkageSteps
from pyro_unmix.guides.stretches import CornerStretch
from pyro_unmix.guides.two_stream import TwoStreamGuide

__all__ = [
    "GRU",
    "BiLSTMGuide",
    "ConjugateGuide",
    "CornerMixture",
    "CornerStretch",
    "Encoder",
    "Family",
    "Guide",
    "MeanFieldGuide",
    "NonnegativeRegression",
    "ReshapedGuide",
    "ShrinkageSteps",
    "SplineFlow",
    "Transformer",
    "TwoStreamGuide",
]
