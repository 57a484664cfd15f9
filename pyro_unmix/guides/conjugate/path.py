"""Gaussian approximations of what each date says about softmax states, along a smoothed path.

Tensors have their matrix axes first, then the dates, then the pixels (see `small_matrices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.guides.conjugate.smoother import conditionals, smooth
from pyro_unmix.ops.simplex import to_softmax_basis
from pyro_unmix.ops.small_matrices import apply, cholesky, multiply, positive_part
from pyro_unmix.ops.solvers import MarginalDates, onto_plane, simplex_plane, simplex_scale

_NUM_SWEEPS = 3  # times the marginal covariance is taken at new abundances
_NUM_LAPLACE = 4  # Gauss-Newton rounds that start the path
_NUM_VARIATIONAL = 5  # natural-gradient rounds per sweep
_STEP = 0.5  # of the natural gradient
_NUM_POINTS = 8  # draws behind its expectations
_LONGEST = 0.5  # largest change of a state in one round
_ROUND = 64

Sites = tuple[Tensor, Tensor]
#: ``step_variance(path (P, T+1, B), mean_square (T, B))`` is s_t^2 of the Gaussian walk that stands in, (T, B).
StepVariance = Callable[[Tensor, Tensor], Tensor]


class Path:
    """States 0..T of pixels, smoothed between Gaussian sites; each call moves them.

    Parameters
    ----------
    states : Tensor, shape (P, T+1, B)
        The start.
    step_variance : callable
    initial_loc, initial_precision : Tensor, shape (P,)
        Of the prior of the first state.
    """

    def __init__(
        self,
        states: Tensor,
        step_variance: StepVariance,
        initial_loc: Tensor,
        initial_precision: Tensor,
    ) -> None:
        self.states = states
        self.mean_square = torch.zeros_like(states[0, 1:])
        self._step_variance = step_variance
        self._initial = initial_loc, initial_precision

    def smooth(self, sites: Sites) -> None:
        """Smooth between the sites; a state moves by at most `_LONGEST`."""
        variances = self._step_variance(self.states, self.mean_square)
        filtered = conditionals(*sites, variances, self._initial[1])
        target, self.covariance, self.mean_square = smooth(filtered, variances, *self._initial)
        step = target - self.states
        longest = step.abs().amax(0).clamp(min=_LONGEST)
        self.states = torch.addcdiv(self.states, step, longest, value=_LONGEST)


def find_sites(
    dates: MarginalDates,
    projected: Tensor,
    valid: Tensor,
    start: Callable[[Tensor], Path],
) -> tuple[Sites, Path]:
    """Sites ``(Lambda_t, eta_t)`` of every date, and the path that they make.

    A few Gauss-Newton rounds find the path; then each site follows the natural gradient of the ELBO.

    Parameters
    ----------
    dates : MarginalDates
    projected : Tensor, shape (Q, T, B)
        ``design'y``.
    valid : Tensor of bool, shape (T, B)
    start : callable
        Makes the path of its first states (P, T+1, B).

    Returns
    -------
    tuple
        Lambda (P, P, T, B) and eta (P, T, B), zero where not valid; the path.
    """
    abundances = dates.solve(projected)
    gram, moment = _information(dates, projected, abundances, valid)
    floor = simplex_scale(gram).clamp(max=1 / len(abundances))
    path = start(_start_states(abundances, floor, valid))
    for _ in range(_NUM_LAPLACE):
        sites = _laplace(gram, moment, path.states[:, 1:], floor)
        path.smooth(sites)
    for _ in range(_NUM_SWEEPS):
        abundances = softmax(path.states[:, 1:])
        gram, moment = _information(dates, projected, abundances, valid)
        for _ in range(_NUM_VARIATIONAL):
            target = _expected_laplace(gram, moment, path.states[:, 1:], path.covariance[:, :, 1:])
            sites = sites[0].lerp(target[0], _STEP), sites[1].lerp(target[1], _STEP)
            path.smooth(sites)
    return sites, path


def softmax(states: Tensor) -> Tensor:
    """Softmax over the first axis; unlike torch's, the same whatever the length of the others."""
    return _softmax_(states.clone())


def _softmax_(states: Tensor) -> Tensor:
    """`softmax` in place."""
    weights = states.sub_(states.amax(0)).exp_()
    return weights.div_(weights.sum(0))


def _information(
    dates: MarginalDates, projected: Tensor, abundances: Tensor, valid: Tensor
) -> Sites:
    """Curvature and linear term of every date's likelihood in a; zero where missing."""
    gram, moment = dates.information(projected, abundances)
    return gram * valid, moment * valid


