"""Milliseconds per SVI step of both presets, beside the same ELBO without Pyro and a floor.

    OMP_NUM_THREADS=1 python benchmarks/speed.py

See benchmarks/README.md for what the rows are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from _floor import BATCH_SIZE, Floor, alone
from _hand_default import HandDefault
from _programs import HandWritten, NaiveGuide, NaiveModel
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_unmix import SGLMM, FixedEndmembers, redsunn, simulate, unmix
from pyro_unmix.bases import DCT, LearnedBasis
from pyro_unmix.infer.step import CheckedSVI, Optimiser
from pyro_unmix.posterior import PosteriorMean
from pyro_unmix.posterior.programs import as_tensors, prepare, quiet_pyro
from pyro_unmix.priors import AutoRegressive, Independent, RandomWalk, VariabilityPrior, WhiteNoise

#: Largest relative difference between Pyro's loss and the hand-written one, float32.
LOSS_TOLERANCE = 1e-5
PAPER, DEFAULT, NAIVE, FLOOR = "paper's preset", "default", "naive form", "floor"
BY_DATE, STACKED = "hand-written, date by date", "hand-written, dates stacked"
DEFAULT_BY_HAND = "default, hand-written"
#: Most that a preset may cost, in hand-written steps.
HAND_WRITTEN_TARGET = 1.3
_WARM_UP = 3
_UNTRAINED: dict[str, Any] = {
    "num_steps": 0,
    "estimate": PosteriorMean(num_samples=2),
    "progress": False,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a scene, the ranks to time, and the most floors that a step may cost.

    Parameters
    ----------
    num_dates, num_bands, num_endmembers : int
        T, L, P.
    ranks : tuple of int
        K of the paper's model; floors of the targets have the first.
    default_rank : int
        K of the learned basis that `unmix` chooses on the scene of this shape.
    chain : VariabilityPrior
        What the variability of that scene looks like, so that `unmix` chooses the same.
    paper_target, default_target : float
        In floors.
    """

    num_dates: int
    num_bands: int
    num_endmembers: int
    ranks: tuple[int, ...]
    default_rank: int
    chain: VariabilityPrior
    paper_target: float
    default_target: float


SHAPES = {
    "ds1": Shape(6, 224, 3, (10,), 6, AutoRegressive(0.95, learn=False), 4, 3),
    "ds2": Shape(15, 198, 4, (2, 10), 8, Independent(learn=False), 3, 3),
}


@dataclass
class Variant:
    """A row of the table: something to time, and what was measured.

    Parameters
    ----------
    name : str
    rank : int
        K.
    step : callable
        One step.
    around : callable
        Context to enter, untimed, around every step.
    """

    name: str
    rank: int
    step: Callable[[], Any]
    around: Callable[[], Any]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self, record: bool = True) -> None:
        with self.around():
            cpu, wall = time.process_time(), time.perf_counter()
            self.step()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if record:
            self.cpu.append(1e3 * cpu)
            self.wall.append(1e3 * wall)


# ------------------------------------------------------------------------------- the variants


class PyroStep:
    """One step as `pyro_unmix.infer.fit` does it, with a parameter store of its own.

    Parameters
    ----------
    model, guide : fresh pair
    pixels, valid : Tensor
        Of the whole scene.
    seed : int
        Of the batches.
    """

    def __init__(self, model: Any, guide: Any, pixels: Tensor, valid: Tensor) -> None:
        self.model, self.guide, self.pixels, self.valid = model, guide, pixels, valid
        self.scale = 1.0 / (int(valid.sum()) * pixels.shape[-1])
        self.store: dict[str, Any] = {"params": {}, "constraints": {}}
        programs = (poutine.scale(program, scale=self.scale) for program in (model, guide))
        self.svi = CheckedSVI(*programs, Optimiser(1e-3, 1.0), Trace_ELBO())
        with quiet_pyro():
            self.features = prepare(guide, pixels, valid)

    @contextmanager
    def around(self) -> Iterator[None]:
        with quiet_pyro(), pyro.get_param_store().scope(self.store):
            yield

    def __call__(self, index: Tensor | None = None) -> float:
        if index is None:
            index = torch.randperm(len(self.pixels))[:BATCH_SIZE]
        return self.svi.step(
            self.pixels.index_select(0, index),
            self.valid.index_select(0, index),
            index=index,
            size=len(self.pixels),
            features={name: x.index_select(0, index) for name, x in self.features.items()},
        )


