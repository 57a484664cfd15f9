"""What each departure of the published ReDSUNN program from its paper does to the scores.

    OMP_NUM_THREADS=1 python benchmarks/redsunn.py --data DIR --cache FOLDER

One change at a time to the program published with the paper (`redsunn_published`), and the paper itself. Every fit
leaves a file in the cache, so that an interrupted run resumes. The page that discusses the table is redsunn.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _data import Case, corner, data_folder, load
from numpy.typing import NDArray
from pyro.infer import Trace_ELBO
from tqdm.auto import tqdm

from pyro_unmix import SGLMM, BiLSTMGuide, FixedEndmembers, Unmixing, fit, metrics
from pyro_unmix.bases import DCT, Basis
from pyro_unmix.data.cubes import to_pixels
from pyro_unmix.guides import PublishedGuide
from pyro_unmix.infer import Ramp, WeightedELBO
from pyro_unmix.methods.redsunn_published import along_trajectories
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.models.published import RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.ops.simplex import clip_to_simplex
from pyro_unmix.posterior import PlugInMean
from pyro_unmix.posterior.read_out import read_out
from pyro_unmix.priors import RandomWalk, SoftmaxWalk, WhiteNoise
from pyro_unmix.start import vca

Array = NDArray[Any]
SCENES = ("ds1", "ds2")
NUM_BASIS = {"ds1": 10, "ds2": 2}  # the paper's, Sec. VI-A
NUM_TRAJECTORIES = 32
COLUMNS = ("one draw", "mean", "Algorithm 1", "NRMSE_M", "SAM_M", "NRMSE_Y", "CPU s")
_VERSION = 1  # of the cached records
_QUICK = (2, 8, 8)  # dates, rows, columns


@dataclass(frozen=True)
class Scene:
    """What a fit is given, and what it is scored by."""

    name: str
    case: Case
    endmembers: dict[str, Array]  # by where they come from

    @property
    def num_basis(self) -> int:
        return NUM_BASIS[self.name]

    def has(self, start: str) -> bool:
        """Whether these initial endmembers are known or can be extracted."""
        return start == "vca" or start in self.endmembers


@dataclass(frozen=True)
class Setting:
    """One fit; the defaults are the published program's.

    A part is a function of what it needs to know of the scene (`basis` of K, `loss` of L and P (K + 1), `endmembers` of
    the start), so that each row names only what it changes.
    """

    start: str = "given"
    basis: Callable[[int], Basis] = RawDCT
    guide_basis: Callable[[int], Basis] | None = TransposedDCT
    walk: Callable[[], Any] = VarianceWalk
    sigma_psi: float = 1e-5**0.5
    noise: float = 0.005
    change_detector: Callable[[Any, Any], Any] | None = None
    endmembers: Callable[[Array], Any] = np.asarray
    loss: Callable[[int, int], Any] = lambda bands, latents: WeightedELBO(
        Ramp(5000, bands / latents)
    )
    paper: bool = False  # the paper's model and guide
    num_epochs: float = 30.0

    def run(self, scene: Scene, seed: int, num_epochs: float) -> Unmixing:
        """Build and train."""
        cubes = scene.case.scene.cubes
        start = self._start(scene, seed)
        bands, materials = start.shape
        model_type = SGLMM if self.paper else FirstDateSGLMM
        model = model_type(
            self.endmembers(start),
            basis=self.basis(scene.num_basis),
            abundance_prior=self.walk(),
            variability_prior=RandomWalk(self.sigma_psi),
            noise=WhiteNoise(self.noise),
            seed=seed,
        )
        options = {"change_detector": self.change_detector} if self.change_detector else {}
        if self.paper:
            guide: Any = BiLSTMGuide(model, seed=seed, **options)
        else:
            basis = self.guide_basis(scene.num_basis) if self.guide_basis else None
            guide = PublishedGuide(model, basis=basis, seed=seed, **options)
        loss = self.loss(bands, materials * (scene.num_basis + 1))
        return fit(
            model, guide, cubes, num_epochs=num_epochs, loss=loss, seed=seed, progress=False
        )  # fmt: skip

    def _start(self, scene: Scene, seed: int) -> Array:
        if self.start == "vca":
            pixels, valid = to_pixels(scene.case.scene.cubes)
            return np.asarray(vca(pixels[valid], scene.case.scene.num_endmembers, seed=seed))
        return scene.endmembers[self.start]


def _printed_detector(regression: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """u with the paper's factor 1/(2P)."""
    distance = (clip_to_simplex(regression) - previous).abs().sum(-1)
    return distance / (2 * previous.shape[-1])


