"""What goes wrong while `fit` trains: what it says of it, and what it keeps."""

from __future__ import annotations

import logging
import math
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from fit_cases import CUBES, PAIRS, SCENE, changed, ours, paper, run, weights_of

from pyro_unmix import SGLMM, BiLSTMGuide, NonFiniteLossError, fit
from pyro_unmix.bases import DCT
from pyro_unmix.infer import fit_run
from pyro_unmix.infer.step import Optimiser
from pyro_unmix.posterior import PolishedMean, PosteriorMean
from pyro_unmix.priors import RandomWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded")
# In the package the function hides the module of its name.
fit_module = sys.modules["pyro_unmix.infer.fit"]


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
        Optimiser(rates.__getitem__, 0.9),
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
    for mine, theirs in zip(*ended, strict=True):
        assert not torch.equal(mine, torch.ones(3))
        torch.testing.assert_close(mine, theirs)


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

    monkeypatch.setattr(fit_run, "prepare", stop)
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
