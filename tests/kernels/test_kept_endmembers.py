"""Endmembers that are kept, with a residual outside of what they span: the program, its kernels, its weight."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pyro
import pytest
import torch
from invariance_cases import largest_z
from pyro import poutine
from scipy import stats
from simplex_cases import BANDS, MATERIALS, RANK, model_of, start_of

import pyro_unmix as pu
from pyro_unmix.infer.programs import program_of
from pyro_unmix.infer.stacking import share_of_kept
from pyro_unmix.kernels import (
    ROUND,
    EllipticalEndmembers,
    FactorDraws,
    Kernel,
    RescaleMoves,
    ResidualDraws,
    Spectra,
    State,
)
from pyro_unmix.models.common_residual import NormalOutside, outside

sample_module = importlib.import_module("pyro_unmix.infer.sample")
KERNELS: dict[str, tuple[Kernel, ...]] = {
    "FactorDraws": (ResidualDraws(), FactorDraws()),
    "RescaleMoves": (ResidualDraws(), RescaleMoves()),
    "ROUND": ROUND,
}
MOST = float(stats.norm.isf(1e-3 / (2 * 18 * 3)))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_leave_the_posterior_as_it_is(name: str) -> None:
    assert largest_z(KERNELS[name], kept=True) < MOST


def test_the_test_of_invariance_sees_a_residual_of_too_many_dimensions() -> None:
    class Whole(FactorDraws):
        """As if the columns of U had all directions."""

        def __call__(self, state: State, spectra: Spectra) -> State:
            new = super().__call__(state, spectra)
            g, size = new.residual_variance, spectra.model.factor_size
            return new.having(residual_variance=g * (1 + 0.5 * size) / (1 + 0.5 * BANDS))

    assert largest_z((ResidualDraws(), Whole()), kept=True) > MOST


def test_a_round_leaves_endmembers_alone_and_the_residual_outside_of_them() -> None:
    model = model_of(kept=True)
    state, spectra = start_of(model, 6, 0)
    new = state
    for kernel in ROUND:
        new = kernel(new, spectra)
    assert torch.equal(new.endmembers, model.first_endmembers())
    assert new.residual_factor.abs().max() > 1e-3
    torch.testing.assert_close(
        new.endmembers.mT @ new.residual_factor, torch.zeros(MATERIALS, RANK).double(), rtol=0, atol=1e-12
    )  # fmt: skip
    assert EllipticalEndmembers()(state, spectra) is state


def test_the_density_of_the_residual_is_normal_in_the_dimensions_outside() -> None:
    rng = torch.Generator().manual_seed(2)
    whole = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64))[0]
    taken, rest = whole[:, :2], whole[:, 2:]
    scale = torch.tensor([0.3, 2.0], dtype=torch.float64)
    prior = NormalOutside(scale, taken)
    value = outside(torch.randn(5, 2, generator=rng, dtype=torch.float64), taken)
    normal = torch.distributions.Normal(torch.zeros(3, 2).double(), scale.expand(3, 2))
    torch.testing.assert_close(prior.log_prob(value), normal.log_prob(rest.mT @ value).sum())
    with pyro.get_param_store().scope():
        pyro.set_rng_seed(0)
        drawn = prior.sample((4000,))
    torch.testing.assert_close(
        (taken.mT @ drawn).abs().max(), torch.tensor(0.0).double(), rtol=0, atol=1e-12
    )
    spread = (rest.mT @ drawn).std((0, 1))
    torch.testing.assert_close(spread, scale, rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="for all pixels"):
        prior.expand((3,))


def test_the_trace_holds_kept_endmembers_to_their_values() -> None:
    model = model_of(kept=True)
    sites = model.simulate(4, seed=1)
    assert torch.equal(sites["endmembers"], model.first_endmembers())
    held = {name: value for name, value in sites.items() if name != "pixels"}
    with pyro.validation_enabled(False):
        valid = torch.ones(4, 1, dtype=torch.bool)
        traced = poutine.trace(poutine.condition(model, data=held)).get_trace(
            sites["pixels"], valid
        )
    traced.compute_log_prob()
    assert float(traced.nodes["endmembers"]["log_prob_sum"]) == 0


def test_kept_endmembers_need_more_bands_than_materials() -> None:
    with pytest.raises(ValueError, match="give more bands"):
        pu.models.SimplexMixing(np.array([[0.1, 0.5], [0.2, 0.4]]), kept=True)


@pytest.mark.parametrize(
    ("gain", "share"), [(-3.0, 0.0), (0.0, 0.0), (5 * math.log(2), 0.5), (200.0, 1.0)]
)
def test_the_weight_of_kept_endmembers_is_that_of_what_only_a_residual_within_explains(
    gain: float, share: float
) -> None:
    kept = torch.tensor([[1.0, 2.0, 30.0], [1.0, 2.0, 30.0]], dtype=torch.float64)
    free = torch.stack([kept[0] + gain, kept[0] + gain])
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert share_of_kept(free, weights, kept, 10) == pytest.approx(share, abs=1e-12)


def test_the_weight_is_by_squares_and_of_the_median_spectrum() -> None:
    kept = torch.zeros(1, 3, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    gains = torch.tensor(
        [[0.0, -5 * math.log(0.75), 1000.0]], dtype=torch.float64
    )  # s of 0, 1/4, 1
    assert share_of_kept(gains, one, kept, 10) == pytest.approx(0.25**2 / (0.25**2 + 0.75**2))


def test_chains_start_with_a_residual_outside_of_kept_endmembers() -> None:
    model = model_of(kept=True)
    _, spectra = start_of(model, 30, 0)
    state = program_of(model).start(model, spectra.values)
    assert state.residual_factor.abs().max() > 1e-3
    within = state.endmembers.mT @ state.residual_factor
    torch.testing.assert_close(within, torch.zeros_like(within), rtol=0, atol=1e-12)


def test_either_kind_is_weighed_and_moved_apart_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that learn by stacking, those that keep alike, and the two kinds by what the first gain."""
    models = [model_of(), model_of(), model_of(kept=True), model_of(kept=True)]
    densities = {0: [5.0, 5.0, -20.0], 1: [-20.0, -20.0, 5.0], 2: [3.0] * 3, 3: [2.0] * 3}
    told = iter(torch.tensor(value, dtype=torch.float64) for value in densities.values())
    monkeypatch.setattr(sample_module, "log_predictive", lambda *_, **__: next(told))
    images = model_of().simulate(30, seed=1)["pixels"].numpy().reshape(1, 5, 6, BANDS)
    few = {"num_rounds": 4, "num_spectra": 20, "num_held_out": 3, "num_kept": 2, "num_samples": 8}
    cubes = pu.as_cube_sequence(images.clip(-0.5, 1.5))
    result = pu.sample(models, cubes, shrink=0.0, progress=False, **few)
    w = result.weights
    assert w is not None and w.sum() == pytest.approx(1)
    assert w[0] / w[1] == pytest.approx(2, rel=1e-2)  # explains two spectra of three
    assert w[2] == pytest.approx(w[3])
    free = torch.tensor([densities[0], densities[1]], dtype=torch.float64)
    own = torch.as_tensor(w[:2] / w[:2].sum())
    kept = torch.tensor([densities[2], densities[3]], dtype=torch.float64)
    assert w[2:].sum() == pytest.approx(share_of_kept(free, own, kept, BANDS))
    assert 0.1 < w[2:].sum() < 0.9
    assert result.kinds_of_starts(w) == [[[0], [1]], [[2], [3]]]
    assert result.kinds_of_starts(np.array([1, 0, 1, 0])) == [[[0]], [[2]]]
