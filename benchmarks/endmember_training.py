"""Does training the reference endmembers by the ELBO help or hurt?

    OMP_NUM_THREADS=1 python benchmarks/endmember_training.py --data DIR

`unmix`'s model and guide with M0 kept, free, and under the prior of `AnchoredEndmembers`, from the start that `unmix`
chooses and from a poor one (VCA on the spectra of all dates, seed 0). Prints a Markdown table; the page that discusses
it is endmember_training.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _data import corner, data_folder, load
from _paper_scenes import ds1_like, ds2_like
from numpy.typing import NDArray

from pyro_unmix import (
    SGLMM,
    ConjugateGuide,
    FixedEndmembers,
    choose_start,
    fit,
    match_endmembers,
    metrics,
)
from pyro_unmix.methods.unmix import MIN_CORRELATION
from pyro_unmix.priors import (
    AnchoredEndmembers,
    AutoRegressive,
    FreeEndmembers,
    Independent,
    JumpWalk,
    WhiteNoise,
)
from pyro_unmix.simulate import Scene
from pyro_unmix.start import temporal_correlation, vca

Array = NDArray[Any]
KINDS: dict[str, Callable[..., Any]] = {
    "kept": FixedEndmembers,
    "free": FreeEndmembers,
    "anchored": AnchoredEndmembers,
}
SCENES = ("ds1", "ds2", "ds1-like 1", "ds2-like 1", "ds2-like 2")
STARTS = ("chosen", "poor")


def scene_of(name: str, folder: Any, quick: bool) -> Scene:
    """The scene of a name; at its smallest size if `quick`."""
    if name in ("ds1", "ds2"):
        scene = load(name, data_folder(folder)).scene
        return corner(scene, 2, 8, 8) if quick else scene
    kind, seed = name.split()
    return {"ds1-like": ds1_like, "ds2-like": ds2_like}[kind](int(seed), quick)


def row(scene: Scene, poor: bool, kind: str, num_steps: int, seed: int = 0) -> dict[str, float]:
    """Scores of one fit: `seed` is that of the training. The ELBO has any prior of M0 in it."""
    cubes, truth = scene.cubes, scene.reference_endmembers.to_numpy()
    count = truth.shape[1]
    given = None
    if poor:
        given = np.asarray(vca(cubes.to_numpy().reshape(-1, len(truth)), count, seed=0))
    start = choose_start(cubes, count, endmembers=given, seed=0)
    correlated = temporal_correlation(cubes, start) > MIN_CORRELATION
    model = SGLMM(
        KINDS[kind](start.endmembers),
        basis=start.basis,
        abundance_prior=JumpWalk(),
        variability_prior=AutoRegressive(0.5) if correlated else Independent(),
        noise=WhiteNoise(start.noise_scale),
        seed=seed,
    )
    result = fit(
        model, ConjugateGuide(model, seed=seed), cubes, num_steps=num_steps, batch_size=256,
        learning_rate=0.01, learning_rate_decay=0.1, seed=seed, progress=False,
    )  # fmt: skip
    found = result.reference_endmembers.to_numpy()
    order = match_endmembers(found, truth)
    errors = np.linalg.norm(found[:, order] - truth, axis=0) / np.linalg.norm(truth, axis=0)
    return {
        "NRMSE_A": metrics.nrmse_abundances(
            result.abundances.to_numpy()[..., order], scene.abundances.to_numpy()
        ),
        "M0 error": float(errors.mean()),
        "ELBO": -float(result.losses[-20:].mean()),
    }


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str, str], dict[str, float]]:
    """Print the table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder of ds1.npz and ds2.npz")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")
    parser.add_argument("--quick", action="store_true", help="smallest size, two steps")
    options = parser.parse_args(arguments)
    columns = ("NRMSE_A", "M0 error", "ELBO")
    print(f"| scene | start | M0 | {' | '.join(columns)} |\n|---|---|---|{'---|' * len(columns)}")
    rows = {}
    for name in options.scenes:
        scene = scene_of(name, options.data, options.quick)
        for start in options.starts:
            for kind in options.kinds:
                num_steps = 2 if options.quick else 100
                scores = row(scene, start == "poor", kind, num_steps, options.seed)
                rows[name, start, kind] = scores
                numbers = " | ".join(f"{scores[column]:.4f}" for column in columns)
                print(f"| {name} | {start} | {kind} | {numbers} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
