"""The guides that take a family of abundances or an encoder that sees the time."""

from __future__ import annotations

import copy

import numpy as np
import pyro
import pytest
import torch
from product_cases import CHOICES, CUBES, DATES, NAMES, SIDE, SPECTRA, check_gradients, check_saving
from pyro import poutine

from pyro_unmix import SGLMM, Unmixing, fit
from pyro_unmix.bases import DCT
from pyro_unmix.guides import (
    ConjugateGuide,
    CornerMixture,
    CornerStretch,
    Family,
    MeanFieldGuide,
    ReshapedGuide,
    SplineFlow,
    Transformer,
)
from pyro_unmix.infer import Checkpoints
from pyro_unmix.posterior import PlugInMean, PosteriorMean
from pyro_unmix.posterior.read_out import iterate_draws
from pyro_unmix.priors import ConstantWalk, Independent, KnownAbundances, StudentNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def tiny(basis=None, **parts) -> SGLMM:
    return SGLMM(SPECTRA, basis=basis or DCT(2), **parts)


GUIDES = {
    "conjugate, stretch": ReshapedGuide,
    "conjugate, mixture": lambda m: ReshapedGuide(m, family=CornerMixture()),
    "conjugate, flow, transformer": lambda m: ReshapedGuide(
        m, family=SplineFlow(1, num_bins=3), encoder=Transformer(width=8)
    ),
    "mean field, stretch": lambda m: MeanFieldGuide(m, family=CornerStretch()),
    "mean field, mixture": lambda m: MeanFieldGuide(m, family=CornerMixture(3)),
    "mean field, flow": lambda m: MeanFieldGuide(m, family=SplineFlow(), full_covariance=True),
}
OTHERS = [name for name in NAMES if name != "guide"]
ROUNDS = max(len(CHOICES[name]) for name in OTHERS)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("kind", GUIDES)
def test_every_part_goes_with_every_new_guide(kind, number):
    chosen = {name: list(CHOICES[name])[number % len(CHOICES[name])] for name in OTHERS}
    if kind.startswith("conjugate") and chosen["noise"] in ("date", "student"):
        chosen["noise"] = "white"
    part = {name: CHOICES[name][choice] for name, choice in chosen.items()}
    model = tiny(
        part["basis"](),
        abundance_prior=part["walk"](initial=part["start"]()),
        variability_prior=part["chain"](),
        noise=part["noise"](),
        dates=part["dates"](),
    )
    result = fit(
        model, GUIDES[kind](model), CUBES, num_steps=1, progress=False, estimate=PosteriorMean(4)
    )
    assert np.isfinite(result.losses).all()
    assert np.isfinite(result.abundances).all()
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    check_saving(result.model, result.guide)
    check_gradients(result.model, result.guide)


def test_new_guides_meet_all_choices_but_noise_that_is_refused():
    assert ROUNDS == max(map(len, (CHOICES[name] for name in OTHERS)))
    with pytest.raises(ValueError, match="ReshapedGuide cannot serve noise that is not Gaussian"):
        ReshapedGuide(tiny(noise=StudentNoise()))


def trained(kind: str, **settings) -> Unmixing:
    model = tiny(abundance_prior=ConstantWalk())
    guide = GUIDES[kind](model)
    return fit(model, guide, CUBES, learning_rate=0.05, progress=False, seed=1, **settings)


FEW = ["conjugate, stretch", "mean field, flow"]


@pytest.mark.parametrize("kind", FEW)
def test_saved_loaded_and_resumed(kind, tmp_path):
    whole = trained(kind, num_steps=6)
    trained(kind, num_steps=4, checkpoint=Checkpoints(tmp_path / "kept", every=2))
    resumed = trained(kind, num_steps=6, checkpoint=Checkpoints(tmp_path / "kept", every=2))
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.abundances, whole.abundances)
    again = Unmixing.load(whole.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.sample(5), whole.sample(5))
    np.testing.assert_array_equal(
        again.predict(CUBES).abundances.values, whole.predict(CUBES).abundances.values
    )


