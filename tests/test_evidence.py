"""Importance weights, what they say of a posterior, and the choice between fits, against exact Gaussians and scipy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from pyro_unmix import (
    DCT,
    SGLMM,
    AutoRegressive,
    BandNoise,
    ConjugateGuide,
    FixedEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    LowRankNoise,
    Unmixing,
    WhiteNoise,
    baselines,
    compare,
    fit,
)
from pyro_unmix.evidence import generalised_pareto_shape, log_mean, log_weights, pareto_k

BANDS, MATERIALS, DATES, PIXELS = 5, 2, 3, 7
RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.1, 0.6, size=(BANDS, MATERIALS))
KNOWN = RNG.dirichlet(np.ones(MATERIALS), size=(PIXELS, DATES))
NOISE, PHI, SCALE = 0.05, 0.6, 0.3


NOISES = {
    "white": lambda: WhiteNoise(NOISE),
    "band": lambda: BandNoise(NOISE * np.linspace(0.5, 2, BANDS)),
    "low rank": lambda: LowRankNoise(NOISE, rank=2),
}


@cache
def exact(noise: str = "white") -> Unmixing:
    """Known abundances: the guide's variability is the exact posterior."""
    model = SGLMM(
        FixedEndmembers(SPECTRA),
        basis=DCT(2),
        abundance_prior=KnownAbundances(KNOWN),
        variability_prior=AutoRegressive(PHI, SCALE),
        noise=NOISES[noise](),
    ).double()
    if noise == "low rank":
        with torch.no_grad():
            model.noise.factor.mul_(10)
    values = model.sample_sequence(PIXELS, DATES)["pixels"].numpy()
    guide = ConjugateGuide(model, correction=False).double()
    return fit(model, guide, values.transpose(1, 0, 2)[:, None], num_steps=0, progress=False)


def dense(noise: str = "white") -> tuple[np.ndarray, np.ndarray]:
    """Means (N, T L) and covariances (N, T L, T L) of every pixel."""
    model = exact(noise).model
    components = model.components().numpy()  # (L, K, P)
    own = NOISE**2 * np.eye(BANDS)
    if noise == "band":
        own = own * np.linspace(0.5, 2, BANDS) ** 2
    elif noise == "low rank":
        factor = model.noise.factor.detach().numpy()
        own = own + factor @ factor.T
    apart = np.abs(np.arange(DATES)[:, None] - np.arange(DATES))
    means, covs = [], []
    for known in KNOWN:
        mix = np.zeros((DATES * BANDS, DATES * 2 * MATERIALS))
        for t in range(DATES):
            block = (components * known[t]).reshape(BANDS, -1)
            mix[t * BANDS : (t + 1) * BANDS, t * 2 * MATERIALS : (t + 1) * 2 * MATERIALS] = block
        psi = SCALE**2 * np.kron(PHI**apart, np.eye(2 * MATERIALS))
        covs.append(mix @ psi @ mix.T + np.kron(np.eye(DATES), own))
        means.append((known @ SPECTRA.T).ravel())
    return np.array(means), np.array(covs)


@pytest.mark.parametrize("noise", NOISES)
def test_weights_of_an_exact_posterior_are_the_evidence(noise: str) -> None:
    cubes = exact(noise).cubes
    weights = log_weights(exact(noise), cubes, 6, 0)
    values = cubes.values[:, 0].transpose(1, 0, 2).reshape(PIXELS, -1)
    expected = [
        stats.multivariate_normal(m, c).logpdf(y)
        for m, c, y in zip(*dense(noise), values, strict=True)
    ]
    np.testing.assert_allclose(weights, np.tile(expected, (6, 1)), rtol=1e-5)


def test_held_out_density_is_the_exact_conditional() -> None:
    cubes = exact().cubes
    table = compare({"a": exact(), "b": exact()}, num_folds=3, num_samples=32, seed=4)
    fold = np.random.default_rng(4).integers(3, size=(PIXELS, DATES))
    expected = 0.0
    values = cubes.values[:, 0].transpose(1, 0, 2).reshape(PIXELS, -1)
    for mean, cov, y, own in zip(*dense(), values, fold, strict=True):
        for number in range(3):
            kept = np.repeat(own != number, BANDS)
            rest = 0.0
            if kept.any():
                inside = np.ix_(kept, kept)
                rest = stats.multivariate_normal(mean[kept], cov[inside]).logpdf(y[kept])
            expected += stats.multivariate_normal(mean, cov).logpdf(y) - rest
    expected /= values.size
    np.testing.assert_allclose(table["held_out"], [expected] * 2, rtol=1e-5)
    np.testing.assert_allclose(table["elbo"], table["importance_elbo"], rtol=1e-6)
    np.testing.assert_array_equal(table["unreliable"], 0)


