"""Markov-chain sweeps that carry a guide's draws to the model's own posterior: Metropolis within Gibbs.

In turn: blocks of a pixel's softmax states given the variability; every date's state with its variability integrated
out, and that variability given the state. Each move leaves the model's posterior invariant, its parameters as they are;
proposals are adapted once, to where the chains start. All pixels share the random numbers, so that none depends on
those beside it.
"""

from __future__ import annotations

import copy
import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.collapsed import CollapsedChains
from pyro_unmix.mixing import tile_components, to_abundances, to_softmax_basis
from pyro_unmix.observations import Marginal, Observations, quadratic_value
from pyro_unmix.priors.part import COLOURED_NOISE, SMOOTH_VARIABILITY

#: States of one chain that become draws.
KEPT = 4
_NUM_MOVES = 32  # of blocks, in a sweep
_LENGTHS = (1, 2, 4, 8)  # dates that move together, besides all of them
_FLOOR = 1e-12  # of abundances, whose logarithms the chains start from
_LEAST_VARIANCE = 1e-4  # of a proposal, in the softmax basis


class Numbers:
    """Random numbers from a seed, the same for all pixels, shape (S, 1, ...)."""

    def __init__(self, num_chains: int, seed: int, like: Tensor) -> None:
        sequence = np.random.SeedSequence([seed, zlib.crc32(b"sweeps")])
        self.generator = np.random.default_rng(sequence)
        self.shape, self.like = (num_chains, 1), like

    def normal(self, *shape: int) -> Tensor:
        return self._tensor(self.generator.standard_normal((*self.shape, *shape)))

    def log_uniform(self, *shape: int) -> Tensor:
        """Logarithms of uniform numbers."""
        return self._tensor(np.log(self.generator.random((*self.shape, *shape))))

    def one_hot(self, size: int) -> Tensor:
        """One of the coordinates per chain, (S, 1, 1, size)."""
        return self._tensor(np.eye(size)[self.generator.integers(size, size=(*self.shape, 1))])

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.like.dtype, device=self.like.device)


class Blocks:
    """States that move together: those between two held ones. Node 0 stands before the first state, and is held.

    Parameters
    ----------
    held : array of bool (T+2,)
    """

    def __init__(self, held: np.ndarray, like: Tensor) -> None:
        nodes = np.arange(len(held))
        following = np.minimum.accumulate(np.where(held, nodes, len(held))[::-1])[::-1]
        left = np.maximum.accumulate(np.where(held, nodes, 0))
        # The step to a held node counts for the block before it.
        owner = np.where(held[1:], left[:-1], left[1:])

        def tensor(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values.copy(), device=like.device)

        self.left, self.right = tensor(left), tensor(np.minimum(following, len(held) - 1))
        self.moving, self.bridged = tensor(~held), tensor(~held & (following < len(held)))
        self.owner = tensor(owner)
        steps = owner[:, None] == nodes
        dates = (left[2:, None] == nodes) & ~held[2:, None]
        self.steps, self.dates = tensor(steps).to(like.dtype), tensor(dates).to(like.dtype)


