"""Parts swap: every pair of parts stands together in some model that is fitted and read out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

from pyro_unmix import SGLMM, fit
from pyro_unmix.bases import (
    DCT,
    Brightness,
    BSpline,
    Full,
    LearnedBasis,
)
from pyro_unmix.guides import (
    GRU,
    BiLSTMGuide,
    ConjugateGuide,
    MeanFieldGuide,
    ReshapedGuide,
    Transformer,
)
from pyro_unmix.ops.recipes import from_recipe, to_recipe
from pyro_unmix.posterior import PosteriorMean
from pyro_unmix.priors import (
    AutoRegressive,
    BandNoise,
    ConstantWalk,
    DateNoise,
    DirichletStart,
    DirichletWalk,
    GaussianStart,
    Independent,
    JumpWalk,
    LowRankNoise,
    OrnsteinUhlenbeck,
    RandomWalk,
    SmoothVariability,
    SoftmaxWalk,
    SparseStart,
    StudentNoise,
    StudentWalk,
    WhiteNoise,
)

BANDS, MATERIALS, DATES, SIDE = 5, 2, 3, 2

RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.1, 0.9, size=(BANDS, MATERIALS))
CUBES = RNG.uniform(0.1, 0.9, size=(DATES, SIDE, SIDE, BANDS))
CUBES[1, 0, 0] = np.nan


def plates(pixels, valid, *, index=None, size=None, features=None):
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def auto_normal(model: SGLMM) -> AutoNormal:
    return AutoNormal(model, create_plates=plates)


Parts = dict[str, Callable[..., Any]]
CHOICES: dict[str, Parts] = {
    "walk": {
        "softmax": SoftmaxWalk,
        "jump": JumpWalk,
        "constant": ConstantWalk,
        "student": StudentWalk,
        "ornstein": OrnsteinUhlenbeck,
        "dirichlet": DirichletWalk,
    },
    "start": {"gaussian": GaussianStart, "dirichlet": DirichletStart, "sparse": SparseStart},
    "chain": {
        "walk": lambda: RandomWalk(0.1, learn=True),
        "autoregressive": AutoRegressive,
        "independent": Independent,
        "smooth": lambda: SmoothVariability(
            (DATES, SIDE, SIDE), length=1.0, residual=AutoRegressive()
        ),
    },
    "basis": {
        "cosines": lambda: DCT(2, scale=0.3),
        "splines": lambda: BSpline(3, degree=2),
        "brightness": Brightness,
        "learned": lambda: LearnedBasis(0.1 * RNG.normal(size=(BANDS, 2, MATERIALS))),
        "full": lambda: Full(BANDS),
        "additive": lambda: Full(BANDS, additive=True),
    },
    "noise": {
        "white": lambda: WhiteNoise(0.1),
        "band": lambda: BandNoise(0.1),
        "date": lambda: DateNoise(0.1, num_dates=DATES),
        "student": lambda: StudentNoise(0.1),
        "low rank": lambda: LowRankNoise(0.1),
    },
    "dates": {"none": lambda: None, "uneven": lambda: [0, 5, 25]},
    "guide": {
        "conjugate": ConjugateGuide,
        "conjugate, gru": lambda m: ConjugateGuide(m, encoder=GRU()),
        "reshaped": ReshapedGuide,
        "bilstm": BiLSTMGuide,
        "bilstm, gru, full": lambda m: BiLSTMGuide(m, encoder=GRU(), full_covariance=True),
        "mean field": MeanFieldGuide,
        "mean field, transformer, full": lambda m: MeanFieldGuide(
            m, encoder=Transformer(width=8), full_covariance=True
        ),
        "auto": auto_normal,
    },
}
NAMES = list(CHOICES)
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


def build(combination: tuple[str, ...]) -> tuple[SGLMM, Any]:
    made = dict(zip(NAMES, combination, strict=True))

    def part(name: str) -> Any:
        return CHOICES[name][made[name]]

    model = SGLMM(
        SPECTRA,
        basis=part("basis")(),
        abundance_prior=part("walk")(initial=part("start")()),
        variability_prior=part("chain")(),
        noise=part("noise")(),
        dates=part("dates")(),
    )
    return model, part("guide")(model)


def perturb(module: torch.nn.Module) -> None:
    """Away from the start, where heads of zeros hide what is behind them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


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


def check_saving(model: SGLMM, guide: Any) -> None:
    """Both are rebuilt from their recipes, with all their numbers."""
    arrays: list[np.ndarray] = []
    again = from_recipe(to_recipe(model, arrays), arrays)
    again.load_state_dict(model.state_dict())
    if guide is not None:
        recipe = to_recipe(guide, arrays, {id(model): "model"})
        from_recipe(recipe, arrays, {"model": again}).load_state_dict(guide.state_dict())
    assert again.needs == model.needs


def check_gradients(model: SGLMM, guide: Any) -> None:
    """The ELBO's gradient is finite and reaches every parameter of both."""
    pixels = torch.from_numpy(np.nan_to_num(CUBES)).float().flatten(1, 2).movedim(0, 1)
    valid = torch.ones(SIDE * SIDE, DATES, dtype=torch.bool)
    valid[0, 1] = False
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        for module in (model, guide):
            module.zero_grad()
            perturb(module)
        Trace_ELBO().differentiable_loss(model, guide, pixels, valid).backward()
    named = [*model.named_parameters(prefix="model"), *guide.named_parameters(prefix="guide")]
    assert len(named) > 5
    for name, parameter in named:
        gradient = parameter.grad
        assert gradient is not None and torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


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
