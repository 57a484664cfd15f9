"""Factors and inverses of matrices that do not make the host wait for an accelerator.

`torch.linalg.cholesky`, `inv` and `solve` look at whether they have failed: on an accelerator the host waits there for
all that was asked of it before. Here they look on the host alone, where that costs nothing and the error comes at the
place; elsewhere what failed is NaN, which whoever asked has to notice later, once for many calls.
"""

from __future__ import annotations

import torch
from torch import Tensor


def looks(matrix: Tensor) -> bool:
    """Whether failures of this matrix raise an error at once."""
    return matrix.device.type == "cpu"


def cholesky(matrix: Tensor) -> Tensor:
    """Lower triangular factor (..., n, n) of positive definite matrices.

    Raises
    ------
    torch.linalg.LinAlgError
        On the host, where a matrix is not positive definite; elsewhere its factor is NaN.

    Examples
    --------
    >>> import torch
    >>> cholesky(torch.tensor([[4.0, 2.0], [2.0, 2.0]])).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    if matrix.shape[-1] == 1:  # many times faster than the general way
        root = matrix.sqrt()
        if looks(matrix) and not (root > 0).all():
            raise torch.linalg.LinAlgError(
                "expected positive definite matrices, got numbers that are not positive"
            )
        return root
    if looks(matrix):
        return torch.linalg.cholesky(matrix)
    return _or_nan(*torch.linalg.cholesky_ex(matrix))


def forward_solved(factor: Tensor, right: Tensor) -> Tensor:
    """``C^-1 X`` (..., n, m) of lower triangular factors C (..., n, n)."""
    if factor.shape[-1] == 1:
        return right / factor
    return torch.linalg.solve_triangular(factor, right, upper=False)


def inverse(matrix: Tensor) -> Tensor:
    """Inverses (..., n, n); errors as in `cholesky`."""
    if looks(matrix):
        return torch.linalg.inv(matrix)
    return _or_nan(*torch.linalg.inv_ex(matrix))


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right`` (n,) of one matrix (n, n); errors as in `cholesky`."""
    if looks(matrix):
        return torch.linalg.solve(matrix, right)
    result, info = torch.linalg.solve_ex(matrix, right)
    return result.masked_fill(info != 0, torch.nan)


def _or_nan(result: Tensor, info: Tensor) -> Tensor:
    return result.masked_fill((info != 0)[..., None, None], torch.nan)
