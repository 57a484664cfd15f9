"""`redsunn` and `unmix`: that they are made of what they say, and what they recover."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from pyro.infer import Trace_ELBO
from scipy.optimize import nnls
from torch import nn

from pyro_unmix import SGLMM, BiLSTMGuide, ConjugateGuide, fit, redsunn, simulate, unmix
from pyro_unmix.bases import DCT, Brightness
from pyro_unmix.mixing import change_detector
from pyro_unmix.posterior import PlugInMean, PosteriorMean, Unmixing
from pyro_unmix.priors import (
    AutoRegressive,
    FixedEndmembers,
    FreeEndmembers,
    Independent,
    JumpWalk,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)
from pyro_unmix.start import choose_start, match_endmembers, vca

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
# 144 pixels are more than a batch of 128, and 289 are more than one of 256.
CUBES = simulate.scaled_scene(num_dates=3, height=12, width=12, library=LIBRARY, seed=0).cubes
LARGER = simulate.scaled_scene(num_dates=2, height=17, width=17, library=LIBRARY, seed=1).cubes
SMALL = CUBES[:2, :4, :4]
MATRIX = LIBRARY[:, :3]
SIGMA_PSI = 1e-5**0.5

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


def spectra_of(cubes: xr.DataArray) -> np.ndarray:
    """All spectra, pixel by pixel and date by date within."""
    return cubes.transpose("y", "x", "time", "wavelength").values.reshape(-1, cubes.shape[-1])


def parameters(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


def buffers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.named_buffers()}


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


# redsunn: the paper's settings (Sec. V-C, VI; Algorithm 1)


@pytest.fixture(scope="module")
def published() -> Unmixing:
    """Only what one must say is said."""
    return redsunn(CUBES, 3, progress=False)


@pytest.fixture(scope="module")
def untrained() -> Unmixing:
    return redsunn(CUBES, 3, num_steps=0, progress=False)


def test_redsunn_is_the_published_method(published):
    """Every setting written out, none left to a default."""
    model = SGLMM(
        FreeEndmembers(vca(spectra_of(CUBES), 3, seed=0)),
        basis=DCT(10, scale=1.0),
        abundance_prior=SoftmaxWalk(num_layers=2, initial_scale=1.0),
        variability_prior=RandomWalk(SIGMA_PSI, learn=False, initial_scale=1.0),
        noise=WhiteNoise(0.01, learn=True),
        seed=0,
    )
    guide = BiLSTMGuide(model, change_detector=change_detector, seed=0)
    expected = fit(
        model,
        guide,
        CUBES,
        num_epochs=30,
        batch_size=128,
        learning_rate=1e-3,
        learning_rate_decay=1.0,
        loss=Trace_ELBO(),
        estimate=PlugInMean(num_samples=64),
        seed=0,
        device=None,
        progress=False,
    )
    assert_same(published, expected)
    assert published.method == "redsunn"


def test_redsunn_trains_30_epochs_in_batches_of_128(monkeypatch):
    sizes = batch_sizes(monkeypatch, BiLSTMGuide)
    losses = redsunn(CUBES, 3, progress=False).losses
    assert sizes == [128] * math.ceil(30 * 144 / 128)
    assert len(losses) == len(sizes)


def test_redsunn_learns_at_a_rate_of_one_thousandth(published, untrained):
    """Adam's first step moves every number by the rate, whatever its gradient."""
    one = redsunn(CUBES, 3, num_steps=1, progress=False)
    for after, before in ((one.model, untrained.model), (one.guide, untrained.guide)):
        for name, value in parameters(before).items():
            moved = np.abs(parameters(after)[name] - value)
            assert moved.max() == pytest.approx(1e-3, rel=1e-2), name
    # As many steps of that length bound how far one can get: the rate does not grow.
    moved = np.abs(parameters(published.model)["noise.log_scale"] - math.log(0.01))
    assert 1e-3 < moved <= 1.05e-3 * len(published.losses)


def test_redsunn_has_ten_orthonormal_cosines(untrained):
    assert type(untrained.model.basis) is DCT
    m0 = untrained.reference_endmembers.values
    expected = reference.dct_components(m0, 10)
    np.testing.assert_allclose(untrained.dataset["components"], expected, atol=1e-6)


