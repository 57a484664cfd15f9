"""Least squares with members of the classes drawn at random, many times: mean and spread of the fractions."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.members import (
    Members,
    blocks,
    class_sums,
    read_members,
    scaled_to_one,
    solve,
    to_library_result,
)
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.ops.checks import positive_int, true_or_false
from pyro_unmix.ops.least_squares import Fractions
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing

_BLOCK = 20_000  # spectra at once


@one_thread()
def monte_carlo_sma(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    num_draws: int = 50,
    num_members: int = 1,
    sum_to_one: bool = True,
    shade: bool = False,
    normalize: bool = False,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Fractions of classes by least squares with members drawn at random: their mean and standard deviation.

    Draw d takes members ``E_d`` of every class and solves ``min_x ||y - E_d x||^2``, ``x >= 0``, ``1'x = 1``, for all
    pixels; the fraction of a class is the sum over its members. The abundance is the mean over the draws, its std that
    of the draws; draws whose fractions are all zero, which a free sum or shade allow, do not count. It assumes that any
    member of a class is as likely in a pixel as any other, whatever the pixel looks like: the std says how much the
    library leaves open, not what the spectrum of the pixel rules out, and is mostly wider than the error. Cost: 130 CPU
    s per million pixel-dates of 174 bands with 50 draws of three classes.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : library or array (L, P), optional
        A DataArray with the coordinate ``label``, see `read_library`. Spectra without classes are one member each.
        Default: pure pixels of the images, see `extract_bundles`.
    num_draws : int
    num_members : int
        Members of each class in a draw; of a smaller class all.
    sum_to_one, shade, normalize : bool
        As in `fcls`.
    uncertainty : array (L,) or DataArray with the dim wavelength, optional
        As in `fcls`.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of the draws, which are the same for all pixels.
    progress : bool
        Show a bar over the draws.

    Returns
    -------
    Unmixing
        With `abundances_std`; ``dataset["library_fractions"]`` is the mean fraction of every member. Abundances of
        pixels that no draw has a fraction of are NaN, and a warning counts these.

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or a setting are not as described.

    Examples
    --------
    >>> import numpy as np, xarray as xr, pyro_unmix as pu
    >>> spectra = np.array([[.1, .12, .5], [.2, .24, .4], [.3, .36, .3]])
    >>> library = xr.DataArray(spectra, dims=("wavelength", "endmember"),
    ...                        coords={"label": ("endmember", ["leaf", "leaf", "soil"])})
    >>> result = pu.methods.monte_carlo_sma(spectra[None, None, :, 2], endmembers=library, progress=False)
    >>> result.abundances.values.round(2).ravel().tolist()
    [0.0, 1.0]

    References
    ----------
    Asner, Lobell, "A biogeophysical approach for automated SWIR unmixing of soils and vegetation", Remote Sensing of
    Environment 74(1), 2000 (AutoMCU); Ochoa et al., SpectralUnmixing.jl, for EMIT's fractional cover.
    """
    positive_int(num_draws, "num_draws")
    positive_int(num_members, "num_members")
    how = Fractions(sum_to_one, shade=shade)
    true_or_false(normalize, "normalize")
    given = read_members(cubes, num_endmembers, endmembers, seed, ignore)
    rng = np.random.default_rng(seed)
    weights = band_weights(uncertainty, given.cubes)
    members = weights[:, None] * given.spectra
    draws = [_draw(given, num_members, rng) for _ in range(num_draws)]
    shape = given.valid.shape
    fractions = np.full((*shape, given.spectra.shape[1]), np.nan)
    mean, std = (np.full((*shape, given.num_classes), np.nan) for _ in range(2))
    total = num_draws * int(np.ceil(given.valid.sum() / _BLOCK))
    with progress_bar(total=total, shown=progress, desc="monte_carlo_sma", unit="draw") as bar:
        for place, spectra in blocks(given.pixels, given.valid, _BLOCK):
            weighted = weights * spectra
            sums = np.zeros((len(spectra), given.spectra.shape[1]))
            first, second = (np.zeros((len(spectra), given.num_classes)) for _ in range(2))
            counted = np.zeros((len(spectra), 1))
            for chosen in draws:
                found = np.zeros_like(sums)
                found[:, chosen] = solve(weighted, members[:, chosen], how, normalize)
                shares, total_of = scaled_to_one(class_sums(found, given))
                lit = np.isfinite(total_of)[:, None]
                shares = np.where(lit, shares, 0)
                counted += lit
                sums += found
                first += shares
                second += shares**2
                bar.update()
            counted[counted == 0] = np.nan
            fractions[place] = sums / counted
            mean[place] = first / counted
            std[place] = np.sqrt(np.maximum(second / counted - mean[place] ** 2, 0))
    return judged(
        to_library_result(
            given, fractions, abundances=mean, std=std, seed=seed, method="monte_carlo_sma"
        )
    )


def _draw(given: Members, num_members: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of some members of every class."""
    parts = [given.of_class(number) for number in range(given.num_classes)]
    return np.concatenate([rng.choice(p, min(num_members, len(p)), replace=False) for p in parts])
