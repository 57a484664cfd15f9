"""`redsunn`: that it is the paper's method."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import reference
import xarray as xr
from pyro.infer import Trace_ELBO
from torch import nn
from unmix_cases import CUBES, MATRIX, SMALL, assert_same, batch_sizes, parameters, run

from pyro_unmix import SGLMM, BiLSTMGuide, fit, redsunn
from pyro_unmix.bases import DCT
from pyro_unmix.mixing import change_detector
from pyro_unmix.posterior import PlugInMean, PosteriorMean, Unmixing
from pyro_unmix.priors import FreeEndmembers, RandomWalk, SoftmaxWalk, WhiteNoise
from pyro_unmix.start import vca

SIGMA_PSI = 1e-5**0.5


def spectra_of(cubes: xr.DataArray) -> np.ndarray:
    """All spectra, pixel by pixel and date by date within."""
    return cubes.transpose("y", "x", "time", "wavelength").values.reshape(-1, cubes.shape[-1])


def buffers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in module.named_buffers()}


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