def test_sigma_psi_is_a_standard_deviation_and_stays(published, untrained):
    """Of the steps that the model itself draws, before and after training."""
    assert inspect.signature(redsunn).parameters["sigma_psi"].default == SIGMA_PSI
    for result in (untrained, published):
        psi = result.model.sample_sequence(300, 6, seed=1)["variability"].double().numpy()
        steps = np.diff(psi, axis=1)
        error = 5 / math.sqrt(2 * steps.size)
        assert steps.std() == pytest.approx(0.0031623, rel=error + 1e-4)
    assert "variability_prior.log_scale" in buffers(published.model)


def test_another_sigma_psi_and_num_basis_are_used():
    result = run("redsunn", sigma_psi=0.2, num_basis=4)
    assert result.dataset.sizes["component"] == 4
    psi = result.model.sample_sequence(300, 6, seed=1)["variability"].numpy()
    steps = np.diff(psi, axis=1)
    assert steps.std() == pytest.approx(0.2, rel=5 / math.sqrt(2 * steps.size) + 1e-4)


@pytest.mark.parametrize(("bands", "expected"), [(7, 7), (10, 10), (11, 10)])
def test_k_is_cut_to_the_number_of_bands(bands, expected):
    cubes, matrix = SMALL[..., :bands], MATRIX[:bands]
    result = run("redsunn", cubes, endmembers=matrix)
    assert result.dataset["components"].shape == (bands, expected, 3)
    assert np.isfinite(result.losses).all()


def test_m0_starts_from_vca_on_the_spectra_of_all_dates(untrained):
    spectra = spectra_of(CUBES)
    expected = vca(spectra, 3, seed=0)
    np.testing.assert_array_equal(untrained.reference_endmembers, expected)
    # VCA picks observed spectra; these do not all come from one date.
    dates = set()
    for m in expected.T:
        (position,) = np.flatnonzero((spectra == m).all(1))
        dates.add(position % 3)
    assert len(dates) > 1
    assert isinstance(untrained.model.reference, FreeEndmembers)


def test_vca_leaves_missing_spectra_out_and_takes_the_seed():
    cubes = CUBES.copy(deep=True)
    cubes[0, :6] = np.nan
    cubes[1, 3, 3, 5] = np.nan
    spectra = spectra_of(cubes)
    spectra = spectra[np.isfinite(spectra).all(1)]
    starts = []
    for seed in (0, 1, 2):
        result = redsunn(cubes, 3, num_steps=0, seed=seed, progress=False)
        starts.append(result.reference_endmembers.values)
        np.testing.assert_array_equal(starts[-1], vca(spectra, 3, seed=seed))
    assert not all(np.array_equal(starts[0], other) for other in starts[1:])


def test_redsunn_learns_all_of_theta_and_phi(published, untrained):
    """theta = {M0, sigma_r, sigma_a, nu_0, gamma_0}; sigma_psi is not in it."""
    before, after = parameters(untrained.model), parameters(published.model)
    sigma_a = {f"abundance_prior.{kind}_{i}" for kind in ("weight", "bias") for i in (0, 1)}
    nu = {"abundance_prior.initial_loc", "variability_prior.initial_loc"}
    gamma = {"abundance_prior.log_initial_scale", "variability_prior.log_initial_scale"}
    assert set(after) == {"reference.value", "noise.log_scale"} | sigma_a | nu | gamma
    for name, value in before.items():
        assert not np.array_equal(value, after[name]), name
    for name in ("reference.value", *nu, *gamma):
        assert (before[name] != after[name]).all(), name
    before, after = parameters(untrained.guide), parameters(published.guide)
    assert set(after) >= {"shift_c", "shift_psi", "scale_c", "scale_psi", "alpha", "beta"}
    assert any(name.startswith("encoder.lstm") for name in after)
    for name, value in before.items():
        assert not np.array_equal(value, after[name]), name
    for module in ("model", "guide"):
        before, after = (buffers(getattr(r, module)) for r in (untrained, published))
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    # What is returned is what was learned, not the start.
    learned = published.model.reference.value.detach()
    np.testing.assert_array_equal(published.reference_endmembers, learned)


