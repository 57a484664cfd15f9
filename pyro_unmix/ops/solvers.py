"""Constrained least squares on the simplex, batched over pixels.

Everything here solves small problems (P unknowns) for many pixels at once, after the bands have been summed out into
Gram matrices. Functions take and return torch tensors and work on any device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.ops.small_matrices import apply, eliminate, inverse, multiply, solve

_MAX_PIVOTS_PER_UNKNOWN = 12
_ROUND = 64
_HIDDEN = 0.125  # of the noise variance, rounding that it does not bear


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
    columns = gram.unsqueeze(-1) if gram.dim() == 2 else gram.movedim(0, -1)
    return simplex_columns(columns, linear.mT).mT.contiguous()


def simplex_columns(gram: Tensor, linear: Tensor, start: Tensor | None = None) -> Tensor:
    """`simplex_quadratic` of problems along the last axis.

    Parameters
    ----------
    gram : Tensor, shape (P, P, 1) or (P, P, N)
    linear : Tensor, shape (P, N)
    start : Tensor, shape (P, N), optional
        Points of the simplex; the nearer to the solution, the fewer rounds.

    Returns
    -------
    Tensor, shape (P, N)
    """
    size = len(linear)
    scale = gram.diagonal(dim1=0, dim2=1).mean(-1).clamp(min=torch.finfo(gram.dtype).tiny)
    ridge = 1e-9 if gram.dtype == torch.float64 else 1e-6
    gram = gram / scale
    gram.diagonal(dim1=0, dim2=1).add_(ridge)
    linear = linear / scale
    tolerance = 1e-10 if gram.dtype == torch.float64 else 1e-5
    solution = torch.full_like(linear, 1.0 / size) if start is None else start.clone()
    free = solution > 0
    shared = gram.shape[-1] == 1
    solution, free, converged = _pivot(gram, linear, solution, free, ridge, tolerance)
    todo = torch.nonzero(~converged).squeeze(-1)
    for _ in range(_MAX_PIVOTS_PER_UNKNOWN * size):
        if not len(todo):
            break
        todo = _padded(todo)
        a, mask, converged = _pivot(
            gram if shared else gram[..., todo],
            linear[:, todo],
            solution[:, todo],
            free[:, todo],
            ridge,
            tolerance,
        )
        solution[:, todo], free[:, todo] = a, mask
        todo = todo[~converged]
    solution = solution.clamp(min=0)
    return solution / solution.sum(0)


def _padded(numbers: Tensor) -> Tensor:
    """The last number repeated up to a round length: the rest of a vector loop may round otherwise than the loop."""
    return torch.cat([numbers, numbers[-1:].expand(-len(numbers) % _ROUND)])


def _pivot(
    gram: Tensor, linear: Tensor, a: Tensor, free: Tensor, ridge: float, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One active-set round: the new point, its support, and which columns are optimal."""
    infinite = torch.tensor(math.inf, dtype=a.dtype, device=a.device)
    m = free.to(linear.dtype)
    masked = gram * (m[:, None] * m)
    masked.diagonal(dim1=0, dim2=1).add_((1 - m).mT)
    # Without the floor, rounding makes the pivots of collinear spectra negative.
    u, v = solve(masked, torch.stack([linear * m, m], dim=1), smallest=ridge).unbind(1)
    target = u + v * ((1 - u.sum(0)) / v.sum(0))
    # The longest step that keeps every fraction non-negative.
    falling = free & (target < 0)
    ratio = torch.where(falling, a / (a - target), infinite)
    step = ratio.amin(0)
    feasible = ~falling.any(0)
    a = torch.where(free, a + torch.where(feasible, 1.0, step) * (target - a), 0.0)
    free = free & ~(falling & (ratio == step))
    a = torch.where(free, a, 0.0)
    # Columns that reached their target: is there a material whose entry would lower the cost?
    slope = apply(gram, a) - linear
    level = (slope * m).sum(0) / m.sum(0)
    gain = torch.where(free, infinite, slope - level)
    best = gain.amin(0)
    converged = feasible & ~(best < -tolerance)
    enters = (feasible & ~converged) & (gain == best)
    return a, free | enters, converged


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
    """Std of each abundance under the Gaussian likelihood on the plane ``1'a = 1``, of (P, P, ...): (P, ...)."""
    plane = simplex_plane(len(gram)).to(gram)
    inner = onto_plane(gram, plane)
    ridge = 1e-6 * inner.diagonal(dim1=0, dim2=1).mean(-1) + 1e-3
    inner.diagonal(dim1=0, dim2=1).add_(ridge.unsqueeze(-1))
    covariance = onto_plane(inverse(inner), plane.mT)
    return covariance.diagonal(dim1=0, dim2=1).movedim(-1, 0).clamp(min=1e-10).sqrt()


