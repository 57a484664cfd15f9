"""The ELBO with the variability integrated out, against Pyro's that draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from integrated_cases import (
    CHAINS,
    DATES,
    NOISES,
    WALKS,
    B,
    K,
    L,
    P,
    T,
    features,
    pair,
    scene,
)
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
    KnownAbundances,
    WhiteNoise,
)

pytestmark = pytest.mark.usefixtures("noise_of_dates")


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


def test_a_part_that_declares_its_densities_is_integrated() -> None:
    class Same(WhiteNoise):
        is_gaussian = True

        def distributions(self) -> Any:
            return super().distributions()

    class Later(Same):
        """Defines none of them, so that what it inherits holds."""

    for kind in (Same, Later):
        assert ConjugateGuide(SGLMM(scene()[2], basis=DCT(K), noise=kind(0.03))).integrates
