"""One chain over what all spectra share, and draws of single spectra's abundances given that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.kernels import OWN_KERNELS, Kernel, Spectra, State
from pyro_unmix.ops.solvers import fcls

_PURE = 0.02  # mixed into abundances where a chain starts, so that none is zero
#: Spectra whose random numbers come from one stream; part of what a draw is, not a setting.
BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Chain:
    """What a chain kept.

    Attributes
    ----------
    model : SimplexMixing
    shared : tuple of dict
        Draws of what all spectra share, by the names of the program's sites, in the order of the chain.
    """

    model: Any
    shared: tuple[dict[str, Tensor], ...]

    def stacked(self, name: str) -> Tensor:
        """Draws of one site, the first axis."""
        return torch.stack([draw[name] for draw in self.shared])


def start_state(model: Any, values: Tensor, endmembers: Tensor) -> State:
    """Where a chain starts: FCLS abundances, and the residual's covariance in leading directions and white noise.

    Parameters
    ----------
    model : SimplexMixing
    values : Tensor, shape (N, L)
    endmembers : Tensor, shape (L, P)
    """
    reference = endmembers.to(values).clamp(1e-4, model.reference.high)
    abundances = start_abundances(values, reference)
    left = values - abundances @ reference.mT
    variances, vectors = torch.linalg.eigh(left.mT @ left / len(left))
    rank = min(model.rank, len(variances) - 1)
    noise = variances[:-rank].mean().clamp(min=1e-12)
    spread = (variances[-rank:] - noise).clamp(min=1e-9)
    factor = values.new_full((len(variances), model.rank), 1e-5)
    factor[:, :rank] = vectors[:, -rank:] * spread.sqrt()
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


def start_abundances(values: Tensor, endmembers: Tensor) -> Tensor:
    """FCLS abundances (N, P), a little inside the simplex."""
    # On the host: the solver's active sets are no work for an accelerator.
    found = fcls(values.cpu(), endmembers.cpu()).to(values)
    found = found.clamp(min=0) / found.clamp(min=0).sum(-1, keepdim=True)
    return (1 - _PURE) * found + _PURE / found.shape[-1]


def run_chain(
    state: State, spectra: Spectra, kernels: Sequence[Kernel], num_rounds: int
) -> Iterator[State]:
    """The state after every round."""
    for _ in range(num_rounds):
        state = after_round(state, spectra, kernels)
        yield state


@torch.no_grad()
def after_round(state: State, spectra: Spectra, kernels: Sequence[Kernel]) -> State:
    """The state after every kernel in turn."""
    for kernel in kernels:
        state = kernel(state, spectra)
    return state


def kept_rounds(num_rounds: int, num_kept: int) -> np.ndarray:
    """Numbers of rounds, from 1, whose states are kept: evenly over the second half."""
    places = np.linspace(num_rounds / 2, num_rounds, num_kept + 1)[1:]
    return np.unique(places.round().astype(int).clip(1))


def random_spectra(model: Any, seen: np.ndarray, num_spectra: int, seed: Sequence[int]) -> Spectra:
    """Some of the spectra (n, L), and the stream of random numbers of a chain."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(seen))[:num_spectra]
    device = model.concentration_bounds.device
    values = torch.as_tensor(seen[chosen].astype(np.float64), device=device)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return Spectra(model, values, generator)


def chain_of(
    spectra: Spectra, num_rounds: int, *, kernels: Sequence[Kernel], num_kept: int, bar: Any
) -> Chain:
    """A chain from where the model's endmembers are; `bar` is told every round."""
    state = start_state(spectra.model, spectra.values, spectra.model.reference.centre)
    keep, shared = kept_rounds(num_rounds, num_kept), []
    for number, after in enumerate(run_chain(state, spectra, kernels, num_rounds), start=1):
        if number in keep:
            shared.append(after.shared())
        bar.update()
    return Chain(spectra.model, tuple(shared))


def draw_abundances(
    chain: Chain,
    values: Tensor,
    num_draws: int,
    *,
    num_warmup: int,
    generator: torch.Generator,
    kernels: Sequence[Kernel] = OWN_KERNELS,
) -> Tensor:
    """Draws of single spectra's abundances, variability integrated out, each under its own draw of what they share.

    Parameters
    ----------
    chain : Chain
    values : Tensor, shape (N, L)
        Observed spectra.
    num_draws : int
        D; draw d belongs to the shared draw ``d K // D`` of the K that the chain kept, for all spectra.
    num_warmup : int
        Rounds before the first.
    generator : torch.Generator
        On the device of `values`.

    Returns
    -------
    Tensor, shape (D, N, P)
    """
    spectra = Spectra(chain.model, values, generator)
    state = start_state_of(chain, values)
    draws = []
    for number in range(-num_warmup, num_draws):
        place = max(number, 0) * len(chain.shared) // num_draws
        state = state.having(**{k: v.to(values) for k, v in chain.shared[place].items()})
        state = after_round(state, spectra, kernels)
        if number >= 0:
            draws.append(state.abundances)
    return torch.stack(draws)


def start_state_of(chain: Chain, values: Tensor) -> State:
    """A state with the chain's first shared draw, for other spectra."""
    shared = {k: v.to(values) for k, v in chain.shared[0].items()}
    count = len(values)
    return State(
        **shared,
        abundances=start_abundances(values, shared["endmembers"]),
        brightness=values.new_zeros(count),
        variability=values.new_zeros(count, len(shared["scales"])),
    )
