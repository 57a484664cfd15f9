"""Multitemporal hyperspectral unmixing as probabilistic programs in Pyro."""

from pyro_unmix import baselines, io, metrics, plots, simulate
from pyro_unmix.comparison import compare
from pyro_unmix.cubes import as_cube_sequence
from pyro_unmix.decoders import DecodedBasis, PerceptronDecoder, ScalingDecoder
from pyro_unmix.endmembers import (
    extract_bundles,
    extract_endmembers,
    match_endmembers,
    nfindr,
    vca,
)
from pyro_unmix.fit import NonFiniteLossError, fit
from pyro_unmix.guides import (
    GRU,
    BiLSTMGuide,
    ConjugateGuide,
    CornerMixture,
    CornerStretch,
    MeanFieldGuide,
    NonnegativeRegression,
    ReshapedGuide,
    ShrinkageSteps,
    SplineFlow,
    Transformer,
    TwoStreamGuide,
)
from pyro_unmix.interactions import choose_mixing
from pyro_unmix.io import read_library, read_sequence
from pyro_unmix.libraries import library_basis, library_endmembers, resample_library
from pyro_unmix.misfit import misfit_factor
from pyro_unmix.mixing import DCT, Brightness, BSpline, Full, LearnedBasis
from pyro_unmix.models import SGLMM, IDNet
from pyro_unmix.nonlinear import BilinearMixing, LinearMixing, TwoStreamMixing
from pyro_unmix.num_endmembers import estimate_num_endmembers, hysime, virtual_dimensionality
from pyro_unmix.per_pixel import degree_of_nonlinearity
from pyro_unmix.posterior import PlugInMean, PolishedMean, PosteriorMean
from pyro_unmix.presets import redsunn, redsunn_published, unmix
from pyro_unmix.presets_idnet import idnet
from pyro_unmix.priors import (
    AnchoredEndmembers,
    AutoRegressive,
    BandNoise,
    ConstantWalk,
    DateNoise,
    DirichletStart,
    DirichletWalk,
    FixedEndmembers,
    FreeEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    LowRankNoise,
    OrnsteinUhlenbeck,
    RandomWalk,
    SeasonalVariability,
    SharedVariability,
    SmoothVariability,
    SoftmaxWalk,
    SparseStart,
    StudentNoise,
    StudentWalk,
    WhiteNoise,
)
from pyro_unmix.result import Unmixing
from pyro_unmix.selection import choose_season_start, choose_start, learn_basis
from pyro_unmix.self_supervised import SelfSupervisedELBO

__version__ = "0.1.0"

__all__ = [
    "DCT",
    "GRU",
    "SGLMM",
    "AnchoredEndmembers",
    "AutoRegressive",
    "BSpline",
    "BandNoise",
    "BiLSTMGuide",
    "BilinearMixing",
    "Brightness",
    "ConjugateGuide",
    "ConstantWalk",
    "CornerMixture",
    "CornerStretch",
    "DateNoise",
    "DecodedBasis",
    "DirichletStart",
    "DirichletWalk",
    "FixedEndmembers",
    "FreeEndmembers",
    "Full",
    "IDNet",
    "Independent",
    "JumpWalk",
    "KnownAbundances",
    "LearnedBasis",
    "LinearMixing",
    "LowRankNoise",
    "MeanFieldGuide",
    "NonFiniteLossError",
    "NonnegativeRegression",
    "OrnsteinUhlenbeck",
    "PerceptronDecoder",
    "PlugInMean",
    "PolishedMean",
    "PosteriorMean",
    "RandomWalk",
    "ReshapedGuide",
    "ScalingDecoder",
    "SeasonalVariability",
    "SelfSupervisedELBO",
    "SharedVariability",
    "ShrinkageSteps",
    "SmoothVariability",
    "SoftmaxWalk",
    "SparseStart",
    "SplineFlow",
    "StudentNoise",
    "StudentWalk",
    "Transformer",
    "TwoStreamGuide",
    "TwoStreamMixing",
    "Unmixing",
    "WhiteNoise",
    "as_cube_sequence",
    "baselines",
    "choose_mixing",
    "choose_season_start",
    "choose_start",
    "compare",
    "degree_of_nonlinearity",
    "estimate_num_endmembers",
    "extract_bundles",
    "extract_endmembers",
    "fit",
    "hysime",
    "idnet",
    "io",
    "learn_basis",
    "library_basis",
    "library_endmembers",
    "match_endmembers",
    "metrics",
    "misfit_factor",
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
