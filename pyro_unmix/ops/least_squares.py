"""Least squares of many spectra by one set of others, with or without constraints on the fractions and their sum.

All of it from Gram matrices, ``1/2 a'Ga - b'a`` with ``G = E'E`` and ``b = E'y``. A sum of at most one is the simplex
with one more, dark, material.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_unmix.ops.checks import true_or_false
from pyro_unmix.ops.nonnegative import nonnegative_quadratic
from pyro_unmix.ops.solvers import simplex_quadratic


@dataclass(frozen=True)
class Fractions:
    """What is asked of fractions.

    Attributes
    ----------
    sum_to_one : bool
        The fractions of a spectrum sum to one.
    non_negative : bool
        None is below zero.
    shade : bool
        What they lack of one is shade, a material without light: they sum to one at most. Not without `sum_to_one`.

    Raises
    ------
    TypeError, ValueError
        If one is neither True nor False, or a sum of at most one is asked for together with a free one.
    """

    sum_to_one: bool = True
    non_negative: bool = True
    shade: bool = False

    def __post_init__(self) -> None:
        for name in ("sum_to_one", "non_negative", "shade"):
            true_or_false(getattr(self, name), name)
        if self.shade and not self.sum_to_one:
            raise ValueError(
                "shade=True asks for fractions that sum to one at most, sum_to_one=False for a free sum: pass one of "
                "them only"
            )


def least_squares(spectra: Tensor, members: Tensor, how: Fractions) -> Tensor:
    """``min_a ||y - E a||^2`` under what is asked of the fractions.

    Parameters
    ----------
    spectra : Tensor (N, L)
    members : Tensor (L, S)
    how : Fractions

    Returns
    -------
    Tensor (N, S)
    """
    gram, linear = members.mT @ members, spectra @ members
    if how.non_negative:
        if how.shade:
            return capped_quadratic(gram, linear)
        if how.sum_to_one:
            return simplex_quadratic(gram, linear)
        return nonnegative_quadratic(gram, linear)
    ridge = 1e-12 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    free = torch.linalg.solve(gram + ridge, linear.mT).mT
    if not how.sum_to_one and not how.shade:
        return free
    # Lagrange: a = G^-1 (b + lambda 1), lambda from 1'a = 1
    ones = torch.linalg.solve(gram + ridge, torch.ones_like(gram[:, 0]))
    lack = 1 - free.sum(-1, keepdim=True)
    if how.shade:
        lack = lack.clamp(max=0)  # only what sums to more than one is brought back
    return free + lack / ones.sum() * ones


def capped_quadratic(gram: Tensor, linear: Tensor) -> Tensor:
    """Minimiser of ``1/2 a'Ga - b'a`` with ``a >= 0`` and ``1'a <= 1``; G (S, S), b (N, S)."""
    size = len(gram)
    padded = gram.new_zeros(size + 1, size + 1)
    padded[:size, :size] = gram
    with_shade = torch.cat([linear, torch.zeros_like(linear[:, :1])], dim=1)
    return simplex_quadratic(padded, with_shade)[:, :size]
