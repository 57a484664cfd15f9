"""The ELBO with the variability integrated out, against Pyro's that draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, fit
from pyro_unmix.bases import DCT
from pyro_unmix.guides import ReshapedGuide
from pyro_unmix.guides.conjugate.markov_normal import MarkovNormal
from pyro_unmix.guides.conjugate.variability import ExactVariability
from pyro_unmix.infer.trace_elbo import loss_and_grads
from pyro_unmix.priors import (
    AnchoredEndmembers,
    AutoRegressive,
    BandNoise,
    ConstantWalk,
    DirichletStart,
    DirichletWalk,
    Independent,
    JumpWalk,
    KnownAbundances,
    LowRankNoise,
    OrnsteinUhlenbeck,
    RandomWalk,
    SeasonalVariability,
    SmoothVariability,
    SoftmaxWalk,
    StudentWalk,
    WhiteNoise,
)

B, T, L, P, K = 6, 4, 12, 3, 2
DATES = np.array([0.0, 16.0, 40.0, 56.0])

WALKS = {
    "jump": JumpWalk,
    "softmax": SoftmaxWalk,
    "constant": ConstantWalk,
    "student": StudentWalk,
    "returning": OrnsteinUhlenbeck,
    "dirichlet": DirichletWalk,
    "dirichlet start": lambda: JumpWalk(initial=DirichletStart(2.0)),
}
CHAINS = {
    "autoregressive": lambda: AutoRegressive(0.7, 0.5),
    "walk": lambda: RandomWalk(0.05, learn=True),
    "independent": lambda: Independent(0.4),
    "seasonal": lambda: SeasonalVariability(residual=AutoRegressive(0.5, 0.3)),
    "smooth": lambda: SmoothVariability((T, 3, B), length=2.0, residual=AutoRegressive(0.5, 0.3)),
}
NOISES = {
    "white": lambda: WhiteNoise(0.03),
    "band": lambda: BandNoise(np.linspace(0.02, 0.05, L)),
    "low rank": lambda: LowRankNoise(0.03),
}


def scene() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Pixels with missing dates, one of them without any; endmembers."""
    rng = np.random.default_rng(0)
    endmembers = rng.uniform(0.1, 0.9, (L, P))
    a = rng.dirichlet(np.ones(P), (B, T))
    pixels = torch.from_numpy(a @ endmembers.T + rng.normal(0, 0.05, (B, T, L)))
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, 0] = valid[2, 2] = valid[3, -1] = False
    valid[4] = False
    return pixels, valid, endmembers


def pair(
    walk: str = "jump",
    chain: str = "autoregressive",
    noise: str = "white",
    guide: Any = ConjugateGuide,
    dates: Any = None,
    reference: Any = None,
) -> tuple[SGLMM, ConjugateGuide]:
    """Model and guide in double precision, with parameters of the guide that are not those of the start."""
    endmembers = scene()[2]
    model = SGLMM(
        endmembers if reference is None else reference,
        basis=DCT(K, scale=0.5),
        abundance_prior=WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=NOISES[noise](),
        dates=DATES if chain == "seasonal" else dates,
    ).double()
    guide = guide(model).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    return model, guide


def by_dates(self: MarkovNormal, sample_shape: Any = ()) -> torch.Tensor:
    """The draw of the noise that sites of the dates would draw, one after the other."""
    num_states, batch, size = self.offsets.shape
    noise = [torch.randn(batch, size).to(self.offsets) for _ in range(num_states)]
    return self.from_noise(torch.stack(noise, dim=1))


def features() -> dict[str, torch.Tensor]:
    """What might have been prepared: it need not be good, but the same for both."""
    rng = np.random.default_rng(4)
    half = rng.normal(size=(B, T, P, P))
    return {
        "curvature": torch.from_numpy(half @ half.swapaxes(-1, -2)),
        "pull": torch.from_numpy(rng.normal(size=(B, T, P))),
        "path": torch.from_numpy(rng.normal(size=(B, T + 1, P))),
        "mean_square": torch.from_numpy(rng.uniform(0, 4, (B, T))),
    }


