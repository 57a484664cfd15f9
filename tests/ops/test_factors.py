"""Factors of matrices, those of one number among them, against the general way."""

from __future__ import annotations

import pytest
import torch

from pyro_unmix.ops.factors import cholesky, forward_solved


@pytest.mark.parametrize("size", [1, 3])
def test_factors_are_those_of_torch(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    root = torch.randn(5, size, size, generator=generator, dtype=torch.float64)
    matrices = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    right = torch.randn(5, size, 4, generator=generator, dtype=torch.float64)
    factor = cholesky(matrices)
    torch.testing.assert_close(factor, torch.linalg.cholesky(matrices))
    expected = torch.linalg.solve_triangular(factor, right, upper=False)
    torch.testing.assert_close(forward_solved(factor, right), expected)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("bad", [-1.0, 0.0, float("nan")])
def test_what_is_not_positive_definite_is_an_error(size: int, bad: float) -> None:
    matrices = torch.eye(size, dtype=torch.float64).repeat(4, 1, 1)
    matrices[2, 0, 0] = bad
    with pytest.raises(torch.linalg.LinAlgError):
        cholesky(matrices)
