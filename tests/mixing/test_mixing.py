from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from scipy import fft, special

from pyro_unmix.bases import (
    DCT,
    Basis,
    Brightness,
    BSpline,
    Full,
    LearnedBasis,
)
from pyro_unmix.mixing import change_detector, design_matrix, linear_regression, mixing_features
from pyro_unmix.ops.simplex import clip_to_simplex, tile_components, to_abundances, to_softmax_basis

EPS = np.finfo(float).eps


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def spectra(num_bands: int = 9, num_endmembers: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.9, size=(num_bands, num_endmembers))


def simplex(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


# The simplex and the softmax basis


def test_to_abundances_is_the_softmax():
    c = np.random.default_rng(0).normal(scale=5, size=(4, 2, 3))
    np.testing.assert_allclose(to_abundances(tensor(c)), special.softmax(c, axis=-1), rtol=1e-13)


@pytest.mark.parametrize("num_endmembers", range(2, 7))
def test_softmax_basis_inverts_the_softmax_up_to_its_floor(num_endmembers):
    a = simplex(50, num_endmembers)
    a[0] = np.eye(num_endmembers)[0]
    c = to_softmax_basis(tensor(a))
    assert float(c.sum(-1).abs().max()) < 100 * EPS  # logs of up to 18, summed
    # softmax(log(a + f)) = (a + f) / (1 + P f)
    expected = (a + 1e-8) / (1 + num_endmembers * 1e-8)
    np.testing.assert_allclose(to_abundances(c), expected, rtol=1e-12)


def test_softmax_basis_takes_negative_values_for_zero():
    values = tensor([[-0.4, 0.5, 0.9], [0.0, 0.5, 0.9]])
    first, second = to_softmax_basis(values)
    assert torch.equal(first, second)
    logs = np.log([1e-8, 0.5 + 1e-8, 0.9 + 1e-8])
    np.testing.assert_allclose(first, logs - logs.mean(), rtol=1e-13)


def test_clip_to_simplex_clips_and_normalises():
    clipped = clip_to_simplex(tensor([[0.2, -3.0, 0.6], [-1.0, -2.0, -3.0]]))
    np.testing.assert_allclose(clipped[0], [0.25, 0, 0.75], atol=1e-11)  # its floor is 1e-12
    np.testing.assert_allclose(clipped[1], [1 / 3] * 3, rtol=1e-12)
    np.testing.assert_allclose(clipped.sum(-1), 1, atol=4 * EPS)


# Bases


@pytest.mark.parametrize(("num_bands", "num_components"), [(9, 4), (9, 9), (224, 10), (5, 1)])
def test_dct_columns_are_those_of_scipy_and_orthonormal(num_bands, num_components):
    ones = torch.ones(num_bands, 2, dtype=torch.float64)
    columns = DCT(num_components)(ones)[..., 0].numpy()
    cosines = fft.dct(np.eye(num_bands), type=2, axis=0, norm="ortho")[:num_components].T
    # Angles up to pi K are rounded relatively.
    np.testing.assert_allclose(columns, cosines, rtol=0, atol=4 * np.pi * num_components * EPS)
    np.testing.assert_allclose(columns.T @ columns, np.eye(num_components), atol=1e-13)


def test_dct_components_scale_the_endmembers_band_by_band():
    endmembers = spectra()
    got = DCT(4)(tensor(endmembers))
    np.testing.assert_allclose(got, reference.dct_components(endmembers, 4), atol=1e-14)


@pytest.mark.parametrize("scale", [0.5, [2.0, 0.5, 0.25]])
def test_dct_scale_multiplies_its_columns(scale):
    endmembers = spectra()
    # The scale is kept in the default dtype; these values are exact in it.
    got = DCT(3, scale=scale).double()(tensor(endmembers))
    factors = np.broadcast_to(scale, 3)[:, None]
    expected = factors * reference.dct_components(endmembers, 3)
    np.testing.assert_allclose(got, expected, atol=1e-14)


def test_brightness_is_one_constant_component_per_material():
    endmembers = spectra()
    basis = Brightness(0.25)
    assert basis.num_components == 1
    np.testing.assert_allclose(basis(tensor(endmembers))[:, 0], 0.25 * endmembers, rtol=1e-14)
    psi = np.array([0.8, -0.4, 0.0])
    scaled = endmembers + basis(tensor(endmembers)).numpy()[:, 0] * psi
    np.testing.assert_allclose(scaled, endmembers * (1 + 0.25 * psi), rtol=1e-13)


def de_boor(x: np.ndarray, knots: np.ndarray, degree: int, k: int) -> np.ndarray:
    """The k-th B-spline by de Boor's recursion; the last interval is closed."""
    if degree == 0:
        last = knots[k] < knots[k + 1] == knots[-1]
        return ((knots[k] <= x) & ((x < knots[k + 1]) | (last & (x == knots[-1])))).astype(float)
    result = np.zeros_like(x)
    for start, sign in ((k, 1), (k + 1, -1)):
        width = knots[start + degree] - knots[start]
        if width > 0:
            rise = x - knots[start] if sign > 0 else knots[start + degree] - x
            result += rise / width * de_boor(x, knots, degree - 1, start)
    return result


@pytest.mark.parametrize(("num_components", "degree"), [(6, 3), (4, 3), (5, 1), (3, 0), (9, 2)])
def test_b_splines_are_those_of_de_boor(num_components, degree):
    endmembers = spectra()
    basis = BSpline(num_components, degree=degree, scale=0.4)
    assert basis.num_components == num_components
    inner = [i / (num_components - degree) for i in range(num_components - degree + 1)]
    knots = np.array([0.0] * degree + inner + [1.0] * degree)
    bands = np.arange(9) / 8
    columns = [de_boor(bands, knots, degree, k) for k in range(num_components)]
    expected = 0.4 * np.stack(columns, axis=1)[:, :, None] * endmembers[:, None, :]
    got = basis(tensor(endmembers)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-13)
    # With all psi = 1 the endmembers change by the scale.
    np.testing.assert_allclose(got.sum(1), 0.4 * endmembers, rtol=1e-12)


@pytest.mark.parametrize("additive", [False, True])
def test_full_basis_changes_every_band_by_itself(additive):
    endmembers = spectra()
    basis = Full(9, scale=0.2, additive=additive)
    psi = np.random.default_rng(3).normal(size=(9, 3))  # component by material
    changed = endmembers + np.einsum("lkp,kp->lp", basis(tensor(endmembers)).numpy(), psi)
    expected = endmembers + 0.2 * psi if additive else endmembers * (1 + 0.2 * psi)
    np.testing.assert_allclose(changed, expected, rtol=1e-12)


def test_learned_basis_gives_back_its_array_and_leaves_the_callers_alone():
    array = np.random.default_rng(2).normal(size=(9, 2, 3))
    before = array.copy()
    basis = LearnedBasis(array)
    assert basis.num_components == 2
    kept = basis(tensor(spectra()))
    assert kept.dtype == torch.float64
    np.testing.assert_array_equal(kept, array.astype(np.float32))
    np.testing.assert_array_equal(array, before)
    array[:] = 0
    assert basis(tensor(spectra())).any()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: DCT(0), ValueError, "num_components must be at least 1, got 0"),
        (lambda: DCT(2.0), TypeError, "num_components must be an integer, got 2.0"),
        (
            lambda: DCT(3, scale=[1.0, 2.0]),
            ValueError,
            r"scale must be one number or 3 numbers .one per component., got shape .2,.",
        ),
        (
            lambda: DCT(10)(tensor(spectra(9))),
            ValueError,
            r"DCT.num_components=10. needs at least as many bands, got 9: use DCT.num_components=9",
        ),
        (lambda: BSpline(3), ValueError, "degree 3 needs at least 4 components, got 3: raise"),
        (lambda: BSpline(5, scale=0), ValueError, "scale must lie in"),
        (lambda: BSpline(10)(tensor(spectra(9))), ValueError, "at least as many bands, got 9: use"),
        (lambda: Full(0), ValueError, "num_bands must be at least 1"),
        (lambda: Full(9, scale=-1), ValueError, "scale must lie in"),
        (lambda: Full(8)(tensor(spectra(9))), ValueError, r"have 9 bands: use Full.9."),
        (lambda: Brightness(0.0), ValueError, "scale must be positive, got 0.0"),
        (lambda: Brightness(-1.0), ValueError, "scale must be positive, got -1.0"),
        (
            lambda: LearnedBasis(np.zeros((9, 3))),
            ValueError,
            r"expects finite components of shape .bands, components, endmembers., got shape .9, 3.",
        ),
        (
            lambda: LearnedBasis(np.full((9, 1, 3), np.nan)),
            ValueError,
            "expects finite components",
        ),
        (
            lambda: LearnedBasis(np.zeros((9, 2, 3)))(tensor(spectra(9, 2))),
            ValueError,
            r"learned for .bands, endmembers. = .9, 3., the model has .9, 2.: learn it again",
        ),
        (
            lambda: Basis()(tensor(spectra())),
            NotImplementedError,
            r"Basis must implement components.endmembers.",
        ),
    ],
)
def test_basis_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


