"""Are the intervals as wide as the errors? A scene whose truth is known, read out in two ways.

    python examples/calibration.py

Unmixes a simulated scene once and reads the abundances out from the guide (`PosteriorMean`), and after Markov-chain
sweeps that carry the guide's draws to the model's posterior (`PolishedMean`), whose noise is enlarged by what the scene
says about its misfit. Prints how many true abundances the 50 % and 90 % intervals hold, and draws the coverage of
intervals from 10 to 90 %. Takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyro_unmix as pu
from pyro_unmix.posterior import PolishedMean
from pyro_unmix.start import misfit_factor

NOMINAL = np.linspace(0.1, 0.9, 9)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/calibration"), help="for the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps, num_sweeps = (8, 2, 2) if arguments.quick else (24, 100, 16)

    scene = pu.simulate.scaled_scene(num_dates=3, height=size, width=size, seed=arguments.seed)
    cubes = scene.cubes[..., ::4]
    result = pu.unmix(cubes, 3, polish=False, num_steps=num_steps, seed=arguments.seed)
    truth = scene.reference_endmembers.values[::4]
    order = pu.match_endmembers(result.reference_endmembers.values, truth)

    factor = misfit_factor(result.model, cubes)
    print(f"errors are {factor:.2f} times those that the model expects")
    estimate = PolishedMean(num_sweeps=num_sweeps, noise_factor=factor)
    polished = result.predict(cubes, estimate=estimate)

    print("                RMSE   50 %   90 %   mean width of 90 %")
    covered = {}
    for name, one in (("guide", result), ("polished", polished)):
        covered[name] = []
        for level in NOMINAL:
            low, high = one.interval(level, num_samples=100).values[..., order]
            inside = (scene.abundances.values >= low) & (scene.abundances.values <= high)
            covered[name].append(inside.mean())
        error = one.abundances.values[..., order] - scene.abundances.values
        print(
            f"{name:12s} {np.sqrt(np.mean(error**2)):7.4f} {100 * covered[name][4]:5.0f} % "
            f"{100 * covered[name][-1]:4.0f} %   {(high - low).mean():.4f}"
        )

    figure = Figure(figsize=(4.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, shares in covered.items():
        axes.plot(NOMINAL, shares, "o-", label=name)
    axes.plot([0, 1], [0, 1], color="k", linewidth=1)
    axes.set(xlabel="nominal", ylabel="true abundances inside", title="credible intervals")
    axes.legend(frameon=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out / "coverage.png", dpi=120)


if __name__ == "__main__":
    main()