class HandWrittenStep:
    """The same step in plain torch: gradients clamped as ClippedAdam does, one Adam for all."""

    def __init__(self, program: Any, pixels: Tensor, valid: Tensor) -> None:
        self.program, self.pixels, self.valid = program, pixels, valid
        self.scale = 1.0 / (int(valid.sum()) * pixels.shape[-1])
        self.params = list(program.parameters().values())
        self.optim = torch.optim.Adam(self.params, lr=1e-3, foreach=True)

    def __call__(self) -> float:
        loss = self.loss(torch.randperm(len(self.pixels))[:BATCH_SIZE])
        loss.backward()
        torch.nn.utils.clip_grad_value_(self.params, 10.0, foreach=True)
        self.optim.step()
        self.optim.zero_grad(set_to_none=True)
        return float(loss.detach())

    def loss(self, index: Tensor, *, as_pyro: bool = False) -> Tensor:
        """Of the pixels of these numbers; `as_pyro` draws the noise in the order of Pyro's sites."""
        y, valid = (x.index_select(0, index) for x in (self.pixels, self.valid))
        draw = partial(pyro_noise, self.program) if as_pyro else self.program.draw_noise
        noise = draw(*valid.shape)
        return self.program.loss(y, valid, noise, scale=self.scale * len(self.pixels) / len(y))


class HandDefaultStep(HandWrittenStep):
    """Of the default, whose program holds its data; its abundances are one site, drawn as Pyro draws them."""

    def loss(self, index: Tensor, *, as_pyro: bool = False) -> Tensor:
        noise = self.program.draw_noise(len(index))
        scale = self.scale * len(self.pixels) / len(index)
        return self.program.loss(index, noise, scale=scale)


def synthetic(shape: Shape, num_pixels: int, seed: int = 0) -> tuple[xr.DataArray, SGLMM]:
    """Cubes of these sizes, drawn from a model with known endmembers and basis; and that model.

    Only the sizes matter for the speed, and what kind of variability `unmix` finds.
    """
    spectra = simulate.library(np.linspace(400, 2500, shape.num_bands))
    reference = FixedEndmembers(spectra.values[:, : shape.num_endmembers])
    smooth = DCT(shape.default_rank, scale=0.1 * shape.num_bands**0.5).components(reference.value)
    model = SGLMM(
        reference,
        basis=LearnedBasis(smooth.numpy()),
        variability_prior=shape.chain,
        noise=WhiteNoise(0.01),
        seed=seed,
    )
    drawn = model.sample_sequence(num_pixels, shape.num_dates, seed=seed)["pixels"].numpy()
    cubes = drawn.reshape(16, -1, *drawn.shape[1:]).transpose(2, 0, 1, 3)
    return xr.DataArray(cubes, dims=("time", "y", "x", "wavelength")), model


def paper_pair(shape: Shape, rank: int, cubes: xr.DataArray, source: SGLMM) -> tuple[Any, Any]:
    """Model and guide as `redsunn` builds them."""
    settings = {"num_epochs": None, "num_basis": rank, **_UNTRAINED}
    reference = source.reference.value.numpy()
    result = redsunn(cubes, shape.num_endmembers, endmembers=reference, **settings)
    return result.model, result.guide


def default_pair(shape: Shape, cubes: xr.DataArray, source: SGLMM) -> tuple[Any, Any]:
    """Model and guide as `unmix` builds them, with a learned basis of the rank that it chooses."""
    settings = {"basis": source.basis, **_UNTRAINED}
    reference = source.reference.value.numpy()
    result = unmix(cubes, shape.num_endmembers, endmembers=reference, **settings)
    chosen = result.model.variability_prior
    if type(chosen) is not type(shape.chain):
        raise RuntimeError(f"expected unmix to choose {shape.chain!r}, got {chosen!r}")
    return result.model, result.guide


def naive_pair(shape: Shape, rank: int, source: SGLMM) -> tuple[NaiveModel, NaiveGuide]:
    """The paper's preset with pseudo-inverses and per-pixel endmember matrices."""
    reference = source.reference.value.numpy()
    model = NaiveModel(reference, basis=DCT(rank), variability_prior=RandomWalk())
    return model, NaiveGuide(model)


