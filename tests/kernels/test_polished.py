"""Draws that sweeps carried to the model's posterior, against quadrature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from polished_cases import (
    BANDS,
    DATES,
    GAMMA,
    JUMP,
    NOISE,
    PAIRS,
    PIXELS,
    RHO,
    SCALE,
    SPECTRA,
    STEP,
    fitted,
    model_of,
)
from pyro import poutine
from result_cases import CUBES
from scipy import stats

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, MeanFieldGuide, Unmixing, fit
from pyro_unmix.bases import DCT
from pyro_unmix.kernels import block_moves
from pyro_unmix.kernels.observations import Observations, quadratic_value
from pyro_unmix.kernels.sweeps import NUM_KEPT, GibbsSweeps, num_chains, polished
from pyro_unmix.posterior import PolishedMean, PosteriorMean, read_out
from pyro_unmix.priors import DirichletWalk, KnownAbundances, SoftmaxWalk, StudentNoise, StudentWalk
from pyro_unmix.start import misfit_factor


def statistics_of(chains: GibbsSweeps) -> dict[str, torch.Tensor]:
    """Of every chain and pixel, (S, B)."""
    a, c, psi = chains.abundances(), chains.c.permute(3, 1, 0, 2), chains.psi
    explained = quadratic_value(chains.observations.quadratic(psi[..., 1:, :]), a)
    return {
        "abundances": a[..., 0].mean(-1),
        "their squares": a.square().sum((-1, -2)),
        "their distance from the corners": a.log().sum((-1, -2)),
        "first state": c[..., 0, :].square().sum(-1),
        "steps": c.diff(dim=-2).square().sum((-1, -2)),
        "log-prior": chains.log_prior.sum(0).mT,
        "likelihood": explained.sum(-1),
        "psi": psi.mean((-1, -2)),
        "psi squared": psi.square().sum((-1, -2)),
        "psi's steps": psi.diff(dim=-2).square().sum((-1, -2)),
    }


@pytest.mark.parametrize(
    ("walk", "chain", "factor", "of_blocks"),
    [
        ("constant", "independent", 1.0, True),
        ("jumps", "coupled", 1.5, True),
        ("constant", "independent", 1.0, False),
    ],
)
def test_sweeps_leave_the_posterior_as_it_is(
    walk: str, chain: str, factor: float, of_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GibbsSweeps that start at what was drawn from the model with its spectra keep the joint distribution of both.

    Geweke, "Getting it right", JASA 99, 2004. Proposals are adapted to other states, as they may not depend on where
    the chains are.
    """
    num_pixels, dates, num_chains = 1500, 3, 2
    if not of_blocks:  # which hide the moves of single dates
        num_pixels = 4000
        monkeypatch.setattr(block_moves, "NUM_MOVES", 0)
    valid = torch.ones(num_pixels, dates, dtype=torch.bool)
    with torch.no_grad(), torch.random.fork_rng(), pyro.get_param_store().scope():
        torch.manual_seed(0)
        sites: Any = (
            poutine.trace(model_of(walk, chain, NOISE * factor)).get_trace(None, valid).nodes
        )
        c = torch.stack([sites[f"c_{t}"]["value"] for t in range(dates + 1)], dim=1)
        y = torch.stack([sites[f"y_{t}"]["value"] for t in range(1, dates + 1)], dim=1)
        psi = [sites[f"psi_{t}"]["value"].flatten(1) for t in range(1, dates + 1)]
        coupled = chain == "coupled"  # else no spectrum depends on psi_0, and the model has none
        first = sites["psi_0"]["value"].flatten(1) if coupled else SCALE * torch.randn_like(psi[0])
        valid[::5, 1] = False
        rng = np.random.default_rng(0)
        apart = rng.dirichlet(np.ones(2), size=(num_chains, num_pixels, dates))
        seen = Observations(model_of(walk, chain), y, valid, factor)
        chains = GibbsSweeps(model_of(walk, chain), seen, torch.from_numpy(apart), rng)
        chains.num_streams = num_pixels  # other numbers for every pixel
        chains.c = c.permute(1, 0, 2).unsqueeze(-1).repeat(1, 1, 1, num_chains)
        chains.psi = torch.stack([first, *psi], dim=1).repeat(num_chains, 1, 1, 1)
        chains.log_prior = chains.log_prior_of(chains.c)
        before = statistics_of(chains)
        for _ in range(2 if of_blocks else 16):
            chains.sweep()
        after = statistics_of(chains)
    assert (chains.c.permute(3, 1, 0, 2) != c)[:, :, 1:].all(-1).double().mean() > 0.8
    torch.testing.assert_close(chains.log_prior, chains.log_prior_of(chains.c))
    for name, value in after.items():
        change = (value - before[name]).mean(0)
        score = float(change.mean() / change.std().clamp(min=1e-12)) * np.sqrt(num_pixels)
        assert abs(score) < 3.5, f"{name} changed by {score:.1f} standard errors"


