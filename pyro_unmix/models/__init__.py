"""Generative programs.

`sglmm` is `SGLMM`, the state-space model of ReDSUNN, whose every line is a part that can be swapped; `idnet` is
`IDNet`, for one image that mixes nonlinearly. `published` has the parts with which ReDSUNN's published program departs
from its paper, `perturbed` the scene-wide model of `hbun` with its `smoothness` priors. `simplex` is `SimplexMixing`,
`library_mixing` is `LibraryMixing`, both for `sample`, on `common_residual`. `base` is `Model`, the class of your own.
"""

from pyro_unmix.models.base import Model, VariabilityModel
from pyro_unmix.models.idnet import IDNet
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.models.perturbed import PerturbedLinear
from pyro_unmix.models.published import FirstDateSGLMM, RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.models.simplex import SimplexMixing

__all__ = [
    "SGLMM",
    "FirstDateSGLMM",
    "IDNet",
    "LibraryMixing",
    "Model",
    "PerturbedLinear",
    "RawDCT",
    "SimplexMixing",
    "TransposedDCT",
    "VariabilityModel",
    "VarianceWalk",
]
