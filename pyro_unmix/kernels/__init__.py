"""Markov kernels: steps that leave a model's posterior as it is, to be put in a row.

Two families. Over the softmax states of an `SGLMM`, from a guide's draws: `sweeps` moves states and variability in turn
and leaves the model's posterior as it is, `collapsed` moves states alone in a likelihood that has the variability
integrated out once; both have the `block_moves`, and look at the likelihood through `observations`.

Over everything that a `SimplexMixing` or a `LibraryMixing` does not know, abundances exactly on the simplex: a kernel
is called as ``kernel(state, spectra)`` and gives a new state; a tuple of them, in order, is a round of a chain
(`pyro_unmix.infer.sample`). `members` is for `LibraryMixing`, `residual` for both programs, the rest for
`SimplexMixing`. What a kernel may integrate out is said in its docstring; a state's residual is None from then on until
`ResidualDraws`, and `VariabilityDraws` has to follow `MassMoves`. Each is tested by itself: its density against the
program's trace, its draws against prior draws (Geweke) and against quadrature.

- `state`: `State`, `Spectra`, and the products that kernels share; `truncated`: normal numbers between bounds
- `abundances`: `MassMoves`, and the likelihood that they see, `AbundanceLikelihood`
- `variability`: `VariabilityDraws`, `ScaleDraws`
- `rescale`: `RescaleMoves`
- `endmembers`: `EllipticalEndmembers`
- `residual`: `ResidualDraws`, `FactorDraws`, `NoiseDraws`
- `concentration`: `ConcentrationMoves`
- `members`: `MemberState`, `MemberMoves`, `MeanSpectra`
"""

from pyro_unmix.kernels.abundances import AbundanceLikelihood, MassMoves
from pyro_unmix.kernels.concentration import ConcentrationMoves
from pyro_unmix.kernels.endmembers import EllipticalEndmembers
from pyro_unmix.kernels.members import MeanSpectra, MemberMoves, MemberState
from pyro_unmix.kernels.rescale import RescaleMoves
from pyro_unmix.kernels.residual import FactorDraws, NoiseDraws, ResidualDraws
from pyro_unmix.kernels.state import Kernel, Spectra, State, Whitened
from pyro_unmix.kernels.variability import ScaleDraws, VariabilityDraws

#: What one spectrum has of its own, given what all share.
OWN_KERNELS: tuple[Kernel, ...] = (MassMoves(),)
#: A round over everything that `SimplexMixing` does not know.
ROUND: tuple[Kernel, ...] = (
    *OWN_KERNELS,
    VariabilityDraws(),
    ScaleDraws(),
    EllipticalEndmembers(),
    ResidualDraws(),
    FactorDraws(),
    NoiseDraws(),
    RescaleMoves(),
    ConcentrationMoves(),
)
#: The same of `LibraryMixing`.
LIBRARY_ROUND: tuple[Kernel, ...] = (
    MemberMoves(),
    ResidualDraws(),
    FactorDraws(),
    NoiseDraws(),
    MeanSpectra(),
)

__all__ = [
    "LIBRARY_ROUND",
    "OWN_KERNELS",
    "ROUND",
    "AbundanceLikelihood",
    "ConcentrationMoves",
    "EllipticalEndmembers",
    "FactorDraws",
    "Kernel",
    "MassMoves",
    "MeanSpectra",
    "MemberMoves",
    "MemberState",
    "NoiseDraws",
    "RescaleMoves",
    "ResidualDraws",
    "ScaleDraws",
    "Spectra",
    "State",
    "VariabilityDraws",
    "Whitened",
]
