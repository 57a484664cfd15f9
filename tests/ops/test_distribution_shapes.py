"""What every distribution does under plates, masks and expansion."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from distribution_cases import ROUNDING, jump_steps, precision_normal, tensor
from pyro import poutine

from pyro_unmix.ops.distributions import (
    DiagonalNormal,
    IsotropicNormal,
    IsotropicStudentT,
    JumpNormal,
)
from pyro_unmix.ops.softmax_distributions import PresentOrAbsent, SoftmaxDirichlet

pytestmark = pytest.mark.usefixtures("seeded")


def every_distribution() -> dict[str, dist.TorchDistribution]:
    rng = np.random.default_rng(12)
    loc = tensor(rng.normal(size=(4, 3)))
    return {
        "precision": precision_normal(rng, 4),
        "jump": JumpNormal(loc, jump_steps(3)),
        "diagonal": DiagonalNormal(loc, tensor(rng.uniform(0.2, 2, size=(4, 3)))),
        "isotropic": IsotropicNormal(loc, tensor(-1.0)),
        "isotropic, a scale each": IsotropicNormal(loc, tensor(rng.normal(size=4))),
        "student": IsotropicStudentT(loc, tensor(-1.0), tensor(4.0)),
        "student, a scale each": IsotropicStudentT(loc, tensor(rng.normal(size=4)), tensor(4.0)),
        "dirichlet": SoftmaxDirichlet(loc.exp()),
        "present or absent": PresentOrAbsent(loc, tensor(4.0), tensor(0.7)),
    }


@pytest.mark.parametrize("name", every_distribution())
def test_shapes_and_expansion(name):
    normal = every_distribution()[name]
    assert normal.batch_shape == (4,)
    assert normal.event_shape == (3,)
    wide = normal.expand((5, 4))
    assert (wide.batch_shape, wide.event_shape) == ((5, 4), (3,))
    x = normal.loc + 0.2
    np.testing.assert_allclose(wide.log_prob(x), normal.log_prob(x).expand(5, 4), rtol=1e-12)
    assert normal.sample((2,)).shape == (2, 4, 3)
    assert wide.sample().shape == (5, 4, 3)


@pytest.mark.parametrize("name", every_distribution())
def test_own_draws_have_the_density_of_a_copy(name):
    normal = every_distribution()[name]
    draw = normal.sample()
    torch.testing.assert_close(
        normal.log_prob(draw), normal.log_prob(draw.clone()), rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("name", every_distribution())
def test_plates_expand_and_masks_silence(name):
    normal = every_distribution()[name]
    mask = torch.tensor([True, False, True, True])

    def program():
        with pyro.plate("particles", 2, dim=-2), pyro.plate("pixels", 4, dim=-1):
            with poutine.mask(mask=mask):
                pyro.sample("x", normal)

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["x"]
    assert site["value"].shape == (2, 4, 3)
    expected = normal.log_prob(site["value"].clone()) * mask
    torch.testing.assert_close(site["log_prob"], expected, rtol=0, atol=ROUNDING)
