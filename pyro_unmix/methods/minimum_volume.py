"""Endmembers as the corners of the smallest simplex about the spectra, for scenes without pure pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence, to_pixels
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import count_materials, counted_bands, known_spectra
from pyro_unmix.methods.fcls import fcls
from pyro_unmix.methods.members import solve
from pyro_unmix.ops.checks import in_range, positive_int, true_or_false
from pyro_unmix.ops.least_squares import Fractions
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import extract_endmembers
from pyro_unmix.start.several_starts import smallest_simplex

_MOST_CONTRAST = 20  # of the brightest corner to the darkest
_LEAST = 1e-3  # reflectance: a corner beyond the data may come out negative
_MOST_SPECTRA = 20_000


@one_thread()
def minimum_volume(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    outside: float = 0.1,
    sum_to_one: bool = True,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Endmembers of the smallest simplex that holds nearly all spectra, then fully constrained least squares: SISAL.

    ``min_V log |det [V; 1']| + (P - 1) / outside mean_n sum_p max(-a_np, 0)`` over the corners V in the P - 1 leading
    principal components, a the barycentric coordinates (`smallest_simplex`); the abundances are those of `fcls` with
    these corners. No pixel need be pure, but each facet of the simplex needs some pixels that lack one material; noise
    and variability push the corners outwards.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them. Dates are pooled.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : array (L, P) or library, optional
        Where the search starts; default `extract_endmembers` without averaging.
    outside : float
        How many spectra may be outside: at the optimum ``mean_n sum_p [a_np < 0]`` is at most about `outside`.
    sum_to_one : bool
        Whether pixels are as bright as mixtures of the corners. Without it the brightness of every pixel is free, as in
        `fcls`: the simplex is that of ``y / u'y``, u the mean spectrum, in which light does not count and mixtures stay
        convex; corners are then as bright as it takes for fractions that sum to one on average. It assumes that the
        light of a pixel has nothing to do with what is in it. There is no shade of its own: a dark corner at zero would
        leave the sizes of the others open.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of the start, and of the choice of 20 000 spectra where there are more.
    progress : bool
        Show a bar over the dates.

    Returns
    -------
    Unmixing

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or a setting are not as described.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3], [.2, .6]])
    >>> share = np.linspace(.2, .8, 200)
    >>> cubes = np.stack([share, 1 - share], -1)[None] @ M.T
    >>> found = pu.methods.minimum_volume(cubes, 2, progress=False).abundances
    >>> float(found.min().round(1)), float(found.max().round(1))
    (0.0, 1.0)

    References
    ----------
    Bioucas-Dias, "A variable splitting augmented Lagrangian approach to linear spectral unmixing", WHISPERS 2009
    (SISAL), whose objective this is, in barycentric coordinates and by another optimiser.
    """
    seed = positive_int(seed, "seed", minimum=0)
    in_range(outside, "outside", low=0, open_low=True)
    true_or_false(sum_to_one, "sum_to_one")
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    sequence = as_cube_sequence(cubes)
    known = known_spectra(endmembers, sequence)
    count = count_materials(num_endmembers, known, minimum=2)
    if known is None:
        known = extract_endmembers.unchecked(sequence, count, window=1, seed=seed)
    pixels, valid = to_pixels(sequence)
    spectra = pixels[valid]
    chosen = np.random.default_rng(seed).permutation(len(spectra))[:_MOST_SPECTRA]
    start = as_endmembers(known, sequence.sizes["wavelength"])
    find = _corners if sum_to_one else _corners_in_any_light
    corners = find(spectra[chosen].astype(np.float64), start, outside).clip(_LEAST, None)
    named = known.copy(data=corners) if isinstance(known, xr.DataArray) else corners
    result = fcls(sequence, endmembers=named, sum_to_one=sum_to_one, seed=seed, progress=progress)
    return replace(result, method="minimum_volume")


def _corners(spectra: np.ndarray, start: np.ndarray, outside: float) -> np.ndarray:
    return smallest_simplex(spectra, start, outside=outside)


def _corners_in_any_light(spectra: np.ndarray, start: np.ndarray, outside: float) -> np.ndarray:
    """Corners (L, P) of spectra (N, L) whose brightness tells nothing."""
    mean = spectra.mean(axis=0)
    lit = spectra @ mean > 0
    spectra = spectra[lit]
    level = smallest_simplex(
        spectra / (spectra @ mean)[:, None], start / (mean @ start), outside=outside
    )
    free = Fractions(sum_to_one=False)
    amounts = solve(spectra, level, free)
    # amounts / brightness are fractions, which sum to one on average
    inverse = solve(np.ones((1, len(amounts))), amounts, free)[0]
    return level / inverse.clip(inverse.max() / _MOST_CONTRAST)
