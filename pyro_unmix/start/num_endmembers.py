"""How many materials? Subspace dimensions (HySime, HFC), and the likelihood of our own mixing model."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

from pyro_unmix.data.cubes import valid_spectra
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.checks import choice, in_range, positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start import choice as choices

logger = logging.getLogger(__name__)

choose_start = choices.choose_start.unchecked

METHODS = ("likelihood", "hysime", "hfc", "nwhfc")

#: What one more material must add to a spectrum's log-likelihood: Akaike's one per free parameter.
MIN_GAIN = 1.0


@takes_images
@one_thread()
def estimate_num_endmembers(
    cubes: xr.DataArray,
    method: str = "likelihood",
    *,
    max_endmembers: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Number of materials in a sequence.

    The subspace methods count every direction in which the spectra vary beyond the noise, so that each component of
    endmember variability counts as a material. ``"likelihood"`` looks for materials under variability: `choose_start`
    (the start of `unmix`) is run for P = 2, 3, ...; it integrates the variability out and solves for the abundances. A
    material more is one free abundance more per spectrum; by Akaike's criterion it must raise the log-likelihood of a
    spectrum (the median over spectra) by more than one. The first P whose successor does not is returned.

    Limits of the likelihood: it stops at the first P that gains nothing, so that an unlucky start can hide materials
    (five bundles were taken for two); materials that are rare, or hardly pure anywhere, do not move the median; scenes
    below some 400 pixel-dates give too few pure neighbourhoods; on real images, where materials are a matter of
    definition, crops and subsets of bands can change it by one or two. Look at the maps for P - 1 and P + 1 too.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    method : {"likelihood", "hysime", "hfc", "nwhfc"}
        ``"hysime"``: `hysime`. ``"hfc"``: `virtual_dimensionality`; ``"nwhfc"``: the same after noise whitening.
    max_endmembers : int
        The likelihood is tried up to this number, at most the number of bands; it costs a `choose_start` for each.
    seed : int
        Of `choose_start`.
    progress : bool
        Show a bar over the numbers that are tried.

    References
    ----------
    Akaike, "A new look at the statistical model identification", IEEE Trans. Automatic Control 19(6), 1974.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.estimate_num_endmembers(scene.cubes[..., ::8], max_endmembers=4, progress=False)
    3
    """
    if choice(method, "method", METHODS) == "hysime":
        return hysime.unchecked(cubes)
    if method != "likelihood":
        return virtual_dimensionality.unchecked(cubes, whiten=method == "nwhfc")
    bands = cubes.sizes["wavelength"]
    most = min(positive_int(max_endmembers, "max_endmembers", minimum=2), bands)
    previous = -np.inf
    counts = range(2, most + 1)
    for count in progress_bar(counts, shown=progress, desc="number of materials", unit="number"):
        try:
            start = choose_start(cubes, count, seed=seed, progress=False)
        except ValueError:
            if count == 2:
                raise
            return count - 1  # there are no more distinct spectra
        score = max(start.log_likelihoods.values()) * bands
        logger.info(
            "%d materials explain the spectra with a log-likelihood of %.2f each", count, score
        )
        if score - previous <= MIN_GAIN:
            return count - 1
        previous = score
    logger.warning(
        "the likelihood still grows at %d endmembers: raise max_endmembers, or choose a number",
        most,
    )
    return most