def simplex_plane(size: int) -> Tensor:
    """Orthonormal columns (P, P-1) that span the changes of abundances, ``1'x = 0``."""
    eye = torch.eye(size, dtype=torch.float64)
    return torch.linalg.svd(eye - 1 / size)[0][:, : size - 1]


def onto_plane(matrix: Tensor, plane: Tensor) -> Tensor:
    """``Q' A Q`` of matrices A (P, P, ...) and one Q (P, R): (R, R, ...)."""
    columns = plane.reshape(*plane.shape, *[1] * (matrix.dim() - 2))
    return multiply(multiply(columns.transpose(0, 1), matrix), columns)


class MarginalMixing:
    """One date's Gaussian likelihood of abundances with the variability integrated out.

    With ``psi ~ N(loc, diag(scale)^2)`` and ``e = tile(a, K)``::

        y | a ~ N(M a, sigma^2 I + W diag(scale e)^2 W'),   M = M0 + sum_k F_k diag(loc_k),   W = [F_1 ... F_K]

    By Woodbury's identity everything needs only ``design'y`` and ``design'design``, ``design = [M0, W]``.

    Parameters
    ----------
    gram : Tensor, shape (Q, Q), Q = (K+1) P
        ``design'design``; in double precision where its rounding would hide the noise, see `drowns_noise`.
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
        self.design_gram, gram = gram, gram.to(scale.dtype)
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
        dates = MarginalDates([self])
        curvature, pull = dates.information(projected.mT.unsqueeze(1), abundances.mT.unsqueeze(1))
        return curvature.squeeze(2).movedim(-1, 0), pull.squeeze(1).mT

    def solve(self, projected: Tensor, num_rounds: int = 3) -> Tensor:
        """Simplex-constrained generalised least squares, its covariance at the previous round's a."""
        return MarginalDates([self]).solve(projected.mT.unsqueeze(1), num_rounds).squeeze(1).mT

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