def variants(shape: Shape, num_pixels: int) -> tuple[list[Variant], list[float]]:
    """Everything to time on one shape, and how far each hand-written loss is from Pyro's."""
    cubes, source = synthetic(shape, num_pixels)
    rows: list[Variant] = []
    differences: list[float] = []
    for rank in shape.ranks:
        model, guide = paper_pair(shape, rank, cubes, source)
        pixels, valid = as_tensors(cubes, model)
        hands = {
            name: HandWrittenStep(HandWritten(model, guide, stacked=stacked), pixels, valid)
            for name, stacked in ((BY_DATE, False), (STACKED, True))
        }
        paper = PyroStep(model, guide, pixels, valid)
        naive = PyroStep(*naive_pair(shape, rank, source), pixels, valid)
        differences += [loss_difference(paper, hand) for hand in hands.values()]
        floor = Floor(shape.num_bands, shape.num_endmembers, rank)
        batch = pixels[:BATCH_SIZE]
        rows.append(Variant(FLOOR, rank, lambda f=floor, b=batch: f.step(b), _nothing))
        rows += [Variant(name, rank, hand, _nothing) for name, hand in hands.items()]
        rows.append(Variant(PAPER, rank, paper, paper.around))
        rows.append(Variant(NAIVE, rank, naive, naive.around))
    model, guide = default_pair(shape, cubes, source)
    default = PyroStep(model, guide, *as_tensors(cubes, model))
    tensors = default.pixels, default.valid
    hand = HandDefaultStep(HandDefault(model, guide, *tensors, default.features), *tensors)
    differences.append(loss_difference(default, hand))
    rows.append(Variant(DEFAULT_BY_HAND, shape.default_rank, hand, _nothing))
    rows.append(Variant(DEFAULT, shape.default_rank, default, default.around))
    return rows, differences


def loss_difference(step: PyroStep, hand: HandWrittenStep) -> float:
    """Relative difference of the two losses of one batch and the same noise; moves no parameter.

    Raises
    ------
    RuntimeError
        If it exceeds `LOSS_TOLERANCE`.
    """
    index = torch.arange(min(BATCH_SIZE, len(step.pixels)))
    features = {name: feature[index] for name, feature in step.features.items()}
    inputs = {"index": index, "size": len(step.pixels), "features": features}
    batch = step.pixels[index], step.valid[index]
    with step.around(), torch.no_grad():
        torch.manual_seed(0)
        theirs = step.svi.loss_and_grads(step.svi.model, step.svi.guide, *batch, **inputs)
        torch.manual_seed(0)
        ours = float(hand.loss(index, as_pyro=True))
    difference = abs(ours - theirs) / abs(theirs)
    if not difference <= LOSS_TOLERANCE:
        raise RuntimeError(f"the hand-written loss is {ours}, Pyro's {theirs}: not the same ELBO")
    return difference


def pyro_noise(program: HandWritten, batch: int, num_dates: int) -> tuple[Tensor, Tensor]:
    """The draws that the guide's sites c_0, psi_0, c_1, psi_1, ... take from torch's generator."""
    like = program.phi["initial_loc"]
    p = program.num_endmembers
    c, psi = [], []
    for _ in range(num_dates + 1):
        c.append(torch.randn(batch, p, dtype=like.dtype))
        psi.append(torch.randn(batch, len(like) - p, dtype=like.dtype))
    return torch.stack(c), torch.stack(psi)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


# ------------------------------------------------------------------------------- measuring


def measure(name: str, num_rounds: int, num_pixels: int) -> dict[str, Any]:
    """Time all variants on one shape, taking turns: a busy spell of the machine hits all of them."""
    shape = SHAPES[name]
    rows, differences = variants(shape, num_pixels)
    for _ in range(min(_WARM_UP, num_rounds - 1)):
        for row in rows:
            row.run(record=False)
    for _ in range(num_rounds):
        for row in rows:
            row.run()
    medians = {(row.name, row.rank): float(np.median(row.cpu)) for row in rows}
    records = []
    for row in rows:
        of_default = row.name in (DEFAULT, DEFAULT_BY_HAND)
        rank = shape.ranks[0] if of_default else row.rank
        below = {"floors": medians[FLOOR, rank]}
        hands = [(DEFAULT_BY_HAND, row.rank)] if of_default else [(BY_DATE, rank), (STACKED, rank)]
        below |= {hand: medians[hand, k] for hand, k in hands}
        cpu = medians[row.name, row.rank]
        record = {"variant": row.name, "K": row.rank, "ms": cpu}
        record["wall ms"] = float(np.median(row.wall))
        records.append(record | {key: cpu / value for key, value in below.items()})
    return {
        "scene": name,
        "rows": records,
        "loss difference": max(differences),
        "targets": targets(shape, medians),
    }


