"""Metropolis moves of a pixel's softmax states, in blocks of dates between held ones.

Proposals are adapted once, to where the chains start. All pixels share the random numbers, so that none depends on
those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.ops.simplex import to_softmax_basis
from pyro_unmix.priors.abundances import AbundancePrior

NUM_MOVES = 32  # of blocks, in a sweep
_LENGTHS = (1, 2, 4, 8)  # dates that move together, besides all of them
_FLOOR = 1e-12  # of abundances, whose logarithms the chains start from
_LEAST_VARIANCE = 1e-4  # of a proposal, in the softmax basis


class BlockMoves:
    """S chains of the states ``c_0 .. c_T`` of B pixels, kept as (T+1, B, P, S).

    Parameters
    ----------
    prior : AbundancePrior
        Its precision is that of the chains.
    abundances : Tensor of double, shape (S, B, T, P)
        Where the chains start.
    generator : numpy Generator
        The same numbers for all pixels.
    index : Tensor of int, shape (B,), optional
        Which pixels of the scene these are.
    """

    def __init__(
        self,
        prior: AbundancePrior,
        abundances: Tensor,
        generator: np.random.Generator,
        index: Tensor | None = None,
    ) -> None:
        self.generator, self.num_streams = generator, 1
        self.initial, self.transition = prior.initial(index), prior.transitions(index)
        self.is_even = prior.is_even
        states = to_softmax_basis(abundances, _FLOOR) + self.initial.loc.mean()
        states = states.permute(2, 1, 3, 0)
        self._start(prior, torch.cat([states[:1], states]))
        self.log_prior = self.log_prior_of(self.c)

    def _start(self, prior: AbundancePrior, c: Tensor) -> None:
        """The states, a Gaussian walk like the prior's, by whose bridges blocks are moved, and every state's spread."""
        dtype = self.initial.loc.dtype
        mean = c.mean(-1)  # (T+1, B, P)
        square = c.diff(dim=0).square().mean((-1, -2)).to(dtype)
        scale = prior.step_scale(mean[:-1].transpose(0, 1).to(dtype), square.mT).mT
        first = self.initial.scale.expand_as(mean[:1])
        scales = torch.cat([first, scale.unsqueeze(-1).expand_as(mean[1:])]).unsqueeze(-1)
        clock = torch.cat([torch.zeros_like(scales[:1]), scales.square()]).cumsum(0)
        apart = c - mean.unsqueeze(-1)
        covariance = apart @ apart.mT / apart.shape[-1]
        covariance.diagonal(dim1=-2, dim2=-1).add_(_LEAST_VARIANCE)
        self.c = c.to(dtype)
        self.before = self.initial.loc.unsqueeze(-1).expand_as(c[:1]).to(dtype)
        self.scales = scales.to(dtype)  # (T+1, B, P, 1)
        self.clock = clock.to(dtype)  # of the nodes 0 .. T+1
        self.spread = torch.linalg.cholesky(covariance).to(dtype)

    def log_prior_of(self, c: Tensor) -> Tensor:
        """Log-density of the first state and of every step, (T+1, B, S)."""
        c = c.transpose(-2, -1)
        parts = [self.initial.log_prob(c[0].transpose(0, 1)).mT.unsqueeze(0)]
        if self.is_even:
            parts.append(self.transition(c[:-1], 1).log_prob(c[1:]))
        else:
            steps = (self.transition(c[t - 1], t).log_prob(c[t]) for t in range(1, len(c)))
            parts.append(torch.stack(list(steps)))
        return torch.cat(parts)

    def abundances(self) -> Tensor:
        """(S, B, T, P)."""
        return self.c[1:].softmax(-2).permute(3, 1, 0, 2)

    def move_blocks(self, likelihood: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        """A round of moves of blocks of states between held ones, and the likelihood that they come to.

        Parameters
        ----------
        likelihood : callable
            Its logarithm at abundances (T, B, P, S): (T, B, S), or (1, B, S) where dates belong together.
        value : Tensor
            Of the states as they are.
        """
        num_nodes = len(self.c) + 1
        lengths = [*(n for n in _LENGTHS if n < num_nodes - 1), num_nodes, num_nodes]
        kinds = (self._bridge, self._shift, self._shift_one, self._shift_one)
        together = len(value) < len(self.c) - 1
        for _ in range(NUM_MOVES):
            length, kind = (int(self.generator.integers(len(x))) for x in (lengths, kinds))
            held = self._random_held(lengths[length], together)
            if not held.all():
                value = self._move(held, kinds[kind], likelihood, value)
        return value

    def _random_held(self, length: int, together: bool) -> np.ndarray:
        """Every node after `length` others, from a random one on, and node 0, which stands before the first state.

        Where dates belong together, all but one of the blocks between them are held as well.
        """
        nodes = np.arange(len(self.c) + 1)
        held = (nodes + int(self.generator.integers(length + 1))) % (length + 1) == 0
        held |= nodes == 0
        if together and not held.all():
            block = np.cumsum(held)
            chosen = block[self.generator.choice(nodes[~held])]
            held |= block != chosen
        return held

    def _move(
        self,
        held: np.ndarray,
        propose: Callable[[np.ndarray], tuple[Tensor, Tensor]],
        likelihood: Callable[[Tensor], Tensor],
        old: Tensor,
    ) -> Tensor:
        new, gain = propose(held)
        log_prior = self.log_prior_of(new)
        value = likelihood(new[1:].softmax(-2))
        owner, dates = self._owners(held, len(value))
        # the last row is for dates that stay
        total = torch.zeros_like(torch.cat([gain, gain[:1]]))
        total.index_add_(0, owner, gain + log_prior - self.log_prior)
        total.index_add_(0, dates, value - old)
        accept = self._log_uniform(1, len(total)).squeeze(-2) < total
        here = accept[owner] & torch.from_numpy(~held[1:]).to(owner.device)[:, None, None]
        self.c = torch.where(here.unsqueeze(-2), new, self.c)
        self.log_prior = torch.where(accept[owner], log_prior, self.log_prior)
        return torch.where(accept[dates], value, old)

    def _owners(self, held: np.ndarray, num_values: int) -> tuple[Tensor, Tensor]:
        """The block, by the node before it, of every step and of every value of the likelihood."""
        left = np.maximum.accumulate(np.where(held, np.arange(len(held)), 0))
        # a step to a held node counts for the block before it
        steps = np.where(held[1:], left[:-1], left[1:])
        dates = np.where(held[2:], len(steps), left[2:])
        if num_values == 1:  # one block
            steps, dates = 0 * steps, np.zeros(1, dtype=steps.dtype)
        device = self.c.device
        return torch.from_numpy(steps).to(device), torch.from_numpy(dates).to(device)

    # ------------------------------------------------------------ proposals

    def _bridge(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """A preconditioned Crank-Nicolson move in the reference walk, and the loss of that walk's log-density."""
        nodes, last = np.arange(len(held)), len(held) - 1
        left = np.maximum.accumulate(np.where(held, nodes, 0))
        following = np.minimum.accumulate(np.where(held, nodes, len(held))[::-1])[::-1]
        right = np.minimum(following, last)
        bridged = self._tensor(~held & (following <= last))[:, None, None, None]
        path = torch.cat([self.before, self.c])
        steps = self.scales * self._normal(path.shape[2], len(self.c))
        walk = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        span = (self.clock[right] - self.clock[left]).clamp(min=1e-30)
        share = (self.clock - self.clock[left]) / span * bridged
        base = torch.lerp(path[left], path[right], share)
        walk = walk - torch.lerp(walk[left], walk[right], share)
        size = (0.8 * self._log_uniform(1)).clamp(min=-4).exp()
        change = ((1 - size.square()).sqrt() - 1) * (path - base) + size * walk
        change = change * self._tensor(~held)[:, None, None, None]
        if self.generator.random() < 0.75:
            change = change * self._one_material()
        new = path + change
        apart, before = new.diff(dim=0), path.diff(dim=0)
        gain = (apart - before) * (apart + before) / self.scales.square()
        return new[1:], 0.5 * gain.sum(-2)

    def _shift(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """All states of a block by one step, of the covariance at its first state."""
        steps = self.spread @ self._normal(self.c.shape[2], len(self.c))
        return self._shifted(held, self._length() * steps)

    def _shift_one(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """One material's states of a block: far, where it is absent."""
        length = (self._normal(1) - 0.2).exp()
        return self._shifted(held, length * self._normal(1, len(self.c)) * self._one_material())

    def _shifted(self, held: np.ndarray, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Every block by the step of its first state."""
        nodes = np.arange(len(held))
        left = np.maximum.accumulate(np.where(held, nodes, 0))[1:]
        first = np.minimum(left, len(self.c) - 1)  # node left is held, state left the first to move
        moving = self._tensor(~held[1:])[:, None, None, None]
        return self.c + steps[first] * moving, torch.zeros_like(self.log_prior)

    # ------------------------------------------------------------ random numbers

    def _length(self) -> Tensor:
        """Random lengths about the best one of a Gaussian, 2.38 / sqrt(P)."""
        return 2.38 / math.sqrt(self.c.shape[2]) * (0.8 * self._normal(1) - 0.6).exp()

    def _normal(self, size: int, *leading: int) -> Tensor:
        """Standard-normal numbers (..., 1, size, S)."""
        return self._tensor(self.generator.standard_normal(self._shape(size, *leading)))

    def _log_uniform(self, size: int, *leading: int) -> Tensor:
        """Logarithms of uniform numbers (..., 1, size, S)."""
        return self._tensor(np.log(self.generator.random(self._shape(size, *leading))))

    def _one_material(self) -> Tensor:
        """One of the materials per chain, (1, P, S)."""
        size, chains = self.c.shape[2:]
        chosen = self.generator.integers(size, size=(self.num_streams, chains))
        return self._tensor(np.eye(size)[chosen]).mT

    def _shape(self, size: int, *leading: int) -> tuple[int, ...]:
        return *leading, self.num_streams, size, self.c.shape[-1]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.c.dtype, device=self.c.device)
