"""Markov-chain sweeps that carry a guide's draws to the model's own posterior: Metropolis within Gibbs.

In turn: blocks of a pixel's softmax states given the variability; every date's state with its variability integrated
out, and that variability given the state. Each move leaves the model's posterior invariant, its parameters as they are.
"""

from __future__ import annotations

import copy
import zlib

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.data.types import ModelProgram
from pyro_unmix.kernels.block_moves import BlockMoves
from pyro_unmix.kernels.collapsed import CollapsedSweeps
from pyro_unmix.kernels.observations import Marginal, Observations, quadratic_value
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.priors.part import Need

#: States of one chain that become draws.
NUM_KEPT = 4


class GibbsSweeps(BlockMoves):
    """`BlockMoves` of a model and their variability psi (S, B, T+1, K P); made as `CollapsedSweeps`."""

    def __init__(
        self,
        model: SGLMM,
        observations: Observations,
        abundances: Tensor,
        generator: np.random.Generator,
        index: Tensor | None = None,
    ) -> None:
        # in double precision, as the likelihood of one date given the variability of its neighbours needs it
        prior = copy.deepcopy(model.abundance_prior).double()
        super().__init__(prior, abundances.double(), generator, index)
        self.observations = observations
        first = observations.chain.coefficient[0]
        self.psi = first.expand(*abundances.shape[:2], len(self.c), -1).clone()
        for _ in range(2):
            self._visit_dates(move=False)

    def variability(self) -> Tensor:
        """``E[psi_t | c_t, y_t, psi_(t-1), psi_(t+1)]`` of every chain, (S, B, T, K P)."""
        means = []
        for t in range(1, len(self.c)):
            mean, std = self.observations.neighbours(t, self.psi)
            marginal = self.observations.marginal(t, self._state(t), mean, std)
            means.append(self.observations.variability(marginal, mean, std))
        return torch.stack(means, dim=-2)

    def sweep(self) -> None:
        """One round of moves of all dates."""
        quadratic = self.observations.quadratic(self.psi[..., 1:, :])

        def likelihood(abundances: Tensor) -> Tensor:
            return quadratic_value(quadratic, abundances.permute(3, 1, 0, 2)).permute(2, 1, 0)

        self.move_blocks(likelihood, likelihood(self.c[1:].softmax(-2)))
        self._visit_dates()

    # ------------------------------------------------------------ one date, its variability integrated out

    def _state(self, t: int) -> Tensor:
        """c_t (S, B, P)."""
        return self.c[t].permute(2, 0, 1)

    def _visit_dates(self, move: bool = True) -> None:
        """A move of every state but the first, followed at once by a draw of that date's variability."""
        for t in range(len(self.c)):
            mean, std = self.observations.neighbours(t, self.psi)
            noise = self._normal(len(std)).permute(2, 0, 1)
            if t == 0:
                self.psi[..., 0, :] = mean + std * noise
                continue
            marginal = self.observations.marginal(t, self._state(t), mean, std)
            if move:
                marginal = self._move_date(t, mean, std, marginal)
            self.psi[..., t, :] = self.observations.variability(marginal, mean, std, noise)

    def _move_date(self, t: int, mean: Tensor, std: Tensor, old: Marginal) -> Marginal:
        """A Metropolis move of c_t; the marginal likelihood from where it starts to where it ends."""
        c = self.c.clone()
        c[t] += self._length() * (self.spread[t] @ self._normal(c.shape[2]))
        new = self.observations.marginal(t, c[t].permute(2, 0, 1), mean, std)
        log_prior = self.log_prior_of(c)
        gain = new.value - old.value + (log_prior - self.log_prior).sum(0).mT
        accept = self._log_uniform(1).squeeze(-2).mT < gain  # (S, B)
        self.c = torch.where(accept.mT.unsqueeze(1), c, self.c)
        self.log_prior = torch.where(accept.mT, log_prior, self.log_prior)
        wide = accept[..., None, None]
        return Marginal(
            torch.where(accept, new.value, old.value),
            torch.where(wide, new.factor, old.factor),
            torch.where(wide, new.white, old.white),
        )


def num_chains(num_samples: int) -> int:
    """Chains behind so many draws."""
    return -(-num_samples // NUM_KEPT)


def elements_per_pixel(model: SGLMM, num_dates: int, num_draws: int, exact: bool) -> int:
    """Numbers that the sweeps hold for a pixel, about."""
    p, size = model.num_endmembers, model.num_components * model.num_endmembers
    if exact:
        return 3 * num_draws * size**2
    groups = num_dates if model.variability_prior.independent else 1
    columns = num_dates // groups * p
    return num_dates * size * (size + columns + 1) + 3 * groups * columns**2


def polished(
    model: SGLMM,
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
    observations = Observations(model, pixels, valid, noise_factor)
    generator = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(b"sweeps")]))
    shape = (model.num_components, model.num_endmembers)
    keep = np.linspace(num_sweeps / 2, num_sweeps, NUM_KEPT + 1)[1:].round().astype(int)
    chains: GibbsSweeps | CollapsedSweeps
    if exact:
        chains = GibbsSweeps(model, observations, abundances, generator, index)
    else:
        chains = CollapsedSweeps(model, observations, abundances, generator, index)
    draws, weighted, weights = [], torch.zeros(()), torch.zeros(())
    for sweep in range(1, num_sweeps + 1):
        chains.sweep()
        for _ in range(int((keep == sweep).sum())):
            draws.append(chains.abundances())
            if isinstance(chains, GibbsSweeps):
                weight = tile_components(draws[-1], model.num_components)
                weighted = weighted + (weight * chains.variability()).sum(0)
                weights = weights + weight.sum(0)
    drawn = torch.cat(draws)[:num_samples]
    if isinstance(chains, GibbsSweeps):
        mean = weighted / weights.clamp(min=1e-12)
    else:
        mean = chains.likelihood.variability(drawn.double().mean(0))
    return drawn.to(pixels), mean.unflatten(-1, shape).to(pixels)


def check_model(model: ModelProgram) -> None:
    """Refuse a model whose posterior the sweeps do not know.

    Raises
    ------
    ValueError
    """
    parts = [getattr(model, name, None) for name in ("mixing", "basis")]
    linear = all(getattr(part, "is_linear", False) for part in parts)
    noise, prior = getattr(model, "noise", None), getattr(model, "abundance_prior", None)
    gaussian = noise is not None and Need.COLOURED_NOISE not in noise.needs
    shared = Need.SHARED_VARIABILITY in getattr(
        getattr(model, "variability_prior", None), "needs", ()
    )
    if linear and gaussian and not shared and getattr(prior, "is_random", False):
        return
    raise ValueError(
        "PolishedMean needs a linear model with Gaussian noise that is the same at all dates, abundances to be found "
        "and variability of every pixel's own (no SmoothVariability, no SeasonalVariability), such as SGLMM with "
        "WhiteNoise, got "
        f"{type(model).__name__}: use PosteriorMean()"
    )
