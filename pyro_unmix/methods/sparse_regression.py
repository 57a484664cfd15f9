"""Sparse non-negative regression on a whole library, by the alternating direction method of multipliers."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import CubesLike
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.members import blocks, read_members, to_library_result
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing

_BLOCK = 10_000  # spectra at once
_BALANCE, _STEP = (
    10.0,
    2.0,
)  # between the residuals, and what the penalty is changed by; Boyd et al., eq. (3.13)
_EVERY = 10  # iterations between two looks at the residuals


@one_thread()
def sparse_regression(
    cubes: CubesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    sparsity: float = 1e-3,
    max_iterations: int = 2000,
    tolerance: float = 1e-5,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Fractions of all spectra of a library at once, few of them above zero: SUnSAL.

    ``min_x 1/2 ||y - E x||^2 + lambda ||x||_1`` subject to ``x >= 0``, by ADMM::

        x <- (E'E + mu I)^-1 (E'y + mu (z - d)),   z <- max(x + d - lambda / mu, 0),   d <- d + x - z

    for all pixels at once; mu is doubled or halved where one of the residuals ``||x - z||`` and ``mu ||z - z_old||``
    is ten times the other. The fraction of a class is the sum over its spectra, scaled to one: brightness is free (see
    `nnls`). It assumes that a pixel holds few spectra of the library, and the library what is in the pixels: no class
    is better represented than by its members. Cost: 9000 CPU s per million pixel-dates
    of 174 bands with 210 spectra that are much alike, by the square of their number.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : library or array (L, P), optional
        As in `monte_carlo_sma`; a library may have more spectra than there are bands.
    sparsity : float
        lambda, in reflectance squared: the price of a fraction, summed over bands as the squared error is.
    max_iterations : int
    tolerance : float
        Of ``||x - z||`` and ``||z - z_old||``, root mean square over the pixels and spectra of a block.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of pure pixels from the images, where no library is given.
    progress : bool
        Show a bar over blocks of spectra.

    Returns
    -------
    Unmixing
        ``dataset["library_fractions"]`` is x, ``dataset["brightness"]`` its sum. Pixels that hold nothing of the
        library are missing.

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
    >>> cubes = (spectra @ [0, .5, .5])[None, None]
    >>> result = pu.methods.sparse_regression(cubes, endmembers=library, sparsity=1e-6, progress=False)
    >>> result.dataset["library_fractions"].values[0, 0, 0, 2].round(2)
    0.5

    References
    ----------
    Bioucas-Dias, Figueiredo, "Alternating direction algorithms for constrained sparse regression: application to
    hyperspectral unmixing", WHISPERS 2010 (SUnSAL); Iordache, Bioucas-Dias, Plaza, "Sparse unmixing of hyperspectral
    data", IEEE TGRS 49(6), 2011; Boyd et al., "Distributed optimization and statistical learning via the alternating
    direction method of multipliers", 2011, Sec. 3.3 and 3.4.1.
    """
    in_range(sparsity, "sparsity", low=0)
    in_range(tolerance, "tolerance", low=0, open_low=True)
    positive_int(max_iterations, "max_iterations")
    given = read_members(cubes, num_endmembers, endmembers, seed, ignore)
    fractions = np.full((*given.valid.shape, given.spectra.shape[1]), np.nan)
    total = int(given.valid.sum())
    with tqdm(total=total, disable=not progress, desc="sparse_regression", unit="spectrum") as bar:
        for place, spectra in blocks(given.pixels, given.valid, _BLOCK):
            fractions[place] = sparse_fractions(
                spectra, given.spectra, sparsity, max_iterations, tolerance
            )
            bar.update(len(spectra))
    return judged(to_library_result(given, fractions, seed=seed, method="sparse_regression"))


def sparse_fractions(
    spectra: np.ndarray,
    members: np.ndarray,
    sparsity: float,
    max_iterations: int,
    tolerance: float,
) -> np.ndarray:
    """The minimiser (N, S) of spectra (N, L) and members (L, S); see `sparse_regression`."""
    # One eigendecomposition serves every mu.
    values, vectors = np.linalg.eigh(members.T @ members)
    linear = spectra @ members
    penalty = float(values.mean()) / 10
    z, scaled = np.zeros_like(linear), np.zeros_like(linear)
    for iteration in range(max_iterations):
        target = linear + penalty * (z - scaled)
        x = ((target @ vectors) / (values + penalty)) @ vectors.T
        before, z = z, np.maximum(x + scaled - sparsity / penalty, 0)
        scaled += x - z
        if iteration % _EVERY:
            continue
        apart, moved = (float(np.sqrt(np.mean(d**2))) for d in (x - z, z - before))
        if max(apart, moved) < tolerance:
            break
        if apart > _BALANCE * penalty * moved:
            penalty, scaled = penalty * _STEP, scaled / _STEP
        elif penalty * moved > _BALANCE * apart:
            penalty, scaled = penalty / _STEP, scaled * _STEP
    return z
