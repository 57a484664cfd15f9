"""The mode of a smooth field of variability and of the endmembers, abundances projected out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_unmix.bases.linear import Basis
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.ops.solvers import simplex_quadratic
from pyro_unmix.priors import SmoothVariability

_CG_ITERATIONS = 30
_CG_TOLERANCE = 1e-4
_NUM_SPECTRA = 4000  # behind a step of the endmembers
_DAMPING = 1e-2  # of that step, relative to the diagonal
_LARGEST_CHANGE = 4.0  # of a variance in one round
_ON_FACE = 1e-6  # abundances below are on the border of the simplex
_BLOCK = 500


@dataclass
class FitState:
    """Everything of one round; N pixel-dates, date outer."""

    endmembers: Tensor  # (L, P)
    innovations: Tensor  # (T J K P,)
    abundances: Tensor = field(default_factory=lambda: torch.empty(0))  # (N, P)
    misfit: float = float("nan")  # sum of squared residuals


class SmoothFit:
    """Mode of field and endmembers with the abundances solved for, by Gauss-Newton steps.

    Minimises over the innovations z of `SmoothVariability` and over M0 ::

        sum_nt min_a ||y_nt - (M0 + sum_k F_k diag(psi_nt,k)) a||^2 / (2 sigma^2) + ||z||^2 / 2,   psi = s f(z)

    The abundances are projected out: the curvature in psi is that of the residuals' part that no change of a within
    the face of the simplex takes up (Golub, Pereyra, "The differentiation of pseudo-inverses and nonlinear least
    squares problems whose variables separate", SIAM J. Numer. Anal. 10, 1973). A step in z is solved for by conjugate
    gradients. The step of M0 also has the slope of ``sum 1/2 log det(M'M)`` over the faces, which is what integrating
    a flat density of a over the simplex adds: without it the simplex of the endmembers grows. The variances s^2
    follow MacKay's rule ``sum z^2 / (effective number of z)``, the latter by a random probe (Hutchinson).
    """

    def __init__(
        self, cubes: xr.DataArray, basis: Basis, noise_scale: float, prior: SmoothVariability
    ) -> None:
        pixels, valid = to_pixels(cubes)
        self.shape = (pixels.shape[1], pixels.shape[0])  # T, pixels
        flat = np.where(valid[..., None], pixels, 0.0).swapaxes(0, 1)
        self.pixels = torch.from_numpy(flat.reshape(-1, pixels.shape[-1]).astype(np.float64))
        self.valid = torch.from_numpy(valid.T.reshape(-1).copy())
        self.energy = float(self.pixels.square().sum())
        self.basis, self.variance, self.prior = basis, noise_scale**2, prior
        self.num_components = basis.num_components
        self.num_effective = 0.0  # innovations that the images determine

    def with_prior(self, prior: SmoothVariability) -> SmoothFit:
        """The same images under another prior."""
        other = copy.copy(self)
        other.prior = prior
        return other

    # ---------------------------------------------------------------- linear maps of the field

    def spread(self, innovations: Tensor) -> Tensor:
        """psi (N, K P) of innovations."""
        values = self.prior.offsets(innovations, None)  # (pixels, T, K P)
        return values.transpose(0, 1).flatten(0, 1)

    def gather(self, values: Tensor) -> Tensor:
        """The transpose of `spread`."""
        zeros = values.new_zeros(self.prior.num_innovations).requires_grad_()
        with torch.enable_grad():
            spread = self.spread(zeros)
        return torch.autograd.grad(spread, zeros, values)[0]

    # ---------------------------------------------------------------- one round

    def mixing(self, state: FitState, psi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gram matrix (Q, Q), ``design'y`` (N, Q), and ``design'M_n`` (N, Q, P), ``M_n'M_n`` (N, P, P)."""
        endmembers = state.endmembers
        p = endmembers.shape[1]
        design = design_matrix(endmembers, self.basis.components(endmembers))
        gram = design.mT @ design
        weights = torch.cat([torch.ones_like(psi[:, :p]), psi], dim=1)
        combine = weights.unflatten(1, (-1, p)).unsqueeze(-1) * torch.eye(p, dtype=psi.dtype)
        combine = combine.flatten(1, 2)  # design @ combine = M_n
        cross = gram @ combine
        return gram, self.pixels @ design, cross, combine.mT @ cross

    def project(self, state: FitState) -> tuple[Tensor, ...]:
        """Solve for the abundances; returns psi and `mixing`."""
        psi = self.spread(state.innovations)
        gram, moments, cross, square = self.mixing(state, psi)
        p = square.shape[-1]
        weights = torch.cat([torch.ones_like(psi[:, :p]), psi], dim=1)
        linear = (weights * moments).unflatten(1, (-1, p)).sum(1)
        state.abundances = simplex_quadratic(square, linear) * self.valid.unsqueeze(-1)
        quadratic = (state.abundances.unsqueeze(-2) @ square @ state.abundances.unsqueeze(-1)).sum()
        state.misfit = self.energy - float(2 * (linear * state.abundances).sum() - quadratic)
        return psi, gram, moments, cross, square

    def objective(self, state: FitState) -> float:
        squares = float(state.innovations.square().sum())
        return 0.5 * (state.misfit / self.variance + squares)

    def step_field(self, state: FitState, *, learn_scales: bool) -> None:
        """A Gauss-Newton step of the innovations, and of their scales."""
        psi, gram, moments, cross, square = self.project(state)
        p = square.shape[-1]
        a = state.abundances
        e = tile_components(a, self.num_components)
        tangent = _tangent(a)
        mixed = e.unsqueeze(-1) * (cross[:, p:] @ tangent)
        taken = torch.linalg.solve(_ridged(tangent @ square @ tangent), mixed.mT)
        shared = gram[p:, p:] / self.variance
        mixed = mixed / self.variance

        def curvature(values: Tensor) -> Tensor:
            explained = mixed @ (taken @ values.unsqueeze(-1))
            return e * ((e * values) @ shared) - explained.squeeze(-1)

        residual = moments[:, p:] - (cross[:, p:] @ a.unsqueeze(-1)).squeeze(-1)
        pull = e * residual / self.variance + curvature(psi)

        def operator(z: Tensor) -> Tensor:
            return z + self.gather(curvature(self.spread(z)))

        state.innovations = conjugate_gradients(operator, self.gather(pull), state.innovations)
        if learn_scales:
            self.learn_scales(state, operator)

    def spreads(self, state: FitState) -> Tensor:
        """Standard deviations of independent Gaussians nearest the posterior of the innovations, M0 and a given.

        The inverse roots of the precision's diagonal (Kullback-Leibler divergence from the approximation).
        """
        square = self.project(state)[1]
        p = state.abundances.shape[1]
        e = tile_components(state.abundances, self.num_components)
        information = e.square() * square[p:, p:].diagonal() / self.variance
        if self.prior.has_light:
            light = (e[:, :p] @ square[p : 2 * p, p : 2 * p] * e[:, :p]).sum(-1, keepdim=True)
            information = torch.cat([information, light / self.variance], dim=1)
        prior = self.prior
        information = information.view(self.shape[0], prior.height, prior.width, -1)
        factors = [m.square() for m in (prior.memory(), prior.rows, prior.columns)]
        precision = torch.einsum("ts,yi,xj,tyxk->sijk", *factors, information)
        return (1 + precision * (2 * prior.log_scales()).exp()).rsqrt().flatten()

    def learn_scales(self, state: FitState, operator: Callable[[Tensor], Tensor]) -> None:
        """MacKay's fixed point of the scales; psi stays as it is."""
        probe = torch.from_numpy(
            np.random.default_rng(0).choice([-1.0, 1.0], size=len(state.innovations))
        )
        solved = conjugate_gradients(operator, probe, torch.zeros_like(probe))
        size = self.prior.log_scales().numel()
        effective = (1 - probe * solved).view(-1, size).sum(0)
        self.num_effective = float(effective.sum().clamp(min=0.0))
        squares = state.innovations.square().view(-1, size).sum(0)
        factor = (squares / effective.clamp(min=1.0)).clamp(1 / _LARGEST_CHANGE, _LARGEST_CHANGE)
        self.prior.rescale(0.5 * factor.log())
        state.innovations = (state.innovations.view(-1, size) / factor.sqrt()).flatten()

    def step_endmembers(self, state: FitState, seed: int) -> None:
        """A damped Gauss-Newton step of M0, abundances projected out, on a random part of the pixel-dates."""
        psi = self.project(state)[0]
        num_bands, p = state.endmembers.shape
        observed = np.flatnonzero(self.valid.numpy())
        chosen = np.random.default_rng(seed).permutation(observed)[:_NUM_SPECTRA]
        scale = len(observed) / len(chosen) / self.variance
        relative = self.basis.components(torch.ones_like(state.endmembers))
        hessian = psi.new_zeros(num_bands * p, num_bands * p)
        blocks = psi.new_zeros(num_bands, p, p)
        slope = psi.new_zeros(num_bands, p)
        for part in torch.from_numpy(chosen).split(_BLOCK):
            a = state.abundances[part]
            scaling = 1 + torch.einsum("lkp,nkp->nlp", relative, psi[part].unflatten(1, (-1, p)))
            varied = state.endmembers * scaling
            features = scaling * a.unsqueeze(1)
            residual = self.pixels[part] - (varied @ a.unsqueeze(-1)).squeeze(-1)
            moved = varied @ _tangent(a)
            factor = torch.linalg.cholesky(_ridged(moved.mT @ moved))
            whitened = torch.linalg.solve_triangular(factor, moved.mT, upper=False).mT
            outer = torch.einsum("nlp,nlq->lpnq", features, whitened).reshape(num_bands * p, -1)
            hessian -= outer @ outer.mT
            blocks += torch.einsum("nlp,nlq->lpq", features, features)
            slope += torch.einsum("nlp,nl->lp", features, residual)
            inverse = torch.linalg.solve_triangular(factor.mT, whitened.mT, upper=True).mT
            slope -= self.variance * (scaling * (inverse @ _tangent(a))).sum(0)
        bands = torch.arange(num_bands)
        hessian.view(num_bands, p, num_bands, p)[bands, :, bands, :] += blocks
        diagonal = hessian.diagonal()
        diagonal += _DAMPING * diagonal.abs() + 1e-9 * diagonal.abs().mean()
        step = torch.linalg.solve(scale * hessian, scale * slope.flatten())
        # Reflectance stays positive: half the way to zero, at most.
        moved = state.endmembers + step.unflatten(0, (num_bands, p))
        state.endmembers = torch.maximum(moved, 0.5 * state.endmembers)

    def begin(self, endmembers: Tensor) -> FitState:
        """The state of no field."""
        return FitState(endmembers.clone(), endmembers.new_zeros(self.prior.num_innovations))

    def run(
        self,
        state: FitState,
        rounds: int,
        train_endmembers: bool,
        *,
        learn_scales: bool,
        seed: int,
        advance: Callable[[], object] | None = None,
    ) -> None:
        """Rounds of all steps; the noise is learned with the scales."""
        for number in range(rounds):
            self.step_field(state, learn_scales=learn_scales)
            # Endmembers wait for a field, lest they explain what is its.
            if train_endmembers and bool(state.innovations.any()):
                self.step_endmembers(state, seed + number)
            if learn_scales:
                self.project(state)
                count = float(self.valid.sum()) * (len(state.endmembers) + 1)
                count -= int((state.abundances > _ON_FACE).sum()) + self.num_effective
                self.variance = max(state.misfit / max(count, 1), 1e-12)
            if advance is not None:
                advance()
        self.project(state)


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], right: Tensor, start: Tensor
) -> Tensor:
    """Approximate solution of ``operator(x) = right``, symmetric positive definite."""
    solution = start.clone()
    residual = right - operator(solution)
    direction, square = residual.clone(), residual.square().sum()
    enough = _CG_TOLERANCE**2 * right.square().sum()
    for _ in range(_CG_ITERATIONS):
        if square <= enough:
            break
        moved = operator(direction)
        length = square / (direction * moved).sum()
        solution = solution + length * direction
        residual = residual - length * moved
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return solution


def _tangent(abundances: Tensor) -> Tensor:
    """Projection (N, P, P) onto the changes of a that stay on its face of the simplex."""
    free = (abundances > _ON_FACE).to(abundances.dtype)
    count = free.sum(-1, keepdim=True).clamp(min=1).unsqueeze(-1)
    return torch.diag_embed(free) - free.unsqueeze(-1) * free.unsqueeze(-2) / count


def _ridged(matrix: Tensor) -> Tensor:
    """Singular matrices made regular, in directions that are projected out anyway: all, where all are at corners."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    size = matrix.diagonal(dim1=-2, dim2=-1).mean()
    return matrix + torch.where(size > 0, 1e-9 * size, 1.0) * eye
