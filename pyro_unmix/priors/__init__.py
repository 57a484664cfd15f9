"""Beliefs about one pixel's states: reference endmembers, abundances, variability and noise.

`part` is what all share. `endmembers`, within bounds `bounded`; `abundances`, their `abundance_walks` and
`initial_abundances`; `variability` of every pixel, and what pixels share of it, `shared_variability`:
`seasonal_variability`, `smooth_variability`; `noise`.

Each part is a small `PyroModule` that returns distributions. Sizes are not known when a user writes
``SGLMM(endmembers, abundance_prior=JumpWalk())``, so the model copies each part and calls its `setup` once.
"""

from pyro_unmix.priors.abundance_walks import (
    ConstantWalk,
    JumpWalk,
    OrnsteinUhlenbeck,
    SoftmaxWalk,
    StudentWalk,
    Walk,
)
from pyro_unmix.priors.abundances import AbundancePrior, GaussianStart, KnownAbundances
from pyro_unmix.priors.bounded import BoundedEndmembers
from pyro_unmix.priors.dirichlet_walk import DirichletWalk
from pyro_unmix.priors.endmembers import (
    AnchoredEndmembers,
    Endmembers,
    FixedEndmembers,
    FreeEndmembers,
)
from pyro_unmix.priors.initial_abundances import DirichletStart, InitialAbundances, SparseStart
from pyro_unmix.priors.noise import (
    BandNoise,
    DateNoise,
    LowRankNoise,
    Noise,
    StudentNoise,
    WhiteNoise,
)
from pyro_unmix.priors.part import Need, Part, Transition
from pyro_unmix.priors.seasonal_variability import SeasonalVariability
from pyro_unmix.priors.shared_variability import SharedVariability
from pyro_unmix.priors.smooth_variability import SmoothVariability
from pyro_unmix.priors.variability import AutoRegressive, Independent, RandomWalk, VariabilityPrior

__all__ = [
    "AbundancePrior",
    "AnchoredEndmembers",
    "AutoRegressive",
    "BandNoise",
    "BoundedEndmembers",
    "ConstantWalk",
    "DateNoise",
    "DirichletStart",
    "DirichletWalk",
    "Endmembers",
    "FixedEndmembers",
    "FreeEndmembers",
    "GaussianStart",
    "Independent",
    "InitialAbundances",
    "JumpWalk",
    "KnownAbundances",
    "LowRankNoise",
    "Need",
    "Noise",
    "OrnsteinUhlenbeck",
    "Part",
    "RandomWalk",
    "SeasonalVariability",
    "SharedVariability",
    "SmoothVariability",
    "SoftmaxWalk",
    "SparseStart",
    "StudentNoise",
    "StudentWalk",
    "Transition",
    "VariabilityPrior",
    "Walk",
    "WhiteNoise",
]