def test_redsunn_reads_out_algorithm_1(published):
    """With the std of posterior draws, whose mean is another estimate."""
    assert published.estimate == PlugInMean()
    draws = published.sample(64, seed=0)
    np.testing.assert_allclose(published.abundances_std, draws.std("sample", ddof=1), atol=1e-5)
    assert float(np.abs(published.abundances - draws.mean("sample")).max()) > 0.01
    mean = run("redsunn", estimate=PosteriorMean(8))
    np.testing.assert_allclose(mean.abundances, mean.sample(8).mean("sample"), atol=1e-5)


# unmix


def by_hand(cubes: xr.DataArray, chain: Any, **given: Any) -> Unmixing:
    """`unmix` as its docstring describes it, every setting written out."""
    start = choose_start(cubes, 3, seed=0, **given)
    model = SGLMM(
        FixedEndmembers(start.endmembers),
        basis=start.basis,
        abundance_prior=JumpWalk(
            scale=0.2, jump_scale=3.0, jump_probability=0.05, initial_scale=2.5
        ),
        variability_prior=chain,
        noise=WhiteNoise(start.noise_scale, learn=True),
        seed=0,
    )
    return fit(
        model,
        ConjugateGuide(model, correction=True, seed=0),
        cubes,
        num_steps=100,
        batch_size=256,
        learning_rate=0.01,
        learning_rate_decay=0.1,
        loss=Trace_ELBO(),
        estimate=PosteriorMean(num_samples=64),
        seed=0,
        progress=False,
    )


def test_unmix_is_what_it_says(monkeypatch):
    given = {"endmembers": MATRIX, "basis": Brightness(0.2)}
    sizes = batch_sizes(monkeypatch, ConjugateGuide)
    result = unmix(LARGER, 3, progress=False, **given)
    assert sizes == [256] * 100
    assert result.method == "unmix"
    chain = AutoRegressive(0.5, 1.0, learn=True)  # steps from date to date add up in that scene
    assert_same(result, by_hand(LARGER, chain, **given))


def test_unmix_needs_nothing_but_a_number():
    result = unmix(CUBES[:2], 3, num_steps=0, progress=False)
    start = choose_start(CUBES[:2], 3, seed=0)
    np.testing.assert_allclose(result.reference_endmembers, start.endmembers, rtol=1e-6)
    assert float(result.model.noise.scale.detach()) == pytest.approx(start.noise_scale, rel=1e-6)
    m0 = torch.from_numpy(np.ascontiguousarray(start.endmembers.values))
    expected = start.basis.components(m0)
    np.testing.assert_allclose(result.dataset["components"], expected, atol=1e-6)


def varying(chain: Any, seed: int, num_dates: int = 4) -> xr.DataArray:
    """Pixels drawn from the model, with brightness that lasts or does not."""
    model = SGLMM(
        MATRIX,
        basis=Brightness(0.3),
        abundance_prior=JumpWalk(),
        variability_prior=chain,
        noise=WhiteNoise(0.005),
    )
    return simulate.state_space(model, num_dates=num_dates, height=10, width=10, seed=seed).cubes


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("truth", "chosen"),
    [
        (AutoRegressive(0.9), AutoRegressive),
        (AutoRegressive(0.5), AutoRegressive),
        (RandomWalk(0.3), AutoRegressive),
        (Independent(), Independent),
    ],
    ids=["0.9", "0.5", "walk", "independent"],
)
def test_variability_that_lasts_is_autoregressive_other_is_independent(truth, chosen, seed):
    cubes = varying(truth, seed)
    result = unmix(cubes, 3, endmembers=MATRIX, num_steps=0, progress=False)
    assert type(result.model.variability_prior) is chosen
    assert isinstance(result.model.basis, Brightness)
    if chosen is AutoRegressive:
        assert float(result.model.variability_prior.chain()[0][0].detach()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("correlation", "chosen"),
    [
        (0.0999, Independent),
        (0.1, Independent),
        (0.1001, AutoRegressive),
        (-0.9, Independent),
    ],
)
def test_the_limit_is_a_correlation_of_a_tenth(correlation, chosen, monkeypatch):
    monkeypatch.setattr(unmix_module, "temporal_correlation", lambda *arguments: correlation)
    assert type(run("unmix", num_steps=0).model.variability_prior) is chosen


