"""The four scenes of the accuracy benchmark, as `pyro_unmix.simulate.Scene`s with their truth.

The files are large or third-party and not part of the repository. Their folder is given by
``--data DIR`` or by the environment variable ``PYRO_UNMIX_DATA``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
import xarray as xr

from pyro_unmix.io import read_sequence
from pyro_unmix.simulate import Scene

Array = npt.NDArray[Any]
_ALL = slice(None)


@dataclass(frozen=True)
class Case:
    """A scene of the benchmark.

    Parameters
    ----------
    title : str
    scene : Scene
        The cubes and what is known about them.
    unit_maximum : bool
        The true abundances belong to endmembers scaled to maximum one (a real image with published
        references), so that the scale of the true endmembers means nothing.
    """

    title: str
    scene: Scene
    unit_maximum: bool = False


@dataclass(frozen=True, eq=False)
class _Scaled:
    """``M0[:, p]`` times a pixel's knots, linearly interpolated over bands spread over [0, 1]."""

    reference: Array  # (L, P)
    places: Array  # (knots,)
    knots: Array  # (T, H, W, P, knots)

    def __call__(self, time: int, rows: slice = _ALL) -> Array:
        bands = np.linspace(0, 1, len(self.reference))
        units = np.eye(len(self.places))
        hats = np.stack([np.interp(bands, self.places, unit) for unit in units])
        scaling = self.knots[time, rows].astype(float) @ hats  # (H, W, P, L)
        return scaling.swapaxes(-1, -2) * self.reference


@dataclass(frozen=True, eq=False)
class _Picked:
    """Column ``pick[t, y, x, p]`` of the bundle of material p."""

    bundles: tuple[Array, ...]  # P times (L, S)
    pick: Array  # (T, H, W, P)

    def __call__(self, time: int, rows: slice = _ALL) -> Array:
        pick = self.pick[time, rows]
        columns = [bundle.T[pick[..., p]] for p, bundle in enumerate(self.bundles)]
        return np.stack(columns, axis=-1).astype(float)


@dataclass(frozen=True, eq=False)
class _Same:
    """The reference spectra at every pixel."""

    reference: Array  # (L, P)
    shape: tuple[int, int]

    def __call__(self, time: int, rows: slice = _ALL) -> Array:
        height = len(range(*rows.indices(self.shape[0])))
        return np.broadcast_to(self.reference, (height, self.shape[1], *self.reference.shape))


@dataclass(frozen=True, eq=False)
class _Corner:
    """The upper left corner of another scene's endmembers."""

    whole: Callable[[int, slice], Array]
    shape: tuple[int, int]

    def __call__(self, time: int, rows: slice = _ALL) -> Array:
        height, width = self.shape
        return self.whole(time, slice(height))[rows, :width]


def data_folder(given: str | os.PathLike[str] | None) -> Path:
    """The folder with the scenes: the given one, else ``PYRO_UNMIX_DATA``.

    Raises
    ------
    SystemExit
        If neither is set or the folder is not there.
    """
    folder = given or os.environ.get("PYRO_UNMIX_DATA")
    if not folder:
        raise SystemExit("expected the data folder: pass --data DIR or set PYRO_UNMIX_DATA")
    if not Path(folder).is_dir():
        raise SystemExit(f"the data folder {folder} is not there: check --data, PYRO_UNMIX_DATA")
    return Path(folder)


def load(name: str, folder: Path) -> Case:
    """One of `CASES` by name."""
    return CASES[name](folder)


def corner(scene: Scene, num_dates: int, height: int, width: int) -> Scene:
    """The first dates, rows and columns of a scene."""
    part = {"time": slice(num_dates), "y": slice(height), "x": slice(width)}
    cubes = scene.cubes.isel(part)
    shape = (cubes.sizes["y"], cubes.sizes["x"])
    return replace(
        scene,
        cubes=cubes,
        abundances=scene.abundances.isel(part),
        variation=_Corner(scene.variation, shape),
    )


def _ds1(folder: Path) -> Case:
    with np.load(folder / "ds1.npz") as file:
        reference = file["M0"]
        variation = _Scaled(reference.astype(float), file["knots_x"], file["knots_y"])
        scene = _scene(file["Y"], file["A"], reference, variation)
    return Case("ds1", scene)


def _ds2(folder: Path) -> Case:
    with np.load(folder / "ds2.npz") as file:
        bundles = tuple(file[f"bundle_{p}"] for p in range(file["A"].shape[-1]))
        variation = _Picked(bundles, file["pick"])
        scene = _scene(file["Y"], file["A"], file["M0"], variation)
    return Case("ds2", scene)


def _jasper_ridge(folder: Path) -> Case:
    cubes = read_sequence(folder / "jasper_ridge_r198.mat")
    truth = scipy.io.loadmat(folder / "jasper_ridge_end4.mat")
    height, width = cubes.sizes["y"], cubes.sizes["x"]
    # Pixels are stored column by column.
    abundances = truth["A"].reshape(-1, height, width, order="F").transpose(1, 2, 0)
    names = [str(name.item()).split("-")[-1] for name in truth["cood"].ravel()]
    return _image("Jasper Ridge", cubes, abundances, truth["M"], names)


def _samson(folder: Path) -> Case:
    path = folder / "samson.mat"
    truth = scipy.io.loadmat(path, variable_names=["GT", "S_GT"])
    names = ["soil", "tree", "water"]
    return _image("Samson", read_sequence(path), truth["S_GT"], truth["GT"].T, names)


def _image(
    title: str, cubes: xr.DataArray, abundances: Array, reference: Array, names: list[str]
) -> Case:
    variation = _Same(reference.astype(float), abundances.shape[:2])
    scene = _scene(cubes, abundances[None], reference, variation, names)
    return Case(title, scene, unit_maximum=True)


def _scene(
    cubes: xr.DataArray | Array,
    abundances: Array,
    reference: Array,
    variation: Any,
    names: list[str] | None = None,
) -> Scene:
    labels = {"endmember": names or np.arange(reference.shape[1])}
    if not isinstance(cubes, xr.DataArray):
        cubes = xr.DataArray(cubes, dims=("time", "y", "x", "wavelength"), name="reflectance")
    return Scene(
        cubes=cubes,
        abundances=xr.DataArray(
            abundances, dims=("time", "y", "x", "endmember"), coords=labels, name="abundances"
        ),
        reference_endmembers=xr.DataArray(
            reference, dims=("wavelength", "endmember"), coords=labels, name="reference_endmembers"
        ),
        variation=variation,
    )


#: Name on the command line -> what loads the scene from the data folder.
CASES: dict[str, Callable[[Path], Case]] = {
    "ds1": _ds1,
    "ds2": _ds2,
    "jasper-ridge": _jasper_ridge,
    "samson": _samson,
}
