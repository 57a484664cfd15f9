"""Scenes of other kinds than the paper's: no pure pixel, and measured spectra that patches of pixels share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from _paper_scenes import CLASSES, apart, earthlib

from pyro_unmix import read_library
from pyro_unmix.simulate import Scene
from pyro_unmix.simulate.maps import abundance_maps, random_streams, smooth_fields
from pyro_unmix.simulate.scaled import Scaled, scaling_knots
from pyro_unmix.simulate.scene import ALL_ROWS, observe
from pyro_unmix.simulate.signatures import label_endmembers

Array = npt.NDArray[Any]

#: No abundance of `mix_like` is larger.
PUREST = 0.7
#: Classes of earthlib in `patch_like`, patches of an image, spectra that a class shows in it, and the share of them
#: that another takes the place of from date to date.
COVER = ("vegetation", "npv", "bare")
NUM_PATCHES, BUNDLE_SIZE, CHANGED = 25, 25, 0.5
ILLUMINATION = 0.08
_EVERY_OF_QUICK = 9


def mix_like(seed: int, quick: bool = False) -> Scene:
    """T = 6, 50 x 50 pixels, 224 bands, four materials, none purer than `PUREST`, half of ds1's variability, 30 dB."""
    shape = (2, 8, 8, 4) if quick else (6, 50, 50, 4)
    spectra, labels = earthlib(20 if quick else 224)
    streams = random_streams(seed)
    rng = streams["bundles"]
    picked = apart(
        lambda: [spectra[:, [rng.choice(np.flatnonzero(labels == name))]] for name in CLASSES]
    )
    reference = label_endmembers(np.hstack(picked), list(CLASSES))
    knots = 1 + (scaling_knots(streams["variability"], shape) - 1) / 2
    maps = _capped(abundance_maps(streams["abundances"], shape, log_scale=1.5))
    return observe(maps, reference, Scaled(reference.values, knots), 30.0, 0.0, streams)


def patch_like(seed: int, quick: bool = False) -> tuple[Scene, xr.DataArray]:
    """T = 5, 50 x 50 pixels, 180 bands, three classes of measured spectra, 28 dB; and the library of these classes.

    Every material has in each patch and at each date one measured spectrum of its class. The illumination is smooth.
    """
    shape = (2, 8, 8, 3) if quick else (5, 50, 50, 3)
    whole = read_library("earthlib")
    library = whole[:: _EVERY_OF_QUICK if quick else 1, np.isin(whole["label"], COVER)]
    streams = random_streams(seed)
    bundles = apart(lambda: _bundles(library, streams["bundles"]))
    rng = streams["variability"]
    patches = _patches(rng, *shape[1:3])
    picked = rng.integers(0, BUNDLE_SIZE, (shape[0], NUM_PATCHES, len(COVER)))
    for time in range(1, len(picked)):
        kept = rng.uniform(size=picked.shape[1:]) >= CHANGED
        picked[time] = np.where(kept, picked[time - 1], picked[time])
    light = 1 + ILLUMINATION * smooth_fields(rng, *shape[:3])

    def endmembers(time: int, rows: slice = ALL_ROWS) -> Array:
        chosen = picked[time][patches[rows]]
        spectra = [bundle.T[chosen[..., p]] for p, bundle in enumerate(bundles)]
        return np.stack(spectra, -1) * light[time, rows, :, None, None]

    means = np.stack([bundle.mean(1) for bundle in bundles], axis=1)
    reference = label_endmembers(means, list(COVER), library["wavelength"].values)
    maps = abundance_maps(streams["abundances"], shape, log_scale=2.0)
    return observe(maps, reference, endmembers, 28.0, 0.0, streams), library


def _capped(maps: Array) -> Array:
    """Maps whose largest abundance is at most `PUREST`, the others grown in proportion."""
    largest = maps.max(-1, keepdims=True)
    is_largest = maps == largest
    others = maps * (1 - PUREST) / (1 - largest).clip(1e-12)
    return np.where(largest > PUREST, np.where(is_largest, PUREST, others), maps)


def _bundles(library: xr.DataArray, rng: np.random.Generator) -> Sequence[Array]:
    """Of each class the spectra nearest to one of them."""
    found = []
    for name in COVER:
        members = library.values[:, library["label"].values == name]
        centre = members[:, [rng.integers(members.shape[1])]]
        nearest = np.argsort(np.linalg.norm(members - centre, axis=0), kind="stable")
        found.append(members[:, nearest[:BUNDLE_SIZE]])
    return found


def _patches(rng: np.random.Generator, height: int, width: int) -> Array:
    """Numbers (y, x) of the patches: the nearest of `NUM_PATCHES` random places."""
    places = rng.uniform(0, 1, (NUM_PATCHES, 2)) * (height, width)
    grid = np.stack(np.mgrid[:height, :width], -1)[..., None, :]
    return np.asarray(((grid - places) ** 2).sum(-1).argmin(-1))
