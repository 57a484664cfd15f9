"""Every kernel by itself: its density against the program's trace, and what it leaves as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyro
import pytest
import torch
from invariance_cases import largest_z
from pyro import poutine
from scipy import stats
from simplex_cases import BANDS, COMPONENTS, MATERIALS, RANK, model_of, start_of
from torch import Tensor

from pyro_unmix.kernels import (
    ROUND,
    AbundanceLikelihood,
    ConcentrationMoves,
    EllipticalEndmembers,
    FactorDraws,
    Kernel,
    MassMoves,
    NoiseDraws,
    RescaleMoves,
    ResidualDraws,
    ScaleDraws,
    Spectra,
    State,
    VariabilityDraws,
    Whitened,
)
from pyro_unmix.kernels.rescale import log_density
from pyro_unmix.kernels.residual import unexplained


def joint(state: State, spectra: Spectra) -> float:
    """Log-density of the program's trace at a state and its spectra."""
    pixels = spectra.values.unsqueeze(1)
    valid = torch.ones(pixels.shape[:2], dtype=torch.bool)
    program = poutine.condition(spectra.model, data=state.sites())
    with pyro.validation_enabled(False):
        return float(poutine.trace(program).get_trace(pixels, valid).log_prob_sum())


def marginal(state: State, spectra: Spectra) -> float:
    """`joint` with r integrated out: at r's conditional mean, less its normal density there."""
    factor, variance = state.residual_factor, state.noise_variance
    precision = torch.eye(factor.shape[1]).double() + factor.mT @ factor / variance
    loc = torch.linalg.solve(precision, factor.mT @ unexplained(state, spectra).mT / variance).mT
    normal = 0.5 * (torch.logdet(precision) - factor.shape[1] * math.log(2 * math.pi))
    return joint(state.having(residual=loc), spectra) - len(loc) * float(normal)


@dataclass(frozen=True, eq=False)
class Noiseless(Spectra):
    """Spectra whose standard-normal stream is zero but for one number."""

    unit: int = -1

    def normal(self, *shape: int) -> Tensor:
        values = torch.zeros(math.prod(shape), dtype=torch.float64)
        if 0 <= self.unit < len(values):
            values[self.unit] = 1.0
        return values.reshape(shape)


