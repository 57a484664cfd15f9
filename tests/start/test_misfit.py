"""The factor by which errors exceed those that the model expects."""

from __future__ import annotations

import copy
import importlib
from functools import cache

import numpy as np
import pytest
import torch

from pyro_unmix import SGLMM, FixedEndmembers
from pyro_unmix.bases import DCT
from pyro_unmix.priors import Independent, JumpWalk, WhiteNoise
from pyro_unmix.start import misfit_factor

misfit_module = importlib.import_module("pyro_unmix.start.misfit")


@cache
def scene(noise: float = 0.02) -> tuple[SGLMM, np.ndarray]:
    spectra = np.random.default_rng(1).uniform(0.1, 0.7, size=(30, 3))
    model = SGLMM(
        FixedEndmembers(spectra), basis=DCT(2), abundance_prior=JumpWalk(initial_scale=4.0),
        variability_prior=Independent(0.02), noise=WhiteNoise(noise),
    )  # fmt: skip
    drawn = model.sample_sequence(400, 3, seed=5)["pixels"].numpy()
    return model, drawn.transpose(1, 0, 2).reshape(3, 20, 20, -1)


def test_errors_as_the_model_expects_have_a_factor_of_one() -> None:
    model, cubes = scene()
    assert 1.0 <= misfit_factor(model, cubes) < 1.08
    with_gaps = cubes.copy()
    with_gaps[1, :10] = np.nan
    assert 1.0 <= misfit_factor(model, with_gaps) < 1.1


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_a_noise_that_is_larger_than_the_models_is_told(factor: float) -> None:
    _, cubes = scene()
    model, _ = scene(0.02 / factor)
    assert misfit_factor(model, cubes) == pytest.approx(factor, rel=0.1)


def test_endmembers_that_are_wrong_are_told() -> None:
    model, cubes = scene()
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.reference.value.add_(
            0.03 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
        )
    assert misfit_factor(wrong, cubes) > 1.2


def test_a_scene_that_has_no_negative_abundances_has_a_factor_of_one() -> None:
    model, cubes = scene()
    assert misfit_factor(model, cubes[:, :2, :2]) == 1.0
    with pytest.raises(ValueError, match="num_pixels must be"):
        misfit_factor(model, cubes, num_pixels=0)


def test_a_few_drawn_values_whose_std_is_wrong_hide_no_misfit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A basis that imitates a material makes such ones: then what spectra show must not seem to be expected."""
    model, cubes = scene()
    normal = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = normal.clone()
    drawn[:40] = -100.0
    shown = iter([*[3 * normal] * 3, *[drawn] * 3])  # of three dates each
    monkeypatch.setattr(misfit_module, "_scores", lambda *_: next(shown))
    assert misfit_factor(model, cubes) == pytest.approx(3.0, rel=0.1)