def evaluated(function: Any, model: SGLMM, guide: ConjugateGuide) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of a batch of a larger scene, both programs scaled as a fit scales them."""
    y, valid, _ = scene()
    index = torch.arange(B)
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        pyro.set_rng_seed(3)
        programs = (poutine.scale(program, scale=0.01) for program in (model, guide))
        loss = function(*programs, y, valid, index=index, size=3 * B, features=features())
        params = dict(pyro.get_param_store().named_parameters())
        grads = {name: value.grad for name, value in params.items() if value.grad is not None}
    for value in params.values():
        value.grad = None
    return loss, grads


def assert_same(model: SGLMM, guide: ConjugateGuide, rel: float = 1e-10) -> None:
    assert guide.integrates
    elbo = Trace_ELBO()
    loss, grads = evaluated(lambda *a, **k: loss_and_grads(elbo, *a, **k), model, guide)
    expected, gradients = evaluated(elbo.loss_and_grads, model, guide)
    assert loss == pytest.approx(expected, rel=rel)
    assert set(grads) == set(gradients)
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            grads[name],
            gradient,
            rtol=1e-7,
            atol=1e-10 * largest,
            msg=lambda m, n=name: f"{n}: {m}",
        )


class Biased(WhiteNoise):
    """About a learned level; what is whitened depends on it, and the design does not."""

    def setup(self, *sizes, generator):
        super().setup(*sizes, generator=generator)
        self.level = torch.nn.Parameter(torch.tensor(0.02))

    def distributions(self):
        white = super().distributions()
        return lambda mean: white(mean + self.level)

    def whitened(self, pixels, design):
        return pixels - self.level, design, self.scale


NOISES["biased"] = lambda: Biased(0.03)


@pytest.fixture(autouse=True)
def noise_of_dates(monkeypatch):
    draw = torch.randn
    monkeypatch.setattr(
        torch, "randn", lambda *a, dtype=None, **k: draw(*a, **k).to(dtype or torch.float)
    )
    monkeypatch.setattr(MarkovNormal, "rsample", by_dates)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dates", [None, DATES], ids=["even", "uneven"])
def test_loss_and_gradients_are_those_of_drawn_variability(walk, dates):
    assert_same(*pair(walk, dates=dates))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("fixed", [False, True], ids=["free", "fixed"])
def test_chains_and_noises_have_the_loss_and_gradients_of_drawn_variability(chain, noise, fixed):
    """With fixed endmembers and white noise the Gram matrix has no gradient, else it has one."""
    reference = FixedEndmembers(scene()[2]) if fixed else None
    assert_same(*pair(chain=chain, noise=noise, reference=reference))


@pytest.mark.parametrize("what", ["endmembers", "all", "endmembers after a fit"])
def test_frozen_parameters_are_fitted_as_pyro_does(what):
    rng = np.random.default_rng(9)
    cubes = rng.uniform(0, 1, (T, 4, 4, 40))
    model = SGLMM(rng.uniform(size=(40, P)), basis=DCT(K))
    guide = ConjugateGuide(model)
    if what == "endmembers after a fit":
        fit(model, guide, cubes, num_steps=2, progress=False)
    (model if what == "all" else model.reference).requires_grad_(False)
    assert np.isfinite(fit(model, guide, cubes, num_steps=3, progress=False).losses).all()


def test_a_prior_with_steps_of_its_own():
    class Own(AutoRegressive):
        def steps(self, num_dates):
            coefficient, scale = super().steps(num_dates)
            return 0.5 * coefficient, 2 * scale

    CHAINS["own"] = lambda: Own(0.7, 0.5)
    try:
        assert_same(*pair(chain="own", dates=DATES))
    finally:
        del CHAINS["own"]


@pytest.mark.parametrize("chain", ["autoregressive", "independent"])
def test_uneven_dates_of_the_variability(chain):
    assert_same(*pair(chain=chain, dates=DATES))


def test_other_abundances_keep_a_site_per_date():
    assert_same(*pair(guide=ReshapedGuide))
    assert_same(*pair(guide=lambda model: ConjugateGuide(model, correction=False)))


def test_a_prior_of_the_endmembers():
    model, guide = pair(reference=AnchoredEndmembers(scene()[2], strength=0.1))
    with torch.no_grad():
        for parameter in model.reference.parameters():
            parameter += 0.01
    assert_same(model, guide, rel=1e-6)  # its factor is in single precision


def test_a_fit_integrates(monkeypatch):
    """Through all that `fit` wraps around the programs."""
    endmembers = scene()[2]
    cubes = np.random.default_rng(1).uniform(0, 1, (T, 4, 4, L))
    model = SGLMM(endmembers, basis=DCT(K))
    drawn = []
    rsample = MarkovNormal.rsample
    monkeypatch.setattr(MarkovNormal, "rsample", lambda s, *a: drawn.append(1) or rsample(s, *a))
    monkeypatch.setattr(ExactVariability, "conditional", lambda *a: pytest.fail("drawn"))
    fit(model, ConjugateGuide(model), cubes, num_steps=2, progress=False)
    assert len(drawn) == 2


def test_known_abundances(monkeypatch):
    a = np.random.default_rng(2).dirichlet(np.ones(P), (3 * B, T))
    monkeypatch.setitem(WALKS, "known", lambda: KnownAbundances(a))
    assert_same(*pair("known"))


def test_nothing_but_the_abundances_is_drawn():
    model, guide = pair()
    y, valid, _ = scene()
    with pyro.get_param_store().scope():
        trace = poutine.trace(guide).get_trace(y, valid, integrate=True, features=features())
        integrated = trace.nodes["_RETURN"]["value"]
        of_model = poutine.trace(model).get_trace(y, valid, integrated=integrated)
    sites = [n for n, s in trace.nodes.items() if s["type"] == "sample"]
    assert sites == ["pixels", "c"]
    assert [n for n, s in of_model.nodes.items() if s["type"] == "sample"] == ["pixels", "y"]


def test_programs_with_other_sites_are_not_integrated():
    class Other(SGLMM):
        def forward(self, *args: Any, **kwargs: Any) -> None:
            super().forward(*args, **kwargs)

    class OtherGuide(ConjugateGuide):
        def forward(self, *args: Any, **kwargs: Any) -> None:
            super().forward(*args, **kwargs)

    endmembers = scene()[2]
    assert not ConjugateGuide(Other(endmembers, basis=DCT(K))).integrates
    assert not OtherGuide(SGLMM(endmembers, basis=DCT(K))).integrates
    assert ConjugateGuide(SGLMM(endmembers, basis=DCT(K))).integrates


@pytest.mark.parametrize(
    ("part", "method"),
    [
        (SGLMM, "_mean"),
        (WhiteNoise, "by_date"),
        (WhiteNoise, "distributions"),
        (AutoRegressive, "initial"),
        (AutoRegressive, "transitions"),
        (ConjugateGuide, "_variability"),
    ],
)
def test_parts_with_densities_of_their_own_are_not_integrated(part, method):
    def own(self, *args, **kwargs):
        return getattr(part, method)(self, *args, **kwargs)

    other = type("Other", (part,), {method: own})
    makers = {kind: kind for kind in (SGLMM, WhiteNoise, AutoRegressive, ConjugateGuide)}
    makers[part] = other
    model = makers[SGLMM](
        scene()[2],
        basis=DCT(K),
        variability_prior=makers[AutoRegressive](0.5),
        noise=makers[WhiteNoise](0.03),
    )
    assert not makers[ConjugateGuide](model).integrates


# ------------------------------------------------------------------------------- the parts


def path(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, T + 1, P, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("dates", [None, DATES], ids=["even", "uneven"])
def test_the_density_of_a_path_is_that_of_its_steps(walk, dates):
    prior, states = pair(walk, dates=dates)[0].abundance_prior, path()
    step = prior.transitions()
    expected = prior.initial().log_prob(states[:, 0])
    for t in range(1, T + 1):
        expected = expected + step(states[:, t - 1], t).log_prob(states[:, t])
    torch.testing.assert_close(prior.log_prob_of_path(states), expected)


def test_steps_that_know_their_date_are_not_taken_together():
    class Slower(ConstantWalk):
        def transitions(self, index: Any = None) -> Any:
            step = super().transitions(index)
            return lambda previous, t: step(previous * 0.5**t, t)

    prior, states = pair()[0].abundance_prior, path()
    prior = Slower(0.3)
    prior.setup(P, generator=torch.Generator())
    prior = prior.double()
    expected = prior.initial().log_prob(states[:, 0])
    for t in range(1, T + 1):
        squared = (states[:, t] - states[:, t - 1] * 0.5**t).square().sum(-1)
        expected = expected - 0.5 * squared / 0.3**2 - P * np.log(0.3 * np.sqrt(2 * np.pi))
    torch.testing.assert_close(prior.log_prob_of_path(states), expected, rtol=1e-6, atol=1e-6)


def chain_of(correction: bool) -> MarkovNormal:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).double()

    factors = normal(T + 1, B, P, P).triu()
    factors.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    given = (normal(B, T, P), 0.3 * normal(B, T, P)) if correction else ()
    return MarkovNormal(normal(T + 1, B, P), 0.5 * normal(T, B, P, P), factors, *given)


@pytest.mark.parametrize("correction", [True, False])
def test_a_chain_has_the_density_of_the_joint_gaussian(correction):
    """Mean and covariance of a chain that is linear in its noise, by drawing zero and the unit vectors."""
    chain, size = chain_of(correction), (T + 1) * P
    zero = chain.from_noise(torch.zeros(B, T + 1, P).double())
    units = torch.eye(size).double().reshape(size, 1, T + 1, P).expand(size, B, T + 1, P)
    columns = torch.stack([chain.from_noise(unit) - zero for unit in units], dim=-1).flatten(1, 2)
    dense = torch.distributions.MultivariateNormal(zero.flatten(1), columns @ columns.mT)
    value = path(4)
    torch.testing.assert_close(chain.log_prob(value), dense.log_prob(value.flatten(1)))
    own = chain.from_noise(path(5))
    torch.testing.assert_close(chain.log_prob(own), dense.log_prob(own.flatten(1)))
    states = own.unbind(1)
    inner = path(5)[:, 0].unsqueeze(-1)
    torch.testing.assert_close(states[0], chain.offsets[0] + (chain.factors[0] @ inner).squeeze(-1))
    with pytest.raises(NotImplementedError, match=f"has {B} chains"):
        chain.expand((2, B))


def test_much_information_in_one_direction_leaves_a_density_in_the_others() -> None:
    """The covariance has a condition of 1e10, whose smallest eigenvalue single precision would lose."""
    model, guide = pair()
    model, guide = model.float(), guide.float()
    direction = torch.tensor([1.0, -0.5, -0.5]) / 1.5**0.5
    given = {name: value.float() for name, value in features().items()}
    given["curvature"] = torch.zeros_like(given["curvature"])
    prior = guide._chain(given)[2][-1].diagonal(
        dim1=-2, dim2=-1
    )  # std of the last step, in all directions
    given["curvature"] += 1e10 * torch.outer(direction, direction)
    _, gains, factors = guide._chain(given)
    assert factors.dtype == gains.dtype == torch.float32
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0).all()
    expected = prior.log().sum(-1) - 0.5 * torch.log1p(1e10 * prior[..., 0].square())
    torch.testing.assert_close(diagonal[-1].log().sum(-1), expected, rtol=1e-4, atol=1e-4)


def test_curvature_that_rounding_made_asymmetric_is_that_of_its_symmetric_part() -> None:
    guide = pair()[1]
    given = features()
    skew = torch.zeros(P, P).double()
    skew[0, 1], skew[1, 0] = 0.3, -0.3
    expected = guide._chain(given)
    found = guide._chain({**given, "curvature": given["curvature"] + skew})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_curvature_that_rounding_made_indefinite_leaves_a_density() -> None:
    guide = pair()[1]
    given = features()
    given["curvature"] = given["curvature"] * 0 - 60.0 * torch.eye(P).double()
    with torch.no_grad():
        chain = guide._path(*scene()[:2], given)
        assert torch.isfinite(chain.log_prob(chain.rsample())).all()
