"""The spectra of a fan picture: collected, thinned, sorted by wavelength."""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from pyro_unmix.data.types import HasSpectra
from pyro_unmix.plots.reading import align_materials, missing_pixels

_Maps = TypeVar("_Maps", xr.DataArray, xr.Dataset)
#: Spectra behind the median and the 5-95 % band of a fan.
MAX_BAND_SPECTRA = 2_000
FEW_BANDS = 30  # fewer are those of a multispectral sensor, whose bands lie far apart by design


@dataclass(frozen=True)
class Fan:
    """Spectra of one picture, sorted by wavelength, with NaN in the gaps."""

    x: NDArray[np.floating]  # (L',)
    x_label: str
    spectra: NDArray[np.floating]  # (S, L', P), the thin lines
    quantiles: NDArray[np.floating]  # (3, L', P): 5 %, 50 %, 95 %
    reference: NDArray[np.floating] | None  # (L', P)
    truth: NDArray[np.floating] | None  # (3, L', P), or (1, L', P) for one set of spectra
    num_available: int


def make_fan(
    result: HasSpectra,
    truth: HasSpectra | xr.DataArray | None,
    maps: xr.DataArray,
    date: int | None,
    pixel: tuple[int, int] | None,
    num_spectra: int,
    seed: int,
) -> Fan:
    """Collect the spectra of one date over space or, with no date, of one pixel over time."""
    if isinstance(num_spectra, bool) or num_spectra < 1:
        raise ValueError(f"expected num_spectra of at least 1, got {num_spectra!r}")
    places, num_observed = _places(result, maps, date, pixel, seed)
    spectra, x = _collect(result, maps, date, places, "result")
    bands = spectra.shape[1]
    order = np.random.default_rng(seed).permutation(len(spectra))
    band = np.percentile(spectra[order[:MAX_BAND_SPECTRA]], [5, 50, 95], axis=0)
    reference = getattr(result, "reference_endmembers", None)
    if reference is not None:
        reference = _spectral_set(reference, maps, bands, x, "`.reference_endmembers`")
    true_band = None
    if isinstance(truth, xr.DataArray):
        true_band = _spectral_set(truth, maps, bands, x, "truth")[None]
    elif truth is not None:
        true_spectra, true_x = _collect(truth, maps, date, places, "truth")
        if true_spectra.shape[1] != bands:
            raise ValueError(f"expected truth with {bands} bands, got {true_spectra.shape[1]}")
        _check_wavelengths(true_x, x, "truth")
        # The same pixels as those of the result's band, when none is left out.
        picked = order if len(true_spectra) == len(spectra) else slice(None)
        true_spectra = true_spectra[picked][:MAX_BAND_SPECTRA]
        true_band = np.percentile(true_spectra, [5, 50, 95], axis=0)
    axis = SpectralAxis.of(x, bands)
    return Fan(
        x=axis.values,
        x_label="band" if x is None else "wavelength (nm)",
        spectra=axis.place(spectra[order[:num_spectra]]),
        quantiles=axis.place(band),
        reference=None if reference is None else axis.place(reference[None])[0],
        truth=None if true_band is None else axis.place(true_band),
        num_available=num_observed or len(spectra),
    )


_Places: TypeAlias = "tuple[NDArray[np.integer], NDArray[np.integer]] | None"


def _places(
    result: HasSpectra,
    maps: xr.DataArray,
    date: int | None,
    pixel: tuple[int, int] | None,
    seed: int,
) -> tuple[_Places, int | None]:
    """Rows and columns of the pixels whose spectra are made, None for all, and of how many they were drawn.

    Of an image with more pixels than a band needs, the spectra of all would take memory in vain.
    """
    if pixel is not None:
        return (np.array([pixel[0]]), np.array([pixel[1]])), None
    if date is None or maps.sizes["y"] * maps.sizes["x"] <= MAX_BAND_SPECTRA:
        return None, None
    observed = ~missing_pixels(result, maps)[date]
    if not observed.any():  # filled by the model, or refused below
        observed[:] = True
    rows, columns = np.nonzero(observed)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(rows), min(MAX_BAND_SPECTRA, len(rows)), replace=False)
    return (rows[chosen], columns[chosen]), len(rows)


def _spectra_at(source: HasSpectra, date: int, places: _Places) -> xr.DataArray:
    """Endmembers (y, x, wavelength, endmember) of a date, those of chosen pixels in one row."""
    if places is None:
        return source.endmembers(date)
    dataset = getattr(source, "dataset", None)
    if isinstance(dataset, xr.Dataset) and is_dataclass(source) and {"y", "x"} <= set(dataset.dims):
        # Only these are made; `replace` keeps the kind of the result.
        parts: Any = {"dataset": _row_of(dataset, places)}
        parts |= {"cubes": None} if hasattr(source, "cubes") else {}
        return replace(source, **parts).endmembers(date)
    spectra = source.endmembers(date)
    return _row_of(spectra, places) if {"y", "x"} <= set(spectra.dims) else spectra


