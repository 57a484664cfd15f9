"""The preset of the published program: what it is made of and how it is read out."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import reference
import torch
import xarray as xr
from pyro import poutine

from pyro_unmix import Unmixing, fit, simulate
from pyro_unmix.guides import PublishedGuide
from pyro_unmix.infer import Ramp, WeightedELBO
from pyro_unmix.methods import arguments, fcls, redsunn_published
from pyro_unmix.methods.redsunn_published import along_trajectories
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.models.published import RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.posterior import PlugInMean
from pyro_unmix.posterior.programs import as_tensors
from pyro_unmix.posterior.read_out import read_out
from pyro_unmix.priors import FreeEndmembers, RandomWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
# The package holds the function of this name.
published_module = importlib.import_module("pyro_unmix.methods.redsunn_published")
LIBRARY = simulate.library(np.linspace(450, 2400, 14))
CUBES = simulate.scaled_scene(num_dates=3, height=5, width=4, library=LIBRARY, seed=0).cubes
MATRIX = LIBRARY.values[:, :3]


@pytest.fixture(scope="module")
def fitted() -> Unmixing:
    return redsunn_published(CUBES, 3, endmembers=MATRIX, num_basis=2, num_steps=3, progress=False)


def test_a_trajectory_has_the_means_given_the_draws_before(fitted: Unmixing) -> None:
    got = along_trajectories(fitted, seed=4)
    y, valid = as_tensors(CUBES, fitted.model)
    with pyro.validation_enabled(False), torch.no_grad():
        torch.manual_seed(4)
        nodes = poutine.trace(fitted.guide).get_trace(y, valid).nodes
    for t in range(1, 4):
        a = reference.softmax(nodes[f"c_{t}"]["fn"].loc.numpy())
        np.testing.assert_allclose(
            got.abundances[t - 1].values.reshape(-1, 3), a, rtol=1e-5, atol=1e-7
        )
        psi = nodes[f"psi_{t}"]["fn"].loc.numpy().reshape(-1, 2, 3)
        variability = got.dataset["variability"][t - 1].values.reshape(-1, 2, 3)
        np.testing.assert_allclose(variability, psi, rtol=1e-5, atol=1e-7)


def test_trajectories_replace_the_estimates_alone(fitted: Unmixing) -> None:
    before = fitted.dataset.copy(deep=True)
    got = along_trajectories(fitted, 3, seed=1)
    xr.testing.assert_identical(fitted.dataset, before)
    for name, variable in before.items():
        assert got.dataset[name].dims == variable.dims
        assert got.dataset[name].attrs == variable.attrs
        changed = name in ("abundances", "variability")
        assert changed != np.array_equal(got.dataset[name], variable, equal_nan=True), name
    np.testing.assert_allclose(got.abundances.sum("endmember"), 1, atol=1e-6)
    assert got.endmembers(0).shape == fitted.endmembers(0).shape
    xr.testing.assert_identical(got.abundances, along_trajectories(fitted, 3, seed=1).abundances)
    assert not got.abundances.equals(along_trajectories(fitted, 3, seed=2).abundances)


def test_without_spread_a_trajectory_is_algorithm_1() -> None:
    model = FirstDateSGLMM(MATRIX, basis=RawDCT(2), abundance_prior=VarianceWalk())
    guide = PublishedGuide(model)
    with torch.no_grad():
        for spread in (guide.spread_c, guide.spread_psi):
            spread.bias.fill_(-1000.0)
    result = fit(model, guide, CUBES, num_steps=0, progress=False)
    expected = read_out(model, guide, CUBES, estimate=PlugInMean())
    got = along_trajectories(result, 2).dataset
    for name in ("abundances", "variability"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_result_without_a_guide_has_no_trajectories() -> None:
    with pytest.raises(ValueError, match="expected a result with model, guide and cubes"):
        along_trajectories(fcls(CUBES, 3, progress=False))


def test_the_preset_is_made_of_these_parts() -> None:
    """Every setting written out."""
    got = redsunn_published(CUBES, 3, endmembers=MATRIX, num_basis=2, seed=1, progress=False)
    assert not list(pyro.get_param_store().keys())
    model = FirstDateSGLMM(
        FreeEndmembers(MATRIX),
        basis=RawDCT(2, amplitude=0.02),
        abundance_prior=VarianceWalk(0.1),
        variability_prior=RandomWalk(math.sqrt(1e-5), learn=False, initial_scale=1.0),
        noise=WhiteNoise(0.005, learn=True),
        seed=1,
    )
    guide = PublishedGuide(model, basis=TransposedDCT(2, amplitude=0.02), seed=1)
    result = fit(
        model, guide, CUBES, num_epochs=30, batch_size=128, learning_rate=1e-3, seed=1,
        loss=WeightedELBO(Ramp(5000, 14 / 9)), progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(got.losses, result.losses)
    xr.testing.assert_equal(got.abundances, along_trajectories(result, seed=1).abundances)
    assert got.method == "redsunn_published"


def test_the_preset_takes_its_own_endmembers_and_settings() -> None:
    result = redsunn_published(CUBES, 3, num_steps=2, num_trajectories=4, progress=False)
    assert len(result.losses) == 2
    assert result.dataset.sizes["component"] == 10
    one = redsunn_published(CUBES, 3, num_steps=2, progress=False)
    assert not one.abundances.equals(result.abundances)
    np.testing.assert_array_equal(one.reference_endmembers, result.reference_endmembers)
    with pytest.raises(ValueError, match="num_endmembers is 4, but endmembers are"):
        redsunn_published(CUBES, 4, endmembers=MATRIX)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"sigma_psi": -1.0}, ValueError, "sigma_psi must lie in"),
        ({"num_trajectories": 0}, ValueError, "num_trajectories must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"num_stepps": 3}, TypeError, "unexpected keyword argument 'num_stepps'"),
    ],
)
def test_settings_are_refused_before_anything_is_computed(
    settings: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "vca", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(error, match=text):
        redsunn_published(CUBES, 3, **settings)


def test_the_read_out_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(result: Unmixing, *_: Any, **__: Any) -> Unmixing:
        seen.append(torch.get_num_threads())
        return result

    monkeypatch.setattr(published_module, "along_trajectories", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        redsunn_published(CUBES, 3, num_steps=1, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_the_result_can_be_saved_and_loaded(fitted: Unmixing, tmp_path: Path) -> None:
    fitted.save(tmp_path / "result")
    loaded = Unmixing.load(tmp_path / "result")
    xr.testing.assert_equal(loaded.abundances, fitted.abundances)
    again = loaded.predict(CUBES)
    xr.testing.assert_allclose(again.abundances, fitted.predict(CUBES).abundances)
