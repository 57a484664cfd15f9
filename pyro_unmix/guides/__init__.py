"""Variational programs: the approximate posteriors.

`bilstm` (the paper's), `conjugate/` (ours), `mean_field` (every date by itself), `two_stream` (of `IDNet`), `scene`
(of `hbun`) and `published` (of ReDSUNN's program) are guides; those of pixels are subclasses of `base.Guide`. What they
are made of: `encoders` in place of the LSTM; `gaussians`, and other `families` of abundances (`flows`, `mixtures`,
`stretches`); `shrinkage`, the regression of a pixel on its endmembers.
"""

from pyro_unmix.guides.base import Guide
from pyro_unmix.guides.bilstm import BiLSTMGuide
from pyro_unmix.guides.conjugate import ConjugateGuide, ReshapedGuide
from pyro_unmix.guides.encoders import GRU, Encoder, Transformer
from pyro_unmix.guides.families import Family
from pyro_unmix.guides.flows import SplineFlow
from pyro_unmix.guides.mean_field import MeanFieldGuide
from pyro_unmix.guides.mixtures import CornerMixture
from pyro_unmix.guides.published import PublishedGuide
from pyro_unmix.guides.scene import SceneMeanField
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
    "PublishedGuide",
    "ReshapedGuide",
    "SceneMeanField",
    "ShrinkageSteps",
    "SplineFlow",
    "Transformer",
    "TwoStreamGuide",
]
