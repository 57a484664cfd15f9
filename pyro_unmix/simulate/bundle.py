"""The paper's second scene: endmembers drawn from bundles of spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from pyro_unmix.ops.checks import finite_array, positive_int
from pyro_unmix.simulate import materials
from pyro_unmix.simulate.maps import Array, abundance_maps, random_streams
from pyro_unmix.simulate.scene import ALL_ROWS, Scene, checked_sizes, observe
from pyro_unmix.simulate.signatures import coordinate, label_endmembers, library

_BUNDLE_SIZE = 120


@dataclass(frozen=True, eq=False)
class _Picked:
    """M_nt(:, p) = column ``pick[t, y, x, p]`` of the bundle of material p."""

    bundles: tuple[Array, ...]  # P times (L, S_p)
    pick: npt.NDArray[np.int32]  # (T, y, x, P)

    def __call__(self, time: int, rows: slice = ALL_ROWS) -> Array:
        chosen = [bundle.T[self.pick[time, rows, :, p]] for p, bundle in enumerate(self.bundles)]
        return np.stack(chosen, axis=-1)


def bundle_scene(
    bundles: Sequence[xr.DataArray | npt.ArrayLike] | None = None,
    *,
    num_dates: int = 15,
    height: int = 50,
    width: int = 50,
    num_endmembers: int | None = None,
    snr_db: float = 30.0,
    cloud_fraction: float = 0.0,
    seed: int = 0,
) -> Scene:
    """The paper's second scene: endmembers drawn from bundles of pure pixels.

    At each pixel and date each endmember is one spectrum of its bundle, drawn uniformly (Sec. VI-A,
    second data sequence). The reference endmembers are the means of the bundles.

    Parameters
    ----------
    bundles : sequence of arrays (L, S_p) or DataArrays, optional
        Pure spectra of each material, reflectance. A DataArray has the dim ``wavelength`` and one other; its name is
        that of the material. By default bundles are made from the built-in library by changes of illumination, slope
        and water content and by traces of a related material; those depend on the seed as well.
    num_dates, height, width : int
        Sizes T, H, W.
    num_endmembers : int, optional
        How many bundles are used, from the first; by default all of them, or four built-in ones.
    snr_db, cloud_fraction, seed
        As in `scaled_scene`.

    Raises
    ------
    ValueError, TypeError
        If a size, a share, the SNR or a bundle is not as stated.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.bundle_scene(num_dates=2, height=6, width=5, num_endmembers=3, seed=0)
    >>> dict(scene.abundances.sizes)
    {'time': 2, 'y': 6, 'x': 5, 'endmember': 3}
    """
    num_dates, height, width = checked_sizes(num_dates, height, width)
    streams = random_streams(seed)
    if bundles is None:
        count = 4 if num_endmembers is None else num_endmembers
        count = positive_int(count, "num_endmembers", minimum=2)
        spectra, reference = built_in_bundles(streams["bundles"], count)
    else:
        spectra, reference = _checked_bundles(bundles, num_endmembers)
    shape = (num_dates, height, width, len(spectra))
    sizes = [bundle.shape[1] for bundle in spectra]
    pick = streams["variability"].integers(0, sizes, size=shape, dtype=np.int32)
    return observe(
        abundance_maps(streams["abundances"], shape),
        reference,
        _Picked(spectra, pick),
        snr_db,
        cloud_fraction,
        streams,
    )


def built_in_bundles(
    rng: np.random.Generator, num_endmembers: int
) -> tuple[tuple[Array, ...], xr.DataArray]:
    """Bundles (L, S) of the first built-in materials, and their means."""
    names = list(materials.CURVES)
    _require_bundles(len(names), num_endmembers)
    nm = library()["wavelength"].values
    bundles = tuple(
        materials.bundle(name, nm, _BUNDLE_SIZE, rng) for name in names[:num_endmembers]
    )
    means = np.stack([spectra.mean(axis=1) for spectra in bundles], axis=1)
    return bundles, label_endmembers(means, names[:num_endmembers], nm)


def _require_bundles(available: int, num_endmembers: int) -> None:
    if available < num_endmembers:
        raise ValueError(
            f"num_endmembers must be at most the number of bundles, {available}, got "
            f"{num_endmembers}: pass more bundles or a smaller num_endmembers"
        )


def _checked_bundles(
    bundles: Sequence[xr.DataArray | npt.ArrayLike], num_endmembers: int | None
) -> tuple[tuple[Array, ...], xr.DataArray]:
    """Checked copies of the user's bundles; their means with names and wavelengths if known."""
    if isinstance(bundles, (str, Mapping, np.ndarray, xr.DataArray)):
        raise TypeError(
            "bundles must be a list with one array (L, S_p) per material, got "
            f"{type(bundles).__name__}"
        )
    bundles = list(bundles)
    count = positive_int(len(bundles), "the number of bundles", minimum=2)
    if num_endmembers is not None:
        count = positive_int(num_endmembers, "num_endmembers", minimum=2)
        _require_bundles(len(bundles), count)
    bundles = bundles[:count]
    spectra = [_spectra_of(bundle, f"bundles[{i}]") for i, bundle in enumerate(bundles)]
    names = [getattr(bundle, "name", None) for bundle in bundles]
    wavelengths = [nm for b in bundles if (nm := coordinate(b, "wavelength")) is not None]
    num_bands = sorted({len(values) for values in spectra})
    if len(num_bands) > 1:
        raise ValueError(f"bundles must have the same bands, got {num_bands} bands: resample them")
    if any(not np.array_equal(wavelengths[0], nm) for nm in wavelengths):
        raise ValueError("bundles must have the same wavelengths, got others: resample them")
    labels = None if None in names or len(set(names)) < len(names) else names
    means = np.stack([values.mean(axis=1) for values in spectra], axis=1)
    return tuple(spectra), label_endmembers(means, labels, wavelengths[0] if wavelengths else None)


def _spectra_of(bundle: xr.DataArray | npt.ArrayLike, what: str) -> Array:
    """A float64 copy (L, S) of the spectra of one material."""
    if isinstance(bundle, xr.DataArray):
        if bundle.ndim != 2 or "wavelength" not in bundle.dims:
            raise ValueError(
                f"{what} must have the dim 'wavelength' and one other, got {bundle.dims}: rename "
                "or select, for example x.rename(band='wavelength')"
            )
        bundle = bundle.transpose("wavelength", ...).to_numpy()
    values = finite_array(bundle, what, ndim=2).copy()
    if 0 in values.shape or not values.any(axis=0).all():
        raise ValueError(
            f"{what} must hold spectra that are not zero, one in each column, got shape "
            f"{values.shape}{' with a zero column: remove it' if values.size else ''}"
        )
    return values
