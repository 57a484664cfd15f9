"""Which basis rank, which prior, how many materials? Rank fits by what they say of spectra they do not see.

    python examples/model_choice.py

Spectra are drawn from the model itself, with variability of rank two that is independent from date to date. Fits with
other ranks, with lasting variability, and with a material too few or too many are ranked by `compare`: held-out
predictive density, and bounds of the evidence. Prints the table and draws it. Takes about 40 seconds. How often
the right setting wins is what benchmarks/choice.py measures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyro_unmix as pu


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/model_choice"), help="for the picture"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few pixels and steps")
    arguments = parser.parse_args(argv)
    num_pixels, num_steps, num_samples = (20, 2, 20) if arguments.quick else (200, 100, 64)

    rng = np.random.default_rng(arguments.seed)
    spectra = rng.uniform(0.1, 0.7, size=(24, 4))
    truth = sglmm(spectra[:, :3], rank=2)
    drawn = truth.sample_sequence(num_pixels, 4, seed=arguments.seed)
    cubes = drawn["pixels"].numpy().transpose(1, 0, 2)[:, None]

    models = {
        "as drawn: rank 2, 3 materials": sglmm(spectra[:, :3], rank=2),
        "rank 1": sglmm(spectra[:, :3], rank=1),
        "rank 4": sglmm(spectra[:, :3], rank=4),
        "lasting variability": sglmm(
            spectra[:, :3], rank=2, chain=pu.priors.AutoRegressive(0.8, 0.15)
        ),
        "2 materials": sglmm(spectra[:, :2], rank=2),
        "4 materials": sglmm(spectra, rank=2),
    }
    fits = {
        name: pu.fit(
            model,
            pu.ConjugateGuide(model, seed=arguments.seed),
            cubes,
            num_steps=num_steps,
            learning_rate=0.02,
            learning_rate_decay=0.1,
            seed=arguments.seed,
            progress=False,
        )
        for name, model in models.items()
    }
    table = pu.compare(fits, num_samples=num_samples, seed=arguments.seed)
    print(table.to_dataframe().round(3).to_string())
    print(f"\nmost probable for unseen spectra: {table['fit'].values[0]}")

    arguments.out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(table.sizes["fit"])[::-1]
    axes.errorbar(table["held_out"], places, xerr=2 * table["held_out_se"], fmt="o", capsize=3)
    axes.set_yticks(places, labels=table["fit"].values)
    axes.set_xlabel(
        "log density of held-out values, nats per value (bars: 2 standard errors of the difference)"
    )
    figure.savefig(arguments.out / "held_out.png", dpi=120)


def sglmm(
    spectra: np.ndarray,
    rank: int,
    chain: pu.priors.AutoRegressive | pu.priors.Independent | None = None,
) -> pu.SGLMM:
    return pu.SGLMM(
        pu.FixedEndmembers(spectra),
        basis=pu.bases.DCT(rank),
        abundance_prior=pu.priors.JumpWalk(),
        variability_prior=chain or pu.priors.Independent(0.15),
        noise=pu.priors.WhiteNoise(0.01),
    )


if __name__ == "__main__":
    main()
