"""Abundances under a smooth field: how draws are moved to them, and when there are any."""

from __future__ import annotations

import importlib
import logging
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_unmix import simulate
from pyro_unmix.methods import fcls
from pyro_unmix.simulate import Scene
from pyro_unmix.start import FieldEstimate, Start, choose_start, estimate_field
from pyro_unmix.start.field_fit import FitState, SmoothFit

field_module = importlib.import_module("pyro_unmix.start.field_estimate")
MATERIALS = ["vegetation", "soil", "snow"]


@pytest.fixture(scope="module")
def smooth() -> tuple[Scene, Start]:
    library = simulate.library(np.linspace(400, 2500, 60)).sel(endmember=MATERIALS)
    scene = simulate.smooth_scene(
        num_dates=3, height=13, width=12, num_endmembers=3, library=library, illumination_scale=0.2,
        cloud_fraction=0.05, seed=1,
    )  # fmt: skip
    return scene, choose_start(scene.cubes, num_endmembers=3, progress=False)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_module, "_ROUNDS", 4)
    monkeypatch.setattr(field_module, "_LEAST_LENGTH", 1.0)  # of these small images


def test_draws_are_moved_and_keep_their_spread() -> None:
    rng = torch.Generator().manual_seed(0)
    draws = 0.3 + 0.02 * torch.randn(400, 3, 3, generator=rng, dtype=torch.float64)
    draws[..., 2] = 1 - draws[..., :2].sum(-1)
    nan = torch.full((1, 3), torch.nan)
    inside = torch.tensor([[0.5, 0.2, 0.3]])
    corner = torch.tensor([[1.0, 0.0, 0.0]])
    field = FieldEstimate(torch.cat([nan, corner, inside, nan]), np.ones((4, 3)))
    moved = field.about(draws, slice(1, 4))
    torch.testing.assert_close(moved[:, 1].mean(0), inside[0].double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, 1].std(0), draws[:, 1].std(0))
    assert torch.equal(moved[:, 2], draws[:, 2])  # of which the field says nothing
    torch.testing.assert_close(moved.sum(-1), torch.ones(400, 3, dtype=torch.float64))
    assert moved.min() >= 0 and 0.9 < float(moved[:, 0, 0].mean()) < 1
    torch.testing.assert_close(field.about(draws[:, :2], torch.tensor([1, 2])), moved[:, :2])


def test_what_stays_of_the_spread_follows_from_how_far_means_are_moved() -> None:
    # Of normal numbers: one measurement says m, both say e; the truth varies about either by what they leave open.
    rng = torch.Generator().manual_seed(0)
    truth, one, two = torch.randn(3, 20_000, 2, generator=rng, dtype=torch.float64)
    one, two = truth + 0.5 * one, truth + 0.7 * two
    precisions = torch.tensor([1.0, 0.5**-2, 0.7**-2])
    means = one * precisions[1] / precisions[:2].sum()
    deviation = precisions[:2].sum() ** -0.5
    both = (one * precisions[1] + two * precisions[2]) / precisions.sum()
    field = FieldEstimate(both, np.ones((4, 2)))
    left = precisions.sum() ** -0.5 / deviation
    assert 0.75 < left < 0.9
    found = field.beside(means, torch.full_like(means, float(deviation)))
    assert found.remaining == pytest.approx(float(left), rel=0.02)
    assert field.remaining == 1 and found.abundances is field.abundances
    unseen = torch.full_like(means, torch.nan)
    both[:100], means[:100] = torch.nan, 50.0  # of which one or the other says nothing
    both[100:200], means[100:200] = 50.0, torch.nan
    again = field.beside(means, torch.full_like(means, float(deviation)))
    assert again.remaining == pytest.approx(float(left), rel=0.02)
    assert field.beside(unseen, unseen) is field
    # Means that are moved by more than they leave open were too sure: what stays has an end.
    assert field.beside(means, torch.full_like(means, 1e-3)).remaining == 0.75