class MarginalDates:
    """The likelihoods of several dates, `MarginalMixing`, with the pixels along the last axis and the dates before it.

    Parameters
    ----------
    dates : sequence of MarginalMixing
        T of them, of the same sizes and noise.
    """

    def __init__(self, dates: Sequence[MarginalMixing]) -> None:
        def stacked(name: str) -> Tensor:
            return torch.stack([getattr(d, name) for d in dates], dim=-1).unsqueeze(-1)

        self.num_components = dates[0].num_components
        self.noise_variance = dates[0].noise_variance
        self.design_gram = dates[0].design_gram
        self.gram, self.cross = stacked("gram"), stacked("cross")
        self.spread, self.scale = stacked("spread"), stacked("scale")
        self.combine = stacked("combine")

    def drowns_noise(self) -> bool:
        """Whether the rounding of ``V'V`` hides the noise variance that is added to it."""
        if not self.spread.numel():
            return False
        rounding = torch.finfo(self.spread.dtype).eps * self.spread.detach().amax()
        return self.spread.dtype != torch.float64 and bool(rounding > _HIDDEN * self.noise_variance)

    def in_double(self) -> MarginalDates:
        """The same in double precision, ``design'design`` positive semi-definite, as rounding need not have left it."""
        doubled = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(doubled, name, value.double())
        values, vectors = torch.linalg.eigh(doubled.design_gram)
        whole = (vectors * values.clamp(min=0)) @ vectors.mT
        doubled.design_gram = whole
        inner = whole[len(self.gram) :, len(self.gram) :, None, None]
        doubled.spread = doubled.scale.unsqueeze(1) * inner * doubled.scale
        doubled.cross, doubled.gram = doubled._mixed(doubled.combine)
        return doubled

    def _mixed(self, combine: Tensor) -> tuple[Tensor, Tensor]:
        """``V'M`` and ``M'M`` of ``M = design @ combine`` (Q, P, T, N)."""
        mixed = (self.design_gram.to(combine.dtype) @ combine.flatten(1)).reshape(
            -1, *combine.shape[1:]
        )
        cross = self.scale.unsqueeze(1) * mixed[combine.shape[1] :]
        return cross, torch.einsum("qitn,qjtn->ijtn", combine, mixed)

    def shifted(self, offsets: Tensor) -> MarginalDates:
        """The same with endmembers of every pixel's own, ``psi`` about ``loc + offsets``, of shape (K P, T, N)."""
        p, num_dates, count = len(self.gram), *offsets.shape[1:]
        eye = torch.eye(p, dtype=offsets.dtype, device=offsets.device)[None, :, :, None, None]
        shift = offsets.unflatten(0, (-1, p)).unsqueeze(2) * eye
        combine = self.combine.expand(-1, -1, num_dates, count).clone()
        combine[p:] += shift.flatten(0, 1)
        shifted = copy.copy(self)
        shifted.combine = combine
        shifted.cross, shifted.gram = self._mixed(combine)
        return shifted

    def information(self, projected: Tensor, abundances: Tensor) -> tuple[Tensor, Tensor]:
        """Curvature ``M'S^-1 M`` (P, P, T, N) and ``M'S^-1 y`` (P, T, N), S the covariance at `abundances`.

        Parameters
        ----------
        projected : Tensor, shape (Q, T, N)
            ``design'y``.
        abundances : Tensor, shape (P, T, N)
        """
        if self.drowns_noise():
            found = self.in_double().information(projected.double(), abundances.double())
            return found[0].to(projected), found[1].to(projected)
        p, num_dates, count = abundances.shape
        size = p * self.num_components
        direct = self._direct(projected)
        # [[sigma^2 I + V'V, V'M, V'y], [ , M'M, M'y]] with V = W diag(scale e), of one date after the other
        joint = projected.new_empty(size + p, size + p + 1, count)
        information = projected.new_empty(p, p + 1, num_dates, count)
        for t in range(num_dates):
            e = abundances[:, t].repeat(self.num_components, 1)
            torch.mul(e[:, None] * self.spread[:, :, t], e, out=joint[:size, :size])
            joint[:size, :size].diagonal(dim1=0, dim2=1).add_(self.noise_variance)
            torch.mul(e[:, None], self.cross[:, :, t], out=joint[:size, size:-1])
            torch.mul(e * self.scale[:, t], projected[p:, t], out=joint[:size, -1])
            joint[size:, size:-1] = self.gram[:, :, t]
            joint[size:, -1] = direct[:, t]
            information[:, :, t] = eliminate(joint, size)
        for i in range(1, p):
            information[i, :i] = information[:i, i]
        # Where spectra are collinear up to the noise, rounding leaves a difference that is not definite.
        rounding = torch.finfo(information.dtype).eps * self.gram.diagonal(dim1=0, dim2=1).mean(-1)
        information[:, :-1].diagonal(dim1=0, dim2=1).add_(rounding.unsqueeze(-1))
        information /= self.noise_variance
        return information[:, :-1], information[:, -1]

    def solve(self, projected: Tensor, num_rounds: int = 3) -> Tensor:
        """Simplex-constrained generalised least squares, its covariance at the previous round's a: (P, T, N)."""
        if self.drowns_noise():
            return self.in_double().solve(projected.double(), num_rounds).to(projected)
        shape = (-1, *projected.shape[1:])
        direct = self._direct(projected)
        gram = self.gram.expand(*self.gram.shape[:2], *direct.shape[1:])
        abundances = simplex_columns(gram.flatten(2), direct.flatten(1))
        for _ in range(num_rounds):
            gram, direct = self.information(projected, abundances.reshape(shape))
            abundances = simplex_columns(gram.flatten(2), direct.flatten(1), abundances)
        return abundances.reshape(shape)

    def _direct(self, projected: Tensor) -> Tensor:
        """``M'y``, shape (P, T, N)."""
        return apply(self.combine.transpose(0, 1), projected)