def test_the_variability_given_abundances_is_gaussian_as_it_should_be() -> None:
    """Density of a spectrum, mean and covariance of psi, against dense matrices."""
    model = model_of("constant", "coupled")
    y = model.sample_sequence(1, 2, seed=3)["pixels"]
    rng = np.random.default_rng(4)
    loc, std, states = rng.normal(size=4), rng.uniform(0.1, 0.5, size=4), rng.normal(size=(2, 2))
    a = np.exp(states) / np.exp(states).sum(1, keepdims=True)
    with torch.no_grad():
        seen = Observations(model, y, torch.ones(1, 2, dtype=torch.bool), 1.5)
        c, mean, scale = (torch.from_numpy(v) for v in (states[:, None], loc, std))
        found = seen.marginal(2, c, mean, scale)
        centre = seen.variability(found, mean, scale)[:, 0].numpy()
        one = seen.marginal(2, c[:1], mean, scale)
        units = torch.eye(4, dtype=torch.double)[:, None]
        by_noise = seen.variability(one, mean, scale, units)[:, 0].numpy().T - centre[0][:, None]
    expected = []
    for n in range(2):
        mix = (model.components().detach().numpy() * a[n]).reshape(BANDS, 4)
        rest = y[0, 1].numpy() - model.reference.value.numpy() @ a[n]
        precision = np.diag(std**-2) + mix.T @ mix / (1.5 * NOISE) ** 2
        right = loc / std**2 + mix.T @ rest / (1.5 * NOISE) ** 2
        np.testing.assert_allclose(centre[n], np.linalg.solve(precision, right), rtol=1e-5)
        spread = mix * std**2 @ mix.T + (1.5 * NOISE) ** 2 * np.eye(BANDS)
        expected.append(stats.multivariate_normal(mix @ loc, spread).logpdf(rest))
        if n == 0:
            np.testing.assert_allclose(by_noise @ by_noise.T, np.linalg.inv(precision), rtol=1e-5)
    assert float(found.value[1] - found.value[0]) == pytest.approx(
        expected[1] - expected[0], rel=1e-5
    )


