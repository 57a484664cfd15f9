"""Errors on scenes whose variability neighbouring pixels share: few pure pixels, noise, clouds, irregular dates.

    OMP_NUM_THREADS=1 python benchmarks/smooth_scene.py --seeds 0 1 2 3 4 --out DIR

Writes ``smooth_scene.md`` and ``smooth_scene.json``; see benchmarks/smooth_scene.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from pyro_unmix import match_endmembers, metrics, simulate, unmix
from pyro_unmix.bases import DCT
from pyro_unmix.methods import fcls
from pyro_unmix.ops.solvers import simplex_quadratic

MATERIALS = ["vegetation", "soil", "snow", "concrete"]
_QUICK = {"num_dates": 3, "height": 12, "width": 12}


def scene(seed: int, quick: bool = False) -> simulate.Scene:
    """The scene of a seed: 8 dates, 50 x 50 pixels, 224 bands, 4 materials, 25 dB, 8 % clouds."""
    library = simulate.library().sel(endmember=MATERIALS)
    return simulate.smooth_scene(library=library, seed=seed, **(_QUICK if quick else {}))


def floor(made: simulate.Scene) -> np.ndarray:
    """FCLS with the true endmembers of every pixel: what the noise alone leaves."""
    out = np.full(made.abundances.shape, np.nan)
    for t, image in enumerate(made.cubes.values):
        known = np.isfinite(image).all(-1)
        varied = torch.from_numpy(made.endmembers(t).values[known])
        spectra = torch.from_numpy(image[known].astype(float))
        linear = torch.einsum("nlp,nl->np", varied, spectra)
        out[t][known] = simplex_quadratic(varied.mT @ varied, linear).numpy()
    return out


def _plain(made: simulate.Scene, seed: int, quick: bool) -> tuple[Any, Any]:
    result = fcls(made.cubes, len(MATERIALS), seed=seed, progress=False)
    return result.abundances.values, result.reference_endmembers.values


def _true_mean(made: simulate.Scene, seed: int, quick: bool) -> tuple[Any, Any]:
    result = fcls(made.cubes, endmembers=made.reference_endmembers, progress=False)
    return result.abundances.values, None


def _unmix(**options: Any) -> Callable[[simulate.Scene, int, bool], tuple[Any, Any]]:
    def run(made: simulate.Scene, seed: int, quick: bool) -> tuple[Any, Any]:
        known = {"endmembers": made.reference_endmembers} if options.get("true") else {}
        rest = {name: value for name, value in options.items() if name != "true"}
        few = {"num_steps": 2} if quick else {}
        result = unmix(
            made.cubes, len(MATERIALS), seed=seed, progress=False, **known, **rest, **few
        )
        return result.abundances.values, None if known else result.reference_endmembers.values

    return run


_SMOOTHLESS = DCT(6, scale=[0.2 * 224**0.5, *[0.1 * 224**0.5] * 5])
METHODS: dict[str, Callable[[simulate.Scene, int, bool], tuple[Any, Any]]] = {
    "FCLS, VCA of every date": _plain,
    "`unmix`, DCT basis, pixels by themselves": _unmix(basis=_SMOOTHLESS),
    "`unmix`": _unmix(),
    "`unmix`, trained": _unmix(trained=True),
    "FCLS, true mean endmembers": _true_mean,
    "`unmix`, trained, true mean endmembers": _unmix(true=True, trained=True),
    "FCLS, true endmembers of every pixel": lambda made, seed, quick: (floor(made), None),
}


def score(made: simulate.Scene, abundances: np.ndarray, endmembers: np.ndarray | None) -> float:
    """NRMSE_A over the pixel-dates that are seen, materials matched by their spectra."""
    if endmembers is not None:
        order = match_endmembers(endmembers, made.reference_endmembers)
        abundances = abundances[..., order]
    seen = np.isfinite(made.cubes.values).all(-1, keepdims=True)
    return metrics.nrmse_abundances(
        np.where(seen, abundances, 0.0), np.where(seen, made.abundances.values, np.nan)
    )


def table(records: Sequence[dict[str, Any]]) -> str:
    """Rows methods, columns seeds, and the median."""
    seeds = sorted({r["seed"] for r in records})
    lines = [
        f"| NRMSE_A | {' | '.join(f'seed {s}' for s in seeds)} | median | CPU s |",
        f"|---|{'---:|' * (len(seeds) + 2)}",
    ]
    for name in dict.fromkeys(r["method"] for r in records):
        rows = {r["seed"]: r for r in records if r["method"] == name}
        cells = [f"{rows[s]['nrmse']:.3f}" if s in rows else "" for s in seeds]
        errors = [r["nrmse"] for r in rows.values()]
        seconds = np.median([r["cpu"] for r in rows.values()])
        lines.append(
            f"| {name} | {' | '.join(cells)} | **{np.median(errors):.3f}** | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=list(METHODS), metavar="ROW")
    parser.add_argument("--out", type=Path, help="folder for the table and the records")
    parser.add_argument("--quick", action="store_true", help="tiny scenes, few steps")
    options = parser.parse_args(arguments)
    records = []
    for seed in tqdm(options.seeds, unit="scene"):
        made = scene(seed, options.quick)
        for name in tqdm(options.rows, leave=False):
            start = time.process_time()
            found = METHODS[name](made, seed, options.quick)
            record = {"method": name, "seed": seed, "nrmse": score(made, *found)}
            records.append({**record, "cpu": time.process_time() - start})
    print(table(records))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "smooth_scene.md").write_text(table(records) + "\n")
        (options.out / "smooth_scene.json").write_text(json.dumps(records, indent=1))
    return records


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
