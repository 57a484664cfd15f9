"""The projections and inner steps of online unmixing, against Dykstra's algorithm and conditions of optimality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from online_cases import L, P, dykstra
from scipy.optimize import minimize

from pyro_unmix.methods.online_unmixing import _Inner, project_balls

# ------------------------------------------------------------------------------- the two balls


@pytest.mark.parametrize("seed", range(12))
def test_projection_onto_two_balls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    point, centre = rng.normal(size=(2, 4, 3)) * rng.uniform(0.5, 4.0, size=(2, 1, 1))
    radius = rng.uniform(0.3, 2.0)
    other = max(rng.uniform(0.3, 2.0), np.linalg.norm(centre) - 0.8 * radius)
    found = project_balls(torch.tensor(point), radius, torch.tensor(centre), other).numpy()
    assert np.linalg.norm(found) <= radius + 1e-12
    assert np.linalg.norm(found - centre) <= other + 1e-12
    assert np.linalg.norm(found - dykstra(point, radius, centre, other, 20_000)) < 1e-3
    solved = minimize(
        lambda x: 0.5 * np.sum((x - point.ravel()) ** 2),
        found.ravel() * 0.5,
        jac=lambda x: x - point.ravel(),
        constraints=[
            {"type": "ineq", "fun": lambda x: radius**2 - np.sum(x**2)},
            {"type": "ineq", "fun": lambda x: other**2 - np.sum((x - centre.ravel()) ** 2)},
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found.ravel(), solved.x, atol=1e-5)


@pytest.mark.parametrize(
    ("point", "radius", "centre", "other", "expected"),
    [
        ([0.3, 0.4], 1.0, [0.0, 0.0], 1.0, [0.3, 0.4]),  # inside both
        ([3.0, 4.0], 1.0, [0.0, 0.0], 2.0, [0.6, 0.8]),  # one centre
        ([3.0, 4.0], 2.0, [0.0, 0.0], 1.0, [0.6, 0.8]),
        ([3.0, 0.0], 1.0, [1.5, 0.0], 1.0, [1.0, 0.0]),  # on the axis
        ([-3.0, 0.0], 1.0, [1.5, 0.0], 1.0, [0.5, 0.0]),
        ([0.6, 9.0], 1.0, [1.2, 0.0], 1.0, [0.6, 0.8]),  # the corner of the lens
        ([3.0, 4.0], 0.0, [0.0, 0.0], 0.0, [0.0, 0.0]),
        ([3.0, 4.0], 1.0, [2.0, 0.0], 1.0, [1.0, 0.0]),  # they touch
    ],
)
def test_projection_onto_two_balls_by_hand(
    point: list[float], radius: float, centre: list[float], other: float, expected: list[float]
) -> None:
    given = (torch.tensor(x, dtype=torch.float64) for x in (point, centre))
    first, second = given
    found = project_balls(first, radius, second, other)
    np.testing.assert_allclose(found, expected, atol=1e-12)


# ------------------------------------------------------------------------------- inner steps


def inner_case(seed: int, radius: float, other: float) -> tuple[_Inner, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image, before = rng.uniform(size=(30, L)), rng.dirichlet(np.ones(P), size=30)
    before[4:9] = np.nan
    problem = _Inner(
        image=torch.tensor(image),
        endmembers=torch.tensor(rng.uniform(size=(L, P))),
        radius=radius,
        centre=torch.tensor(rng.normal(0, 0.1, size=(L, P))),
        other_radius=other,
        abundance_weight=0.7,
        previous_abundances=torch.tensor(before),
        variability_weight=0.4,
        previous_variability=torch.tensor(rng.normal(0, 0.1, size=(L, P))),
    )
    start = torch.tensor(rng.dirichlet(np.ones(P), size=30))
    return problem, start, torch.zeros(L, P, dtype=torch.float64)


def inner_objective(problem: _Inner, abundances: np.ndarray, variability: np.ndarray) -> float:
    spectra = problem.endmembers.numpy() + variability
    before = problem.previous_abundances.numpy()
    known = ~np.isnan(before).any(axis=1)
    return 0.5 * float(
        np.sum((problem.image.numpy() - abundances @ spectra.T) ** 2)
        + 0.7 * np.sum((abundances[known] - before[known]) ** 2)
        + 0.4 * np.sum((variability - problem.previous_variability.numpy()) ** 2)
    )


@pytest.mark.parametrize(("radius", "other"), [(0.3, 0.9), (5.0, 0.7), (0.6, 0.6)])
def test_inner_steps_lower_the_objective_and_stay_feasible(radius: float, other: float) -> None:
    problem, abundances, variability = inner_case(1, radius, other)
    values = [inner_objective(problem, abundances.numpy(), variability.numpy())]
    for _ in range(200):
        abundances, variability = problem.step(abundances, variability)
        values.append(inner_objective(problem, abundances.numpy(), variability.numpy()))
        assert abundances.min() >= 0
        np.testing.assert_allclose(abundances.sum(-1), 1, rtol=1e-12)
        assert variability.norm() <= radius + 1e-12
        assert (variability - problem.centre).norm() <= other + 1e-12
    # the start may lie outside the second ball: the first step only moves it in
    assert (np.diff(values[1:]) <= 1e-12).all()
    assert values[0] - values[-1] > 0.1


def test_inner_steps_end_where_each_block_is_optimal() -> None:
    problem, abundances, variability = inner_case(2, 0.5, 0.6)
    for _ in range(2000):
        abundances, variability = problem.step(abundances, variability)
    a, d = abundances.numpy(), variability.numpy()
    best = inner_objective(problem, a, d)
    rng = np.random.default_rng(0)
    for _ in range(50):  # no feasible direction goes down, to first order
        other_a = a + 1e-4 * (rng.dirichlet(np.ones(P), size=30) - a)
        other_d = dykstra(
            d + rng.normal(0, 1e-4, size=d.shape), 0.5, problem.centre.numpy(), 0.6, 300
        )
        assert inner_objective(problem, other_a, d) > best - 1e-8
        assert inner_objective(problem, a, other_d) > best - 1e-8
