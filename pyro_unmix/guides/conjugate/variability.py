"""The posterior of linear-Gaussian variability given the abundances, by a backward information filter.

Given all c, ``y_t = M0 a_t + W (e_t * psi_t) + noise`` with ``e_t = tile(a_t, K)`` is linear in psi, and psi is a
Gaussian chain. Then ``log p(y, psi | c) - log q(psi | y, c) = log p(y | c)`` whatever psi is: a draw of psi need not
carry gradients, since the derivative along it vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.mixing import mixing_features
from pyro_unmix.ops.distributions import PrecisionNormal
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.priors.variability import VariabilityPrior


@dataclass(frozen=True)
class GaussianChain:
    """``psi_s ~ N(coefficient_s psi_{s-1}, diag(variance_s))`` of S states, a one standing before the first.

    Parameters
    ----------
    coefficient, variance : Tensor, shape (S, K P)
        The first coefficients are the mean of the first state.
    independent : bool
        Whether all other coefficients are zero.
    """

    coefficient: Tensor
    variance: Tensor
    independent: bool

    @classmethod
    def of(
        cls, prior: VariabilityPrior, num_dates: int, dtype: torch.dtype | None = None
    ) -> GaussianChain:
        """``psi_0 .. psi_T`` of a prior."""
        coefficient, step_scale, loc, scale = (
            part.to(dtype or part.dtype) for part in prior.whole_chain(num_dates)
        )
        variance = torch.cat([scale.unsqueeze(0), step_scale]).square()
        return cls(torch.cat([loc.unsqueeze(0), coefficient]), variance, prior.independent)

    def later(self) -> GaussianChain:
        """The same without its first state, which is integrated out: ``psi_1 .. psi_T``."""
        first, rest = self.coefficient[1:2], self.coefficient[2:]
        variance = self.variance[1:2] + first.square() * self.variance[:1]
        return GaussianChain(
            torch.cat([first * self.coefficient[:1], rest]),
            torch.cat([variance, self.variance[2:]]),
            self.independent,
        )

    def joint(self) -> tuple[Tensor, Tensor]:
        """Means (S, K P) of all states, and covariances (S, S, K P) of every coefficient."""
        covariance = self.variance.new_zeros(len(self.variance), *self.variance.shape)
        for s, coefficient in enumerate(self.coefficient):
            if s:
                covariance[s, :s] = covariance[:s, s] = coefficient * covariance[s - 1, :s]
                covariance[s, s] = coefficient * covariance[s, s - 1]
            covariance[s, s] += self.variance[s]
        return self.coefficient.cumprod(0), covariance

    def expected_log_ratio(self, moments: Moments) -> Tensor:
        """``E log p`` of states of such moments, without ``S K P log(2 pi) / 2``, shape (..., B)."""
        mean = moments.mean
        variances = [c.diagonal(dim1=-2, dim2=-1) for c in moments.covariances]
        variance = torch.stack(variances, dim=-2)
        before = torch.cat([torch.ones_like(mean[..., :1, :]), mean[..., :-1, :]], dim=-2)
        varied = torch.cat([torch.zeros_like(mean[..., :1, :]), variance[..., :-1, :]], dim=-2)
        square = (mean - self.coefficient * before).square() + variance
        square = square + self.coefficient * (self.coefficient * varied - 2 * moments.lagged)
        return -0.5 * (square / self.variance + self.variance.log()).sum((-1, -2))


class Moments(NamedTuple):
    """Of a chain given y and c: means (..., B, S, K P), of every state the covariance (..., B, K P, K P), and of every
    coefficient the covariance with itself one state before, (..., B, S, K P).
    """

    mean: Tensor
    covariances: list[Tensor]  # apart, since one state's stay in the cache
    lagged: Tensor


class _Conditional(NamedTuple):
    """``psi_s | psi_{s-1}, y ~ N(covariance (vector + coefficient_s / variance_s psi_{s-1}), covariance)``."""

    tril: Tensor  # Cholesky factor of the precision, (..., B, K P, K P)
    covariance: Tensor  # (..., B, K P, K P)
    vector: Tensor  # (..., B, K P)


class ExactVariability:
    """``q(psi_s | psi_{s-1}, c, y)`` of all states of a chain, and what follows.

    Parameters
    ----------
    gram : Tensor, shape (Q, Q), Q = (K+1) P
        ``design'design``.
    projected : Tensor, shape (..., B, T, Q)
        ``design'y``.
    noise_scale : Tensor, scalar
    chain : GaussianChain
        Of T states, or of more: the first ones are then seen by no date.
    valid : Tensor, shape (B, T)
    abundances : Tensor, shape (..., B, T, P)
    offsets : Tensor, shape (..., B, T, K P), optional
        What pixels share and is added to psi.
    """

    def __init__(
        self,
        *,
        gram: Tensor,
        projected: Tensor,
        noise_scale: Tensor,
        chain: GaussianChain,
        valid: Tensor,
        abundances: Tensor,
        offsets: Tensor | None = None,
    ) -> None:
        p = abundances.shape[-1]
        mean = abundances if offsets is None else mixing_features(abundances, offsets)
        moment = projected[..., p:] - mean @ gram[: mean.shape[-1], p:]  # W'(y - M a)
        # A missing date has e = 0: no information about psi.
        self.e = tile_components(abundances, len(gram) // p - 1) * valid.unsqueeze(-1)
        self.chain, self.gram = chain, gram[p:, p:]
        self._pulled = chain.coefficient / chain.variance
        self._conditionals = self._filtered(noise_scale.pow(-2), moment)

    def _filtered(self, precision: Tensor, moment: Tensor) -> list[_Conditional]:
        """The conditionals of all states, from the last to the first, in order."""
        left = precision * self.e
        pull, weight = left * moment, self.chain.variance.reciprocal()
        vector = nothing = torch.zeros_like(pull[..., 0, :])
        information = unknown = nothing.unsqueeze(-1).expand(*nothing.shape, len(self.gram))
        unit = torch.eye(len(self.gram), dtype=pull.dtype, device=pull.device)
        unseen, conditionals = len(weight) - pull.shape[-2], []
        for s in reversed(range(len(weight))):
            if s >= unseen:
                e, scaled = self.e[..., s - unseen, :], left[..., s - unseen, :]
                products = scaled.unsqueeze(-1) * e.unsqueeze(-2)
                information = torch.addcmul(information, products, self.gram)
                vector = vector + pull[..., s - unseen, :]
            tril = torch.linalg.cholesky(information + torch.diag(weight[s]))
            # as `torch.cholesky_inverse`, in half the time
            root = torch.linalg.solve_triangular(tril.mT, unit, upper=True, left=False)
            covariance = root @ root.mT
            conditionals.append(_Conditional(tril, covariance, vector))
            if self.chain.independent:
                information, vector = unknown, nothing
            elif s:
                # phi (J - J Lambda^-1 J) phi = phi Q^-1 Lambda^-1 J phi, the form that does not cancel
                gain = self._pulled[s].unsqueeze(-1) * covariance
                information = gain @ (information * self.chain.coefficient[s])
                vector = _times(gain, vector)
        return conditionals[::-1]

    def _mean(self, s: int, previous: Tensor | None) -> Tensor:
        """Mean of ``psi_s`` given the state before."""
        _, covariance, vector = self._conditionals[s]
        pulled = self._pulled[s] if previous is None else self._pulled[s] * previous
        return _times(covariance, vector + pulled)

    def conditional(self, s: int, previous: Tensor | None) -> PrecisionNormal:
        """The distribution of ``psi_s`` given ``psi_{s-1}`` (None at s = 0)."""
        return _ConstantDraws(self._mean(s, previous), self._conditionals[s].tril)

    def means(self) -> Tensor:
        """Posterior means of all states, shape (..., B, S, K P)."""
        means: list[Tensor] = []
        for s in range(len(self._conditionals)):
            means.append(self._mean(s, means[-1] if means else None))
        return torch.stack(means, dim=-2)

    def moments(self) -> Moments:
        """Posterior means and covariances of all states."""
        means = self.means()
        if self.chain.independent:
            alone = [state.covariance for state in self._conditionals]
            return Moments(means, alone, torch.zeros_like(means))
        covariances, lagged = (
            [self._conditionals[0].covariance],
            [torch.zeros_like(means[..., 0, :])],
        )
        for pulled, state in zip(self._pulled[1:], self._conditionals[1:], strict=True):
            gain = state.covariance * pulled
            passed = gain @ covariances[-1]
            lagged.append(passed.diagonal(dim1=-2, dim2=-1))
            covariances.append(state.covariance + passed @ gain.mT)
        return Moments(means, covariances, torch.stack(lagged, dim=-2))

    def half_log_det(self) -> Tensor:
        """Half the log-determinant of the precision of all states together, shape (..., B)."""
        roots = torch.stack([state.tril.diagonal(dim1=-2, dim2=-1) for state in self._conditionals])
        return roots.log().sum((0, -1))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


class _ConstantDraws(PrecisionNormal):
    """A `PrecisionNormal` whose draws carry no gradients; their density does."""

    def from_noise(self, noise: Tensor) -> Tensor:
        value = super().from_noise(noise).detach()
        self._last = None  # the noise of a constant depends on the parameters
        return value
