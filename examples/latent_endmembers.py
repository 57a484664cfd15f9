"""A sequence with latent endmembers: the decoder that IDNet learned on one image, as basis of the state-space model.

    python examples/latent_endmembers.py

Unmixes the first image of a sequence with `idnet`, takes its decoder into `SGLMM` by `DecodedBasis`,
where it is trained on, and fits the whole sequence: a latent vector per material, pixel and date
instead of weights of a linear basis. The same with a linear basis, `Brightness`, stands beside it.
Pictures: abundances beside the truth, endmembers of the last date, and the latents. Takes half a
minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pyro_unmix as pu


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/latent"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, few, num_steps = (10, {"num_steps": 3}, 5) if arguments.quick else (30, {}, 400)

    library = pu.simulate.library(np.linspace(450, 2400, 60))
    scene = pu.simulate.scaled_scene(
        num_dates=4, height=size, width=size, library=library, seed=arguments.seed
    )
    first = pu.idnet(scene.cubes.isel(time=[0]), 3, seed=arguments.seed, **few)
    bases = {
        "brightness": pu.Brightness(0.2),
        "decoded": pu.bases.DecodedBasis(first.model.decoder),
    }
    for name, basis in bases.items():
        model = pu.SGLMM(
            pu.FixedEndmembers(first.reference_endmembers),
            basis=basis,
            variability_prior=pu.priors.AutoRegressive(0.5),
            noise=pu.priors.WhiteNoise(0.02),
        )
        result = pu.fit(
            model, pu.BiLSTMGuide(model), scene.cubes, num_steps=num_steps, seed=arguments.seed,
            learning_rate=0.01, learning_rate_decay=0.1,
        )  # fmt: skip
        scores = pu.metrics.score(result, scene)
        elbo = f"ELBO {-result.losses[-20:].mean():6.3f}"
        print(f"{name:10} {elbo}  NRMSE_A {scores['NRMSE_A']:.3f}  SAM_M {scores['SAM_M']:.3f}")

    arguments.out.mkdir(parents=True, exist_ok=True)
    order = pu.match_endmembers(scene.reference_endmembers, result.reference_endmembers)
    truth = scene.abundances.values[..., order]
    names = scene.abundances["endmember"].values[order].tolist()
    pictures = {
        "abundances": pu.plots.plot_abundances(result, truth=truth, names=names),
        "endmembers": pu.plots.plot_endmembers(result, time=-1, names=names),
        "latents": pu.plots.plot_latents(result, time=-1, names=names),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
