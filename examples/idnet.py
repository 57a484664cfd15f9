"""One image with IDNet: nonlinear mixing and a latent endmember of every pixel.

    python examples/idnet.py

Simulates an image of bilinear mixtures, unmixes it with `idnet` at its defaults and with FCLS, and
prints the errors of both. Pictures: abundances beside the truth, the degree of nonlinearity, and the
latents of every material. Takes some ten seconds.

The degree of nonlinearity is large where bright materials share a pixel and zero where one is alone.
Of the latents the first is the brightness of the material in the pixel: it takes the share of the
nonlinearity that the strengths leave. Where a material is absent nothing is known about it, and its
latents stay at one place (dark points).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pyro_unmix as pu


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/idnet"), help="for pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny image and few steps")
    arguments = parser.parse_args(argv)
    size, settings = (12, {"num_steps": 5}) if arguments.quick else (50, {})

    cube, truth = bilinear_image(size, arguments.seed)
    result = pu.idnet(cube, 3, seed=arguments.seed, **settings)
    linear = pu.methods.fcls(cube, endmembers=result.reference_endmembers, progress=False)

    order = pu.match_endmembers(result.reference_endmembers, truth.reference_endmembers)
    for name, estimate in (("FCLS", linear), ("idnet", result)):
        matched = estimate.abundances.values[..., order]
        error = pu.metrics.nrmse_abundances(matched, truth.abundances.values)
        print(f"{name:6} NRMSE_A {error:.3f}")
    print("mixing:", type(result.model.mixing).__name__)

    arguments.out.mkdir(parents=True, exist_ok=True)
    order = pu.match_endmembers(truth.reference_endmembers, result.reference_endmembers)
    known = truth.abundances.values[..., order]
    names = truth.abundances["endmember"].values[order].tolist()
    pictures = {
        "abundances": pu.plots.plot_abundances(result, truth=known, names=names),
        "nonlinearity": pu.plots.plot_nonlinearity(result),
        "latents": pu.plots.plot_latents(result, names=names),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=110)


def bilinear_image(size: int, seed: int) -> tuple[np.ndarray, pu.simulate.Scene]:
    """``M a + 0.8 sum_{p<q} a_p a_q m_p * m_q`` and noise, (y, x, band), and the scene that M and a are from."""
    library = pu.simulate.library()
    bright = np.argsort(-library.mean("wavelength").values)[:3]  # products of dark ones are noise
    scene = pu.simulate.scaled_scene(
        num_dates=1, height=size, width=size, library=library.isel(endmember=bright), seed=seed
    )
    m, a = scene.reference_endmembers.values, scene.abundances.values[0]
    cube = a @ m.T
    for p, q in itertools.combinations(range(m.shape[1]), 2):
        cube += 0.8 * (a[..., p] * a[..., q])[..., None] * (m[:, p] * m[:, q])
    return cube + 0.01 * np.random.default_rng(seed).standard_normal(cube.shape), scene


if __name__ == "__main__":
    main()