def exact(
    model: SGLMM, walk: str, chain: str, pixels: np.ndarray, seen: np.ndarray, factor: float = 1.0
) -> tuple[np.ndarray, ...]:
    """Mean, std and 10 % quantile of a_1, (T,) each, and mean of the noiseless spectra, by quadrature.

    Over the differences of the two softmax states of a date: what both have in common is not seen by the
    likelihood, and isotropic steps of both are independent of it.
    """
    grid = np.linspace(-14, 14, 141)
    kinds = [(1.0, STEP)] if walk == "constant" else [(1 - RHO, STEP), (RHO, JUMP)]

    def mixture(x: np.ndarray, variance: float) -> np.ndarray:
        pdfs = [w * stats.norm(0, np.sqrt(2 * s**2 + variance)).pdf(x) for w, s in kinds]
        return np.sum(pdfs, axis=0)

    first, second = np.meshgrid(grid, grid, indexing="ij")
    density = mixture(first, 2 * GAMMA**2) * mixture(second - first, 0.0)
    one = 1 / (1 + np.exp(-np.stack([first, second], axis=-1).reshape(-1, 2)))  # (G, T)
    a = np.stack([one, 1 - one], axis=-1)
    phi = 0.8 if chain == "coupled" else 0.0
    apart = np.abs(np.subtract.outer(range(DATES), range(DATES)))
    psi = SCALE**2 * np.where(apart == 0, 1.0, phi**apart)
    components = model.components().detach().numpy()  # (L, K, P)
    outer = np.einsum("lkp,mkp->plm", components, components)
    cov = np.einsum("st,gsp,gtp,plm->gsltm", psi, a, a, outer).reshape(len(a), *[DATES * BANDS] * 2)
    cov += (factor * NOISE) ** 2 * np.eye(DATES * BANDS)
    keep = np.repeat(seen, BANDS)
    rest = (pixels - a @ SPECTRA.T).reshape(len(a), -1)[:, keep]
    cov = cov[:, keep][:, :, keep]
    solved = np.linalg.solve(cov, rest[..., None])[..., 0]
    log_likelihood = -0.5 * (rest * solved).sum(-1) - 0.5 * np.linalg.slogdet(cov)[1]
    weight = density.ravel() * np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    mean = weight @ one
    std = np.sqrt(weight @ (one - mean) ** 2)
    order = np.argsort(one, axis=0)
    below = np.cumsum(weight[order], axis=0)
    places = (below < 0.1).sum(0)
    low = np.array([one[order[n, t], t] for t, n in enumerate(places)])
    explained = rest - (factor * NOISE) ** 2 * solved
    spectra = weight @ ((a @ SPECTRA.T).reshape(len(a), -1)[:, keep] + explained)
    return mean, std, low, spectra


@pytest.mark.parametrize(
    ("walk", "chain", "factor"),
    [
        ("constant", "independent", 1.0),
        ("jumps", "coupled", 1.7),
    ],
)
def test_the_draws_are_those_of_the_posterior_wherever_they_start(
    walk: str, chain: str, factor: float
) -> None:
    model = model_of(walk, chain)
    pixels = model.sample_sequence(PIXELS, DATES, seed=1)["pixels"]
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[0, 1] = False
    num_samples = 1000
    generator = np.random.default_rng(0)
    start = generator.dirichlet(np.ones(2), size=(num_chains(num_samples), PIXELS, DATES))
    with torch.no_grad():
        draws, _ = polished(
            model, pixels, valid, torch.from_numpy(start),
            num_samples=num_samples, num_sweeps=16, noise_factor=factor,
        )  # fmt: skip
    assert draws.shape == (num_samples, PIXELS, DATES, 2)
    for n in range(PIXELS):
        mean, std, low, _ = exact(model, walk, chain, pixels[n].numpy(), valid[n].numpy(), factor)
        found = draws[:, n, :, 0].numpy()
        # 250 chains: means are known to std / sqrt(250) at worst, four of them for 16 comparisons
        np.testing.assert_array_less(np.abs(found.mean(0) - mean), 4 * std / np.sqrt(250) + 1e-4)
        np.testing.assert_allclose(found.std(0), std, rtol=0.15, atol=1e-4)
        # of the draws below the exact 10 % quantile
        np.testing.assert_allclose((found < low).mean(0), 0.1, atol=4 * np.sqrt(0.09 / 250))


@pytest.mark.parametrize("chain", ["independent", "coupled"])
def test_the_mean_variability_makes_the_mean_spectrum(chain: str) -> None:
    model = model_of("constant", chain)
    pixels = model.sample_sequence(PIXELS, DATES, seed=2)["pixels"]
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    start = torch.full((100, PIXELS, DATES, 2), 0.5, dtype=torch.double)
    with torch.no_grad():
        draws, mean = polished(model, pixels, valid, start, num_samples=400, num_sweeps=12)
        fitted = model.mix(draws.mean(0), mean).numpy()
    for n in range(PIXELS):
        seen = np.ones(DATES, dtype=bool)
        *_, expected = exact(model, "constant", chain, pixels[n].numpy(), seen)
        error = np.abs(fitted[n].ravel() - expected).max()
        without = np.abs((draws[:, n].mean(0).numpy() @ SPECTRA.T).ravel() - expected).max()
        assert error < 0.15 * NOISE and without > 2 * error


