"""Sweeps over abundances alone: their likelihood against dense matrices, their draws against quadrature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from polished_cases import (
    BANDS,
    DATES,
    GAMMA,
    JUMP,
    NOISE,
    PIXELS,
    RHO,
    SCALE,
    SPECTRA,
    STEP,
    fitted,
    model_of,
)
from result_cases import CUBES
from scipy import stats

from pyro_unmix import SGLMM, FixedEndmembers, Unmixing
from pyro_unmix.bases import DCT
from pyro_unmix.kernels.collapsed import CollapsedSweeps, Quadratic
from pyro_unmix.kernels.observations import Observations
from pyro_unmix.kernels.sweeps import elements_per_pixel, num_chains, polished
from pyro_unmix.posterior import PolishedMean, read_out
from pyro_unmix.priors import (
    ConstantWalk,
    DirichletWalk,
    JumpWalk,
    OrnsteinUhlenbeck,
    RandomWalk,
    SoftmaxWalk,
    StudentWalk,
    WhiteNoise,
)

COLLAPSED = PolishedMean(8, num_sweeps=3, exact=False)


def covariance_of(model: SGLMM, chain: str, reference: np.ndarray, noise: float) -> np.ndarray:
    """Of the spectra of all dates (T L, T L), psi integrated out at abundances (T, P)."""
    num_dates = len(reference)
    apart = np.abs(np.subtract.outer(range(num_dates), range(num_dates)))
    phi = 0.8 if chain == "coupled" else 0.0
    memory = SCALE**2 * np.where(apart == 0, 1.0, phi**apart)
    components = model.components().detach().numpy()  # (L, K, P)
    mix = np.einsum("lkp,tp->tlkp", components, reference).reshape(num_dates, len(components), -1)
    spread = np.einsum("slk,tmk,st->sltm", mix, mix, memory)
    size = num_dates * len(components)
    return spread.reshape(size, size) + noise**2 * np.eye(size)


@pytest.mark.parametrize("chain", ["independent", "coupled"])
def test_the_likelihood_is_that_of_a_fixed_covariance(chain: str) -> None:
    model, rng, num_dates = model_of("constant", chain), np.random.default_rng(0), 3
    y = rng.uniform(0.1, 0.6, size=(2, num_dates, BANDS))
    valid = np.array([[True, True, True], [True, False, True]])
    reference, one, two = rng.dirichlet(np.ones(2), size=(3, 2, num_dates))
    states = np.stack([one, two], axis=-1).transpose(1, 0, 2, 3)  # (T, B, P, S)
    with torch.no_grad():
        seen = Observations(model, torch.from_numpy(y), torch.from_numpy(valid), 1.5)
        quadratic = Quadratic(seen, torch.from_numpy(reference), chain == "independent")
        values = quadratic.value(torch.from_numpy(states.copy())).numpy()
        psi = quadratic.variability(torch.from_numpy(one)).numpy()
    assert values.shape == (num_dates if chain == "independent" else 1, 2, 2)
    components = model.components().detach().numpy()
    for n in range(2):
        keep = np.repeat(valid[n], BANDS)
        cov = covariance_of(model, chain, reference[n], 1.5 * NOISE)
        law = stats.multivariate_normal(cov=cov[np.ix_(keep, keep)])
        rests = [(y[n] - a[n] @ SPECTRA.T).ravel()[keep] for a in (one, two)]
        change = law.logpdf(rests[0]) - law.logpdf(rests[1])
        assert (values[:, n, 0] - values[:, n, 1]).sum() == pytest.approx(change, rel=1e-5)
        # E[psi | y] = cov(psi, y) cov(y)^-1 (y - M0 a)
        mix = np.einsum("lkp,tp->tlkp", components, reference[n]).reshape(num_dates, BANDS, -1)
        weights = np.linalg.solve(cov[np.ix_(keep, keep)], rests[0])
        whole = np.zeros(num_dates * BANDS)
        whole[keep] = weights
        phi = 0.8 if chain == "coupled" else 0.0
        for t in range(num_dates):
            expected = sum(
                SCALE**2 * (phi ** abs(s - t) if s != t else 1.0) * mix[s].T @ part
                for s, part in enumerate(whole.reshape(num_dates, BANDS))
            )
            np.testing.assert_allclose(psi[n, t], expected, rtol=1e-4, atol=1e-6)


def test_variability_whose_mean_is_not_zero_moves_the_endmembers() -> None:
    model = SGLMM(
        FixedEndmembers(SPECTRA), basis=DCT(2), abundance_prior=ConstantWalk(),
        variability_prior=RandomWalk(0.2, initial_scale=0.3), noise=WhiteNoise(NOISE),
    ).double()  # fmt: skip
    loc = np.array([0.3, -0.2, 0.1, 0.4])
    with torch.no_grad():
        model.variability_prior.initial_loc.copy_(torch.from_numpy(loc))
        rng = np.random.default_rng(1)
        y, (reference, one, two) = rng.uniform(0.1, 0.6, (2, 4)), rng.dirichlet([1, 1], (3, 2))
        seen = Observations(model, torch.from_numpy(y)[None], torch.ones(1, 2, dtype=torch.bool))
        quadratic = Quadratic(seen, torch.from_numpy(reference)[None], False)
        states = torch.from_numpy(np.stack([one, two], axis=-1))[:, None]
        values = quadratic.value(states)[0, 0].numpy()
    components = model.components().detach().numpy()
    endmembers = SPECTRA + np.einsum("lkp,kp->lp", components, loc.reshape(2, 2))
    mix = np.einsum("lkp,tp->tlkp", components, reference).reshape(2, 4, 4)
    memory = 0.3**2 + 0.2**2 * np.array([[1, 1], [1, 2]])
    cov = np.einsum("slk,tmk,st->sltm", mix, mix, memory).reshape(8, 8) + NOISE**2 * np.eye(8)
    law = stats.multivariate_normal(cov=cov)
    change = np.subtract(*(law.logpdf((y - a @ endmembers.T).ravel()) for a in (one, two)))
    assert values[0] - values[1] == pytest.approx(change, rel=1e-5)


def expected_moments(
    model: SGLMM, walk: str, chain: str, pixels: np.ndarray, seen: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Mean, std and 10 % quantile of a_1, (T,) each, by quadrature over the differences of the states."""
    grid = np.linspace(-14, 14, 281)
    kinds = [(1.0, STEP)] if walk == "constant" else [(1 - RHO, STEP), (RHO, JUMP)]

    def mixture(x: np.ndarray, variance: float) -> np.ndarray:
        return np.sum(
            [w * stats.norm(0, np.sqrt(2 * s**2 + variance)).pdf(x) for w, s in kinds], axis=0
        )

    first, second = np.meshgrid(grid, grid, indexing="ij")
    density = (mixture(first, 2 * GAMMA**2) * mixture(second - first, 0.0)).ravel()
    one = 1 / (1 + np.exp(-np.stack([first, second], axis=-1).reshape(-1, 2)))
    keep = np.repeat(seen, BANDS)
    cov = covariance_of(model, chain, reference, NOISE)[np.ix_(keep, keep)]
    rest = (pixels - np.stack([one, 1 - one], axis=-1) @ SPECTRA.T).reshape(len(one), -1)[:, keep]
    weight = np.log(density.clip(1e-300)) + stats.multivariate_normal(cov=cov).logpdf(rest)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    mean = weight @ one
    order = np.argsort(one, axis=0)
    places = (np.cumsum(weight[order], axis=0) < 0.1).sum(0)
    low = np.array([one[order[n, t], t] for t, n in enumerate(places)])
    return mean, np.sqrt(weight @ (one - mean) ** 2), low


