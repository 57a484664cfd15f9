"""Every choice of every part of a model, models and guides that are built of them, and what each must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_unmix import SGLMM
from pyro_unmix.bases import DCT, Brightness, BSpline, Full, LearnedBasis
from pyro_unmix.guides import (
    GRU,
    BiLSTMGuide,
    ConjugateGuide,
    MeanFieldGuide,
    ReshapedGuide,
    Transformer,
)
from pyro_unmix.ops.recipes import from_recipe, to_recipe
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
