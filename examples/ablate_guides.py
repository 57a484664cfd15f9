"""What does a guide do? One model, many approximate posteriors.

    python examples/ablate_guides.py

All rows are the same model on the same scene, trained for the same number of steps: guides with
memory (`ConjugateGuide`, the paper's `BiLSTMGuide`), one without (`MeanFieldGuide`), the encoders
and covariances they take, and an autoguide of Pyro, which has numbers of its own for every pixel.
Prints the ELBO per observed value (larger is nearer to the posterior, since the model is the same),
the error of the abundances, the number of parameters and the seconds; draws the losses. Takes about
a minute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
from matplotlib.figure import Figure
from pyro.infer.autoguide import AutoNormal

import pyro_unmix as pu
from pyro_unmix.guides import GRU, BiLSTMGuide, ConjugateGuide, MeanFieldGuide, Transformer

GUIDES: dict[str, Callable[[Any], Any]] = {
    "ConjugateGuide": ConjugateGuide,
    "ConjugateGuide, no LSTM": lambda model: ConjugateGuide(model, correction=False),
    "BiLSTMGuide": BiLSTMGuide,
    "BiLSTMGuide, GRU": lambda model: BiLSTMGuide(model, encoder=GRU()),
    "BiLSTMGuide, transformer": lambda model: BiLSTMGuide(model, encoder=Transformer()),
    "MeanFieldGuide": MeanFieldGuide,
    "MeanFieldGuide, GRU": lambda model: MeanFieldGuide(model, encoder=GRU()),
    "MeanFieldGuide, transformer": lambda model: MeanFieldGuide(model, encoder=Transformer()),
    "MeanFieldGuide, full": lambda model: MeanFieldGuide(model, full_covariance=True),
    "AutoNormal of Pyro": lambda model: AutoNormal(model, create_plates=plates, init_scale=0.3),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/ablate_guides"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_dates, num_steps = (8, 2, 2) if arguments.quick else (16, 5, 150)

    scene = pu.simulate.scaled_scene(
        num_dates=num_dates, height=size, width=size, seed=arguments.seed
    )
    start = pu.choose_start(scene.cubes, num_endmembers=3, seed=arguments.seed)
    losses = {}
    print(f"{'':30}{'ELBO':>8}{'NRMSE_A':>9}{'numbers':>9}{'seconds':>9}")
    for name, guide_of in GUIDES.items():
        model = pu.SGLMM(
            pu.FixedEndmembers(start.endmembers),
            basis=start.basis,
            abundance_prior=pu.priors.JumpWalk(),
            variability_prior=pu.priors.AutoRegressive(0.5),
            noise=pu.priors.WhiteNoise(start.noise_scale),
        )
        started = time.perf_counter()
        result = pu.fit(
            model, guide_of(model), scene.cubes, num_steps=num_steps, learning_rate=0.01,
            learning_rate_decay=0.1, seed=arguments.seed, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        losses[name] = result.losses
        count = sum(parameter.numel() for parameter in result.guide.parameters())
        error = pu.metrics.score(result, scene)["NRMSE_A"]
        elbo = -np.mean(result.losses[-20:])
        print(f"{name:30}{elbo:>8.3f}{error:>9.3f}{count:>9}{seconds:>9.1f}", flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(losses).savefig(arguments.out / "losses.png", dpi=110)


def plates(
    pixels: Any, valid: Any, *, index: Any = None, size: Any = None, features: Any = None
) -> Any:
    """The model's plate, so that the autoguide has parameters for each pixel."""
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def draw(losses: dict[str, np.ndarray]) -> Figure:
    """How far each loss is above the lowest of all: means over a thirtieth of the steps."""
    size = max(1, len(next(iter(losses.values()))) // 30)
    means = {name: values[: len(values) // size * size] for name, values in losses.items()}
    means = {name: values.reshape(-1, size).mean(1) for name, values in means.items()}
    lowest = min(values.min() for values in means.values())
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    colours = (*pu.plots.MATERIAL_COLOURS[:4], "black")  # those that are seen on white
    for position, (name, values) in enumerate(means.items()):
        steps = size * np.arange(len(values)) + (size + 1) / 2  # middles; the first step is 1
        line = "-" if position < len(colours) else "--"
        colour = colours[position % len(colours)]
        ax.plot(steps, values - lowest + 1e-2, line, label=name, color=colour)
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss above the lowest, + 0.01 (nats per observed value)")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


if __name__ == "__main__":
    main()
