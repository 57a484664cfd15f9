"""Markov-chain sweeps over abundances alone, the variability integrated out once: fast, and nearly the posterior.

The covariance of spectra is held fixed at a guide's mean abundances, over all dates at once, so that the likelihood is
a quadratic in the abundances. Given it, blocks of softmax states move as in `sweeps`, the prior as it is: the corners
of the simplex, jumps and what dates have in common are right, and no psi holds a chain back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.mixing import tile_components, to_softmax_basis
from pyro_unmix.observations import Observations
from pyro_unmix.priors.walks import (
    ConstantWalk,
    DirichletWalk,
    JumpWalk,
    OrnsteinUhlenbeck,
    SoftmaxWalk,
    StudentWalk,
)

NUM_MOVES = 32  # of blocks, in a sweep
_LENGTHS = (1, 2, 4, 8)  # dates that move together, besides all of them
_FLOOR = 1e-12  # of abundances, whose logarithms the chains start from
_LEAST_VARIANCE = 1e-4  # of a proposal, in the softmax basis
#: Walks whose steps are of one law if they are as long: their densities are computed for all dates at once.
_ALIKE = (ConstantWalk, DirichletWalk, JumpWalk, OrnsteinUhlenbeck, SoftmaxWalk, StudentWalk)


class Quadratic:
    """``log p(y | a)`` of all dates with psi integrated out, its covariance that of given abundances.

    With M_t = M0 + W diag(E psi_t), V_t = W diag(e_t) and the precision Lambda of the chain of psi, block-tridiagonal::

        C C' = sigma^2 Lambda + blockdiag(V_t' V_t),    X = C^-1 blockdiag(V_t' M_t),    x = C^-1 (V_t' y_t)
        log p = -(|y - M a|^2 - |x - X a|^2) / (2 sigma^2) + constant = h'a - a'Ga / 2 + constant

    Parameters
    ----------
    seen : Observations
        Of B pixels.
    abundances : Tensor, shape (B, T, P)
    independent : bool
        Whether psi is independent between dates. G (B, T, P, P) and h (B, T, P, 1) are then dates by themselves, else
        (B, 1, T P, T P) and (B, 1, T P, 1).
    """

    def __init__(self, seen: Observations, abundances: Tensor, independent: bool) -> None:
        batch, num_dates, p = abundances.shape
        weight = seen.valid[..., None, None]
        e = tile_components(abundances, seen.num_components).unsqueeze(-1) * weight
        loc, covariance = chain_moments(seen)
        lasting = seen.variance * torch.linalg.inv(covariance.permute(2, 0, 1)).permute(1, 2, 0)
        moved = torch.eye(p).to(e) * loc.unflatten(
            -1, (-1, p, 1)
        )  # (T, K, P, P): W @ moved = M - M0
        moved = moved.flatten(1, 2)
        cross = seen.cross.mT + seen.components @ moved  # W'M (T, K P, P)
        direct = seen.projected[..., :p, None] + moved.mT @ seen.projected[..., p:, None]
        half = seen.cross @ moved
        materials = seen.materials + half + half.mT + moved.mT @ (seen.components @ moved)
        self.loc, self.independent = loc, independent
        groups = num_dates if independent else 1
        columns = num_dates // groups * p
        gram = abundances.new_zeros(batch, groups, columns, columns)
        pull = abundances.new_zeros(batch, groups, columns, 1)
        self.factors: list[Tensor] = []
        self.couplings: list[Tensor] = []  # B_t of the rows of C, [.. B_t C_t ..]
        self.sides: list[Tensor] = []
        for t in range(num_dates):
            group, place = (t, slice(0, p)) if independent else (0, slice(t * p, (t + 1) * p))
            inner = e[:, t] * seen.components * e[:, t].mT
            inner.diagonal(dim1=-2, dim2=-1).add_(lasting[t, t])
            side = abundances.new_zeros(batch, inner.shape[-1], columns + 1)
            side[..., place] = e[:, t] * cross[t]
            side[..., -1:] = e[:, t] * seen.projected[:, t, p:, None]
            if t and not independent:
                last = torch.diag(lasting[t, t - 1]).expand_as(inner)
                coupling = torch.linalg.solve_triangular(self.factors[-1], last, upper=False).mT
                inner = inner - coupling @ coupling.mT
                side = side - coupling @ self.sides[-1]
                self.couplings.append(coupling)
            self.factors.append(torch.linalg.cholesky(inner))
            self.sides.append(torch.linalg.solve_triangular(self.factors[-1], side, upper=False))
            explained = self.sides[-1][..., :-1].mT @ self.sides[-1]
            gram[:, group] -= explained[..., :-1]
            pull[:, group] -= explained[..., -1:]
            gram[:, group, place, place] += materials[t] * weight[:, t]
            pull[:, group, place] += direct[:, t] * weight[:, t]
        # About the given abundances, where single precision is enough for differences of log-densities.
        self.centre = abundances.reshape(batch, groups, columns, 1)
        self.gram = gram / seen.variance
        self.slope = pull / seen.variance - self.gram @ self.centre

    def value(self, abundances: Tensor) -> Tensor:
        """``log p`` of (T, B, P, S) less that of the centre: (T, B, S), or (1, B, S) where dates belong together."""
        a = abundances.transpose(0, 1)
        if not self.independent:
            a = a.flatten(1, 2).unsqueeze(1)
        apart = a - self.centre.to(a)
        change = self.slope.to(a) - 0.5 * (self.gram.to(a) @ apart)
        return (change * apart).sum(-2).transpose(0, 1)

    def variability(self, abundances: Tensor) -> Tensor:
        """``E[psi | y, a]`` of abundances (B, T, P), the covariance as it is: (B, T, K P)."""
        num_dates = len(self.factors)
        a = abundances.unsqueeze(-1)
        found = [a.new_zeros(())] * num_dates
        for t in reversed(range(num_dates)):
            seen = a[:, t] if self.independent else a.flatten(1, 2)
            rest = self.sides[t][..., -1:] - self.sides[t][..., :-1] @ seen
            if self.couplings and t + 1 < num_dates:
                rest = rest - self.couplings[t].mT @ found[t + 1]
            found[t] = torch.linalg.solve_triangular(self.factors[t].mT, rest, upper=True)
        return torch.cat(found, dim=-1).mT + self.loc


def chain_moments(seen: Observations) -> tuple[Tensor, Tensor]:
    """Means (T, K P) of ``psi_1 .. psi_T``, and covariances of every coefficient, (T, T, K P)."""
    loc, variance, num_dates = seen.first_loc, seen.first_scale.square(), len(seen.step_scales)
    covariance, locs = variance.new_zeros(num_dates, num_dates, len(variance)), []
    for t, (coefficient, scale) in enumerate(zip(seen.coefficients, seen.step_scales, strict=True)):
        covariance[t, :t] = covariance[:t, t] = coefficient * covariance[max(t - 1, 0), :t]
        variance = coefficient.square() * variance + scale.square()
        covariance[t, t] = variance
        loc = coefficient * loc
        locs.append(loc)
    return torch.stack(locs), covariance


class CollapsedChains:
    """S chains of the states ``c_0 .. c_T`` of B pixels, kept as (T+1, B, P, S).

    Parameters
    ----------
    model : SGLMM
    seen : Observations
    abundances : Tensor, shape (S, B, T, P)
        Where the chains start.
    generator : numpy Generator
        The same numbers for all pixels.
    index : Tensor of int, shape (B,), optional
        Which pixels of the scene these are.
    """

    def __init__(
        self,
        model: Any,
        seen: Observations,
        abundances: Tensor,
        generator: np.random.Generator,
        index: Tensor | None = None,
    ) -> None:
        self.generator, prior = generator, model.abundance_prior
        self.initial, self.transition = prior.initial(index), prior.transitions(index)
        self.alike = prior.elapsed is None and type(prior) in _ALIKE
        a = abundances.double()
        self.likelihood = Quadratic(seen, a.mean(0), model.variability_prior.independent)
        states = to_softmax_basis(a, _FLOOR) + self.initial.loc.mean()
        states = states.permute(2, 1, 3, 0)
        self._set_reference(prior, torch.cat([states[:1], states]))
        self.log_prior = self._log_prior(self.c)
        self.value = self.likelihood.value(self.c[1:].softmax(-2))

    def _set_reference(self, prior: Any, c: Tensor) -> None:
        """A Gaussian walk like the prior's, by whose bridges blocks are moved, and the spread of every state.

        From here on in the model's precision: log-densities about the guide's mean need no more.
        """
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

    def _log_prior(self, c: Tensor) -> Tensor:
        """Log-density of the first state and of every step, (T+1, B, S)."""
        c = c.transpose(-2, -1)
        parts = [self.initial.log_prob(c[0].transpose(0, 1)).mT.unsqueeze(0)]
        if self.alike:
            parts.append(self.transition(c[:-1], 1).log_prob(c[1:]))
        else:
            steps = (self.transition(c[t - 1], t).log_prob(c[t]) for t in range(1, len(c)))
            parts.append(torch.stack(list(steps)))
        return torch.cat(parts)

    def abundances(self) -> Tensor:
        """(S, B, T, P)."""
        return self.c[1:].softmax(-2).permute(3, 1, 0, 2)

    def sweep(self) -> None:
        """A round of Metropolis moves of blocks of states between held ones."""
        num_nodes = len(self.c) + 1
        lengths = [*(n for n in _LENGTHS if n < num_nodes - 1), num_nodes, num_nodes]
        kinds = (self._bridge, self._shift, self._shift_one, self._shift_one)
        for _ in range(NUM_MOVES):
            length, kind = (int(self.generator.integers(len(x))) for x in (lengths, kinds))
            held = self._random_held(lengths[length])
            if not held.all():
                self._move(held, kinds[kind])

    def _random_held(self, length: int) -> np.ndarray:
        """Every node after `length` others, from a random one on, and node 0, which stands before the first state.

        Where dates belong together, all but one of the blocks between them are held as well.
        """
        nodes = np.arange(len(self.c) + 1)
        held = (nodes + int(self.generator.integers(length + 1))) % (length + 1) == 0
        held |= nodes == 0
        if not self.likelihood.independent and not held.all():
            block = np.cumsum(held)
            chosen = block[self.generator.choice(nodes[~held])]
            held |= block != chosen
        return held

    def _move(self, held: np.ndarray, propose: Any) -> None:
        new, gain = propose(held)
        log_prior = self._log_prior(new)
        value = self.likelihood.value(new[1:].softmax(-2))
        owner, dates = self._owners(held, len(value))
        # the last row is for dates that stay
        total = torch.zeros_like(torch.cat([gain, gain[:1]]))
        total.index_add_(0, owner, gain + log_prior - self.log_prior)
        total.index_add_(0, dates, value - self.value)
        log_uniform = np.log(self.generator.random((len(total), 1, self.c.shape[-1])))
        accept = self._tensor(log_uniform) < total
        here = accept[owner] & torch.from_numpy(~held[1:]).to(owner.device)[:, None, None]
        self.c = torch.where(here.unsqueeze(-2), new, self.c)
        self.log_prior = torch.where(accept[owner], log_prior, self.log_prior)
        self.value = torch.where(accept[dates], value, self.value)

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
        steps = self.scales * self._normal(len(self.c), 1, path.shape[2])
        walk = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        span = (self.clock[right] - self.clock[left]).clamp(min=1e-30)
        share = (self.clock - self.clock[left]) / span * bridged
        base = torch.lerp(path[left], path[right], share)
        walk = walk - torch.lerp(walk[left], walk[right], share)
        size = self._tensor(0.8 * np.log(self.generator.random(self.c.shape[-1]))).clamp(min=-4)
        size = size.exp()
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
        steps = self.spread @ self._normal(len(self.c), 1, self.c.shape[2])
        # about the best length of a Gaussian
        length = 2.38 / math.sqrt(self.c.shape[2]) * (0.8 * self._normal(1) - 0.6).exp()
        return self._shifted(held, length * steps)

    def _shift_one(self, held: np.ndarray) -> tuple[Tensor, Tensor]:
        """One material's states of a block: far, where it is absent."""
        length = (self._normal(1) - 0.2).exp()
        return self._shifted(held, length * self._normal(len(self.c), 1, 1) * self._one_material())

    def _shifted(self, held: np.ndarray, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Every block by the step of its first state."""
        nodes = np.arange(len(held))
        left = np.maximum.accumulate(np.where(held, nodes, 0))[1:]
        first = np.minimum(left, len(self.c) - 1)  # node left is held, state left the first to move
        moving = self._tensor(~held[1:])[:, None, None, None]
        return self.c + steps[first] * moving, torch.zeros_like(self.log_prior)

    def _normal(self, *shape: int) -> Tensor:
        return self._tensor(self.generator.standard_normal((*shape, self.c.shape[-1])))

    def _one_material(self) -> Tensor:
        """(P, S), one of the materials per chain."""
        size, chains = self.c.shape[2:]
        return self._tensor(np.eye(size)[self.generator.integers(size, size=chains)].T)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=self.c.dtype, device=self.c.device)
