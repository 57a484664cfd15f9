"""A prior of your own in 20 lines: abundances with a trend.

    python examples/own_prior.py

Crops grow and snow melts: between two dates the softmax state moves by a velocity, the same for all
pixels, times the days that have passed. `TrendWalk` says so, and learns the velocity. A sequence of
uneven dates is drawn from it, a quarter of its pixel-dates are clouds, and the same guide is fitted
under this prior and under a walk that knows no trend. Prints the ELBO per observed value and the
error of the abundances in the open and under the clouds; draws mean abundances over time. Takes some
20 seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyro_unmix as pu
from pyro_unmix.ops.distributions import IsotropicNormal
from pyro_unmix.priors import ConstantWalk, Transition


class TrendWalk(ConstantWalk):
    """``c_t ~ N(c_{t-1} + v Delta, s^2 Delta I)``, v learned, one number per material."""

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        super().setup(num_endmembers=num_endmembers, generator=generator)
        self.learn_or_keep("velocity", 0.0, num_endmembers)

    def transitions(self, index: Tensor | None = None) -> Transition:
        def transition(previous: Tensor, step: int) -> IsotropicNormal:
            elapsed = self.elapsed_at(step)
            if elapsed is None:  # the model was not told its dates
                elapsed = torch.ones_like(self.log_scale)
            log_scale = self.log_scale + 0.5 * elapsed.log()
            return IsotropicNormal(previous + self.velocity * elapsed, log_scale)

        return transition

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        # For ConjugateGuide: a step's root mean square, trend included.
        trend = self.velocity.square().mean() * (1 if self.elapsed is None else self.elapsed**2)
        return (super().step_scale(previous, mean_square).square() + trend).sqrt()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/own_prior"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps = (6, 5) if arguments.quick else (20, 250)

    days = np.array([0, 5, 10, 30, 35, 60])
    spectra = pu.simulate.scaled_scene(num_dates=1, height=8, width=8).reference_endmembers[::8]

    def model_with(walk: ConstantWalk) -> pu.SGLMM:
        return pu.SGLMM(
            pu.FixedEndmembers(spectra), basis=pu.Brightness(0.1), abundance_prior=walk,
            variability_prior=pu.priors.AutoRegressive(0.5), noise=pu.priors.WhiteNoise(0.02), dates=days,
        )  # fmt: skip

    # Data: drawn from the model with a trend.
    source = model_with(TrendWalk(0.2))
    with torch.no_grad():
        source.abundance_prior.velocity.copy_(torch.tensor([0.25, 0.0, -0.25]))
    scene = pu.simulate.state_space(
        source, num_dates=6, height=size, width=size, cloud_fraction=0.25, seed=arguments.seed
    )
    cubes = scene.cubes.assign_coords(time=days)
    truth, clouds = scene.abundances.values, np.isnan(cubes.values).any(-1)

    print(f"{'':14}{'ELBO':>8}{'RMSE open':>11}{'RMSE cloud':>12}")
    results = {}
    for walk in (ConstantWalk(0.5), TrendWalk(0.5)):
        model = model_with(walk)
        result = pu.fit(
            model, pu.ConjugateGuide(model), cubes, num_steps=num_steps, learning_rate=0.03,
            learning_rate_decay=0.1, seed=arguments.seed, progress=False,
        )  # fmt: skip
        name = type(walk).__name__
        results[name] = result.abundances.values
        square = ((results[name] - truth) ** 2).mean(-1)
        scores = (
            -np.mean(result.losses[-20:]),
            *(square[m].mean() ** 0.5 for m in (~clouds, clouds)),
        )
        print("{:14}{:>8.3f}{:>11.3f}{:>12.3f}".format(name, *scores), flush=True)
        if isinstance(walk, TrendWalk):
            velocity = result.model.abundance_prior.velocity.detach().numpy()
            print("velocity per 5 days:", *np.round(velocity - velocity.mean(), 2))

    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(days, truth, results, clouds).savefig(arguments.out / "trend.png", dpi=110)


def draw(
    days: np.ndarray, truth: np.ndarray, results: dict[str, Any], clouds: np.ndarray
) -> Figure:
    """Mean abundances under the clouds of each date."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    ax = figure.subplots()
    lines = {"truth": "-", "ConstantWalk": "--", "TrendWalk": ":"}
    for name, line in lines.items():
        values = truth if name == "truth" else results[name]
        means = np.stack([v[c].mean(0) for v, c in zip(values, clouds, strict=True)])
        for material in range(values.shape[-1]):
            colour = pu.plots.MATERIAL_COLOURS[material]
            label = name if material == 0 else None
            ax.plot(days, means[:, material], line, color=colour, label=label)
    ax.set(xlabel="day", ylabel="mean abundance under clouds")
    ax.legend()
    return figure


if __name__ == "__main__":
    main()