def test_a_looser_guide_has_a_lower_elbo_but_nearly_the_same_evidence() -> None:
    result = drawn_fits()["rank 2"]
    found = result.diagnose(num_samples=300)
    assert (found["elbo"] <= found["importance_elbo"]).all()
    guide = result.guide
    saved = guide.head.detach().clone()
    with torch.no_grad():
        guide.head.copy_(1.5 * torch.randn(saved.shape, generator=torch.Generator().manual_seed(0)))
        worse = result.diagnose(num_samples=300)
        guide.head.copy_(saved)
    assert worse["elbo"].mean() < found["elbo"].mean() - 1
    gap = abs(worse["importance_elbo"] - found["importance_elbo"]).median()
    assert gap < 0.5 * (found["elbo"] - worse["elbo"]).median()
    assert worse["pareto_k"].median() > found["pareto_k"].median()


@pytest.mark.parametrize("shape", [0.1, 0.4, 0.9])
def test_the_tail_shape_is_that_of_a_generalised_pareto(shape: float) -> None:
    draws = stats.genpareto(shape).rvs(size=(600, 50), random_state=1)
    found = generalised_pareto_shape(np.sort(draws, axis=0))
    # asymptotic std (1 + k) / sqrt(S), and a prior worth ten draws at 1/2
    expected = (600 * shape + 5) / 610
    spread = (1 + shape) / np.sqrt(600)
    assert abs(found.mean() - expected) < 4 * spread / np.sqrt(50) + 0.01
    assert found.std() < 1.3 * spread


def test_pareto_k_of_weights_with_a_known_tail() -> None:
    rng = np.random.default_rng(0)
    for shape in (0.3, 1.0):
        # weights u^-k have a Pareto tail of index 1/k
        weights = -shape * np.log(rng.uniform(size=(2000, 40)))
        assert pareto_k(weights + 700).mean() == pytest.approx(shape, abs=0.08)
    assert (pareto_k(np.full((100, 3), 5.0)) == 0).all()
    assert np.isinf(pareto_k(rng.normal(size=(10, 2)))).all()


def test_log_mean_does_not_overflow() -> None:
    np.testing.assert_allclose(
        log_mean(np.array([[900.0], [900.0 + np.log(3)]])), [900 + np.log(2)]
    )


@cache
def drawn_fits() -> dict[str, Unmixing]:
    rng = np.random.default_rng(5)
    spectra = rng.uniform(0.1, 0.7, size=(16, 3))

    def model(rank: int) -> SGLMM:
        return SGLMM(
            FixedEndmembers(spectra),
            basis=DCT(rank),
            abundance_prior=JumpWalk(),
            variability_prior=Independent(0.15),
            noise=WhiteNoise(0.01),
        )

    values = model(2).sample_sequence(80, 3)["pixels"].numpy().transpose(1, 0, 2)[:, None]
    fits = {}
    for rank in (1, 2, 5):
        own = model(rank)
        fits[f"rank {rank}"] = fit(
            own, ConjugateGuide(own), values, num_steps=25, learning_rate=0.03, progress=False
        )
    return fits


def test_compare_prefers_the_rank_that_the_data_were_drawn_with() -> None:
    table = compare(drawn_fits(), num_folds=3, num_samples=32)
    assert table["fit"].values[0] == "rank 2"
    assert (np.diff(table["held_out"]) <= 0).all()
    assert table["held_out_se"][0] == 0 and (table["held_out_se"][1:] > 0).all()
    again = compare(drawn_fits(), num_folds=3, num_samples=32)
    xr.testing.assert_identical(again, table)


def test_pixels_without_a_date_have_no_diagnosis() -> None:
    result = drawn_fits()["rank 1"]
    cubes = result.cubes.copy(deep=True)
    cubes[:, 0, 4] = np.nan
    found = result.predict(cubes).diagnose(num_samples=50)
    assert found["pareto_k"].isnull().sum() == 1 and bool(found["elbo"][0, 4].isnull())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: compare([exact(), exact()]), TypeError, "results must map names to results"),
        (lambda: compare({"one": exact()}), ValueError, "at least two results, got 1"),
        (
            lambda: compare({"a": exact(), **drawn_fits()}),
            ValueError,
            "'rank 1' and 'a' are fits of different images",
        ),
        (lambda: compare({"a": classical(), "b": exact()}), ValueError, "needs a posterior"),
        (lambda: exact().diagnose(num_samples=1), ValueError, "num_samples must be at least 2"),
        (lambda: compare(drawn_fits(), num_folds=1), ValueError, "num_folds must be at least 2"),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def classical() -> Unmixing:
    return baselines.fcls(exact().cubes, SPECTRA, progress=False)
