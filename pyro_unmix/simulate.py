"""Simulated sequences with known abundances and endmembers.

Two scenes follow Sec. VI-A of Borsoi et al., "Online multitemporal hyperspectral unmixing with
recurrent neural networks" (ReDSUNN), and one draws from a state-space model itself. All obey the
linear mixing model with endmembers of their own at each pixel n and date t, eq. (1):

    y_nt = M_nt a_nt + r_nt,   a_nt >= 0,   1' a_nt = 1.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft
import xarray as xr

from pyro_unmix import _spectra
from pyro_unmix._check import as_endmembers, finite_array, in_range, positive_int

__all__ = ["Scene", "bundle_scene", "library", "scaled_scene", "state_space"]

Array = npt.NDArray[np.float64]

# Statistics of the scenes; with them the abundances look like published test sequences of this
# kind: neighbours correlate by 0.9 or more, most pixels are nearly pure, a pixel changes by about
# 0.01 from date to date.
_CORRELATION_LENGTH = 0.08  # of the Gaussian kernel, as a share of the side of the scene
_LOG_ABUNDANCE_SCALE = 3.5  # large: pushes abundances toward the corners of the simplex
_DRIFT_SCALE = 0.16  # change of a log-abundance from one date to the next
_JUMP_PURITY = (0.6, 0.99)  # abundance of the dominant material after an abrupt change

_NUM_KNOTS = 6
_FIRST_SCALING = (0.85, 1.15)
_SCALING_STEP = 0.1
_SMALLEST_SCALING = 0.1

_BUNDLE_SIZE = 120

_ALL_ROWS = slice(None)
_LARGEST_BLOCK = 2**20  # numbers in the endmembers that are held at once while mixing


class StateSpaceModel(Protocol):
    """What `state_space` asks of a model."""

    def sample_sequence(
        self, num_pixels: int, num_dates: int, *, seed: int = 0
    ) -> Mapping[str, Any]:
        """Draw ``pixels`` (N, T, L), ``abundances`` (N, T, P) and ``variability`` (N, T, K, P)."""

    def mixing_endmembers(self, variability: Any) -> Any:
        """Map variability (..., K, P) to endmembers (..., L, P)."""


class _Variation(Protocol):
    """The true endmembers of one date and some rows of the image, (y, x, wavelength, endmember)."""

    def __call__(self, time: int, rows: slice = ...) -> Array: ...


@dataclass(frozen=True, eq=False)
class _Scaled:
    """M_nt(l, p) = M_0(l, p) times the linear interpolation of the knots at l."""

    reference: Array  # (L, P)
    knots: npt.NDArray[np.float32]  # (T, y, x, P, knot)

    def __call__(self, time: int, rows: slice = _ALL_ROWS) -> Array:
        interpolation = _linear_interpolation(len(self.reference), self.knots.shape[-1])
        scaling = self.knots[time, rows].astype(np.float64) @ interpolation.T
        return np.moveaxis(scaling, -1, -2) * self.reference


@dataclass(frozen=True, eq=False)
class _Picked:
    """M_nt(:, p) = column ``pick[t, y, x, p]`` of the bundle of material p."""

    bundles: tuple[Array, ...]  # P times (L, S_p)
    pick: npt.NDArray[np.int32]  # (T, y, x, P)

    def __call__(self, time: int, rows: slice = _ALL_ROWS) -> Array:
        chosen = [bundle.T[self.pick[time, rows, :, p]] for p, bundle in enumerate(self.bundles)]
        return np.stack(chosen, axis=-1)


@dataclass(frozen=True, eq=False)
class _FromModel:
    """Endmembers of a state-space model at the variability that it drew."""

    model: StateSpaceModel
    variability: Any  # (N, T, K, P), in the array type of the model
    shape: tuple[int, int]

    def __call__(self, time: int, rows: slice = _ALL_ROWS) -> Array:
        endmembers = _numpy(self.model.mixing_endmembers(self.variability[:, time]))
        return endmembers.reshape(*self.shape, *endmembers.shape[-2:])[rows]


@dataclass(frozen=True, eq=False)
class Scene:
    """A simulated sequence and its truth.

    The names are those of `Unmixing`, so that scores and plots read either.

    Attributes
    ----------
    cubes : DataArray (time, y, x, wavelength)
        Reflectance, float32; NaN where a cloud hides the pixel.
    abundances : DataArray (time, y, x, endmember)
        True abundances: not negative, sum to one; known under clouds as well.
    reference_endmembers : DataArray (wavelength, endmember)
        The spectra that the endmembers vary around.
    variation : callable
        Computes the endmembers of one date; read them through `endmembers`.
    noise_scale : float or None
        Standard deviation of the noise, in reflectance; None where the model drew the noise.
    """

    cubes: xr.DataArray
    abundances: xr.DataArray
    reference_endmembers: xr.DataArray
    variation: _Variation
    noise_scale: float | None = None

    @property
    def num_endmembers(self) -> int:
        """Number of materials, P."""
        return int(self.abundances.sizes["endmember"])

    def endmembers(self, time: int = 0) -> xr.DataArray:
        """True endmembers M_nt of every pixel at one date.

        Parameters
        ----------
        time : int
            Position of the date; negative positions count from the last.

        Returns
        -------
        DataArray (y, x, wavelength, endmember)
            Reflectance, computed at each call.

        Raises
        ------
        IndexError
            If there is no date at that position.
        """
        num_dates = self.cubes.sizes["time"]
        position = operator.index(time)
        if not -num_dates <= position < num_dates:
            raise IndexError(
                f"time must be the position of a date, 0 to {num_dates - 1}, got {position}"
            )
        reference = self.reference_endmembers
        return xr.DataArray(
            self.variation(position % num_dates),
            dims=("y", "x", "wavelength", "endmember"),
            coords={name: reference[name] for name in reference.coords},
            name="endmembers",
        )

    def reconstruct(self, time: int = 0) -> xr.DataArray:
        """The image of one date without noise and clouds, M_nt a_nt.

        Parameters
        ----------
        time : int
            Position of the date, as in `endmembers`.

        Returns
        -------
        DataArray (y, x, wavelength)
            Reflectance.
        """
        endmembers = self.endmembers(time)
        abundances = self.abundances.isel(time=time, drop=True)
        mixed = _mix(endmembers.values, abundances.values)
        return endmembers.isel(endmember=0, drop=True).copy(data=mixed).rename("reflectance")


def library(wavelength: npt.ArrayLike | None = None) -> xr.DataArray:
    """Reflectance curves of twelve materials, from formulas.

    Sums of sigmoids and Gaussians with the red edge of plants, the liquid-water bands near 1.4 and
    1.9 um, the clay band near 2.2 um and the carbonate band near 2.34 um. They are made to look
    like measured spectra and are none.

    Parameters
    ----------
    wavelength : array (L,), optional
        Wavelengths in nm, 350 to 2600, in any order; by default 224 bands from 400 to 2500 nm.

    Returns
    -------
    DataArray (wavelength, endmember)
        Reflectance between 0 and 1; ``endmember`` holds the names. Select materials with
        ``library().sel(endmember=["soil", "snow"])``.

    Raises
    ------
    ValueError
        If the wavelengths are not finite, not one-dimensional or out of range.
    """
    return _built_in_library(wavelength)


def scaled_scene(
    *,
    num_dates: int = 6,
    height: int = 50,
    width: int = 50,
    num_endmembers: int = 3,
    library: xr.DataArray | npt.ArrayLike | None = None,
    snr_db: float = 30.0,
    cloud_fraction: float = 0.0,
    seed: int = 0,
) -> Scene:
    """The paper's first scene: reference signatures with random piecewise-linear scaling.

    Endmember p of pixel n at date t is ``M_0[:, p] * s_npt``, where s_npt is piecewise linear over
    the bands: uniform in [0.85, 1.15] at the knots of the first date; each later date adds knots
    that are uniform in [-0.1, 0.1] (Sec. VI-A, first data sequence). A scaling that would fall
    below 0.1, which takes at least nine dates, is reflected there. Abundances are smooth maps that
    drift slowly and change abruptly in a few small rectangles at inner dates.

    Parameters
    ----------
    num_dates, height, width, num_endmembers : int
        Sizes T, H, W, P; at least two materials.
    library : DataArray (wavelength, endmember) or array (L, S), optional
        Reference signatures, of which the first ``num_endmembers`` are taken; by default the
        built-in ones.
    snr_db : float
        10 log10 of the mean square of the noise-free sequence over the noise variance; ``inf`` for
        no noise. The noise is white, Gaussian, and equally strong at all dates.
    cloud_fraction : float
        Share of each image that clouds hide, in [0, 1): those pixels are NaN in all bands.
    seed : int
        The scene is a function of the seed and the sizes; noise and clouds leave the truth as it
        is.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError, TypeError
        If a size, a share, the SNR or the library is not as stated.
    """
    num_dates, height, width = _sizes(num_dates, height, width)
    num_endmembers = positive_int(num_endmembers, "num_endmembers", minimum=2)
    reference = _reference(library, num_endmembers)
    streams = _streams(seed)

    knots = _scaling_knots(streams["variability"], (num_dates, height, width, num_endmembers))
    return _observe(
        _abundance_maps(streams["abundances"], (num_dates, height, width, num_endmembers)),
        reference,
        _Scaled(reference.values, knots),
        snr_db,
        cloud_fraction,
        streams,
    )


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
        Pure spectra of each material, reflectance. A DataArray has the dim ``wavelength`` and one
        other; its name is that of the material. By default bundles are made from the built-in
        library by changes of illumination, slope and water content and by traces of a related
        material; those depend on the seed as well.
    num_dates, height, width : int
        Sizes T, H, W.
    num_endmembers : int, optional
        How many bundles are used, from the first; by default all of them, or four built-in ones.
    snr_db, cloud_fraction, seed
        As in `scaled_scene`.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError, TypeError
        If a size, a share, the SNR or a bundle is not as stated.
    """
    num_dates, height, width = _sizes(num_dates, height, width)
    streams = _streams(seed)
    if bundles is None:
        count = 4 if num_endmembers is None else num_endmembers
        count = positive_int(count, "num_endmembers", minimum=2)
        spectra, reference = _built_in_bundles(streams["bundles"], count)
    else:
        spectra, reference = _given_bundles(bundles, num_endmembers)
    shape = (num_dates, height, width, len(spectra))

    sizes = [bundle.shape[1] for bundle in spectra]
    pick = streams["variability"].integers(0, sizes, size=shape, dtype=np.int32)
    return _observe(
        _abundance_maps(streams["abundances"], shape),
        reference,
        _Picked(spectra, pick),
        snr_db,
        cloud_fraction,
        streams,
    )