@pytest.mark.parametrize(("walk", "chain"), [("constant", "independent"), ("jumps", "coupled")])
def test_the_draws_are_those_of_the_prior_and_that_likelihood(walk: str, chain: str) -> None:
    model = model_of(walk, chain)
    pixels = model.sample_sequence(PIXELS, DATES, seed=1)["pixels"]
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[0, 1] = False
    num_samples = 1000
    start = np.random.default_rng(0).dirichlet(
        np.ones(2), size=(num_chains(num_samples), PIXELS, DATES)
    )
    with torch.no_grad():
        draws, _ = polished(
            model, pixels, valid, torch.from_numpy(start),
            num_samples=num_samples, num_sweeps=10, exact=False,
        )  # fmt: skip
    assert draws.shape == (num_samples, PIXELS, DATES, 2)
    for n in range(PIXELS):
        mean, std, low = expected_moments(
            model, walk, chain, pixels[n].numpy(), valid[n].numpy(), start[:, n].mean(0)
        )
        found = draws[:, n, :, 0].numpy()
        # 250 chains: means are known to std / sqrt(250) at worst, four of them for 16 comparisons
        np.testing.assert_array_less(np.abs(found.mean(0) - mean), 4 * std / np.sqrt(250) + 1e-4)
        np.testing.assert_allclose(found.std(0), std, rtol=0.15, atol=1e-4)
        np.testing.assert_allclose((found < low).mean(0), 0.1, atol=4 * np.sqrt(0.09 / 250))


WALKS = [
    ConstantWalk, DirichletWalk, JumpWalk, OrnsteinUhlenbeck, SoftmaxWalk, StudentWalk,
]  # fmt: skip


