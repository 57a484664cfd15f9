from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

from pyro_unmix import (
    SGLMM,
    BiLSTMGuide,
    ConjugateGuide,
    NonFiniteLossError,
    fit,
    redsunn,
    simulate,
    unmix,
)
from pyro_unmix.bases.linear import DCT
from pyro_unmix.data.cubes import as_cube_sequence
from pyro_unmix.infer import checkpoints as checkpoint
from pyro_unmix.infer import step as training
from pyro_unmix.posterior import read_out as posterior
from pyro_unmix.posterior.estimates import PolishedMean, PosteriorMean
from pyro_unmix.priors import FixedEndmembers, Independent, JumpWalk, RandomWalk, WhiteNoise

# In the package the function hides the module of its name.
fit_module = sys.modules["pyro_unmix.infer.fit"]

LIBRARY = simulate.library(np.linspace(450, 2400, 20))
SCENE = simulate.scaled_scene(num_dates=3, height=5, width=6, library=LIBRARY, seed=1)
CUBES = SCENE.cubes
NUM_PIXELS = 30


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    # Whatever a test fits, nothing is left in the store.
    assert not list(pyro.get_param_store().keys())


def paper(seed: int = 0, **parts):
    model = SGLMM(SCENE.reference_endmembers, **{"basis": DCT(2), "seed": seed, **parts})
    return model, BiLSTMGuide(model, seed=seed)


def ours(seed: int = 0, **parts):
    defaults = {
        "basis": DCT(2, scale=0.4),
        "abundance_prior": JumpWalk(),
        "variability_prior": Independent(),
        "seed": seed,
    }
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), **{**defaults, **parts})
    return model, ConjugateGuide(model, seed=seed)


PAIRS = {"paper": paper, "ours": ours}


def run(make=paper, cubes=CUBES, seed: int = 0, **settings):
    model, guide = make(seed)
    defaults = {"num_steps": 3, "batch_size": 8, "progress": False, "seed": seed}
    return fit(model, guide, cubes, **{**defaults, **settings})