@pytest.mark.parametrize("kind", FEW)
def test_read_out_does_not_depend_on_the_other_pixels(kind):
    result = trained(kind, num_steps=4)
    draws = next(iterate_draws(result.model, result.guide, result.cubes, 16, 0))[1]["draws"]
    rows = slice(1, 3)
    few = next(iterate_draws(result.model, result.guide, result.cubes, 16, 0, rows=rows))[1][
        "draws"
    ]
    torch.testing.assert_close(few, draws[:, rows], rtol=1e-4, atol=1e-6)
    assert float(draws.std(0).min()) > 0
    mean = fit(
        result.model, result.guide, CUBES, num_steps=0, progress=False, estimate=PlugInMean(8)
    )
    assert np.isfinite(mean.abundances).all()


def traced(guide, y, valid, latents):
    trace = poutine.trace(poutine.condition(guide, data=latents)).get_trace(y, valid)
    trace.compute_log_prob()
    return {k: s["log_prob"] for k, s in trace.nodes.items() if k.startswith("c_")}


def perturbed(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def test_reshaped_guide_starts_as_the_conjugate_one_and_stays_so_without_data():
    model = tiny(abundance_prior=ConstantWalk()).double()
    y = torch.rand(3, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(3, DATES, dtype=torch.bool)
    valid[0, 1] = valid[1, 2] = False
    valid[2] = False
    size = SPECTRA.shape[1]
    latents = {f"c_{t}": torch.randn(3, size, dtype=torch.double) for t in range(DATES + 1)}
    expected = traced(ConjugateGuide(model, correction=False).double(), y, valid, latents)
    guide = ReshapedGuide(model, family=SplineFlow()).double()
    start = traced(guide, y, valid, latents)
    moved = traced(perturbed(guide), y, valid, latents)
    seen = torch.cat([valid.any(1, keepdim=True), valid], dim=1)
    for t in range(DATES + 1):
        torch.testing.assert_close(start[f"c_{t}"], expected[f"c_{t}"], rtol=1e-9, atol=1e-9)
        same = torch.isclose(moved[f"c_{t}"], expected[f"c_{t}"], rtol=1e-9, atol=1e-9)
        assert torch.equal(same, ~seen[:, t])


def test_reshaped_guide_looks_at_the_previous_state():
    model = tiny(abundance_prior=ConstantWalk()).double()
    guide = perturbed(ReshapedGuide(model, family=SplineFlow()).double())
    y = torch.rand(1, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(1, DATES, dtype=torch.bool)
    chain = guide._abundance_chain(y, valid, guide.prepare(y, valid))
    one, other = (chain(torch.full((1, 2), value).double(), 1).white.parameters for value in (0, 1))
    assert (one - other).abs().max() > 1e-3


def test_known_abundances_are_taken_as_they_are():
    a = np.random.default_rng(5).dirichlet(np.ones(2), size=(SIDE * SIDE, DATES))
    for kind in GUIDES:
        model = tiny(abundance_prior=KnownAbundances(a))
        result = fit(model, GUIDES[kind](model), CUBES, num_steps=1, progress=False)
        found = result.abundances.values.reshape(DATES, -1, 2).swapaxes(0, 1)
        np.testing.assert_allclose(found, a, atol=1e-5)


@pytest.mark.parametrize("kind", GUIDES)
def test_a_particle_has_the_density_that_it_has_alone(kind):
    model = tiny(abundance_prior=ConstantWalk()).double()
    guide = perturbed(GUIDES[kind](model).double())
    y = torch.rand(4, DATES, len(SPECTRA), dtype=torch.double)
    valid = torch.ones(4, DATES, dtype=torch.bool)
    with pyro.plate("particles", 3, dim=-2):
        many = poutine.trace(guide).get_trace(y, valid)
    many.compute_log_prob()
    one = {f"c_{t}": many.nodes[f"c_{t}"]["value"][1].detach() for t in range(DATES + 1)}
    for name, log_prob in traced(guide, y, valid, one).items():
        together = many.nodes[name]["log_prob"].expand(3, 4)[1]
        torch.testing.assert_close(together, log_prob.expand(4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
def test_a_guide_takes_the_family_that_it_is_given(build):
    assert isinstance(ReshapedGuide(tiny()).family, CornerStretch)
    given = SplineFlow(3, num_bins=4)
    guide = build(tiny(), family=given)
    assert isinstance(guide.family, SplineFlow) and guide.family is not given
    assert guide.family.num_layers == 3
    assert guide.shape_start.shape == (given.num_parameters(2),)


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
@pytest.mark.parametrize("wrong", ["mixture", CornerMixture, 3])
def test_a_family_is_an_object(build, wrong):
    with pytest.raises(
        TypeError, match=r"family must be a Family object such as CornerStretch\(\)"
    ):
        build(tiny(), family=wrong)


def test_numbers_of_families_are_checked():
    with pytest.raises(ValueError, match="num_components must be at least 1, got 0"):
        CornerMixture(0)
    with pytest.raises(ValueError, match="num_bins must be at least 2, got 1"):
        SplineFlow(num_bins=1)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        SplineFlow(0)
    with pytest.raises(ValueError, match=r"bound must lie in \(0, inf\), got 0"):
        SplineFlow(bound=0.0)
    for method, arguments in {
        "num_parameters": (2,),
        "white": (torch.zeros(3), 2),
    }.items():
        with pytest.raises(NotImplementedError, match=rf"Family must implement {method}\(\)"):
            getattr(Family(), method)(*arguments)


def test_transformer_positions_count_the_time():
    torch.manual_seed(3)
    encoder = Transformer(width=8)
    encoder.setup(5, 4)
    encoder.double()
    x, width = torch.randn(2, DATES, 5, dtype=torch.double), 8
    times = np.array([0.0, 0.4, 3.1])
    # positions written out, and added to what enters a network that adds those of 0, 1, 2
    angles = [
        t[:, None] * 1e4 ** (-np.arange(0, width, 2) / width) for t in (times, np.arange(3.0))
    ]
    there, even = (np.concatenate([np.sin(a), np.cos(a)], -1) for a in angles)
    entered = encoder.enter(x) + torch.from_numpy(there - even)
    layers = copy.deepcopy(encoder)
    layers.enter = torch.nn.Identity()
    torch.testing.assert_close(encoder(x, torch.from_numpy(times)), layers(entered))
    torch.testing.assert_close(encoder(x, torch.arange(3.0).double()), encoder(x))
    assert (encoder(x, torch.from_numpy(times)) - encoder(x)).abs().max() > 1e-3


@pytest.mark.parametrize("build", [ReshapedGuide, MeanFieldGuide])
def test_guides_tell_their_transformer_the_time(build):
    y, valid = torch.rand(2, DATES, len(SPECTRA)), torch.ones(2, DATES, dtype=torch.bool)
    latents = {f"c_{t}": torch.randn(2, 2) for t in range(DATES + 1)}
    found = {}
    for name, dates in {
        "none": None,
        "even": [3, 6, 9],
        "uneven": [0, 5, 25],
        "shifted": [7, 12, 32],
    }.items():
        model = tiny(variability_prior=Independent(), abundance_prior=KnownSteps(), dates=dates)
        guide = build(model, encoder=Transformer(width=8))
        torch.manual_seed(5)
        found[name] = traced(perturbed(guide), y, valid, latents)["c_2"]
    torch.testing.assert_close(found["even"], found["none"])
    torch.testing.assert_close(found["shifted"], found["uneven"])
    assert (found["uneven"] - found["even"]).abs().max() > 1e-4


class KnownSteps(ConstantWalk):
    """A walk that is blind to time, so that only the encoder can see it."""

    def set_elapsed(self, elapsed) -> None:
        pass