def law_of(draw: Callable[[Spectra], Tensor], spectra: Spectra, size: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a draw that is linear in one block of standard-normal numbers."""
    made = [
        draw(Noiseless(spectra.model, spectra.values, spectra.generator, unit))
        for unit in range(-1, size)
    ]
    loc = made[0].flatten()
    root = torch.stack([value.flatten() - loc for value in made[1:]], dim=-1)
    return loc, root @ root.mT


def normal_difference(loc: Tensor, covariance: Tensor, first: Tensor, second: Tensor) -> float:
    law = torch.distributions.MultivariateNormal(loc, covariance)
    return float(law.log_prob(first.flatten()) - law.log_prob(second.flatten()))


def fields_after(kernel: Kernel, *names: str) -> Callable[[State], Callable[[Spectra], Tensor]]:
    def of(state: State) -> Callable[[Spectra], Tensor]:
        def draw(spectra: Spectra) -> Tensor:
            new = kernel(state, spectra)
            return torch.cat(
                [getattr(new, name).reshape(len(spectra.values), -1) for name in names], 1
            )

        return draw

    return of


# ---------------------------------------------------------------- densities against the trace


@pytest.mark.parametrize("seed", [0, 1])
def test_mass_moves_know_the_density_of_the_trace(seed: int) -> None:
    """psi and b integrated out of the trace: its density at them, less that of their draw."""
    state, spectra = start_of(model_of(), 1, seed)
    size = COMPONENTS * MATERIALS + 1

    def theirs(at: State) -> float:
        of = fields_after(VariabilityDraws(), "variability", "brightness")(at)
        law = torch.distributions.MultivariateNormal(*law_of(of, spectra, size))
        drawn = torch.cat([at.variability[0], at.brightness])
        return marginal(at, spectra) - float(law.log_prob(drawn))

    def ours(at: State) -> float:
        found = AbundanceLikelihood.of(at.abundances, at, Whitened(at, spectra))
        prior = (at.concentration - 1) * at.abundances.log().sum()
        return float(found.log_likelihood.sum() + prior)

    abundances = torch.distributions.Dirichlet(torch.ones(3).double()).sample((1,))
    other = state.having(abundances=abundances)
    expected = theirs(other) - theirs(state)
    assert ours(other) - ours(state) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_likelihood_of_abundances_is_normal_while_its_covariance_is_held() -> None:
    """gram and pull are the dense ``M' S^-1 M`` and ``M' S^-1 y``."""
    state, spectra = start_of(model_of(), 3, 2)
    found = AbundanceLikelihood.of(state.abundances, state, Whitened(state, spectra))
    common = state.residual_factor @ state.residual_factor.mT
    common = common + state.noise_variance * torch.eye(BANDS).double()
    for n, a in enumerate(state.abundances):
        own = spectra.model.components * (state.scales * a.repeat(COMPONENTS))
        bright = (state.brightness_scale * state.endmembers @ a).unsqueeze(-1)
        covariance = common + own @ own.mT + bright @ bright.mT
        solved = torch.linalg.solve(covariance, state.endmembers)
        torch.testing.assert_close(found.gram[n], state.endmembers.mT @ solved)
        torch.testing.assert_close(found.pull[n], spectra.values[n] @ solved)


def test_variability_is_drawn_from_the_conditional_of_the_trace() -> None:
    state, spectra = start_of(model_of(), 1, 2)
    of = fields_after(VariabilityDraws(), "variability", "brightness")
    size = COMPONENTS * MATERIALS + 1
    loc, covariance = law_of(of(state), spectra, size)
    other = state.having(
        variability=torch.randn(1, size - 1).double(), brightness=torch.ones(1).double()
    )
    values = [torch.cat([s.variability[0], s.brightness]) for s in (other, state)]
    ours = normal_difference(loc, covariance, *values)
    theirs = marginal(other, spectra) - marginal(state, spectra)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_scales_are_drawn_from_the_conditional_of_the_trace() -> None:
    state, spectra = start_of(model_of(), 6, 3)

    def draw(given: Spectra) -> Tensor:
        new = ScaleDraws()(state, given)
        return torch.cat([new.scales, new.brightness_scale.reshape(1)])

    loc, covariance = law_of(draw, spectra, COMPONENTS * MATERIALS + 1)
    other = state.having(scales=state.scales + 0.3, brightness_scale=state.brightness_scale - 0.1)
    values = [torch.cat([s.scales, s.brightness_scale.reshape(1)]) for s in (other, state)]
    theirs = marginal(other, spectra) - marginal(state, spectra)
    assert normal_difference(loc, covariance, *values) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("p", range(MATERIALS))
def test_endmembers_are_drawn_from_the_conditional_of_the_trace(p: int) -> None:
    state, spectra = start_of(model_of(), 6, 4)
    rest = spectra.values - state.spread @ spectra.model.components.mT
    squares, pull = state.lit.mT @ state.lit, rest.mT @ state.lit
    others = state.endmembers @ squares[:, p] - state.endmembers[:, p] * squares[p, p]
    arguments = (p, pull[:, p] - others, squares[p, p], state)
    draws = EllipticalEndmembers.normal
    loc = draws(*arguments, Noiseless(spectra.model, spectra.values, spectra.generator))[0]
    # Two blocks of numbers stand behind a draw; each has its own unit.
    roots = []
    for block, size in ((0, RANK), (1, BANDS)):
        for unit in range(size):
            one = _OneBlock(spectra.model, spectra.values, spectra.generator, unit, block)
            roots.append(draws(*arguments, one)[1])
    root = torch.stack(roots, dim=-1)
    column = (state.endmembers[:, p] * 0.9).clamp(0.01, 0.99)
    endmembers = state.endmembers.clone()
    endmembers[:, p] = column
    ours = normal_difference(loc, root @ root.mT, column, state.endmembers[:, p])
    theirs = marginal(state.having(endmembers=endmembers), spectra) - marginal(state, spectra)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@dataclass(frozen=True, eq=False)
class _OneBlock(Noiseless):
    block: int = 0

    def normal(self, *shape: int) -> Tensor:
        values = torch.zeros(shape, dtype=torch.float64).flatten()
        if (self.block == 0) == (len(shape) == 2):
            values[self.unit] = 1.0
        return values.reshape(shape)


def test_residual_and_factor_are_drawn_from_the_conditionals_of_the_trace() -> None:
    state, spectra = start_of(model_of(), 1, 5)
    loc, covariance = law_of(fields_after(ResidualDraws(), "residual")(state), spectra, RANK)
    other = state.having(residual=state.residual + 0.5)
    ours = normal_difference(loc, covariance, other.residual, state.residual)
    assert ours == pytest.approx(joint(other, spectra) - joint(state, spectra), rel=1e-9, abs=1e-9)

    state, spectra = start_of(model_of(), 6, 6)
    draw = lambda given: FactorDraws()(state, given).residual_factor  # noqa: E731
    loc, covariance = law_of(draw, spectra, BANDS * RANK)
    other = state.having(residual_factor=state.residual_factor + 0.02)
    ours = normal_difference(loc, covariance, other.residual_factor, state.residual_factor)
    assert ours == pytest.approx(joint(other, spectra) - joint(state, spectra), rel=1e-9, abs=1e-9)


def test_concentration_moves_know_the_density_of_the_trace() -> None:
    state, spectra = start_of(model_of(), 6, 7)
    total, new = state.abundances.log().sum(), torch.tensor(0.31).double()

    def density(alpha: Tensor) -> float:
        return float(ConcentrationMoves.log_density(alpha.log(), 6, MATERIALS, total) - alpha.log())

    theirs = joint(state.having(concentration=new), spectra) - joint(state, spectra)
    assert density(new) - density(state.concentration) == pytest.approx(theirs, rel=1e-9)


def test_rescaling_knows_the_density_of_the_trace() -> None:
    state, spectra = start_of(model_of(), 6, 8)
    c, x = 1.3, torch.tensor(math.log(1.3), dtype=torch.float64)
    new = state.having(scales=state.scales * c, variability=state.variability / c)
    square, other = state.scales.square(), state.variability.square().sum(0)
    ours = log_density(x, 1 - 6, square, other) - log_density(0 * x, 1 - 6, square, other)
    # the measure dc / c counts the Jacobian of (s, psi) -> (c s, psi / c)
    jacobian = COMPONENTS * MATERIALS * (1 - 6) * float(x)
    theirs = joint(new, spectra) - joint(state, spectra) + jacobian
    assert float(ours.sum()) == pytest.approx(theirs, rel=1e-9)


# ---------------------------------------------------------------- what kernels leave as it is

KERNELS: dict[str, tuple[Kernel, ...]] = {
    "VariabilityDraws": (VariabilityDraws(),),
    "MassMoves": (MassMoves(), VariabilityDraws()),
    "ScaleDraws": (ScaleDraws(),),
    "EllipticalEndmembers": (EllipticalEndmembers(),),
    "FactorDraws": (ResidualDraws(), FactorDraws()),
    "NoiseDraws": (ResidualDraws(), NoiseDraws()),
    "RescaleMoves": (ResidualDraws(), RescaleMoves()),
    "ConcentrationMoves": (ConcentrationMoves(),),
    "ROUND": ROUND,
}
#: Of 18 statistics of 9 rows of kernels, the largest |z| under the null exceeds this with probability 1e-3.
MOST = float(stats.norm.isf(1e-3 / (2 * 18 * 9)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_leave_the_posterior_as_it_is(name: str) -> None:
    assert largest_z(KERNELS[name]) < MOST


def test_the_test_of_invariance_sees_a_wrong_kernel() -> None:
    class Narrow(VariabilityDraws):
        def __call__(self, state: State, spectra: Spectra) -> State:
            new = super().__call__(state, spectra)
            return new.having(variability=0.9 * new.variability)

    class Flat(MassMoves):
        def __call__(self, state: State, spectra: Spectra) -> State:
            wrong = super().__call__(state.having(concentration=state.concentration + 0.3), spectra)
            return wrong.having(concentration=state.concentration)

    for wrong in ((Narrow(),), (Flat(), VariabilityDraws())):
        assert largest_z(wrong) > MOST


# ---------------------------------------------------------------- refusals


def test_a_kernel_that_needs_r_says_what_to_do() -> None:
    state, spectra = start_of(model_of(), 2, 0)
    for kernel in (FactorDraws(), NoiseDraws()):
        with pytest.raises(ValueError, match="put ResidualDraws\\(\\) before"):
            kernel(replace(state, residual=None), spectra)
    with pytest.raises(ValueError, match="apply ResidualDraws\\(\\) first"):
        replace(state, residual=None).sites()