def test_one_date_has_independent_variability():
    cubes = varying(AutoRegressive(0.9), seed=0)[:1]
    assert type(run("unmix", cubes, num_steps=0).model.variability_prior) is Independent


def test_the_time_constant_is_learned():
    """From 0.5 at the start towards the truth, on either side of it."""
    ended = {}
    for truth in (0.95, 0.2):
        cubes = varying(AutoRegressive(truth), seed=2)
        result = run("unmix", cubes, basis=Brightness(0.3), num_steps=60)
        assert type(result.model.variability_prior) is AutoRegressive
        ended[truth] = float(result.model.variability_prior.chain()[0][0].detach())
    assert ended[0.95] > 0.55
    assert ended[0.2] < 0.45


def test_without_the_correction_there_is_no_lstm():
    with_it, without = (run("unmix", correction=c) for c in (True, False))
    assert any(isinstance(part, nn.LSTM) for part in with_it.guide.modules())
    assert not any(isinstance(part, nn.LSTM) for part in without.guide.modules())
    assert not list(without.guide.parameters())
    assert len(without.losses) == 3
    start = run("unmix", correction=False, num_steps=0)
    for name, value in parameters(start.model).items():
        assert (parameters(without.model)[name] != value).any(), name


def test_zero_steps_are_the_start():
    start = run("unmix", num_steps=0)
    assert start.losses.shape == (0,)
    chosen = choose_start(SMALL, 3, **GIVEN["unmix"])
    assert float(start.model.noise.scale.detach()) == pytest.approx(chosen.noise_scale, rel=1e-6)
    # The heads of the correction are zero until something is learned.
    without = run("unmix", num_steps=0, correction=False)
    np.testing.assert_allclose(start.abundances, without.abundances, atol=1e-6)
    np.testing.assert_allclose(start.abundances.sum("endmember"), 1, atol=1e-5)
    trained = run("unmix", num_steps=3)
    assert float(np.abs(trained.abundances - start.abundances).max()) > 1e-5


# Both


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    cubes = CUBES[:2, :8, :8]
    first, again, other = (
        PRESETS[name](cubes, 3, seed=seed, num_steps=2, progress=False) for seed in (4, 4, 5)
    )
    assert_same(first, again)
    assert (first.losses != other.losses).all()
    assert not np.array_equal(first.abundances, other.abundances)
    assert other.seed == 5


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_reaches_model_guide_and_fit(name):
    """Even where the start is given and nothing is extracted."""
    first, other = (run(name, seed=seed, num_steps=0) for seed in (0, 1))
    weights = [key for key in parameters(first.guide) if "lstm.weight" in key]
    assert weights
    for key in weights:
        assert (parameters(first.guide)[key] != parameters(other.guide)[key]).any(), key
    if name == "redsunn":
        key = "abundance_prior.weight_0"
        assert (parameters(first.model)[key] != parameters(other.model)[key]).any()
    assert not np.array_equal(first.abundances_std, other.abundances_std)
    trained = [run(name, seed=seed).losses for seed in (0, 1)]
    assert (trained[0] != trained[1]).all()


@pytest.mark.parametrize("kind", ["array", "labelled"])
@pytest.mark.parametrize("name", PRESETS)
def test_given_endmembers_are_used(name, kind):
    matrix = 0.9 * (MATRIX if kind == "labelled" else MATRIX.values)
    before = matrix.copy()
    start = run(name, endmembers=matrix, num_steps=0)
    np.testing.assert_allclose(start.reference_endmembers, matrix, rtol=1e-6)
    names = list(MATRIX.endmember.values) if kind == "labelled" else [0, 1, 2]
    assert list(start.abundances.endmember.values) == names
    trained = run(name, endmembers=matrix)
    kept = np.array_equal(trained.reference_endmembers, start.reference_endmembers)
    assert kept == (name == "unmix")  # where they are known, and where they are the initial ones
    np.testing.assert_array_equal(matrix, before)