# Mixing


@pytest.mark.parametrize("num_components", [1, 4])
@pytest.mark.parametrize("particles", [(), (3,)])
def test_design_times_features_is_the_written_out_mixture(num_components, particles):
    endmembers = spectra()
    components = reference.dct_components(endmembers, num_components)
    a = simplex(*particles, 5, 2, 3)
    psi = np.random.default_rng(3).normal(size=(*particles, 5, 2, num_components * 3))
    design = design_matrix(tensor(endmembers), tensor(components))
    assert design.shape == (9, 3 * (num_components + 1))
    got = mixing_features(tensor(a), tensor(psi)) @ design.mT
    expected = reference.mixed(endmembers, components, a, psi)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def test_tile_components_repeats_materials_within_each_component():
    a = simplex(4, 2, 3)
    np.testing.assert_array_equal(tile_components(tensor(a), 2), np.tile(a, (1, 1, 2)))


@pytest.mark.parametrize("particles", [(), (2,)])
def test_linear_regression_is_least_squares_up_to_its_ridge(particles):
    rng = np.random.default_rng(4)
    endmembers = spectra(20)
    components = reference.dct_components(endmembers, 2)
    psi = 0.3 * rng.normal(size=(*particles, 6, 6))
    y = rng.uniform(0, 1, size=(6, 20))
    design = design_matrix(tensor(endmembers), tensor(components))
    got = linear_regression(design.mT @ design, tensor(y) @ design, tensor(psi)).numpy()
    assert got.shape == (*particles, 6, 3)
    for index in np.ndindex(*particles, 6):
        coefficients = psi[index].reshape(2, 3)
        matrix = endmembers + np.einsum("lkp,kp->lp", components, coefficients)
        exact = np.linalg.lstsq(matrix, y[index[-1]], rcond=None)[0]
        eigenvalues = np.linalg.eigvalsh(matrix.T @ matrix)
        ridge = 1e-6 * eigenvalues.mean()
        # (G + r I)^-1 G a - a = -r (G + r I)^-1 a
        bound = ridge / (eigenvalues[0] + ridge) * np.linalg.norm(exact)
        assert np.linalg.norm(got[index] - exact) < 1.01 * bound + 1e-10
        inverse = np.linalg.inv(matrix.T @ matrix + ridge * np.eye(3))
        np.testing.assert_allclose(got[index], inverse @ matrix.T @ y[index[-1]], rtol=1e-8)