@pytest.mark.parametrize("name", PAIRS)
def test_everything_of_a_result_follows_the_polished_draws(name: str) -> None:
    result = fitted(name)
    draws = result.sample(8)
    np.testing.assert_allclose(draws.mean("sample"), result.abundances, atol=1e-8)
    np.testing.assert_allclose(draws.std("sample", ddof=1), result.abundances_std, atol=1e-8)
    median = result.quantile(0.5, num_samples=8)
    np.testing.assert_allclose(draws.median("sample"), median, atol=1e-8)
    guide = fitted(name, PosteriorMean(8))
    assert abs(guide.abundances - result.abundances).max() > 1e-3
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-8)
    again = result.predict(result.cubes)
    np.testing.assert_array_equal(again.abundances, result.abundances)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pixel_does_not_depend_on_those_beside_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fitted(name)
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 5000)
    again = result.predict(result.cubes)
    np.testing.assert_allclose(again.abundances, result.abundances, atol=1e-9)
    np.testing.assert_allclose(
        again.dataset["variability"], result.dataset["variability"], atol=1e-7
    )


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("walk", [SoftmaxWalk, DirichletWalk, StudentWalk])
def test_priors_of_models_in_single_precision_are_polished(walk: type, exact: bool) -> None:
    spectra = np.random.default_rng(0).uniform(0.1, 0.6, size=(CUBES.sizes["wavelength"], 3))
    model = SGLMM(FixedEndmembers(spectra), basis=DCT(2), abundance_prior=walk())
    estimate = PolishedMean(num_samples=8, num_sweeps=2, exact=exact)
    result = fit(
        model, ConjugateGuide(model), CUBES, num_steps=1, progress=False, estimate=estimate
    )
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert next(model.parameters()).dtype == torch.float32


def test_no_sweeps_are_the_guides_draws() -> None:
    result = fitted("independent")
    none = replace(result, estimate=PolishedMean(8, num_sweeps=0)).predict(CUBES)
    guide = replace(result, estimate=PosteriorMean(8)).predict(CUBES)
    np.testing.assert_array_equal(none.abundances, guide.abundances)
    few = replace(result, estimate=PolishedMean(7, num_sweeps=1))
    assert few.sample(7).sizes["sample"] == 7 and few.predict(CUBES).abundances.notnull().all()
    assert num_chains(7) == 2 and num_chains(8) == 8 // NUM_KEPT


def test_it_is_saved_with_its_settings(tmp_path: Path) -> None:
    estimate = PolishedMean(8, num_sweeps=2, noise_factor=1.5)
    result = replace(fitted("independent"), estimate=estimate)
    assert Unmixing.load(result.save(tmp_path / "result")).estimate == estimate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_sweeps": -1}, "num_sweeps must be"),
        ({"noise_factor": 0.0}, r"noise_factor must lie in \(0, inf\), got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolishedMean(**settings)


@pytest.mark.parametrize(
    "parts",
    [
        {"noise": StudentNoise()},
        {"abundance_prior": KnownAbundances(np.full((4, 2, 2), 0.5))},
    ],
)
def test_a_model_without_gaussian_posterior_is_refused(parts: dict[str, Any]) -> None:
    model = SGLMM(FixedEndmembers(SPECTRA), basis=DCT(2), **parts)
    cubes = model.sample_sequence(4, 2)["pixels"].numpy().transpose(1, 0, 2)[:, None]
    with pytest.raises(ValueError, match="PolishedMean needs a linear model with Gaussian noise"):
        fit(
            model, MeanFieldGuide(model), cubes, num_steps=0, progress=False,
            estimate=PolishedMean(8),
        )  # fmt: skip
    with pytest.raises(ValueError, match="got SGLMM: use PosteriorMean"):
        misfit_factor(model, cubes)
