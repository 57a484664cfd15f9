"""The optimiser that moves all parameters together, against Pyro's that moves one after the other."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from pyro.optim.clipped_adam import ClippedAdam

from pyro_unmix.infer.clipped_adam import ForeachClippedAdam

SHAPES = [(), (3,), (2, 5)]


def groups() -> list[dict]:
    """Parameters of several shapes, each with a rate and a decay of its own."""
    values = [torch.linspace(-1, 1, max(1, torch.Size(shape).numel())) for shape in SHAPES]
    return [
        {"params": [torch.nn.Parameter(value.reshape(shape))], "lr": 0.1 * (k + 1), "lrd": 0.9**k}
        for k, (value, shape) in enumerate(zip(values, SHAPES, strict=True))
    ]


def step(optimiser: torch.optim.Optimizer, number: int) -> list[torch.Tensor]:
    """A step on gradients of which some are clipped, some are zero, and the last comes later."""
    generator = torch.Generator().manual_seed(number)
    params = [group["params"][0] for group in optimiser.param_groups]
    for k, param in enumerate(params):
        param.grad = None
        if k < 2 or number > 3:
            param.grad = 20 * torch.randn(param.shape, generator=generator) * (number != 2)
    optimiser.step()
    return [param.detach().clone() for param in params]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("clip_norm", [10.0, 1.0])
def test_every_bit_is_that_of_clipped_adam(betas, clip_norm):
    ours, theirs = (
        kind(groups(), betas=betas, clip_norm=clip_norm)
        for kind in (ForeachClippedAdam, ClippedAdam)
    )
    for number in range(12):
        for a, b in zip(step(ours, number), step(theirs, number), strict=True):
            assert torch.equal(a, b)
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]


def test_state_of_one_is_state_of_the_other():
    """A checkpoint of Pyro's optimiser goes on in ours."""
    ours, theirs = ForeachClippedAdam(groups()), ClippedAdam(groups())
    for number in range(5):
        moved = step(theirs, number)
    with torch.no_grad():
        for group, value in zip(ours.param_groups, moved, strict=True):
            group["params"][0].copy_(value)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for number in range(5, 8):
        for a, b in zip(step(ours, number), step(theirs, number), strict=True):
            assert torch.equal(a, b)
    assert str(ours.state_dict()) == str(theirs.state_dict())


def test_a_gradient_that_is_not_a_number_stays_visible():
    optimiser = ForeachClippedAdam(groups())
    for group in optimiser.param_groups:
        group["params"][0].grad = torch.full(group["params"][0].shape, torch.nan)
    optimiser.step()
    assert all(torch.isnan(group["params"][0]).all() for group in optimiser.param_groups)


def test_nothing_moves_without_a_gradient():
    optimiser = ForeachClippedAdam(groups())
    before = [group["params"][0].detach().clone() for group in optimiser.param_groups]
    optimiser.step()
    for group, value in zip(optimiser.param_groups, before, strict=True):
        assert torch.equal(group["params"][0], value)


OTHERS = {"betas": (0.5, 0.9), "eps": 1e-3, "clip_norm": 1.0}


@pytest.mark.parametrize("name", OTHERS)
def test_groups_share_their_constants(name):
    """What differs between groups is refused, wherever it comes from, and changes nothing."""
    message = f"{name} must be .* as in the first group, got"
    first, second, third = groups()
    with pytest.raises(ValueError, match=message):
        ForeachClippedAdam([first, {**second, name: OTHERS[name]}])
    optimiser = ForeachClippedAdam([first, second])
    with pytest.raises(ValueError, match=message):
        optimiser.add_param_group({**third, name: OTHERS[name]})
    assert len(optimiser.param_groups) == 2
    state = copy.deepcopy(optimiser.state_dict())
    state["param_groups"][1][name] = OTHERS[name]
    with pytest.raises(ValueError, match=message):
        optimiser.load_state_dict(state)
    assert optimiser.param_groups[1][name] == optimiser.defaults[name]
    state["param_groups"][0][name] = OTHERS[name]  # the same in both
    optimiser.load_state_dict(state)
    optimiser.add_param_group({**third, name: OTHERS[name]})


@pytest.mark.parametrize(("name", "value"), [("weight_decay", 0.5), ("centered_variance", True)])
def test_what_is_not_served_is_refused(name, value):
    message = f"{name} is not served, got {value}: use pyro.optim.clipped_adam.ClippedAdam"
    first, second, _ = groups()
    with pytest.raises(ValueError, match=message):
        ForeachClippedAdam([first], **{name: value})
    optimiser = ForeachClippedAdam([first])
    with pytest.raises(ValueError, match=message):
        optimiser.add_param_group({**second, name: value})
    state = copy.deepcopy(ClippedAdam([second], **{name: value}).state_dict())
    with pytest.raises(ValueError, match=message):
        optimiser.load_state_dict(state)


def test_the_compiler_is_not_imported():
    """It takes two seconds, in every process that fits or resumes."""
    program = """
import sys, torch
from pyro_unmix.infer.clipped_adam import ForeachClippedAdam
value = torch.nn.Parameter(torch.ones(1))
optimiser = ForeachClippedAdam([{"params": [value]}])
value.grad = torch.ones(1)
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
