"""Gaussian smoothing of softmax states between a random walk and Gaussian sites, for many pixels at once.

Tensors have their matrix axes first, then the dates, then the pixels (see `small_matrices`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.ops.small_matrices import apply, inverse, multiply

#: Gains G_t (D, D, T, B), covariance of x_0 (D, D, B) and the information vectors h_t (D, T+1, B) of dates t..T.
Conditionals = tuple[Tensor, Tensor, Tensor]


def conditionals(
    curvature: Tensor, pull: Tensor, step_variance: Tensor, initial_precision: Tensor
) -> Conditionals:
    """What ``x_t | x_{t-1}, y_t .. y_T`` of a Gaussian random walk is made of.

    With the information J_t, h_t that dates t..T hold about the state at t::

        G_t = (I + s_t^2 J_t)^-1,   J_{t-1} = Lambda_{t-1} + G_t J_t,   h_{t-1} = eta_{t-1} + G_t h_t

    and ``x_t | x_{t-1}, y ~ N(G_t (x_{t-1} + s_t^2 h_t), s_t^2 G_t)``; no singular J_t is inverted, and a step of no
    length leaves the state exactly as it was. ``x_0 | y ~ N(V_0 (D nu + h_0), V_0)``, ``V_0 = (J_0 + D)^-1``, with the
    prior's mean nu and precision D.

    Parameters
    ----------
    curvature : Tensor, shape (D, D, T, B)
        Lambda_t; singular directions are welcome.
    pull : Tensor, shape (D, T, B)
        eta_t, ``Lambda_t`` times the mode.
    step_variance : Tensor, shape (T, B)
        s_t^2, of the step from t-1 to t.
    initial_precision : Tensor, shape (D,)
        Of the prior of x_0.

    Returns
    -------
    tuple of Tensor
        G_t for t = 1..T, V_0, and h_t for t = 0..T.
    """
    num_dates = pull.shape[1]
    information, vector = curvature[:, :, -1], pull[:, -1]
    gains, vectors = [], [vector]
    for t in range(num_dates, 0, -1):
        gain = inverse(_plus(step_variance[t - 1] * information, 1.0))
        gains.append(gain)
        passed = multiply(gain, information)
        information, vector = (passed + passed.transpose(0, 1)).mul_(0.5), apply(gain, vector)
        if t > 1:
            information += curvature[:, :, t - 2]
            vector += pull[:, t - 2]
        vectors.append(vector)
    first = inverse(_plus(information, initial_precision))
    return torch.stack(gains[::-1], dim=2), first, torch.stack(vectors[::-1], dim=1)


def _plus(matrix: Tensor, diagonal: Tensor | float) -> Tensor:
    """Add to the diagonal of a matrix (D, D, B), in place."""
    matrix.diagonal(dim1=0, dim2=1).add_(diagonal)
    return matrix


def smooth(
    filtered: Conditionals, step_variance: Tensor, initial_loc: Tensor, initial_precision: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means and covariances, and each step's expected squared length per coordinate.

    Parameters
    ----------
    filtered : tuple
        Of `conditionals`.
    step_variance : Tensor, shape (T, B)
    initial_loc, initial_precision : Tensor, shape (D,)

    Returns
    -------
    tuple of Tensor
        Means (D, T+1, B), covariances (D, D, T+1, B) and ``E ||x_t - x_{t-1}||^2 / D`` (T, B).
    """
    gains, marginal, vectors = filtered
    size = len(vectors)
    pulled = (initial_precision * initial_loc).unsqueeze(-1)
    loc = apply(marginal, pulled + vectors[:, 0])
    locs, marginals, squares = [loc], [marginal], []
    for t in range(1, vectors.shape[1]):
        gain, variance = gains[:, :, t - 1], step_variance[t - 1]
        noise = variance * gain
        following = apply(gain, loc) + apply(noise, vectors[:, t])
        # x_t - x_{t-1} = (G - I) x_{t-1} + offset + noise
        change = _plus(gain.clone(), -1.0)
        passed = multiply(change, marginal)
        spread = (passed * change).sum((0, 1)) + noise.diagonal(dim1=0, dim2=1).sum(-1)
        squares.append(((following - loc).square().sum(0) + spread) / size)
        marginal = multiply(passed + marginal, gain.transpose(0, 1)) + noise
        loc = following
        locs.append(loc)
        marginals.append(marginal)
    return torch.stack(locs, dim=1), torch.stack(marginals, dim=2), torch.stack(squares)
