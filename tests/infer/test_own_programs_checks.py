"""What is missing in programs of one's own is said before the first step; draws from normal noise."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from own_programs import (
    CUBES,
    LMM,
    NUM_DATES,
    NUM_MATERIALS,
    SPECTRA,
    SavedLMM,
    amortised,
    auto,
    by_dirichlet,
    lmm,
    observe,
    plates,
    read,
)
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_unmix as pu
from pyro_unmix.ops.site_noise import draw_from_normals
from pyro_unmix.posterior import read_out as posterior
from pyro_unmix.posterior.programs import CommonNoise


@pytest.fixture(autouse=True)
def _nothing_left():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert not list(pyro.get_param_store().keys())


def run(model, guide, cubes=CUBES, **settings):
    return pu.fit(model, guide, cubes, **{"num_steps": 3, "progress": False, **settings})


# Before the first step


def untrained(error, text, model, guide, cubes=CUBES, **settings):
    """Refused, and neither program has been trained."""
    steps = []
    modules = [p for p in (model, guide) if isinstance(p, nn.Module)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    with pytest.raises(error, match=text):
        run(model, guide, cubes, callback=lambda *step: steps.append(step), **settings)
    assert not steps
    for module, state in zip(modules, before, strict=True):
        assert module.state_dict().keys() == state.keys()
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_a_model_without_decode_is_refused():
    text = "nothing says which latent sites of lmm are the abundances: pass fit.*decode=decode"
    untrained(ValueError, text, lmm, auto(lmm))

    class Silent(LMM):
        decode = None

    untrained(ValueError, "latent sites of Silent are", Silent(), amortised)
    untrained(TypeError, "decode must be a function of the latent", lmm, auto(lmm), decode="a")


@pytest.mark.parametrize(
    ("decode", "error", "text"),
    [
        (lambda v: v["b"], ValueError, r"asks for the latent site 'b', and there are \['a'\]"),
        (lambda v: v["a"][:, :, 0], ValueError, r"expected abundances .1, 2. \+ .2, materials"),
        (lambda v: v["a"][:, :, 0], ValueError, r"got .1, 2, 3.: add the axis of dates by .unsq"),
        (lambda v: v["a"][:, :, :1], ValueError, r"expected abundances .*, got .1, 2, 1, 3."),
        (lambda v: v["a"][:, :1].expand(-1, 3, -1, -1), ValueError, "draws of 2 pixels in the ab"),
        (lambda v: v["a"].numpy(), TypeError, "decode must return abundances .*, got a ndarray"),
        (lambda v: (v["a"],), TypeError, "or a pair with endmembers .*, got a tuple of 1"),
        (lambda v: (v["a"], SPECTRA.T), ValueError, r"or .20, 3., got .3, 20."),
        (lambda v: (v["a"], SPECTRA[None]), ValueError, r"endmembers .1, 2, 2, 20, 3. or"),
        (lambda v: (v["a"], SPECTRA.numpy()), TypeError, "got a ndarray for the endmembers"),
        (
            lambda v: (v["a"], SPECTRA.expand(1, 5, 1, 20, 3)),
            ValueError,
            "draws of 2 pixels in the endmembers",
        ),
    ],
)
def test_a_wrong_decode_is_refused(decode, error, text):
    untrained(error, text, lmm, auto(lmm), decode=decode)


def no_keywords(pixels, valid):
    lmm(pixels, valid)


def other_event(pixels, valid, *, index=None, size=None, features=None):
    with plates(pixels, valid, index=index, size=size):
        pyro.sample("a", dist.Normal(torch.zeros(NUM_DATES), 1.0).to_event(1))


def outside(pixels, valid, *, index=None, size=None, features=None):
    pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))


def batch_alone(pixels, valid, *, index=None, size=None, features=None):
    lmm(pixels, valid)


def without_numbers(pixels, valid, *, index=None, size=None, features=None):
    lmm(pixels, valid, size=size)


def by_dirichlet_of_the_batch(pixels, valid, *, index=None, size=None, features=None):
    by_dirichlet(pixels, valid)


def without_plate(pixels, valid, *, index=None, size=None, features=None):
    observe(
        pyro.sample("a", dist.Dirichlet(torch.ones(len(valid), 2, 3)).to_event(2)),
        SPECTRA,
        pixels,
        valid,
    )


def blind(pixels, valid, *, index=None, size=None, features=None):
    with plates(pixels, valid, index=index, size=size):
        pyro.sample("a", dist.Dirichlet(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1))


def discrete(pixels, valid, *, index=None, size=None, features=None):
    with plates(pixels, valid, index=index, size=size):
        share = dist.OneHotCategorical(torch.ones(NUM_DATES, NUM_MATERIALS)).to_event(1)
        a = pyro.sample("a", share)
        if pixels is not None and features != "guide":
            observe(a, SPECTRA, pixels, valid)


def discrete_guide(pixels, valid, *, index=None, size=None, features=None):
    discrete(pixels, valid, index=index, size=size, features="guide")


@pytest.mark.parametrize(
    ("model", "guide", "error", "text"),
    [
        (no_keywords, by_dirichlet, TypeError, r"model is called as .*no_keywords.pixels, valid."),
        (lmm, no_keywords, TypeError, "the guide is called as guide.pixels, valid, .*, index=None"),
        (lmm, amortised, ValueError, "amortised does not draw a and draws c, which the model does"),
        (lmm, other_event, ValueError, r"'a' has the event shape .2, 3. in the model and .2,. in"),
        (lmm, outside, ValueError, "'a' is in the plate of the pixels in the model and outside in"),
        (outside, by_dirichlet, ValueError, "in the plate of the pixels in the guide and outside"),
        (batch_alone, by_dirichlet, ValueError, "plate of the model must have the size of the sce"),
        (lmm, by_dirichlet_of_the_batch, ValueError, "pixels' plate of the guide must have the s"),
        (without_plate, without_plate, ValueError, "model must hold its pixels in pyro.plate"),
        (blind, by_dirichlet, ValueError, "the model blind observes nothing: give"),
        (discrete, discrete_guide, TypeError, "site 'a' of the guide is .* cannot be drawn as a f"),
        (lmm, lambda *a, **k: None, ValueError, "<lambda> does not draw a: it must have the lat"),
        (lmm, nn.Linear(2, 2), TypeError, "guide is called as guide.*, and Linear"),
    ],
)
def test_programs_that_do_not_fit_together_are_refused(model, guide, error, text):
    untrained(error, text, model, guide, decode=read, batch_size=8)


def test_a_plate_without_numbers_is_noticed_where_a_batch_is_the_scene():
    """Else the parameters of a pixel would be trained for another one at every step."""

    def plate(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size, dim=-1)

    guide = AutoNormal(without_numbers, create_plates=plate)
    untrained(ValueError, "and as subsample the numbers", without_numbers, guide, decode=read)


def test_guides_that_draw_all_pixels_together_need_them_together():
    guide = AutoDiagonalNormal(lmm)
    text = (
        "AutoDiagonalNormal has one vector of the latent values of all pixels, and must see all 30"
    )
    untrained(ValueError, text, lmm, guide, decode=read, batch_size=8)
    cloudy = CUBES.copy()
    cloudy[:, 0, 0] = np.nan
    untrained(ValueError, "of which 29 have a date", lmm, guide, cloudy, decode=read)
    untrained(ValueError, text, lmm, guide, CUBES.chunk({"y": 5}), decode=read)
    result = run(lmm, guide, decode=read)
    for method in (lambda: result.reflectance_quantile(0.5), result.diagnose):
        with pytest.raises(ValueError, match="AutoDiagonalNormal draws those of the whole scene"):
            method()
    untouched = run(lmm, AutoDiagonalNormal(lmm), decode=read, num_steps=0)
    assert untouched.abundances.shape == result.abundances.shape


def test_a_list_of_guides_must_know_the_plate():
    guide = AutoGuideList(lmm)
    guide.append(AutoNormal(lmm))
    untrained(ValueError, "AutoGuideList must be told the plate", lmm, guide, decode=read)


def test_parameters_that_pyro_does_not_know_are_noticed(caplog):
    class Forgetful(LMM):
        def forward(self, pixels, valid, *, index=None, size=None, features=None):
            with plates(pixels, valid, index=index, size=size):
                a = pyro.sample("a", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
                observe(a, self.spectra, pixels, valid, self.log_noise.exp())

        def decode(self, latents):
            return latents["a"]

    text = "neither model nor guide has a parameter in Pyro's store, so there is nothing to train"
    untrained(ValueError, text, Forgetful(), blind)
    assert not caplog.text
    run(Forgetful(), by_dirichlet)
    assert "no parameter of the model is trained (spectra, log_noise): derive it" in caplog.text
    caplog.clear()
    model = SavedLMM(SPECTRA.numpy())
    for guide in (auto(model), by_dirichlet):
        run(model, guide)
    assert not caplog.text


def test_modules_of_one_name_are_told_apart():
    class Named(PyroModule):
        def __init__(self, program, name="") -> None:
            super().__init__(name)
            self.program, self.weight = program, nn.Parameter(torch.zeros(()))

        def forward(self, *args, **kwargs):
            self.program(*args, **kwargs)

    text = "model and guide both have a parameter 'weight', which Pyro would take for one"
    untrained(ValueError, text, Named(lmm), Named(by_dirichlet), decode=read)
    run(Named(lmm), Named(by_dirichlet, "guide"), decode=read)


def test_missing_endmembers_need_no_model_method():
    """`Model` is abstract: what a subclass lacks is said when it is made."""

    class Mute(pu.models.Model):
        def forward(self, *args, **kwargs):
            pass

    with pytest.raises(TypeError, match="abstract.*decode"):
        Mute()
    for kind in (pu.SGLMM, pu.IDNet):
        assert issubclass(kind, pu.models.VariabilityModel)


def test_sweeps_know_no_other_decode():
    model = pu.SGLMM(
        pu.FixedEndmembers(SPECTRA.numpy()), basis=pu.bases.DCT(1), noise=pu.priors.WhiteNoise(0.05)
    )
    estimate = pu.posterior.PolishedMean()
    text = "PolishedMean moves the states of SGLMM and reads them out as the model does"
    untrained(
        ValueError, text, model, pu.ConjugateGuide(model), decode=model.decode, estimate=estimate
    )
    untrained(ValueError, "PolishedMean needs a linear", LMM(), amortised, estimate=estimate)


# Draws of any distribution as functions of normal noise


@pytest.mark.parametrize(
    "fn",
    [
        dist.Normal(torch.tensor([0.3, 2.0]), torch.tensor([1.0, 0.2])).to_event(1),
        dist.LogNormal(torch.tensor([0.3, -1.0]), 0.4).to_event(1),
        dist.Gamma(torch.tensor([0.5, 7.0]), torch.tensor([2.0, 1.0])).to_event(1),
        dist.Beta(torch.tensor([0.5, 3.0]), torch.tensor([2.0, 1.0])).to_event(1),
        dist.Dirichlet(torch.tensor([0.5, 3.0, 1.0])),
        dist.Uniform(torch.tensor([0.0, -2.0]), 3.0).to_event(1),
        dist.Exponential(torch.tensor([0.5, 3.0])).to_event(1),
        dist.Laplace(torch.tensor([0.5, 3.0]), 0.3).to_event(1),
        dist.MultivariateNormal(torch.tensor([0.5, 3.0]), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
        dist.LowRankMultivariateNormal(
            torch.tensor([0.5, 3.0]), torch.tensor([[1.0], [-0.7]]), torch.tensor([0.3, 0.1])
        ),
        dist.TransformedDistribution(
            dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.5])).to_event(1),
            [torch.distributions.transforms.StickBreakingTransform()],
        ),
    ],
    ids=lambda fn: type(getattr(fn, "base_dist", fn)).__name__,
)
def test_draws_have_the_moments_of_their_distribution(fn):
    num = 20_000
    generator = torch.Generator().manual_seed(0)
    calls = []

    def normals(shape, part):
        calls.append(part)
        return torch.randn((num, *shape), generator=generator)

    drawn = draw_from_normals(fn.expand((num,)), normals).double()
    assert drawn.shape == (num, *fn.event_shape) and len(set(calls)) == len(calls)
    direct = fn.sample((num,)).double()
    for power in (1, 2):
        a, b = drawn**power, direct**power
        error = ((a.var(0) + b.var(0)) / num).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error + 1e-4).all()
    both = [(x[:, 0] * x[:, -1]).mean() for x in (drawn, direct)]
    assert abs(both[0] - both[1]) < 5 * (2 * (direct[:, 0] * direct[:, -1]).var() / num).sqrt()


def test_noise_is_common_to_the_pixels():
    like = torch.zeros(())
    handlers = posterior.one_by_one(CommonNoise(4, 0, like))
    with handlers[2], pyro.plate("pixels", 6, dim=-1):
        value = pyro.sample("x", dist.Normal(torch.arange(6.0), 1.0))
        gamma = pyro.sample("g", dist.Gamma(2.0, torch.ones(6)))
    expected = CommonNoise(4, 0, like)("x", 1)[2, 0]
    np.testing.assert_allclose(value - torch.arange(6.0), expected.expand(6), rtol=1e-6)
    assert gamma.unique().numel() == 1