@pytest.mark.parametrize("dates", [None, [0, 1, 5]])
@pytest.mark.parametrize("walk", WALKS)
def test_the_prior_of_the_chains_is_the_models(walk: type, dates: list[int] | None) -> None:
    model = SGLMM(FixedEndmembers(SPECTRA), basis=DCT(2), abundance_prior=walk(), dates=dates)
    model, generator = model.double(), np.random.default_rng(0)
    start = torch.from_numpy(generator.dirichlet(np.ones(2), size=(4, 2, 3)))
    y, valid = torch.rand(2, 3, BANDS).double(), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        chains = CollapsedSweeps(model, Observations(model, y, valid), start, generator)
        before = chains.c.clone()
        for _ in range(3):
            chains.sweep()
        assert (chains.c != before).any(-2).double().mean() > 0.5
        prior = model.abundance_prior
        c = chains.c.permute(3, 1, 0, 2)  # (S, B, T+1, P)
        wanted = [prior.initial().log_prob(c[:, :, 0])]
        step = prior.transitions()
        wanted += [step(c[:, :, t - 1], t).log_prob(c[:, :, t]) for t in (1, 2, 3)]
        torch.testing.assert_close(chains.log_prior, torch.stack(wanted).transpose(1, 2))
        torch.testing.assert_close(chains.value, chains.likelihood.value(chains.c[1:].softmax(-2)))


@pytest.mark.parametrize("name", ["independent", "coupled"])
def test_everything_of_a_result_follows_its_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replace(fitted(name), estimate=COLLAPSED).predict(CUBES)
    draws = result.sample(8)
    np.testing.assert_allclose(draws.mean("sample"), result.abundances, atol=1e-8)
    assert abs(result.abundances - fitted(name).abundances).max() > 1e-3
    assert Unmixing.load(result.save(tmp_path / "result")).estimate == COLLAPSED
    monkeypatch.setattr(read_out, "_CHUNK_ELEMENTS", 5000)
    again = result.predict(CUBES)
    np.testing.assert_allclose(again.abundances, result.abundances, atol=1e-9)
    for one, two in zip(again.dataset["variability"], result.dataset["variability"], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-7)


@pytest.mark.parametrize("chain", ["independent", "coupled"])
def test_the_mean_variability_makes_the_mean_spectrum(chain: str) -> None:
    """The fitted spectra are nearer to the noiseless ones than without the variability, and than the noise."""
    model = model_of("constant", chain)
    drawn = model.sample_sequence(200, DATES, seed=2)
    valid = torch.ones(200, DATES, dtype=torch.bool)
    start = torch.full((25, 200, DATES, 2), 0.5, dtype=torch.double)
    with torch.no_grad():
        draws, mean = polished(
            model, drawn["pixels"], valid, start, num_samples=100, num_sweeps=8, exact=False
        )
        # once more, from what was found
        draws, mean = polished(
            model, drawn["pixels"], valid, draws[:25].double(),
            num_samples=100, num_sweeps=8, exact=False,
        )  # fmt: skip
        truth = model.mix(drawn["abundances"], drawn["variability"])
        error = (model.mix(draws.mean(0), mean) - truth).square().mean().sqrt()
        without = (draws.mean(0) @ torch.from_numpy(SPECTRA).mT - truth).square().mean().sqrt()
    assert error < 0.95 * NOISE and without > 1.5 * error


def test_one_date_will_do_and_a_wrong_flag_will_not() -> None:
    model = model_of("jumps", "coupled")
    pixels = model.sample_sequence(3, 1, seed=2)["pixels"]
    start = torch.full((2, 3, 1, 2), 0.5, dtype=torch.double)
    with torch.no_grad():
        draws, mean = polished(
            model, pixels, torch.ones(3, 1, dtype=torch.bool), start,
            num_samples=8, num_sweeps=4, exact=False,
        )  # fmt: skip
    assert draws.shape == (8, 3, 1, 2) and mean.shape == (3, 1, 2, 2)
    torch.testing.assert_close(draws.sum(-1), torch.ones(8, 3, 1).double())
    assert float(draws.std(0).min()) > 0
    with pytest.raises(TypeError, match="exact must be True or False, got 1"):
        PolishedMean(exact=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("chain", ["independent", "coupled"])
def test_a_chunk_counts_what_the_likelihood_of_a_pixel_holds(chain: str) -> None:
    model, num_dates, batch = model_of("constant", chain), 40, 2
    abundances = torch.full((batch, num_dates, 2), 0.5).double()
    with torch.no_grad():
        y, valid = torch.rand(batch, num_dates, BANDS).double(), torch.ones(batch, num_dates).bool()
        found = Quadratic(Observations(model, y, valid), abundances, chain == "independent")
    tensors = [*found.factors, *found.sides, *[found.gram] * 3]  # with what it is computed from
    held = sum(tensor.numel() for tensor in tensors) / batch
    counted = elements_per_pixel(model, num_dates, 16, exact=False)
    assert counted == pytest.approx(held, rel=0.1)
