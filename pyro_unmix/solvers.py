"""Constrained least squares on the simplex, batched over pixels.

Everything here solves small problems (P unknowns) for many pixels at once, after the bands have been summed out into
Gram matrices. Functions take and return torch tensors and work on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.mixing import tile_components

_RIDGE = 1e-3  # relative, of matrices that are singular otherwise
_MAX_PIVOTS_PER_UNKNOWN = 12


def project_simplex(values: Tensor) -> Tensor:
    """Euclidean projection of each row onto the unit simplex.

    Solves ``min_a ||a - v||^2`` subject to ``a >= 0`` and ``1'a = 1`` by sorting.

    Parameters
    ----------
    values : Tensor, shape (..., P)

    Returns
    -------
    Tensor, shape (..., P)

    References
    ----------
    Held, Wolfe, Crowder, "Validation of subgradient optimization", Math. Programming 6, 1974.
    """
    ordered = values.sort(dim=-1, descending=True).values
    rank = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    excess = ordered.cumsum(-1) - 1
    support = (ordered * rank > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (values - threshold).clamp(min=0)


def simplex_quadratic(gram: Tensor, linear: Tensor) -> Tensor:
    """Exact minimiser of ``1/2 a'Ga - b'a`` over the unit simplex, per row.

    A primal active-set method, run for all rows at once: every round solves the equality-constrained problem on each
    row's support, takes the longest feasible step towards it, and drops or adds one material.

    Parameters
    ----------
    gram : Tensor, shape (P, P) or (N, P, P)
        Symmetric positive semi-definite; a relative ridge of ``1e-9`` (float64; ``1e-6`` in float32) makes ties
        between equal spectra unique.
    linear : Tensor, shape (N, P)

    Returns
    -------
    Tensor, shape (N, P)
        Rows are non-negative and sum to one.

    References
    ----------
    Nocedal, Wright, "Numerical Optimization", 2nd ed., Algorithm 16.3.
    """
    num_rows, size = linear.shape
    eye = torch.eye(size, dtype=linear.dtype, device=linear.device)
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=torch.finfo(gram.dtype).tiny)
    ridge = 1e-9 if gram.dtype == torch.float64 else 1e-6
    gram = gram / scale[..., None, None] + ridge * eye
    linear = linear / (scale[..., None] if gram.dim() == 3 else scale)
    tolerance = 1e-10 if gram.dtype == torch.float64 else 1e-5
    solution = torch.full_like(linear, 1.0 / size)
    free = torch.ones_like(linear, dtype=torch.bool)
    todo = torch.arange(num_rows, device=linear.device)
    for _ in range(_MAX_PIVOTS_PER_UNKNOWN * size):
        if not len(todo):
            break
        g = gram if gram.dim() == 2 else gram[todo]
        a, mask, converged = _pivot(g, linear[todo], solution[todo], free[todo], eye, tolerance)
        solution[todo], free[todo] = a, mask
        todo = todo[~converged]
    solution = solution.clamp(min=0)
    return solution / solution.sum(-1, keepdim=True)


def _pivot(
    gram: Tensor, linear: Tensor, a: Tensor, free: Tensor, eye: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One active-set round: the new point, its support, and which rows are optimal."""
    m = free.to(linear.dtype)
    masked = gram * m[:, :, None] * m[:, None, :] + eye * (1 - m)[:, :, None]
    rhs = torch.stack([linear * m, m], dim=-1)
    u, v = _solve(masked, rhs).unbind(-1)
    target = u + v * ((1 - u.sum(-1)) / v.sum(-1)).unsqueeze(-1)
    # The longest step that keeps every fraction non-negative.
    falling = free & (target < 0)
    ratio = torch.where(falling, a / (a - target), torch.full_like(a, float("inf")))
    step, blocking = ratio.min(-1)
    feasible = ~falling.any(-1)
    step = torch.where(feasible, torch.ones_like(step), step)
    a = torch.where(free, a + step.unsqueeze(-1) * (target - a), torch.zeros_like(a))
    drop = torch.zeros_like(free).scatter_(-1, blocking.unsqueeze(-1), True)
    free = free & ~(drop & ~feasible.unsqueeze(-1))
    a = torch.where(free, a, torch.zeros_like(a))
    # Rows that reached their target: is there a material whose entry would lower the cost?
    slope = (gram @ a.unsqueeze(-1)).squeeze(-1) - linear
    level = (slope * m).sum(-1) / m.sum(-1)
    gain = torch.where(free, torch.full_like(slope, float("inf")), slope - level.unsqueeze(-1))
    best, entering = gain.min(-1)
    converged = feasible & ~(best < -tolerance)
    enters = feasible & ~converged
    enter = torch.zeros_like(free).scatter_(-1, entering.unsqueeze(-1), True)
    return a, free | (enter & enters.unsqueeze(-1)), converged


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right``; those that rounding made singular, as of collinear spectra, get a small ridge."""
    solution, info = torch.linalg.solve_ex(matrix, right)
    bad = info != 0
    if bad.any():
        singular = matrix[bad]
        ridge = _RIDGE * singular.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        solution[bad] = torch.linalg.solve(singular + ridge[:, None, None] * eye, right[bad])
    return solution


def fcls(pixels: Tensor, endmembers: Tensor) -> Tensor:
    """Fully constrained least squares: ``min_a ||y - M a||^2``, ``a >= 0``, ``1'a = 1``.

    Parameters
    ----------
    pixels : Tensor, shape (..., L)
    endmembers : Tensor, shape (L, P)

    Returns
    -------
    Tensor, shape (..., P)

    References
    ----------
    Heinz, Chang, IEEE TGRS 39(3), 2001.
    """
    linear = (pixels @ endmembers).reshape(-1, endmembers.shape[1])
    solution = simplex_quadratic(endmembers.mT @ endmembers, linear)
    return solution.reshape(*pixels.shape[:-1], endmembers.shape[1])


def simplex_scale(gram: Tensor) -> Tensor:
    """Std of each abundance under the Gaussian likelihood on the plane ``1'a = 1``, (..., P)."""
    p = gram.shape[-1]
    eye = torch.eye(p, dtype=gram.dtype, device=gram.device)
    plane = torch.linalg.svd(eye - 1 / p)[0][:, : p - 1]
    inner = plane.mT @ gram @ plane
    ridge = 1e-6 * inner.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-3
    inner = inner + ridge * torch.eye(p - 1, dtype=gram.dtype, device=gram.device)
    inverse = _solve(inner, torch.eye(p - 1, dtype=gram.dtype, device=gram.device).expand_as(inner))
    covariance = plane @ inverse @ plane.mT
    return covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-10).sqrt()


