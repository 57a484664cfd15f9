"""The two simulated scenes of the ReDSUNN paper: its own method beside the default one.

    python examples/paper_scenes.py
    python examples/paper_scenes.py --full       # the paper's sizes and 30 epochs: several minutes

The first scene scales reference signatures by random piecewise-linear functions of the wavelength
(`scaled_scene`), the second draws each endmember of each pixel and date from a bundle of spectra
(`bundle_scene`). Both are made from formulas here, the paper's are from spectral libraries and a
real image, so that the scores do not compare with its tables. By default the scenes are small and
`redsunn` trains for some 200 steps of the 600 of `--full`, which takes half a minute in all.

In the pictures of the bundle scene VCA takes water twice and misses the asphalt, at some dates other
materials too; `redsunn`, which starts from VCA on all dates, does not recover from that. Its
endmembers hardly spread over the pixels, since it allows steps of .003 only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pyro_unmix as pu
from pyro_unmix.methods import fcls

SCORES = ("NRMSE_A", "RMSE_A", "NRMSE_M", "SAM_M", "NRMSE_Y")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/paper_scenes"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the paper's sizes")
    size.add_argument("--quick", action="store_true", help="tiny scenes and few steps")
    arguments = parser.parse_args(argv)

    side, dates, epochs = 30, (6, 6), 28
    if arguments.full:
        side, dates, epochs = 50, (6, 15), 30
    if arguments.quick:
        side, dates, epochs = 12, (3, 3), 2
    settings = {"seed": arguments.seed}
    sizes = {"height": side, "width": side, **settings}
    scenes = {
        "scaled": pu.simulate.scaled_scene(num_dates=dates[0], **sizes),
        "bundle": pu.simulate.bundle_scene(num_dates=dates[1], num_endmembers=4, **sizes),
    }
    few = {"num_steps": 5} if arguments.quick else {}
    methods = {
        "VCA per date + FCLS": lambda cubes, count: fcls(cubes, count, **settings),
        "redsunn": lambda cubes, count: pu.redsunn(cubes, count, num_epochs=epochs, **settings),
        "unmix": lambda cubes, count: pu.unmix(cubes, count, **settings, **few),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for scene_name, scene in scenes.items():
        rows = []
        for name, method in methods.items():
            started = time.perf_counter()
            result = method(scene.cubes, scene.num_endmembers)
            seconds = time.perf_counter() - started
            scores = pu.metrics.score(result, scene)
            rows.append([name, *(f"{scores[key]:.3f}" for key in SCORES), f"{seconds:.1f}"])
            draw(result, scene, arguments.out / f"{scene_name}_{name.partition(' ')[0].lower()}")
        print(f"\n{scene_name} scene {dict(scene.cubes.sizes)}, {scene.num_endmembers} endmembers")
        for row in [["", *SCORES, "seconds"], *rows]:
            print(f"{row[0]:20}" + "".join(f"{cell:>9}" for cell in row[1:]))


def draw(result: pu.Unmixing, scene: pu.simulate.Scene, stem: Path) -> None:
    """Abundances in one colour map per date, and the endmembers of the first, beside the truth."""
    order = pu.match_endmembers(result.reference_endmembers, scene.reference_endmembers)
    names = scene.abundances["endmember"].values
    named = result.dataset.assign_coords(endmember=names[order.argsort()])
    result = pu.Unmixing(named)
    figures = {
        "abundances": pu.plots.plot_abundance_composite(result, truth=scene),
        "endmembers": pu.plots.plot_endmembers(result, truth=scene),
    }
    for name, figure in figures.items():
        figure.savefig(f"{stem}_{name}.png", dpi=110)


if __name__ == "__main__":
    main()
