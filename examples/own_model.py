"""A model of your own: linear mixing with Dirichlet abundances in plain Pyro, fitted with Pyro's `AutoNormal`.

    python examples/own_model.py

Prints the scores; draws abundance maps beside the truth and their std. Takes some ten seconds. What
model, guide and `decode` must do is in docs/own_programs.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_unmix as pu


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/own_model"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny scene and few steps")
    arguments = parser.parse_args(argv)
    size, num_steps = (10, 30) if arguments.quick else (30, 400)

    scene = pu.simulate.scaled_scene(num_dates=3, height=size, width=size, seed=arguments.seed)
    start = pu.choose_start(scene.cubes, num_endmembers=3, seed=arguments.seed)
    spectra = torch.as_tensor(start.endmembers.values, dtype=torch.float32)  # (L, P)

    def plate(pixels, valid, *, index=None, size=None, features=None):  # type: ignore[no-untyped-def]
        return pyro.plate("pixels", size or len(valid), subsample=index, dim=-1)

    def model(pixels, valid, *, index=None, size=None, features=None):  # type: ignore[no-untyped-def]
        noise = pyro.param("noise", torch.tensor(0.05), constraint=dist.constraints.positive)
        with plate(pixels, valid, index=index, size=size):
            for t in range(valid.shape[1]):
                a = pyro.sample(f"a_{t + 1}", dist.Dirichlet(torch.ones(spectra.shape[1])))
                y = dist.Normal(a @ spectra.T, noise).to_event(1).mask(valid[:, t])
                pyro.sample(f"y_{t + 1}", y, obs=pixels[:, t])

    def decode(latents):  # type: ignore[no-untyped-def]
        abundances = torch.stack([latents[f"a_{t}"] for t in (1, 2, 3)], dim=-2)
        return abundances, spectra  # (..., T, P) and (L, P)

    result = pu.fit(
        model, AutoNormal(model, create_plates=plate), scene.cubes, decode=decode,
        num_steps=num_steps, batch_size=size**2, learning_rate=0.05, learning_rate_decay=0.1,
        seed=arguments.seed,
    )  # fmt: skip

    scores = pu.metrics.score(result, scene)
    print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "abundances": pu.plots.plot_abundances(result, truth=scene),
        "uncertainty": pu.plots.plot_uncertainty(result),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
