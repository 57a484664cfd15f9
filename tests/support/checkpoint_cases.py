"""Fits of four kinds of pairs that write checkpoints, and all that two of them must have in common."""

from __future__ import annotations

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from fit_cases import CUBES, SCENE, ours, paper
from pyro.infer.autoguide import AutoNormal

from pyro_unmix import SGLMM, fit
from pyro_unmix.bases import DCT
from pyro_unmix.infer import Checkpoints
from pyro_unmix.priors import FixedEndmembers


def plates(pixels, valid, *, index=None, size=None, features=None):
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def automatic(seed: int = 0):
    """A guide whose parameters are made, with random draws, at its first call."""
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), seed=seed)
    return model, AutoNormal(model, create_plates=plates, init_scale=0.3)


def plain(seed: int = 0):
    """A guide that is a function: its parameters live in the store alone, one under a constraint."""
    model = SGLMM(FixedEndmembers(SCENE.reference_endmembers), basis=DCT(1), seed=seed)

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("loc", lambda: 0.1 * torch.randn(3))
        positive = dist.constraints.positive
        scale = pyro.param("scale", torch.tensor(0.1), constraint=positive)
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, scale).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), scale).to_event(1))

    return model, guide


PAIRS = {"paper": paper, "ours": ours, "automatic": automatic, "plain": plain}
SETTINGS = {
    "num_steps": 12,
    "batch_size": 8,
    "learning_rate": 0.01,
    "learning_rate_decay": 0.2,
    "seed": 3,
    "progress": False,
}


def run(
    name: str = "ours",
    folder: Path | None = None,
    pair=None,
    cubes=CUBES,
    *,
    every=4,
    resume=True,
    **settings,
):
    model, guide = pair or PAIRS[name]()
    kept = {"checkpoint": Checkpoints(folder, every=every, resume=resume)} if folder else {}
    return fit(model, guide, cubes, **{**SETTINGS, **kept, **settings})


def everything(result) -> dict[str, torch.Tensor]:
    """All trained numbers, losses and abundances of a result."""
    found = {"losses": torch.from_numpy(result.losses)}
    found["abundances"] = torch.from_numpy(result.abundances.values)
    for name in ("model", "guide"):
        part = getattr(result, name)
        if isinstance(part, torch.nn.Module):
            found |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
    return found | {f"loose.{k}": v.detach() for k, v in result.store["params"].items()}


def assert_same_bits(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def stop_after(steps: int):
    """A callback that breaks off as a crash does: nothing is saved on the way out."""

    def callback(step: int, elbo: float) -> None:
        if step + 1 == steps:
            raise RuntimeError("crash")

    return callback


def crash(name: str, folder: Path, steps: int, **settings) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        run(name, folder, callback=stop_after(steps), **settings)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def work(out: Path, folder: Path | None, **settings) -> None:
    """What the killed processes do: a fit of 30 steps with a checkpoint at every second one."""
    if folder is not None:
        settings |= {"every": 2}
    result = run("ours", folder, num_steps=30, **settings)
    torch.save(everything(result), out)
