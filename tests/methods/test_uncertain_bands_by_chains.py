"""Chains of a library whose bands have noise of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy.stats import norm

import pyro_unmix as pu
from pyro_unmix.methods import unmix_by_chains
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.models import LibraryMixing

NM = np.linspace(450.0, 2400.0, 30)
CLASSES = ["vegetation", "soil", "water"]
SPREAD = np.where((NM < 700) | (NM > 2000), 0.05, 0.003)
SIDE = 14


def scene() -> tuple[np.ndarray, xr.DataArray, np.ndarray]:
    """Values (H, W, L), library, and truth (H, W, P): a spectrum of each class in a pixel, in the order `CLASSES`."""
    rng = np.random.default_rng(0)
    pure = pu.simulate.library(NM)

    def members(name: str) -> np.ndarray:
        waves = [np.sin(NM / rng.uniform(250, 600) + rng.uniform(0, 6)) for _ in range(6)]
        light = rng.normal(1, 0.08, 6)
        return pure.sel(endmember=name).values[:, None] * (light + 0.05 * np.stack(waves, axis=1))

    spectra = np.concatenate([members(name) for name in CLASSES], axis=1)
    library = xr.DataArray(
        spectra,
        dims=("wavelength", "endmember"),
        coords={"wavelength": NM, "label": ("endmember", np.repeat(CLASSES, 6))},
    )
    truth = rng.dirichlet(np.full(3, 0.7), (SIDE, SIDE))
    picked = 6 * np.arange(3) + rng.integers(0, 6, (SIDE, SIDE, 3))
    values = np.einsum("lyxp,yxp->yxl", spectra[:, picked], truth)
    return values + SPREAD * rng.normal(size=values.shape), library, truth


VALUES, LIBRARY, TRUTH = scene()
CUBES = pu.as_cube_sequence(VALUES[None], wavelength=NM)
FEW: dict[str, Any] = {"num_rounds": 12, "num_warmup": 4, "num_spectra": 60, "num_samples": 10}


def test_the_noise_of_a_band_is_as_uncertain_as_it() -> None:
    """The density of a spectrum, of its residual and noise written out in reflectance."""
    labels = list(LIBRARY["label"].values)
    model = LibraryMixing(LIBRARY.values, labels, rank=2, uncertainty=SPREAD)
    drawn = model.simulate(3, seed=1)
    with pyro.get_param_store().scope():
        conditioned = poutine.condition(model, {k: v for k, v in drawn.items() if k != "pixels"})
        trace = poutine.trace(conditioned).get_trace(
            drawn["pixels"], torch.ones(3, 1, dtype=torch.bool)
        )
    trace.compute_log_prob()
    weights = band_weights(SPREAD, CUBES)
    mean = model.explained(drawn["members_1"], drawn["amounts_1"]).numpy()
    mean = mean + drawn["residual_1"].numpy() @ drawn["residual_factor"].numpy().T / weights
    scale = float(drawn["noise_variance"].sqrt()) / weights
    expected = norm.logpdf(drawn["pixels"][:, 0].numpy(), mean, scale).sum(-1)
    np.testing.assert_allclose(trace.nodes["y_1"]["log_prob"].numpy(), expected, rtol=1e-10)


def test_chains_are_those_of_whitened_images_and_library() -> None:
    weights = band_weights(SPREAD, CUBES)
    whitened = pu.as_cube_sequence(VALUES[None] * weights, wavelength=NM)
    how = {**FEW, "seed": 3, "progress": False}
    result = unmix_by_chains(CUBES, endmembers=LIBRARY, uncertainty=7 * SPREAD, **how)
    other = unmix_by_chains(whitened, endmembers=LIBRARY * weights[:, None], **how)
    np.testing.assert_allclose(result.abundances, other.abundances, atol=1e-5)
    np.testing.assert_allclose(
        result.reconstruct(0), other.reconstruct(0) / weights, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(result.dataset["library"], LIBRARY.values)


def test_the_uncertainty_lowers_the_error_and_mends_the_intervals() -> None:
    def measured(**how: Any) -> tuple[float, float]:
        result = pu.unmix(CUBES, endmembers=LIBRARY, progress=False, **how)
        estimate = result.abundances.sel(endmember=CLASSES).values[0]
        lower, upper = result.interval(0.9).sel(endmember=CLASSES).values[:, 0]
        inside = (TRUTH >= lower - 2e-3) & (TRUTH <= upper + 2e-3)
        return float(np.sqrt(np.mean((estimate - TRUTH) ** 2))), float(inside.mean())

    (plain, held), (weighed, held_weighed) = measured(), measured(uncertainty=SPREAD)
    assert weighed < 0.8 * plain
    assert held < 0.8 < held_weighed < 0.97


def test_it_is_kept_with_the_result(tmp_path: Any) -> None:
    how = {**FEW, "progress": False}
    result = unmix_by_chains(CUBES, endmembers=LIBRARY, uncertainty=SPREAD, **how)
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.sample(4), result.sample(4))
    alike = unmix_by_chains(CUBES, endmembers=LIBRARY, **how)
    models = [one.chains[0].model for one in (result, loaded, alike)]
    assert models[0].has_library_of(models[1]) and not models[0].has_library_of(models[2])


@pytest.mark.parametrize(
    "how, text",
    [
        ({"num_endmembers": 3}, "pass endmembers=library"),
        ({"endmembers": LIBRARY, "trained": True}, "nothing that only training has"),
        ({"endmembers": LIBRARY, "num_steps": 3}, "nothing that only training has"),
        ({"endmembers": LIBRARY.values[:, ::6]}, "has several spectra of a class: pass one, or use nnls"),
        ({"endmembers": LIBRARY, "mixing": pu.mixing.Hapke()}, "not of the albedos of mixing"),
    ],
)  # fmt: skip
def test_where_it_cannot_be_taken_it_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pu.unmix(CUBES, uncertainty=SPREAD, progress=False, **how)


def test_bad_uncertainties_of_a_model_are_refused() -> None:
    labels = list(LIBRARY["label"].values)
    for bad in (SPREAD[:3], 0 * SPREAD):
        with pytest.raises(
            ValueError, match="must be a positive standard deviation for each of 30"
        ):
            LibraryMixing(LIBRARY.values, labels, uncertainty=bad)
