"""Priors over time: what a walk, a start and a chain do over any time between dates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro
import pytest
import reference
import torch
from pyro import poutine
from scipy import special, stats

from pyro_unmix import SGLMM, priors
from pyro_unmix.bases.linear import Brightness
from pyro_unmix.data.days import as_days
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide, Guide
from pyro_unmix.ops.recipes import from_recipe, to_recipe
from pyro_unmix.priors import (
    AutoRegressive,
    ConstantWalk,
    DirichletStart,
    DirichletWalk,
    Independent,
    InitialAbundances,
    JumpWalk,
    OrnsteinUhlenbeck,
    RandomWalk,
    SoftmaxWalk,
    SparseStart,
    StudentWalk,
    VariabilityPrior,
)

FLOAT32 = 1e-6  # starting values are rounded before a part is made double
ELAPSED = [1.0, 0.25, 3.0]

WALKS = {
    "softmax": SoftmaxWalk,
    "jump": JumpWalk,
    "constant": ConstantWalk,
    "student": StudentWalk,
    "ornstein": OrnsteinUhlenbeck,
    "dirichlet": DirichletWalk,
}
STARTS = {"gaussian": lambda: None, "dirichlet": DirichletStart, "sparse": SparseStart}
CHAINS = {
    "walk": lambda: RandomWalk(0.3, learn=True),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield


def tensor(values) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def set_up(part, num_endmembers: int, *, elapsed=None, **sizes: int):
    part.setup(num_endmembers=num_endmembers, **sizes, generator=torch.Generator().manual_seed(0))
    if elapsed is not None:
        part.set_elapsed(tensor(elapsed))
    part.double()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return part


def states(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 3))


def values_of(part) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in part.named_parameters()}


def step_density(walk: str, value: dict[str, np.ndarray], before, after, passed: float):
    """``log p(c_t | c_{t-1})`` over `passed` units, by numpy and scipy."""
    wide = math.sqrt(passed)
    if walk == "softmax":
        layers = [(value[f"weight_{i}"], value[f"bias_{i}"]) for i in range(2)]
        return reference.log_normal(after, before, wide * reference.scale_network(before, layers))
    if walk == "jump":
        rho = 1 - (1 - special.expit(value["jump_logit"])) ** passed
        scales = wide * np.exp(value["log_scale"]), np.exp(value["log_jump_scale"])
        return reference.log_jump(after, before, *scales, rho)
    if walk == "constant":
        return reference.log_normal(after, before, wide * np.exp(value["log_scale"]))
    if walk == "student":
        shape = passed * np.exp(2 * value["log_scale"]) * np.eye(3)
        student = stats.multivariate_t(np.zeros(3), shape, df=np.exp(value["log_dof"]))
        return student.logpdf(after - before)
    if walk == "ornstein":
        phi = special.expit(value["logit"]) ** passed
        scale = np.exp(value["log_scale"]) * math.sqrt(1 - phi**2)
        return reference.log_normal(after, value["loc"] + phi * (before - value["loc"]), scale)
    kappa, floor = np.exp(value["log_concentration"]), np.exp(value["log_floor"])
    alpha = kappa / passed * reference.softmax(before) + floor
    # softmax(c) is Dirichlet, sum(c) / sqrt(P) standard normal; sqrt(P) prod a is the determinant.
    a = reference.softmax(after)
    density = [stats.dirichlet(x).logpdf(y) for x, y in zip(alpha, a, strict=True)]
    constant = stats.norm.logpdf(after.sum(-1) / math.sqrt(3)) + 0.5 * math.log(3)
    return np.array(density) + constant + np.log(a).sum(-1)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dated", [False, True])
def test_steps_have_the_written_out_density(walk, dated):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED if dated else None)
    before, after = states(1, 4), states(2, 4)
    step = prior.transitions()
    for t, passed in enumerate(ELAPSED if dated else [1.0] * 3, start=1):
        expected = step_density(walk, values_of(prior), before, after, passed)
        site = step(tensor(before), t)
        assert site.event_shape == (3,)
        got = site.log_prob(tensor(after)).detach()
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dated", [False, True])
def test_gradients_of_a_step_reach_every_parameter(walk, dated):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED if dated else None)
    density = prior.transitions()(tensor(states(1, 4)), 3).log_prob(tensor(states(2, 4)))
    (density.sum() + prior.initial().log_prob(tensor(states(3, 4))).sum()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("walk", WALKS)
def test_decades_and_minutes_between_dates_are_finite(walk):
    prior = set_up(WALKS[walk](), 3, elapsed=[1.0, 1e-4, 1e4]).float()
    before, after = torch.zeros(4, 3), torch.ones(4, 3)
    step = prior.transitions()
    sum(step(before, t).log_prob(after).sum() for t in (1, 2, 3)).backward()
    for name, parameter in prior.named_parameters():
        if not name.startswith(("initial", "log_initial")):
            assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(prior.step_scale(before.unsqueeze(-2), torch.ones(4, 3))).all()


@pytest.mark.parametrize("walk", ["constant", "student", "ornstein", "dirichlet"])
def test_what_is_not_learned_is_kept(walk):
    prior = set_up(WALKS[walk](learn=False), 3)
    assert set(dict(prior.named_parameters())) == {"initial_loc", "log_initial_scale"}
    # It is saved all the same.
    assert len(prior.state_dict()) > 2


# Starts


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("start", ["dirichlet", "sparse"])
def test_every_walk_takes_every_start(walk, start):
    given = STARTS[start]()
    prior = set_up(WALKS[walk](initial=given), 3)
    assert not list(given.parameters())  # the user's object is copied
    names = {n for n, _ in prior.named_parameters()}
    assert {n for n in names if "initial" in n} == {n for n in names if "initial_state." in n}
    value = {n.partition(".")[2]: v for n, v in values_of(prior).items() if "." in n}
    c = states(4, 5)
    if start == "dirichlet":
        alpha, a = np.exp(value["log_concentration"]), reference.softmax(c)
        expected = [stats.dirichlet(alpha).logpdf(x) for x in a]
        expected += stats.norm.logpdf(c.sum(-1) / math.sqrt(3)) + 0.5 * math.log(3)
        expected += np.log(a).sum(-1)
    else:
        rho, scale = special.expit(value["presence_logit"]), np.exp(value["log_spread"])
        absent = stats.norm(-np.exp(value["log_depth"]), scale).pdf(c)
        expected = np.log(rho * stats.norm(0, scale).pdf(c) + (1 - rho) * absent).sum(-1)
    np.testing.assert_allclose(prior.initial().log_prob(tensor(c)).detach(), expected, rtol=1e-10)


def test_starts_begin_as_stated():
    start = DirichletStart(0.3)
    start.setup(num_endmembers=3, generator=torch.Generator())
    np.testing.assert_allclose(start.initial().concentration.detach(), 0.3, rtol=FLOAT32)
    sparse = SparseStart(0.2, depth=5, scale=0.5)
    sparse.setup(num_endmembers=3, generator=torch.Generator())
    site = sparse.initial()
    np.testing.assert_allclose(site.loc.detach(), -0.8 * 5, rtol=FLOAT32)
    np.testing.assert_allclose(site.variance.detach(), 0.25 + 0.16 * 25, rtol=FLOAT32)
    kept = DirichletStart(learn=False)
    kept.setup(num_endmembers=3, generator=torch.Generator())
    assert not list(kept.parameters())


# The Gaussian step that stands in for a transition


@pytest.mark.parametrize("walk", WALKS)
def test_stand_ins_of_dates_are_those_of_each_step(walk):
    prior = set_up(WALKS[walk](), 3, elapsed=ELAPSED)
    previous, square = tensor(states(5, 4, 3)), tensor(np.abs(states(6, 4)))
    together = prior.step_scale(previous, square)
    assert together.shape == (4, 3)
    for t, passed in enumerate(ELAPSED):
        prior.set_elapsed(tensor([passed]))
        alone = prior.step_scale(previous[:, [t]], square[:, [t]])
        torch.testing.assert_close(together[:, [t]], alone)


def test_stand_in_of_a_student_step_weighs_it_as_em_does():
    prior = set_up(StudentWalk(0.5, dof=3), 3)
    value = values_of(prior)
    variance, dof = np.exp(2 * value["log_scale"]), np.exp(value["log_dof"])
    square = np.array([0.0, 0.3, 20.0])
    # The mixture's precision is gamma distributed; its mean given the step (Lange et al., 1989).
    precision = (dof + 3) / (dof + 3 * square / variance) / variance
    got = prior.step_scale(torch.zeros(3, 3).double(), tensor(square)).detach()
    np.testing.assert_allclose(got, precision**-0.5, rtol=1e-10)


def test_stand_in_of_an_ornstein_uhlenbeck_step_is_its_root_mean_square():
    prior = set_up(OrnsteinUhlenbeck(0.8, 1.5), 3)
    value = values_of(prior)
    scale, phi = np.exp(value["log_scale"]), special.expit(value["logit"])
    # Var(c_t - c_{t-1}) of the stationary process, from its covariances s^2 and phi s^2.
    expected = math.sqrt(2 * scale**2 - 2 * phi * scale**2)
    got = prior.step_scale(torch.zeros(2, 3).double(), torch.zeros(2).double()).detach()
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_stand_in_of_a_dirichlet_step_has_its_spread():
    prior = set_up(DirichletWalk(20.0, floor=0.7), 3)
    previous = tensor(states(7, 1))
    draws = prior.transitions()(previous.expand(20_000, 3), 1).sample().numpy()
    expected = math.sqrt(draws.var(0).mean())
    got = float(prior.step_scale(previous, torch.zeros(1).double()).detach())
    assert got == pytest.approx(expected, rel=0.05)  # of 20 000 draws with heavy tails


# Variability over any time


@pytest.mark.parametrize("chain", CHAINS)
def test_two_parts_of_a_step_are_the_step(chain):
    prior = set_up(CHAINS[chain](), 3, num_components=2)
    coefficient, scale, loc, spread = (x.detach().numpy() for x in prior.chain())
    if chain != "independent":  # that one draws anew at every date, however near
        prior.set_elapsed(tensor([0.3, 0.7, 2.0]))
        (a, b, two), (s, r, q) = (x.detach().numpy() for x in prior.steps(3))
        np.testing.assert_allclose(a * b, coefficient, rtol=1e-9)
        np.testing.assert_allclose(b**2 * s**2 + r**2, scale**2, rtol=1e-9)
        np.testing.assert_allclose(two, coefficient**2, rtol=1e-9)
        np.testing.assert_allclose(q**2, (coefficient**2 + 1) * scale**2, rtol=1e-9)
    prior.set_elapsed(tensor(ELAPSED))
    x = np.random.default_rng(8).normal(size=(2, 4, 6))
    steps = [y.detach().numpy() for y in prior.steps(3)]
    for t, (phi, step_scale) in enumerate(zip(*steps, strict=True), start=1):
        got = prior.transitions(3)(tensor(x[0]), t).log_prob(tensor(x[1])).detach()
        expected = reference.log_normal(x[1], phi * x[0], step_scale)
        np.testing.assert_allclose(got, expected, rtol=1e-10)
    mean, variance = loc, spread**2
    for t, found in enumerate(zip(*prior.marginals(3), strict=True)):
        mean = steps[0][t] * mean
        variance = steps[0][t] ** 2 * variance + steps[1][t] ** 2
        np.testing.assert_allclose(found[0].detach(), mean, atol=1e-12)
        np.testing.assert_allclose(found[1].detach(), variance, rtol=1e-10)


@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_of_uneven_steps_reach_every_parameter(chain):
    prior = set_up(CHAINS[chain](), 3, num_components=2, elapsed=ELAPSED)
    x = torch.randn(2, 4, 6).double()
    density = prior.transitions(3)(x[0], 2).log_prob(x[1]).sum() + prior.initial().log_prob(x).sum()
    density.backward()
    for name, parameter in prior.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


# The model and its dates


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
        (lambda: as_days([3, 2]), ValueError, "dates must increase, got .3, 2.: sort the images"),
        (lambda: as_days(["2020-01-01", "2020-01-01"]), ValueError, "dates must increase"),
        (lambda: as_days(["yesterday"]), ValueError, "must hold ISO dates"),
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


# Saved results name classes


@pytest.mark.parametrize("name", [n for n in priors.__all__ if n not in ("Part", "Transition")])
def test_recipes_name_the_public_module(name):
    assert getattr(priors, name).__module__ == "pyro_unmix.priors"


def test_a_recipe_of_the_time_before_dates_and_starts_is_read():
    saved = {
        "class": "pyro_unmix.models.sglmm.SGLMM",
        "arguments": {
            "endmembers": {"class": "pyro_unmix.priors.FixedEndmembers",
                           "arguments": {"endmembers": {"array": 0}}},
            "basis": {"class": "pyro_unmix.bases.linear.Brightness", "arguments": {}},
            "abundance_prior": {"class": "pyro_unmix.priors.JumpWalk", "arguments": {"scale": 0.3}},
            "variability_prior": {"class": "pyro_unmix.priors.AutoRegressive",
                                  "arguments": {"coefficient": 0.5}},
            "noise": {"class": "pyro_unmix.priors.WhiteNoise", "arguments": {}},
        },
    }  # fmt: skip
    model = from_recipe(saved, [np.random.default_rng(0).uniform(0.1, 0.9, (5, 3))])
    assert set(model.state_dict()) == {
        "reference.value", "abundance_prior.initial_loc", "abundance_prior.log_initial_scale",
        "abundance_prior.log_scale", "abundance_prior.log_jump_scale",
        "abundance_prior.jump_logit", "variability_prior.logit", "variability_prior.log_scale",
        "noise.log_scale",
    }  # fmt: skip
