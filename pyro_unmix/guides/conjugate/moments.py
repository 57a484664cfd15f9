"""The Gaussian chain of psi given drawn abundances: its moments, by an information filter and a smoother."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.ops.small_matrices import identities, inverse_of_root


@dataclass(frozen=True)
class Chain:
    """The prior of ``psi_1 .. psi_T``: ``psi_t ~ N(coefficient_t psi_{t-1}, variance_t)``, with one in place of psi_0.

    Parameters
    ----------
    coefficient, variance : Tensor, shape (T, K P)
    independent : bool
        Whether all coefficients are zero.
    """

    coefficient: Tensor
    variance: Tensor
    independent: bool

    @classmethod
    def of(cls, prior: Any, num_dates: int) -> Chain:
        """That of a `VariabilityPrior`, with psi_0, which no date sees, integrated out."""
        coefficient, step_scale, loc, scale = prior.whole_chain(num_dates)
        variance = step_scale.square()
        if not prior.independent:
            first = coefficient[:1]
            variance = torch.cat([variance[:1] + (first * scale).square(), variance[1:]])
            coefficient = torch.cat([first * loc, coefficient[1:]])
        return cls(coefficient, variance, prior.independent)


@dataclass(frozen=True)
class Moments:
    """Of ``psi_1 .. psi_T`` given y and c, for B pixels.

    Parameters
    ----------
    mean, variance : Tensor, shape (B, T, K P)
    lagged : Tensor, shape (B, T, K P)
        Covariances of every coefficient with itself at the date before.
    covariances : list of Tensor
        Of the dates, each (B, K P, K P).
    half_log_det : Tensor, shape (B,)
        Half the log-determinant of the precision of all dates; NaN where it is not positive definite.
    """

    mean: Tensor
    variance: Tensor
    lagged: Tensor
    covariances: list[Tensor]
    half_log_det: Tensor


def posterior_moments(
    gram: Tensor, precision: Tensor, chain: Chain, e: Tensor, moment: Tensor
) -> Moments:
    """Smoothed moments of psi, by a backward information filter and a pass forward in time.

    Parameters
    ----------
    gram : Tensor, shape (K P, K P)
        ``W'W``.
    precision : Tensor, scalar
        Of the noise.
    chain : Chain
    e : Tensor, shape (B, T, K P)
        Abundances of every component; zero at a missing date.
    moment : Tensor, shape (B, T, K P)
        ``W'(y - M a)``.
    """
    weight = chain.variance.reciprocal()
    pulled, weights = (chain.coefficient * weight).unbind(), torch.diag_embed(weight).unbind()
    left = precision * e
    rows = zip(*(x.unbind(1) for x in (e, left, (left * moment).unsqueeze(-1))), strict=True)
    given = _conditionals(gram, chain, pulled, weights, list(rows))
    covariances, gains, vectors, diagonals, failed = given
    half_log_det = torch.cat(diagonals, dim=-1).log().sum(-1)
    half_log_det = torch.where(torch.stack(failed).any(0), torch.nan, half_log_det)
    before = torch.ones_like(vectors[0])
    means, lagged = [], [torch.zeros_like(e[:, 0])] * len(vectors)
    for t, vector in enumerate(vectors):
        covariance = covariances[t]
        if t and not chain.independent:
            passed = torch.bmm(gains[t].mT, covariances[t - 1])
            lagged[t] = passed.diagonal(dim1=-2, dim2=-1)
            covariances[t] = torch.baddbmm(covariance, passed, gains[t])
        before = torch.bmm(covariance, torch.addcmul(vector, pulled[t].unsqueeze(-1), before))
        means.append(before.squeeze(-1))
    variances = [c.diagonal(dim1=-2, dim2=-1) for c in covariances]
    mean, variance, lag = (torch.stack(x, dim=1) for x in (means, variances, lagged))
    return Moments(mean, variance, lag, covariances, half_log_det)


def _conditionals(
    gram: Tensor,
    chain: Chain,
    pulled: Sequence[Tensor],
    weights: Sequence[Tensor],
    rows: Sequence[tuple[Tensor, ...]],
) -> tuple[list[Tensor], ...]:
    """``psi_t | psi_{t-1}, y_t .. y_T`` for t = 1..T, by a backward information filter.

    Parameters
    ----------
    pulled : sequence of Tensor, shape (K P,)
        ``coefficient_t / variance_t``.
    weights : sequence of Tensor, shape (K P, K P)
        ``diag(1 / variance_t)``.
    rows : sequence of tuple
        Of every date ``e`` and ``precision e``, (B, K P), and ``precision e moment``, (B, K P, 1).

    Returns
    -------
    tuple of list
        Covariances (B, K P, K P), their rows times `pulled`, information vectors (B, K P, 1), and of the precisions the
        diagonals of the Cholesky factors (B, K P) and whether there was none (B,).
    """
    found = []
    units = identities(len(rows[0][0]), len(gram), gram)
    information, vector = torch.zeros_like(gram), torch.zeros_like(rows[-1][2])
    for t in reversed(range(len(rows))):
        e, left, pull = rows[t]
        information = (left.unsqueeze(-1) * e.unsqueeze(-2)).mul_(gram).add_(information)
        vector = vector + pull
        tril, info = torch.linalg.cholesky_ex(information + weights[t])
        covariance = inverse_of_root(tril, units)
        gain = covariance if chain.independent or not t else pulled[t].unsqueeze(-1) * covariance
        found.append((covariance, gain, vector, tril.diagonal(dim1=-2, dim2=-1).clone(), info))
        if chain.independent:
            information, vector = torch.zeros_like(gram), torch.zeros_like(vector)
        elif t:
            # phi (J - J Lambda^-1 J) phi = phi Q^-1 Lambda^-1 J phi, the form that does not cancel; symmetric but for
            # rounding, and LAPACK reads one triangle
            information = torch.bmm(gain, information * chain.coefficient[t])
            vector = torch.bmm(gain, vector)
    return tuple(list(x) for x in zip(*reversed(found), strict=True))