def _always_changed(regression: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(previous[..., 0])


def _elbo(bands: int, latents: int) -> Any:
    return Trace_ELBO()


PUBLISHED = Setting()
#: "The paper, taken literally": its model, guide and ELBO, from the same endmembers.
PAPER = Setting(paper=True, basis=DCT, walk=SoftmaxWalk, noise=0.01, loss=_elbo)

ROWS: dict[str, tuple[str, Setting]] = {
    "published": ("**the published program**", PUBLISHED),
    "paper": ("**the paper, taken literally** (`redsunn`)", PAPER),
    "vca": ("M0: VCA on all dates, a seed each", replace(PUBLISHED, start="vca")),
    "degenerate": (
        "M0: a VCA of all dates that missed a material",
        replace(PUBLISHED, start="degenerate"),
    ),
    "truth": ("M0: the true references", replace(PUBLISHED, start="truth")),
    "frozen": ("M0 not trained", replace(PUBLISHED, endmembers=FixedEndmembers)),
    "frozen-truth": (
        "M0 not trained, the true references",
        replace(PUBLISHED, endmembers=FixedEndmembers, start="truth"),
    ),
    "kl-1": (
        "KL weight 1: the ELBO",
        replace(PUBLISHED, loss=lambda bands, latents: WeightedELBO(1.0)),
    ),
    "kl-ramp": (
        "KL weight 0 to 1 over 5000 updates, sums",
        replace(PUBLISHED, loss=lambda bands, latents: WeightedELBO(Ramp(5000))),
    ),
    "kl-means": (
        "KL weight of the means, no ramp",
        replace(PUBLISHED, loss=lambda bands, latents: WeightedELBO(bands / latents)),
    ),
    "kl-0": ("KL weight 0", replace(PUBLISHED, loss=lambda bands, latents: WeightedELBO(0.0))),
    "paper-kl": (
        "the paper's model and guide, the published objective",
        replace(PAPER, loss=PUBLISHED.loss),
    ),
    "basis": (
        "scale: psi times 1, not 0.01",
        replace(
            PUBLISHED,
            basis=lambda k: RawDCT(k, amplitude=2.0),
            guide_basis=lambda k: TransposedDCT(k, amplitude=2.0),
        ),
    ),
    "dct": (
        "scale: the paper's orthonormal DCT in both",
        replace(PUBLISHED, basis=DCT, guide_basis=DCT),
    ),
    "paper-basis": (
        "the paper's ELBO, model and guide, psi times 0.01",
        replace(PAPER, basis=RawDCT),
    ),
    "one-basis": ("guide with the model's basis", replace(PUBLISHED, guide_basis=None)),
    "sigma-psi": ("scale: sigma_psi a std of 1e-5", replace(PUBLISHED, sigma_psi=1e-5)),
    "walk": ("scale: sigma_a of the paper", replace(PUBLISHED, walk=SoftmaxWalk)),
    "noise": ("scale: noise from 0.01, not 0.005", replace(PUBLISHED, noise=0.01)),
    "detector": (
        "change detector with 1/(2P), as printed",
        replace(PUBLISHED, change_detector=_printed_detector),
    ),
    "changed": ("change detector always 1", replace(PUBLISHED, change_detector=_always_changed)),
    "epochs-10": ("10 epochs", replace(PUBLISHED, num_epochs=10.0)),
    "epochs-90": ("90 epochs", replace(PUBLISHED, num_epochs=90.0)),
}


# ------------------------------------------------------------------------------- measuring


def measure(row: str, scene: Scene, seed: int, quick: bool = False) -> dict[str, Any]:
    """One fit and its scores."""
    setting = ROWS[row][1]
    cpu = time.process_time()
    result = setting.run(scene, seed, 1.0 if quick else setting.num_epochs)
    one = along_trajectories(result, seed=seed)
    cpu = time.process_time() - cpu
    mean = along_trajectories(result, 2 if quick else NUM_TRAJECTORIES, seed=seed)
    truth = scene.case.scene
    scores = metrics.score(one, truth)
    plug_in = read_out(result.model, result.guide, truth.cubes, estimate=PlugInMean(num_samples=2))
    return {
        "row": row,
        "scene": scene.name,
        "seed": seed,
        "one draw": scores["NRMSE_A"],
        "mean": metrics.score(mean, truth)["NRMSE_A"],
        "Algorithm 1": metrics.score(replace(result, dataset=plug_in), truth)["NRMSE_A"],
        "posterior mean": metrics.score(result, truth)["NRMSE_A"],
        **{name: scores[name] for name in ("NRMSE_M", "SAM_M", "NRMSE_Y")},
        "noise": float(result.model.noise.scale.detach()),
        "CPU s": cpu,
    }


def load_scene(name: str, folder: Path, quick: bool = False) -> Scene:
    """A scene with the initial endmembers that the peers had, and the true references."""
    case = load(name, folder)
    with np.load(folder / "peer_endmembers.npz") as file:
        endmembers = {"given": file[name].astype(float)}
        if f"{name}_degenerate" in file:
            endmembers["degenerate"] = file[f"{name}_degenerate"].astype(float)
    endmembers["truth"] = case.scene.reference_endmembers.values.astype(float)
    if quick:
        case = Case(case.title, corner(case.scene, *_QUICK), case.unit_maximum)
    return Scene(name, case, endmembers)


def cached(cache: Path | None, row: str, scene: Scene, seed: int, quick: bool) -> dict[str, Any]:
    """The record from the cache, or measured and put there."""
    if cache is None:
        return measure(row, scene, seed, quick)
    key = json.dumps([_VERSION, row, scene.name, seed, quick])
    path = cache / f"{row}-{scene.name}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    record = measure(row, scene, seed, quick)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(record))
    unfinished.replace(path)
    return record


# ------------------------------------------------------------------------------- printing


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row per change: median over the seeds, and the range where there are several."""
    lines = [
        "| change | seeds | " + " | ".join(COLUMNS) + " |",
        "|---|---:|" + "---:|" * len(COLUMNS),
    ]
    for row, (title, _) in ROWS.items():
        group = [record for record in records if record["row"] == row]
        if group:
            cells = [_cell([record[column] for record in group], column) for column in COLUMNS]
            lines.append(f"| {title} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float], column: str) -> str:
    if column == "CPU s":
        return f"{np.median(values):.0f}"
    text = f"{np.median(values):.3f}"
    if len(values) > 1 and column in ("one draw", "mean"):
        text += f" ({min(values):.3f} to {max(values):.3f})"
    return text


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run what the command line asks for; returns the records."""
    options = _parser().parse_args(arguments)
    folder = data_folder(options.data)
    scenes = {name: load_scene(name, folder, options.quick) for name in options.scenes}
    jobs = [(name, row, seed)
            for name in options.scenes for row in options.rows for seed in options.seeds]  # fmt: skip
    jobs = [job for job in jobs if scenes[job[0]].has(ROWS[job[1]][1].start)]
    records = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tqdm(jobs, unit="fit") as bar:
            for name, row, seed in bar:
                bar.set_postfix_str(f"{name}, {row}, seed {seed}")
                records.append(cached(options.cache, row, scenes[name], seed, options.quick))
    finally:
        torch.set_num_threads(threads)
    for name in options.scenes:
        mine = [record for record in records if record["scene"] == name]
        print(f"\n### {name}\n\n{table(mine)}")
        for row in options.each:
            for column in ("one draw", "mean"):
                values = [f"{r[column]:.3f}" for r in mine if r["row"] == row]
                print(f"\n{row}, {column}, by seed: {', '.join(values)}")
    return records


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="DIR", help="folder of the scenes ($PYRO_UNMIX_DATA)")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW",
                        help=f"of {', '.join(ROWS)} (all)")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one fit each")
    parser.add_argument("--each", nargs="*", choices=ROWS, default=[], metavar="ROW",
                        help="rows whose scores are printed seed by seed")  # fmt: skip
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="resume from here")
    parser.add_argument("--quick", action="store_true", help="a corner of each scene, one epoch")
    return parser


if __name__ == "__main__":
    main()