@takes_images
def hysime(cubes: xr.DataArray) -> int:
    """HySime: dimension of the signal subspace of least mean squared error.

    With the correlation matrices ``R_y`` of the spectra and ``R_n`` of the noise (regression of each band on the
    others) and the eigenvectors ``e_i`` of the signal's correlation ``R_x``, the directions with
    ``e_i' R_y e_i > 2 e_i' R_n e_i`` are counted: those whose power exceeds what noise they let in. As in the authors'
    program, 1e-5 of the signal's mean power per band is added to the noise.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files, with more valid spectra than bands.

    Returns
    -------
    int
        The number of materials where there is neither variability nor nonlinearity, their spectra are independent
        beyond the noise, and the noise is independent between bands.

    References
    ----------
    Bioucas-Dias, Nascimento, "Hyperspectral subspace identification", IEEE TGRS 46(8), 2008.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=4, height=14, width=14, seed=0)
    >>> 1 <= pu.start.hysime(scene.cubes) <= scene.cubes.sizes['wavelength']
    True
    """
    spectra = _spectra(cubes)
    count, bands = spectra.shape
    noise = _residuals(spectra)
    signal = spectra - noise
    correlation = signal.T @ signal / count
    variance = _noise_variance(noise) + 1e-5 * np.trace(correlation) / bands
    directions = np.linalg.eigh(correlation)[1]
    power = ((spectra @ directions) ** 2).mean(0)
    return int((power > 2 * variance @ directions**2).sum())


@takes_images
def virtual_dimensionality(
    cubes: xr.DataArray, false_alarm: float = 1e-3, *, whiten: bool = False
) -> int:
    """Virtual dimensionality of Harsanyi, Farrand and Chang (HFC), or with noise whitening (NWHFC).

    Where there is only noise, the l-th eigenvalues of correlation ``r_l`` and covariance ``k_l`` are equal. Counted
    are those with ``r_l - k_l > -Phi^-1(P_F) sqrt(2 (r_l^2 + k_l^2) / N)``, a Neyman-Pearson test.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files, with more valid spectra than bands.
    false_alarm : float
        ``P_F`` of each test, in (0, 0.5).
    whiten : bool
        Divide each band by its noise std first.

    Returns
    -------
    int
        All differences together are only the energy of the mean spectrum: where materials mix evenly it hides most of
        them, and the count is too small.

    References
    ----------
    Chang, Du, "Estimation of number of spectrally distinct signal sources in hyperspectral imagery", IEEE TGRS 42(3),
    2004.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=4, height=14, width=14, seed=0)
    >>> 1 <= pu.start.virtual_dimensionality(scene.cubes) <= scene.cubes.sizes['wavelength']
    True
    """
    from statistics import NormalDist

    level = in_range(false_alarm, "false_alarm", 0.0, 0.5, open_low=True, open_high=True)
    spectra = _spectra(cubes)
    if whiten:
        spectra = spectra / np.sqrt(_noise_variance(_residuals(spectra)))
    correlation = spectra.T @ spectra / len(spectra)
    raw = np.linalg.eigvalsh(correlation)
    central = np.linalg.eigvalsh(np.cov(spectra, rowvar=False, bias=True))
    threshold = -NormalDist().inv_cdf(level) * np.sqrt(2 * (raw**2 + central**2) / len(spectra))
    return int((raw - central > threshold).sum())


def _spectra(cubes: xr.DataArray) -> np.ndarray:
    spectra = valid_spectra(cubes)
    count, bands = spectra.shape
    if count <= bands or bands < 2:
        raise ValueError(
            f"the noise is told from at least two bands and more spectra than bands, got {count} "
            f"valid spectra of {bands} bands: give num_endmembers as a number"
        )
    return spectra


def _residuals(spectra: np.ndarray) -> np.ndarray:
    """What the other bands do not explain of each band, (N, L), by one inverse: ``Y R^-1 / diag(R^-1)``."""
    moment = spectra.T @ spectra / len(spectra)
    ridge = 1e-10 * np.trace(moment) / len(moment)
    inverse = np.linalg.inv(moment + ridge * np.eye(len(moment)))
    return spectra @ inverse / np.diagonal(inverse)


def _noise_variance(residuals: np.ndarray) -> np.ndarray:
    """Variance per band, corrected for the degrees of freedom of the regression."""
    count, bands = residuals.shape
    return (residuals**2).sum(0) / (count - bands + 1)
