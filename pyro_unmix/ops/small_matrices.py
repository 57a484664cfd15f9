"""Algebra of many small matrices at once: the axes of the matrices first, the batch after them.

torch's batched linear algebra calls LAPACK once per matrix, which takes longer than the arithmetic where matrices have
a few rows. Here every operation is one of whole batches, in a loop over rows. A matrix's result depends on no other
matrix: operations are elementwise along the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST_JACOBI = 3  # rows; beyond, LAPACK takes less time
_LARGEST_BY_ELEMENTS = 6  # rows; their number of operations grows with the third power
_NUM_SWEEPS = 4
_ROWS = 8  # that are updated together
_SPECTRA = 512  # that are in double precision at a time


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """``left right``, of shapes (I, J, ...) and (J, K, ...): (I, K, ...)."""
    product = left[:, 0, None] * right[0]
    for j in range(1, len(right)):
        product.addcmul_(left[:, j, None], right[j])
    return product


def multiply_symmetric(left: Tensor, right: Tensor) -> Tensor:
    """``left right`` of (I, I, ...) twice, where it is known to be symmetric."""
    product = torch.empty_like(right)
    for i in range(0, len(right), _ROWS):
        rows = slice(i, i + _ROWS)
        torch.mul(left[rows, 0, None], right[0, i:], out=product[rows, i:])
        for j in range(1, len(right)):
            product[rows, i:].addcmul_(left[rows, j, None], right[j, i:])
    return _mirrored(product)


def _mirrored(matrix: Tensor) -> Tensor:
    """Fill what lies below the diagonal, in place, as far as `_subtract_outer` leaves it out."""
    for i in range(_ROWS, len(matrix), _ROWS):
        matrix[i:, i - _ROWS : i] = matrix[i - _ROWS : i, i:].transpose(0, 1)
    return matrix


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``matrix vector``, of shapes (I, J, ...) and (J, ...): (I, ...)."""
    product = matrix[:, 0] * vector[0]
    for j in range(1, len(vector)):
        product.addcmul_(matrix[:, j], vector[j])
    return product


def _subtract_outer(matrix: Tensor, left: Tensor, right: Tensor) -> None:
    """``matrix -= left right'`` in place, without most of what lies below the diagonal."""
    for i in range(0, len(left), _ROWS):
        matrix[i : i + _ROWS, i:].addcmul_(left[i : i + _ROWS, None], right[i:], value=-1)


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
        A view of `matrix`; below its diagonal stands anything.
    """
    size = len(matrix)
    for k in range(count):
        row = matrix[k, k + 1 :]
        left = row[: size - k - 1] / matrix[k, k]
        _subtract_outer(matrix[k + 1 :, k + 1 :], left, row)
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
        _subtract_outer(both[k + 1 :, k + 1 :], row[: size - k - 1] / both[k, k], row)
        if smallest:
            both[k + 1, k + 1].clamp_(min=smallest)
    solution = both[:, size:]
    for k in range(size - 1, -1, -1):
        solution[k] /= both[k, k]
        if k:
            solution[:k].addcmul_(both[:k, k, None], solution[k], value=-1)
    return solution


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of positive definite matrices, shape (I, I, ...): element by element, or by sweeping every row."""
    size = len(matrix)
    if size <= _LARGEST_BY_ELEMENTS:
        return _inverse_by_elements(matrix)
    swept = matrix.clone()
    for k in range(size):
        old = torch.cat([swept[:k, k], swept[k, k:]]) if size > _ROWS else swept[k].clone()
        row = old / old[k]
        _subtract_outer(swept, old, row)
        row[k] = -old[k].reciprocal()
        swept[k] = row
        swept[:, k] = row
    return _mirrored(swept).neg_()


