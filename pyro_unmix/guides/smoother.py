"""Gaussian smoothing of one pixel's softmax states between a random walk and Laplace approximations."""

from __future__ import annotations

import torch
from torch import Tensor


def backward_messages(curvature: Tensor, pull: Tensor, step_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Information that dates t..T hold about the state at t, of a Gaussian random walk.

    ``J_t = Lambda_t + (I + s_{t+1}^2 J_{t+1})^-1 J_{t+1}``, and likewise for h: no inverse of a singular matrix.

    Parameters
    ----------
    curvature : Tensor, shape (B, T, D, D)
        Lambda_t; singular directions are welcome.
    pull : Tensor, shape (B, T, D)
        ``Lambda_t`` times the mode.
    step_scale : Tensor, shape (B, T)
        s_t, of the step from t-1 to t.

    Returns
    -------
    tuple of Tensor
        J (B, T+1, D, D) and h (B, T+1, D) for t = 0..T; t = 0 has no observation.
    """
    num_dates, size = pull.shape[-2:]
    eye = torch.eye(size, dtype=pull.dtype, device=pull.device)
    information, vectors = [curvature[:, -1]], [pull[:, -1]]
    for t in range(num_dates - 1, -1, -1):
        j, h = information[-1], vectors[-1]
        spread = step_scale[:, t].square()[:, None, None]
        passed = torch.linalg.solve(eye + spread * j, torch.cat([j, h.unsqueeze(-1)], dim=-1))
        j, h = 0.5 * (passed[..., :-1] + passed[..., :-1].mT), passed[..., -1]
        if t:
            j, h = j + curvature[:, t - 1], h + pull[:, t - 1]
        information.append(j)
        vectors.append(h)
    return torch.stack(information[::-1], dim=1), torch.stack(vectors[::-1], dim=1)


def smooth(
    messages: tuple[Tensor, Tensor],
    step_scale: Tensor,
    initial_loc: Tensor,
    initial_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed means and covariances, and each step's expected squared length per coordinate.

    Parameters
    ----------
    messages : tuple
        Of `backward_messages`.
    step_scale : Tensor, shape (B, T)
    initial_loc, initial_scale : Tensor, shape (D,)

    Returns
    -------
    tuple of Tensor
        Means (B, T+1, D), covariances (B, T+1, D, D) and ``E ||x_t - x_{t-1}||^2 / D`` (B, T).
    """
    information, vectors = messages
    size = vectors.shape[-1]
    weights = torch.cat(
        [
            initial_scale.pow(-2).expand(len(vectors), 1, size),
            step_scale.pow(-2).unsqueeze(-1).expand(*step_scale.shape, size),
        ],
        dim=1,
    )
    covariance = torch.linalg.inv(information + torch.diag_embed(weights))
    loc = (covariance[:, 0] @ (weights[:, 0] * initial_loc + vectors[:, 0]).unsqueeze(-1)).squeeze(
        -1
    )
    marginal = covariance[:, 0]
    locs, marginals, squares = [loc], [marginal], []
    for t in range(1, weights.shape[1]):
        gain = covariance[:, t] * weights[:, t, None, :]
        following = (covariance[:, t] @ vectors[:, t].unsqueeze(-1)).squeeze(-1)
        following = following + (gain @ loc.unsqueeze(-1)).squeeze(-1)
        # x_t - x_{t-1} = (G - I) x_{t-1} + offset + noise
        change = gain - torch.eye(size, dtype=gain.dtype, device=gain.device)
        spread = change @ marginal @ change.mT + covariance[:, t]
        moved = (following - loc).square().sum(-1) + spread.diagonal(dim1=-2, dim2=-1).sum(-1)
        squares.append(moved / size)
        marginal = gain @ marginal @ gain.mT + covariance[:, t]
        loc = following
        locs.append(loc)
        marginals.append(marginal)
    return torch.stack(locs, dim=1), torch.stack(marginals, dim=1), torch.stack(squares, dim=1)