class Chains:
    """S chains of the states ``c_0 .. c_T`` of B pixels.

    Parameters
    ----------
    model : SGLMM
    seen : Observations
    abundances : Tensor, shape (S, B, T, P)
        Where the chains start.
    numbers : Numbers
    index : Tensor of int, shape (B,), optional
        Which pixels of the scene these are.
    """

    def __init__(
        self,
        model: Any,
        seen: Observations,
        abundances: Tensor,
        numbers: Numbers,
        index: Tensor | None = None,
    ) -> None:
        self.seen, self.numbers = seen, numbers
        prior = copy.deepcopy(model.abundance_prior).double()
        self.initial, self.transition = prior.initial(index), prior.transitions(index)
        states = to_softmax_basis(abundances.double(), _FLOOR) + self.initial.loc.mean()
        self.c = torch.cat([states[..., :1, :], states], dim=-2)
        self._set_reference(prior)
        self.log_prior = self._log_prior(self.c)
        num_states, size = self.c.shape[-2], len(seen.first_loc)
        self.psi = seen.first_loc.expand(*self.c.shape[:2], num_states, size).clone()
        for _ in range(2):
            self._visit_dates(move=False)

    def _set_reference(self, prior: Any) -> None:
        """A Gaussian walk like the prior's, by whose bridges blocks are moved, and the spread of every state."""
        mean = self.c.mean(0)
        square = self.c.diff(dim=-2).square().mean((0, -1))
        variance = prior.step_scale(mean[:, :-1], square).square().unsqueeze(-1)
        first = self.initial.scale.square().expand_as(mean[:, :1])
        self.variance = torch.cat([first, variance.expand_as(mean[:, 1:])], dim=1)  # (B, T+1, P)
        clock = torch.cat([torch.zeros_like(first), self.variance], dim=1)
        self.clock = clock.cumsum(1)  # of the nodes 0 .. T+1
        self.before = self.initial.loc.expand_as(self.c[..., :1, :])
        apart = self.c - mean
        covariance = torch.einsum("sbti,sbtj->btij", apart, apart) / len(apart)
        covariance.diagonal(dim1=-2, dim2=-1).add_(_LEAST_VARIANCE)
        self.spread = torch.linalg.cholesky(covariance)

    def _log_prior(self, c: Tensor) -> Tensor:
        """Log-density of the first state and of every step, (S, B, T+1)."""
        parts = [self.initial.log_prob(c[..., 0, :])]
        for t in range(1, c.shape[-2]):
            parts.append(self.transition(c[..., t - 1, :], t).log_prob(c[..., t, :]))
        return torch.stack([part.expand(c.shape[:2]) for part in parts], dim=-1)

    def abundances(self) -> Tensor:
        """(S, B, T, P)."""
        return to_abundances(self.c[..., 1:, :])

    def variability(self) -> Tensor:
        """``E[psi_t | c_t, y_t, psi_(t-1), psi_(t+1)]`` of every chain, (S, B, T, K P)."""
        means = []
        for t in range(1, self.c.shape[-2]):
            mean, std = self.seen.neighbours(t, self.psi)
            found = self.seen.marginal(t, self.c[..., t, :], mean, std)
            means.append(self.seen.variability(found, mean, std))
        return torch.stack(means, dim=-2)

    def sweep(self) -> None:
        """One round of moves of all dates."""
        self._move_blocks()
        self._visit_dates()

    # ------------------------------------------------------------ blocks of dates

    def _random_held(self, length: int) -> np.ndarray:
        """Every node after `length` others, from a random one on, and node 0."""
        nodes = np.arange(self.c.shape[-2] + 1)
        held = (nodes + int(self.numbers.generator.integers(length + 1))) % (length + 1) == 0
        return held | (nodes == 0)

    def _accept(self, gain: Tensor) -> Tensor:
        return self.numbers.log_uniform(gain.shape[-1]) < gain

    def _move_blocks(self) -> None:
        """Metropolis moves of blocks of states between held ones, given the variability."""
        quadratic = self.seen.given(self.psi[..., 1:, :])
        likelihood = quadratic_value(quadratic, self.abundances())
        generator, num_nodes = self.numbers.generator, self.c.shape[-2] + 1
        lengths = [*(n for n in _LENGTHS if n < num_nodes - 1), num_nodes, num_nodes]
        for _ in range(_NUM_MOVES):
            held = self._random_held(lengths[int(generator.integers(len(lengths)))])
            if held.all():
                continue
            blocks = Blocks(held, self.c)
            kinds = (self._bridge, self._shift, self._shift_one, self._shift_one)
            new, gain = kinds[int(generator.integers(len(kinds)))](blocks)
            log_prior = self._log_prior(new)
            value = quadratic_value(quadratic, to_abundances(new[..., 1:, :]))
            total = (gain + log_prior - self.log_prior) @ blocks.steps
            accept = self._accept(total + (value - likelihood) @ blocks.dates)
            here = accept[..., blocks.left[1:]] & blocks.moving[1:]
            self.c = torch.where(here.unsqueeze(-1), new, self.c)
            likelihood = torch.where(here[..., 1:], value, likelihood)
            self.log_prior = torch.where(accept[..., blocks.owner], log_prior, self.log_prior)

    def _bridge(self, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """A preconditioned Crank-Nicolson move in the reference walk, and the loss of that walk's log-density."""
        path = torch.cat([self.before, self.c], dim=-2)
        steps = self.variance.sqrt() * self.numbers.normal(*self.variance.shape[1:])
        walk = torch.cat([torch.zeros_like(steps[..., :1, :]), steps.cumsum(-2)], dim=-2)
        left, right = blocks.left, blocks.right
        span = (self.clock[:, right] - self.clock[:, left]).clamp(min=1e-30)
        share = (self.clock - self.clock[:, left]) / span * blocks.bridged.unsqueeze(-1)
        base = torch.lerp(path[..., left, :], path[..., right, :], share)
        walk = walk - torch.lerp(walk[..., left, :], walk[..., right, :], share)
        size = (0.8 * self.numbers.log_uniform(1, 1)).clamp(min=-4).exp()
        change = ((1 - size.square()).sqrt() - 1) * (path - base) + size * walk
        change = change * blocks.moving.unsqueeze(-1)
        if self.numbers.generator.random() < 0.75:
            change = change * self.numbers.one_hot(change.shape[-1])
        new = path + change
        squares = new.diff(dim=-2).square() - path.diff(dim=-2).square()
        return new[..., 1:, :], 0.5 * (squares / self.variance).sum(-1)

    def _shift(self, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """All states of a block by one step, of the covariance at its first state."""
        num_states, size = self.c.shape[-2:]
        steps = (self.spread @ self.numbers.normal(num_states, size, 1)).squeeze(-1)
        first = blocks.left[1:].clamp(max=num_states - 1)
        step = self._length(1) * steps[..., first, :] * blocks.moving[1:, None]
        return self.c + step, torch.zeros_like(self.log_prior)

    def _shift_one(self, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """One material's states of a block: far, where it is absent."""
        num_states, size = self.c.shape[-2:]
        length = (self.numbers.normal(1, 1) - 0.2).exp()
        step = length * self.numbers.normal(num_states + 1, 1) * self.numbers.one_hot(size)
        step = step[..., blocks.left[1:], :] * blocks.moving[1:, None]
        return self.c + step, torch.zeros_like(self.log_prior)

    def _length(self, dims: int) -> Tensor:
        """Random lengths about the best one of a Gaussian, 2.38 / sqrt(P)."""
        best = 2.38 / math.sqrt(self.c.shape[-1])
        return best * (0.8 * self.numbers.normal(*[1] * (dims + 1)) - 0.6).exp()

    # ------------------------------------------------------------ one date, its variability integrated out

    def _visit_dates(self, move: bool = True) -> None:
        """A move of every state but the first, followed at once by a draw of that date's variability."""
        for t in range(self.c.shape[-2]):
            mean, std = self.seen.neighbours(t, self.psi)
            noise = self.numbers.normal(len(std))
            if t == 0:
                self.psi[..., 0, :] = mean + std * noise
                continue
            found = self.seen.marginal(t, self.c[..., t, :], mean, std)
            if move:
                found = self._move_date(t, mean, std, found)
            self.psi[..., t, :] = self.seen.variability(found, mean, std, noise)

    def _move_date(self, t: int, mean: Tensor, std: Tensor, old: Marginal) -> Marginal:
        """A Metropolis move of c_t; the marginal likelihood from where it starts to where it ends."""
        step = (self.spread[:, t] @ self.numbers.normal(self.c.shape[-1], 1)).squeeze(-1)
        c = self.c.clone()
        c[..., t, :] += self._length(0) * step
        new = self.seen.marginal(t, c[..., t, :], mean, std)
        log_prior = self.log_prior.clone()
        log_prior[..., t] = self.transition(c[..., t - 1, :], t).log_prob(c[..., t, :])
        if t + 1 < c.shape[-2]:
            ahead = self.transition(c[..., t, :], t + 1)
            log_prior[..., t + 1] = ahead.log_prob(c[..., t + 1, :])
        gain = new.value - old.value + (log_prior - self.log_prior).sum(-1)
        accept = self._accept(gain.unsqueeze(-1)).squeeze(-1)
        self.c = torch.where(accept[..., None, None], c, self.c)
        self.log_prior = torch.where(accept.unsqueeze(-1), log_prior, self.log_prior)
        wide = accept[..., None, None]
        return Marginal(
            torch.where(accept, new.value, old.value),
            torch.where(wide, new.factor, old.factor),
            torch.where(wide, new.white, old.white),
        )


def num_chains(num_samples: int) -> int:
    """Chains behind so many draws."""
    return -(-num_samples // KEPT)


def polished(
    model: Any,
    pixels: Tensor,
    valid: Tensor,
    abundances: Tensor,
    *,
    num_samples: int,
    num_sweeps: int,
    noise_factor: float = 1.0,
    exact: bool = True,
    seed: int = 0,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws of the abundances (S, B, T, P) after some sweeps, and ``E[a_p psi_kp] / E[a_p]`` (B, T, K, P).

    Parameters
    ----------
    model : SGLMM
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    abundances : Tensor, shape (num_chains(num_samples), B, T, P)
        Draws of a guide.
    num_samples, num_sweeps, noise_factor, exact
        See `PolishedMean`.
    seed : int
    index : Tensor of int, shape (B,), optional
    """
    seen = Observations(model, pixels, valid, noise_factor)
    numbers = Numbers(len(abundances), seed, seen.projected)
    shape = (model.num_components, model.num_endmembers)
    keep = np.linspace(num_sweeps / 2, num_sweeps, KEPT + 1)[1:].round().astype(int)
    chains: Chains | CollapsedChains
    if exact:
        chains = Chains(model, seen, abundances, numbers, index)
    else:
        chains = CollapsedChains(model, seen, abundances, numbers.generator, index)
    draws, weighted, weights = [], torch.zeros(()), torch.zeros(())
    for sweep in range(1, num_sweeps + 1):
        chains.sweep()
        for _ in range(int((keep == sweep).sum())):
            draws.append(chains.abundances())
            if isinstance(chains, Chains):
                weight = tile_components(draws[-1], model.num_components)
                weighted = weighted + (weight * chains.variability()).sum(0)
                weights = weights + weight.sum(0)
    drawn = torch.cat(draws)[:num_samples]
    if isinstance(chains, Chains):
        mean = weighted / weights.clamp(min=1e-12)
    else:
        mean = chains.likelihood.variability(drawn.double().mean(0))
    return drawn.to(pixels), mean.unflatten(-1, shape).to(pixels)


def check_model(model: Any) -> None:
    """Refuse a model whose posterior the sweeps do not know.

    Raises
    ------
    ValueError
    """
    parts = [getattr(model, name, None) for name in ("mixing", "basis")]
    linear = all(getattr(part, "is_linear", False) for part in parts)
    noise, prior = getattr(model, "noise", None), getattr(model, "abundance_prior", None)
    gaussian = noise is not None and COLOURED_NOISE not in noise.needs
    shared = SMOOTH_VARIABILITY in getattr(getattr(model, "variability_prior", None), "needs", ())
    if linear and gaussian and not shared and getattr(prior, "is_random", False):
        return
    raise ValueError(
        "PolishedMean needs a linear model with Gaussian noise that is the same at all dates, abundances to be found "
        "and variability of every pixel's own (no SmoothVariability, no SeasonalVariability), such as SGLMM with "
        "WhiteNoise, got "
        f"{type(model).__name__}: use PosteriorMean()"
    )
