"""Algebra of many small matrices at once: the axes of the matrices first, the batch after them.

torch's batched linear algebra calls LAPACK once per matrix, which takes longer than the arithmetic where matrices have
a few rows. Here every operation is one of whole batches, in a loop over rows. A matrix's result depends on no other
matrix: operations are elementwise along the batch, but for `positive_part`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 8  # that are updated together
_SPECTRA = 512  # that are in double precision at a time


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """``left right``, of shapes (I, J, ...) and (J, K, ...): (I, K, ...)."""
    product = left[:, 0, None] * right[0]
    for j in range(1, len(right)):
        product.addcmul_(left[:, j, None], right[j])
    return product


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix vector``, of shapes (I, J, ...) and (J, ...): (I, ...)."""
    product = matrix[:, 0] * vector[0]
    for j in range(1, len(vector)):
        product.addcmul_(matrix[:, j], vector[j])
    return product


def eliminate(matrix: Tensor, count: int) -> Tensor:
    """Schur complement of the first `count` rows and columns, which are to be positive definite, **in place**.

    ``D - B' A^-1 C`` of ``[[A, C], [B', D]]``, by Gaussian elimination without pivoting. Rows are to be those of a
    symmetric matrix, with or without further columns; nothing below the diagonal of A is read. Afterwards the rows of A
    are those of an upper triangular system.

    Parameters
    ----------
    matrix : Tensor, shape (I, J, ...), I <= J
    count : int

    Returns
    -------
    Tensor, shape (I - count, J - count, ...)
        A view of `matrix`; below its diagonal stands anything, which saves a third of the time.
    """
    size = len(matrix)
    for k in range(count):
        row = matrix[k, k + 1 :]
        left = row[: size - k - 1] / matrix[k, k]
        for i in range(0, len(left), _ROWS):
            rest = matrix[k + 1 + i : k + 1 + i + _ROWS, k + 1 + i :]
            rest.addcmul_(left[i : i + _ROWS, None], row[i:], value=-1)
    return matrix[count:, count:]


def solve(matrix: Tensor, right: Tensor, smallest: float = 0.0) -> Tensor:
    """``matrix^-1 right`` of positive definite matrices, pivots held at `smallest` or above.

    Parameters
    ----------
    matrix : Tensor, shape (I, I, ...)
    right : Tensor, shape (I, J, ...)

    Returns
    -------
    Tensor, shape (I, J, ...)
    """
    size = len(matrix)
    both = torch.cat([matrix, right], dim=1)
    if smallest:
        both[0, 0].clamp_(min=smallest)
    for k in range(size - 1):
        row = both[k, k + 1 :]
        left = row[: size - k - 1] / both[k, k]
        both[k + 1 :, k + 1 :].addcmul_(left[:, None], row, value=-1)
        if smallest:
            both[k + 1, k + 1].clamp_(min=smallest)
    solution = both[:, size:]
    for k in range(size - 1, -1, -1):
        solution[k] /= both[k, k]
        if k:
            solution[:k].addcmul_(both[:k, k, None], solution[k], value=-1)
    return solution


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of positive definite matrices, shape (I, I, ...), by sweeping every row."""
    swept = matrix.clone()
    for k in range(len(matrix)):
        old = swept[k].clone()
        row = old / old[k]
        swept.addcmul_(old[:, None], row, value=-1)
        row[k] = -old[k].reciprocal()
        swept[k] = row
        swept[:, k] = row
    return swept.neg_()


def cholesky(matrix: Tensor) -> Tensor:
    """Lower-triangular C of ``C C' = matrix``, (I, I, ...); where rounding left no positive pivot, a column is 0."""
    rest, factor = matrix.clone(), torch.zeros_like(matrix)
    for k in range(len(matrix)):
        pivot = rest[k, k]
        column = rest[k:, k] * torch.where(pivot > 0, pivot, torch.inf).rsqrt()
        factor[k:, k] = column
        rest[k:, k:].addcmul_(column[:, None], column, value=-1)
    return factor


def positive_part(matrix: Tensor) -> Tensor:
    """The nearest positive semi-definite matrices to symmetric ones, (I, I, ...): eigenvalues below 0 become 0."""
    values, vectors = torch.linalg.eigh(matrix.movedim((0, 1), (-2, -1)))
    values, vectors = values.movedim(-1, 0), vectors.movedim((-2, -1), (0, 1)).contiguous()
    return multiply(vectors * values.clamp(min=0), vectors.transpose(0, 1))


def project(pixels: Tensor, design: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``design'y``, computed in double precision: what follows enlarges its rounding.

    Some spectra at a time, so that those in double stay in the cache; by columns, which takes BLAS half the time that
    rows of so few numbers take.

    Parameters
    ----------
    pixels : Tensor, shape (B, T, L)
    design : Tensor, shape (L, Q)
    dtype : optional
        Of the result; default that of `pixels`.

    Returns
    -------
    Tensor, shape (Q, T, B)
    """
    batch, num_dates, _ = pixels.shape
    rows = design.mT.double().contiguous()
    projected = pixels.new_empty(len(rows), num_dates, batch, dtype=dtype or pixels.dtype)
    for t in range(num_dates):
        for start in range(0, batch, _SPECTRA):
            part = slice(start, start + _SPECTRA)
            projected[:, t, part] = rows @ pixels[part, t].double().mT
    return projected
