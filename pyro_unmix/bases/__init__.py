"""Spectral bases: the directions F_k in which an endmember varies, ``M_n = M0 + sum_k F_k diag(psi_k)``.

`linear` has bases with components: smooth ones (`DCT`, `BSpline`), brightness alone (`Brightness`), every band by
itself (`Full`), directions taken from data (`LearnedBasis`) or from the members of a library's classes
(`library_basis`). `decoded` has endmembers that a network makes of latent numbers (`DecodedBasis` with a
`PerceptronDecoder` or a `ScalingDecoder`). A new basis is a subclass of `Basis` with a method `components`.
"""

from pyro_unmix.bases.decoded import DecodedBasis, Decoder, PerceptronDecoder, ScalingDecoder
from pyro_unmix.bases.linear import (
    DCT,
    Basis,
    Brightness,
    BSpline,
    Full,
    LearnedBasis,
    library_basis,
)

__all__ = [
    "DCT",
    "BSpline",
    "Basis",
    "Brightness",
    "DecodedBasis",
    "Decoder",
    "Full",
    "LearnedBasis",
    "PerceptronDecoder",
    "ScalingDecoder",
    "library_basis",
]
