"""One chain over what all spectra share, and draws of single spectra's abundances given that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.infer.programs import program_of
from pyro_unmix.kernels import Kernel, Spectra

#: Spectra whose random numbers come from one stream; part of what a draw is, not a setting.
BLOCK = 2048


@dataclass(frozen=True, eq=False)
class Chain:
    """What a chain kept.

    Attributes
    ----------
    model : SimplexMixing or LibraryMixing
    shared : tuple of dict
        Draws of what all spectra share, by the names of the program's sites, in the order of the chain.
    """

    model: Any
    shared: tuple[dict[str, Tensor], ...]

    def stacked(self, name: str) -> Tensor:
        """Draws of one site, the first axis."""
        return torch.stack([draw[name] for draw in self.shared])


def run_chain(
    state: Any, spectra: Spectra, kernels: Sequence[Kernel], num_rounds: int
) -> Iterator[Any]:
    """The state after every round."""
    for _ in range(num_rounds):
        state = after_round(state, spectra, kernels)
        yield state


@torch.no_grad()
def after_round(state: Any, spectra: Spectra, kernels: Sequence[Kernel]) -> Any:
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
    device = model.device
    values = torch.as_tensor(seen[chosen].astype(np.float64), device=device)
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return Spectra(model, values, generator)


def draw_abundances(
    chain: Chain, values: Tensor, num_draws: int, *, num_warmup: int, generator: torch.Generator
) -> Tensor:
    """The first of what `draw_own` gives."""
    return draw_own(chain, values, num_draws, num_warmup=num_warmup, generator=generator)[0]


def draw_own(
    chain: Chain,
    values: Tensor,
    num_draws: int,
    *,
    num_warmup: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
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
    tuple of Tensor, shapes (D, N, P) and (N, S)
        Draws, and mean fractions of the S spectra of a library; S is 0 for programs without one.
    """
    spectra, program = Spectra(chain.model, values, generator), program_of(chain.model)
    first = {k: v.to(values) for k, v in chain.shared[0].items()}
    state = program.under(chain.model, values, first)
    draws, fractions = [], torch.zeros_like(program.fractions(state, chain.model))
    for number in range(-num_warmup, num_draws):
        place = max(number, 0) * len(chain.shared) // num_draws
        state = state.having(**{k: v.to(values) for k, v in chain.shared[place].items()})
        state = after_round(state, spectra, program.own_kernels)
        if number >= 0:
            draws.append(state.abundances)
            fractions = fractions + program.fractions(state, chain.model)
    return torch.stack(draws), fractions / num_draws
