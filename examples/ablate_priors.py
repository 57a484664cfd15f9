"""What does a belief do? Swap one prior, basis or noise at a time.

    python examples/ablate_priors.py

Every row of a table is its first row with one object changed: the same scene, the same start, the
same number of steps. Prints the ELBO per observed value, the error of the abundances and of the
reconstruction, and the seconds of the fit; draws the errors of the abundances. Takes a good minute.

The noises are compared under `MeanFieldGuide`, which takes any of them; `ConjugateGuide` needs
white noise. After these few steps it is still far from the posterior, so that the ELBOs of the
noises say how fast each is learned as well. A larger ELBO says that the data are more probable
under the model, not that the abundances are better.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import pyro_unmix as pu
from pyro_unmix import bases, priors
from pyro_unmix.guides import MeanFieldGuide


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/ablate_priors"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_dates, num_steps = (8, 2, 2) if arguments.quick else (16, 6, 60)

    scene = pu.simulate.scaled_scene(
        num_dates=num_dates, height=size, width=size, cloud_fraction=0.1, seed=arguments.seed
    )
    start = pu.choose_start(scene.cubes, num_endmembers=3, seed=arguments.seed)

    def fitted(guide: Any, **changed: Any) -> tuple[Any, float]:
        parts: dict[str, Any] = {
            "basis": start.basis,
            "abundance_prior": priors.JumpWalk(),
            "variability_prior": priors.AutoRegressive(0.5),
            "noise": priors.WhiteNoise(start.noise_scale),
        }
        model = pu.SGLMM(pu.FixedEndmembers(start.endmembers), **{**parts, **changed})
        started = time.perf_counter()
        result = pu.fit(
            model, guide(model), scene.cubes, num_steps=num_steps, learning_rate=0.01,
            learning_rate_decay=0.1, seed=arguments.seed, progress=False,
        )  # fmt: skip
        return result, time.perf_counter() - started

    errors: dict[str, float] = {}
    for title, guide, rows in tables(start, num_dates):
        print(f"{title:38}{'ELBO':>8}{'NRMSE_A':>9}{'NRMSE_Y':>9}{'seconds':>9}")
        for name, changed in rows.items():
            result, seconds = fitted(guide, **changed)
            scores = pu.metrics.score(result, scene)
            elbo = -np.mean(result.losses[-20:])
            cells = f"{scores['NRMSE_A']:>9.3f}{scores['NRMSE_Y']:>9.3f}{seconds:>9.1f}"
            print(f"  {name:36}{elbo:>8.3f}{cells}", flush=True)
            errors[name] = scores["NRMSE_A"]
        print()

    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(errors).savefig(arguments.out / "errors.png", dpi=110)


def tables(start: Any, num_dates: int) -> list[tuple[str, Any, dict[str, dict[str, Any]]]]:
    """Title, guide, and rows: name -> what is changed."""
    scale = start.noise_scale
    transitions = {
        "JumpWalk": {},
        "ConstantWalk": {"abundance_prior": priors.ConstantWalk()},
        "SoftmaxWalk": {"abundance_prior": priors.SoftmaxWalk()},
        "StudentWalk": {"abundance_prior": priors.StudentWalk()},
        "OrnsteinUhlenbeck": {"abundance_prior": priors.OrnsteinUhlenbeck()},
        "DirichletWalk": {"abundance_prior": priors.DirichletWalk()},
        "JumpWalk, DirichletStart": {
            "abundance_prior": priors.JumpWalk(initial=priors.DirichletStart())
        },
        "JumpWalk, SparseStart": {"abundance_prior": priors.JumpWalk(initial=priors.SparseStart())},
    }
    variability = {
        "AutoRegressive": {},
        "RandomWalk": {"variability_prior": priors.RandomWalk(0.3, learn=True)},
        "Independent": {"variability_prior": priors.Independent()},
        "basis DCT": {"basis": bases.DCT(5, scale=1.5)},
        "basis BSpline": {"basis": bases.BSpline(5)},
        "basis Brightness": {"basis": bases.Brightness()},
    }
    noises = {
        "WhiteNoise": {},
        "BandNoise": {"noise": priors.BandNoise(scale)},
        "DateNoise": {"noise": priors.DateNoise(scale, num_dates=num_dates)},
        "StudentNoise": {"noise": priors.StudentNoise(scale)},
        "LowRankNoise": {"noise": priors.LowRankNoise(scale)},
    }
    return [
        ("Abundances (ConjugateGuide)", pu.ConjugateGuide, transitions),
        ("Variability (ConjugateGuide)", pu.ConjugateGuide, variability),
        ("Noise (MeanFieldGuide)", MeanFieldGuide, noises),
    ]


def draw(errors: dict[str, float]) -> Figure:
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    ax = figure.subplots()
    ax.barh(list(errors), list(errors.values()), color="0.4")
    ax.invert_yaxis()
    ax.set(xlabel="NRMSE of the abundances")
    return figure


if __name__ == "__main__":
    main()