def fresh_floors(name: str, num_processes: int) -> dict[int, list[float]]:
    """Median CPU ms of the floor alone in fresh processes, by K.

    There glibc may hand the LSTM's workspaces back to the system after every step, and the page
    faults cost as much as the arithmetic; whether it does is a matter of luck. A process that has
    freed larger arrays before, as this one and every fit have, keeps them.
    """
    shape = SHAPES[name]
    sizes = (shape.num_dates, shape.num_bands, shape.num_endmembers)
    return {
        rank: [alone(*sizes, rank, num_steps=20) for _ in range(num_processes)]
        for rank in shape.ranks
    }


def targets(shape: Shape, medians: dict[tuple[str, int], float]) -> list[tuple[str, float, float]]:
    """What is to be reached: text, measured ratio, largest ratio."""
    rank = shape.ranks[0]
    floor, paper = medians[FLOOR, rank], medians[PAPER, rank]
    default = medians[DEFAULT, shape.default_rank]
    by_hand = medians[DEFAULT_BY_HAND, shape.default_rank]
    rows = [
        (f"paper's preset, K = {rank}, in floors", paper / floor, shape.paper_target),
        (f"default, in floors of K = {rank}", default / floor, shape.default_target),
        ("default, hand-written steps", default / by_hand, HAND_WRITTEN_TARGET),
    ]
    for hand in (BY_DATE, STACKED):
        for k in shape.ranks:
            text = f"paper's preset, K = {k}, over {hand}"
            rows.append((text, medians[PAPER, k] / medians[hand, k], HAND_WRITTEN_TARGET))
    return rows


# ------------------------------------------------------------------------------- printing


def report(found: dict[str, Any], num_rounds: int) -> str:
    """Two Markdown tables of one shape."""
    shape = SHAPES[found["scene"]]
    lines = [
        f"### {found['scene']}: T = {shape.num_dates}, L = {shape.num_bands}, "
        f"P = {shape.num_endmembers}, batch {BATCH_SIZE}; medians of {num_rounds} rounds",
        "",
        "| step | K | CPU ms | wall ms | floors | over date by date | over stacked | "
        "over default, hand-written |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        ratios = (_ratio(row.get(key)) for key in ("floors", BY_DATE, STACKED, DEFAULT_BY_HAND))
        times = f"{row['ms']:.1f} | {row['wall ms']:.1f}"
        lines.append(f"| {row['variant']} | {row['K']} | {times} | {' | '.join(ratios)} |")
    lines += ["", "| target | measured | at most | |", "|---|---:|---:|---|"]
    for text, measured, most in found["targets"]:
        verdict = "met" if measured <= most else "missed"
        lines.append(f"| {text} | {measured:.2f} | {most:g} | {verdict} |")
    lines += ["", f"Hand-written and Pyro's loss differ by {found['loss difference']:.1e} of it."]
    for rank, times in found["fresh floors"].items():
        lines.append(
            f"The floor of K = {rank} alone in {len(times)} fresh processes: {min(times):.1f} to "
            f"{max(times):.1f} ms."
        )
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@contextmanager
def _settings() -> Iterator[None]:
    """One torch thread and a random state of its own; both as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run what the command line asks for; returns what was measured."""
    options = _parser().parse_args(arguments)
    num_rounds, num_pixels = (1, 128) if options.quick else (options.rounds, 512)
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"One torch thread; OMP_NUM_THREADS {threads}. Ratios are of CPU time.")
    found = []
    with _settings():
        for name in options.scenes:
            found.append(measure(name, num_rounds, num_pixels))
            found[-1]["fresh floors"] = fresh_floors(name, options.fresh) if options.fresh else {}
            print(f"\n{report(found[-1], num_rounds)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", choices=SHAPES, default=list(SHAPES),
                        metavar="SCENE", help=f"shapes of {', '.join(SHAPES)} (all)")  # fmt: skip
    parser.add_argument("--fresh", type=int, default=0, metavar="N",
                        help="also time the floor in N fresh processes (0)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=20, help="steps of each variant (20)")
    parser.add_argument("--quick", action="store_true", help="one round, few pixels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


if __name__ == "__main__":
    main()
