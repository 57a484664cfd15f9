"""NUTS as the referee of posteriors: it finds what quadrature finds, and the comparison is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from pyro_unmix import SGLMM, FixedEndmembers
from pyro_unmix.bases import DCT
from pyro_unmix.priors import AutoRegressive, ConstantWalk, Independent, JumpWalk, WhiteNoise

pytest.importorskip("arviz")
import _referee


def test_draws_are_compared_in_stds_of_the_referee() -> None:
    rng = np.random.default_rng(0)
    shape = (4000, 2, 3, 2)
    found = {"draws": rng.normal(1.0, 2.0, shape), "r_hat": np.full(shape[1:], 1.001)}
    found["ess"] = np.full(shape[1:], 500.0)
    scores = _referee.compared(rng.normal(2.0, 1.0, shape), found)
    assert scores["mean, median"] == pytest.approx(0.5, abs=0.05)
    assert scores["mean, median"] < scores["mean, 90 %"] < scores["mean, worst"] < 0.6
    assert scores["std, worst"] == pytest.approx(0.5, abs=0.05)
    assert (scores["R-hat"], scores["ESS"]) == (1.001, 500.0)
    same = _referee.compared(rng.normal(1.0, 2.0, shape), found)
    assert same["mean, worst"] < 0.1 and same["std, worst"] < 0.1


CHAINS = {"independent": lambda: Independent(0.3, learn=False)}
CHAINS["coupled"] = lambda: AutoRegressive(0.8, 0.3, learn=False)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("walk", ["constant", "jumps"])
def test_the_referees_density_is_the_models(walk: str, chain: str) -> None:
    """Changes of the log-density, against dense matrices of all bands and dates and sums over what is not seen."""
    rng = np.random.default_rng(0)
    walks = {"constant": ConstantWalk(0.5, learn=False), "jumps": JumpWalk(scale=0.5, jump_scale=2)}
    kinds = {"constant": [(1.0, 0.5)], "jumps": [(0.95, 0.5), (0.05, 2.0)]}[walk]
    spectra, noise, num_dates = rng.uniform(0.1, 0.6, size=(7, 3)), 0.05, 2
    model = SGLMM(
        FixedEndmembers(spectra), basis=DCT(2), abundance_prior=walks[walk],
        variability_prior=CHAINS[chain](), noise=WhiteNoise(noise, learn=False),
    ).double()  # fmt: skip
    loc, scale = rng.normal(size=3), np.array([0.7, 1.5, 2.5])
    with torch.no_grad():
        model.abundance_prior.initial_loc.copy_(torch.from_numpy(loc))
        model.abundance_prior.log_initial_scale.copy_(torch.from_numpy(np.log(scale)))
    pixel = rng.uniform(0.1, 0.6, size=(num_dates, 7))
    memory = 0.8 ** np.abs(np.subtract.outer(range(num_dates), range(num_dates)))
    memory = memory if chain == "coupled" else np.eye(num_dates)
    components = model.components().detach().numpy()  # (L, K, P)
    sums = np.linspace(-25, 25, 501)
    first, second = np.meshgrid(sums, sums, indexing="ij")

    def expected(u: np.ndarray) -> float:
        contrasts = linalg.helmert(3)
        one, two = (u[t] @ contrasts + x[..., None] / 3 for t, x in enumerate((first, second)))
        start = sum(
            rho * stats.multivariate_normal(loc, np.diag(scale**2 + s**2)).pdf(one)
            for rho, s in kinds
        )
        step = sum(
            rho * stats.multivariate_normal(np.zeros(3), s**2 * np.eye(3)).pdf(two - one)
            for rho, s in kinds
        )
        a = np.exp(u @ contrasts)
        a /= a.sum(1, keepdims=True)
        mix = np.einsum("lkp,tp->tlkp", components, a).reshape(num_dates, 7, -1)
        spread = 0.3**2 * np.einsum("slk,tmk,st->sltm", mix, mix, memory).reshape(14, 14)
        spread += noise**2 * np.eye(14)
        rest = (pixel - a @ spectra.T).ravel()
        likelihood = stats.multivariate_normal(np.zeros(14), spread).logpdf(rest)
        return float(likelihood + np.log(np.sum(start * step)))

    log_density = _referee.density_of(model, torch.from_numpy(pixel))
    states = rng.normal(size=(4, num_dates, 2))
    found = [float(log_density(torch.from_numpy(u))) for u in states]
    wanted = [expected(u) for u in states]
    np.testing.assert_allclose(np.diff(found), np.diff(wanted), rtol=1e-6)


def test_the_referees_draws_are_the_posteriors() -> None:
    model = SGLMM(
        FixedEndmembers(np.array([[0.1, 0.6], [0.2, 0.4], [0.5, 0.3]])), basis=DCT(1),
        abundance_prior=ConstantWalk(0.5, learn=False), noise=WhiteNoise(0.1, learn=False),
        variability_prior=Independent(0.1, learn=False),
    ).double()  # fmt: skip
    pixel = np.array([0.3, 0.25, 0.35])
    components = model.components().numpy()[:, 0]  # (L, P)

    def likelihood(a: np.ndarray) -> float:
        spread = 0.1**2 * (components * a**2) @ components.T + 0.1**2 * np.eye(3)
        return float(
            stats.multivariate_normal(model.reference.value.numpy() @ a, spread).pdf(pixel)
        )

    # c_1 - c_2 ~ N(0, 2 (1 + 0.5^2))
    found = _referee.referee(model, torch.from_numpy(pixel)[None, None], 200, 60, num_chains=2)
    draws = found["draws"]
    grid = np.linspace(-12, 12, 401)
    first = 1 / (1 + np.exp(-grid))
    weight = [
        stats.norm(0, np.sqrt(2.5)).pdf(x) * likelihood(np.array([a, 1 - a]))
        for x, a in zip(grid, first, strict=True)
    ]
    mean = np.average(first, weights=weight)
    std = np.sqrt(np.average((first - mean) ** 2, weights=weight))
    assert draws.shape == (400, 1, 1, 2) and found["ess"].shape == (1, 1, 2)
    assert found["r_hat"].max() < 1.1 and 40 < found["ess"].min() < 500
    assert draws[:, 0, 0, 0].mean() == pytest.approx(mean, abs=0.4 * std)
    assert draws[:, 0, 0, 0].std() == pytest.approx(std, rel=0.3)


def test_another_walk_is_refused() -> None:
    model = SGLMM(np.eye(3), basis=DCT(1))
    with pytest.raises(TypeError, match="expected JumpWalk or ConstantWalk, got SoftmaxWalk"):
        _referee.density_of(model, torch.zeros(2, 3))
