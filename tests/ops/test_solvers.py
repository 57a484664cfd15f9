from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from scipy import optimize

from pyro_unmix.mixing import design_matrix
from pyro_unmix.ops.solvers import MarginalMixing, fcls, project_simplex, simplex_quadratic

SIZES = range(1, 7)


def tensor(values, dtype=torch.float64) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=dtype)


def slsqp(gram: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Minimiser of ``1/2 a'Ga - b'a`` on the simplex by sequential quadratic programming."""
    size = len(linear)
    found = optimize.minimize(
        lambda a: 0.5 * a @ gram @ a - linear @ a,
        np.full(size, 1 / size),
        jac=lambda a: gram @ a - linear,
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": lambda a: np.ones(size)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def quadratics(size: int, count: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well-conditioned problems, some with their minimum inside and some at each kind of face."""
    rng = np.random.default_rng([seed, size])
    root = rng.normal(size=(count, size + 3, size))
    gram = np.swapaxes(root, -1, -2) @ root / size + 0.1 * np.eye(size)
    return gram, 2 * rng.normal(size=(count, size))


def assert_on_simplex(a: torch.Tensor) -> None:
    assert (a >= 0).all()
    eps = torch.finfo(a.dtype).eps
    assert float((a.sum(-1) - 1).abs().max()) <= 2 * a.shape[-1] * eps


# Projection


def projection_by_enumeration(v: np.ndarray) -> np.ndarray:
    """Try all supports; on each the projection shifts by a constant. Keep the nearest."""
    best, nearest = v, np.inf
    for count in range(1, len(v) + 1):
        for support in map(list, itertools.combinations(range(len(v)), count)):
            a = np.zeros_like(v)
            a[support] = v[support] - (v[support].sum() - 1) / count
            distance = ((a - v) ** 2).sum()
            if (a >= 0).all() and distance < nearest:
                best, nearest = a, distance
    return best


@pytest.mark.parametrize("size", SIZES)
def test_projection_is_the_nearest_point_of_the_simplex(size):
    rng = np.random.default_rng(size)
    values = np.concatenate([rng.normal(size=(20, size)), 20 * rng.normal(size=(20, size))])
    got = project_simplex(tensor(values))
    assert_on_simplex_after(got, values)
    expected = [projection_by_enumeration(v) for v in values]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def assert_on_simplex_after(a: torch.Tensor, values: np.ndarray) -> None:
    """As `assert_on_simplex`, with the rounding of the values that the threshold is taken from."""
    assert (a >= 0).all()
    eps = torch.finfo(a.dtype).eps
    sizes = 1 + np.abs(values).sum(-1)
    assert ((a.sum(-1) - 1).abs().numpy() <= 4 * a.shape[-1] * eps * sizes).all()


def test_projection_keeps_the_simplex_and_handles_ties():
    points = np.random.default_rng(0).dirichlet(np.ones(4), size=10)
    np.testing.assert_allclose(project_simplex(tensor(points)), points, atol=1e-15)
    ties = tensor([[3.0, 3.0, 3.0], [5.0, 5.0, 0.0], [-2.0, -2.0, -2.0]])
    third = [1 / 3] * 3
    np.testing.assert_allclose(project_simplex(ties), [third, [0.5, 0.5, 0], third], atol=1e-15)


def test_projection_in_float32_and_with_more_dims():
    values = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)
    got = project_simplex(torch.from_numpy(values))
    assert got.dtype == torch.float32
    expected = project_simplex(tensor(values))
    np.testing.assert_allclose(got, expected, atol=8 * np.finfo(np.float32).eps)


# Quadratic programs


@pytest.mark.parametrize("size", SIZES)
def test_simplex_quadratic_agrees_with_slsqp(size):
    gram, linear = quadratics(size)
    got = simplex_quadratic(tensor(gram), tensor(linear))
    assert_on_simplex(got)
    expected = np.stack([slsqp(g, b) for g, b in zip(gram, linear, strict=True)])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    if size > 2:
        faces = {tuple(row) for row in (got > 0).tolist()}
        assert len(faces) > 2  # the problems do end on different faces


