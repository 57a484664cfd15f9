"""The scenes of the paper's tables: its two generators with measured spectra, and a real sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from _data import corner, load

from pyro_unmix import as_cube_sequence, read_library
from pyro_unmix.simulate import Scene, bundle_scene, scaled_scene

Array = npt.NDArray[Any]

#: Classes of earthlib in the order in which the scenes take one material of each.
CLASSES = ("vegetation", "bare", "built", "npv")
#: Least spectral angle between two materials of a scene, radians: that of ds1 is .22, of ds2 .25.
LEAST_ANGLE = 0.2
#: Spectra in a bundle: a spectrum and the nearest ones of its class.
BUNDLE_SIZE = 20
#: Central wavelengths in nm of B1 to B8, B8A, and B9 to B12.
SENTINEL2_BANDS = (443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190)
_TRIES = 1000


def ds1_like(seed: int, quick: bool = False) -> Scene:
    """The paper's first generator: T = 6, 50 x 50 pixels, 224 bands, three materials, 30 dB."""
    num_bands = 20 if quick else 224
    spectra, labels = earthlib(num_bands)
    rng = np.random.default_rng(seed)
    picked = apart(lambda: [spectra[:, rng.choice(np.flatnonzero(labels == name))][:, None]
                             for name in CLASSES[:3]])  # fmt: skip
    sizes = {"num_dates": 2, "height": 8, "width": 8} if quick else {"num_dates": 6}
    return scaled_scene(library=np.hstack(picked), num_endmembers=3, seed=seed, **sizes)


def ds2_like(seed: int, quick: bool = False) -> Scene:
    """The paper's second generator: T = 15, 50 x 50 pixels, 198 bands, four bundles, 30 dB."""
    num_bands = 20 if quick else 198
    spectra, labels = earthlib(num_bands)
    rng = np.random.default_rng(seed)

    def draw() -> list[Array]:
        bundles = []
        for name in CLASSES:
            members = spectra[:, labels == name]
            centre = members[:, [rng.integers(members.shape[1])]]
            nearest = np.argsort(np.linalg.norm(members - centre, axis=0), kind="stable")
            bundles.append(members[:, nearest[:BUNDLE_SIZE]])
        return bundles

    sizes = {"num_dates": 2, "height": 8, "width": 8} if quick else {"num_dates": 15}
    return bundle_scene(apart(draw), seed=seed, **sizes)


def published(name: str, folder: Path, quick: bool = False) -> Scene:
    """ds1 or ds2 of the data folder."""
    scene = load(name, folder).scene
    return corner(scene, 2, 8, 8) if quick else scene


def sentinel2(folder: Path, quick: bool = False) -> xr.DataArray:
    """Five Sentinel-2 dates of one place, 13 bands."""
    path = folder / "sentinel2_5dates.npy"
    cubes = as_cube_sequence(np.load(path), wavelength=SENTINEL2_BANDS)
    return cubes[:2, :8, :8] if quick else cubes


def earthlib(num_bands: int) -> tuple[Array, Array]:
    """Spectra (L, S) and classes (S,) of earthlib, at L places evenly over its own bands."""
    library = read_library("earthlib")
    own = np.arange(library.sizes["wavelength"])
    places = np.linspace(0, own[-1], num_bands)
    spectra = np.stack([np.interp(places, own, spectrum) for spectrum in library.values.T], axis=1)
    return spectra, library["label"].values


def apart(draw: Callable[[], Sequence[Array]]) -> Sequence[Array]:
    """The first draw of bundles (L, S_p) whose means are `LEAST_ANGLE` apart."""
    for _ in range(_TRIES):
        bundles = draw()
        means = np.stack([bundle.mean(1) for bundle in bundles], axis=1)
        units = means / np.linalg.norm(means, axis=0)
        cosines = (units.T @ units)[np.triu_indices(len(bundles), 1)]
        if np.arccos(cosines.clip(-1, 1)).min() >= LEAST_ANGLE:
            return bundles
    raise RuntimeError(
        f"no {len(bundles)} materials are {LEAST_ANGLE} rad apart: lower LEAST_ANGLE"
    )
