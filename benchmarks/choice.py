"""Does `compare` pick the setting that generated the scene?

    OMP_NUM_THREADS=1 python benchmarks/choice.py

Every seed draws a scene from `SGLMM`: three of the built-in spectra, variability of rank K = 2 that walks with
sigma_psi = 0.1. Three questions are asked of it, each with one setting changed and the others as they were drawn: how
many materials, which K, which sigma_psi? A fit with a material too many has one more of the spectra, one with too few
the first two. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers, Unmixing, compare, fit, simulate
from pyro_unmix.bases import DCT
from pyro_unmix.priors import JumpWalk, RandomWalk, WhiteNoise

Array = NDArray[Any]


@dataclass(frozen=True)
class Setting:
    """What is asked about; the defaults are what scenes are drawn with."""

    materials: int = 3
    rank: int = 2
    sigma_psi: float = 0.1


TRUTH = Setting()
QUESTIONS: dict[str, tuple[Any, ...]] = {
    "materials": (2, 3, 4),
    "rank": (1, 2, 4),
    "sigma_psi": (0.03, 0.1, 0.3),
}
#: Columns of `compare`, each of which may choose.
RULES = ("held_out", "importance_elbo", "elbo")


@dataclass(frozen=True)
class Size:
    """Of the scenes, and of the work on them."""

    side: int = 12
    num_dates: int = 4
    num_bands: int = 24
    num_steps: int = 60
    num_folds: int = 3
    num_samples: int = 48


QUICK = Size(side=3, num_dates=2, num_bands=8, num_steps=1, num_folds=2, num_samples=4)


def model(spectra: Array, setting: Setting) -> SGLMM:
    """The generator of a setting, and the start of its fit; of `spectra` (L, 4) it takes the first ones."""
    return SGLMM(
        FixedEndmembers(spectra[:, : setting.materials]),
        basis=DCT(setting.rank),
        abundance_prior=JumpWalk(),
        variability_prior=RandomWalk(setting.sigma_psi, initial_scale=0.1),
        noise=WhiteNoise(0.01),
    )


def scene(seed: int, size: Size) -> tuple[xr.DataArray, Array]:
    """Images drawn with `TRUTH`, and the spectra (L, 4): the three in it, and one that is not."""
    library = simulate.library(np.linspace(400, 2500, size.num_bands)).values
    chosen = np.random.default_rng(seed).permutation(library.shape[1])[:4]
    spectra = library[:, chosen]
    drawn = simulate.state_space(
        model(spectra, TRUTH),
        num_dates=size.num_dates,
        height=size.side,
        width=size.side,
        seed=seed,
    )
    return drawn.cubes, spectra


def fitted(
    cubes: xr.DataArray, spectra: Array, setting: Setting, size: Size, seed: int
) -> Unmixing:
    program = model(spectra, setting)
    return fit(
        program, ConjugateGuide(program, seed=seed), cubes, num_steps=size.num_steps,
        learning_rate=0.05, learning_rate_decay=0.1, seed=seed, progress=False,
    )  # fmt: skip


def tables(seed: int, size: Size) -> dict[str, xr.Dataset]:
    """What `compare` says of each question, the fits in the order of `QUESTIONS`."""
    cubes, spectra = scene(seed, size)
    settings = {
        question: [replace(TRUTH, **{question: value}) for value in values]
        for question, values in QUESTIONS.items()
    }
    # The three questions have the true setting in common.
    fits = {
        setting: fitted(cubes, spectra, setting, size, seed)
        for setting in dict.fromkeys(s for asked in settings.values() for s in asked)
    }
    table = compare(
        {str(asdict(setting)): result for setting, result in fits.items()},
        num_folds=size.num_folds, num_samples=size.num_samples, seed=seed, progress=False,
    )  # fmt: skip
    return {
        question: table.sel(fit=[str(asdict(setting)) for setting in asked])
        for question, asked in settings.items()
    }


def pick(question: str, table: xr.Dataset, rule: str) -> Any:
    """The value that a column chooses."""
    return QUESTIONS[question][int(table[rule].values.argmax())]


def main(argv: Sequence[str] | None = None) -> dict[str, list[xr.Dataset]]:
    """Ask all questions of all seeds and print the answers; the tables of `compare` by question."""
    options = _parser().parse_args(argv)
    found: dict[str, list[xr.Dataset]] = {question: [] for question in QUESTIONS}
    print("| seed | question | drawn with | " + " | ".join(RULES) + " | lead | unreliable |")
    print("|---" * (len(RULES) + 5) + "|")
    for seed in options.seeds:
        for question, table in tables(seed, QUICK if options.quick else Size()).items():
            found[question].append(table)
            picks = " | ".join(str(pick(question, table, rule)) for rule in RULES)
            print(
                f"| {seed} | {question} | {getattr(TRUTH, question)} | {picks} | "
                f"{lead(question, table):.4f} | {float(table['unreliable'].max()):.2f} |",
                flush=True,
            )
    print("\n" + summary(found))
    return found


def lead(question: str, table: xr.Dataset) -> float:
    """Held-out density of the true setting above the best other one, nats per value."""
    values = table["held_out"].values
    true = np.array(QUESTIONS[question]) == getattr(TRUTH, question)
    return float(values[true][0] - values[~true].max())


def summary(found: dict[str, list[xr.Dataset]]) -> str:
    """How often each rule picks the true setting, and each value's mean held-out density relative to it."""
    lines = ["| question | drawn with | " + " | ".join(RULES) + " | held_out relative to it |"]
    lines.append("|---" * (len(RULES) + 3) + "|")
    for question, asked in found.items():
        true = getattr(TRUTH, question)
        hits = [sum(pick(question, table, rule) == true for table in asked) for rule in RULES]
        densities = np.mean([table["held_out"].values for table in asked], axis=0)
        densities -= densities[QUESTIONS[question].index(true)]
        means = ", ".join(
            f"{v}: {d:+.4f}" for v, d in zip(QUESTIONS[question], densities, strict=True)
        )
        shares = " | ".join(f"{hit} of {len(asked)}" for hit in hits)
        lines.append(f"| {question} | {true} | {shares} | {means} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(10)), help="a scene each (0 to 9)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny scenes and one step")
    return parser


if __name__ == "__main__":
    main()