def weights_of(*modules: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{name}": value.detach().clone()
        for i, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def changed(before: dict[str, torch.Tensor], *modules: nn.Module) -> list[str]:
    after = weights_of(*modules)
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


# How long it trains


@pytest.mark.parametrize("num_steps", [0, 1, 7])
def test_num_steps_is_exact(num_steps):
    result = run(num_steps=num_steps)
    assert result.losses.shape == (num_steps,)
    assert np.isfinite(result.losses).all()


@pytest.mark.parametrize(("num_epochs", "steps"), [(1, 4), (2, 8), (0.5, 2), (0.1, 1)])
def test_num_epochs_are_passes_over_the_pixels(num_epochs, steps):
    # 30 pixels in batches of 8 are 3.75 steps a pass, rounded up over all passes.
    assert len(run(num_steps=None, num_epochs=num_epochs).losses) == steps


def test_a_batch_larger_than_the_scene_is_the_scene():
    index = []

    def look(*arguments, index_seen=index, **keywords):
        index_seen.append(keywords["index"])

    model, guide = paper()
    original = model.forward
    model.forward = lambda *a, **k: (look(*a, **k), original(*a, **k))[1]
    fit(model, guide, CUBES, num_steps=2, batch_size=1000, progress=False)
    trained = [i for i in index if i is not None and len(i)]
    assert all(sorted(i.tolist()) == list(range(NUM_PIXELS)) for i in trained[:2])


def test_every_pixel_comes_once_before_any_comes_again():
    seen: list[int] = []
    model, guide = paper()
    original = guide.forward

    def spy(*arguments, index, **keywords):
        seen.extend(index.tolist())
        return original(*arguments, index=index, **keywords)

    guide.forward = spy
    fit(model, guide, CUBES, num_steps=15, batch_size=8, progress=False)
    steps = seen[: 15 * 8]  # what follows is the read-out
    for start in range(0, 120, NUM_PIXELS):
        assert sorted(steps[start : start + NUM_PIXELS]) == list(range(NUM_PIXELS))
    assert steps[:NUM_PIXELS] != steps[NUM_PIXELS : 2 * NUM_PIXELS]


def plan(losses_known: bool = False, **settings):
    defaults = {"num_steps": None, "num_epochs": None, "batch_size": 8, "decay": 1.0}
    return fit_module.Plan(NUM_PIXELS, *{**defaults, **settings}.values())


def test_without_a_number_of_steps_the_plan_is_bounded():
    made = plan()
    assert made.until_converged
    # 30 epochs of 3.75 steps, and two windows at least.
    assert made.num_steps == max(math.ceil(30 * NUM_PIXELS / 8), 100)
    assert plan(batch_size=30).num_steps == 100
    assert not plan(num_steps=500).until_converged


def losses_of(*means: float, noise: float = 1.0, seed: int = 0) -> list[float]:
    """Windows of 50 losses with given means and exactly that standard deviation."""
    rng = np.random.default_rng(seed)
    parts = []
    for mean in means:
        values = rng.normal(size=50)
        values = (values - values.mean()) / values.std(ddof=1)
        parts.append(mean + noise * values)
    return list(np.concatenate(parts))


def test_converged_means_no_gain_of_two_standard_errors():
    made = plan()
    error = math.sqrt(2 / 50)  # of the difference of two means of 50
    assert made.finished(losses_of(5.0, 5.0))
    assert made.finished(losses_of(5.0, 6.0))  # it got worse
    assert made.finished(losses_of(5.0, 5.0 - 1.99 * error))
    assert not made.finished(losses_of(5.0, 5.0 - 2.01 * error))
    # Only the last two windows count.
    assert made.finished(losses_of(90.0, 5.0, 5.0))
    assert not made.finished(losses_of(5.0, 5.0, 3.0))


def test_convergence_is_looked_for_once_a_window_and_only_when_asked_for():
    made, flat = plan(), losses_of(5.0, 5.0, 5.0)
    assert not made.finished(flat[:50])
    assert not made.finished(flat[:99])
    assert not made.finished(flat[:101])
    assert made.finished(flat[:100])
    assert not plan(num_steps=500).finished(flat[:100])
    assert not plan(num_epochs=40).finished(flat[:100])


def test_training_stops_when_converged(caplog):
    """With all abundances certain and nothing to learn, the ELBO is flat from the start."""
    model, guide = paper()
    with caplog.at_level(logging.INFO, logger="pyro_unmix"):
        result = fit(model, guide, CUBES, batch_size=3, learning_rate=1e-9, progress=False)
    assert len(result.losses) % 50 == 0
    assert 100 <= len(result.losses) < 300
    assert f"ELBO converged after {len(result.losses)} steps" in caplog.text


# The objective


@pytest.mark.parametrize("name", PAIRS)
def test_the_loss_is_the_elbo_per_observed_value(name):
    cubes = CUBES.copy()
    cubes[1, 2, 3] = cubes[0, 0, 0, 5] = np.nan
    # One pixel without any date does not take part.
    cubes[:, 4, 4] = np.nan
    model, guide = PAIRS[name]()
    seen = []
    result = fit(
        model,
        guide,
        cubes,
        num_steps=1,
        batch_size=NUM_PIXELS,
        seed=3,
        progress=False,
        learning_rate=1e-12,
        callback=lambda step, elbo: seen.append((step, elbo)),
    )
    pixels = torch.from_numpy(np.nan_to_num(cubes.values)).reshape(3, NUM_PIXELS, 20)
    missing = cubes.isnull().any("wavelength").values.reshape(3, NUM_PIXELS).T
    valid = torch.from_numpy(~missing)
    pixels = pixels.permute(1, 0, 2) * valid[..., None]
    usable = valid.any(1).nonzero()[:, 0]
    assert len(usable) == NUM_PIXELS - 1
    num_values = int(valid.sum()) * 20
    # Any order of the batch has the same expectation; compare with many particles.
    y, v = pixels[usable].float(), valid[usable]
    elbo = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(0)
    trace_elbos = []
    with pyro.get_param_store().scope(), torch.no_grad():
        expected = -elbo.loss(model, guide, y, v) / num_values
        for seed in range(30):
            torch.manual_seed(seed)
            trace_elbos.append(-Trace_ELBO().loss(model, guide, y, v) / num_values)
    spread = np.std(trace_elbos, ddof=1)
    assert seen == [(0, -result.losses[0])]
    # One draw against the mean of 400.
    assert abs(-result.losses[0] - expected) < 5 * spread * math.sqrt(1 + 1 / 400)


def test_batches_are_scaled_to_the_scene():
    """The mean loss over the batches of one pass is that of the whole."""
    model, guide = ours()
    settings = {"learning_rate": 1e-12, "progress": False}
    parts = [
        fit(model, guide, CUBES, num_epochs=1, batch_size=5, seed=s, **settings).losses
        for s in range(8)
    ]
    whole = [
        fit(model, guide, CUBES, num_steps=6, batch_size=30, seed=s, **settings).losses
        for s in range(8)
    ]
    assert np.shape(parts) == np.shape(whole) == (8, 6)
    # A pass visits every pixel once: its mean is over the same pixels, with other draws.
    error = np.std(np.mean(parts, 1), ddof=1) / math.sqrt(8) + np.std(whole, ddof=1) / math.sqrt(48)
    assert abs(np.mean(parts) - np.mean(whole)) < 5 * error
    assert np.std(parts) > 2 * np.std(whole)


@pytest.mark.parametrize("name", PAIRS)
def test_training_lowers_the_loss_and_moves_every_parameter(name):
    model, guide = PAIRS[name]()
    before = weights_of(model, guide)
    learned = {
        f"{i}.{key}"
        for i, module in enumerate((model, guide))
        for key, _ in module.named_parameters()
    }
    losses = fit(
        model, guide, CUBES, num_steps=60, batch_size=30, learning_rate=0.02, progress=False
    ).losses
    assert losses[-10:].mean() < losses[:10].mean() - 3 * losses[:10].std() / math.sqrt(10)
    assert set(changed(before, model, guide)) == learned


@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        TraceGraph_ELBO(),
        Trace_ELBO(num_particles=2),
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        RenyiELBO(alpha=0.5, num_particles=2),
    ],
    ids=["trace", "graph", "particles", "vectorized", "renyi"],
)
@pytest.mark.parametrize("name", PAIRS)
def test_any_elbo_of_pyro_trains(name, loss):
    model, guide = PAIRS[name]()
    before = weights_of(model, guide)
    result = fit(model, guide, CUBES, num_steps=2, loss=loss, progress=False)
    assert np.isfinite(result.losses).all()
    assert len(changed(before, model, guide)) >= 10


