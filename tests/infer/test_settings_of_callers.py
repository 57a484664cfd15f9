"""What the caller has switched off in torch is on inside of a call, and off again behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.ops.threads import one_thread

SETTINGS: list[Callable[[], AbstractContextManager[object]]] = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", dtype=torch.bfloat16),
]


def unmixed() -> pu.Unmixing:
    library = pu.simulate.library(np.linspace(450, 2300, 8))[:, :2]
    scene = pu.simulate.scaled_scene(
        num_dates=2, height=4, width=4, num_endmembers=2, library=library
    )
    return pu.unmix(scene.cubes, 2, num_steps=4, progress=False)


@pytest.mark.parametrize("setting", SETTINGS, ids=["no_grad", "inference_mode", "autocast"])
def test_a_fit_has_the_bits_that_it_has_alone(
    setting: Callable[[], AbstractContextManager[object]],
) -> None:
    alone = unmixed()
    with setting():
        found = unmixed()
    assert np.array_equal(found.losses, alone.losses)
    assert np.array_equal(found.abundances, alone.abundances)
    assert len(set(alone.losses)) > 1  # it was trained


def test_the_settings_of_the_caller_come_back() -> None:
    with torch.inference_mode():
        with one_thread():
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            # Of the package itself, which reads out without gradients.
            with torch.no_grad(), one_thread():
                assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