@pytest.mark.parametrize("size", SIZES)
def test_simplex_quadratic_is_optimal(size):
    gram, linear = quadratics(size, 300, seed=1)
    got = simplex_quadratic(tensor(gram), tensor(linear)).numpy()
    for g, b, a in zip(gram, linear, got, strict=True):
        # Its ridge is 1e-9 of the mean diagonal, its tolerance 1e-10 of it.
        allowed = 3e-9 * np.trace(g) / size
        assert reference.simplex_optimality_gap(g, b, a) <= allowed


def test_simplex_quadratic_with_one_gram_for_all():
    gram, linear = quadratics(4)
    got = simplex_quadratic(tensor(gram[0]), tensor(linear))
    each = simplex_quadratic(tensor(gram[:1]).expand(len(linear), 4, 4), tensor(linear))
    np.testing.assert_allclose(got, each, atol=1e-12)


def test_simplex_quadratic_in_float32():
    gram, linear = quadratics(5, 200, seed=2)
    got = simplex_quadratic(tensor(gram, torch.float32), tensor(linear, torch.float32))
    assert got.dtype == torch.float32
    assert_on_simplex(got)
    for g, b, a in zip(gram, linear, got.double().numpy(), strict=True):
        # Ridge 1e-6 and tolerance 1e-5 of the mean diagonal, in each of five coordinates.
        assert reference.simplex_optimality_gap(g, b, a) <= 5 * 1.1e-5 * np.trace(g) / 5


