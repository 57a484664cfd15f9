"""What `sample` knows of each program that it can run: its kernels, where a chain starts, what a chain keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.kernels import (
    LIBRARY_ROUND,
    OWN_KERNELS,
    ROUND,
    Kernel,
    MemberMoves,
    MemberState,
    State,
)
from pyro_unmix.kernels.state import SHARED
from pyro_unmix.models.common_residual import outside
from pyro_unmix.models.library_mixing import LibraryMixing
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.ops.nonnegative import nonnegative_quadratic
from pyro_unmix.ops.solvers import fcls

_PURE = 0.02  # mixed into abundances where a chain starts, so that none is zero

SharedDraw = Mapping[str, Tensor]


@dataclass(frozen=True)
class Program:
    """How chains over a program go.

    Parameters
    ----------
    kernels : sequence of Kernel
        A round over everything.
    own_kernels : sequence of Kernel
        A round over what a spectrum has of its own, given what all share.
    shared : sequence of str
        What a chain keeps of a state.
    start : callable
        The state of a chain of values (N, L).
    under : callable
        The state of other values under a shared draw.
    fractions : callable
        Amounts (N, S) of the spectra of a library in a state, or S = 0.
    shapes : callable
        Shapes of what is kept, by name; what is not named is a scalar.
    """

    kernels: Sequence[Kernel]
    own_kernels: Sequence[Kernel]
    shared: Sequence[str]
    start: Callable[[Any, Tensor], Any]
    under: Callable[[Any, Tensor, SharedDraw], Any]
    fractions: Callable[[Any, Any], Tensor]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]


def program_of(model: Any) -> Program:
    """The entry of a model.

    Raises
    ------
    TypeError
        If there is none.
    """
    for kind, program in PROGRAMS.items():
        if isinstance(model, kind):
            return program
    names = ", ".join(kind.__name__ for kind in PROGRAMS)
    raise TypeError(
        f"chains know no program of the kind {type(model).__name__}: expected one of {names}, or train it by fit"
    )


# ------------------------------------------------------------------------------- SimplexMixing


def _start_of_simplex(model: SimplexMixing, values: Tensor) -> State:
    """FCLS abundances at the centre of the endmembers, and the residual's covariance of what these leave."""
    reference = model.first_endmembers().to(values)
    abundances = start_abundances(values, reference)
    factor, noise = residual_of(values - abundances @ reference.mT, model.rank)
    factor = outside(factor, model.taken)
    count, num_scales = len(values), model.components.shape[1]
    return State(
        endmembers=reference,
        concentration=model.concentration_bounds.prod().sqrt(),
        scales=values.new_full((num_scales,), 0.5),
        brightness_scale=values.new_tensor(0.5 * model.brightness),
        residual_variance=factor.square().mean(0),
        residual_factor=factor,
        noise_variance=noise,
        abundances=abundances,
        brightness=values.new_zeros(count),
        variability=values.new_zeros(count, num_scales),
    )


def _under_of_simplex(model: SimplexMixing, values: Tensor, shared: SharedDraw) -> State:
    return State(
        **shared,
        abundances=start_abundances(values, shared["endmembers"]),
        brightness=values.new_zeros(len(values)),
        variability=values.new_zeros(len(values), len(shared["scales"])),
    )


def _no_fractions(state: State, model: SimplexMixing) -> Tensor:
    return state.abundances.new_zeros(len(state.abundances), 0)


def _shapes_of_simplex(model: SimplexMixing) -> dict[str, tuple[int, ...]]:
    return {
        "endmembers": (model.num_bands, model.num_endmembers),
        "scales": (model.num_components * model.num_endmembers,),
        "residual_variance": (model.rank,),
        "residual_factor": (model.num_bands, model.rank),
    }


def start_abundances(values: Tensor, endmembers: Tensor) -> Tensor:
    """FCLS abundances (N, P), a little inside the simplex."""
    # On the host: the solver's active sets are no work for an accelerator.
    found = fcls(values.cpu(), endmembers.cpu()).to(values)
    found = found.clamp(min=0) / found.clamp(min=0).sum(-1, keepdim=True)
    return (1 - _PURE) * found + _PURE / found.shape[-1]


def residual_of(left: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (L, Q), the leading directions of what is left of spectra (N, L), and the variance of the noise."""
    variances, vectors = torch.linalg.eigh(left.mT @ left / len(left))
    count = min(rank, len(variances) - 1)
    rest = len(variances) - count
    noise = variances[:rest].mean().clamp(min=1e-12)
    spread = (variances[rest:] - noise).clamp(min=1e-9)
    factor = left.new_full((len(variances), rank), 1e-5)
    factor[:, :count] = vectors[:, rest:] * spread.sqrt()
    return factor, noise


# ------------------------------------------------------------------------------- LibraryMixing


def _start_of_library(model: LibraryMixing, values: Tensor) -> MemberState:
    """Non-negative least squares on the whole library, and the residual's covariance of what it leaves."""
    fitted = fractions_of_library(model, values) @ model.spectra.mT
    left = model.whitened(values - fitted)
    factor, noise = residual_of(left, model.rank)
    shared = {
        "endmembers": model.class_means(),
        "residual_variance": factor.square().mean(0).clamp(min=1e-12),
        "residual_factor": factor,
        "noise_variance": noise,
    }
    return _under_of_library(model, values, shared)


def _under_of_library(model: LibraryMixing, values: Tensor, shared: SharedDraw) -> MemberState:
    """Empty slots: chains that start apart find the several mixtures that explain a spectrum."""
    shape = (len(values), model.num_slots)
    members = torch.full(shape, model.num_spectra, device=values.device)
    amounts = values.new_zeros(shape)
    return MemberState(
        **shared, members=members, amounts=amounts, abundances=model.abundances(members, amounts)
    )


def _fractions_of_library(state: MemberState, model: LibraryMixing) -> Tensor:
    return model.fractions(state.members, state.amounts)


def _shapes_of_library(model: LibraryMixing) -> dict[str, tuple[int, ...]]:
    return {
        "endmembers": (model.num_bands, model.num_endmembers),
        "residual_variance": (model.rank,),
        "residual_factor": (model.num_bands, model.rank),
    }


def fractions_of_library(model: LibraryMixing, values: Tensor) -> Tensor:
    """Amounts (N, S) of all spectra of the library at once."""
    spectra = model.white_library().cpu()
    found = nonnegative_quadratic(spectra.mT @ spectra, model.whitened(values).cpu() @ spectra)
    return found.to(values)


PROGRAMS: dict[type, Program] = {
    SimplexMixing: Program(
        ROUND, OWN_KERNELS, SHARED, _start_of_simplex, _under_of_simplex, _no_fractions, _shapes_of_simplex
    ),
    LibraryMixing: Program(
        LIBRARY_ROUND, (MemberMoves(),), MemberState.SHARED, _start_of_library, _under_of_library,
        _fractions_of_library, _shapes_of_library,
    ),
}  # fmt: skip