def test_the_analytic_elbo_of_pyro_trains_the_papers_pair():
    assert np.isfinite(run(loss=TraceMeanField_ELBO()).losses).all()


# Learning rates


def test_learning_rate_may_depend_on_the_parameters_name():
    model, guide = paper()
    before, names = weights_of(model, guide), []

    def rate(name: str) -> float:
        names.append(name)
        return 1e-2 if name == "model.noise.log_scale" else 1e-30

    fit(model, guide, CUBES, num_steps=1, learning_rate=rate, progress=False)
    # Adam's first step is the learning rate, in the direction of the gradient's sign.
    moved = abs(float(model.noise.log_scale.detach()) - float(before["0.noise.log_scale"]))
    assert moved == pytest.approx(1e-2, rel=1e-3)
    assert {"model.noise.log_scale", "model.reference.value", "guide.alpha"} <= set(names)
    for name in set(changed(before, model, guide)) - {"0.noise.log_scale"}:
        after = weights_of(model, guide)[name]
        assert float((after - before[name]).abs().max()) < 1e-20


def test_learning_rate_has_decayed_by_the_stated_factor_at_the_end():
    made = plan(num_steps=40, decay=0.1)
    assert made.decay_per_step**40 == pytest.approx(0.1)
    assert plan(num_steps=0, decay=0.5).decay_per_step == 0.5
    model, guide = paper()
    values = [float(model.noise.log_scale.detach())]
    fit(
        model, guide, CUBES, num_steps=4, batch_size=30, learning_rate=0.1,
        learning_rate_decay=1e-4, progress=False,
        callback=lambda step, elbo: values.append(float(model.noise.log_scale.detach())),
    )  # fmt: skip
    sizes = np.abs(np.diff(values))
    # A tenth per step; with a steady gradient, as here at the start, Adam moves by the rate.
    np.testing.assert_allclose(sizes, [1e-2, 1e-3, 1e-4, 1e-5], rtol=0.2)


# What can go wrong


class Broken(RandomWalk):
    """Its scale becomes NaN after some calls."""

    calls = 0
    at = 5

    def chain(self):
        type(self).calls += 1
        coefficient, scale, loc, start = super().chain()
        broken = float("nan") if type(self).calls > type(self).at else 1.0
        return coefficient, scale * broken, loc, start


@pytest.fixture
def broken():
    Broken.calls = 0
    return Broken


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_a_loss_that_is_not_finite_names_the_site_and_keeps_the_parameters(broken):
    model, guide = paper(variability_prior=broken())
    kept = []
    with pytest.raises(NonFiniteLossError, match=r"became nan: site 'psi_1' of the model") as error:
        fit(
            model, guide, CUBES, num_steps=10, progress=False,
            callback=lambda step, elbo: kept.append((elbo, weights_of(model, guide))),
        )  # fmt: skip
    assert all(math.isfinite(elbo) for elbo, weights in kept)
    # Those that the failing step found, or the last ones that gave a finite loss.
    assert len(kept) >= 2
    assert any(not changed(weights, model, guide) for elbo, weights in kept[-2:])
    assert "lower learning_rate" in str(error.value)
    assert isinstance(error.value, ArithmeticError)
    for parameter in [*model.parameters(), *guide.parameters()]:
        assert parameter.grad is None or not parameter.grad.any()


DATED = CUBES.assign_coords(
    time=np.array(["2021-05-01", "2021-06-11", "2021-07-31"], dtype="datetime64[ns]")
)
# Position in the scene, x running fastest over six columns: (1, 2), (3, 0), (3, 1), (4, 5).
SPOILT = [8, 18, 19, 29]


class SpoiltPixels(WhiteNoise):
    """Its density is not finite at some pixels of the second date, from the third step on."""

    index = None
    steps = 0
    spoilt = SPOILT

    def distributions(self):
        type(self).steps += 1
        date, inner = [0], super().distributions()

        def distribution(mean):
            date[0] += 1
            if date[0] != 2 or self.steps < 3:
                return inner(mean)
            bad = torch.isin(self.index, torch.tensor(self.spoilt))
            return dist.Normal(mean.masked_fill(bad[:, None], float("nan")), 0.1).to_event(1)

        return distribution


class Spoilt(SGLMM):
    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        self.noise.index = index
        return super().forward(pixels, valid, index=index, size=size, features=features)


def spoilt(pixels=SPOILT) -> tuple[Spoilt, BiLSTMGuide]:
    SpoiltPixels.steps, SpoiltPixels.spoilt = 0, pixels
    model = Spoilt(SCENE.reference_endmembers, basis=DCT(2), noise=SpoiltPixels())
    return model, BiLSTMGuide(model)


