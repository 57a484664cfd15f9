"""Parts of a training step, and how long training lasts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO

from pyro_unmix.infer.step import CheckedSVI, Optimiser
from pyro_unmix.infer.stopping import Plan
from pyro_unmix.posterior.programs import prepare


def svi() -> CheckedSVI:
    """Of a model without parameters and a guide with two, met in an order that is not the alphabet's."""

    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))

    def guide() -> None:
        loc = pyro.param("loc", torch.tensor(0.5))
        scale = pyro.param("a scale", torch.tensor(0.3), constraint=dist.constraints.positive)
        pyro.sample("x", dist.Normal(loc, scale))

    return CheckedSVI(model, guide, Optimiser(0.01, 1.0), Trace_ELBO())


def test_parameters_move_in_the_order_of_their_names() -> None:
    """The same in all processes of a group, whatever the order in which they are met."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        checked = svi()
        moved = []
        checked.optim = lambda params: moved.append([float(p.detach()) for p in params])
        checked.step()
    assert moved == [[pytest.approx(np.log(0.3)), pytest.approx(0.5)]]


def test_a_parameter_that_was_replaced_gets_its_own_value_back() -> None:
    checked = svi()
    old, new = torch.tensor([1.0]), torch.tensor([2.0])
    checked._keep({"x": old})
    checked._keep({"x": old.add_(0.5)})  # moved in place
    checked._keep({"x": new})
    old.fill_(7.0)
    new.fill_(torch.nan)
    checked._restore()
    assert (float(old), float(new)) == (7.0, 2.0)
    checked._keep({"x": new.fill_(3.0)})
    new.fill_(torch.nan)
    checked._restore()
    assert float(new) == 3.0


def test_a_fit_that_converged_is_not_cut_short() -> None:
    until = Plan(100, None, None, 10, 1.0)
    flat = [1.0] * 2 * until.window
    assert until.finished(flat)
    assert not until.cut_short(flat)
    assert until.cut_short(flat[:-1])
    steps = Plan(100, 30, None, 10, 1.0)
    assert steps.cut_short([1.0] * 29)
    assert not steps.cut_short([1.0] * 30)


def test_features_may_be_arrays() -> None:
    class Guide:
        def prepare(self, pixels, valid):
            return {"level": np.ones(len(pixels), dtype=np.float32)}

    features = prepare(Guide(), torch.ones(3, 2, 4), torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(features["level"], torch.ones(3))


def test_the_optimiser_does_not_import_the_compiler() -> None:
    """It takes a second, in every process that fits or resumes."""
    program = """
import sys, torch
from pyro_unmix.infer.step import _LightAdam
value = torch.nn.Parameter(torch.ones(1))
optimiser = _LightAdam([value])
value.grad = torch.ones(1)
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
