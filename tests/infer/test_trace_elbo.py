"""The objective in few operations, against Pyro's that takes site after site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormalMessenger

from pyro_unmix.infer import trace_elbo
from pyro_unmix.infer.trace_elbo import loss_and_grads

SIZE, TOTAL = 5, 20
DATA = torch.linspace(-1, 2, SIZE * 3).reshape(SIZE, 3)
SEEN = torch.tensor([True, False, True, True, False])


def model(reparameterised: bool = True) -> None:
    """Sites inside and outside of a subsampled plate, scaled, masked by date and by a constant, and a factor."""
    weight = pyro.param("weight", torch.tensor(0.5))
    offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    if not reparameterised:
        count = pyro.sample("count", dist.Poisson(torch.tensor(2.0)))
        offset = offset + 0.1 * count
    with pyro.plate("pixels", TOTAL, subsample=torch.arange(SIZE)):
        pyro.factor("prior", -weight.square().expand(SIZE))
        z = pyro.sample("z", dist.Normal(weight * torch.ones(SIZE, 3), 1.0).to_event(1))
        with poutine.mask(mask=SEEN):
            pyro.sample("y", dist.Normal(z + offset, 0.3).to_event(1), obs=DATA)
        with poutine.mask(mask=False):
            pyro.sample("unseen", dist.Normal(z, 0.3).to_event(1), obs=DATA)
        with poutine.scale(scale=torch.tensor(0.7)):
            pyro.sample("x", dist.Normal(z.sum(-1), 2.0), obs=DATA[:, 0])


def guide(reparameterised: bool = True) -> None:
    loc = pyro.param("loc", torch.tensor(0.2))
    pyro.sample("offset", dist.Normal(loc, 0.1))
    if not reparameterised:
        pyro.sample("count", dist.Poisson(loc.exp()))
    with pyro.plate("pixels", TOTAL, subsample=torch.arange(SIZE)):
        scale = pyro.param("scale", torch.full((3,), -1.0)).exp()
        pyro.sample("z", dist.Normal(loc.expand(SIZE, 3), scale).to_event(1))


def evaluated(
    function: Callable[..., float], *args: Any, programs: Any = (model, guide)
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one seed, both programs scaled as a fit scales them."""
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        pyro.set_rng_seed(3)
        loss = function(*(poutine.scale(program, scale=0.01) for program in programs), *args)
        params = dict(pyro.get_param_store().named_parameters())
        return loss, {name: value.grad.clone() for name, value in params.items()}


@pytest.mark.parametrize("reparameterised", [True, False])
def test_loss_and_gradients_are_those_of_pyro(reparameterised):
    elbo = Trace_ELBO()
    ours = evaluated(lambda *a: loss_and_grads(elbo, *a), reparameterised)
    theirs = evaluated(elbo.loss_and_grads, reparameterised)
    assert set(ours[1]) == {"weight", "loc", "scale"}
    assert_same(ours, theirs)


def assert_same(ours: Any, theirs: Any) -> None:
    assert isinstance(ours[0], float)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert set(ours[1]) == set(theirs[1])
    for name, value in theirs[1].items():
        assert value.abs().max() > 0
        torch.testing.assert_close(ours[1][name], value, rtol=1e-5, atol=1e-6)


def test_masks_and_scales_may_be_wider_than_the_density():
    """Sites outside of the plate under handlers of its size count as often as these say."""

    def wide() -> None:
        weight = pyro.param("weight", torch.tensor(0.5))
        with poutine.mask(mask=SEEN):
            z = pyro.sample("z", dist.Normal(weight, 1.0))
            pyro.sample("penalty", dist.Normal(weight, 1.0), obs=torch.tensor(0.3))
            pyro.sample("y", dist.Normal(z, 1.0).expand([3, 1]), obs=DATA[:3, :1])
            with poutine.scale(scale=torch.linspace(0.5, 2, SIZE)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        with poutine.scale(scale=torch.tensor([[0.5], [2.0]])), pyro.plate("three", 3):
            pyro.sample("u", dist.Normal(z, 1.0), obs=DATA[0])
            pyro.sample("v", dist.Normal(z, 2.0), obs=DATA[1])

    def narrow() -> None:
        loc = pyro.param("loc", torch.tensor(0.2))
        pyro.sample("z", dist.Normal(loc, pyro.param("scale", torch.tensor(-1.0)).exp()))

    programs = wide, narrow
    ours = evaluated(lambda *a: loss_and_grads(Trace_ELBO(), *a), programs=programs)
    assert_same(ours, evaluated(Trace_ELBO().loss_and_grads, programs=programs))


@pytest.mark.parametrize(
    "family",
    [
        lambda a: dist.Normal(a, 1.0).expand([SIZE]).mask(SEEN),
        # A draw that is accepted or not adds more to the gradient than that of its density.
        lambda a: ShapeAugmentedGamma(a.expand(SIZE), torch.ones(SIZE)),
    ],
    ids=["masked", "accepted"],
)
def test_guides_with_score_parts_of_their_own(family):
    def likelihood() -> None:
        with pyro.plate("pixels", SIZE):
            z = pyro.sample("z", dist.Normal(1.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.3), obs=DATA[:, 0])

    def posterior() -> None:
        with pyro.plate("pixels", SIZE):
            pyro.sample("z", family(pyro.param("a", torch.tensor(0.7))))

    programs = likelihood, posterior
    ours = evaluated(lambda *a: loss_and_grads(Trace_ELBO(), *a), programs=programs)
    assert_same(ours, evaluated(Trace_ELBO().loss_and_grads, programs=programs))


def test_the_site_of_a_bad_value_is_named():
    def bad() -> None:
        model()
        pyro.sample("lost", dist.Normal(0.0, 1.0, validate_args=True), obs=torch.tensor(torch.nan))

    for function in (lambda *a: loss_and_grads(Trace_ELBO(), *a), Trace_ELBO().loss_and_grads):
        with pytest.raises(
            ValueError, match="Error while computing log_prob at site 'lost':\nExpected value"
        ):
            evaluated(function, programs=(bad, guide))


def test_the_device_is_waited_for_once(monkeypatch):
    """One number of a step is read, whatever the number of sites."""
    reads = []
    read = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: reads.append(1) or read(self))
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("read"))
    evaluated(lambda *a: loss_and_grads(Trace_ELBO(), *a))
    assert len(reads) == 1


def test_several_draws_are_left_to_pyro(monkeypatch):
    monkeypatch.setattr(trace_elbo, "_total", lambda sites: pytest.fail("not for several draws"))
    elbo = Trace_ELBO(num_particles=2)
    ours = evaluated(lambda *a: loss_and_grads(elbo, *a))
    assert ours[0] == evaluated(elbo.loss_and_grads)[0]


def test_a_guide_that_is_a_messenger_is_left_to_pyro():
    def plain() -> None:
        with pyro.plate("pixels", SIZE):
            z = pyro.sample("z", dist.Normal(torch.zeros(SIZE), 1.0))
            pyro.sample("y", dist.Normal(z, 0.3), obs=DATA[:, 0])

    found = []
    for function in (lambda *a: loss_and_grads(Trace_ELBO(), *a), Trace_ELBO().loss_and_grads):
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            pyro.set_rng_seed(0)
            found.append(function(plain, AutoNormalMessenger(plain)))
    assert found[0] == found[1] > 0
