"""Algebra of many small matrices against numpy, and that no matrix's result depends on its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.ops import small_matrices as small

SIZES = [1, 2, 3, 4, 8, 9, 17, 20]
COUNT = 30


def definite(size: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(COUNT, size, size + 2))
    return root @ root.swapaxes(1, 2)


def anything(rows: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, rows, columns))


def columns(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, 0, -1)))


def rows(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), -1, 0)


def assert_near(got: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(rows(got), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_numpy(size):
    left, right = anything(3, size), anything(size, 5, seed=2)
    assert_near(small.multiply(columns(left), columns(right)), left @ right)
    vector = right[..., 0]
    product = np.einsum("nij,nj->ni", left, vector)
    assert_near(small.apply(columns(left), columns(vector)), product)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_solution_and_factor_are_those_of_numpy(size):
    matrix, right = definite(size), anything(size, 2)
    given = columns(matrix), columns(right)
    copies = [x.clone() for x in given]
    assert_near(small.inverse(given[0]), np.linalg.inv(matrix))
    assert_near(small.solve(*given), np.linalg.solve(matrix, right))
    assert_near(small.cholesky(given[0]), np.linalg.cholesky(matrix))
    assert all(torch.equal(x, copy) for x, copy in zip(given, copies, strict=True))


@pytest.mark.parametrize("size", [s for s in SIZES if s > 2])
def test_elimination_leaves_the_schur_complement(size):
    count = size - 2
    matrix, extra = definite(size), anything(size, 1)
    a, b, d = matrix[:, :count, :count], matrix[:, :count, count:], matrix[:, count:, count:]
    expected = d - b.swapaxes(1, 2) @ np.linalg.solve(a, b)
    beside = extra[:, count:] - b.swapaxes(1, 2) @ np.linalg.solve(a, extra[:, :count])
    joint = np.concatenate([matrix, extra], axis=2)
    joint[:, count:, :count] = np.nan  # not read
    got = rows(small.eliminate(columns(joint), count))
    upper = np.triu_indices(2)
    np.testing.assert_allclose(
        got[:, upper[0], upper[1]], expected[:, upper[0], upper[1]], rtol=1e-8
    )
    np.testing.assert_allclose(got[..., 2:], beside, rtol=1e-7, atol=1e-9)


def test_a_factor_of_what_is_only_semi_definite_is_finite():
    root = anything(3, 1)
    matrix = root @ root.swapaxes(1, 2)
    factor = rows(small.cholesky(columns(matrix)))
    np.testing.assert_allclose(factor @ factor.swapaxes(1, 2), matrix, atol=1e-7)
    assert not small.cholesky(torch.zeros(3, 3, 2)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_the_positive_part_has_the_eigenvalues_that_are_not_negative(size, dtype):
    matrix = anything(size, size)
    matrix = matrix + matrix.swapaxes(1, 2)
    matrix[0] = 0
    matrix[1] = np.eye(size)
    matrix[2] = -np.eye(size)
    values, vectors = np.linalg.eigh(matrix)
    expected = (vectors * np.maximum(values, 0)[:, None]) @ vectors.swapaxes(1, 2)
    got = rows(small.positive_part(columns(matrix).to(dtype)))
    np.testing.assert_allclose(got, expected, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_pivots_are_held_where_rounding_leaves_none():
    matrix = torch.ones(2, 2, 3)  # two equal spectra
    solution = small.solve(matrix, torch.ones(2, 1, 3), smallest=1e-3)
    assert solution.isfinite().all()
    torch.testing.assert_close(solution.sum(0), torch.ones(1, 3))