def state_space(
    model: StateSpaceModel,
    *,
    num_dates: int = 6,
    height: int = 30,
    width: int = 30,
    cloud_fraction: float = 0.0,
    seed: int = 0,
) -> Scene:
    """A scene drawn from the program that is fitted, pixel by pixel.

    Pixels are independent draws of the model, noise included, so nothing is smooth in space. The
    reference endmembers are those at zero variability (M_0 in eq. (7)).

    Parameters
    ----------
    model : object with ``sample_sequence`` and ``mixing_endmembers``
        ``sample_sequence(num_pixels, num_dates, seed=seed)`` returns a mapping with ``pixels`` (N,
        T, L), ``abundances`` (N, T, P) and ``variability`` (N, T, K, P); ``mixing_endmembers`` maps
        variability (..., K, P) to endmembers (..., L, P). The scene keeps a copy of the model, so
        that training it later leaves the truth as it is.
    num_dates, height, width : int
        Sizes T, H, W; the model draws N = H W pixels, in row-major order.
    cloud_fraction, seed
        As in `scaled_scene`; the seed is passed on to the model.

    Returns
    -------
    Scene
        With ``noise_scale`` None.

    Raises
    ------
    TypeError
        If the model lacks a method.
    ValueError
        If a draw lacks an entry or has another shape than stated.
    """
    for method in ("sample_sequence", "mixing_endmembers"):
        if not callable(getattr(model, method, None)):
            raise TypeError(
                f"model must have a method {method!r}, got {type(model).__name__}: pass a "
                "state-space model such as SGLMM(endmembers)"
            )
    num_dates, height, width = _sizes(num_dates, height, width)
    cloud_stream = _streams(seed)["clouds"]
    model = copy.deepcopy(model)
    draw = model.sample_sequence(height * width, num_dates, seed=seed)
    pixels, abundances, variability = _checked_draw(draw, height * width, num_dates)

    zero = variability[0, 0] * 0
    reference = _label_endmembers(_numpy(model.mixing_endmembers(zero)))
    cubes = pixels.reshape(height, width, num_dates, -1).transpose(2, 0, 1, 3).astype(np.float32)
    maps = abundances.reshape(height, width, num_dates, -1).transpose(2, 0, 1, 3)
    hidden = _clouds(cloud_stream, cloud_fraction, cubes.shape[:3])
    variation = _FromModel(model, variability, (height, width))
    return _assemble(cubes, maps.copy(), reference, variation, hidden, None)


