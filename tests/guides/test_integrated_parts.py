"""The parts of the ELBO with the variability integrated out: paths, chains, and conditionals of few pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from integrated_cases import DATES, WALKS, B, P, T, features, pair, scene

from pyro_unmix.guides.conjugate.markov_normal import MarkovNormal
from pyro_unmix.priors import ConstantWalk

pytestmark = pytest.mark.usefixtures("noise_of_dates")


def path(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, T + 1, P, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dates", [None, DATES], ids=["even", "uneven"])
def test_the_density_of_a_path_is_that_of_its_steps(walk, dates):
    prior, states = pair(walk, dates=dates)[0].abundance_prior, path()
    step = prior.transitions()
    expected = prior.initial().log_prob(states[:, 0])
    for t in range(1, T + 1):
        expected = expected + step(states[:, t - 1], t).log_prob(states[:, t])
    torch.testing.assert_close(prior.log_prob_of_path(states), expected)


def test_steps_that_know_their_date_are_not_taken_together():
    class Slower(ConstantWalk):
        def transitions(self, index: Any = None) -> Any:
            step = super().transitions(index)
            return lambda previous, t: step(previous * 0.5**t, t)

    prior, states = pair()[0].abundance_prior, path()
    prior = Slower(0.3)
    prior.setup(num_endmembers=P, generator=torch.Generator())
    prior = prior.double()
    expected = prior.initial().log_prob(states[:, 0])
    for t in range(1, T + 1):
        squared = (states[:, t] - states[:, t - 1] * 0.5**t).square().sum(-1)
        expected = expected - 0.5 * squared / 0.3**2 - P * np.log(0.3 * np.sqrt(2 * np.pi))
    torch.testing.assert_close(prior.log_prob_of_path(states), expected, rtol=1e-6, atol=1e-6)


def chain_of(correction: bool) -> MarkovNormal:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    factors = normal(T + 1, B, P, P).triu()
    factors.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    given = (normal(B, T, P), 0.3 * normal(B, T, P)) if correction else ()
    return MarkovNormal(normal(T + 1, B, P), 0.5 * normal(T, B, P, P), factors, *given)


@pytest.mark.parametrize("correction", [True, False])
def test_a_chain_has_the_density_of_the_joint_gaussian(correction):
    """Mean and covariance of a chain that is linear in its noise, by drawing zero and the unit vectors."""
    chain, size = chain_of(correction), (T + 1) * P
    zero = chain.from_noise(torch.zeros(B, T + 1, P).double())
    units = torch.eye(size).double().reshape(size, 1, T + 1, P).expand(size, B, T + 1, P)
    columns = torch.stack([chain.from_noise(unit) - zero for unit in units], dim=-1).flatten(1, 2)
    dense = torch.distributions.MultivariateNormal(zero.flatten(1), columns @ columns.mT)
    value = path(4)
    torch.testing.assert_close(chain.log_prob(value), dense.log_prob(value.flatten(1)))
    own = chain.from_noise(path(5))
    torch.testing.assert_close(chain.log_prob(own), dense.log_prob(own.flatten(1)))
    states = own.unbind(1)
    inner = path(5)[:, 0].unsqueeze(-1)
    torch.testing.assert_close(states[0], chain.offsets[0] + (chain.factors[0] @ inner).squeeze(-1))
    with pytest.raises(NotImplementedError, match=f"has {B} chains"):
        chain.expand((2, B))


def test_much_information_in_one_direction_leaves_a_density_in_the_others() -> None:
    """The covariance has a condition of 1e10, whose smallest eigenvalue single precision would lose."""
    model, guide = pair()
    model, guide = model.float(), guide.float()
    direction = torch.tensor([1.0, -0.5, -0.5]) / 1.5**0.5
    given = {name: value.float() for name, value in features().items()}
    given["curvature"] = torch.zeros_like(given["curvature"])
    prior = guide._chain(given)[2][-1].diagonal(
        dim1=-2, dim2=-1
    )  # std of the last step, in all directions
    given["curvature"] += 1e10 * torch.outer(direction, direction)
    _, gains, factors = guide._chain(given)
    assert factors.dtype == gains.dtype == torch.float32
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0).all()
    expected = prior.log().sum(-1) - 0.5 * torch.log1p(1e10 * prior[..., 0].square())
    torch.testing.assert_close(diagonal[-1].log().sum(-1), expected, rtol=1e-4, atol=1e-4)


def test_curvature_that_rounding_made_asymmetric_is_that_of_its_symmetric_part() -> None:
    guide = pair()[1]
    given = features()
    skew = torch.zeros(P, P).double()
    skew[0, 1], skew[1, 0] = 0.3, -0.3
    expected = guide._chain(given)
    found = guide._chain({**given, "curvature": given["curvature"] + skew})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_curvature_that_rounding_made_indefinite_leaves_a_density() -> None:
    guide = pair()[1]
    given = features()
    given["curvature"] = given["curvature"] * 0 - 60.0 * torch.eye(P).double()
    with torch.no_grad():
        chain = guide._path(*scene()[:2], given)
        assert torch.isfinite(chain.log_prob(chain.rsample())).all()