def test_neighbours_lower_the_error_of_abundances(smooth: tuple[Scene, Start]) -> None:
    scene, start = smooth
    truth = scene.reference_endmembers.transpose("wavelength", "endmember").values
    tilt = 1 + 0.04 * np.linspace(-1, 1, 60)[:, None] * [1, -1, 1]
    near = [truth * tilt, truth / tilt]
    cubes = scene.cubes.copy(deep=True)
    field = estimate_field(cubes, start, near, [3.0, 1.0])
    assert field is not None
    xr.testing.assert_identical(cubes, scene.cubes)
    clouds = ~np.isfinite(cubes.values).all(-1)
    maps = field.abundances.numpy().reshape(13, 12, 3, 3).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(np.isnan(maps).all(-1), clouds)
    np.testing.assert_allclose(maps[~clouds].sum(-1), 1, atol=1e-6)
    alone = fcls(cubes, endmembers=truth).abundances.values
    known = np.where(clouds[..., None], np.nan, scene.abundances.values)[~clouds]
    error, error_alone = (np.linalg.norm(a[~clouds] - known) for a in (maps, alone))
    assert error < 0.85 * error_alone, (error, error_alone)
    # Means of both fits, by their weights.
    one, other = (estimate_field(cubes, start, [matrix], [1.0]) for matrix in near)
    assert one is not None and other is not None
    np.testing.assert_allclose(
        field.endmembers, 0.75 * one.endmembers + 0.25 * other.endmembers, rtol=1e-9
    )
    np.testing.assert_allclose(
        field.abundances, 0.75 * one.abundances + 0.25 * other.abundances, rtol=1e-9
    )


def test_a_field_that_is_not_all_there_is_is_none(
    smooth: tuple[Scene, Start], caplog: pytest.LogCaptureFixture
) -> None:
    scene, start = smooth
    truth = scene.reference_endmembers.transpose("wavelength", "endmember").values
    rng = np.random.default_rng(0)
    # What no smooth field makes, in spots.
    spots = 0.3 * (rng.uniform(size=(*scene.cubes.shape[:3], 1)) < 0.2)
    other = scene.cubes + spots * np.cos(2.0 * np.arange(60))
    with caplog.at_level(logging.INFO):
        assert estimate_field(other, start, [truth], [1.0]) is None
    (left,) = re.findall(r"leaves ([\d.]+) times the noise", caplog.text)
    assert float(left) > 1.03


@pytest.mark.parametrize(
    ("bound", "value", "says"),
    [
        ("_LEAST_BANDS", 20, "leaves"),  # for more than three unknowns of a spectrum
        ("_MOST_PIXEL_DATES", 400, "more than 400 pixel-dates"),
        ("_LEAST_LENGTH", 2.0, "smooth over 1.0 pixels"),
    ],
)
def test_a_field_that_says_little_is_none(
    bound: str,
    value: object,
    says: str,
    smooth: tuple[Scene, Start],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, start = smooth
    truth = scene.reference_endmembers.transpose("wavelength", "endmember").values
    monkeypatch.setattr(field_module, bound, value)
    with caplog.at_level(logging.INFO):
        assert estimate_field(scene.cubes, start, [truth], [1.0]) is None
    assert says in caplog.text


@pytest.mark.parametrize("what", ["variance", "abundances"])
def test_a_field_that_has_diverged_is_none(
    what: str, smooth: tuple[Scene, Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(fit: SmoothFit, state: FitState, *_: Any, **__: Any) -> None:
        state.abundances = torch.full((len(fit.pixels), 3), 1 / 3, dtype=torch.float64)
        if what == "variance":
            fit.variance = math.nan
        else:
            state.abundances[0] = torch.nan

    scene, start = smooth
    monkeypatch.setattr(SmoothFit, "run", run)
    assert estimate_field(scene.cubes, start, [start.endmembers], [1.0]) is None


def test_shifting_all_dates_changes_nothing(
    smooth: tuple[Scene, Start],
) -> None:
    scene, start = smooth
    truth = scene.reference_endmembers.transpose("wavelength", "endmember").values
    shifted = scene.cubes.assign_coords(time=scene.cubes["time"] + np.timedelta64(100, "D"))
    one = estimate_field(scene.cubes, start, [truth], [1.0], seed=3)
    other = estimate_field(shifted, start, [truth], [1.0], seed=3)
    assert one is not None and other is not None
    torch.testing.assert_close(one.abundances, other.abundances, equal_nan=True)
