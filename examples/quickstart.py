"""The smallest complete use: ``fit(model, guide, cube_sequence)`` on a simulated scene.

    python examples/quickstart.py

Prints the scores of the fit and of its start, and writes abundance maps beside the truth, maps of
their posterior standard deviation, and the loss. Takes some ten seconds. `ConjugateGuide` starts
near the posterior: the scores improve little, and the loss goes on as it began.

Under the clouds (hatched) the abundances are those of the dates before and after. Where the truth
jumps just then, nothing in the data says when: the fit puts it between the two, with the largest
std of the scene.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyro_unmix as pu


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/quickstart"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps = (12, 10) if arguments.quick else (40, 150)

    # Data: anything that as_cube_sequence takes, such as a numpy array (T, H, W, L).
    scene = pu.simulate.scaled_scene(
        num_dates=5, height=size, width=size, cloud_fraction=0.1, seed=arguments.seed
    )
    # A start: endmembers, variability basis and noise scale, chosen from the data.
    start = pu.choose_start(scene.cubes, num_endmembers=3, seed=arguments.seed)
    # A model: each line is an object that can be swapped.
    model = pu.SGLMM(
        pu.FixedEndmembers(start.endmembers),
        basis=start.basis,
        abundance_prior=pu.priors.JumpWalk(),
        variability_prior=pu.priors.AutoRegressive(0.5),
        noise=pu.priors.WhiteNoise(start.noise_scale),
    )
    # A guide, and the loop.
    guide = pu.ConjugateGuide(model)
    before = pu.fit(model, guide, scene.cubes, num_steps=0, progress=False)
    result = pu.fit(
        model,
        guide,
        scene.cubes,
        num_steps=num_steps,
        learning_rate=0.01,
        learning_rate_decay=0.1,
        seed=arguments.seed,
    )

    # The cloudy pixel-dates (10 %) are filled by the model and scored like the others.
    for name, estimate in (("start", before), ("fit", result)):
        scores = pu.metrics.score(estimate, scene)
        print(f"{name:6}", "  ".join(f"{key} {value:.3f}" for key, value in scores.items()))

    arguments.out.mkdir(parents=True, exist_ok=True)
    order = pu.match_endmembers(scene.reference_endmembers, result.reference_endmembers)
    truth = scene.abundances.values[..., order]
    names = scene.abundances["endmember"].values[order].tolist()
    pictures = {
        "abundances": pu.plots.plot_abundances(result, truth=truth, names=names),
        "uncertainty": pu.plots.plot_uncertainty(result, names=names),
        "losses": pu.plots.plot_losses(result),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