def test_a_given_basis_is_used():
    basis = Brightness(0.17)
    result = unmix(SMALL, 3, basis=basis, num_steps=1, progress=False)
    expected = 0.17 * result.reference_endmembers.values[:, None]
    np.testing.assert_allclose(result.dataset["components"], expected, rtol=1e-5)
    cosines = DCT(2, scale=[0.5, 0.1])
    result = run("unmix", basis=cosines)
    expected = reference.dct_components(MATRIX.values, 2) * np.array([0.5, 0.1])[:, None]
    np.testing.assert_allclose(result.dataset["components"], expected, atol=1e-6)


def test_the_number_of_endmembers_may_follow_from_them():
    settings = {"num_steps": 1, "progress": False, **GIVEN["unmix"]}
    assert_same(unmix(SMALL, **settings), unmix(SMALL, 3, **settings))


@pytest.mark.parametrize("name", PRESETS)
def test_settings_of_fit_are_passed_on(name):
    seen: list[int] = []
    result = run(
        name,
        num_steps=4,
        batch_size=5,
        learning_rate=1e-12,
        callback=lambda step, elbo: seen.append(step),
        method="mine",
    )
    assert seen == [0, 1, 2, 3]
    assert result.method == "mine"
    start = run(name, num_steps=0)
    for key, value in parameters(result.model).items():
        np.testing.assert_allclose(value, parameters(start.model)[key], atol=1e-9)
    # 16 pixels in batches of 5: a pass and a quarter are four steps.
    assert len(run(name, num_epochs=1.25, batch_size=5).losses) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_the_users_arrays_stay_as_they_are(name):
    cubes = SMALL.copy(deep=True)
    cubes[0, 1, 2, 3] = np.nan
    before = cubes.copy(deep=True)
    run(name, cubes)
    xr.testing.assert_identical(cubes, before)
    values = before.values.copy()
    run(name, values)
    np.testing.assert_array_equal(values, before.values)


