"""Fits that test_workers.py runs by one process and by two: `torchrun --nproc-per-node 2 worker_fits.py FOLDER`."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoNormal

import pyro_unmix as pu
from pyro_unmix.infer import Checkpoints
from pyro_unmix.infer.workers import join
from pyro_unmix.io.write.locks import locked

LIBRARY = pu.simulate.library(np.linspace(450, 2400, 40))
SCENE = pu.simulate.scaled_scene(num_dates=3, height=7, width=6, library=LIBRARY, seed=1)
CUBES = SCENE.cubes.copy()
CUBES[:, 2, 3] = np.nan  # never observed
CUBES[1, 4] = np.nan
SETTINGS = {"num_steps": 50, "batch_size": 7, "learning_rate": 0.01, "seed": 3}


def paper(seed: int = 0):
    """In double precision: from this start steps enlarge a rounding error of float32 a thousand times."""
    model = pu.SGLMM(SCENE.reference_endmembers, basis=pu.bases.DCT(2), seed=seed).double()
    return model, pu.BiLSTMGuide(model, seed=seed).double()


def ours(seed: int = 0):
    model = pu.SGLMM(
        pu.FixedEndmembers(SCENE.reference_endmembers),
        basis=pu.bases.DCT(2, scale=0.4),
        abundance_prior=pu.priors.JumpWalk(),
        variability_prior=pu.priors.Independent(),
        seed=seed,
    )
    return model, pu.ConjugateGuide(model, seed=seed)


def plates(pixels, valid, *, index=None, size=None, features=None):
    return pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1)


def automatic(seed: int = 0):
    """Parameters that are made, with random draws, at the first call."""
    model = pu.SGLMM(
        pu.FixedEndmembers(SCENE.reference_endmembers), basis=pu.bases.DCT(1), seed=seed
    )
    return model, AutoNormal(model, create_plates=plates, init_scale=0.3)


def plain(seed: int = 0):
    """A function whose parameters are random and live in the store alone."""
    model = pu.SGLMM(
        pu.FixedEndmembers(SCENE.reference_endmembers), basis=pu.bases.DCT(1), seed=seed
    )

    def guide(pixels, valid, *, index=None, size=None, features=None):
        loc = pyro.param("loc", lambda: 0.1 * torch.randn(3))
        scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
        with pyro.plate("pixels", size or len(pixels), subsample=index, dim=-1):
            for t in range(valid.shape[1] + 1):
                pyro.sample(f"c_{t}", dist.Normal(loc, scale).to_event(1))
                pyro.sample(f"psi_{t}", dist.Normal(torch.zeros(3), scale).to_event(1))

    return model, guide


# Batches of 7 do not divide among 2, a batch of 1 leaves a worker without a pixel.
FITS = {
    "paper": (paper, {}),
    "ours": (ours, {}),
    "whole": (ours, {"batch_size": 64, "num_steps": 10}),
    "single": (paper, {"batch_size": 1, "num_steps": 10}),
    "particles": (paper, {"num_steps": 3, "loss": pyro.infer.Trace_ELBO(
        num_particles=2, vectorize_particles=True, max_plate_nesting=1
    )}),
    "automatic": (automatic, {"num_steps": 3}),
    # From disk, in pools of 15 of 41 pixels.
    "chunks": (ours, {"chunks": {"y": 3, "x": 4}, "memory": 2 * 15 * 3 * 40 * 4, "num_steps": 20}),
}  # fmt: skip


def run(name: str, **settings) -> dict[str, np.ndarray]:
    """Losses, parameters and maps of a fit, as numpy arrays."""
    make, own = FITS[name]
    model, guide = make()
    settings = {**SETTINGS, **own, **settings}
    chunks = settings.pop("chunks", None)
    cubes = CUBES if chunks is None else CUBES.chunk(chunks)
    result = pu.fit(model, guide, cubes, progress=False, **settings)
    return everything(result)


def everything(result) -> dict[str, np.ndarray]:
    found = {"losses": result.losses}
    found |= {f"map.{k}": v.values for k, v in result.dataset.data_vars.items()}
    for part, name in ((result.model, "model"), (result.guide, "guide")):
        if isinstance(part, torch.nn.Module):
            found |= {f"{name}.{k}": v.numpy() for k, v in part.state_dict().items()}
    return found | {f"store.{k}": v.detach().numpy() for k, v in result.store["params"].items()}


def message(call) -> str:
    """What the error of a call says."""
    try:
        call()
    except (ValueError, ArithmeticError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class Spoilt(pu.priors.WhiteNoise):
    """Not finite at the first pixel of what the second worker computes."""

    def distributions(self):
        make = super().distributions()

        def noise(mean):
            first = (torch.arange(len(mean)) == 0).unsqueeze(-1)
            return make(torch.where(first, torch.nan, mean))

        return noise if os.environ["RANK"] == "1" else make


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])

    def kill(step: int, elbo: float) -> None:
        if step == 22 and rank == 1 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os._exit(9)

    log = logging.FileHandler(folder / f"log-{rank}.txt")
    logging.getLogger("pyro_unmix").addHandler(log)
    logging.getLogger("pyro_unmix").setLevel("INFO")
    kept = folder / "checkpoints" if rank == 0 else folder / "elsewhere"
    keeper = Checkpoints(kept, every=10)
    found = {"killed": run("ours", callback=kill, checkpoint=keeper)}
    found |= {name: run(name) for name in FITS}
    # The start of the first worker holds for all; data and settings must be the same.
    found["seeds"] = everything(pu.fit(*paper(rank), CUBES, progress=False, num_steps=2))
    found["plain"] = everything(pu.fit(*plain(), CUBES, progress=False, num_steps=5))
    model, guide = ours()
    other = message(lambda: pu.fit(model, guide, CUBES + 0.01 * rank, num_steps=1))
    settings = message(lambda: pu.fit(model, guide, CUBES, num_steps=1, batch_size=4 + rank))
    spoilt = pu.SGLMM(SCENE.reference_endmembers, basis=pu.bases.DCT(2), noise=Spoilt())
    failure = message(lambda: pu.fit(spoilt, pu.BiLSTMGuide(spoilt), CUBES, num_steps=1))
    other_fit = message(lambda: run("paper", checkpoint=kept))
    with locked(kept) if rank == 0 else nullcontext():
        in_use = message(lambda: run("paper", checkpoint=kept))

    def press(step: int, elbo: float) -> None:
        if step == 2 and rank == 1:
            os.kill(os.getpid(), 2)

    found["interrupted"] = run("paper", callback=press)
    texts = {"data": other, "settings": settings, "failure": failure, "other fit": other_fit}
    texts["in use"] = in_use
    np.savez(folder / f"texts-{rank}.npz", **texts)
    for name, values in found.items():
        np.savez(folder / f"{name}-{rank}.npz", **values)
    assert join(torch.device("cpu")).size == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
