"""Checkpoints of another fit are refused, with what differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from checkpoint_cases import assert_same_bits, crash, everything, files, plain, plates, run
from fit_cases import CUBES, SCENE, ours
from pyro.infer import Trace_ELBO

from pyro_unmix import BiLSTMGuide
from pyro_unmix.bases import DCT
from pyro_unmix.infer import Ramp, WeightedELBO


def other_cubes() -> xr.DataArray:
    cubes = CUBES.copy(deep=True)
    cubes[1, 2, 3, 4] += 1e-4
    return cubes


def gap() -> xr.DataArray:
    cubes = CUBES.copy(deep=True)
    cubes[1, 2, 3] = np.nan
    return cubes


OTHERS = {
    "guide": (
        {"pair": lambda: (lambda m: (m, BiLSTMGuide(m)))(ours()[0])},
        r"guide.class is 'BiLSTMGuide', the checkpoint has "
        r"'ConjugateGuide'",
    ),
    "basis": ({"pair": lambda: ours(basis=DCT(3, scale=0.4))}, r"model.basis.num_\w+ is 3, .* 2"),
    "prior scale": (
        {"pair": lambda: ours(basis=DCT(2, scale=0.5))},
        r"model.basis.scale is 0.5, the checkpoint has 0.4",
    ),
    "endmembers": (
        {"pair": lambda: ours(endmembers=1.01 * SCENE.reference_endmembers)},
        r"model.endmembers.endmembers is an array .20, 3. of other values",
    ),
    # Far above what rounding does in single precision, 1e-7 at each of some hundred operations.
    "endmembers, by a little": (
        {"pair": lambda: ours(endmembers=SCENE.reference_endmembers * (1 + 1e-4))},
        r"model.endmembers.endmembers is an array .20, 3. of other values",
    ),
    "precision": (
        {"pair": lambda: tuple(part.double() for part in ours())},
        r"float64",
    ),
    "seed": ({"seed": 4}, "settings.seed is 4, the checkpoint has 3"),
    "steps": ({"num_steps": 13}, "settings.num_steps is 13, the checkpoint has 12"),
    "batch": ({"batch_size": 9}, "settings.batch_size is 9, the checkpoint has 8"),
    "rate": ({"learning_rate": 0.02}, r"settings.learning_rate.guide.[\w.]+ is 0.02, the .* 0.01"),
    "rate, by a little": (
        {"learning_rate": 0.01 * (1 + 1e-4)},
        r"settings.learning_rate.guide.[\w.]+ is 0.010001, the checkpoint has 0.01",
    ),
    "rates": (
        {"learning_rate": lambda name: 0.02 if "noise" in name else 0.01},
        r"fit: settings.learning_rate.model.noise.log_scale is 0.02, the checkpoint has 0.01\. ",
    ),
    "decay": ({"learning_rate_decay": 1.0}, "settings.learning_rate_decay is 1.0, the .* 0.2"),
    "loss": ({"loss": Trace_ELBO(num_particles=2)}, "settings.loss.num_particles is 2, .* 1"),
    "schedule": ({"loss": WeightedELBO(Ramp(7))}, "settings.loss.class is .*WeightedELBO"),
    "values": ({"cubes": other_cubes()}, r"data.values .hash. is '\w+', the checkpoint has"),
    "gaps": ({"cubes": gap()}, r"data.values .hash. is"),
    "shape": ({"cubes": CUBES[:, :4]}, r"data.shape is \[24, 3, 20\], the checkpoint has \[30, 3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    crash("ours", folder, 9)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_fit_is_refused_with_the_difference(name, kept):
    other, text = OTHERS[name]
    pair = other.get("pair", ours)()
    before = [part.state_dict() for part in pair]
    before = [{k: v.clone() for k, v in state.items()} for state in before]
    listed = files(kept)
    with pytest.raises(ValueError, match=text) as error:
        run(folder=kept, **{**other, "pair": pair})
    assert "is of another fit" in str(error.value)
    assert "another folder, or Checkpoints(folder, resume=False) to start anew" in str(error.value)
    assert files(kept) == listed
    for part, state in zip(pair, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in part.state_dict().items())


def test_another_ramp_is_another_fit(tmp_path):
    crash("ours", tmp_path, 9, loss=WeightedELBO(Ramp(10, 2.0)))
    for ramp, text in ((Ramp(20, 2.0), "num_updates is 20"), (Ramp(10, 3.0), "final is 3.0")):
        with pytest.raises(ValueError, match=rf"settings.loss.kl_weight.{text}, the checkpoint"):
            run("ours", tmp_path, loss=WeightedELBO(ramp))
    crash("ours", tmp_path / "constant", 9, loss=WeightedELBO(2.0))
    with pytest.raises(ValueError, match=r"loss.kl_weight.constants is \[3.0\], .* \[2.0\]"):
        run("ours", tmp_path / "constant", loss=WeightedELBO(3.0))


def test_the_loose_parameters_of_another_function_are_refused(tmp_path):
    crash("plain", tmp_path, 9)

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("elsewhere", torch.zeros(3))
        with plates(pixels, valid, index=index, size=size):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, 0.1).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), 0.1).to_event(1))

    guide.__qualname__ = "plain.<locals>.guide"
    with pytest.raises(ValueError, match="a parameter 'loc' of shape .3,., which the guide does"):
        run(pair=(plain()[0], guide), folder=tmp_path)


def test_a_start_that_differs_by_rounding_is_the_same_fit(tmp_path):
    """As `unmix` finds it on another machine; the checkpoint's is used."""
    crash("ours", tmp_path, 9)
    got = run(pair=ours(endmembers=SCENE.reference_endmembers * (1 + 1e-7)), folder=tmp_path)
    assert_same_bits(everything(got), everything(run("ours")))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2.5}, TypeError, "every must be an integer"),
        ({"resume": "yes"}, TypeError, "resume must be True or False, got 'yes'"),
        ({"checkpoint": __file__}, ValueError, "checkpoint must be a folder, got the file"),
    ],
)
def test_checkpoint_errors(settings, error, text, tmp_path):
    with pytest.raises(error, match=text):
        run("ours", tmp_path, **settings)
