"""The conjugate guide and its machinery: exact where the model is Gaussian, Laplace where it is not.

`guide` is `ConjugateGuide`; `reshaped` lets its abundances leave the Gaussian in the softmax basis. Abundances: `path`
finds what each date says about them, `smoother` carries that along the dates, `markov_normal` draws them. Variability
given the abundances: `variability` (its chain, filter and smoother), `integrated` (integrated out of the training).
"""

from pyro_unmix.guides.conjugate.guide import ConjugateGuide
from pyro_unmix.guides.conjugate.reshaped import ReshapedGuide

__all__ = [
    "ConjugateGuide",
    "ReshapedGuide",
]
