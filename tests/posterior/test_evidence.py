"""Importance weights, what they say of a posterior, and the choice between fits, against exact Gaussians and scipy."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from scipy import stats

from pyro_unmix import (
    SGLMM,
    BiLSTMGuide,
    ConjugateGuide,
    FixedEndmembers,
    MeanFieldGuide,
    Unmixing,
    compare,
    fit,
)
from pyro_unmix.bases import DCT
from pyro_unmix.methods import fcls
from pyro_unmix.posterior import read_out
from pyro_unmix.posterior.evidence import log_mean, log_weights
from pyro_unmix.priors import (
    AnchoredEndmembers,
    AutoRegressive,
    BandNoise,
    Independent,
    JumpWalk,
    KnownAbundances,
    LowRankNoise,
    WhiteNoise,
)

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


def test_chunks_of_pixels_do_not_change_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    cubes = exact().cubes
    whole = log_weights(exact(), cubes, 6, 0)
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 3 * DATES * 6 * (BANDS + 16))
    np.testing.assert_allclose(log_weights(exact(), cubes, 6, 0), whole, rtol=1e-9)


def test_a_plate_of_the_model_may_be_named_draws() -> None:
    class Named(SGLMM):
        def forward(self, pixels: Any, valid: Any, **known: Any) -> None:
            with pyro.plate("draws", 1, dim=-3):
                pyro.sample("extra", pyro.distributions.Normal(0.0, 1.0), obs=torch.zeros(1, 1, 1))
            super().forward(pixels, valid, **known)

    model = Named(FixedEndmembers(SPECTRA), basis=DCT(2), variability_prior=Independent())
    values = exact().cubes.values.astype(np.float32)
    result = fit(model, ConjugateGuide(model), values, num_steps=0, progress=False)
    assert np.isfinite(result.diagnose(num_samples=30)["elbo"]).all()


def test_what_all_pixels_share_is_no_evidence_of_one() -> None:
    """The prior of M0 is left out of the weights, which are the evidence of the exact Gaussian."""
    model = SGLMM(
        AnchoredEndmembers(0.9 * SPECTRA),
        basis=DCT(2),
        abundance_prior=KnownAbundances(KNOWN),
        variability_prior=AutoRegressive(PHI, SCALE),
        noise=WhiteNoise(NOISE),
    ).double()
    with torch.no_grad():
        model.reference.value.copy_(torch.from_numpy(SPECTRA))
    guide = ConjugateGuide(model, correction=False).double()
    result = fit(model, guide, exact().cubes, num_steps=0, progress=False)
    assert model.reference.log_prior(1).item() < -1e-3
    found = log_weights(result, result.cubes, 4, 0)
    np.testing.assert_allclose(found, log_weights(exact(), exact().cubes, 4, 0), rtol=1e-6)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dates", [None, (0.0, 1.0, 8.0)], ids=["even", "uneven"])
def test_gradients_of_the_elbo_are_those_of_the_exact_evidence(noise: str, dates: Any) -> None:
    model = copy.deepcopy(exact(noise).model)
    model.set_dates(dates)
    guide = ConjugateGuide(model, correction=False).double()
    pixels = torch.from_numpy(exact().cubes.values[:, 0].transpose(1, 0, 2).copy())
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pyro.infer.Trace_ELBO().differentiable_loss(model, guide, pixels, valid).backward()
    chain = model.variability_prior
    learned = [*model.noise.parameters(), chain.logit, chain.log_scale]
    found = [-parameter.grad.clone() for parameter in learned]

    # the evidence of dense Gaussians, with gradients by torch
    spread = (2 * model.noise.log_scale).exp().expand(BANDS)
    own = torch.diag(spread)
    if noise == "low rank":
        own = own + model.noise.factor @ model.noise.factor.mT
    units = np.array([0, 1, 2]) if dates is None else np.array(dates) / 4.0  # the median gap
    apart = torch.from_numpy(np.abs(units[:, None] - units).astype(float))
    correlation = torch.sigmoid(chain.logit) ** apart
    psi = torch.kron(correlation, torch.diag((2 * chain.log_scale).exp()))
    evidence = torch.zeros(()).double()
    for known, y in zip(KNOWN, pixels, strict=True):
        blocks = [(model.components() * torch.from_numpy(a)).reshape(BANDS, -1) for a in known]
        mix = torch.block_diag(*blocks)
        cov = mix @ psi @ mix.mT + torch.kron(torch.eye(DATES).double(), own)
        mean = torch.from_numpy((known @ SPECTRA.T).ravel())
        evidence = evidence + torch.distributions.MultivariateNormal(mean, cov).log_prob(y.ravel())
    for got, wanted in zip(found, torch.autograd.grad(evidence, learned), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def plates(pixels: Any, valid: Any, *, index: Any = None, size: Any = None, features: Any = None):  # type: ignore[no-untyped-def]
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


@cache
def by_autoguide() -> Unmixing:
    model = SGLMM(FixedEndmembers(SPECTRA), basis=DCT(2), variability_prior=Independent())
    guide = AutoNormal(model, create_plates=plates)
    values = exact().cubes.values.astype(np.float32)
    return fit(model, guide, values, num_steps=1, progress=False)


def test_an_autoguide_keeps_its_pixels_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters of a pixel have its number in the scene."""
    result = by_autoguide()
    whole = result.diagnose(num_samples=4000)["elbo"]
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 3 * DATES * 4000 * (BANDS + 16))
    again = result.diagnose(num_samples=4000)["elbo"]
    np.testing.assert_allclose(again, whole, rtol=0.1)
    assert whole.std() > 0.3 * abs(whole.mean())  # pixels differ by more