@pytest.mark.parametrize("name", PRESETS)
def test_progress_writes_to_stderr_and_silence_writes_nothing(name, capfd):
    result = run(name, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "3/3" in err
    assert f"ELBO/value {-result.losses[-1]:.4f}" in err
    run(name, progress=False)
    assert capfd.readouterr() == ("", "")
    assert inspect.signature(PRESETS[name]).parameters["progress"].default is True


# Recovery


def fcls(spectra: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Non-negative least squares with the sum to one as a heavy row, pixel by pixel."""
    basis, triangle = np.linalg.qr(matrix)
    weight = 1e3 * np.abs(triangle).max()
    system = np.vstack([triangle, np.full(matrix.shape[1], weight)])
    flat = spectra.reshape(-1, len(matrix)).astype(float) @ basis
    found = np.array([nnls(system, np.append(y, weight))[0] for y in flat])
    return found.reshape(*spectra.shape[:-1], -1)


def nrmse(estimate: np.ndarray, truth: np.ndarray) -> float:
    """sqrt(mean_t ||A_t - Ahat_t||^2 / ||A_t||^2)"""
    dates = zip(estimate, truth, strict=True)
    return math.sqrt(np.mean([((a - b) ** 2).sum() / (b**2).sum() for a, b in dates]))


@pytest.mark.parametrize("kind", ["scaled_scene", "bundle_scene"])
def test_unmix_is_better_than_fcls_with_the_true_mean_endmembers(kind):
    """It is told the number of materials, FCLS their true mean spectra over all pixels and dates."""
    scene = getattr(simulate, kind)(num_dates=4, height=20, width=20, seed=0)
    every = slice(None, None, 4)
    cubes, truth = scene.cubes[..., every], scene.abundances.values
    dates = [scene.endmembers(t).values[:, :, every].mean((0, 1)) for t in range(4)]
    mean = np.mean(dates, axis=0)
    result = unmix(cubes, scene.num_endmembers, progress=False)
    order = match_endmembers(result.reference_endmembers.values, mean)
    got = nrmse(result.abundances.values[..., order], truth)
    assert got < nrmse(fcls(cubes.values, mean), truth)
    # Nor is it worse than saying the same everywhere.
    assert got < 0.5 * nrmse(np.broadcast_to(truth.mean((0, 1, 2)), truth.shape), truth)


# Bad input

WRONG = [
    ("both", {"num_endmembers": 1}, ValueError, "num_endmembers must be at least 2, got 1"),
    ("both", {"num_endmembers": 2.5}, TypeError, "num_endmembers must be an integer, got 2.5"),
    ("both", {"num_endmembers": True}, TypeError, "num_endmembers must be an integer"),
    (
        "both",
        {"num_endmembers": 33},
        ValueError,
        "num_endmembers = 33 needs at least as many valid spectra and bands, got 32 spectra of "
        "20 bands: lower num_endmembers",
    ),
    ("redsunn", {"num_endmembers": "auto"}, TypeError, "num_endmembers must be an integer"),
    ("unmix", {"num_endmembers": "all"}, ValueError, "must be one of 'auto', got 'all'"),
    (
        "unmix",
        {"num_endmembers": None},
        ValueError,
        "expected num_endmembers, or the spectra of the materials .*: got neither",
    ),
    (
        "redsunn",
        {"endmembers": MATRIX[:, :2]},
        ValueError,
        "num_endmembers is 3, but endmembers are the spectra of 2 materials",
    ),
    (
        "unmix",
        {"endmembers": MATRIX[:, :2]},
        ValueError,
        "num_endmembers is 3, but endmembers are the spectra of 2 materials",
    ),
    (
        "redsunn",
        {"endmembers": MATRIX.values.T},
        ValueError,
        r"endmembers must have one row per band, shape \(20, P\), got \(3, 20\): transpose it",
    ),
    (
        "unmix",
        {"endmembers": MATRIX.values.T},
        ValueError,
        r"endmembers must have one row per band, shape \(20, P\), got \(3, 20\): transpose it",
    ),
    ("redsunn", {"endmembers": MATRIX.values[:12]}, ValueError, r"\(20, P\), got \(12, 3\)"),
    ("unmix", {"endmembers": MATRIX.values[:12]}, ValueError, r"\(20, P\), got \(12, 3\)"),
    ("both", {"endmembers": np.full((20, 3), np.nan)}, ValueError, "endmembers must be finite"),
    ("both", {"endmembers": np.zeros((20, 3))}, ValueError, "must not hold zero spectra"),
    ("redsunn", {"num_basis": 0}, ValueError, "num_basis must be at least 1, got 0"),
    ("redsunn", {"num_basis": 2.5}, TypeError, "num_basis must be an integer, got 2.5"),
    ("redsunn", {"sigma_psi": 0}, ValueError, r"must lie in \(0, inf\), got 0"),
    ("redsunn", {"sigma_psi": "small"}, TypeError, "must be one real number, got 'small'"),
    ("unmix", {"basis": 3}, TypeError, r"basis must be a Basis object such as .*got 3"),
    ("unmix", {"basis": DCT(30)}, ValueError, "needs at least as many bands, got 20: use"),
    ("both", {"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
    ("both", {"num_epochs": 0}, ValueError, r"num_epochs must lie in \(0, inf\), got 0"),
    ("both", {"num_steps": 3, "num_epochs": 2}, ValueError, "pass num_steps or num_epochs"),
    ("both", {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ("both", {"learning_rate": 0}, ValueError, "learning_rate must lie in"),
    ("both", {"steps": 3}, TypeError, "unexpected keyword argument 'steps'"),
    ("both", {"cubes": "scene.nc"}, TypeError, "a cube sequence must be a numpy array"),
    ("both", {"cubes": SMALL * np.nan}, ValueError, "must have a valid pixel"),
    ("both", {"cubes": (SMALL * 1e4).astype(int)}, TypeError, "without a scale: multiply by"),
]


@pytest.mark.parametrize(
    ("name", "settings", "error", "text"),
    [
        pytest.param(name, *rest, id=f"{name}-{'-'.join(rest[0])}-{i}")
        for i, (which, *rest) in enumerate(WRONG)
        for name in (PRESETS if which == "both" else [which])
    ],
)
def test_preset_errors(name, settings, error, text):
    settings = {"cubes": SMALL, "num_endmembers": 3, "progress": False, **settings}
    if name == "unmix":
        settings = {"basis": Brightness(), **settings}  # looks for none
    with pytest.raises(error, match=text):
        PRESETS[name](settings.pop("cubes"), settings.pop("num_endmembers"), **settings)
