"""What does each part do? Swap one object at a time.

    python examples/ablation.py

Every row of the table is the model and guide of the first row with one line changed. All rows start
from the same endmembers and train for the same number of steps on the same scene, one of random
spectra from bundles. Prints the ELBO per observed value, the scores and the seconds of the fit, and
draws the losses. Takes about 20 seconds.

Compare ELBOs between models with care: a larger one says that the data are more probable under the
model, not that the abundances are better. The paper's guide starts far from the posterior and is
still on its way after these few steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import pyro_unmix as pu

COLUMNS = ("NRMSE_A", "SAM_M", "NRMSE_Y")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/ablation"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_dates, num_steps = (10, 2, 3) if arguments.quick else (24, 5, 100)

    scene = pu.simulate.bundle_scene(
        num_dates=num_dates, height=size, width=size, num_endmembers=3, seed=arguments.seed
    )
    start = pu.choose_start(scene.cubes, num_endmembers=3, seed=arguments.seed)
    endmembers = start.endmembers

    def sglmm(reference: Any = None, **changed: Any) -> pu.SGLMM:
        parts = {
            "basis": start.basis,
            "abundance_prior": pu.priors.JumpWalk(),
            "variability_prior": pu.priors.Independent(),
            "noise": pu.priors.WhiteNoise(start.noise_scale),
        }
        return pu.SGLMM(reference or pu.FixedEndmembers(endmembers), **{**parts, **changed})

    smooth = pu.bases.DCT(
        6, scale=0.1 * len(endmembers) ** 0.5
    )  # psi = 1 is some 10 % of reflectance
    conjugate = pu.ConjugateGuide
    pairs: dict[str, tuple[pu.SGLMM, Callable[[pu.SGLMM], Any]]] = {
        "as chosen": (sglmm(), conjugate),
        "prior: Gaussian walk": (sglmm(abundance_prior=pu.priors.SoftmaxWalk()), conjugate),
        "prior: AR(1) variability": (
            sglmm(variability_prior=pu.priors.AutoRegressive(0.5)),
            conjugate,
        ),
        "basis: smooth (DCT)": (sglmm(basis=smooth), conjugate),
        "basis: brightness": (sglmm(basis=pu.Brightness()), conjugate),
        "endmembers: learned": (sglmm(pu.priors.FreeEndmembers(endmembers)), conjugate),
        "guide: no LSTM": (sglmm(), lambda model: conjugate(model, correction=False)),
        "guide: the paper's": (sglmm(), pu.BiLSTMGuide),
    }
    losses = {}
    print(f"{'':26}{'ELBO':>8}" + "".join(f"{c:>9}" for c in (*COLUMNS, "seconds")))
    for name, (model, guide) in pairs.items():
        started = time.perf_counter()
        result = pu.fit(
            model,
            guide(model),
            scene.cubes,
            num_steps=num_steps,
            learning_rate=0.01,
            learning_rate_decay=0.1,
            seed=arguments.seed,
            progress=False,
        )
        seconds = time.perf_counter() - started
        scores = pu.metrics.score(result, scene)
        losses[name] = result.losses
        elbo = -np.mean(result.losses[-20:])
        cells = "".join(f"{scores[column]:>9.3f}" for column in COLUMNS)
        print(f"{name:26}{elbo:>8.3f}{cells}{seconds:>9.1f}", flush=True)

    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(losses).savefig(arguments.out / "losses.png", dpi=110)


def draw(losses: dict[str, np.ndarray]) -> Figure:
    """How far each loss is above the lowest of all: means over a twentieth of the steps."""
    size = max(1, len(next(iter(losses.values()))) // 20)
    means = {name: values[: len(values) // size * size] for name, values in losses.items()}
    means = {name: values.reshape(-1, size).mean(1) for name, values in means.items()}
    lowest = min(values.min() for values in means.values())
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    ax = figure.subplots()
    colours = (*pu.plots.MATERIAL_COLOURS[:6], "black", "0.5")  # yellow is faint on white
    for position, (name, values) in enumerate(means.items()):
        steps = size * np.arange(len(values)) + (size + 1) / 2  # middles; the first step is 1
        line = "-" if position < 4 else "--"
        ax.plot(steps, values - lowest + 1e-3, line, label=name, color=colours[position])
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="step", ylabel="loss above the lowest, + 0.001 (nats per observed value)")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


if __name__ == "__main__":
    main()