def _inverse_by_elements(matrix: Tensor) -> Tensor:
    """`inverse` with an operation per element, on vectors: there are more of them, but each is ten times as quick.

    ``A = L D L'``, of which ``A^-1 = L^-T D^-1 L^-1`` follows from the last row and column to the first.
    """
    size = len(matrix)
    rest = [list(row.unbind()) for row in matrix.unbind()]
    below: list[list[Tensor]] = []  # of column k of L, the elements k + 1, k + 2, ...
    pivots = []
    for k in range(size):
        pivots.append(rest[k][k].reciprocal())
        below.append([rest[k][i] * pivots[k] for i in range(k + 1, size)])
        for i, factor in enumerate(below[k], start=k + 1):
            for j in range(i, size):
                rest[i][j] = torch.addcmul(rest[i][j], factor, rest[k][j], value=-1)
    found = rest  # whose elements are replaced
    for j in reversed(range(size)):
        for i in reversed(range(j + 1, size)):
            total = below[j][0] * found[j + 1][i]
            for k, factor in enumerate(below[j][1:], start=j + 2):
                total.addcmul_(factor, found[k][i])
            found[j][i] = found[i][j] = total.neg_()
        diagonal = pivots[j]
        for k, factor in enumerate(below[j], start=j + 1):
            diagonal = torch.addcmul(diagonal, factor, found[k][j], value=-1)
        found[j][j] = diagonal
    return torch.stack([element for row in found for element in row]).view(matrix.shape)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower-triangular C of ``C C' = matrix``, (I, I, ...); where rounding left no positive pivot, a column is 0."""
    size = len(matrix)
    rest = [list(row.unbind()) for row in matrix.unbind()]
    found = [[torch.zeros_like(rest[0][0])] * size for _ in range(size)]
    for k in range(size):
        pivot = rest[k][k]
        scale = torch.where(pivot > 0, pivot, torch.inf).rsqrt()
        for i in range(k, size):
            found[i][k] = rest[i][k] * scale
            for j in range(k + 1, i + 1):
                rest[i][j] = torch.addcmul(rest[i][j], found[i][k], found[j][k], value=-1)
    return torch.stack([element for row in found for element in row]).view(matrix.shape)


def identities(batch: int, size: int, like: Tensor) -> Tensor:
    """Unit matrices (batch, size, size) in the layout that `inverse_of_root` takes."""
    return (
        torch.eye(size, dtype=like.dtype, device=like.device)
        .expand(batch, size, size)
        .contiguous()
        .mT
    )


def inverse_of_root(tril: Tensor, units: Tensor) -> Tensor:
    """``(C C')^-1`` of Cholesky factors (B, I, I), by LAPACK: where there are a hundred matrices, not thousands.

    By ``X C' = I`` from the right, in the layout of LAPACK: two thirds of the time of `torch.cholesky_inverse`.

    Parameters
    ----------
    tril : Tensor, shape (B, I, I)
    units : Tensor, shape (B, I, I)
        Of `identities`.
    """
    root = torch.linalg.solve_triangular(tril.mT, units, upper=True, left=False)
    return torch.bmm(root, root.mT)


def positive_part(matrix: Tensor) -> Tensor:
    """The nearest positive semi-definite matrices to symmetric ones, (I, I, ...): eigenvalues below 0 become 0."""
    if len(matrix) > _LARGEST_JACOBI:
        values, vectors = torch.linalg.eigh(matrix.movedim((0, 1), (-2, -1)))
        values, vectors = values.movedim(-1, 0), vectors.movedim((-2, -1), (0, 1)).contiguous()
    else:
        values, vectors = _eigen(matrix)
    return multiply(vectors * values.clamp(min=0), vectors.transpose(0, 1))


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (I, ...) and eigenvectors in columns (I, I, ...), by cyclic Jacobi rotations."""
    size = len(matrix)
    rest = matrix.clone()
    vectors = torch.zeros_like(matrix)
    vectors.diagonal(dim1=0, dim2=1).fill_(1)
    for _ in range(1 if size == 2 else _NUM_SWEEPS):  # of two rows, one rotation is exact
        for p in range(size):
            for q in range(p + 1, size):
                _rotate(rest, vectors, p, q)
    return rest.diagonal(dim1=0, dim2=1).movedim(-1, 0), vectors


def _rotate(rest: Tensor, vectors: Tensor, p: int, q: int) -> None:
    """Make element (p, q) zero, in place (Golub, Van Loan, "Matrix Computations", 4th ed., Sec. 8.5)."""
    twice, gap = 2 * rest[p, q], rest[q, q] - rest[p, p]
    # tan of the angle, the smaller root: twice / (gap +- sqrt(gap^2 + twice^2))
    root = torch.hypot(gap, twice).copysign(gap)
    tangent = torch.where(root == 0, 0.0, twice / (gap + root))
    cosine = (1 + tangent * tangent).rsqrt()
    sine = tangent * cosine
    for target, axis in ((rest, 0), (rest, 1), (vectors, 1)):
        first, second = target.select(axis, p), target.select(axis, q)
        turned = cosine * first - sine * second
        torch.addcmul(sine * first, cosine, second, out=second)
        first.copy_(turned)


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