def _observe(
    abundances: Array,
    reference: xr.DataArray,
    variation: _Variation,
    snr_db: float,
    cloud_fraction: float,
    streams: Mapping[str, np.random.Generator],
) -> Scene:
    """Mix, add noise at the SNR of the whole sequence, hide what is under clouds."""
    if snr_db != math.inf:  # no noise
        snr_db = in_range(snr_db, "snr_db", low=-100.0)
    hidden = _clouds(streams["clouds"], cloud_fraction, abundances.shape[:3])
    _, height, width, num_endmembers = abundances.shape
    cubes = np.empty((*abundances.shape[:3], reference.shape[0]), dtype=np.float32)
    step = max(1, _LARGEST_BLOCK // (width * reference.shape[0] * num_endmembers))
    power = 0.0
    for time, maps in enumerate(abundances):
        for first in range(0, height, step):
            rows = slice(first, first + step)
            mixed = _mix(variation(time, rows), maps[rows])
            power += float(np.sum(mixed**2)) / cubes.size
            cubes[time, rows] = mixed
    noise_scale = math.sqrt(power * 10.0 ** (-snr_db / 10.0))
    if noise_scale > 0:
        for cube in cubes:
            cube += noise_scale * streams["noise"].standard_normal(cube.shape, dtype=np.float32)
    return _assemble(cubes, abundances, reference, variation, hidden, noise_scale)


def _assemble(
    cubes: npt.NDArray[np.float32],
    abundances: Array,
    reference: xr.DataArray,
    variation: _Variation,
    hidden: npt.NDArray[np.bool_],
    noise_scale: float | None,
) -> Scene:
    cubes[hidden] = np.nan
    dates = np.arange(len(cubes))
    bands = {"wavelength": reference["wavelength"]} if "wavelength" in reference.coords else {}
    return Scene(
        xr.DataArray(
            cubes,
            dims=("time", "y", "x", "wavelength"),
            coords={"time": dates, **bands},
            name="reflectance",
        ),
        xr.DataArray(
            abundances,
            dims=("time", "y", "x", "endmember"),
            coords={"time": dates, "endmember": reference["endmember"]},
            name="abundances",
        ),
        reference,
        variation,
        noise_scale,
    )


def _mix(endmembers: Array, abundances: Array) -> Array:
    """M a for every pixel: (..., L, P) and (..., P) -> (..., L)."""
    return np.einsum("...lp,...p->...l", endmembers, abundances)


# Random maps


def _streams(seed: int) -> dict[str, np.random.Generator]:
    """One generator for each part of a scene, so that changing one part leaves the others alone."""
    seed = positive_int(seed, "seed", minimum=0)
    parts = ("abundances", "variability", "noise", "clouds", "bundles")
    children = np.random.SeedSequence(seed).spawn(len(parts))
    return {part: np.random.default_rng(child) for part, child in zip(parts, children, strict=True)}


def _smooth_fields(rng: np.random.Generator, count: int, height: int, width: int) -> Array:
    """Gaussian random fields (count, height, width) of variance one.

    They are white noise under a Gaussian kernel. The kernel works in the Fourier domain, where the
    field is periodic; a margin of five kernel widths is cut off so that opposite edges of the scene
    do not resemble each other.
    """
    length = max(1.0, _CORRELATION_LENGTH * math.sqrt(height * width))
    shape = [
        scipy.fft.next_fast_len(side + math.ceil(5 * length), real=True) for side in (height, width)
    ]
    rows = np.exp(-2.0 * (np.pi * length * np.fft.fftfreq(shape[0])) ** 2)
    columns = np.exp(-2.0 * (np.pi * length * np.fft.fftfreq(shape[1])) ** 2)
    white = rng.standard_normal((count, *shape))
    gain = rows[:, None] * columns[: shape[1] // 2 + 1]
    fields = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain, s=shape)
    variance = np.mean(rows**2) * np.mean(columns**2)
    return fields[:, :height, :width] / math.sqrt(variance)


def _abundance_maps(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Abundances (T, y, x, P): softmax of smooth drifting fields, with jumps at inner dates."""
    num_dates, height, width, num_endmembers = shape
    abundances = np.empty(shape)
    logits = _LOG_ABUNDANCE_SCALE * _smooth_fields(rng, num_endmembers, height, width)
    for time in range(num_dates):
        if time > 0:
            logits += _DRIFT_SCALE * _smooth_fields(rng, num_endmembers, height, width)
        if 0 < time < num_dates - 1:
            for _ in range(rng.integers(1, 3)):
                _change_abruptly(rng, logits)
        abundances[time] = np.moveaxis(_softmax(logits), 0, -1)
    return abundances


def _change_abruptly(rng: np.random.Generator, logits: Array) -> None:
    """Give one rectangle of ``logits`` (P, y, x) to a material that was scarce in it, in place."""
    num_endmembers, *sides = logits.shape
    spans = []
    for side in sides:
        extent = int(rng.integers(max(1, side // 10), max(1, side // 5) + 1))
        first = int(rng.integers(0, side - extent + 1))
        spans.append(slice(first, first + extent))
    patch = (slice(None), *spans)

    share = _softmax(logits[patch]).mean(axis=(1, 2))
    # The smallest of equal shares may exceed their rounded mean.
    scarce = np.flatnonzero(share <= max(share.mean(), share.min()))
    dominant = int(rng.choice(scarce))
    purity = rng.uniform(*_JUMP_PURITY)
    others = (1.0 - purity) * rng.dirichlet(np.ones(num_endmembers - 1))
    target = np.log(np.maximum(np.insert(others, dominant, purity), 1e-3))
    logits[patch] = (target - target.mean())[:, None, None]


def _softmax(logits: Array) -> Array:
    """Softmax over the first axis."""
    weights = np.exp(logits - logits.max(axis=0))
    return weights / weights.sum(axis=0)


def _clouds(
    rng: np.random.Generator, fraction: float, shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Compact clouds (T, y, x): the part of each date where a smooth field is highest."""
    fraction = in_range(fraction, "cloud_fraction", 0.0, 1.0, open_high=True)
    num_dates, height, width = shape
    # Rounding down keeps at least one pixel of every date.
    num_hidden = math.floor(fraction * height * width)
    hidden = np.zeros((num_dates, height * width), dtype=bool)
    if num_hidden > 0:
        fields = _smooth_fields(rng, num_dates, height, width).reshape(num_dates, -1)
        highest = np.argpartition(fields, -num_hidden, axis=1)[:, -num_hidden:]
        np.put_along_axis(hidden, highest, True, axis=1)
    return hidden.reshape(shape)


def _scaling_knots(
    rng: np.random.Generator, shape: tuple[int, int, int, int]
) -> npt.NDArray[np.float32]:
    """Knots (T, y, x, P, knot) of the scaling functions: a reflected random walk over dates."""
    knots = np.empty((*shape, _NUM_KNOTS), dtype=np.float32)
    walk = rng.uniform(*_FIRST_SCALING, size=knots.shape[1:])
    knots[0] = walk
    for time in range(1, len(knots)):
        walk = walk + rng.uniform(-_SCALING_STEP, _SCALING_STEP, size=walk.shape)
        walk = _SMALLEST_SCALING + np.abs(walk - _SMALLEST_SCALING)
        knots[time] = walk
    return knots


def _linear_interpolation(num_bands: int, num_knots: int) -> Array:
    """Matrix (L, knots) that interpolates knots over bands, both spread evenly over [0, 1]."""
    bands = np.linspace(0.0, 1.0, num_bands)
    places = np.linspace(0.0, 1.0, num_knots)
    return np.stack([np.interp(bands, places, unit) for unit in np.eye(num_knots)], axis=1)


# Spectra


def _built_in_library(wavelength: npt.ArrayLike | None = None) -> xr.DataArray:
    # Apart from `library`, whose name is also that of a parameter of `scaled_scene`.
    if wavelength is None:
        nm = np.linspace(400.0, 2500.0, 224)
    else:
        nm = finite_array(np.atleast_1d(wavelength), "wavelength", ndim=1).copy()
    shortest, longest = _spectra.RANGE_NM
    if nm.size == 0 or nm.min() < shortest or nm.max() > longest:
        came = f"{nm.min():g} to {nm.max():g}" if nm.size else "none"
        raise ValueError(
            f"wavelength must lie between {shortest:g} and {longest:g} nm, got {came}: multiply "
            "micrometres by 1000"
        )
    curves = np.stack([curve(nm) for curve in _spectra.CURVES.values()], axis=1)
    return _label_endmembers(curves, list(_spectra.CURVES), nm)


def _label_endmembers(
    spectra: Array, names: Any | None = None, wavelength: Any | None = None
) -> xr.DataArray:
    coords: dict[str, Any] = {"endmember": np.arange(spectra.shape[1]) if names is None else names}
    if wavelength is not None:
        attributes = {"units": "nm", "long_name": "wavelength"}
        coords["wavelength"] = ("wavelength", np.asarray(wavelength), attributes)
    return xr.DataArray(
        spectra, dims=("wavelength", "endmember"), coords=coords, name="reference_endmembers"
    )


def _coordinate(array: Any, name: str) -> npt.NDArray[Any] | None:
    known = isinstance(array, xr.DataArray) and name in array.coords
    return array[name].values if known else None


def _reference(spectra: xr.DataArray | npt.ArrayLike | None, num_endmembers: int) -> xr.DataArray:
    """The first signatures of a library, as a float64 copy with names and wavelengths."""
    first: xr.DataArray | Array
    if spectra is None:
        spectra = _built_in_library()
    if isinstance(spectra, xr.DataArray):
        # Fails in as_endmembers, with its error, where the dimension is missing.
        first = spectra.isel(endmember=slice(num_endmembers), missing_dims="ignore")
    else:
        first = finite_array(spectra, "library", ndim=2)[:, :num_endmembers]
    values = as_endmembers(first, name="library").copy()
    if values.shape[1] < num_endmembers:
        raise ValueError(
            f"library must hold num_endmembers={num_endmembers} spectra, got {values.shape[1]}: "
            "pass more spectra or a smaller num_endmembers"
        )
    return _label_endmembers(
        values, _coordinate(first, "endmember"), _coordinate(first, "wavelength")
    )


def _built_in_bundles(
    rng: np.random.Generator, num_endmembers: int
) -> tuple[tuple[Array, ...], xr.DataArray]:
    """Bundles (L, S) of the first built-in materials, and their means."""
    names = list(_spectra.CURVES)
    _require_bundles(len(names), num_endmembers)
    nm = _built_in_library()["wavelength"].values
    bundles = tuple(_spectra.bundle(name, nm, _BUNDLE_SIZE, rng) for name in names[:num_endmembers])
    means = np.stack([spectra.mean(axis=1) for spectra in bundles], axis=1)
    return bundles, _label_endmembers(means, names[:num_endmembers], nm)


def _require_bundles(available: int, num_endmembers: int) -> None:
    if available < num_endmembers:
        raise ValueError(
            f"num_endmembers must be at most the number of bundles, {available}, got "
            f"{num_endmembers}: pass more bundles or a smaller num_endmembers"
        )


def _given_bundles(
    bundles: Sequence[xr.DataArray | npt.ArrayLike], num_endmembers: int | None
) -> tuple[tuple[Array, ...], xr.DataArray]:
    """Checked copies of the user's bundles; their means with names and wavelengths if known."""
    if isinstance(bundles, (str, Mapping, np.ndarray, xr.DataArray)):
        raise TypeError(
            "bundles must be a list with one array (L, S_p) per material, got "
            f"{type(bundles).__name__}"
        )
    given = list(bundles)
    count = positive_int(len(given), "the number of bundles", minimum=2)
    if num_endmembers is not None:
        count = positive_int(num_endmembers, "num_endmembers", minimum=2)
        _require_bundles(len(given), count)

    spectra, names, known = [], [], []
    for position, bundle in enumerate(given[:count]):
        spectra.append(_given_bundle(bundle, f"bundles[{position}]"))
        names.append(getattr(bundle, "name", None))
        wavelength = _coordinate(bundle, "wavelength")
        if wavelength is not None:
            known.append(wavelength)
    num_bands = sorted({len(values) for values in spectra})
    if len(num_bands) > 1:
        raise ValueError(f"bundles must have the same bands, got {num_bands} bands: resample them")
    if any(not np.array_equal(known[0], wavelength) for wavelength in known):
        raise ValueError("bundles must have the same wavelengths, got others: resample them")
    labels = None if None in names or len(set(names)) < len(names) else names
    means = np.stack([values.mean(axis=1) for values in spectra], axis=1)
    return tuple(spectra), _label_endmembers(means, labels, known[0] if known else None)


def _given_bundle(bundle: Any, what: str) -> Array:
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


# Checks


def _sizes(num_dates: int, height: int, width: int) -> tuple[int, int, int]:
    return (
        positive_int(num_dates, "num_dates"),
        positive_int(height, "height"),
        positive_int(width, "width"),
    )


def _checked_draw(
    draw: Mapping[str, Any], num_pixels: int, num_dates: int
) -> tuple[Array, Array, Any]:
    """The three entries of a draw; variability stays in the array type of the model."""
    layouts = {"pixels": "(N, T, L)", "abundances": "(N, T, P)", "variability": "(N, T, K, P)"}
    for name, layout in layouts.items():
        if name not in draw:
            raise ValueError(
                f"sample_sequence must return an entry {name!r} {layout}, got {sorted(draw)}"
            )
        shape = tuple(draw[name].shape)
        if len(shape) != layout.count(",") + 1 or shape[:2] != (num_pixels, num_dates):
            raise ValueError(
                f"sample_sequence must return {name!r} as {layout} with N={num_pixels}, "
                f"T={num_dates}, got shape {shape}"
            )
    abundances, variability = _numpy(draw["abundances"]), draw["variability"]
    if hasattr(variability, "detach"):  # a tensor must not keep the graph of its draw
        variability = variability.detach()
    if variability.shape[-1] != abundances.shape[-1]:
        raise ValueError(
            "sample_sequence must return as many materials in 'variability' as in 'abundances', "
            f"{abundances.shape[-1]}, got {variability.shape[-1]}"
        )
    return _numpy(draw["pixels"]), abundances, variability


def _numpy(values: Any) -> Array:
    """A numpy array of a numpy array or a torch tensor, wherever it lives."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
