"""Multitemporal hyperspectral unmixing as probabilistic programs in Pyro.

`unmix` does everything; `fit` trains any model and guide; both return an `Unmixing`. What is not listed here is in the
room of its kind, such as ``pyro_unmix.priors.JumpWalk``: data and `io`; `priors`, `bases` and `mixing`, of which
`models` are made; `guides` and `kernels`, the posteriors; `start`, `infer` and `posterior`, what inference begins with,
is, and gives; `methods`; `simulate`, `metrics` and `plots`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_unmix import (
        bases as bases,
    )
    from pyro_unmix import (
        data as data,
    )
    from pyro_unmix import (
        guides as guides,
    )
    from pyro_unmix import (
        infer as infer,
    )
    from pyro_unmix import (
        io as io,
    )
    from pyro_unmix import (
        kernels as kernels,
    )
    from pyro_unmix import (
        methods as methods,
    )
    from pyro_unmix import (
        metrics as metrics,
    )
    from pyro_unmix import (
        mixing as mixing,
    )
    from pyro_unmix import (
        models as models,
    )
    from pyro_unmix import (
        plots as plots,
    )
    from pyro_unmix import (
        posterior as posterior,
    )
    from pyro_unmix import (
        priors as priors,
    )
    from pyro_unmix import (
        simulate as simulate,
    )
    from pyro_unmix import (
        start as start,
    )
    from pyro_unmix.bases.linear import Brightness as Brightness
    from pyro_unmix.data.cubes import as_cube_sequence as as_cube_sequence
    from pyro_unmix.guides.bilstm import BiLSTMGuide as BiLSTMGuide
    from pyro_unmix.guides.conjugate.guide import ConjugateGuide as ConjugateGuide
    from pyro_unmix.guides.mean_field import MeanFieldGuide as MeanFieldGuide
    from pyro_unmix.infer.fit import fit as fit
    from pyro_unmix.infer.sample import sample as sample
    from pyro_unmix.io.errors import FileError as FileError
    from pyro_unmix.io.libraries.library import read_library as read_library
    from pyro_unmix.io.sequence import read_sequence as read_sequence
    from pyro_unmix.methods.idnet import idnet as idnet
    from pyro_unmix.methods.redsunn import redsunn as redsunn
    from pyro_unmix.methods.redsunn_published import redsunn_published as redsunn_published
    from pyro_unmix.methods.unmix import unmix as unmix
    from pyro_unmix.methods.unmixer import Unmixer as Unmixer
    from pyro_unmix.models.idnet import IDNet as IDNet
    from pyro_unmix.models.sglmm import SGLMM as SGLMM
    from pyro_unmix.ops.non_finite import NonFiniteLossError as NonFiniteLossError
    from pyro_unmix.posterior.comparison import compare as compare
    from pyro_unmix.posterior.result import Unmixing as Unmixing
    from pyro_unmix.priors.endmembers import FixedEndmembers as FixedEndmembers
    from pyro_unmix.start.choice import choose_start as choose_start
    from pyro_unmix.start.extraction import extract_endmembers as extract_endmembers
    from pyro_unmix.start.extraction import match_endmembers as match_endmembers
    from pyro_unmix.start.num_endmembers import estimate_num_endmembers as estimate_num_endmembers

__version__ = "0.1.0"

_ROOMS = [
    "bases",
    "data",
    "guides",
    "infer",
    "io",
    "kernels",
    "methods",
    "metrics",
    "mixing",
    "models",
    "plots",
    "posterior",
    "priors",
    "simulate",
    "start",
]
_HOMES = {
    "BiLSTMGuide": "guides.bilstm",
    "Brightness": "bases.linear",
    "ConjugateGuide": "guides.conjugate.guide",
    "FileError": "io.errors",
    "FixedEndmembers": "priors.endmembers",
    "IDNet": "models.idnet",
    "MeanFieldGuide": "guides.mean_field",
    "NonFiniteLossError": "ops.non_finite",
    "SGLMM": "models.sglmm",
    "Unmixing": "posterior.result",
    "sample": "infer.sample",
    "as_cube_sequence": "data.cubes",
    "choose_start": "start.choice",
    "compare": "posterior.comparison",
    "estimate_num_endmembers": "start.num_endmembers",
    "extract_endmembers": "start.extraction",
    "fit": "infer.fit",
    "idnet": "methods.idnet",
    "match_endmembers": "start.extraction",
    "read_library": "io.libraries.library",
    "read_sequence": "io.sequence",
    "redsunn": "methods.redsunn",
    "redsunn_published": "methods.redsunn_published",
    "unmix": "methods.unmix",
}

#: What needs a package that may be missing, which ``import *`` does not ask for.
_WITH_EXTRAS = {"Unmixer": "methods.unmixer"}
_PACKAGES = {"Unmixer": "sklearn"}

__all__ = [*_ROOMS, *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"pyro_unmix.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"pyro_unmix.{_HOMES[name]}"), name)
    if name in _WITH_EXTRAS:
        try:
            return getattr(importlib.import_module(f"pyro_unmix.{_WITH_EXTRAS[name]}"), name)
        except ImportError as error:  # so that hasattr is False
            raise AttributeError(f"pyro_unmix.{name} is not there: {error}") from error
    raise AttributeError(f"module 'pyro_unmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    there = [name for name in _WITH_EXTRAS if find_spec(_PACKAGES[name]) is not None]
    return [*__all__, *there, "__version__"]
