"""Non-negative least squares, exact and for many spectra at once, by an active-set method."""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-12  # of the mean diagonal of G: spectra that are alike
_TOLERANCE = 1e-9  # of the largest linear term: a gain that is none
_ROUNDS = 5  # per unknown, at most


def nonnegative_quadratic(gram: Tensor, linear: Tensor) -> Tensor:
    """Exact minimiser of ``1/2 a'Ga - b'a`` with ``a >= 0``, per row.

    The method of Lawson and Hanson for all rows at once: every round frees the unknown whose entry gains most, solves
    for the free ones, and steps back to where one of them reaches zero, which is bound again. The systems are as large
    as the most free unknowns, so that a few of many are cheap.

    Parameters
    ----------
    gram : Tensor, shape (S, S)
        Symmetric positive semi-definite.
    linear : Tensor, shape (N, S)

    Returns
    -------
    Tensor, shape (N, S)

    References
    ----------
    Lawson, Hanson, "Solving Least Squares Problems", 1974, algorithm NNLS of ch. 23.
    """
    gram = gram + _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution, free = torch.zeros_like(linear), torch.zeros_like(linear, dtype=torch.bool)
    least = _TOLERANCE * linear.abs().amax(-1)
    todo = torch.arange(len(linear))
    for _ in range(_ROUNDS * len(gram)):
        gain = (linear[todo] - solution[todo] @ gram).masked_fill(free[todo], -torch.inf)
        best, enters = gain.max(-1)
        gains = best > least[todo]
        todo, enters = todo[gains], enters[gains]
        if not len(todo):
            break
        free[todo, enters] = True
        solution[todo], free[todo] = _fitted(gram, linear[todo], solution[todo], free[todo])
    return solution


def _fitted(gram: Tensor, linear: Tensor, a: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The solution on the free unknowns (N, S), after those that it would take below zero are bound."""
    todo = torch.arange(len(a))
    for _ in range(len(gram)):
        now, mask = a[todo], free[todo]
        target = _on_support(gram, linear[todo], mask)
        falling = mask & (target <= 0)
        tiny = torch.finfo(now.dtype).tiny
        ratio = (now / (now - target).clamp(min=tiny)).masked_fill(~falling, torch.inf)
        step = ratio.amin(-1, keepdim=True)
        feasible = ~falling.any(-1, keepdim=True)
        moved = torch.where(feasible, target, now + step.clamp(max=1) * (target - now))
        bound = falling & (ratio <= step)
        a[todo], free[todo] = moved.masked_fill(bound, 0), mask & ~bound
        todo = todo[~feasible.squeeze(-1)]
        if not len(todo):
            break
    return a, free


def _on_support(gram: Tensor, linear: Tensor, free: Tensor) -> Tensor:
    """``G_ff^-1 b_f`` on the free unknowns of each row, zero elsewhere: (N, S)."""
    most = int(free.sum(-1).max())
    places = free.to(torch.int8).topk(most, dim=-1).indices
    used = free.gather(1, places).to(gram.dtype)
    part = gram[places.unsqueeze(2), places.unsqueeze(1)] * used.unsqueeze(2) * used.unsqueeze(1)
    part.diagonal(dim1=1, dim2=2).add_(1 - used)
    found = torch.linalg.solve(part, linear.gather(1, places) * used)
    return torch.zeros_like(linear).scatter_(1, places, found * used)