def _row_of(maps: _Maps, places: tuple[NDArray[np.integer], NDArray[np.integer]]) -> _Maps:
    """The chosen pixels as an image of one row, without its coordinates."""
    rows, columns = (xr.DataArray(part, dims="x") for part in places)
    maps = maps.drop_vars([name for name, c in maps.coords.items() if {"y", "x"} & set(c.dims)])
    if isinstance(maps, xr.DataArray):
        return maps.isel(y=rows, x=columns).expand_dims("y")
    flat = {
        name: array.isel(y=rows, x=columns).expand_dims("y") if "y" in array.dims else array
        for name, array in maps.data_vars.items()
    }
    return xr.Dataset(flat, attrs=maps.attrs)


def _collect(
    source: HasSpectra,
    maps: xr.DataArray,
    date: int | None,
    places: _Places,
    name: str,
) -> tuple[NDArray[np.floating], NDArray[np.floating] | None]:
    """Finite spectra ``(S, wavelength, endmember)`` of a source and their wavelengths."""
    if not callable(getattr(source, "endmembers", None)):
        raise TypeError(
            f"expected {name} with a method `.endmembers(time)`"
            f"{' or as a DataArray (wavelength, endmember)' if name == 'truth' else ''}, "
            f"got {type(source).__name__}"
        )
    dims = ("y", "x", "wavelength", "endmember")
    parts = []
    for t in range(maps.sizes["time"]) if date is None else [date]:
        spectra = _spectra_at(source, t, places)
        if set(spectra.dims) != set(dims):
            raise ValueError(f"expected endmembers of {name} with dims {dims}, got {spectra.dims}")
        parts.append(align_materials(spectra.transpose(*dims), maps))
    bands = parts[0].sizes["wavelength"]
    values = np.concatenate([p.values.reshape(-1, bands, p.sizes["endmember"]) for p in parts])
    values = values[np.isfinite(values).all(axis=(1, 2))]
    if not len(values):
        where = "" if date is None else f" at date {date}"
        raise ValueError(
            f"expected finite endmembers of the {name}{where}, got NaN in every spectrum; "
            "choose a date or pixel with valid data"
        )
    return values, _wavelengths(parts[0])


def _spectral_set(
    spectra: xr.DataArray,
    maps: xr.DataArray,
    bands: int,
    x: NDArray[np.floating] | None,
    name: str,
) -> NDArray[np.floating]:
    """One spectrum per material, ``(wavelength, endmember)``, in the result's order."""
    dims = ("wavelength", "endmember")
    if set(spectra.dims) != set(dims) or spectra.sizes["wavelength"] != bands:
        raise ValueError(
            f"expected {name} with dims {dims} and {bands} bands, got {dict(spectra.sizes)}"
        )
    _check_wavelengths(_wavelengths(spectra), x, name)
    return align_materials(spectra.transpose(*dims), maps).values


def _wavelengths(spectra: xr.DataArray) -> NDArray[np.floating] | None:
    return spectra.coords["wavelength"].values if "wavelength" in spectra.coords else None


def _check_wavelengths(
    got: NDArray[np.floating] | None, x: NDArray[np.floating] | None, name: str
) -> None:
    """Spectra go together by position: refuse those that are known to lie elsewhere."""
    if got is not None and x is not None and not np.allclose(got, x, rtol=1e-6):
        raise ValueError(
            f"expected {name} at the wavelengths of the endmembers ({x[0]:g}, ..., {x[-1]:g} nm), "
            f"in that order, got {got[0]:g}, ..., {got[-1]:g}; resample or reorder it"
        )


@dataclass(frozen=True)
class SpectralAxis:
    """Sorted wavelengths with one extra, empty place in every gap, which breaks the lines.

    A gap is wider than three median spacings. With fewer than `FEW_BANDS` bands there is none.
    """

    values: NDArray[np.floating]
    order: NDArray[np.integer]
    gaps: NDArray[np.integer]

    @classmethod
    def of(cls, x: NDArray[np.floating] | None, bands: int) -> SpectralAxis:
        raw = np.arange(bands, dtype=float) if x is None else np.asarray(x, dtype=float)
        order = np.argsort(raw, kind="stable")
        raw = raw[order]
        spacing = np.diff(raw)
        gaps = np.zeros(0, dtype=int)
        if bands >= FEW_BANDS:
            gaps = np.flatnonzero(spacing > 3 * np.median(spacing)) + 1
        middles = (raw[gaps - 1] + raw[gaps]) / 2
        return cls(np.insert(raw, gaps, middles), order, gaps)

    def place(self, spectra: NDArray[np.floating]) -> NDArray[np.floating]:
        """Sort ``(S, L, P)`` by wavelength and put NaN into the gaps: ``(S, L', P)``."""
        return np.insert(spectra[:, self.order].astype(float), self.gaps, np.nan, axis=1)