def _start_states(abundances: Tensor, floor: Tensor, valid: Tensor) -> Tensor:
    """States 0..T at the floored solution; missing dates take the pixel's mean state."""
    inside = torch.maximum(abundances, floor)
    states = to_softmax_basis(inside.movedim(0, -1)).movedim(-1, 0) * valid
    mean = states.sum(1, keepdim=True) / valid.sum(0).clamp(min=1)
    states = torch.where(valid, states, mean)
    return torch.cat([states[:, :1], states], dim=1)


def _laplace(gram: Tensor, moment: Tensor, states: Tensor, floor: Tensor) -> Sites:
    """Gaussian approximation in the softmax basis of ``exp(moment'a - a'Gram a / 2)``.

    With ``D = diag(a) - a a'`` the curvature is ``D Gram D`` and the slope ``D (moment - Gram a)``. Near a corner the
    softmax is flat, so that value and slope are taken where every abundance is at least its posterior std.
    """
    a = torch.maximum(softmax(states), floor)
    a = a / a.sum(0)
    b = apply(gram, a)
    q = (a * b).sum(0)
    curvature = (gram - b[:, None] - b + q) * (a[:, None] * a)
    residual = moment - b
    slope = a * (residual - (a * residual).sum(0))
    mode = a.log()
    return curvature, slope + apply(curvature, mode - mode.mean(0))


def _expected_laplace(gram: Tensor, moment: Tensor, loc: Tensor, covariance: Tensor) -> Sites:
    """`_laplace` with slope and curvature averaged over ``c ~ N(loc, covariance)``, full Hessian included.

    With ``b = Gram a``, ``q = a'b``, ``u = moment - b - a'(moment - b)`` and ``s = a * u`` the slope of
    ``moment'a - a'Gram a / 2`` in c is s, and its negative Hessian
    ``a a' * Gram + w a' + a w' - diag(s)`` with ``w = a * (u - b + q / 2)``; its expectation is made positive
    semi-definite. Both vanish along 1.
    """
    size = len(loc)
    half = np.random.default_rng(0).standard_normal((_NUM_POINTS // 2, size))
    spread = covariance.clone()
    spread.diagonal(dim1=0, dim2=1).add_(1e-6)
    noise = torch.from_numpy(half.T.copy()).to(loc)[..., None, None]
    steps = multiply(cholesky(spread), noise)
    loc = loc[:, None]
    points = loc.new_empty(size, _NUM_POINTS, *loc.shape[2:])
    torch.add(loc, steps, out=points[:, : _NUM_POINTS // 2])
    torch.sub(loc, steps, out=points[:, _NUM_POINTS // 2 :])
    a = _softmax_(points)  # (P, points, T, B)
    b = multiply(gram, a)
    half_square = (a * b).sum(0).mul_(0.5)
    u = moment[:, None] - b
    u -= (a * u).sum(0)
    w = torch.sub(u, b, out=b).add_(half_square).mul_(a)
    slope = u.mul_(a).mean(1)
    outer = _outer(a, a)
    cross = _outer(w, a)
    curvature = (gram * outer + cross + cross.transpose(0, 1)) / _NUM_POINTS
    curvature.diagonal(dim1=0, dim2=1).sub_(slope.movedim(0, -1))
    plane = simplex_plane(size).to(loc)
    curvature = onto_plane(positive_part(onto_plane(curvature, plane)), plane.mT)
    return curvature, slope + apply(curvature, loc[:, 0])


def _outer(first: Tensor, second: Tensor) -> Tensor:
    """Sum over the points of ``first second'``, (P, points, ...): (P, P, ...)."""
    total = first[:, None, 0] * second[:, 0]
    for point in range(1, first.shape[1]):
        total.addcmul_(first[:, None, point], second[:, point])
    return total


def blocks(num_pixels: int, num_dates: int, largest: int) -> Iterator[tuple[Tensor, slice]]:
    """Numbers of the pixels of every block of `largest` pixel-dates, and which of them it is for.

    A block is filled up with its last pixel to a round length: the rest of a vector loop may round otherwise than the
    loop, and a pixel's result is not to depend on its place.
    """
    length = max(1, largest // num_dates // _ROUND) * _ROUND
    for start in range(0, num_pixels, length):
        stop = min(start + length, num_pixels)
        end = stop + (start - stop) % _ROUND
        yield torch.arange(start, end).clamp(max=stop - 1), slice(0, stop - start)


def spectra_of(values: Tensor, block: Tensor, wanted: slice) -> Tensor:
    """``values[block]`` of a block of `blocks`, without a copy where it was not filled up."""
    if len(block) > wanted.stop:
        return values[block]
    return values[int(block[0]) : int(block[0]) + len(block)]
