"""Multitemporal hyperspectral unmixing as probabilistic programs in Pyro."""

from pyro_unmix import baselines, io, metrics, plots, simulate
from pyro_unmix.cubes import as_cube_sequence
from pyro_unmix.endmembers import extract_endmembers, match_endmembers, nfindr, vca
from pyro_unmix.fit import NonFiniteLossError, fit
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide
from pyro_unmix.io import read_library, read_sequence
from pyro_unmix.libraries import library_basis, library_endmembers, resample_library
from pyro_unmix.mixing import DCT, Brightness, LearnedBasis
from pyro_unmix.models import SGLMM
from pyro_unmix.num_endmembers import estimate_num_endmembers, hysime, virtual_dimensionality
from pyro_unmix.posterior import PlugInMean, PosteriorMean
from pyro_unmix.presets import redsunn, redsunn_published, unmix
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    FreeEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)
from pyro_unmix.result import Unmixing
from pyro_unmix.selection import choose_start, learn_basis

__version__ = "0.1.0"

__all__ = [
    "DCT",
    "SGLMM",
    "AutoRegressive",
    "BiLSTMGuide",
    "Brightness",
    "ConjugateGuide",
    "FixedEndmembers",
    "FreeEndmembers",
    "Independent",
    "JumpWalk",
    "KnownAbundances",
    "LearnedBasis",
    "NonFiniteLossError",
    "PlugInMean",
    "PosteriorMean",
    "RandomWalk",
    "SoftmaxWalk",
    "Unmixing",
    "WhiteNoise",
    "as_cube_sequence",
    "baselines",
    "choose_start",
    "estimate_num_endmembers",
    "extract_endmembers",
    "fit",
    "hysime",
    "io",
    "learn_basis",
    "library_basis",
    "library_endmembers",
    "match_endmembers",
    "metrics",
    "nfindr",
    "plots",
    "read_library",
    "read_sequence",
    "redsunn",
    "redsunn_published",
    "resample_library",
    "simulate",
    "unmix",
    "vca",
    "virtual_dimensionality",
]
