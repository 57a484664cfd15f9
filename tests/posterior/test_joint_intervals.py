"""Intervals of all materials at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_unmix.posterior.intervals import credible_interval, joint_interval


def test_a_joint_interval_holds_new_vectors_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    pixels, level = 400, 0.9
    draws = torch.as_tensor(rng.dirichlet([2.0, 3.0, 4.0], size=(400, pixels)))
    new = torch.as_tensor(rng.dirichlet([2.0, 3.0, 4.0], size=(500, pixels)))
    low, high = joint_interval(draws, level)
    held = ((low <= new) & (new <= high)).all(-1).double().mean()
    # Over pixels of intervals of 400 draws each: the standard error of the mean is below .001.
    assert float(held) == pytest.approx(level, abs=0.01)
    one_low, one_high = credible_interval(draws, level)
    alone = ((one_low <= new) & (new <= one_high)).all(-1).double().mean()
    assert float(alone) < 0.85  # what intervals of single materials hold at once


def test_it_holds_the_zero_of_an_absent_material() -> None:
    rng = np.random.default_rng(3)
    small = np.abs(rng.normal(0, 0.01, (400, 50, 1)))
    share = rng.beta(20, 30, (400, 50, 1)) * (1 - small)
    draws = torch.as_tensor(np.concatenate([small, share, 1 - small - share], axis=-1))
    low, high = joint_interval(draws, 0.9)
    assert (low[:, 0] == 0).all() and (high[:, 0] < 0.05).all() and (low[:, 1:] > 0.1).all()
    inside = ((low <= draws) & (draws <= high)).all(-1).double().mean()
    assert float(inside) == pytest.approx(0.9, abs=0.01)


def test_the_ranks_are_the_same_in_every_component() -> None:
    draws = torch.as_tensor(np.random.default_rng(1).beta(30, 40, (99, 1, 3)))
    low, high = joint_interval(draws, 0.5)
    below = (draws < low).sum(0)[0]
    above = (draws > high).sum(0)[0]
    assert below.unique().numel() == 1 and torch.equal(below, above)
    inside = ((low <= draws) & (draws <= high)).all(-1).double().mean()
    assert 0.5 <= float(inside) < 0.6


def test_of_one_component_it_is_central() -> None:
    draws = (0.4 + torch.arange(19, dtype=torch.float64) / 100).view(19, 1, 1)
    low, high = joint_interval(draws, 0.9)
    assert (low, high) == (draws[0], draws[-1])