def test_simplex_quadratic_rows_do_not_depend_on_each_other():
    gram, linear = quadratics(4, 40, seed=3)
    whole = simplex_quadratic(tensor(gram), tensor(linear))
    order = np.random.default_rng(0).permutation(40)
    part = simplex_quadratic(tensor(gram[order[:7]]), tensor(linear[order[:7]]))
    np.testing.assert_allclose(part, whole[order[:7]], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_simplex_quadratic_with_equal_spectra_shares_equally(dtype):
    rng = np.random.default_rng(4)
    distinct = rng.uniform(0, 1, size=(10, 3))
    matrix = distinct[:, [0, 1, 1, 2, 2]]
    shares = rng.dirichlet(np.ones(3), size=20)
    y = shares @ distinct.T
    got = simplex_quadratic(tensor(matrix.T @ matrix, dtype), tensor(y @ matrix, dtype)).numpy()
    together = np.stack([got[:, 0], got[:, 1] + got[:, 2], got[:, 3] + got[:, 4]], axis=1)
    # What rounding adds to b is undone by an inverse of the Gram matrix.
    gain = 10 * np.linalg.cond(distinct.T @ distinct) * 1e-6
    np.testing.assert_allclose(together, shares, atol=gain)
    if dtype == torch.float64:
        np.testing.assert_allclose(got[:, 1], got[:, 2], atol=1e-5)


def test_simplex_quadratic_without_curvature_takes_the_best_corner():
    linear = tensor([[0.1, 0.5, 0.2], [0.9, -1.0, 0.3]])
    got = simplex_quadratic(1e-12 * torch.eye(3, dtype=torch.float64), linear)
    np.testing.assert_allclose(got, [[0, 1, 0], [1, 0, 0]], atol=1e-9)


# Fully constrained least squares


@pytest.mark.parametrize("size", SIZES)
def test_fcls_agrees_with_slsqp(size):
    rng = np.random.default_rng(size)
    endmembers = rng.uniform(0, 1, size=(12, size))
    a = rng.dirichlet(np.ones(size), size=(2, 10))
    pixels = a @ endmembers.T + 0.1 * rng.normal(size=(2, 10, 12))
    got = fcls(tensor(pixels), tensor(endmembers))
    assert got.shape == (2, 10, size)
    gram = endmembers.T @ endmembers
    for i, j in np.ndindex(2, 10):
        expected = slsqp(gram, endmembers.T @ pixels[i, j])
        np.testing.assert_allclose(got[i, j], expected, atol=1e-6)


def test_fcls_recovers_noiseless_mixtures():
    rng = np.random.default_rng(5)
    endmembers, a = rng.uniform(0, 1, size=(30, 4)), rng.dirichlet(np.ones(4), size=50)
    got = fcls(tensor(a @ endmembers.T), tensor(endmembers))
    gram = endmembers.T @ endmembers
    # Its ridge of 1e-9 of the mean diagonal pulls by r G^-1 a at most.
    bound = 2e-9 * np.trace(gram) / 4 / np.linalg.eigvalsh(gram)[0]
    np.testing.assert_allclose(got, a, atol=bound)


# The marginal likelihood


class Problem:
    """One date: M0 and F of L bands, psi ~ N(loc, diag(scale)^2), and pixels."""

    def __init__(self, seed: int = 0, *, bands: int = 9, endmembers: int = 3, components: int = 2):
        rng = np.random.default_rng(seed)
        self.endmembers = rng.uniform(0.1, 0.9, size=(bands, endmembers))
        self.components = 0.3 * rng.normal(size=(bands, components, endmembers))
        self.loc = 0.5 * rng.normal(size=components * endmembers)
        self.scale = rng.uniform(0.3, 1.2, size=components * endmembers)
        self.noise_scale = 0.2
        self.abundances = rng.dirichlet(np.ones(endmembers), size=8)
        self.y = rng.uniform(0, 1, size=(8, bands))
        self.design = design_matrix(tensor(self.endmembers), tensor(self.components))
        self.projected = tensor(self.y) @ self.design

    def mixing(self) -> MarginalMixing:
        gram = self.design.mT @ self.design
        noise = tensor(self.noise_scale)
        return MarginalMixing(
            gram, noise, tensor(self.loc), tensor(self.scale), self.endmembers.shape[1]
        )

    def moments(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean matrix M, W diag(e) and covariance of y, for one pixel's abundances."""
        bands, components, size = self.components.shape
        shift = self.loc.reshape(components, size)
        matrix = self.endmembers + np.einsum("lkp,kp->lp", self.components, shift)
        loading = (self.components * a).reshape(bands, -1)
        spread = loading @ np.diag(self.scale**2) @ loading.T
        return matrix, loading, spread + self.noise_scale**2 * np.eye(bands)


PROBLEMS = [{}, {"endmembers": 2, "components": 1}, {"bands": 5, "endmembers": 3, "components": 4}]


@pytest.mark.parametrize("sizes", PROBLEMS)
def test_marginal_likelihood_is_that_of_the_dense_gaussian(sizes):
    problem = Problem(**sizes)
    energy = tensor((problem.y**2).sum(-1))
    got = problem.mixing().log_likelihood(
        energy, problem.projected, tensor(problem.abundances), problem.y.shape[1]
    )
    expected = []
    for y, a in zip(problem.y, problem.abundances, strict=True):
        matrix, _, covariance = problem.moments(a)
        expected.append(reference.log_gaussian(y, matrix @ a, covariance))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sizes", PROBLEMS)
def test_marginal_information_is_that_of_the_dense_gaussian(sizes):
    problem = Problem(**sizes)
    curvature, pull = problem.mixing().information(problem.projected, tensor(problem.abundances))
    for n, (y, a) in enumerate(zip(problem.y, problem.abundances, strict=True)):
        matrix, _, covariance = problem.moments(a)
        weighted = np.linalg.solve(covariance, matrix)
        np.testing.assert_allclose(curvature[n], matrix.T @ weighted, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(pull[n], weighted.T @ y, rtol=1e-9, atol=1e-10)


def test_marginal_solution_is_generalised_least_squares_on_the_simplex():
    problem = Problem(1)
    mixing = problem.mixing()
    first = mixing.solve(problem.projected, num_rounds=0).numpy()
    second = mixing.solve(problem.projected, num_rounds=1).numpy()
    for n, y in enumerate(problem.y):
        matrix, _, covariance = problem.moments(first[n])
        np.testing.assert_allclose(first[n], slsqp(matrix.T @ matrix, matrix.T @ y), atol=1e-6)
        weighted = np.linalg.solve(covariance, matrix)
        gram, linear = matrix.T @ weighted, weighted.T @ y
        scale = np.trace(gram) / 3
        expected = slsqp(gram / scale, linear / scale)
        np.testing.assert_allclose(second[n], expected, atol=1e-6)


def test_variability_mean_is_the_dense_conditional_mean():
    problem = Problem(2)
    problem.loc = np.zeros_like(problem.loc)
    got = problem.mixing().variability_mean(problem.projected, tensor(problem.abundances))
    for n, (y, a) in enumerate(zip(problem.y, problem.abundances, strict=True)):
        matrix, loading, covariance = problem.moments(a)
        gain = np.diag(problem.scale**2) @ loading.T @ np.linalg.inv(covariance)
        np.testing.assert_allclose(got[n], gain @ (y - matrix @ a), atol=1e-10)


def test_marginal_moments_are_projections():
    problem = Problem(3)
    direct, loaded = problem.mixing().moments(problem.projected)
    matrix, _, _ = problem.moments(problem.abundances[0])
    np.testing.assert_allclose(direct, problem.y @ matrix, atol=1e-12)
    columns = problem.components.reshape(len(matrix), -1) * problem.scale
    np.testing.assert_allclose(loaded, problem.y @ columns, atol=1e-12)


def test_without_variability_the_marginal_is_ordinary_least_squares():
    problem = Problem(4)
    problem.scale = np.full_like(problem.scale, 1e-12)
    problem.loc = np.zeros_like(problem.loc)
    got = problem.mixing().solve(problem.projected)
    expected = fcls(tensor(problem.y), tensor(problem.endmembers))
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_marginal_solution_in_float32():
    problem = Problem(5, bands=60)
    problem.loc = np.zeros_like(problem.loc)
    problem.noise_scale = 0.05
    exact = problem.mixing().solve(problem.projected)
    design = problem.design.float()
    single = MarginalMixing(
        design.mT @ design,
        torch.tensor(problem.noise_scale),
        tensor(problem.loc, torch.float32),
        tensor(problem.scale, torch.float32),
        3,
    )
    got = single.solve(tensor(problem.y, torch.float32) @ design)
    assert_on_simplex(got)
    # Woodbury's identity leaves the rounding of M'M / sigma^2 in a curvature of order one.
    gram = np.linalg.norm(problem.endmembers.T @ problem.endmembers)
    error = 4 * np.finfo(np.float32).eps * gram / problem.noise_scale**2
    np.testing.assert_allclose(got, exact, atol=error)
    assert error < 0.01


def test_noise_is_not_lost_beside_large_variability_of_alike_materials():
    # Bright spectra of one shape under a basis of 100 % at an SNR of 60 dB: (sigma / |V|)^2 is single precision.
    rng = np.random.default_rng(0)
    place = np.linspace(0, 1, 113)
    endmembers = np.stack([0.95 + 0.03 * place, 0.97 - 0.01 * place**2], axis=1)
    order = np.arange(6)
    waves = 2.1 * np.cos(np.pi * order * (place[:, None])) * np.sqrt(np.where(order, 2, 1) / 113)
    components = tensor(waves[:, :, None] * endmembers[:, None, :], torch.float32)
    design = design_matrix(tensor(endmembers, torch.float32), components)
    y = rng.dirichlet(np.ones(2), size=200) @ endmembers.T * rng.normal(1, 0.1, size=(200, 1))
    y = tensor(y + rng.normal(0, 1e-3, size=y.shape), torch.float32)
    parts = [
        torch.tensor(1e-3),
        torch.zeros(12),
        torch.ones(12),
    ]
    single, double = (
        MarginalMixing(design.double().mT @ design.double(), *[x.to(t) for x in parts], 2)
        for t in (torch.float32, torch.float64)
    )
    projected, halves = y @ design, torch.full((200, 2), 0.5)
    got = single.information(projected, halves)
    expected = double.information(projected.double(), halves.double())
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))
    # A Gram matrix that rounding left indefinite, by more than the noise, is no reason to fail.
    values, vectors = torch.linalg.eigh(design.double().mT @ design.double())
    rounded = (vectors * torch.where(values < 1e-4, -4e-6, values)) @ vectors.mT
    for found in MarginalMixing(rounded.float(), *parts, 2).information(projected, halves):
        assert found.isfinite().all()
