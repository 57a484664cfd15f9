"""Small runs of chains over both programs, broken off at a round, and what two of their results have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_unmix.infer import Checkpoints, Sampled, sample
from pyro_unmix.models import LibraryMixing, SimplexMixing

chain_run = importlib.import_module("pyro_unmix.infer.chain_run")

NUM_ROUNDS, EVERY = 8, 3
SPECTRA = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])
SETTINGS: dict[str, Any] = {
    "num_rounds": NUM_ROUNDS, "num_spectra": 30, "num_held_out": 8, "num_kept": 4,
    "num_samples": 8, "num_warmup": 2, "seed": 3, "progress": False,
}  # fmt: skip


def simplex(seed: int = 0, **options: Any) -> SimplexMixing:
    components = 0.02 * np.random.default_rng(seed).standard_normal((4, 1, 3))
    return SimplexMixing(SPECTRA, components=components, rank=1, **options)


def library() -> LibraryMixing:
    spectra = np.concatenate([SPECTRA, 0.9 * SPECTRA], axis=1)
    return LibraryMixing(spectra, list("abcabc"), rank=1)


MODELS: dict[str, Callable[[], Any]] = {
    "simplex": lambda: [simplex(), simplex(1)],
    "library": library,
}
#: Of all two chains.
TOTAL = 2 * NUM_ROUNDS


def images() -> xr.DataArray:
    values = simplex().simulate(24, 2, seed=4)["pixels"].numpy().clip(0.001, 1.5)
    cubes = values.reshape(4, 6, 2, 4).transpose(2, 0, 1, 3).copy()
    cubes[0, 0, 0] = np.nan
    return xr.DataArray(cubes, dims=("time", "y", "x", "wavelength"), name="reflectance")


CUBES = images()


def draw(
    name: str = "simplex",
    folder: Path | None = None,
    *,
    models: Any = None,
    cubes: xr.DataArray = CUBES,
    every: int = EVERY,
    resume: bool = True,
    **settings: Any,
) -> Sampled:
    kept = {"checkpoint": Checkpoints(folder, every=every, resume=resume)} if folder else {}
    models = MODELS[name]() if models is None else models
    settings = {"num_chains": 1 if isinstance(models, list) else 2, **settings}
    return sample(models, cubes, **{**SETTINGS, **kept, **settings})


def everything_of(result: Sampled) -> dict[str, np.ndarray]:
    """All draws of the chains, their weights, maps and intervals."""
    found = {n: v.values for n, v in result.dataset.items() if v.dtype.kind in "fb"}
    found |= {"weights": result.weights, "orders": result.orders}
    found["interval"] = result.interval(0.8).values
    for number, chain in enumerate(result.chains):
        found |= {f"{n} {number}": chain.stacked(n).numpy() for n in chain.shared[0]}
    return found


def assert_same_chains(got: Sampled, expected: Sampled) -> None:
    ours, theirs = everything_of(got), everything_of(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


class Rounds:
    """Counts the rounds that are made, and does something in place of one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None = None, what: Any = None) -> None:
        self.made, self.at, self.what = 0, at, what
        self.round = chain_run.after_round
        patch.setattr(chain_run, "after_round", self)

    def __call__(self, state: Any, spectra: Any, kernels: Any) -> Any:
        if self.made + 1 == self.at:
            self.what()
        self.made += 1
        return self.round(state, spectra, kernels)


def fail() -> None:
    raise RuntimeError("crash")


def crash_at(number: int, draw_chains: Callable[[], Any]) -> None:
    """Break chains off in a round as a crash does: nothing is saved on the way out."""
    with pytest.MonkeyPatch.context() as patch:
        Rounds(patch, number, fail)
        with pytest.raises(RuntimeError, match="crash"):
            draw_chains()


def rounds_of(draw_chains: Callable[[], Any]) -> tuple[Any, int]:
    """What a call gives, and how many rounds it makes."""
    with pytest.MonkeyPatch.context() as patch:
        rounds = Rounds(patch)
        return draw_chains(), rounds.made


def work_on_chains(out: Path, folder: Path | None) -> None:
    """What the killed processes do: chains with a checkpoint after every round."""
    result = draw("library", folder, every=1, num_rounds=200)
    torch.save({k: torch.as_tensor(v) for k, v in everything_of(result).items()}, out)
