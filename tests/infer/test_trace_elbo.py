"""The objective of guides that integrate out what others draw; that it is Pyro's is in `guides/test_integrated`."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_unmix.infer.trace_elbo import loss_and_grads

DATA = torch.linspace(-1, 2, 5)


def model(integrated: Any = None) -> None:
    with pyro.plate("pixels", 20, subsample=torch.arange(5)):
        z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0))
        if integrated is None:
            pyro.sample("y", dist.Normal(z, 0.3), obs=DATA)
        else:
            pyro.factor("y", integrated - z.square())


class Guide:
    """Integrates something out where it is asked to."""

    integrates = True

    def __call__(self, integrate: bool = False) -> Any:
        loc = pyro.param("loc", torch.tensor(0.2))
        with pyro.plate("pixels", 20, subsample=torch.arange(5)):
            pyro.sample("z", dist.Normal(loc.expand(5), 1.0))
        return DATA if integrate else None


def plain() -> None:
    Guide()()


def evaluated(elbo: Trace_ELBO | None, guide: Any, validate: bool = False) -> tuple[float, float]:
    """Loss and gradient by ours, or by Pyro's where there is no `elbo`."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(validate):
        pyro.set_rng_seed(3)
        if elbo is None:
            loss = Trace_ELBO().loss_and_grads(model, guide)
        else:
            loss = loss_and_grads(elbo, model, guide)
        grads = [p.grad for _, p in pyro.get_param_store().named_parameters()]
        return loss, float(sum(g.sum() for g in grads))


def test_what_is_integrated_out_is_handed_from_the_guide_to_the_model():
    loss, grad = evaluated(Trace_ELBO(), Guide())
    pyro.set_rng_seed(3)
    noise = torch.randn(5)
    z = 0.2 + noise
    # 4 pixels of the scene for each of the batch; log q and log p of z have the same constants
    log_ratio = -0.5 * z.square() + DATA - z.square() + 0.5 * noise.square()
    assert loss == pytest.approx(-4 * float(log_ratio.sum()), rel=1e-5)
    assert grad == pytest.approx(4 * float((3 * z).sum()), rel=1e-5)


@pytest.mark.parametrize("validate", [True, False])
def test_other_guides_are_left_to_pyro(validate):
    ours = evaluated(Trace_ELBO(), plain, validate)
    assert ours == evaluated(None, plain, validate)
    assert ours[0] != evaluated(Trace_ELBO(), Guide())[0]


def test_programs_that_are_validated_have_all_their_sites():
    assert evaluated(Trace_ELBO(), Guide(), validate=True) == evaluated(None, plain, validate=True)


def test_several_draws_are_left_to_pyro():
    elbo = Trace_ELBO(num_particles=2)
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        pyro.set_rng_seed(0)
        ours = loss_and_grads(elbo, model, Guide())
        pyro.set_rng_seed(0)
        assert ours == elbo.loss_and_grads(model, plain)


def test_a_guide_that_is_a_messenger_is_left_to_pyro():
    losses = []
    for function in (lambda *a: loss_and_grads(Trace_ELBO(), *a), Trace_ELBO().loss_and_grads):
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            pyro.set_rng_seed(0)
            losses.append(function(model, AutoNormalMessenger(model)))
    assert losses[0] == losses[1] > 0
