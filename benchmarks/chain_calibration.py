"""Do chains draw from the posterior of their program? Simulation-based calibration, globals included.

    OMP_NUM_THREADS=1 python benchmarks/chain_calibration.py [--simulations 200] [--out DIR]

Everything is drawn from the program, spectra too; a chain is run on the spectra, from where `sample` starts it; and the
rank of each true value among thinned draws of the chain is noted. If the chain is right, and long enough, ranks are
uniform. For every quantity the share of ranks up to r is compared with r, within a band that holds the whole curve of
uniform ranks with a probability of 95 %. Signs of scales mean nothing: their sizes are ranked. Prints a table, and
draws the curves less their expectation with the bands.

Talts, Betancourt, Simpson, Vehtari, Gelman, arXiv:1804.06788, 2018; Säilynoja, Bürkner, Vehtari, "Graphical test for
discrete uniformity and its applications in goodness-of-fit evaluation and multiple sample comparison", Statistics and
Computing 32, 2022 (the bands).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats
from tqdm.auto import tqdm

from pyro_unmix.infer.chains import run_chain
from pyro_unmix.infer.programs import program_of
from pyro_unmix.kernels import Kernel, Spectra
from pyro_unmix.models import LibraryMixing, SimplexMixing
from pyro_unmix.priors.bounded import BoundedEndmembers

Array = NDArray[Any]
NUM_DRAWS = 15  # of a rank, so that there are sixteen
WARMUP, THIN = 60, 12  # rounds
LEVEL = 0.95  # of the bands
NUM_SPECTRA, NUM_BANDS = 30, 8
_CURVES = 4000  # simulated behind a band


def simplex_program() -> SimplexMixing:
    """Three materials with a component each, and a common residual."""
    rng = np.random.default_rng(3)
    centre = BoundedEndmembers(rng.uniform(0.1, 0.7, (NUM_BANDS, 3)), scale=0.1, high=1.0)
    components = 0.05 * rng.standard_normal((NUM_BANDS, 1, 3))
    return SimplexMixing(centre, components=components, rank=1, residual=0.03, noise=0.02)


def library_program() -> LibraryMixing:
    """Seven spectra of three classes, and a common residual."""
    spectra = np.random.default_rng(4).uniform(0.1, 0.7, (NUM_BANDS, 7))
    labels = ["leaf"] * 3 + ["straw"] * 2 + ["soil"] * 2
    return LibraryMixing(spectra, labels, num_slots=3, rank=1, residual=0.03, noise=0.02)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "SimplexMixing": simplex_program,
    "LibraryMixing": library_program,
}


def quantities(values: dict[str, torch.Tensor], abundances: torch.Tensor) -> dict[str, float]:
    """What is ranked: globals, and abundances of a pixel and of all."""
    found = {"noise_variance": float(values["noise_variance"])}
    found["residual"] = float(values["residual_factor"].square().sum())
    if "concentration" in values:
        found["concentration"] = float(values["concentration"])
        found["brightness_scale"] = abs(float(values["brightness_scale"]))
        found["scale"] = abs(float(values["scales"][0]))
        found["endmember"] = float(values["endmembers"][:, 0].mean())
        found["endmember's band"] = float(values["endmembers"][2, 1])
    found["abundance"] = float(abundances[0, 0])
    found["mean abundance"] = float(abundances[:, 0].mean())
    found["mean square"] = float(abundances.square().mean())
    return found


def rank(
    model: Any, seed: int, kernels: Sequence[Kernel] | None = None, warmup: int | None = None
) -> dict[str, int]:
    """Ranks, 0 to `NUM_DRAWS`, of one simulation; among draws that are equal to the truth, any of their ranks."""
    sites = model.simulate(NUM_SPECTRA, seed=seed)
    decoded = model.decode(sites)
    abundances = decoded[0] if isinstance(decoded, tuple) else decoded
    truth = quantities(sites, abundances[:, 0])
    warmup = WARMUP if warmup is None else warmup
    generator = torch.Generator().manual_seed(seed + 2**31)  # another stream than what is simulated
    spectra = Spectra(model, sites["pixels"].flatten(0, 1), generator)
    program = program_of(model)
    steps = run_chain(
        program.start(model, spectra.values),
        spectra,
        kernels or program.kernels,
        warmup + THIN * NUM_DRAWS,
    )
    below, ties = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for number, state in enumerate(steps, start=1):
        if number > warmup and (number - warmup) % THIN == 0:
            for name, value in quantities(state.shared(), state.abundances).items():
                below[name] += value < truth[name]
                ties[name] += value == truth[name]
    rng = np.random.default_rng(seed)
    return {name: below[name] + rng.integers(0, ties[name], endpoint=True) for name in truth}


def band(num_simulations: int, seed: int = 0) -> tuple[Array, Array]:
    """Bounds of the share of ranks up to r = 0 .. `NUM_DRAWS` - 1, which hold the whole curve at `LEVEL`."""
    expected = np.arange(1, NUM_DRAWS + 1) / (NUM_DRAWS + 1)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(
        num_simulations, np.full(NUM_DRAWS + 1, 1 / (NUM_DRAWS + 1)), size=_CURVES
    ).cumsum(1)[:, :-1]
    # Two-sided probability of the farthest point of every curve.
    below = stats.binom.cdf(counts, num_simulations, expected)
    above = stats.binom.sf(counts - 1, num_simulations, expected)
    farthest = 2 * np.minimum(below, above).min(1)
    gamma = np.quantile(farthest, 1 - LEVEL)
    lower = stats.binom.ppf(gamma / 2, num_simulations, expected)
    upper = stats.binom.ppf(1 - gamma / 2, num_simulations, expected)
    return lower / num_simulations, upper / num_simulations


def curves(ranks: Sequence[dict[str, int]]) -> dict[str, Array]:
    """Share of ranks up to r = 0 .. `NUM_DRAWS` - 1, by quantity."""
    at = np.arange(NUM_DRAWS)[:, None]
    return {name: (np.array([each[name] for each in ranks]) <= at).mean(1) for name in ranks[0]}


def outside(curve: Array, bounds: tuple[Array, Array]) -> float:
    """How far a curve is out of a band at most; zero or less if it is inside."""
    lower, upper = bounds
    return float(np.maximum(lower - curve, curve - upper).max())


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the picture")
    options = parser.parse_args(arguments)
    bounds = band(options.simulations)
    found: dict[str, dict[str, Array]] = {}
    for name in options.programs:
        model = PROGRAMS[name]()
        seeds = options.seed + np.arange(options.simulations)
        found[name] = curves([rank(model, int(s)) for s in tqdm(seeds, desc=name)])
    far = {n: {k: outside(c, bounds) for k, c in own.items()} for n, own in found.items()}
    print("| program | quantity | outside the band by |\n|---|---|---:|")
    for name, own in far.items():
        for quantity, value in own.items():
            print(f"| {name} | {quantity} | {f'{value:.3f}' if value > 0 else 'inside'} |")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(found, bounds, options.out / "chain_calibration.png")
    return far


def draw(found: dict[str, dict[str, Array]], bounds: tuple[Array, Array], path: Path) -> None:
    """Curves less their expectation, and the band."""
    figure = Figure(figsize=(5 * len(found), 3.6), layout="constrained")
    places = np.arange(1, NUM_DRAWS + 1) / (NUM_DRAWS + 1)
    for axes, (name, own) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        axes.fill_between(places, bounds[0] - places, bounds[1] - places, color="0.85", lw=0)
        for quantity, curve in own.items():
            axes.plot(places, curve - places, label=quantity, lw=1)
        axes.set(title=name, xlabel="rank / number of ranks", ylabel="share of ranks - expected")
        axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