@pytest.mark.parametrize("particles", [(), (2,)])
def test_linear_regression_gradients_match_finite_differences(particles):
    rng = np.random.default_rng(6)
    endmembers = spectra(7)
    components = tensor(reference.dct_components(endmembers, 2))

    def solve(reference_endmembers, pixels, psi):
        design = design_matrix(reference_endmembers, components)
        return linear_regression(design.mT @ design, pixels @ design, psi)

    inputs = (
        endmembers,
        rng.uniform(0, 1, size=(4, 7)),
        0.3 * rng.normal(size=(*particles, 4, 6)),
    )
    given = tuple(tensor(x).requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(solve, given)


def test_linear_regression_survives_equal_spectra():
    endmembers = tensor(np.repeat(spectra(9, 1), 2, axis=1))
    design = design_matrix(endmembers, torch.zeros(9, 1, 2, dtype=torch.float64))
    got = linear_regression(
        design.mT @ design, endmembers[:, 0] @ design, torch.zeros(2, dtype=torch.float64)
    )
    np.testing.assert_allclose(got, [0.5, 0.5], rtol=1e-5)  # by symmetry, and the ridge


def test_change_detector_is_the_total_variation_distance():
    rng = np.random.default_rng(5)
    regression, previous = rng.normal(size=(200, 4)), simplex(200, 4)
    u = change_detector(tensor(regression), tensor(previous)).numpy()
    clipped = np.maximum(regression, 0) + 1e-12
    clipped /= clipped.sum(-1, keepdims=True)
    # The largest difference of the probability of any event.
    np.testing.assert_allclose(u, np.maximum(clipped - previous, 0).sum(-1), atol=1e-14)
    assert (u >= 0).all()
    assert (u <= 1).all()


def test_change_detector_at_its_ends():
    corners = tensor(np.eye(3))
    assert float(change_detector(corners, corners).max()) < 1e-11  # the floor of s(.)
    assert float(change_detector(corners, corners.roll(1, 0)).min()) > 1 - 1e-11
