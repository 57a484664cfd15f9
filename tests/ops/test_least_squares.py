"""Least squares with and without constraints against scipy's general solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls

from pyro_unmix.ops.least_squares import Fractions, least_squares

RNG = np.random.default_rng(0)
MEMBERS = RNG.uniform(0.05, 0.6, (15, 4))
MIXED = RNG.dirichlet(np.full(4, 0.4), 40) * RNG.uniform(0.4, 1.6, (40, 1))
SPECTRA = MIXED @ MEMBERS.T + RNG.normal(0, 0.05, (40, 15))


def solve(
    how: Fractions, members: np.ndarray = MEMBERS, spectra: np.ndarray = SPECTRA
) -> np.ndarray:
    return least_squares(torch.from_numpy(spectra), torch.from_numpy(members), how).numpy()


@pytest.mark.parametrize(("sum_to_one", "shade"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("non_negative", [True, False])
def test_it_is_the_constrained_minimum(sum_to_one: bool, non_negative: bool, shade: bool) -> None:
    found = solve(Fractions(sum_to_one, non_negative, shade))
    limits = []
    if shade:
        limits = [{"type": "ineq", "fun": lambda a: 1 - a.sum()}]
    elif sum_to_one and not shade:
        limits = [{"type": "eq", "fun": lambda a: a.sum() - 1}]
    bounds = [(0 if non_negative else None, None)] * 4
    for spectrum, fractions in zip(SPECTRA, found, strict=True):
        best = minimize(
            lambda a, y=spectrum: 50 * np.sum((y - MEMBERS @ a) ** 2),
            np.full(4, 0.2),
            jac=lambda a, y=spectrum: -100 * MEMBERS.T @ (y - MEMBERS @ a),
            bounds=bounds,
            constraints=limits,
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        # SLSQP's own accuracy
        np.testing.assert_allclose(fractions, best.x, atol=2e-5)


def test_non_negative_fractions_are_those_of_lawson_and_hanson() -> None:
    signed = RNG.normal(0, 1, (15, 5))
    for members in (MEMBERS, signed):
        found = solve(Fractions(sum_to_one=False), members)
        expected = np.array([nnls(members, y)[0] for y in SPECTRA])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (expected == 0).any()


def test_a_spectrum_of_zeros_has_no_fractions() -> None:
    found = solve(Fractions(sum_to_one=False), spectra=np.zeros((1, 15)))
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_many_spectra_that_are_much_alike() -> None:
    shapes = RNG.uniform(0.05, 0.6, (40, 3))
    members = np.repeat(shapes, 12, axis=1) * RNG.uniform(0.9, 1.1, (40, 36))
    spectra = RNG.dirichlet(np.full(36, 0.05), 200) @ members.T + RNG.normal(0, 0.01, (200, 40))
    found = solve(Fractions(sum_to_one=False), members, spectra)
    expected = np.array([nnls(members, y, maxiter=10_000)[0] for y in spectra])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = solve(Fractions(sum_to_one=False), members, spectra[7:8])
    np.testing.assert_allclose(again, found[7:8], atol=1e-12)
