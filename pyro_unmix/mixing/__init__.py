"""How endmembers and abundances make a spectrum.

`forward` has the mixings that a model takes as a part, ``SGLMM(mixing=...)``: by area (`LinearMixing`), with light that
met two materials (`BilinearMixing`), or with a network (`TwoStreamMixing`); and the algebra of endmembers that vary in
a basis. `hapke` has grains of several materials in one powder (`Hapke`), whose single-scattering albedos mix linearly,
and converts its fractions of cross section to mass (`mass_fractions`, `cross_section_fractions`). A new mixing is a
subclass of `Mixing` with a method `nonlinear`.
"""

from pyro_unmix.mixing.forward import (
    BilinearMixing,
    LinearMixing,
    Mixing,
    TwoStreamMixing,
)
from pyro_unmix.mixing.forward import change_detector as change_detector
from pyro_unmix.mixing.forward import design_matrix as design_matrix
from pyro_unmix.mixing.forward import linear_regression as linear_regression
from pyro_unmix.mixing.forward import mixing_features as mixing_features
from pyro_unmix.mixing.hapke import Hapke, cross_section_fractions, mass_fractions

__all__ = [
    "BilinearMixing",
    "Hapke",
    "LinearMixing",
    "Mixing",
    "TwoStreamMixing",
    "cross_section_fractions",
    "mass_fractions",
]
