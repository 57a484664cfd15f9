"""Models that know their dates: units of time, uneven gaps, who serves them, and recipes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
import torch
from pyro import poutine
from walk_cases import CHAINS, ELAPSED, FLOAT32, WALKS, set_up, step_density, tensor, values_of

from pyro_unmix import SGLMM, priors
from pyro_unmix.bases import Brightness
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide, Guide
from pyro_unmix.ops.recipes import from_recipe, registered_name, to_recipe
from pyro_unmix.priors import (
    ConstantWalk,
    DirichletStart,
    DirichletWalk,
    InitialAbundances,
    OrnsteinUhlenbeck,
    SparseStart,
    StudentWalk,
    VariabilityPrior,
)

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


def model(dates=None, walk="ornstein", chain="autoregressive", **keywords) -> SGLMM:
    spectra = np.random.default_rng(0).uniform(0.1, 0.9, size=(5, 3))
    parts = {"abundance_prior": WALKS[walk](), "variability_prior": CHAINS[chain]()}
    return SGLMM(spectra, basis=Brightness(), dates=dates, **parts, **keywords).double()


def log_prob(program: SGLMM, num_dates: int = 4) -> float:
    torch.manual_seed(1)
    latents = {
        f"{name}_{t}": torch.randn(2, 3).double()
        for t, name in itertools.product(range(num_dates + 1), ("c", "psi"))
    }
    y, valid = torch.rand(2, num_dates, 5).double(), torch.ones(2, num_dates, dtype=torch.bool)
    conditioned = poutine.condition(program, data=latents)
    return float(poutine.trace(conditioned).get_trace(y, valid).log_prob_sum().detach())


DAYS = np.array([0, 10, 15, 45])


@pytest.mark.parametrize("walk", WALKS)
def test_shifting_all_dates_changes_nothing_and_uneven_ones_count(walk):
    origin = np.datetime64("2020-02-20T10:30", "ns")
    days = DAYS.astype("timedelta64[D]")
    base = log_prob(model(DAYS, walk))
    shifted = (
        DAYS + 1000.0,
        origin + days,
        origin + np.timedelta64(4321, "D") + days,
        [str(origin + day) for day in days],
    )
    for dates in shifted:
        assert log_prob(model(dates, walk)) == pytest.approx(base, rel=1e-9)
    assert abs(log_prob(model(None, walk)) - base) > 1e-3
    assert abs(log_prob(model([0, 10, 30, 45], walk)) - base) > 1e-3


@pytest.mark.parametrize(
    ("walk", "chain"), [*itertools.product(WALKS, ["walk"]), ("jump", "autoregressive")]
)
def test_every_site_of_a_dated_model_has_the_hand_written_density(walk, chain):
    program = model(DAYS, walk, chain)
    rng = np.random.default_rng(9)
    values = {f"{k}_{t}": rng.normal(size=(4, 3)) for k in ("c", "psi") for t in range(5)}
    data = {name: tensor(x) for name, x in values.items()}
    valid = torch.ones(4, 4, dtype=torch.bool)
    trace = poutine.trace(poutine.condition(program, data=data)).get_trace(None, valid)
    trace.compute_log_prob()
    prior = values_of(program.abundance_prior)
    if chain == "walk":
        scale = 0.3
        steps = [(1.0, scale * math.sqrt(passed)) for passed in (1, 1, 0.5, 3)]
    else:  # stationary std 0.5, correlation 0.6^Delta
        steps = [(0.6**d, 0.5 * math.sqrt(1 - 0.6 ** (2 * d))) for d in (1, 1, 0.5, 3)]
    for t, (passed, (phi, scale)) in enumerate(zip((1, 1, 0.5, 3), steps, strict=True), start=1):
        c, psi = ([values[f"{k}_{s}"] for s in (t - 1, t)] for k in ("c", "psi"))
        got = {k: trace.nodes[f"{k}_{t}"]["log_prob"].detach() for k in ("c", "psi")}
        np.testing.assert_allclose(got["c"], step_density(walk, prior, *c, passed), rtol=1e-5)
        expected = reference.log_normal(psi[1], phi * psi[0], scale)
        np.testing.assert_allclose(got["psi"], expected, rtol=1e-4)  # float32 starts


@pytest.mark.parametrize("walk", WALKS)
def test_even_dates_are_as_no_dates(walk):
    even = model(np.arange(4) * 16 + 3, walk)
    assert even.abundance_prior.elapsed is None
    assert log_prob(even) == log_prob(model(None, walk))
    assert not even.needs


def test_the_unit_of_time_is_the_median_gap_or_as_given():
    assert model(DAYS).time_unit == 10
    np.testing.assert_allclose(model(DAYS).abundance_prior.elapsed, [1, 1, 0.5, 3], rtol=FLOAT32)
    given = model(DAYS, time_unit=20.0)
    np.testing.assert_allclose(given.abundance_prior.elapsed, [1, 0.5, 0.25, 1.5], rtol=FLOAT32)
    # It stays where other dates come.
    given.set_dates([0, 20, 30])
    np.testing.assert_allclose(given.variability_prior.elapsed, [1, 1, 0.5], rtol=FLOAT32)
    given.set_dates(None)
    assert given.abundance_prior.elapsed is None


def test_dates_are_saved_and_no_caller_is_changed():
    dates = np.array(["2020-01-01", "2020-01-11", "2020-02-20"], dtype="datetime64[ns]")
    before = dates.copy()
    built = model(dates)
    arrays: list[np.ndarray] = []
    again = from_recipe(to_recipe(built, arrays), arrays).double()
    np.testing.assert_array_equal(dates, before)
    assert all(array.dtype.kind == "f" for array in arrays)
    torch.testing.assert_close(again.abundance_prior.elapsed, built.abundance_prior.elapsed)
    assert again.time_unit == built.time_unit
    assert not [name for name in built.state_dict() if "elapsed" in name]


def test_one_date_has_no_gaps():
    assert model(["2020-01-01"]).abundance_prior.elapsed is None


def test_sequences_of_uneven_dates_are_simulated():
    drawn = model(DAYS).sample_sequence(5, 4)
    assert drawn["pixels"].shape == (5, 4, 5)
    assert torch.isfinite(drawn["pixels"]).all()


def test_a_longer_gap_is_a_longer_walk():
    walk = model([0, 1, 2, 3, 103], "constant", "independent", time_unit=1.0)
    c = walk.sample_sequence(500, 5)["abundances"].clamp(min=1e-12).log().numpy()
    steps = np.diff(c - c.mean(-1, keepdims=True), axis=1).std((0, 2))
    # sqrt(100) times as long; each std is of 1500 numbers
    np.testing.assert_allclose(steps[3] / steps[:3], 10, rtol=0.15)


@pytest.mark.parametrize("walk", WALKS)
def test_the_conjugate_guide_serves_uneven_dates_where_variability_is_drawn_anew(walk):
    ConjugateGuide(model(DAYS, walk, "independent"))


@pytest.mark.parametrize("chain", ["walk", "autoregressive"])
def test_a_guide_that_does_not_know_uneven_chains_says_who_does(chain):
    class Plain(Guide):
        pass

    uneven = model(DAYS, chain=chain)
    BiLSTMGuide(uneven)
    Plain(model(chain=chain))
    with pytest.raises(
        ValueError,
        match="Plain cannot serve variability that depends on uneven dates: use BiLSTMGuide.model. "
        "or MeanFieldGuide",
    ):
        Plain(uneven)


class Alternating(VariabilityPrior):
    def chain(self):
        one = torch.ones(3).double()
        return -0.5 * one, one, 0 * one, one


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: model([3, 2]), ValueError, "dates must increase, got .3, 2.: sort the images"),
        (lambda: model(["2020-01-01", "2020-01-01"]), ValueError, "dates must increase"),
        (lambda: model(["yesterday"]), ValueError, "must hold ISO dates"),
        (lambda: model(DAYS, time_unit=0), ValueError, "time_unit must lie in"),
        (lambda: log_prob(model([0, 1, 2])), ValueError, "built for 3 dates, the images have 4"),
        (
            lambda: set_up(Alternating(), 3, num_components=1, elapsed=ELAPSED).steps(3),
            ValueError,
            "Alternating has a negative coefficient.*build the model without dates",
        ),
        (lambda: ConstantWalk(0), ValueError, "scale must lie in"),
        (lambda: StudentWalk(dof=0), ValueError, "dof must lie in"),
        (lambda: OrnsteinUhlenbeck(1.0), ValueError, "coefficient must lie in"),
        (lambda: OrnsteinUhlenbeck(scale=-1), ValueError, "scale must lie in"),
        (lambda: DirichletWalk(0), ValueError, "concentration must lie in"),
        (lambda: DirichletWalk(floor=0), ValueError, "floor must lie in"),
        (lambda: DirichletStart(0), ValueError, "concentration must lie in"),
        (lambda: SparseStart(0), ValueError, "presence must lie in"),
        (lambda: SparseStart(depth=0), ValueError, "depth must lie in"),
        (lambda: SparseStart(scale=0), ValueError, "scale must lie in"),
        (
            lambda: ConstantWalk(initial=0.5),
            TypeError,
            "initial must be an InitialAbundances object such as",
        ),
        (
            lambda: InitialAbundances().initial(),
            NotImplementedError,
            "InitialAbundances must implement initial",
        ),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("name", [n for n in priors.__all__ if n not in ("Part", "Transition")])
def test_recipes_name_the_public_module(name):
    assert registered_name(getattr(priors, name)) == name


def test_a_recipe_of_the_time_before_dates_and_starts_is_read():
    saved = {
        "class": "SGLMM",
        "arguments": {
            "endmembers": {"class": "FixedEndmembers",
                           "arguments": {"endmembers": {"array": 0}}},
            "basis": {"class": "Brightness", "arguments": {}},
            "abundance_prior": {"class": "JumpWalk", "arguments": {"scale": 0.3}},
            "variability_prior": {"class": "AutoRegressive",
                                  "arguments": {"coefficient": 0.5}},
            "noise": {"class": "WhiteNoise", "arguments": {}},
        },
    }  # fmt: skip
    model = from_recipe(saved, [np.random.default_rng(0).uniform(0.1, 0.9, (5, 3))])
    assert set(model.state_dict()) == {
        "reference.value", "abundance_prior.initial_loc", "abundance_prior.log_initial_scale",
        "abundance_prior.log_scale", "abundance_prior.log_jump_scale",
        "abundance_prior.jump_logit", "variability_prior.logit", "variability_prior.log_scale",
        "noise.log_scale",
    }  # fmt: skip
