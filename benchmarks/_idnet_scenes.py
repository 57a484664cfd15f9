"""Single images for the benchmark of IDNet: simulated ones with a known truth, and two real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _data import Case, load
from _data import _Same as Same
from _data import _scene as as_scene

from pyro_unmix import simulate
from pyro_unmix.simulate import Scene

SNR_DB = 30.0
_SIZE = 50


@dataclass(frozen=True)
class SingleImage:
    """A scene of the benchmark.

    Parameters
    ----------
    title : str
    load : callable
        ``(folder, seed) -> Case``; a scene from a file ignores the seed.
    kind : str
        Of the published settings that belong to it.
    seeds : tuple of int
    needs_data : bool
    """

    title: str
    load: Callable[[Path | None, int], Case]
    kind: str
    seeds: tuple[int, ...] = (0,)
    needs_data: bool = True


def bilinear_scene(seed: int, *, size: int = _SIZE, num_endmembers: int = 3) -> Scene:
    """Generalised bilinear mixtures: ``y = M a + sum_{p<q} gamma_pq a_p a_q m_p * m_q + noise``.

    gamma is uniform in [0, 1], drawn anew for every pixel and pair, which no method here assumes; materials are drawn
    from the built-in library, abundances are smooth maps, the noise is white at 30 dB (Halimi et al., IEEE TGRS
    49(11), 2011). The scene's `reconstruct` is the linear part.
    """
    rng = np.random.default_rng([seed, 5])
    names = rng.permutation(simulate.library()["endmember"].values)[:num_endmembers]
    linear = simulate.scaled_scene(
        num_dates=1, height=size, width=size, num_endmembers=num_endmembers, seed=seed
    )
    a = linear.abundances.values[0]
    spectra = simulate.library().sel(endmember=names)
    matrix = spectra.transpose("wavelength", "endmember").values
    mixed = a @ matrix.T
    for p, q in itertools.combinations(range(num_endmembers), 2):
        strength = rng.uniform(size=(size, size))
        mixed += (strength * a[..., p] * a[..., q])[..., None] * (matrix[:, p] * matrix[:, q])
    noise = np.sqrt((mixed**2).mean() * 10 ** (-SNR_DB / 10))
    cube = (mixed + noise * rng.standard_normal(mixed.shape)).astype(np.float32)
    cubes = linear.cubes.copy(data=cube[None])
    labels = {"endmember": names}
    return replace(
        linear,
        cubes=cubes,
        abundances=linear.abundances.assign_coords(labels),
        reference_endmembers=spectra,
        variation=Same(matrix, (size, size)),
        noise_scale=float(noise),
    )


def _bilinear_file(folder: Path | None, seed: int) -> Case:
    assert folder is not None, "the command line has asked for it"
    with np.load(folder / "bilinear.npz") as file:
        matrix, a = file["M0"].astype(float), file["A"]
        return Case("bilinear.npz", as_scene(file["Y"], a, matrix, Same(matrix, a.shape[1:3])))


def _variable(folder: Path | None, seed: int) -> Case:
    scene = simulate.bundle_scene(num_dates=1, height=_SIZE, width=_SIZE, seed=seed, snr_db=SNR_DB)
    return Case("bundles", scene)


def _image(name: str) -> Callable[[Path | None, int], Case]:
    def read(folder: Path | None, seed: int) -> Case:
        assert folder is not None, "the command line has asked for it"
        return load(name, folder)

    return read


SCENES = {
    "bilinear": SingleImage(
        "bilinear.npz: strengths of one, 50 x 50 pixels, L = 224, P = 3, 30 dB",
        _bilinear_file,
        "bilinear",
    ),
    "own-bilinear": SingleImage(
        "generalised bilinear scenes, strengths uniform in [0, 1] by pixel and pair, 50 x 50 pixels, "
        "L = 224, P = 3, 30 dB",
        lambda folder, seed: Case("own bilinear", bilinear_scene(seed)),
        "bilinear",
        seeds=(0, 1, 2),
        needs_data=False,
    ),
    "bundles": SingleImage(
        "endmember variability: bundles of spectra, linear, 50 x 50 pixels, L = 224, P = 4, 30 dB",
        _variable,
        "variability",
        seeds=(0, 1, 2),
        needs_data=False,
    ),
    "samson": SingleImage("Samson: 95 x 95 pixels, L = 156, P = 3", _image("samson"), "samson"),
    "jasper-ridge": SingleImage(
        "Jasper Ridge: 100 x 100 pixels, L = 198, P = 4", _image("jasper-ridge"), "jasper_ridge"
    ),
}
