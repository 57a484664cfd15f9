"""What `fit` refuses before it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fit_cases import CUBES, SCENE, paper, run
from pyro.infer.autoguide import AutoDelta, AutoNormal

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, NonFiniteLossError, fit
from pyro_unmix.bases import DCT
from pyro_unmix.data import as_cube_sequence
from pyro_unmix.priors import JumpWalk

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_an_autoguide_must_know_the_plate_of_the_pixels(kind):
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1))
    with pytest.raises(ValueError, match=f"{kind.__name__} must be told the plate"):
        fit(model, kind(model), CUBES, num_steps=2, progress=False)


@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_prior_that_is_nan_from_the_start_is_named(num_steps):
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1), abundance_prior=JumpWalk())
    with torch.no_grad():
        model.abundance_prior.log_scale.fill_(np.nan)
    guide = ConjugateGuide(model)
    with pytest.raises(NonFiniteLossError, match=r"^model.abundance_prior.log_scale is not finite"):
        fit(model, guide, CUBES, num_steps=num_steps, progress=False)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"num_steps": 3, "num_epochs": 2},
            ValueError,
            "pass num_steps or num_epochs, got both: remove one of them",
        ),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
        ({"num_steps": 2.5}, TypeError, "num_steps must be an integer"),
        ({"num_steps": None, "num_epochs": 0}, ValueError, r"num_epochs must lie in .0, inf"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0}, ValueError, r"learning_rate must lie in .0, inf"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be one real number"),
        ({"learning_rate_decay": 0}, ValueError, "learning_rate_decay must lie in"),
        ({"learning_rate_decay": 1.5}, ValueError, "learning_rate_decay must lie in"),
        (
            {"cubes": CUBES[..., :15]},
            ValueError,
            "the model has 20 bands, the cubes 15: build the model from endmembers of the same",
        ),
        ({"cubes": "scene.nc"}, FileNotFoundError, "no such file: scene.nc"),
    ],
)
def test_fit_errors(settings, error, text):
    with pytest.raises(error, match=text):
        run(**settings)


def mismatched_wavelengths():
    cubes = as_cube_sequence(CUBES)
    return cubes.assign_coords(wavelength=cubes["wavelength"].values[::-1])


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "text"),
    [
        (lambda: (*paper()[::-1], CUBES), {}, TypeError, r"expected fit\(model, guide, cubes\)"),
        (lambda: (paper()[0], paper()[1], CUBES), {}, ValueError, "built for another model"),
        (lambda: (paper()[0], BiLSTMGuide, CUBES), {}, TypeError, "guide must be a Pyro program"),
        (lambda: (SGLMM, paper()[1], CUBES), {}, TypeError, "model must be a Pyro program"),
        (lambda: (paper, paper()[1], CUBES), {}, ValueError, "built for another model"),
        (
            lambda: (*(lambda m, g: (m.double(), g))(*paper()), CUBES),
            {},
            TypeError,
            "one floating-point type, got .'torch.float32', 'torch.float64'.",
        ),
        (lambda: (*paper(), CUBES), {"loss": "elbo"}, TypeError, "loss must be an ELBO of Pyro"),
        (lambda: (*paper(), CUBES), {"callback": 3}, TypeError, "callback must be a function"),
        (lambda: (*paper(), CUBES), {"estimate": "mean"}, TypeError, "estimate must be Posterior"),
        (lambda: (*paper(), CUBES), {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (lambda: (*paper(), CUBES), {"seed": 1.5}, TypeError, "seed must be an integer"),
        (
            lambda: (*paper(), mismatched_wavelengths()),
            {},
            ValueError,
            "expected cubes at the wavelengths of the endmembers, got some up to 1950.0 nm off",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(arguments, settings, error, text):
    steps = []
    with pytest.raises(error, match=text):
        fit(
            *arguments(),
            **{"num_steps": 2, "progress": False, "callback": lambda *s: steps.append(s)}
            | settings,
        )
    assert not steps
