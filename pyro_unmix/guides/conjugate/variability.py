"""Exact posterior of linear-Gaussian variability given the abundances, as a Pyro-ready chain of conditionals.

Given all c, ``y_t = M0 a_t + W (e_t * psi_t) + noise`` with ``e_t = tile(a_t, K)`` is linear in psi, and psi is a
Gaussian chain. Then ``log p(y, psi | c) - log q(psi | y, c) = log p(y | c)`` whatever psi is. Two things follow.
A draw of psi need not carry gradients, since the derivative along it vanishes. And the gradient of
``log q`` at a fixed draw is ``d log p(y, psi | c) - d E_q[log p(y, psi | c)]``, an expectation under fixed
smoothed moments (Fisher's identity): no factorisation is ever differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_unmix.mixing import mixing_features
from pyro_unmix.ops.distributions import PrecisionNormal
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.ops.small_matrices import apply, inverse, multiply_symmetric, solve

_TINY = 1e-20  # an abundance that no gradient can move
_TAME = 100.0  # variance of a state in those of a step, up to which no information is lost in a difference

Chain = tuple[Tensor, Tensor, Tensor, Tensor]


def chain_means(
    gram: Tensor,
    noise_scale: Tensor,
    chain: Chain,
    independent: bool,
    projected: Tensor,
    valid: Tensor,
    abundances: Tensor,
    offsets: Tensor | None = None,
) -> Tensor:
    """Posterior means of ``psi_1 .. psi_T`` given the abundances, for many pixels along the last axis.

    The means of `ExactVariability`, by the same filter, without what densities and draws need besides.

    Parameters
    ----------
    gram : Tensor, shape (Q, Q)
        ``design'design``.
    noise_scale, chain, independent
        Of `ExactVariability`.
    projected : Tensor, shape (Q, T, B)
        ``design'y``.
    valid : Tensor of bool, shape (T, B)
    abundances : Tensor, shape (P, T, B)
    offsets : Tensor, shape (K P, T, B), optional
        What pixels share; it is in the result.

    Returns
    -------
    Tensor, shape (K P, T, B)
    """
    if offsets is not None:
        p = len(abundances)
        shared = apply(
            gram[:, p:, None, None], abundances.repeat(len(gram) // p - 1, 1, 1) * offsets
        )
        rest = chain_means(
            gram, noise_scale, chain, independent, projected - shared, valid, abundances
        )
        return rest + offsets
    coefficient, step_scale, loc, scale = chain
    p, num_dates = abundances.shape[:2]
    e = abundances.repeat(len(gram) // p - 1, 1, 1) * valid
    precision = noise_scale.pow(-2)
    explained = apply(gram[p:, :p, None, None], abundances)
    pull = precision * e * (projected[p:] - explained)
    weight = step_scale.pow(-2)

    def observed(t: int) -> Tensor:  # of all dates at once, it would not stay in the cache
        return (e[:, None, t] * (precision * e[:, t])).mul_(gram[p:, p:, None])

    if independent:
        alone = (_plus(observed(t), weight[t]) for t in range(num_dates))
        return torch.stack([solve(c, pull[:, None, t])[:, 0] for t, c in enumerate(alone)], dim=1)
    # psi_0 is seen by no date: the chain starts with the prior of psi_1.
    first = (coefficient[0] * scale).square() + step_scale[0].square()
    tame = bool((weight * first).max() < _TAME)
    pulls = pull.unbind(1)
    information, vector = observed(num_dates - 1), pulls[-1]
    passed = []
    for t in range(num_dates - 1, 0, -1):
        pulled = (coefficient[t] * weight[t]).unsqueeze(-1)
        since = _plus(information if tame else information.clone(), weight[t])
        covariance = inverse(since)
        passed.append((covariance, vector, pulled))
        scaled = covariance * pulled[:, None]
        if tame:
            information = observed(t - 1).addcmul_(scaled, pulled, value=-1)
            _plus(information, coefficient[t] * pulled[:, 0])
        else:  # as in `ExactVariability`, the form that does not cancel
            information = multiply_symmetric(scaled, information * coefficient[t, :, None])
            information += observed(t - 1)
        vector = apply(scaled, vector) + pulls[t - 1]
    _plus(information, first.reciprocal())
    right = vector + (coefficient[0] * loc / first).unsqueeze(-1)
    means = [solve(information, right[:, None])[:, 0]]
    for covariance, vector, pulled in reversed(passed):
        means.append(apply(covariance, torch.addcmul(vector, pulled, means[-1])))
    return torch.stack(means, dim=1)


def _plus(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """Add to the diagonals of matrices (I, I, B), in place."""
    matrix.diagonal(dim1=0, dim2=1).add_(diagonal)
    return matrix


class ExactVariability:
    """``q(psi_t | psi_{t-1}, c_{t:T}, y_{t:T})`` for t = 0..T, by a backward information filter.

    Parameters
    ----------
    design : Tensor, shape (L, (K+1) P)
    noise_scale : Tensor, scalar
    chain : tuple of Tensor
        ``(coefficients, step_scales, initial_loc, initial_scale)`` of the prior: (T, K P) twice, (K P,) twice.
    independent : bool
        Whether all coefficients are zero, so that dates can be treated together.
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    abundances : Tensor, shape (..., B, T, P)
    offsets : Tensor, shape (..., B, T, K P), optional
        What pixels share and is added to psi.
    """

    def __init__(
        self,
        *,
        design: Tensor,
        noise_scale: Tensor,
        chain: Chain,
        independent: bool,
        pixels: Tensor,
        valid: Tensor,
        abundances: Tensor,
        offsets: Tensor | None = None,
    ) -> None:
        p = abundances.shape[-1]
        gram = design.mT @ design
        size = gram.shape[-1] - p
        self.chain, self.independent = chain, independent
        self.precision = noise_scale.pow(-2)
        # A missing date has e = 0: no information about psi.
        self.e = tile_components(abundances, size // p) * valid.unsqueeze(-1)
        self.gram = gram[p:, p:]
        known = abundances if offsets is None else mixing_features(abundances, offsets)
        self.moment = (pixels @ design)[..., p:] - known @ gram[
            : known.shape[-1], p:
        ]  # W'(y - M a)
        self._draws: list[tuple[Tensor, Tensor]] = []
        self._only_draws = True
        self._log_probs: list[Tensor] | None = None
        self._means: tuple[Tensor, ...] | None = None
        with torch.no_grad():
            *self._conditionals, self._inverses = self._solve()

    def conditional(self, t: int, previous: Tensor | None) -> PrecisionNormal:
        """The distribution of ``psi_t`` given ``psi_{t-1}`` (None at t = 0)."""
        with torch.no_grad():
            tril, vector = self._conditionals
            if self.independent and t:
                loc = self._together_means()[t - 1]
            else:
                loc = self._mean(t, previous, tril[t], vector[t])
        return _ExactConditional(loc, tril[t], self, t, previous)

    def record(self, t: int, value: Tensor, log_prob: Tensor) -> None:
        """Remember the draw of date t and its density; draws come in order."""
        if t == 0:
            self._only_draws = True
        del self._draws[t:]
        self._draws.append((value, log_prob))
        self._log_probs = None

    def drew(self, t: int, value: Tensor) -> bool:
        """Whether this is the draw of date t, and every density asked for so far was of such a draw.

        Only the sum over dates has the right gradient, so that draws and other values cannot be mixed.
        """
        complete = len(self._draws) == self.moment.shape[-2] + 1
        self._only_draws &= complete and value is self._draws[t][0]
        return self._only_draws

    def means(self) -> Tensor:
        """Posterior means of ``psi_1 .. psi_T``, shape (..., B, T, K P)."""
        with torch.no_grad():
            if self.independent:
                return torch.stack(self._together_means(), dim=-2)
            mean, path = None, []
            for t, (tril, vector) in enumerate(zip(*self._conditionals, strict=True)):
                mean = self._mean(t, mean, tril, vector)
                path.append(mean)
            return torch.stack(path[1:], dim=-2)

    def _together_means(self) -> tuple[Tensor, ...]:
        """Posterior means of ``psi_1 .. psi_T`` where dates are independent."""
        if self._means is None:
            tril, vector = self._together
            self._means = torch.cholesky_solve(vector.unsqueeze(-1), tril).squeeze(-1).unbind(-2)
        return self._means

    def _mean(self, t: int, previous: Tensor | None, tril: Tensor, vector: Tensor) -> Tensor:
        """Mean of ``psi_t`` given ``psi_{t-1}``."""
        coefficient, step_scale, loc, scale = self.chain
        if t == 0:
            vector = vector + loc / scale.square()
        elif previous is not None and not self.independent:
            pulled = coefficient[t - 1] / step_scale[t - 1].square()
            vector = torch.addcmul(vector, pulled, previous)
        return torch.cholesky_solve(vector.unsqueeze(-1), tril).squeeze(-1)

    def _solve(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Cholesky factors of the conditional precisions and information vectors, for t = 0..T.

        Third, where dates depend on each other, the inverses of those precisions for t = 1..T.
        """
        coefficient, step_scale, _, scale = self.chain
        weight = step_scale.pow(-2)
        pull = (self.precision * self.e * self.moment).unbind(-2)
        left = self.precision * self.e
        curvature = (left.unsqueeze(-1) * self.e.unsqueeze(-2)).mul_(self.gram)
        if self.independent:
            curvature.diagonal(dim1=-2, dim2=-1).add_(weight)
            tril = torch.linalg.cholesky_ex(curvature).L  # the prior's weight keeps it definite
            self._together = tril, self.precision * self.e * self.moment
            first = torch.diag(scale.reciprocal()).expand(tril[..., 0, :, :].shape)
            return [first, *tril.unbind(-3)], [torch.zeros_like(pull[0]), *pull], []
        observed = curvature.unbind(-3)
        trils, vectors, inverses = [], [], []
        information, vector = observed[-1], pull[-1]
        for t in range(len(pull), 0, -1):
            tril = torch.linalg.cholesky(information + torch.diag(weight[t - 1]))
            trils.append(tril)
            vectors.append(vector)
            # phi (J - J Lambda^-1 J) phi = phi Q^-1 Lambda^-1 J phi, the form that does not cancel
            pulled = (coefficient[t - 1] * weight[t - 1]).unsqueeze(-1)
            inverses.append(torch.cholesky_inverse(tril))
            scaled = pulled * inverses[-1]
            information = scaled @ (information * coefficient[t - 1])
            information = information.lerp(information.mT, 0.5)
            vector = (scaled @ vector.unsqueeze(-1)).squeeze(-1)
            if t > 1:
                information += observed[t - 2]
                vector += pull[t - 2]
        trils.append(torch.linalg.cholesky(information + torch.diag(scale.pow(-2))))
        return trils[::-1], [vector, *vectors[::-1]], inverses[::-1]

    @property
    def _moments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Smoothed means and covariances for t = 0..T, and ``Cov(psi_t, psi_{t-1})``'s diagonal for t = 1..T."""
        if not hasattr(self, "_cached_moments"):
            with torch.no_grad():
                self._cached_moments = self._forward_moments()
        return self._cached_moments

    def _forward_moments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        coefficient, step_scale, _, _ = self.chain
        trils, vectors = self._conditionals
        means = [self._mean(0, None, trils[0], vectors[0])]
        covariances, crosses = [torch.cholesky_inverse(trils[0])], []
        for t in range(1, len(trils)):
            inverse = self._inverses[t - 1]
            pulled = coefficient[t - 1] / step_scale[t - 1].square()
            gain = inverse * pulled
            vector = torch.addcmul(vectors[t], pulled, means[-1])
            means.append((inverse @ vector.unsqueeze(-1)).squeeze(-1))
            passed = gain @ covariances[-1]
            crosses.append(passed.diagonal(dim1=-2, dim2=-1))
            covariances.append(inverse + passed @ gain.mT)
        return means, covariances, crosses

    # ------------------------------------------------------------ densities and their gradients

    def log_prob_of_draws(self, t: int) -> Tensor:
        """``log q(psi_t | psi_{t-1}, ...)`` of the draws made, with its gradient, shape (..., B).

        The first call computes all dates: by then every date has been drawn.
        """
        if self._log_probs is None:
            exact = [log_prob for _, log_prob in self._draws]
            if torch.is_grad_enabled():
                values = [v.expand(exact[-1].shape + v.shape[-1:]) for v, _ in self._draws]
                extra = self._surrogate(torch.stack(values, dim=-2))
                extra = extra - extra.detach()
                exact = [e + x for e, x in zip(exact, extra.unbind(-1), strict=True)]
            self._log_probs = exact
        return self._log_probs[t]

    def _surrogate(self, values: Tensor) -> Tensor:
        """Something with the gradient of log q at fixed draws (..., B, T+1, K P); shape (..., B, T+1).

        ``log p(y_t, psi_t | psi_{t-1}, c) - E_q[the same]``, the expectation under fixed moments.
        """
        coefficient, step_scale, loc, scale = self.chain
        with torch.no_grad():
            mean, variance, cross, covariance = self._stacked_moments()
        first = (values[..., 0, :] - loc).square() - (mean[..., 0, :] - loc).square()
        first = (-0.5 * (first - variance[..., 0, :]) / scale.square()).sum(-1)
        if self.independent:
            steps = values[..., 1:, :].square() - mean[..., 1:, :].square() - variance[..., 1:, :]
        else:
            before = slice(None, -1)
            drawn = values[..., 1:, :] - coefficient * values[..., before, :]
            moved = mean[..., 1:, :] - coefficient * mean[..., before, :]
            moved = moved.square() + variance[..., 1:, :] - 2 * coefficient * cross
            steps = drawn.square() - moved - coefficient.square() * variance[..., before, :]
        chain = (-0.5 * steps / step_scale.square()).sum(-1)
        # -1/2 ||r - W(e psi)||^2 without ||r||^2, which is in both terms
        drawn, expected = self.e * values[..., 1:, :], self.e * mean[..., 1:, :]
        linear = ((drawn - expected) * self.moment).sum(-1)
        quadratic = ((drawn @ self.gram) * drawn - (expected @ self.gram) * expected).sum(-1)
        covered = self._covered(variance[..., 1:, :], covariance)
        observed = self.precision * (linear - 0.5 * (quadratic - covered))
        return torch.cat([first.unsqueeze(-1), chain + observed], dim=-1)

    def _covered(self, variance: Tensor, covariance: Tensor) -> Tensor:
        """``e' (Cov * G) e`` with its gradients in e and G, shape (..., B, T)."""
        if self.gram.requires_grad or not self.independent:
            with torch.set_grad_enabled(self.gram.requires_grad):
                spread = covariance * self.gram
            return ((spread @ self.e.unsqueeze(-1)).squeeze(-1) * self.e).sum(-1)
        # Cov (tau E G E + S^-2) = I: the diagonal is enough for value and gradient.
        with torch.no_grad():
            known = (1 - variance * self.chain[1].pow(-2)) / self.precision
            slope = torch.where(self.e > _TINY, known / self.e, 0.0)
            value = (slope * self.e).sum(-1)
        return 2 * (slope * self.e).sum(-1) - value

    def _stacked_moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means and variances (..., T+1, K P), lagged covariances (..., T, K P), and covariances (..., T, K P, K P)."""
        if self.independent:
            full = torch.cholesky_inverse(self._together[0])
            rest = torch.stack(self._together_means(), dim=-2)
            loc, scale = (x.expand_as(rest[..., :1, :]) for x in self.chain[2:])
            mean = torch.cat([loc, rest], dim=-2)
            variances = full.diagonal(dim1=-2, dim2=-1)
            variance = torch.cat([scale.square(), variances], dim=-2)
            return mean, variance, torch.zeros_like(rest), full
        means, covariances, crosses = self._moments
        batch = means[-1].shape[:-1]
        mean = torch.stack([m.expand(*batch, m.shape[-1]) for m in means], dim=-2)
        diagonals = [c.diagonal(dim1=-2, dim2=-1) for c in covariances]
        variance = torch.stack([d.expand(*batch, d.shape[-1]) for d in diagonals], dim=-2)
        full = torch.stack(covariances[1:], dim=-3)
        return mean, variance, torch.stack(crosses, dim=-2), full


class _ExactConditional(PrecisionNormal):
    """One date's conditional; its own draws are constants, with the exact density and its gradient."""

    def __init__(
        self,
        loc: Tensor,
        precision_tril: Tensor,
        posterior: ExactVariability,
        t: int,
        previous: Tensor | None,
    ) -> None:
        super().__init__(loc, precision_tril, validate_args=False)
        self._posterior, self._t, self._previous = posterior, t, previous

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return _ExactConditional(
            self.loc.expand(torch.Size(batch_shape) + self.event_shape),
            self.precision_tril.expand(torch.Size(batch_shape) + self.event_shape * 2),
            self._posterior,
            self._t,
            self._previous,
        )

    def from_noise(self, noise: Tensor) -> Tensor:
        with torch.no_grad():
            value = super().from_noise(noise)
            self._posterior.record(self._t, value, super().log_prob(value))
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._posterior.drew(self._t, value):
            return self._posterior.log_prob_of_draws(self._t)
        tril, vector, _ = self._posterior._solve()
        loc = self._posterior._mean(self._t, self._previous, tril[self._t], vector[self._t])
        return PrecisionNormal(loc, tril[self._t]).log_prob(value)
