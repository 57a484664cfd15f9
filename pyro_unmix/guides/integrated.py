"""Variability that is integrated out: ``log p(y | c)`` of a linear-Gaussian model, and its gradient.

For the exact conditional q of psi, ``log p(y | c) = E_q[log p(y, psi | c)] + H[q]``. Since q is the maximum, the
gradient is that of the expectation under fixed moments: no factorisation is differentiated, and nothing is drawn. What
is linear in moments has a gradient in the parameters alone; ``x - x.detach()`` stands for the step of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.mixing import mixing_features, tile_components, to_abundances

_TINY = 1e-20  # an abundance that no gradient can move


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
        coefficient, step_scale = prior.steps(num_dates)
        variance = step_scale.square()
        if not prior.independent:
            loc, scale = prior.chain()[2:]
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


@dataclass(frozen=True)
class Integrated:
    """Drawn abundances of an `SGLMM` of linear mixing and Gaussian noise, psi integrated out.

    Parameters
    ----------
    model : SGLMM
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    states : Tensor, shape (B, T+1, P)
        c at the dates 0..T.
    """

    model: Any
    pixels: Tensor
    valid: Tensor
    states: Tensor

    def log_evidence(self, offsets: Tensor | None) -> Tensor:
        """``log p(y | c)`` (B,), given what pixels share and add to psi, (B or 1, T, K P).

        It is NaN where a precision is not positive definite.
        """
        model, valid = self.model, self.valid
        abundances = to_abundances(self.states[:, 1:])
        num_dates, p = abundances.shape[1:]
        chain = Chain.of(model.variability_prior, num_dates)
        pixels, design, noise_scale = model.noise.whitened(self.pixels, model.design())
        gram, precision = design.mT @ design, noise_scale.pow(-2)
        with torch.no_grad():
            known = abundances if offsets is None else mixing_features(abundances, offsets)
            moment = pixels @ design[:, p:] - known @ gram[: known.shape[-1], p:]
            e = tile_components(abundances, len(gram) // p - 1) * valid.unsqueeze(-1)
            moments = posterior_moments(gram[p:, p:], precision, chain, e, moment)
        flat = moments.mean if offsets is None else moments.mean + offsets
        misfit = _Misfit.apply(pixels, mixing_features(abundances, flat), design)
        spread = _expected_spread(moments, chain, abundances, e, gram[p:, p:], precision)
        misfit = torch.where(valid, misfit, 0.0).sum(-1) + spread
        expected = _expected_chain(moments, chain) - 0.5 * precision * misfit
        at_zero = torch.zeros_like(design[:, 0])  # a pixel that fits exactly
        fits = model.noise.distributions()(at_zero).log_prob(at_zero)
        return expected + fits * valid.sum(-1) + _entropy(moments)


class _Misfit(torch.autograd.Function):
    """``||y_t - D f_t||^2`` of (B, T, L), (B, T, Q) and (L, Q): (B, T), with no array of all residuals."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, features: Tensor, design: Tensor) -> Tensor:
        squares, pulled = [], []
        for y, f in zip(pixels.unbind(1), features.unbind(1), strict=True):
            residual = torch.addmm(y, f, design.mT, alpha=-1)
            pulled.append(residual @ design)
            squares.append(residual.square_().sum(-1))
        ctx.save_for_backward(pixels, features, design, torch.stack(pulled, dim=1))
        return torch.stack(squares, dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        pixels, features, design, pulled = ctx.saved_tensors
        twice = 2 * grad.unsqueeze(-1)
        by_pixels = by_design = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            by_pixels = twice * (pixels - features @ design.mT)
            by_design = -by_pixels.flatten(0, 1).mT @ features.flatten(0, 1)
        return by_pixels, -twice * pulled, by_design


def _entropy(moments: Moments) -> Tensor:
    """Of q, without its ``log 2 pi``, (B,)."""
    return 0.5 * moments.mean[0].numel() - moments.half_log_det


def _expected_chain(moments: Moments, chain: Chain) -> Tensor:
    """``E[log p(psi_1 .. psi_T)]`` without its ``log 2 pi``, (B,)."""
    coefficient, weight = chain.coefficient, chain.variance.reciprocal()
    with torch.no_grad():
        if chain.independent:
            square = moments.mean.square() + moments.variance
        else:
            first = torch.ones_like(moments.mean[:, :1])
            before = torch.cat([first, moments.mean[:, :-1]], dim=1)
            varied = torch.cat([0.0 * first, moments.variance[:, :-1]], dim=1) * coefficient
            step = moments.mean - coefficient * before
            square = step.square() + moments.variance + coefficient * (varied - 2 * moments.lagged)
    total = -0.5 * (square.flatten(1) @ weight.flatten() + chain.variance.log().sum())
    if coefficient.requires_grad and not chain.independent:
        with torch.no_grad():  # E[(psi_t - coefficient psi_{t-1}) psi_{t-1}]
            slope = (step * before + moments.lagged - varied) * weight
        total = total + slope.flatten(1) @ (coefficient - coefficient.detach()).flatten()
    return total


def _expected_spread(
    moments: Moments, chain: Chain, abundances: Tensor, e: Tensor, gram: Tensor, precision: Tensor
) -> Tensor:
    """``sum_t e_t' (Cov_t * G) e_t``, (B,), with its gradients in the abundances and in G."""
    with torch.no_grad():
        if chain.independent:  # (precision E G E + V^-1) Cov = I: the diagonal is enough
            known = (1 - moments.variance / chain.variance) / precision
            slope = torch.where(e > _TINY, known / e, 0.0)
        else:
            pairs = zip(moments.covariances, e.unbind(1), strict=True)
            slopes = [torch.bmm(c * gram, e_t.unsqueeze(-1)) for c, e_t in pairs]
            slope = torch.stack(slopes, dim=1).squeeze(-1)
        value = (slope * e).sum((-1, -2))
        by_material = slope.unflatten(-1, (-1, abundances.shape[-1])).sum(-2)
    total = 2 * (by_material * abundances).sum((-1, -2)) - value
    if gram.requires_grad:
        with torch.no_grad():
            pairs = zip(moments.covariances, e.unbind(1), strict=True)
            products = [c * e_t.unsqueeze(-1) * e_t.unsqueeze(-2) for c, e_t in pairs]
            weight = torch.stack(products).sum(0)
        total = total + weight.flatten(1) @ (gram - gram.detach()).flatten()
    return total


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
    covariances, vectors, diagonals, failed = given
    half_log_det = torch.cat(diagonals, dim=-1).log().sum(-1)
    half_log_det = torch.where(torch.stack(failed).any(0), torch.nan, half_log_det)
    before = torch.ones_like(vectors[0])
    means, lagged = [], [torch.zeros_like(e[:, 0])] * len(vectors)
    for t, vector in enumerate(vectors):
        covariance = covariances[t]
        if t and not chain.independent:
            gain = covariance * pulled[t]
            passed = torch.bmm(gain, covariances[t - 1])
            lagged[t] = passed.diagonal(dim1=-2, dim2=-1)
            covariances[t] = torch.baddbmm(covariance, passed, gain.mT)
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
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
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
        Covariances (B, K P, K P), information vectors (B, K P, 1), and of the precisions the diagonals of the Cholesky
        factors (B, K P) and whether there was none (B,).
    """
    found = []
    information, vector = torch.zeros_like(gram), torch.zeros_like(rows[-1][2])
    for t in reversed(range(len(rows))):
        e, left, pull = rows[t]
        information = (left.unsqueeze(-1) * e.unsqueeze(-2)).mul_(gram).add_(information)
        vector = vector + pull
        tril, info = torch.linalg.cholesky_ex(information + weights[t])
        # mT: LAPACK stores columns, and operations on tensors of different strides are slow
        covariance = torch.cholesky_inverse(tril).mT
        found.append((covariance, vector, tril.diagonal(dim1=-2, dim2=-1), info))
        if chain.independent:
            information, vector = torch.zeros_like(gram), torch.zeros_like(vector)
        elif t:
            # phi (J - J Lambda^-1 J) phi = phi Q^-1 Lambda^-1 J phi, the form that does not cancel; symmetric but for
            # rounding, and LAPACK reads one triangle
            scaled = pulled[t].unsqueeze(-1) * covariance
            information = torch.bmm(scaled, information * chain.coefficient[t])
            vector = torch.bmm(scaled, vector)
    covariances, vectors, diagonals, failed = (list(x) for x in zip(*reversed(found), strict=True))
    return covariances, vectors, diagonals, failed
