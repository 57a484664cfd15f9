"""How long `fit` trains, by which objective and at which rates."""

from __future__ import annotations

import logging
import math
import sys

import numpy as np
import pyro
import pytest
import torch
from fit_cases import CUBES, NUM_PIXELS, PAIRS, changed, ours, paper, run, weights_of
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_unmix import fit

pytestmark = pytest.mark.usefixtures("seeded")
# In the package the function hides the module of its name.
fit_module = sys.modules["pyro_unmix.infer.fit"]


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
