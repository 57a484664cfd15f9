"""Moves of mass between pairs of materials: abundances exactly on the simplex, corners and faces included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, State, Whitened
from pyro_unmix.kernels.truncated import truncated_normal
from pyro_unmix.kernels.variability import own_products
from pyro_unmix.ops.factors import forward_solved

_TINY = 1e-290  # abundances do not underflow, so that their logarithms stay finite
_LIKELY, _CORNER = 0.6, 0.2  # shares of the proposals: the likelihood's, and each end's prior
_WIDER = 1.3  # than the likelihood at the state, which is not normal
_WIDEST, _AWAY = 10.0, 30.0  # of a proposal, in masses of the pair; scales beyond the bounds
_HALF_LOG_TURN = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class AbundanceLikelihood:
    """The likelihood at abundances a (N, P), with psi, b and r integrated out.

    ``y ~ N(M a, S)`` with ``S = C + V V'`` and V of `VariabilityDraws`. S changes with a; with S held, the
    log-likelihood of other abundances x is ``x' pull - x' gram x / 2`` plus a constant.

    Attributes
    ----------
    log_likelihood : Tensor, shape (N,)
        ``log N(y; M a, S) - log N(y; 0, C)``.
    gram : Tensor, shape (N, P, P)
        ``M' S^-1 M``.
    pull : Tensor, shape (N, P)
        ``M' S^-1 y``.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> products = pu.kernels.Whitened(state, spectra)
    >>> pu.kernels.AbundanceLikelihood.of(state.abundances, state, products).log_likelihood.shape
    torch.Size([3])
    """

    log_likelihood: Tensor
    gram: Tensor
    pull: Tensor

    @classmethod
    def of(cls, abundances: Tensor, state: State, products: Whitened) -> AbundanceLikelihood:
        """At abundances, with everything else of a state but psi, b and r."""
        count = abundances.shape[-1]
        factor, rows = own_products(abundances, state, products)
        half = forward_solved(factor, rows)
        mixing, spectrum = half[..., :-1], half[..., -1:]
        gram, projected = products.gram[:count, :count], products.projected[:, :count]
        left = spectrum - mixing @ abundances.unsqueeze(-1)
        direct = (abundances * (projected - 0.5 * abundances @ gram)).sum(-1)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(
            direct + 0.5 * left.square().sum((-2, -1)) - log_det,
            gram - mixing.mT @ mixing,
            projected - (mixing.mT @ spectrum).squeeze(-1),
        )

    def where(self, chosen: Tensor, other: AbundanceLikelihood) -> AbundanceLikelihood:
        """Of `other` for the spectra that are chosen."""
        return AbundanceLikelihood(
            torch.where(chosen, other.log_likelihood, self.log_likelihood),
            torch.where(chosen[:, None, None], other.gram, self.gram),
            torch.where(chosen[:, None], other.pull, self.pull),
        )


class MassMoves:
    """For a random pair of materials of every spectrum ``(a_i, a_j) -> (x, a_i + a_j - x)``; psi, b, r integrated out.

    Variability can stand in for abundance, so that draws of one given the other hardly move: here the one is moved in
    its `AbundanceLikelihood`. One Metropolis-Hastings step with a proposal from three: the normal of that likelihood as
    it is at the state, 1.3 times as wide, within [0, s], ``s = a_i + a_j``; and the prior's powers, x or s - x being
    ``s u^(1/alpha)``. The powers reach what no likelihood does: the prior of a sparse mixture has much of its mass so
    close to zero that all of it looks the same.

    psi and b are those of the abundances before: `VariabilityDraws` has to follow before a kernel that uses them.

    Parameters
    ----------
    num_moves : int, optional
        In a row; default P.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.kernels.MassMoves()
    MassMoves()
    """

    def __init__(self, num_moves: int | None = None) -> None:
        self.num_moves = num_moves

    def __repr__(self) -> str:
        return f"MassMoves({'' if self.num_moves is None else self.num_moves})"

    def __call__(self, state: State, spectra: Spectra) -> State:
        products, abundances = Whitened(state, spectra), state.abundances.clamp(min=_TINY)
        size = abundances.shape[-1]
        marginal = AbundanceLikelihood.of(abundances, state, products)
        for _ in range((size if self.num_moves is None else self.num_moves) if size > 1 else 0):
            pair = self._pair(size, spectra)
            new = self._proposed(abundances, pair, marginal, state.concentration, spectra)
            other = AbundanceLikelihood.of(new, state, products)
            gain = self._gain(new, abundances, pair, other, marginal, state.concentration)
            gain = gain - self._gain(abundances, new, pair, marginal, other, state.concentration)
            accept = spectra.uniform(len(new)).log() < gain
            abundances = torch.where(accept.unsqueeze(-1), new, abundances)
            marginal = marginal.where(accept, other)
        total = abundances.sum(-1, keepdim=True)  # one, but for rounding
        return state.having(abundances=abundances / total, residual=None)

    @staticmethod
    def _pair(size: int, spectra: Spectra) -> tuple[Tensor, Tensor]:
        """Numbers (N, 1) of two materials, all pairs being alike."""
        uniform = spectra.uniform(2, len(spectra.values), 1)
        first = (uniform[0] * size).long()
        second = (first + 1 + (uniform[1] * (size - 1)).long()) % size
        return first, second

    @staticmethod
    def _normal(
        abundances: Tensor, pair: tuple[Tensor, Tensor], marginal: AbundanceLikelihood
    ) -> tuple[Tensor, Tensor]:
        """Mean and std (N,) of the proposal of a_i."""
        first, second = pair
        along = torch.zeros_like(abundances).scatter_(-1, first, 1.0).scatter_(-1, second, -1.0)
        curved = (marginal.gram @ along.unsqueeze(-1)).squeeze(-1)
        variance = 1 / (curved * along).sum(-1).clamp(min=1e-12)
        slope = (marginal.pull * along).sum(-1) - (curved * abundances).sum(-1)
        start = abundances.gather(-1, first).squeeze(-1)
        mass = start + abundances.gather(-1, second).squeeze(-1)
        # Wider or farther away, rounding would put draws onto the bounds, which have no density.
        scale = torch.minimum(_WIDER * variance.sqrt(), _WIDEST * mass)
        loc = torch.minimum(
            torch.maximum(start + slope * variance, -_AWAY * scale), mass + _AWAY * scale
        )
        return loc, scale

    @classmethod
    def _proposed(
        cls,
        abundances: Tensor,
        pair: tuple[Tensor, Tensor],
        marginal: AbundanceLikelihood,
        alpha: Tensor,
        spectra: Spectra,
    ) -> Tensor:
        count, (first, second) = len(abundances), pair
        loc, scale = cls._normal(abundances, pair, marginal)
        mass = (abundances.gather(-1, first) + abundances.gather(-1, second)).squeeze(-1)
        uniform = spectra.uniform(count)
        likely, _ = truncated_normal(loc, scale, torch.zeros_like(mass), mass, uniform)
        small, kind = mass * spectra.uniform(count) ** (1 / alpha), spectra.uniform(count)
        low = torch.where(kind < _LIKELY, likely, small)
        high = mass - low
        turned = kind >= 1 - _CORNER
        new = torch.where(turned, high, low).clamp(min=_TINY).unsqueeze(-1)
        rest = torch.where(turned, low, high).clamp(min=_TINY).unsqueeze(-1)
        return abundances.scatter(-1, first, new).scatter(-1, second, rest)

    @classmethod
    def _gain(
        cls,
        abundances: Tensor,
        before: Tensor,
        pair: tuple[Tensor, Tensor],
        marginal: AbundanceLikelihood,
        marginal_before: AbundanceLikelihood,
        alpha: Tensor,
    ) -> Tensor:
        """Log of the target at abundances over the proposal of them from those before."""
        first, second = (abundances.gather(-1, index).squeeze(-1) for index in pair)
        mass = first + second
        loc, scale = cls._normal(before, pair, marginal_before)
        zero = torch.zeros_like(mass)
        _, inside = truncated_normal(loc, scale, zero, mass, zero + 0.5)
        logs = (first.log(), second.log())
        power = math.log(_CORNER) + alpha.log() - alpha * mass.log()
        normal = -0.5 * ((first - loc) / scale).square() - _HALF_LOG_TURN - scale.log()
        parts = [
            math.log(_LIKELY) + normal - inside.log(),
            power + (alpha - 1) * logs[0],
            power + (alpha - 1) * logs[1],
        ]
        target = marginal.log_likelihood + (alpha - 1) * (logs[0] + logs[1])
        return target - torch.stack(parts).logsumexp(0)
