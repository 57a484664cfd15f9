"""Least squares date by date, fully constrained or not: what every other method is compared with."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence, to_pixels
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import count_materials, counted_bands, judged, known_spectra
from pyro_unmix.methods.classical import names_of, to_result
from pyro_unmix.methods.intimate import in_albedo
from pyro_unmix.methods.members import blocks, scaled_to_one, solve, warn_of_unfitted
from pyro_unmix.methods.weights import band_weights
from pyro_unmix.mixing import Hapke
from pyro_unmix.ops.checks import positive_int, true_or_false
from pyro_unmix.ops.least_squares import Fractions
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import match_endmembers, vca

_BLOCK = 50_000  # spectra at once


@one_thread()
def fcls(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    sum_to_one: bool = True,
    non_negative: bool = True,
    shade: bool = False,
    normalize: bool = False,
    mixing: Hapke | None = None,
    uncertainty: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
) -> Unmixing:
    """Abundances of every pixel-date by least squares, fully constrained unless asked otherwise.

    ``min_a ||y - M a||^2`` subject to ``a >= 0`` and ``1'a = 1``, or to one of them, or to ``1'a <= 1``. Without
    endmembers it is the baseline of the ReDSUNN paper: VCA finds M anew at every date, and the materials are put in
    the order of the first date by the smallest spectral angles.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : array (L, P), DataArray (wavelength, endmember) or library, optional
        The same spectra for all dates; of a library the means of its classes. Default VCA.
    sum_to_one : bool
        Whether fractions sum to one while they are solved for. Without it the brightness of every pixel is free, and
        they are scaled to one afterwards: this assumes that illumination and slope scale all materials of a pixel
        alike, and leaves a dark material and a bright one of its shape in less light undistinguished.
    non_negative : bool
        Whether they are kept from below zero.
    shade : bool
        Whether fractions sum to one at most, the rest being shade, which has no light; they are scaled to one
        afterwards. It assumes that pixels are never brighter than the endmembers. Not with ``sum_to_one=False``, which
        leaves their sum free.
    normalize : bool
        Whether spectra of pixels and endmembers are scaled to length one while they are compared, what many programs
        call brightness normalisation; fractions are converted back to areas. It assumes that unit spectra mix linearly
        with fractions that sum to one, which holds only roughly where endmembers differ in shape; exact for a free
        brightness is ``sum_to_one=False``, where normalising changes nothing.
    mixing : Hapke, optional
        Materials are grains of one powder, whose single-scattering albedos mix, and not areas, whose reflectances do:
        images and endmembers are converted to albedo. Fractions are of the grains' cross section, which
        `pyro_unmix.mixing.mass_fractions` converts.
    uncertainty : array (L,) or DataArray with the dim wavelength, optional
        Standard deviation of the reflectance of each band, see `read_uncertainty`: bands count by ``1 / s_l`` in all
        that is squared. One number a band for all pixels; a DataArray with more dims counts by its root mean square.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of VCA.
    progress : bool
        Show a bar over the dates.

    Returns
    -------
    Unmixing
        Without posterior. A missing pixel-date stays missing: its abundances are NaN. Endmembers that VCA found are
        `endmembers(time)`; `reference_endmembers` is their mean over the dates. Where fractions need not sum to one,
        ``dataset["brightness"]`` is what they summed to (1 - shade), `endmembers` are as bright as in the pixel, and
        abundances of pixels with a sum that is not positive are NaN, which a warning counts. A date with fewer observed
        spectra than P has no VCA endmembers: all of it is NaN. Of `mixing`, ``dataset`` and `cubes` hold albedos, and
        the methods that return spectra convert them back, see `Unmixing`.

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or the seed are not as described, or no date has P observed spectra.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])
    >>> cubes = 0.8 * np.array([[[.25, .75], [1, 0]]]) @ M.T
    >>> shaded = pu.methods.fcls(cubes, endmembers=M, shade=True, progress=False)
    >>> shaded.abundances.values.round(2).tolist()
    [[[[0.25, 0.75], [1.0, 0.0]]]]
    >>> shaded.dataset["brightness"].values.round(2).tolist()
    [[[0.8, 0.8]]]

    References
    ----------
    Heinz, Chang, "Fully constrained least squares linear spectral mixture analysis method for material quantification
    in hyperspectral imagery", IEEE TGRS 39(3), 2001; Nascimento, Bioucas-Dias, IEEE TGRS 43(4), 2005 (VCA).
    """
    if mixing is not None and uncertainty is not None:
        raise ValueError(
            "uncertainty is that of reflectances, not of the albedos of mixing: pass one of them"
        )
    if mixing is not None:
        return in_albedo(
            lambda albedo, spectra: fcls(
                albedo, num_endmembers, endmembers=spectra, sum_to_one=sum_to_one, non_negative=non_negative,
                shade=shade, normalize=normalize, seed=seed, progress=progress,
            ),
            mixing, cubes, endmembers, ignore,
        )  # fmt: skip
    seed = positive_int(seed, "seed", minimum=0)
    how = Fractions(sum_to_one, non_negative, shade)
    true_or_false(normalize, "normalize")
    cubes, endmembers = counted_bands(cubes, endmembers, ignore)
    sequence = as_cube_sequence(cubes)
    pixels, valid = to_pixels(sequence)
    spectra = known_spectra(endmembers, sequence)
    count = count_materials(num_endmembers, spectra, minimum=2)
    if spectra is None:
        by_date = _vca_by_date(pixels, valid, count, seed)
        reference = by_date[np.isfinite(by_date).all(axis=(1, 2))].mean(axis=0)
    else:
        reference = as_endmembers(spectra, sequence.sizes["wavelength"])
        by_date = np.broadcast_to(reference, (valid.shape[1], *reference.shape))

    weights = band_weights(uncertainty, sequence)
    fractions = np.full((*valid.shape, reference.shape[1]), np.nan)
    for date in progress_bar(range(len(by_date)), shown=progress, desc="fcls", unit="date"):
        if np.isfinite(by_date[date]).all():
            alone = valid[:, date : date + 1]
            for (rows, _), values in blocks(pixels[:, date : date + 1], alone, _BLOCK):
                weighted = values * weights, by_date[date] * weights[:, None]
                fractions[rows, date] = solve(*weighted, how, normalize)
    brightness, fitted = None, np.asarray(np.isfinite(fractions).all(-1))
    if normalize or shade or not sum_to_one:
        fractions, brightness = scaled_to_one(fractions)
        warn_of_unfitted(fractions, fitted)
    return judged(
        to_result(
            sequence, fractions, reference, names_of(spectra, count),
            by_date if spectra is None else None, brightness, fitted, seed=seed, method="fcls",
        )
    )  # fmt: skip


def _vca_by_date(pixels: np.ndarray, valid: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Endmembers (T, L, P) of each date in the order of the first; NaN where a date has too few."""
    num_dates, num_bands = pixels.shape[1:]
    by_date = np.full((num_dates, num_bands, count), np.nan)
    usable = np.flatnonzero(valid.sum(axis=0) >= count)
    if not usable.size:
        raise ValueError(
            f"VCA of {count} endmembers needs a date with {count} observed pixels, got at most "
            f"{valid.sum(axis=0).max()}: pass the spectra of the endmembers, or a smaller number"
        )
    for date in usable:
        found = vca(pixels[valid[:, date], date], count, seed=seed)
        if date != usable[0]:
            found = found[:, match_endmembers(found, by_date[usable[0]])]
        by_date[date] = found
    return by_date
