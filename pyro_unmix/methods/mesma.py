"""MESMA: for every pixel the combination of library spectra, one of a class, that fits best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.members import (
    Members,
    blocks,
    lengths_of,
    read_members,
    to_library_result,
)
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.ops.checks import in_range, positive_int, true_or_false
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing

_BLOCK = 4_000  # spectra at once
_NUMBERS = 2**21  # fractions of models at once
_ADVICE = (
    "give a library that holds what is in them, shade=True where they are darker than it, normalize=True where they "
    "are brighter, or wider limits (min_fraction, max_fraction, max_shade)"
)


@dataclass(frozen=True)
class _Limits:
    """What a model's fractions of a pixel may be; see `mesma`."""

    min_fraction: float
    max_fraction: float
    shade: bool
    max_shade: float


@one_thread()
def mesma(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    num_classes: tuple[int, ...] | None = None,
    max_models: int = 1000,
    shade: bool = False,
    normalize: bool = False,
    min_fraction: float = -0.05,
    max_fraction: float = 1.05,
    max_shade: float = 0.8,
    max_rmse: float | None = None,
    gain: float = 0.007,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Multiple endmember spectral mixture analysis: in every pixel the best of many small models.

    A model is one library spectrum of each of k classes, E_m (L, k), solved for by least squares with fractions that
    sum to one, or with shade, whose fraction is what they lack of one::

        a = argmin ||y - E_m a||^2,   1'a = 1       or with shade   a = argmin ||y - E_m a||^2,   shade = 1 - 1'a
        RMSE = sqrt(||y - E_m a||^2 / L)

    Models whose fractions leave the limits do not count. Of each k the model with the smallest RMSE stays, and a
    larger k is taken where it lowers the RMSE by more than `gain`. It assumes that a class is in a pixel by one of its
    spectra, and no more classes than the RMSE asks for. Cost: 700 CPU s per million pixel-dates of 174 bands with
    1000 models of each set of two or three of three classes.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : library or array (L, P), optional
        As in `monte_carlo_sma`. Default: members are taken from the pixels that they then fit, so that the RMSE tells
        little.
    num_classes : tuple of int, optional
        The k to try; default 1 to P. The literature counts shade: its two-endmember models are ``k = 1`` with shade.
    max_models : int
        Models of each set of classes, drawn at random where there are more combinations.
    shade : bool
        Whether every model has shade, and fractions are scaled to one afterwards: it assumes that pixels are never
        brighter than the library.
    normalize : bool
        Whether spectra are scaled to length one while they are compared, as in `fcls`: for pixels that are brighter
        than the library, too. The limits are then of the fractions of these, the RMSE is of reflectance all the same.
    min_fraction, max_fraction, max_shade : float
        Limits, at most 0, at least 1 and at least 0; the defaults are those in use. With shade, it is at least
        `min_fraction`.
    max_rmse : float, optional
        Abundances of pixels that no model fits as well are NaN, as are those without a model within the limits; a
        warning counts both. In use is 0.025; default none.
    gain : float
        Reflectance; 0 for the best fit of all.
    uncertainty : array (L,) or DataArray with the dim wavelength, optional
        As in `fcls`, and so in the RMSE that `gain` and `max_rmse` are about; squared weights have the mean one.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of the models that are drawn.
    progress : bool
        Show a bar over blocks of spectra.

    Returns
    -------
    Unmixing
        ``dataset["library_fractions"]`` says which spectra were taken; a class that is not in the model is 0.

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or a setting are not as described.

    Examples
    --------
    >>> import numpy as np, xarray as xr, pyro_unmix as pu
    >>> spectra = np.array([[.1, .12, .5], [.2, .24, .4], [.3, .36, .2]])
    >>> library = xr.DataArray(spectra, dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["leaf", "leaf", "soil"])})
    >>> cubes = (spectra @ [0, .5, .5])[None, None]
    >>> result = pu.methods.mesma(cubes, endmembers=library, progress=False)
    >>> result.dataset["library_fractions"].values.round(2).ravel().tolist()
    [0.0, 0.5, 0.5]

    References
    ----------
    Roberts, Gardner, Church, Ustin, Scheer, Green, "Mapping chaparral in the Santa Monica Mountains using multiple
    endmember spectral mixture models", Remote Sensing of Environment 65(3), 1998; Roberts, Halligan, Dennison, VIPER
    Tools user manual, 2007 (limits and gain).
    """
    positive_int(max_models, "max_models")
    in_range(gain, "gain", low=0)
    if max_rmse is not None:
        in_range(max_rmse, "max_rmse", low=0, open_low=True)
    in_range(min_fraction, "min_fraction", high=0)
    in_range(max_fraction, "max_fraction", low=1)
    in_range(max_shade, "max_shade", low=0)
    true_or_false(shade, "shade")
    true_or_false(normalize, "normalize")
    given = read_members(cubes, num_endmembers, endmembers, seed, ignore)
    sizes = _sizes(num_classes, given.num_classes)
    limits = _Limits(min_fraction, max_fraction, shade, max_shade)
    models = {k: list(_models(given, k, max_models, seed)) for k in sizes}
    weights = band_weights(uncertainty, given.cubes)
    members = weights[:, None] * given.spectra
    fractions = np.full((*given.valid.shape, given.spectra.shape[1]), np.nan)
    total = int(given.valid.sum())
    with progress_bar(total=total, shown=progress, desc="mesma", unit="spectrum") as bar:
        for place, spectra in blocks(given.pixels, given.valid, _BLOCK):
            found, rmse = _best(weights * spectra, members, models, limits, gain, normalize)
            if max_rmse is not None:
                found[rmse > max_rmse] = np.nan
            fractions[place] = found
            bar.update(len(spectra))
    advice = _ADVICE if max_rmse is None else f"{_ADVICE}, or a larger max_rmse"
    return judged(to_library_result(given, fractions, advice=advice, seed=seed, method="mesma"))


def _sizes(num_classes: tuple[int, ...] | None, most: int) -> list[int]:
    if num_classes is None:
        return list(range(1, most + 1))
    sizes = sorted({positive_int(k, "num_classes") for k in np.atleast_1d(num_classes)})
    if not sizes or sizes[-1] > most:
        raise ValueError(
            f"num_classes must be numbers of classes from 1 to {most}, got {num_classes}"
        )
    return sizes


def _models(given: Members, size: int, most: int, seed: int) -> Iterator[np.ndarray]:
    """Of every set of classes the members of its models, (models, size)."""
    rng = np.random.default_rng([seed, size])
    for classes in combinations(range(given.num_classes), size):
        parts = [given.of_class(number) for number in classes]
        lengths = [len(part) for part in parts]
        total = int(np.prod(lengths, dtype=object))
        if total <= most:
            yield np.array(list(product(*parts)))
            continue
        chosen = rng.choice(total, most, replace=False) if total < 2**40 else None
        if chosen is None:  # so many that hardly any is drawn twice
            yield np.stack([rng.choice(part, most) for part in parts], axis=1)
            continue
        places = np.unravel_index(np.sort(chosen), lengths)
        yield np.stack([part[i] for part, i in zip(parts, places, strict=True)], axis=1)


def _best(
    spectra: np.ndarray,
    members: np.ndarray,
    models: dict[int, list[np.ndarray]],
    limits: _Limits,
    gain: float,
    normalize: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of all members (n, S) and RMSE (n,); NaN where no model is within the limits."""
    lengths, norms = np.ones(len(spectra)), np.ones(members.shape[1])
    if normalize:
        lengths, norms = lengths_of(spectra, axis=1), lengths_of(members, axis=0)
        spectra, members = spectra / lengths[:, None], members / norms
    gram, linear = members.T @ members, spectra @ members
    energy = np.square(spectra).sum(1)
    fractions, rmse = np.full_like(linear, np.nan), np.full(len(spectra), np.inf)
    for sets in models.values():
        cost = np.full(len(spectra), np.inf)
        mine = np.full_like(linear, np.nan)
        for indices in sets:
            step = max(1, _NUMBERS // (len(spectra) * indices.shape[1]))
            for start in range(0, len(indices), step):
                _improve(cost, mine, gram, linear, energy, indices[start : start + step], limits)
        own = lengths * np.sqrt(np.maximum(cost, 0) / spectra.shape[1])
        # The first model within the limits counts, however little it gains.
        taken = np.isfinite(own) & (own < rmse - gain)
        fractions[taken], rmse[taken] = mine[taken], own[taken]
    return fractions * lengths[:, None] / norms, rmse


def _improve(
    cost: np.ndarray,
    fractions: np.ndarray,
    gram: np.ndarray,
    linear: np.ndarray,
    energy: np.ndarray,
    indices: np.ndarray,
    limits: _Limits,
) -> None:
    """Take the best of some models (m, k) where it costs less than what there is."""
    grams = gram[indices[:, :, None], indices[:, None, :]]
    ridge = 1e-12 * grams.diagonal(axis1=1, axis2=2).mean(1)
    inverse = np.linalg.inv(grams + ridge[:, None, None] * np.eye(indices.shape[1]))
    projected = linear[:, indices]  # (n, m, k)
    found = np.matmul(projected.transpose(1, 0, 2), inverse)  # (m, n, k)
    if not limits.shade:
        # Lagrange: a = G^-1 (b + lambda 1), lambda from 1'a = 1
        ones = inverse.sum(2)
        lack = (1 - found.sum(2)) / ones.sum(1)[:, None]
        found += lack[:, :, None] * ones[:, None, :]
    costs = energy + np.einsum(
        "mnk,mnk->mn", found, np.matmul(found, grams) - 2 * projected.transpose(1, 0, 2)
    )
    low, high = found.min(2) < limits.min_fraction, found.max(2) > limits.max_fraction
    costs[low | high] = np.inf
    if limits.shade:
        dark = 1 - found.sum(2)
        costs[(dark < limits.min_fraction) | (dark > limits.max_shade)] = np.inf
    best = costs.argmin(0)
    rows = np.arange(len(energy))
    better = costs[best, rows] < cost
    rows, best = rows[better], best[better]
    cost[rows] = costs[best, rows]
    fractions[rows] = 0
    fractions[rows[:, None], indices[best]] = found[best, rows]