def failure(pixels=SPOILT, cubes=DATED, **settings) -> str:
    model, guide = spoilt(pixels)
    kept = []
    with pytest.raises(NonFiniteLossError) as error:
        fit(
            model, guide, cubes, **{"num_steps": 9, "batch_size": 30, "progress": False} | settings,
            callback=lambda step, elbo: kept.append(weights_of(model, guide)),
        )  # fmt: skip
    assert len(kept) == 2  # it stopped at the very step
    assert not changed(kept[0], model, guide)  # the last that gave a finite loss
    return str(error.value)


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_a_failure_names_site_date_and_pixels():
    assert failure() == (
        "the loss became nan: site 'y_2' of the model has a density that is not finite, at date "
        "2 of 3 (2021-06-11), in pixels (y, x) (1, 2), (3, 0), (3, 1) and 1 more"
        " of 30 in the batch; lower learning_rate, or look at the data and the priors' scales"
    )
    # Numbers for dates, or none; in whichever order the batch has the pixels.
    assert "at date 2 of 3 (1), in pixels (y, x) (3, 0), (4, 5)" in failure([29, 18], CUBES)
    assert "at date 2 of 3, in pixels" in failure([29], CUBES.drop_vars("time"))


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_a_failure_names_pixels_of_the_scene_and_not_of_the_batch():
    # Pixels without any date do not take part: the batch has other numbers than the scene.
    cubes = DATED.copy(deep=True)
    cubes[:, 0] = np.nan
    assert "in pixels (y, x) (4, 5) of 24 in the batch" in failure([29], cubes, batch_size=24)
    # What is masked is not to blame.
    cubes[1, 1, 2] = np.nan
    assert "in pixels (y, x) (4, 5) of 24 in" in failure([8, 29], cubes, batch_size=24)


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_a_failure_of_a_latent_site_names_its_date(name, broken):
    model, guide = PAIRS[name](variability_prior=broken())
    broken.calls, broken.at = 0, 2  # what the guide prepares is still right
    with pytest.raises(NonFiniteLossError, match=r"site 'psi_\d' of the .*, in pixels .y, x. "):
        fit(model, guide, DATED, num_steps=10, progress=False)


def test_parameters_that_gave_a_finite_loss_are_kept():
    """A step that is far too long: what follows it is lost, what came before is not."""
    model, guide = paper()
    before = weights_of(model, guide)
    with pytest.raises(NonFiniteLossError):
        fit(model, guide, CUBES, num_steps=50, learning_rate=1e4, progress=False)
    for name, value in weights_of(model, guide).items():
        assert torch.isfinite(value).all(), name
    result = fit(model, guide, CUBES, num_steps=1, learning_rate=1e-9, progress=False)
    assert np.isfinite(result.losses).all()
    assert before.keys() == weights_of(model, guide).keys()


class BadGradient(WhiteNoise):
    """Finite in value, and without a gradient."""

    def distributions(self):
        scale = self.log_scale + 0 * (self.log_scale - self.log_scale).sqrt()
        return lambda mean: dist.Normal(mean, scale.exp()).to_event(1)


@pytest.mark.parametrize("name", PAIRS)
def test_a_gradient_that_is_not_finite_does_not_reach_the_parameters(name):
    model, guide = PAIRS[name](noise=BadGradient())
    with pytest.raises(NonFiniteLossError, match="log_scale"):
        fit(model, guide, CUBES, num_steps=5, progress=False)
    for module in (model, guide):
        for key, value in module.named_parameters():
            assert torch.isfinite(value).all(), key


def test_a_bad_gradient_of_the_last_step_is_noticed():
    model, guide = paper(noise=BadGradient())
    with pytest.raises(NonFiniteLossError, match=r"gradient of parameter 'model.noise.log_scale'"):
        fit(model, guide, CUBES, num_steps=1, progress=False)
    assert torch.isfinite(model.noise.log_scale)


def test_the_optimiser_moves_parameters_as_clipped_adam_of_pyro():
    """Same gradients, some of them clipped, a rate for each parameter: same path."""
    generator = torch.Generator().manual_seed(0)
    rates = {"a": 0.1, "b": 0.01}
    ended = []
    for optimiser in (
        training.Optimiser(rates.__getitem__, 0.9),
        pyro.optim.ClippedAdam(lambda name: {"lr": rates[name], "lrd": 0.9}),
    ):
        generator.manual_seed(1)
        with pyro.get_param_store().scope():
            values = [pyro.param(name, torch.ones(3)).unconstrained() for name in rates]
            for step in range(6):
                for value in values[: 1 + (step > 1)]:  # the second is met later
                    value.grad = 20 * torch.randn(3, generator=generator)
                optimiser(values[: 1 + (step > 1)])
            ended.append([value.detach().clone() for value in values])
    for ours, theirs in zip(*ended, strict=True):
        assert not torch.equal(ours, torch.ones(3))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_divergence_is_reported_as_such(name):
    model, guide = PAIRS[name]()
    with pytest.raises(NonFiniteLossError, match="lower learning_rate"):
        fit(model, guide, CUBES, num_steps=50, learning_rate=1e6, progress=False)


