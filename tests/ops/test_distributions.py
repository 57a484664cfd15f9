"""Gaussians and their mixtures against scipy: densities, moments, draws and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from distribution_cases import ROUNDING, jump_steps, precision_normal, tensor
from scipy import integrate, stats

from pyro_unmix.ops.distributions import (
    DiagonalNormal,
    FactorNormal,
    IsotropicNormal,
    IsotropicStudentT,
    JumpNormal,
    JumpSteps,
    PrecisionNormal,
)

pytestmark = pytest.mark.usefixtures("seeded")


def covariance_of(normal: PrecisionNormal) -> np.ndarray:
    factor = normal.precision_tril.numpy()
    return np.linalg.inv(factor @ np.swapaxes(factor, -1, -2))


# PrecisionNormal


def test_precision_normal_has_the_density_of_scipy():
    rng = np.random.default_rng(0)
    normal, x = precision_normal(rng, 4, 2), rng.normal(size=(4, 2, 3))
    expected = [
        [reference.log_gaussian(x[i, j], normal.loc[i, j].numpy(), spread) for j, spread in row]
        for i, row in enumerate(map(enumerate, covariance_of(normal)))
    ]
    np.testing.assert_allclose(normal.log_prob(tensor(x)), expected, rtol=0, atol=ROUNDING)


def test_precision_normal_moments_come_from_the_inverse_precision():
    normal = precision_normal(np.random.default_rng(1), 5)
    assert torch.equal(normal.mean, normal.loc)
    diagonal = np.diagonal(covariance_of(normal), axis1=-2, axis2=-1)
    np.testing.assert_allclose(normal.variance, diagonal, rtol=1e-12)


def test_precision_normal_turns_noise_into_draws_with_the_inverse_precision():
    normal = precision_normal(np.random.default_rng(2))
    columns = normal.from_noise(torch.eye(3, dtype=torch.float64)) - normal.loc
    np.testing.assert_allclose(columns.mT @ columns, covariance_of(normal), atol=1e-12)
    torch.testing.assert_close(normal.from_noise(torch.zeros(3).double()), normal.loc)


def test_precision_normal_draws_have_its_moments():
    normal, count = precision_normal(np.random.default_rng(3)), 20_000
    draws = normal.sample((count,)).numpy()
    spread = covariance_of(normal)
    std = np.sqrt(np.diagonal(spread))
    # Standard errors of a mean and of a covariance, times five.
    assert (np.abs(draws.mean(0) - normal.loc.numpy()) < 5 * std / math.sqrt(count)).all()
    error = np.sqrt((np.outer(std, std) ** 2 + spread**2) / count)
    assert (np.abs(np.cov(draws, rowvar=False) - spread) < 5 * error).all()


@pytest.mark.parametrize("shape", [(), (4,)])
def test_precision_normal_knows_the_density_of_its_own_draws(shape):
    normal = precision_normal(np.random.default_rng(4), 2)
    normal.loc.requires_grad_()
    normal.precision_tril.requires_grad_()
    draw = normal.rsample(shape)
    assert draw.shape == (*shape, 2, 3)
    own, copied = normal.log_prob(draw), normal.log_prob(draw.clone())
    torch.testing.assert_close(own, copied, rtol=0, atol=ROUNDING)
    leaves = (normal.loc, normal.precision_tril)
    expected = torch.autograd.grad(copied.sum(), leaves, retain_graph=True)
    got = torch.autograd.grad(own.sum(), leaves, allow_unused=True)
    # Along the draw the location drops out, and the other gradient is that of the normaliser.
    np.testing.assert_allclose(expected[0], 0, atol=1e-10)
    assert got[0] is None or not got[0].any()
    np.testing.assert_allclose(got[1].tril(), expected[1].tril(), rtol=1e-9, atol=1e-10)


def test_precision_normal_density_of_an_earlier_draw_is_not_that_of_the_last():
    normal = precision_normal(np.random.default_rng(5))
    first, second = normal.rsample(), normal.rsample()
    torch.testing.assert_close(normal.log_prob(first), normal.log_prob(first.clone()))
    assert normal.log_prob(first) != normal.log_prob(second)


def test_precision_normal_takes_a_known_log_determinant():
    normal = precision_normal(np.random.default_rng(6), 2)
    expected = np.linalg.slogdet(normal.precision_tril.numpy())[1]
    np.testing.assert_allclose(normal.log_det, expected, rtol=1e-12)
    told = PrecisionNormal(normal.loc, normal.precision_tril, normal.log_det)
    x = normal.loc + 0.3
    assert torch.equal(told.log_prob(x), normal.log_prob(x))


def test_precision_normal_gradients_match_finite_differences():
    normal = precision_normal(np.random.default_rng(7), 2)

    def density(loc, tril, x):
        return PrecisionNormal(loc, tril.tril()).log_prob(x)

    inputs = (normal.loc, normal.precision_tril, normal.loc + 0.7)
    assert torch.autograd.gradcheck(density, tuple(x.detach().requires_grad_() for x in inputs))


# JumpNormal


def test_jump_normal_has_the_density_of_the_written_out_mixture():
    rng = np.random.default_rng(8)
    loc, x = rng.normal(size=(5, 4, 3)), rng.normal(scale=2, size=(5, 4, 3))
    normal = JumpNormal(tensor(loc), jump_steps(3))
    expected = reference.log_jump(x, loc, 0.3, 2.0, 0.1)
    np.testing.assert_allclose(normal.log_prob(tensor(x)), expected, rtol=1e-12)


def test_jump_normal_density_integrates_to_one():
    grid = np.linspace(-12, 12, 20_001)[:, None]
    normal = JumpNormal(tensor(np.zeros(1)), jump_steps(1))
    density = normal.log_prob(tensor(grid)).exp().numpy()
    # Six jump scales are left out on either side.
    assert integrate.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=2 * stats.norm.sf(6))


def test_jump_normal_is_finite_far_from_its_centre():
    normal = JumpNormal(tensor([0.0, 0.0]), jump_steps(2))
    far = tensor([200.0, -300.0])
    jump = math.log(0.1) + stats.norm(0, 2).logpdf(far.numpy()).sum()
    assert float(normal.log_prob(far)) == pytest.approx(jump, rel=1e-12)


def test_jump_normal_draws_are_jumps_as_often_as_stated():
    count, probability = 40_000, 0.1
    normal = JumpNormal(tensor(np.zeros((2, 3))), jump_steps(3, 0.01, 10.0, probability))
    draws = normal.sample((count,)).numpy()
    assert draws.shape == (count, 2, 3)
    jumped = (np.abs(draws) > 0.1).any(-1)  # ten drifts; all three coordinates jump together
    share = math.sqrt(probability * (1 - probability) / (2 * count))
    # Three coordinates within 0.01 jump scales are as rare as 1e-6.
    assert abs(jumped.mean() - probability) < 5 * share
    for scale, part in ((0.01, draws[~jumped]), (10.0, draws[jumped])):
        assert part.std() == pytest.approx(scale, rel=5 / math.sqrt(2 * part.size))


def test_jump_probability_is_bayes_rule():
    squared = np.array([0.0, 0.1, 1.0, 9.0, 400.0])
    steps = jump_steps(3)
    drift, jump = (
        weight * np.exp(-0.5 * squared / scale**2) / scale**3
        for weight, scale in ((0.9, 0.3), (0.1, 2.0))
    )
    np.testing.assert_allclose(
        steps.jump_probability(tensor(squared)), jump / (jump + drift), rtol=1e-12
    )


def test_jump_normal_gradients_match_finite_differences():
    def density(log_scale, log_jump_scale, logit, loc, x):
        return JumpNormal(loc, JumpSteps(log_scale, log_jump_scale, logit, 2)).log_prob(x)

    rng = np.random.default_rng(9)
    inputs = map(tensor, (-1.0, 0.6, -2.0, rng.normal(size=(3, 2)), rng.normal(size=(3, 2))))
    assert torch.autograd.gradcheck(density, tuple(x.requires_grad_() for x in inputs))


# DiagonalNormal


@pytest.mark.parametrize("told", [True, False])
def test_diagonal_normal_has_the_density_and_moments_of_scipy(told):
    rng = np.random.default_rng(13)
    loc, x = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 3))
    scale = rng.uniform(0.2, 2, size=(2, 3))
    log_det = tensor(np.log(scale).sum(-1)) if told else None
    normal = DiagonalNormal(tensor(loc), tensor(scale), log_det)
    expected = stats.norm(loc, scale).logpdf(x).sum(-1)
    np.testing.assert_allclose(normal.log_prob(tensor(x)), expected, rtol=1e-12)
    assert normal.batch_shape == (4, 2)
    assert torch.equal(normal.mean, normal.loc)
    np.testing.assert_allclose(normal.variance, np.broadcast_to(scale**2, loc.shape), rtol=1e-12)
    noise = tensor(rng.normal(size=(4, 2, 3)))
    np.testing.assert_allclose(normal.from_noise(noise), loc + scale * noise.numpy(), rtol=1e-12)


def test_diagonal_normal_gradient_of_an_own_draw_is_that_of_the_density():
    rng = np.random.default_rng(14)
    loc, scale = (tensor(rng.uniform(0.5, 2, size=(5, 3))).requires_grad_() for _ in range(2))
    grads = []
    for own in (True, False):
        normal = DiagonalNormal(loc, scale)
        torch.manual_seed(0)
        draw = normal.rsample()
        density = normal.log_prob(draw if own else draw.clone()).sum()
        grads.append(torch.autograd.grad(density, (loc, scale), allow_unused=True))
    (own_loc, own_scale), (loc_grad, scale_grad) = grads
    assert own_loc is None
    np.testing.assert_allclose(loc_grad, 0, atol=1e-12)
    np.testing.assert_allclose(own_scale, scale_grad, rtol=1e-10)


# IsotropicNormal


def test_isotropic_normal_has_the_density_and_moments_of_scipy():
    rng = np.random.default_rng(10)
    loc, x = rng.normal(size=(4, 2, 7)), rng.normal(size=(4, 2, 7))
    normal = IsotropicNormal(tensor(loc), tensor(math.log(0.4)))
    expected = reference.log_normal(x, loc, 0.4)
    np.testing.assert_allclose(normal.log_prob(tensor(x)), expected, rtol=1e-12)
    assert torch.equal(normal.mean, normal.loc)
    np.testing.assert_allclose(normal.variance, np.full((4, 2, 7), 0.16), rtol=1e-12)
    noise = tensor(rng.normal(size=(4, 2, 7)))
    np.testing.assert_allclose(normal.from_noise(noise), loc + 0.4 * noise.numpy(), rtol=1e-12)


def test_isotropic_normal_draws_have_its_moments():
    normal = IsotropicNormal(tensor([1.0, -2.0]), tensor(math.log(0.4)))
    draws = normal.sample((20_000,)).numpy()
    assert (np.abs(draws.mean(0) - [1, -2]) < 5 * 0.4 / math.sqrt(20_000)).all()
    assert draws.std(0) == pytest.approx(0.4, rel=5 / math.sqrt(2 * 20_000))


def test_isotropic_normal_gradients_match_finite_differences():
    def density(loc, log_scale, x):
        return IsotropicNormal(loc, log_scale).log_prob(x)

    rng = np.random.default_rng(11)
    inputs = map(tensor, (rng.normal(size=(3, 4)), -0.5, rng.normal(size=(3, 4))))
    assert torch.autograd.gradcheck(density, tuple(x.requires_grad_() for x in inputs))


# IsotropicStudentT


def test_student_t_has_the_density_of_scipy():
    rng = np.random.default_rng(20)
    loc, x = rng.normal(size=3), rng.normal(scale=3, size=(6, 3))
    student = IsotropicStudentT(tensor(loc), tensor(math.log(0.4)), tensor(2.5))
    expected = stats.multivariate_t(loc, 0.16 * np.eye(3), df=2.5).logpdf(x)
    np.testing.assert_allclose(student.log_prob(tensor(x)), expected, rtol=1e-12)
    assert torch.equal(student.mean, student.loc)


def test_student_t_draws_are_as_far_as_f_says():
    # |x - m|^2 / (D s^2) of a multivariate t is F with (D, nu) degrees of freedom.
    student = IsotropicStudentT(tensor([1.0, -2.0, 0.0]), tensor(math.log(0.4)), tensor(3.0))
    squared = (student.sample((4000,)) - student.loc).square().sum(-1).numpy()
    assert stats.kstest(squared / 3 / 0.16, stats.f(3, 3).cdf).pvalue > 1e-4


def test_student_t_gradients_match_finite_differences():
    def density(loc, log_scale, log_dof, x):
        return IsotropicStudentT(loc, log_scale, log_dof.exp()).log_prob(x)

    rng = np.random.default_rng(21)
    inputs = map(tensor, (rng.normal(size=(3, 4)), -0.5, 1.0, rng.normal(size=(3, 4))))
    assert torch.autograd.gradcheck(density, tuple(x.requires_grad_() for x in inputs))


def factor_normal(batch: tuple[int, ...] = (4,), *, corrected: bool = True) -> FactorNormal:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = torch.triu(draw(*batch, 3, 3))
    factor.diagonal(dim1=-2, dim2=-1).abs_().add_(0.2)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    rest = (draw(*batch, 3), 0.3 * draw(*batch, 3)) if corrected else ()
    return FactorNormal(draw(*batch, 3), factor, log_det, *rest)


@pytest.mark.parametrize("corrected", [True, False])
def test_factor_normal_has_the_density_and_moments_of_the_dense_gaussian(corrected):
    normal = factor_normal(corrected=corrected)
    value = torch.randn(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got, drawn = normal.log_prob(value), normal.rsample()
    own = normal.log_prob(drawn)
    for n in range(4):
        loc, root = normal.loc[n].numpy(), normal.factor[n].numpy()
        if corrected:
            loc = loc + root @ normal.shift[n].numpy()
            root = root @ np.diag(np.exp(normal.log_scale[n].numpy()))
        dense = stats.multivariate_normal(loc, root @ root.T)
        assert got[n].item() == pytest.approx(dense.logpdf(value[n].numpy()), rel=1e-9)
        assert own[n].item() == pytest.approx(dense.logpdf(drawn[n].numpy()), rel=1e-9)
        np.testing.assert_allclose(normal.mean[n], loc, rtol=1e-12)
        np.testing.assert_allclose(normal.variance[n], np.diag(root @ root.T), rtol=1e-12)


def test_factor_normal_draws_of_given_noise_and_of_several_particles():
    normal = factor_normal()
    noise = torch.randn(5, 1, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    value = normal.from_noise(noise)
    inner = normal.shift + normal.log_scale.exp() * noise
    expected = normal.loc + torch.einsum("nij,snj->sni", normal.factor, inner)
    torch.testing.assert_close(value, expected)
    assert normal.log_prob(value).shape == (5, 4)
    wide = normal.expand((2, 4))
    assert wide.batch_shape == (2, 4)
    assert wide.rsample().shape == wide.mean.shape == wide.variance.shape == (2, 4, 3)
    torch.testing.assert_close(wide.log_prob(value[:2]), normal.log_prob(value[:2]))
