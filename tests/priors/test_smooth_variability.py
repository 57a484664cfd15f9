"""Variability that pixels share: the field's law, its place in model and guides, and the unbiased ELBO of batches."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from field_cases import NUM_PIXELS, SHAPE, field_model, field_pixels
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import stats

import pyro_unmix
from pyro_unmix.bases import DCT, LearnedBasis
from pyro_unmix.guides import BiLSTMGuide, ConjugateGuide, MeanFieldGuide
from pyro_unmix.models import SGLMM, FirstDateSGLMM
from pyro_unmix.priors import AutoRegressive, FixedEndmembers, Independent, SmoothVariability
from pyro_unmix.priors.part import Need


def field_prior(**settings):
    prior = SmoothVariability(SHAPE, **{"length": 2.0, "scale": 0.7, **settings})
    prior.setup(num_endmembers=2, num_components=2, generator=torch.Generator())
    return prior


def test_field_has_the_covariance_that_its_docstring_states():
    prior = field_prior(coefficient=0.8)
    prior.set_elapsed(torch.tensor([1.0, 2.0, 0.5]))
    units = torch.eye(prior.num_innovations)
    maps = prior.offsets(units, None).detach().double()  # a linear map: its columns
    maps = maps.reshape(len(units), 5, 6, 3, 4)[..., 2].reshape(len(units), -1)
    covariance = (maps.mT @ maps).numpy()
    y, x = np.meshgrid(np.arange(5), np.arange(6), indexing="ij")
    apart = (y.ravel()[:, None] - y.ravel()) ** 2 + (x.ravel()[:, None] - x.ravel()) ** 2
    times = np.array([1.0, 3.0, 3.5])
    memory = 0.8 ** np.abs(times[:, None] - times)
    expected = 0.49 * np.kron(np.exp(-apart / 16.0), memory)
    assert np.allclose(covariance, expected, atol=4e-3)


def test_light_scales_the_first_component_of_all_materials_alike():
    prior = field_prior(light=0.4)
    assert prior.num_innovations == field_prior().num_innovations // 4 * 5
    units = torch.eye(prior.num_innovations)
    maps = prior.offsets(units, None).detach().double()
    maps = maps.reshape(len(units), -1, 4)  # component outer, material inner
    covariance = torch.einsum("znk,znl->nkl", maps, maps) / 0.49
    of_light = 0.16 / 0.49
    expected = torch.eye(4, dtype=torch.float64)
    expected[:2, :2] += of_light
    assert torch.allclose(covariance, expected.expand_as(covariance), atol=1e-2)
    assert torch.allclose(
        prior.first_variance().detach().double(), field_prior().first_variance().detach().double()
        + 0.16 * torch.tensor([1, 1, 0, 0])
    )  # fmt: skip


def test_light_must_be_positive():
    with pytest.raises(ValueError, match="light"):
        field_prior(light=0.0)


def test_nothing_crosses_the_border_of_tiles():
    prior = field_prior(tile_heights=[2, 3])
    maps = prior.offsets(torch.eye(prior.num_innovations), None).detach()
    maps = maps.reshape(-1, 5, 6, 12)
    upper, lower = maps[:, :2].flatten(1), maps[:, 2:].flatten(1)
    assert upper.square().sum() > 1 and lower.square().sum() > 1
    assert (upper.mT @ lower).abs().max() < 1e-6


def test_pixels_by_number_have_their_values():
    prior = field_prior()
    field = torch.randn(2, prior.num_innovations, generator=torch.Generator().manual_seed(0))
    everywhere = prior.offsets(field, None)
    index = torch.tensor([29, 0, 13])
    assert torch.allclose(prior.offsets(field, index), everywhere[:, index], atol=1e-6)


@pytest.mark.parametrize("light", [None, 0.5])
def test_density_of_the_model_is_that_of_its_sites_by_hand(light):
    model = field_model(light=light)
    pixels, valid = field_pixels()
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope(), torch.no_grad():
        trace = poutine.trace(model).get_trace(pixels, valid)
        trace.compute_log_prob()
        value = {n: s["value"].numpy() for n, s in trace.nodes.items() if s["type"] == "sample"}
        offsets = model.variability_prior.offsets(torch.tensor(value["field"]), None).numpy()
        endmembers, components = model.reference.value.numpy(), model.components().numpy()
        noise = float(model.noise.log_scale.exp())
    field = trace.nodes["field"]["log_prob"]
    assert float(field) == pytest.approx(stats.norm.logpdf(value["field"]).sum(), rel=1e-5)
    for t in (1, 2, 3):
        logits = value[f"c_{t}"]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        abundances = weights / weights.sum(1, keepdims=True)
        psi = (value[f"psi_{t}"] + offsets[:, t - 1]).reshape(-1, 2, 2)
        varied = endmembers + np.einsum("lkp,nkp->nlp", components, psi)
        mean = np.einsum("nlp,np->nl", varied, abundances)
        expected = stats.norm.logpdf(pixels[:, t - 1].numpy(), mean, noise).sum(1)
        expected = np.where(valid[:, t - 1].numpy(), expected, 0.0)
        assert np.allclose(trace.nodes[f"y_{t}"]["log_prob"].numpy(), expected, rtol=1e-3)


def test_decode_adds_the_field():
    model = field_model()
    pixels, valid = field_pixels()
    index = torch.tensor([3, 8])
    with pyro.get_param_store().scope(), torch.no_grad():
        trace = poutine.trace(model).get_trace(
            pixels[index], valid[index], index=index, size=NUM_PIXELS
        )
        value = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample"}
        psi = model.decode_variability(value)[1]
        offsets = model.variability_prior.offsets(value["field"], index)
    rest = torch.stack([value[f"psi_{t}"] for t in (1, 2, 3)], dim=1)
    assert torch.allclose(psi.flatten(-2), rest + offsets, atol=1e-6)
    assert offsets.abs().max() > 0.1


@pytest.mark.parametrize("kind", [ConjugateGuide, BiLSTMGuide, MeanFieldGuide])
def test_elbo_of_batches_is_the_full_one_on_average(kind):
    """The field lies outside of the plate: batches scale what pixels bring and nothing else."""
    model = field_model(residual=Independent(0.3))
    pixels, valid = field_pixels()
    guide = kind(model)
    with torch.no_grad():
        guide.field_loc.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.3)
    features = guide.prepare(pixels, valid, index=torch.arange(NUM_PIXELS))

    values = {}
    with pyro.get_param_store().scope(), torch.no_grad():
        trace = poutine.trace(guide).get_trace(
            pixels, valid, index=torch.arange(NUM_PIXELS), size=NUM_PIXELS, features=features
        )
        values = {n: s["value"] for n, s in trace.nodes.items() if s["type"] == "sample"}

        def elbo(index):
            """Of the draws of the full trace, so that batches differ by their pixels alone."""
            known = {n: v if n == "field" else v[index] for n, v in values.items() if n != "pixels"}
            inputs = {
                "index": index,
                "size": NUM_PIXELS,
                "features": {n: f[index] for n, f in features.items()},
            }
            total = 0.0
            for program, sign in ((model, 1.0), (guide, -1.0)):
                fixed = poutine.condition(program, data=known)
                found = poutine.trace(fixed).get_trace(pixels[index], valid[index], **inputs)
                total += sign * float(found.log_prob_sum())
            return total

        full = elbo(torch.arange(NUM_PIXELS))
        order = torch.randperm(NUM_PIXELS, generator=torch.Generator().manual_seed(1))
        batches = [elbo(part) for part in order.split(5)]
    assert np.mean(batches) == pytest.approx(full, rel=2e-4)
    assert np.std(batches) > 1e-3 * abs(full)  # else nothing was tested


def test_conjugate_guide_knows_the_variability_exactly():
    """With c and the field fixed, log p - log q is log p(y | c, field), whatever psi is."""
    model = field_model(residual=AutoRegressive(0.6, 0.5)).double()
    pixels, valid = (x.double() if x.is_floating_point() else x for x in field_pixels())
    guide = ConjugateGuide(model, correction=False).double()
    features = guide.prepare(pixels, valid)
    found = []
    for seed in range(2):
        with pyro.get_param_store().scope(), torch.no_grad():
            pyro.set_rng_seed(seed)
            same = {f"c_{t}": features["path"][:, t] for t in range(4)}
            same["field"] = guide.field_loc + 0.2
            fixed = poutine.condition(guide, data=same)
            drawn = poutine.trace(fixed).get_trace(pixels, valid, features=features)
            known = {
                n: site["value"]
                for n, site in drawn.nodes.items()
                if n.startswith(("c_", "psi_", "field"))
            }
            joint = poutine.trace(poutine.condition(model, data=known)).get_trace(pixels, valid)
            for trace in (drawn, joint):
                trace.compute_log_prob()
            psi = [f"psi_{t}" for t in range(4)]
            log_p = sum(joint.nodes[n]["log_prob"] for n in [*psi, "y_1", "y_2", "y_3"])
            found.append(log_p - sum(drawn.nodes[n]["log_prob"] for n in psi))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    # and it is the density of a Gaussian, by hand, of a pixel that is seen at all dates
    with torch.no_grad():
        offsets = model.variability_prior.offsets(same["field"], None)[0]
        design = model.design()
        a = torch.softmax(features["path"][0, 1:], -1)
        loc = torch.cat([a, offsets * a.repeat(1, 2)], -1) @ design.mT
        loading = design[:, 2:] * a.repeat(1, 2)[:, None]  # (T, L, K P)
        memory = 0.6 ** (torch.arange(3.0)[:, None] - torch.arange(3.0)).abs()
        covariance = 0.25 * torch.einsum("st,slk,tmk->sltm", memory.double(), loading, loading)
        noise = model.noise.log_scale.exp()
        covariance = covariance.reshape(24, 24) + noise.square() * torch.eye(24)
        expected = dist.MultivariateNormal(loc.flatten(), covariance).log_prob(pixels[0].flatten())
    assert float(found[0][0]) == pytest.approx(float(expected), rel=1e-5)


def test_gradient_of_the_field_is_that_of_finite_differences():
    model = field_model(residual=Independent(0.3)).double()
    pixels, valid = (x.double() if x.is_floating_point() else x for x in field_pixels())
    guide = ConjugateGuide(model, correction=False).double()
    features = guide.prepare(pixels, valid)

    def loss(shift):
        pyro.set_rng_seed(3)
        guide.field_loc.data = start + shift
        return Trace_ELBO().differentiable_loss(model, guide, pixels, valid, features=features)

    start = guide.field_loc.data.clone()
    with pyro.get_param_store().scope():
        loss(torch.zeros_like(start)).backward()
        slope = guide.field_loc.grad.clone()
        direction = torch.randn(len(start), generator=torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            ends = [float(loss(sign * 1e-5 * direction)) for sign in (1.0, -1.0)]
    # The draw of psi moves with the field, and its density with it: their sum is what counts.
    assert float(slope @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3, 5)}, r"shape must be \(dates, rows, columns\)"),
        ({"length": 0.5}, "length"),
        ({"coefficient": 1.0}, "coefficient"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"tile_heights": [2, 2]}, "sum to the 5 rows"),
        ({"residual": 0.1}, "residual must be a VariabilityPrior"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SmoothVariability(**{"shape": SHAPE, **settings})


def test_another_scene_is_refused():
    model = field_model()
    pixels, valid = field_pixels()
    with pyro.get_param_store().scope():
        with pytest.raises(ValueError, match="3 dates, the images have 2"):
            model(pixels[:, :2], valid[:, :2])
        with pytest.raises(ValueError, match="outside of the 5 x 6 pixels"):
            model(pixels[:1], valid[:1], index=torch.tensor([30]), size=31)
    with pytest.raises(ValueError, match="start must have"):
        ConjugateGuide(field_model(start=np.zeros(3)))
    with pytest.raises(ValueError, match=r"\(components, endmembers\) = \(2, 2\)"):
        field_prior(scale=np.ones((3, 2)))


def test_sweeps_refuse_a_field_before_training():
    model = field_model()
    cubes = np.full((3, 5, 6, 8), 0.5)
    with pytest.raises(ValueError, match="variability of every pixel's own"):
        pyro_unmix.fit(
            model, ConjugateGuide(model), cubes, num_steps=10**6, progress=False,
            estimate=pyro_unmix.posterior.PolishedMean(),
        )  # fmt: skip


def test_order_holds_every_date_once():
    with pytest.raises(ValueError, match="the 3 dates once each"):
        SmoothVariability(SHAPE, order=[0, 1, 1])


def test_models_that_know_no_field_say_so():
    with pytest.raises(ValueError, match="FirstDateSGLMM has no variability that pixels share"):
        program = FirstDateSGLMM(
            np.full((8, 2), 0.5), basis=DCT(2), variability_prior=field_prior()
        )
        program(*field_pixels())
    with pytest.raises(TypeError, match="of single pixels"):
        SmoothVariability(SHAPE, residual=SmoothVariability(SHAPE))
    with pytest.raises(ValueError, match="of 5 x 6 pixels, got 7"):
        field_model().sample_sequence(7, 3)


def test_needs_are_also_those_of_the_residual():
    prior = field_prior(residual=AutoRegressive())
    prior.set_elapsed(torch.tensor([1.0, 2.0, 0.5]))
    assert prior.needs == {Need.SHARED_VARIABILITY, Need.UNEVEN_VARIABILITY}


def test_anchored_endmembers_know_how_much_varies():
    prior = field_prior(residual=Independent(0.1))
    assert np.allclose(prior.first_variance().detach(), 0.7**2 + 0.1**2)


def test_paths_are_found_with_the_endmembers_of_every_pixel():
    """As of a model without field whose reference endmembers are those of that pixel."""
    rng = np.random.default_rng(0)
    spectra, components = rng.uniform(0.2, 0.8, (8, 2)), 0.2 * rng.normal(size=(8, 2, 2))
    shared = {"basis": LearnedBasis(components)}
    residual = Independent(0.3)
    prior = SmoothVariability((1, 5, 6), length=2.0, scale=1.0, residual=residual)
    model = SGLMM(FixedEndmembers(spectra), variability_prior=prior, **shared).double()
    pixels, valid = field_pixels()
    pixels, valid = pixels[:, :1].double(), torch.ones(NUM_PIXELS, 1, dtype=torch.bool)
    guide = ConjugateGuide(model, correction=False).double()
    with torch.no_grad():
        guide.field_loc.normal_(generator=torch.Generator().manual_seed(0))
    index = torch.tensor([3, 17])
    found = guide.prepare(pixels[index], valid[index], index=index)
    for n, offset in enumerate(found["offsets"][:, 0].detach().numpy()):
        own = spectra + np.einsum("lkp,kp->lp", components, offset.reshape(2, 2))
        alone = SGLMM(FixedEndmembers(own), variability_prior=Independent(0.3), **shared).double()
        one = ConjugateGuide(alone, correction=False).double()
        expected = one.prepare(pixels[index[n : n + 1]], valid[:1])
        assert torch.allclose(found["path"][n], expected["path"][0], atol=1e-5)
    assert found["offsets"].abs().max() > 0.5
