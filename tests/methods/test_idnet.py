"""IDNet's fits: recovery, read-out, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from idnet_cases import bundles, data, evaluate, pair, small_cube, spectra

from pyro_unmix import SGLMM, Unmixing, fit, metrics, simulate
from pyro_unmix.bases import DCT, ScalingDecoder
from pyro_unmix.data import library_endmembers
from pyro_unmix.guides import NonnegativeRegression, TwoStreamGuide
from pyro_unmix.infer import SelfSupervisedELBO
from pyro_unmix.methods import fcls, idnet
from pyro_unmix.mixing import BilinearMixing, LinearMixing
from pyro_unmix.models import IDNet
from pyro_unmix.posterior import PlugInMean, PosteriorMean
from pyro_unmix.priors import BandNoise, WhiteNoise
from pyro_unmix.start import extract_bundles

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
STRENGTH, BRIGHTNESS = 0.8, 0.15


def drawn_scene(
    num_pixels: int = 400, noise_scale: float = 0.01
) -> tuple[IDNet, dict[str, torch.Tensor], np.ndarray]:
    """Pixels drawn from the model itself, and its endmembers."""
    library = simulate.library(np.linspace(450, 2400, 30)).values
    matrix = library[:, np.argsort(-library.mean(0))[:3]]
    model = IDNet(
        matrix,
        decoder=ScalingDecoder(BRIGHTNESS),
        mixing=BilinearMixing(STRENGTH),
        noise=WhiteNoise(noise_scale),
        endmember_scale=0.003,
    )
    return model, model.sample_sequence(num_pixels, seed=3), matrix


def posterior_means(y: np.ndarray, matrix: np.ndarray, noise_scale: float) -> np.ndarray:
    """``E[a | y]`` under the truth: draws from the prior, weighted by the likelihood."""
    rng = np.random.default_rng(0)
    a = rng.dirichlet(np.ones(3), size=100_000)
    parts = (a * np.exp(BRIGHTNESS * rng.normal(size=a.shape)))[:, None] * matrix
    mean = parts.sum(-1)
    for p, q in ((0, 1), (0, 2), (1, 2)):
        mean += STRENGTH * parts[..., p] * parts[..., q]
    log_weights = (y @ mean.T - 0.5 * (mean**2).sum(1)) / noise_scale**2
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return weights @ a / weights.sum(1, keepdims=True)


def test_recovery_of_data_drawn_from_the_model() -> None:
    """Abundances and noiseless pixels, from a start that knows neither strengths, brightness nor noise.

    The least error that any method can have is that of the exact posterior mean; ours may be half a posterior std
    (in the mean square) away from it, which makes an error at most 12 % larger. Noiseless pixels are as close as a
    least-squares fit of a pixel's five free numbers. Strengths are not recovered: the decoders can take their place.
    """
    sigma, bands = 0.03, 30
    truth, drawn, matrix = drawn_scene(noise_scale=sigma)
    model = IDNet(
        matrix,
        decoder=ScalingDecoder(0.3),
        mixing=BilinearMixing(0.2),
        noise=WhiteNoise(2 * sigma),
        endmember_scale=0.01,
    )
    guide = TwoStreamGuide(
        model,
        regression=NonnegativeRegression(),
        informed=True,
        initial_gain=0.0,
        initial_precision=1e3,
    )
    y, a = drawn["pixels"][:, 0].numpy(), drawn["abundances"][:, 0].numpy()
    cube = y.reshape(1, 20, 20, bands)
    result = fit(
        model, guide, cube, num_steps=150, batch_size=100, progress=False,
        learning_rate=lambda name: 1e-3 if "net" in name or "correction" in name else 0.05,
        learning_rate_decay=0.1, estimate=PosteriorMean(16),
    )  # fmt: skip
    best = posterior_means(y, matrix, sigma)
    least = ((best - a) ** 2).mean()
    ours = result.abundances.values.reshape(-1, 3)
    assert ((ours - best) ** 2).mean() < 0.25 * least
    assert ((ours - a) ** 2).mean() < 1.25 * least
    noiseless = truth.mix(drawn["abundances"][:, 0], drawn["variability"][:, 0]).detach().numpy()
    wrong = ((result.reconstruct().values.reshape(-1, bands) - noiseless) ** 2).mean()
    assert wrong < sigma**2 * 5 / bands
    # between the residual of that fit and the largest that noise and endmember scale explain
    learned = float(result.model.noise.scale.detach())
    assert sigma * np.sqrt(1 - 5 / bands) < learned < 1.1 * sigma


def quick(**settings: Any) -> Unmixing:
    return idnet(small_cube().cubes, 3, progress=False, num_steps=3, **settings)


@pytest.mark.parametrize(
    "published", [None, "bilinear", "variability", "samson", "jasper_ridge", "cuprite"]
)
def test_the_preset_gives_a_whole_result(published: str | None, tmp_path: Path) -> None:
    result = quick(published=published)
    assert result.method == "idnet" and len(result.losses) == 3
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert (result.abundances_std > 0).all()
    assert result.dataset["variability"].sizes["component"] == 2
    endmembers, picture = result.endmembers(), result.reconstruct()
    assert endmembers.dims == ("y", "x", "wavelength", "endmember")
    psi = torch.from_numpy(result.dataset["variability"].values[0])
    with torch.no_grad():
        m = result.model.decoder(psi.transpose(-1, -2), result.model.reference.value).mT
        a = torch.from_numpy(result.abundances.values[0])
        np.testing.assert_allclose(endmembers, m, atol=1e-6)
        np.testing.assert_allclose(picture, result.model.mixing(m, a), atol=1e-6)
        if published is not None:  # read out at the decoded endmembers, without their white noise
            y = torch.from_numpy(small_cube().cubes.values.reshape(144, -1)).float()
            c = result.guide.concentration(y, torch.ones(144, dtype=torch.bool), m.flatten(0, 1))
            np.testing.assert_allclose(a.flatten(0, 1), c / c.sum(-1, keepdim=True), atol=1e-5)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.reconstruct(), picture, atol=1e-6)
    np.testing.assert_allclose(loaded.sample(2), result.sample(2), atol=1e-6)


def test_read_out_does_not_depend_on_the_neighbours_and_repeats() -> None:
    scene = small_cube()
    result = idnet(scene.cubes, 3, progress=False, num_steps=2)
    part = scene.cubes.isel(y=slice(3, 7), x=slice(2, 4))
    alone = result.predict(part)
    whole = result.abundances.isel(y=slice(3, 7), x=slice(2, 4))
    np.testing.assert_allclose(alone.abundances, whole, atol=1e-5)
    again = idnet(scene.cubes, 3, progress=False, num_steps=2)
    np.testing.assert_array_equal(again.abundances, result.abundances)
    means = idnet(scene.cubes, 3, progress=False, num_steps=2, estimate=PlugInMean())
    np.testing.assert_allclose(means.abundances, result.abundances, atol=0.1)


def test_std_and_mean_are_those_of_the_dirichlet() -> None:
    """With latents held in place, the draws' moments are a Dirichlet distribution's."""
    scene = small_cube(4)
    model = IDNet(
        scene.reference_endmembers,
        decoder=ScalingDecoder(1e-4),
        mixing=LinearMixing(),
        endmember_scale=1e-6,
    )
    guide = TwoStreamGuide(model, regression=NonnegativeRegression(), initial_precision=40.0)
    result = fit(
        model, guide, scene.cubes, num_steps=0, progress=False, estimate=PosteriorMean(4000)
    )
    y = torch.from_numpy(scene.cubes.values.reshape(16, -1)).float()
    with torch.no_grad():
        c = guide.concentration(y, torch.ones(16, dtype=torch.bool), model.reference.value).numpy()
    total = c.sum(1, keepdims=True)
    std = np.sqrt(c * (total - c) / total**2 / (total + 1)).reshape(1, 4, 4, 3)
    mean = (c / total).reshape(1, 4, 4, 3)
    assert (np.abs(result.abundances - mean) < 5 * std / np.sqrt(4000) + 1e-4).all()
    np.testing.assert_allclose(result.abundances_std, std, rtol=0.12, atol=2e-3)


def test_missing_pixels_are_filled() -> None:
    scene = small_cube()
    cubes = scene.cubes.copy(deep=True)
    cubes[0, 4, 5] = np.nan
    result = idnet(cubes, 3, progress=False, num_steps=2)
    assert np.isfinite(result.abundances).all() and not result.valid[0, 4, 5]
    assert (result.abundances_std[0, 4, 5] > 0.1).all()


def test_known_endmembers_and_libraries_are_used() -> None:
    scene = small_cube()
    names = ["a", "b", "c"]
    known = scene.reference_endmembers.assign_coords(endmember=names)
    result = quick(endmembers=known)
    np.testing.assert_allclose(result.reference_endmembers, known, atol=1e-6)
    assert result.abundances["endmember"].values.tolist() == names
    library = extract_bundles(scene.cubes, known, 5)
    result = quick(endmembers=library)
    assert result.abundances["endmember"].values.tolist() == names


def test_the_defaults_beat_fcls_on_a_bilinear_scene() -> None:
    _, drawn, matrix = drawn_scene(900)
    cube = drawn["pixels"].numpy().reshape(1, 30, 30, -1)
    truth = drawn["abundances"].numpy().reshape(1, 30, 30, 3)
    known = xr.DataArray(matrix, dims=("wavelength", "endmember"))
    ours = idnet(cube, 3, endmembers=known, progress=False, num_epochs=2)
    linear = fcls(cube, endmembers=known, progress=False)
    assert isinstance(ours.model.mixing, BilinearMixing)
    error, other = (metrics.nrmse_abundances(r.abundances, truth) for r in (ours, linear))
    assert error < 0.6 * other


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: quick(published="moon"), ValueError, "published must be one of 'bilinear'"),
        (lambda: quick(steps=3), TypeError, "unexpected keyword argument 'steps'"),
        (
            lambda: idnet(simulate.scaled_scene(num_dates=2, height=4, width=4).cubes, 3),
            ValueError,
            r"idnet unmixes one image, got 2 dates: select one with .isel\(time=\[0\]\)",
        ),
        (
            lambda: quick(endmembers=np.ones((24, 2)) * [0.2, 0.5]),
            ValueError,
            "num_endmembers is 3",
        ),
        (lambda: IDNet(spectra(), latent_size=0), ValueError, "latent_size must be at least 1"),
        (lambda: IDNet(spectra(), mixing="linear"), TypeError, "mixing must be a Mixing object"),
        (lambda: IDNet(spectra(), decoder=LinearMixing()), TypeError, "decoder must be a Decoder"),
        (lambda: IDNet(spectra(), endmember_scale=0.0), ValueError, "endmember_scale must lie in"),
        (
            lambda: TwoStreamGuide(SGLMM(np.ones((12, 2)) * [0.2, 0.5])),
            TypeError,
            "built from an IDNet",
        ),
        (
            lambda: TwoStreamGuide(pair()[0], regression=3),
            TypeError,
            "regression must be a Regression",
        ),
        (
            lambda: TwoStreamGuide(pair()[0], informed=True),
            ValueError,
            r"needs a decoder with a brightness_posterior, such as ScalingDecoder\(\), got Perceptron",
        ),
        (
            lambda: TwoStreamGuide(IDNet(spectra(), noise=BandNoise(0.1))),
            ValueError,
            "TwoStreamGuide serves white noise only, got BandNoise",
        ),
        (lambda: SelfSupervisedELBO(spectra()), TypeError, "bundles must be a DataArray"),
        (lambda: SelfSupervisedELBO(bundles() * np.nan), ValueError, "bundles must be finite"),
        (
            lambda: evaluate(bundles()[:, :12]),
            ValueError,
            "the model has 3 materials and 8 bands, the bundles have 2 and 8: make them by extract_b",
        ),
        (
            lambda: evaluate(bundles()[:5]),
            ValueError,
            "3 materials and 8 bands, the bundles have 3 and 5",
        ),
        (
            lambda: evaluate(bundles(), IDNet(library_endmembers(bundles()[:, ::-1]))),
            ValueError,
            r"in the order of the model's materials, \['c', 'b', 'a'\], got \['a', 'b', 'c'\]",
        ),
        (
            lambda: SelfSupervisedELBO(bundles()).loss(
                SGLMM(spectra(), basis=DCT(2)), None, *data()
            ),
            TypeError,
            "SelfSupervisedELBO is the objective of IDNet, got a SGLMM",
        ),
        (lambda: SelfSupervisedELBO(bundles(), weight=-1), ValueError, "weight must lie in"),
        (
            lambda: SelfSupervisedELBO(bundles(), weight=10, label_weight=1),
            ValueError,
            "label_weight must be at least weight / num_draws = 2",
        ),
        (
            lambda: pair()[0](None, torch.ones(3, 2, dtype=torch.bool)),
            ValueError,
            "IDNet unmixes one image, got 2 dates",
        ),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