class MarginalMixing:
    """One date's Gaussian likelihood of abundances with the variability integrated out.

    With ``psi ~ N(loc, diag(scale)^2)`` and ``e = tile(a, K)``::

        y | a ~ N(M a, sigma^2 I + W diag(scale e)^2 W'),   M = M0 + sum_k F_k diag(loc_k),   W = [F_1 ... F_K]

    By Woodbury's identity everything needs only ``design'y`` and ``design'design``, ``design = [M0, W]``.

    Parameters
    ----------
    gram : Tensor, shape (Q, Q), Q = (K+1) P
        ``design'design``.
    noise_scale : Tensor, scalar
        sigma.
    loc, scale : Tensor, shape (K P,)
        Component outer, material inner.
    num_endmembers : int
        P.
    """

    def __init__(
        self, gram: Tensor, noise_scale: Tensor, loc: Tensor, scale: Tensor, num_endmembers: int
    ) -> None:
        p = num_endmembers
        eye = torch.eye(p, dtype=gram.dtype, device=gram.device)
        shift = loc.reshape(-1, p, 1) * eye
        self.combine = torch.cat([eye, shift.flatten(0, 1)])  # design @ combine = M
        self.num_endmembers, self.num_components = p, len(loc) // p
        self.noise_variance = noise_scale.square()
        self.gram = self.combine.mT @ gram @ self.combine
        self.cross = scale[:, None] * (gram[p:] @ self.combine)
        self.spread = scale[:, None] * gram[p:, p:] * scale
        self.scale = scale

    def moments(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """``M'y`` (N, P) and ``diag(scale) W'y`` (N, K P) from ``design'y`` (N, Q)."""
        return projected @ self.combine, projected[:, self.num_endmembers :] * self.scale

    def information(self, projected: Tensor, abundances: Tensor) -> tuple[Tensor, Tensor]:
        """Curvature ``M'S^-1 M`` (N, P, P) and ``M'S^-1 y`` (N, P), S the covariance at `abundances`."""
        direct, _ = self.moments(projected)
        _, whitened = self._whiten(projected, abundances)
        mixed, observed = whitened[..., :-1], whitened[..., -1:]
        # Where spectra are collinear up to the noise, rounding leaves a difference that is not definite.
        rounding = torch.finfo(self.gram.dtype).eps * self.gram.diagonal().mean()
        curvature = self.gram - mixed.mT @ mixed
        curvature.diagonal(dim1=-2, dim2=-1).add_(rounding)
        curvature = curvature / self.noise_variance
        pull = (direct - (mixed.mT @ observed).squeeze(-1)) / self.noise_variance
        return curvature, pull

    def solve(self, projected: Tensor, num_rounds: int = 3) -> Tensor:
        """Simplex-constrained generalised least squares, its covariance at the previous round's a."""
        abundances = simplex_quadratic(self.gram, self.moments(projected)[0])
        for _ in range(num_rounds):
            abundances = simplex_quadratic(*self.information(projected, abundances))
        return abundances

    def log_likelihood(
        self, energy: Tensor, projected: Tensor, abundances: Tensor, num_bands: int
    ) -> Tensor:
        """``log p(y | a)``, shape (N,), from ``energy = y'y`` (N,)."""
        direct, _ = self.moments(projected)
        factor, whitened = self._whiten(projected, abundances)
        residual = (
            energy
            - 2 * (direct * abundances).sum(-1)
            + ((abundances @ self.gram) * abundances).sum(-1)
        )
        # W'(y - M a) is whitened at once, since the map is linear.
        explained = whitened[..., -1] - (whitened[..., :-1] @ abundances.unsqueeze(-1)).squeeze(-1)
        log_noise = self.noise_variance.log()
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_det = log_det + (num_bands - factor.shape[-1]) * log_noise
        quadratic = (residual - explained.square().sum(-1)) / self.noise_variance
        return -0.5 * (quadratic + log_det + num_bands * math.log(2 * math.pi))

    def variability_mean(self, projected: Tensor, abundances: Tensor) -> Tensor:
        """``E[psi | y, a]`` (N, K P) for ``psi ~ N(0, diag(scale)^2)``."""
        e = tile_components(abundances, self.num_components)
        right = e * (self.moments(projected)[1] - abundances @ self.cross.mT)
        precision = e.unsqueeze(-1) * self.spread * e.unsqueeze(-2)
        precision.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance)
        factor = torch.linalg.cholesky(precision)
        return self.scale * torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)

    def _whiten(self, projected: Tensor, abundances: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor C of ``sigma^2 I + V'V``, V = W diag(scale e), and ``C^-1 V'[M, y]``."""
        e = tile_components(abundances, self.num_components).unsqueeze(-1)
        precision = (e * e.mT).mul_(self.spread)
        precision.diagonal(dim1=-2, dim2=-1).add_(self.noise_variance)
        factor = torch.linalg.cholesky(precision)
        cross = self.cross.expand(len(e), *self.cross.shape)
        right = torch.cat([cross, self.moments(projected)[1].unsqueeze(-1)], dim=-1)
        return factor, torch.linalg.solve_triangular(factor, e * right, upper=False)