@pytest.mark.parametrize("guide", [BiLSTMGuide, MeanFieldGuide])
def test_any_guide_is_compared_with_any_other(guide: Any) -> None:
    model = SGLMM(
        FixedEndmembers(SPECTRA), basis=DCT(2), variability_prior=Independent(0.3, learn=False),
        noise=WhiteNoise(NOISE, learn=False),
    )  # fmt: skip
    cubes = exact().cubes[:1].copy(deep=True).astype(np.float32)
    cubes[:, 0, 2] = np.nan
    fits = {
        kind.__name__: fit(model, kind(model), cubes, num_steps=0, progress=False)
        for kind in (ConjugateGuide, guide)
    }
    table = compare(fits, num_samples=400)
    assert table["fit"].values[0] == "ConjugateGuide"
    # one date: nothing is left of a pixel whose date is held out, and the density is the evidence
    np.testing.assert_allclose(table["held_out"], table["importance_elbo"], rtol=1e-6)
    assert (table["importance_elbo"] >= table["elbo"]).all()


def test_weights_that_are_nan_are_refused() -> None:
    result = by_autoguide()
    broken = copy.deepcopy(result.model)
    with torch.no_grad():
        broken.noise.log_scale.fill_(math.nan)
    with pytest.raises(ValueError, match="importance weights of some pixels are NaN"):
        replace(result, model=broken).diagnose()


def test_log_mean_does_not_overflow() -> None:
    np.testing.assert_allclose(
        log_mean(np.array([[900.0], [900.0 + np.log(3)]])), [900 + np.log(2)]
    )
    assert np.isneginf(log_mean(np.full((3, 1), -np.inf))).all()


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


@pytest.mark.usefixtures("told_at_once")
def test_compare_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    fits = {"one": exact(), "other": exact()}
    compare(fits, num_folds=3, num_samples=2)
    shown = capsys.readouterr().err
    assert "compare: 8 of 8 folds" in shown and "other" in shown
    compare(fits, num_folds=3, num_samples=2, progress=False)
    assert capsys.readouterr().err == ""


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
        (lambda: compare({"a": exact(), "b": 3}), TypeError, "what fit or unmix returned, got 3"),
        (
            lambda: joint().diagnose(),
            ValueError,
            "site '_AutoDiagonalNormal_latent' is shared by all pixels",
        ),
        (lambda: exact().diagnose(num_samples=1), ValueError, "num_samples must be at least 2"),
        (lambda: compare(drawn_fits(), num_folds=1), ValueError, "num_folds must be at least 2"),
    ],
)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def joint() -> Unmixing:
    """With one Gaussian of all pixels."""
    result = by_autoguide()
    return replace(result, guide=AutoDiagonalNormal(result.model))


def classical() -> Unmixing:
    return fcls(exact().cubes, endmembers=SPECTRA, progress=False)
