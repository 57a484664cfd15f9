"""Parts swap: every pair of parts stands together in some model that is fitted and read out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from product_cases import BANDS, CHOICES, CUBES, DATES, NAMES, build, check_gradients, check_saving
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal

from pyro_unmix import fit
from pyro_unmix.posterior import PosteriorMean

REFUSED = ("date", "student")  # noise that ConjugateGuide does not serve


def refused(combination: dict[str, str]) -> bool:
    conjugate = combination.get("guide") in ("conjugate", "conjugate, gru", "reshaped")
    return conjugate and combination.get("noise") in REFUSED


def pairs_of(combination: tuple[str, ...]) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(zip(NAMES, combination, strict=True), 2))


def covering() -> list[tuple[str, ...]]:
    """Combinations in which every pair of parts that go together occurs, chosen greedily."""
    missing = {
        (a, b)
        for one, other in itertools.combinations(NAMES, 2)
        for a in itertools.product([one], CHOICES[one])
        for b in itertools.product([other], CHOICES[other])
        if not refused(dict([a, b]))
    }
    chosen = []
    rng = np.random.default_rng(0)
    while missing:
        first = min(missing)
        best: tuple[int, tuple[str, ...]] = (0, ())
        for _ in range(60):  # random completions of a pair that is still missing
            drawn = {name: str(rng.choice(list(CHOICES[name]))) for name in NAMES} | dict(first)
            combination = tuple(drawn[name] for name in NAMES)
            if not refused(drawn):
                best = max(best, (len(pairs_of(combination) & missing), combination))
        chosen.append(best[1])
        missing -= pairs_of(best[1])
    return chosen


COVERING = covering()


def test_all_pairs_are_there() -> None:
    covered = set().union(*map(pairs_of, COVERING))
    for one, other in itertools.combinations(NAMES, 2):
        for a, b in itertools.product(CHOICES[one], CHOICES[other]):
            pair = (one, a), (other, b)
            assert refused(dict(pair)) or pair in covered
    # No fewer could hold all pairs of the two longest lists.
    assert 36 <= len(COVERING) <= 72


@pytest.mark.parametrize("combination", COVERING, ids=" + ".join)
def test_parts_swap(combination: tuple[str, ...]) -> None:
    model, guide = build(combination)
    result = fit(
        model, guide, CUBES, num_steps=1, progress=False, estimate=PosteriorMean(4), seed=1
    )
    assert np.isfinite(result.losses).all()
    for name in ("abundances", "abundances_std", "variability", "reference_endmembers"):
        assert np.isfinite(result.dataset[name]).all(), name
    abundances = result.abundances.values
    assert abundances.min() >= 0
    np.testing.assert_allclose(abundances.sum(-1), 1, atol=1e-5)
    check_saving(result.model, None if "auto" in combination else result.guide)
    check_gradients(result.model, result.guide)


@pytest.mark.parametrize("noise", REFUSED)
def test_what_does_not_go_together_is_refused(noise: str) -> None:
    parts = ("softmax", "gaussian", "walk", "cosines", noise, "none", "conjugate")
    with pytest.raises(ValueError, match="ConjugateGuide cannot serve noise that is not Gaussian"):
        build(parts)


def test_a_guide_of_pyro_with_one_gaussian_for_all() -> None:
    # It has no plate: all pixels in every step, and no other images.
    model, _ = build(("ornstein", "sparse", "walk", "splines", "student", "uneven", "mean field"))
    pixels = torch.rand(4, DATES, BANDS)
    valid = torch.ones(4, DATES, dtype=torch.bool)
    guide = AutoDiagonalNormal(model)
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = Trace_ELBO().differentiable_loss(model, guide, pixels, valid)
        loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in guide.named_parameters():
        assert parameter.grad.abs().max() > 0, name