@pytest.mark.parametrize("learning_rate", [1e3, 1e8, 1e20])
@pytest.mark.parametrize("name", PAIRS)
def test_divergence_at_the_last_step_is_noticed(name, learning_rate):
    model, guide = PAIRS[name]()
    before = weights_of(model, guide)
    try:
        result = fit(model, guide, CUBES, num_steps=1, learning_rate=learning_rate, progress=False)
    except NonFiniteLossError as error:
        assert "lower learning_rate" in str(error)
        assert not changed(before, model, guide)
    else:
        assert np.isfinite(result.abundances).all()


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_an_autoguide_must_know_the_plate_of_the_pixels(kind):
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1))
    with pytest.raises(ValueError, match=f"{kind.__name__} must be told the plate"):
        fit(model, kind(model), CUBES, num_steps=2, progress=False)


@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_prior_that_is_nan_from_the_start_is_named(num_steps):
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1), abundance_prior=JumpWalk())
    with torch.no_grad():
        model.abundance_prior.log_scale.fill_(np.nan)
    guide = ConjugateGuide(model)
    with pytest.raises(NonFiniteLossError, match=r"^model.abundance_prior.log_scale is not finite"):
        fit(model, guide, CUBES, num_steps=num_steps, progress=False)


@pytest.mark.parametrize("name", PAIRS)
def test_a_read_out_that_fails_gives_the_last_good_parameters_back(name, monkeypatch):
    model, guide = PAIRS[name]()

    def fails(*args, **kwargs):
        raise torch.linalg.LinAlgError("not positive-definite")

    kept = []
    monkeypatch.setattr(fit_module, "read_out", fails)
    with pytest.raises(NonFiniteLossError, match=r"left no posterior \(not positive-definite\)"):
        fit(
            model, guide, CUBES, num_steps=3, progress=False,
            callback=lambda step, elbo: kept.append(weights_of(model, guide)),
        )  # fmt: skip
    assert not changed(kept[1], model, guide)  # the third step moved on from there
    assert changed(kept[2], model, guide)


def test_an_interrupt_of_the_preparation_returns_the_start(monkeypatch):
    model, guide = ours()
    expected = fit(model, guide, CUBES, num_steps=0, progress=False)

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "prepare", stop)
    result = fit(model, guide, CUBES, num_steps=9, progress=False)
    assert len(result.losses) == 0
    xr.testing.assert_identical(result.abundances, expected.abundances)


def test_the_site_to_blame_is_found_with_the_noise_that_failed():
    """A site whose draw is not finite in one of five calls only."""

    class Rarely(WhiteNoise):
        def distributions(self):
            bad = torch.rand(()) < 0.2
            return lambda mean: dist.Normal(mean + (float("nan") if bad else 0), 0.1).to_event(1)

    for seed in range(5):
        model, guide = paper(noise=Rarely())
        with pytest.raises(NonFiniteLossError, match="site 'y_1' of the model has a density"):
            fit(model, guide, CUBES, num_steps=200, seed=seed, progress=False)


@pytest.mark.parametrize("step", [0, 2])
def test_an_interrupt_returns_what_is_there(step, caplog):
    def stop(at: int, elbo: float) -> None:
        if at == step:
            raise KeyboardInterrupt

    with caplog.at_level(logging.WARNING, logger="pyro_unmix"):
        result = run(num_steps=9, callback=stop)
    assert len(result.losses) == step + 1
    expected = run(num_steps=step + 1)
    np.testing.assert_array_equal(result.losses, expected.losses)
    xr.testing.assert_identical(result.abundances, expected.abundances)
    assert f"interrupted after {step + 1} of 9 steps" in caplog.text


def test_an_interrupted_fit_is_not_polished():
    def stop(at: int, elbo: float) -> None:
        raise KeyboardInterrupt

    polished = PolishedMean(num_samples=8, num_sweeps=1, exact=False)
    assert run(num_steps=2, estimate=polished).estimate == polished
    assert run(num_steps=2, estimate=polished, callback=stop).estimate == PosteriorMean(8)


def test_errors_of_a_callback_come_through():
    def stop(step: int, elbo: float) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run(callback=stop)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"num_steps": 3, "num_epochs": 2},
            ValueError,
            "pass num_steps or num_epochs, got both: remove one of them",
        ),
        ({"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
        ({"num_steps": 2.5}, TypeError, "num_steps must be an integer"),
        ({"num_steps": None, "num_epochs": 0}, ValueError, r"num_epochs must lie in .0, inf"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0}, ValueError, r"learning_rate must lie in .0, inf"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be one real number"),
        ({"learning_rate_decay": 0}, ValueError, "learning_rate_decay must lie in"),
        ({"learning_rate_decay": 1.5}, ValueError, "learning_rate_decay must lie in"),
        (
            {"cubes": CUBES[..., :15]},
            ValueError,
            "the model has 20 bands, the cubes 15: build the model from endmembers of the same",
        ),
        ({"cubes": "scene.nc"}, TypeError, "a cube sequence must be a numpy array"),
    ],
)
def test_fit_errors(settings, error, text):
    with pytest.raises(error, match=text):
        run(**settings)


