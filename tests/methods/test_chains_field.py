"""Which chains a field is fitted from, and that a scene without shared variability has none."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.infer import Sampled, sample
from pyro_unmix.methods import unmix_by_chains
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.start import FieldEstimate

chains_module = importlib.import_module("pyro_unmix.methods.unmix_by_chains")
field_module = importlib.import_module("pyro_unmix.start.field_estimate")
REFERENCE = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])
FEW: dict[str, Any] = {
    "num_rounds": 6, "num_spectra": 30, "num_held_out": 10, "num_kept": 2, "num_samples": 8,
    "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def result() -> Sampled:
    turned = REFERENCE[:, [2, 0, 1]]
    models = [SimplexMixing(m, rank=1) for m in (REFERENCE, turned, 0.9 * REFERENCE, turned * 0.8)]
    values = models[0].simulate(36, 1, seed=4)["pixels"].numpy().clip(0.001, 1.2)
    return sample(models, values.reshape(1, 6, 6, 4), seed=1, **FEW)


def test_a_field_is_fitted_from_the_heaviest_chains(
    result: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    field = FieldEstimate(torch.full((36, 3), 1 / 3).double(), REFERENCE)

    def estimate(cubes: Any, start: Any, endmembers: Any, weights: Any, **how: Any) -> Any:
        asked.append((start, endmembers, weights, how))
        return field

    monkeypatch.setattr(chains_module, "estimate_field", SimpleNamespace(unchecked=estimate))
    moved = chains_module._about_field(result, "start", 7, False)
    assert moved.field is not None and result.field is None
    assert moved.field.abundances is field.abundances
    ((start, endmembers, weights, how),) = asked
    assert start == "start" and how == {"seed": 7, "progress": False}
    assert result.weights is not None
    assert weights == sorted(result.weights, reverse=True)[:3]
    for matrix in endmembers:  # all in one order
        distance = np.linalg.norm(matrix[:, :, None] - REFERENCE[:, None], axis=0)
        order = distance.argmin(1)
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_array_equal(
            order, np.linalg.norm(endmembers[0][:, :, None] - REFERENCE[:, None], axis=0).argmin(1)
        )


def test_without_a_field_or_after_an_interrupt_the_chains_stay(
    result: Sampled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: Any, **__: Any) -> None:
        return None

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def singular(*_: Any, **__: Any) -> None:
        raise torch.linalg.LinAlgError("the input matrix is singular")

    monkeypatch.setattr(chains_module, "estimate_field", SimpleNamespace(unchecked=none))
    assert chains_module._about_field(result, None, 0, False) is result
    monkeypatch.setattr(chains_module, "estimate_field", SimpleNamespace(unchecked=interrupted))
    with caplog.at_level(logging.WARNING):
        assert chains_module._about_field(result, None, 0, False) is result
    assert "interrupted" in caplog.text
    monkeypatch.setattr(chains_module, "estimate_field", SimpleNamespace(unchecked=singular))
    with caplog.at_level(logging.WARNING):
        assert chains_module._about_field(result, None, 0, False) is result
    assert "the input matrix is singular" in caplog.text
    field = FieldEstimate(torch.full((36, 3), 1 / 3).double(), REFERENCE)
    monkeypatch.setattr(
        chains_module, "estimate_field", SimpleNamespace(unchecked=lambda *_, **__: field)
    )
    monkeypatch.setattr(Sampled, "about", interrupted)
    assert chains_module._about_field(result, None, 0, False) is result


def test_who_stops_chains_waits_for_no_field(
    result: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chain of two starts is done."""
    broken_off = replace(
        result, chains=result.chains[:1], weights=np.ones(1), orders=result.orders[:1]
    )
    several = chains_module.several_starts
    monkeypatch.setattr(chains_module, "_SHORT", 2)
    monkeypatch.setattr(chains_module, "several_starts", lambda *a, **k: several(*a, **k)[:2])
    monkeypatch.setattr(chains_module, "sample", lambda *_, **__: broken_off)
    monkeypatch.setattr(
        chains_module, "shares_variability", SimpleNamespace(unchecked=lambda *_: True)
    )
    monkeypatch.setattr(chains_module, "estimate_field", None)
    scene = pu.simulate.scaled_scene(num_dates=1, height=6, width=6, seed=0)
    assert unmix_by_chains(scene.cubes[..., ::32], 3, **FEW).field is None


@pytest.mark.parametrize("shares", [False, True])
def test_only_scenes_that_share_variability_are_asked_for_a_field(
    shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def none(*_: Any, **__: Any) -> None:
        asked.append(1)

    monkeypatch.setattr(chains_module, "estimate_field", SimpleNamespace(unchecked=none))
    monkeypatch.setattr(
        chains_module, "shares_variability", SimpleNamespace(unchecked=lambda *_: shares)
    )
    scene = pu.simulate.scaled_scene(num_dates=3, height=6, width=6, seed=0)
    found = unmix_by_chains(scene.cubes[..., ::32], 3, **FEW)
    assert found.field is None and asked == [1] * shares


def test_a_scene_of_smooth_variability_is_moved_to_its_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole of it, with short chains from one start near the truth."""
    library = pu.simulate.library(np.linspace(400, 2500, 60)).sel(
        endmember=["vegetation", "soil", "snow"]
    )
    scene = pu.simulate.smooth_scene(
        num_dates=3, height=38, width=36, num_endmembers=3, library=library, cloud_fraction=0.05, seed=1,
    )  # fmt: skip
    monkeypatch.setattr(chains_module, "_SHORT", 4)
    monkeypatch.setattr(field_module, "_ROUNDS", 4)
    truth = scene.reference_endmembers.transpose("wavelength", "endmember")
    near = truth * (1 + 0.04 * np.linspace(-1, 1, 60)[:, None] * [1, -1, 1])
    monkeypatch.setattr(chains_module, "several_starts", lambda *_, **__: [near])
    settings = {**FEW, "num_rounds": 10, "num_spectra": 200, "seed": 1}
    with monkeypatch.context() as patch:
        patch.setattr(
            chains_module, "estimate_field", SimpleNamespace(unchecked=lambda *_, **__: None)
        )
        alone = unmix_by_chains(scene.cubes, 3, **settings)
    moved = unmix_by_chains(scene.cubes, 3, **settings)
    assert alone.field is None and moved.field is not None
    seen = scene.cubes.notnull().all("wavelength").values
    errors = []
    for result in (moved, alone):
        order = pu.match_endmembers(result.reference_endmembers.values, truth.values)
        maps = result.abundances.values[..., order]
        errors.append(np.linalg.norm((maps - scene.abundances.values)[seen]))
    assert errors[0] < 0.9 * errors[1], errors
