"""Runs of `redsunn` and `unmix` from given starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from pyro_unmix import redsunn, simulate, unmix
from pyro_unmix.bases import Brightness
from pyro_unmix.posterior import Unmixing

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
# 144 pixels are more than a batch of 128, and 289 are more than one of 256.
CUBES = simulate.scaled_scene(num_dates=3, height=12, width=12, library=LIBRARY, seed=0).cubes
SMALL = CUBES[:2, :4, :4]
MATRIX = LIBRARY[:, :3]
PRESETS = {"redsunn": redsunn, "unmix": unmix}
# A start that needs no search.
GIVEN: dict[str, dict[str, Any]] = {
    "redsunn": {"endmembers": MATRIX},
    "unmix": {"endmembers": MATRIX, "basis": Brightness(0.2)},
}


def run(name: str, cubes: Any = SMALL, **settings: Any) -> Unmixing:
    """The preset from a given start, for three steps unless told otherwise."""
    defaults = {"progress": False, **GIVEN[name]}
    if "num_epochs" not in settings:
        defaults["num_steps"] = 3
    return PRESETS[name](cubes, 3, **{**defaults, **settings})


def parameters(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def assert_same(got: Unmixing, expected: Unmixing) -> None:
    """The same bits everywhere."""
    np.testing.assert_array_equal(got.losses, expected.losses)
    xr.testing.assert_equal(got.to_dataset(), expected.to_dataset())
    for ours, theirs in ((got.model, expected.model), (got.guide, expected.guide)):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for key, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key


def batch_sizes(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[int]:
    """Filled with the number of pixels of every step."""
    sizes: list[int] = []
    original = kind.forward

    def forward(self, pixels, valid, **keywords):
        if torch.is_grad_enabled():  # the read-out has none
            sizes.append(len(pixels))
        return original(self, pixels, valid, **keywords)

    monkeypatch.setattr(kind, "forward", forward)
    return sizes
