"""How far the truth may be from chains that end in several places."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import pyro_unmix as pu
from pyro_unmix.infer import Sampled
from pyro_unmix.infer.between_chains import effective_size, spread_apart, widening
from pyro_unmix.infer.chains import Chain
from pyro_unmix.models.simplex import SimplexMixing

sampled_module = importlib.import_module("pyro_unmix.infer.sampled")
blocks_module = importlib.import_module("pyro_unmix.infer.block_draws")
SPECTRA = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])


@pytest.mark.parametrize("count", [3, 6, 12])
def test_the_widened_spread_of_a_few_values_holds_another_one(count: int) -> None:
    """Values and the truth from one normal distribution: 90 % intervals about the mean of a few hold the truth."""
    rng = np.random.default_rng(count)
    values, truth = rng.standard_normal((20000, count)), rng.standard_normal(20000)
    root_mean_square = values.std(1)  # as the draws of so many chains have
    bound = stats.norm.ppf(0.95) * root_mean_square
    off = np.abs(truth - values.mean(1))
    factor = widening(np.full(count, 1 / count))
    assert abs((off < factor * bound).mean() - 0.9) < 0.01
    assert (off < bound).mean() < (0.7 if count == 3 else 0.88)


def test_unequal_weights_count_as_fewer_chains() -> None:
    assert widening(np.array([0.5, 0.5, 0.0])) == widening(np.full(3, 1 / 3))
    assert widening(np.array([0.4, 0.4, 0.1, 0.1])) > widening(np.full(4, 0.25)) > 1
    assert widening(np.full(400, 1 / 400)) == pytest.approx(1, abs=0.01)


def test_chains_are_moved_from_the_mean_of_all_and_keep_their_own_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(n, 5, 2, generator=generator) + n for n in (4, 8, 1)]
    found = spread_apart(draws, 1.5).split([4, 8, 1])
    centre = torch.cat(draws).mean(0)
    for own, moved in zip(draws, found, strict=True):
        torch.testing.assert_close(moved - moved.mean(0), own - own.mean(0))
        farther = 1 + 0.5 * (1 - 1 / len(own))
        torch.testing.assert_close(moved.mean(0) - centre, farther * (own.mean(0) - centre))
    torch.testing.assert_close(spread_apart(draws, 1.0), torch.cat(draws))
    weighted = spread_apart(draws, 1.5, [1.0, 0.0, 0.0])[:4]
    torch.testing.assert_close(weighted, draws[0])


def _chain_at(model: SimplexMixing, level: float, seed: int) -> Chain:
    """Endmembers of a brightness of their own, everything else alike."""
    generator = torch.Generator().manual_seed(seed)
    centre = model.reference.centre
    noise = 0.01 * torch.rand(4, *centre.shape, generator=generator, dtype=torch.float64)
    shared = {
        "concentration": torch.tensor(0.3, dtype=torch.float64),
        "scales": torch.zeros(0, dtype=torch.float64),
        "brightness_scale": torch.tensor(0.01, dtype=torch.float64),
        "residual_variance": torch.full((1,), 1e-6, dtype=torch.float64),
        "residual_factor": torch.full((len(centre), 1), 1e-3, dtype=torch.float64),
        "noise_variance": torch.tensor(1e-4, dtype=torch.float64),
    }
    return Chain(model, tuple({**shared, "endmembers": level * centre + each} for each in noise))


def _result(starts: list[int], cubes: np.ndarray) -> Sampled:
    """Chains of so many programs as there are different numbers."""
    models = {number: SimplexMixing(SPECTRA, rank=1) for number in set(starts)}
    chains = [_chain_at(models[s], 0.95 + 0.05 * i, i) for i, s in enumerate(starts)]
    weights = np.full(len(chains), 1 / len(chains))
    orders = np.tile(np.arange(3), (len(chains), 1))
    result = Sampled(
        xr.Dataset(), model=chains[0].model, cubes=pu.as_cube_sequence(cubes), seed=0,
        method="sample", chains=tuple(chains), weights=weights, orders=orders, num_samples=30,
    )  # fmt: skip
    return result.read_out(progress=False)


def test_results_of_several_starts_are_widened_and_those_of_one_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    cubes = rng.dirichlet([1.0] * 3, (1, 4, 5)) @ SPECTRA.T + 0.01 * rng.standard_normal(
        (1, 4, 5, 4)
    )
    cubes = cubes.clip(0.01)
    apart, one = _result([0, 1, 2], cubes), _result([0, 0, 0], cubes)
    for module in (sampled_module, blocks_module):
        monkeypatch.setattr(module, "widening", lambda weights: 1.0)
    plain = _result([0, 1, 2], cubes)
    narrow = plain.endmembers_interval()
    monkeypatch.undo()
    wide = apart.endmembers_interval()
    assert bool((wide[1] - wide[0] > 1.3 * (narrow[1] - narrow[0])).all())
    assert float(apart.abundances_std.mean()) > 1.1 * float(plain.abundances_std.mean())
    xr.testing.assert_allclose(one.abundances_std, plain.abundances_std, rtol=0, atol=1e-12)
    xr.testing.assert_allclose(one.endmembers_interval(), narrow)
    xr.testing.assert_allclose(apart.reference_endmembers, plain.reference_endmembers)
    np.testing.assert_allclose(apart.abundances, plain.abundances, atol=0.05)
    draws = apart.sample(12)
    assert float(draws.min()) >= 0
    np.testing.assert_allclose(draws.sum("endmember"), 1, atol=1e-12)


def autoregressive(phi: float, num_draws: int, num_chains: int = 4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_draws, num_chains))
    draws = [noise[0]]
    for step in noise[1:]:
        draws.append(phi * draws[-1] + np.sqrt(1 - phi**2) * step)
    return torch.as_tensor(np.stack(draws, axis=1))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
def test_the_effective_size_of_an_autoregressive_chain_is_known(phi: float) -> None:
    """``S (1 - phi) / (1 + phi)``: the variance of a mean, which means of many such chains confirm."""
    expected = 4000 * (1 - phi) / (1 + phi)
    sizes = [float(effective_size(autoregressive(phi, 1000, seed=seed))) for seed in range(20)]
    assert np.mean(sizes) == pytest.approx(expected, rel=0.12)
    means = autoregressive(phi, 1000, num_chains=4000).mean(1)
    assert 1000 * (1 - phi) / (1 + phi) == pytest.approx(float(1 / means.var()), rel=0.12)


def test_the_effective_size_is_that_of_arviz() -> None:
    """Whose own ends the sum half a pair later: less than a pair that is nearly zero in long chains."""
    arviz = pytest.importorskip("arviz")
    for phi in (0.0, 0.5, 0.9):
        draws = autoregressive(phi, 800, seed=3)
        theirs = float(arviz.ess(draws.numpy(), method="mean"))
        assert float(effective_size(draws)) == pytest.approx(theirs, rel=1e-3)


def test_the_effective_size_of_chains_that_do_not_agree_is_small() -> None:
    draws = autoregressive(0.0, 400)
    apart = draws + 3 * torch.arange(4.0).unsqueeze(-1)
    both = effective_size(torch.stack([draws, apart], dim=-1))
    assert float(both[0]) > 1000 and float(both[1]) < 20
    trend = draws + 5 * torch.linspace(0, 1, 400)  # which halves of a chain do not agree about
    assert float(effective_size(trend)) < 60


def test_what_has_no_effective_size_has_none() -> None:
    assert bool(effective_size(torch.ones(2, 8, 3)).isnan().all())  # endmembers that are kept
    assert effective_size(torch.rand(2, 3, 5)).shape == (5,)
    assert bool(effective_size(torch.rand(2, 3, 5)).isnan().all())
    least = effective_size(torch.rand(2, 4, generator=torch.Generator().manual_seed(0)).double())
    assert 0 < float(least) <= 8 * np.log10(8)