def mismatched_wavelengths():
    cubes = as_cube_sequence(CUBES)
    return cubes.assign_coords(wavelength=cubes["wavelength"].values[::-1])


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "text"),
    [
        (lambda: (*paper()[::-1], CUBES), {}, TypeError, r"expected fit\(model, guide, cubes\)"),
        (lambda: (paper()[0], paper()[1], CUBES), {}, ValueError, "built for another model"),
        (lambda: (paper()[0], BiLSTMGuide, CUBES), {}, TypeError, "guide must be a Pyro program"),
        (lambda: (SGLMM, paper()[1], CUBES), {}, TypeError, "model must be a Pyro program"),
        (lambda: (paper, paper()[1], CUBES), {}, TypeError, "a module such as SGLMM"),
        (
            lambda: (*(lambda m, g: (m.double(), g))(*paper()), CUBES),
            {},
            TypeError,
            "one floating-point type, got .'torch.float32', 'torch.float64'.",
        ),
        (lambda: (*paper(), CUBES), {"loss": "elbo"}, TypeError, "loss must be an ELBO of Pyro"),
        (lambda: (*paper(), CUBES), {"callback": 3}, TypeError, "callback must be a function"),
        (lambda: (*paper(), CUBES), {"estimate": "mean"}, TypeError, "estimate must be Posterior"),
        (lambda: (*paper(), CUBES), {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (lambda: (*paper(), CUBES), {"seed": 1.5}, TypeError, "seed must be an integer"),
        (
            lambda: (*paper(), mismatched_wavelengths()),
            {},
            ValueError,
            "expected cubes at the wavelengths of the endmembers, got some up to 1950.0 nm off",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(arguments, settings, error, text):
    steps = []
    with pytest.raises(error, match=text):
        fit(
            *arguments(),
            **{"num_steps": 2, "progress": False, "callback": lambda *s: steps.append(s)}
            | settings,
        )
    assert not steps


# No trace left behind


def global_state() -> dict[str, object]:
    return {
        "store": {k: v.detach().clone() for k, v in pyro.get_param_store().items()},
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "pyro validation": pyro.settings.get("validate_infer"),
        "poutine validation": pyro.settings.get("validate_poutine"),
        "distributions validation": pyro.settings.get("validate_distributions_pyro"),
        "torch validation": torch.distributions.Distribution._validate_args,
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
    }


def assert_same_state(before: dict[str, object], after: dict[str, object]) -> None:
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, after[key], err_msg=key)
        elif isinstance(value, dict):
            assert value.keys() == after[key].keys()
            assert all(torch.equal(v, after[key][k]) for k, v in value.items())
        else:
            assert value == after[key], key


def fail(step: int, elbo: float) -> None:
    raise RuntimeError


def interrupt(step: int, elbo: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("callback", [None, fail, interrupt])
@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_fit_leaves_no_trace(name, validation, callback):
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with pyro.get_param_store().scope(), pyro.validation_enabled(validation):
        try:
            model, guide = PAIRS[name]()
            pyro.param("mine", torch.tensor(3.0))
            torch.set_num_threads(2)
            torch.set_default_dtype(torch.float64)
            torch.manual_seed(123)
            before = global_state()
            assert before["torch validation"] == validation
            try:
                fit(model, guide, CUBES, num_steps=2, progress=False, callback=callback)
            except RuntimeError:
                assert callback is fail
            assert_same_state(before, global_state())
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)


def test_results_do_not_depend_on_the_global_state():
    expected = run()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    threads = torch.get_num_threads()
    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        # An entry of the same name must not take the parameter's place.
        pyro.param("model.noise.log_scale", torch.tensor(7.0))
        torch.set_num_threads(2)
        try:
            got = run()
        finally:
            torch.set_num_threads(threads)
    np.testing.assert_array_equal(got.losses, expected.losses)
    xr.testing.assert_identical(got.abundances, expected.abundances)


@pytest.mark.parametrize("name", PAIRS)
def test_the_users_cubes_stay_as_they_are(name):
    cubes = CUBES.copy(deep=True)
    cubes[0, 0, 0, 3] = np.nan
    before = cubes.copy(deep=True)
    run(PAIRS[name], cubes=cubes)
    xr.testing.assert_identical(cubes, before)


# Reproducibility


METHODS = {
    "unmix": lambda: unmix(CUBES, 3, num_steps=4, seed=2, progress=False),
    "redsunn": lambda: redsunn(CUBES, 3, num_steps=4, seed=2, progress=False),
    **{name: lambda make=make: run(make) for name, make in PAIRS.items()},
}


@pytest.mark.parametrize("name", METHODS)
def test_three_runs_have_the_same_bits(name):
    first, *others = (METHODS[name]() for _ in range(3))
    for other in others:
        np.testing.assert_array_equal(other.losses, first.losses)
        xr.testing.assert_identical(other.to_dataset(), first.to_dataset())
        assert not changed(weights_of(first.model, first.guide), other.model, other.guide)


@pytest.mark.parametrize("name", METHODS)
def test_the_number_of_threads_changes_nothing(name):
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        try:
            results.append(METHODS[name]())
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(other.losses, results[0].losses)
        xr.testing.assert_identical(other.to_dataset(), results[0].to_dataset())


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_seed_gives_the_same_bits(name):
    first, again, other = (run(PAIRS[name], seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.losses, again.losses)
    xr.testing.assert_identical(first.to_dataset(), again.to_dataset())
    assert not changed(weights_of(first.model, first.guide), again.model, again.guide)
    assert (first.losses != other.losses).all()


PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_fit import METHODS
for name in sys.argv[2:]:
    result = METHODS[name]()
    np.savez(sys.argv[1] + name, losses=result.losses, abundances=result.abundances.values)
"""


def test_fits_in_one_process_equal_those_in_others(tmp_path: Path):
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    processes = []
    # Sets of parameters are ordered by their hashes, which differ between processes; OpenMP and
    # BLAS have two threads, or one.
    names = [("paper", "unmix", "redsunn"), ("ours",)]
    for hash_seed, (threads, alone) in enumerate(zip(("2", "1"), names, strict=True), start=1):
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        arguments = [sys.executable, "-c", program, str(tmp_path / "alone-"), *alone]
        processes.append(subprocess.Popen(arguments, env=environment))
    here = {name: make() for name, make in METHODS.items()}
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for name, result in here.items():
        alone = np.load(tmp_path / f"alone-{name}.npz")
        # The start of the presets is found by BLAS, with its own number of threads.
        tolerance = 0 if name in PAIRS else 1e-4
        np.testing.assert_allclose(alone["losses"], result.losses, rtol=0, atol=tolerance)
        abundances = result.abundances.values
        np.testing.assert_allclose(alone["abundances"], abundances, rtol=0, atol=tolerance)


def test_fitting_again_goes_on_from_where_it_was():
    model, guide = paper()
    settings = {"batch_size": 30, "learning_rate": 0.01, "progress": False}
    first = fit(model, guide, CUBES, num_steps=40, **settings)
    second = fit(model, guide, CUBES, num_steps=40, **settings)
    assert second.losses[:5].mean() < first.losses[:5].mean()
    assert second.losses.mean() < first.losses.mean()


# Progress, device, estimates


def test_progress_shows_the_elbo_and_the_rate(capfd):
    result = run(progress=True, num_steps=4)
    shown = capfd.readouterr().err
    assert "4/4" in shown
    assert f"ELBO/value {-result.losses[-1]:.4f}" in shown
    assert "pixels/s" in shown
    run(progress=False)
    assert capfd.readouterr() == ("", "")


def test_gradients_that_were_left_behind_do_not_count():
    model, guide = ours()
    for parameter in [*model.parameters(), *guide.parameters()]:
        parameter.grad = torch.full_like(parameter, 3.0)
    result = fit(model, guide, CUBES, num_steps=3, batch_size=10, progress=False)
    clean = fit(*ours(), CUBES, num_steps=3, batch_size=10, progress=False)
    np.testing.assert_array_equal(result.losses, clean.losses)


@pytest.mark.parametrize("name", PAIRS)
def test_a_result_stays_as_it_was_when_training_goes_on(name):
    model, guide = PAIRS[name]()
    first = fit(model, guide, CUBES, num_steps=2, progress=False)
    draws = first.sample(3)
    second = fit(model, guide, CUBES, num_steps=5, learning_rate=0.1, progress=False)
    xr.testing.assert_identical(first.sample(3), draws)
    assert np.abs(second.sample(3) - draws).max() > 1e-3


def test_the_seed_may_be_an_integer_of_numpy():
    xr.testing.assert_identical(run(seed=np.int64(3)).abundances, run(seed=3).abundances)


def test_cuda_generators_are_left_alone_on_the_cpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", calls.append)
    for name in PAIRS:
        model, guide = PAIRS[name](seed=5)
        fit(model, guide, CUBES, num_steps=1, progress=False)
        model.sample_sequence(3, 2)
    assert calls == []


def test_device_and_dtype_are_the_models():
    model, guide = ours()
    model, guide = model.double(), guide.double()
    result = fit(model, guide, CUBES, num_steps=2, device="cpu", progress=False)
    assert result.abundances.dtype == np.float64
    assert run(ours).abundances.dtype == np.float32


def test_the_result_knows_what_was_fitted():
    model, guide = ours()
    result = fit(model, guide, CUBES, num_steps=1, method="mine", seed=4, progress=False)
    assert result.guide.model is result.model
    assert not changed(weights_of(result.model, result.guide), model, guide)
    assert result.method == "mine"
    assert result.seed == 4
    xr.testing.assert_identical(result.cubes, as_cube_sequence(CUBES))


# Guides that are not of this package


def one_date() -> xr.DataArray:
    return CUBES.isel(time=[0])


@pytest.mark.parametrize("batch_size", [NUM_PIXELS, 10])
def test_an_autoguide_of_pyro_fits_and_is_read_out(batch_size):
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), noise=WhiteNoise(0.05))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates, init_scale=0.3)
    result = fit(
        model, guide, one_date(), num_steps=150, batch_size=batch_size, learning_rate=0.03,
        progress=False,
    )  # fmt: skip
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    values = result.abundances.values
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert (result.abundances_std.values > 0).all()
    # Each pixel's own parameters were read out for it.
    truth = SCENE.abundances.values[:1]
    uniform = np.abs(truth - 1 / 3).mean()
    assert np.abs(values - truth).mean() < 0.7 * uniform


@pytest.mark.parametrize("batch_size", [NUM_PIXELS, 10])
def test_an_autoguide_has_parameters_for_pixels_without_any_date(batch_size):
    """Those in front of a pixel without dates do not move those behind it."""
    cubes = one_date().copy()
    cubes[0, 0, :3] = np.nan
    cubes[0, 4, 5] = np.nan
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), noise=WhiteNoise(0.05))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates, init_scale=0.3)
    settings = {"num_steps": 150, "batch_size": batch_size, "learning_rate": 0.03}
    result = fit(model, guide, cubes, progress=False, **settings)
    values, truth = result.abundances.values, SCENE.abundances.values[:1]
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    seen = result.valid.values
    assert seen.sum() == NUM_PIXELS - 4
    uniform = np.abs(truth - 1 / 3)[seen].mean()
    assert np.abs(values - truth)[seen].mean() < 0.7 * uniform
    np.testing.assert_allclose(result.predict(cubes).abundances, values, atol=1e-6)


def test_pixels_without_any_date_do_not_count():
    """A pixel more that was never observed changes no loss: the ELBO of the others, per observed value."""

    def guide(pixels, valid, *, index=None, size=None, features=None):
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                for name in ("c", "psi"):
                    pyro.sample(f"{name}_{t}", dist.Delta(torch.zeros(len(pixels), 3)).to_event(1))

    cubes = CUBES.copy()
    cubes[:, 1:3] = np.nan
    without = CUBES.isel(y=[0, 3, 4])
    settings = {"num_steps": 1, "batch_size": 64, "progress": False}
    losses = []
    for scene in (without, cubes):
        model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))
        losses.append(fit(model, guide, scene, **settings).losses)
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_an_autoguide_is_read_out_in_chunks(monkeypatch):
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))

    def plates(pixels, valid, *, index=None, size=None, features=None):
        return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates)
    result = fit(model, guide, one_date(), num_steps=3, progress=False)
    monkeypatch.setattr(posterior, "_CHUNK_ELEMENTS", 7 * 8 * 64)
    again = result.predict(one_date())
    np.testing.assert_allclose(again.abundances, result.abundances, atol=1e-6)


def test_a_plain_function_is_a_guide():
    model = SGLMM(SCENE.reference_endmembers, basis=DCT(1))

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, 0.1).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), 0.1).to_event(1))

    trained = {}
    result = fit(
        model, guide, one_date(), num_steps=60, learning_rate=0.3, progress=False,
        callback=lambda step, elbo: trained.update(loc=pyro.param("loc").detach().clone()),
    )  # fmt: skip
    assert trained["loc"].abs().max() > 0.5
    # Read out where it was trained to, now and later.
    rng = np.random.default_rng(0)
    draws = trained["loc"].numpy() + 0.1 * rng.normal(size=(4000, 3))
    expected = np.exp(draws) / np.exp(draws).sum(-1, keepdims=True)
    for got in (result.abundances, result.sample(64).mean("sample"), result.quantile(0.5)):
        np.testing.assert_allclose(
            got, np.broadcast_to(expected.mean(0), got.shape), atol=5 * 0.1 / np.sqrt(64)
        )
    assert "loc" not in pyro.get_param_store()


class TwoStates(nn.Module):
    """A model of another kind, with sites of its own: only `decode` and `design` are asked for."""

    num_endmembers = 3
    num_bands = 20
    endmember_names = None

    def __init__(self) -> None:
        super().__init__()
        self.inner = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1))

    @property
    def reference(self):
        return self.inner.reference

    def design(self):
        return self.inner.design()

    def components(self):
        return self.inner.components()

    def forward(self, pixels, valid, *, index=None, size=None, features=None):
        matrix = self.inner.reference.value
        with pyro.plate("pixels", size or len(valid), subsample=index, dim=-1):
            state = pyro.sample("state", dist.Normal(torch.zeros(3), 2.0).to_event(1))
            mean = torch.softmax(state, -1) @ matrix.T
            for t in range(valid.shape[1]):
                with poutine.mask(mask=valid[:, t]):
                    site = dist.Normal(mean, 0.1).to_event(1)
                    pyro.sample(f"y_{t}", site, obs=pixels[:, t])

    def decode(self, latents):
        num_dates = CUBES.sizes["time"]
        abundances = torch.softmax(latents["state"], -1).unsqueeze(-2)
        abundances = abundances.expand(*abundances.shape[:-2], num_dates, 3)
        return abundances, torch.zeros(*abundances.shape[:-1], 1, 3)


def test_fit_knows_no_names_of_sites():
    model = TwoStates()

    def guide(pixels, valid, *, index=None, size=None, features=None):
        scale = pyro.param("scale", torch.tensor(0.5))
        start = torch.log(torch.tensor([0.5, 0.3, 0.2]))
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            pyro.sample("state", dist.Normal(start, scale).to_event(1))

    result = fit(model, guide, CUBES, num_steps=2, progress=False)
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1, atol=1e-5)
    assert result.abundances.shape == (3, 5, 6, 3)
