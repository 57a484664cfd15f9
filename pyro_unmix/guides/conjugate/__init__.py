"""The conjugate guide and its machinery: exact where the model is Gaussian, Laplace where it is not.

`guide` is `ConjugateGuide`; `reshaped` lets its abundances leave the Gaussian in the softmax basis. Abundances: `path`
finds what each date says about them, `smoother` carries that along the dates, `chains` draws them. Variability given
the abundances: `moments` (filter and smoother), `variability` (the chain of its conditionals), `integrated` (integrated
out of the training).
"""

from pyro_unmix.guides.conjugate.guide import ConjugateGuide
from pyro_unmix.guides.conjugate.reshaped import ReshapedGuide

__all__ = [
    "ConjugateGuide",
    "ReshapedGuide",
]
