"""Endmember dynamics by a Kalman filter in every band, their parameters by EM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.classical import Input, chunks, fcls_of_date, read_input, to_result
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing
from pyro_unmix.start.extraction import match_endmembers, vca

_LEAST_NOISE = 1e-12  # of the mean square of the data: keeps noiseless images from a singular fit


@one_thread()
def kalman_em(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_iterations: int = 5,
    first_endmembers: ArrayLike | xr.DataArray | None = None,
    step_scale: float = math.sqrt(0.1),
    initial_scale: float = 1.0,
    noise_scale: float = 0.01,
) -> Unmixing:
    """Unmixing by a Kalman smoother of the endmembers and EM.

    Band by band, the endmembers of date t are those given, M0 (L, P), times a scaling that walks at random; while the
    scaling is estimated, the abundances A (P, N) are taken as constant in time::

        psi_lt = psi_l,t-1 + q_lt,   q_lt ~ N(0, Q_l),   psi_l0 ~ N(mu_l, P_l),   t = 1 ... T
        y_lt = A' diag(m0_l) psi_lt + r_lt,   r_lt ~ N(0, sigma^2 I),   for all pixels y_lt (N,)

    The bands are independent given the parameters, so that the filter is one of size P in each, exactly; all pixels
    enter through the sums ``A A'`` and ``A Y_t'``. Between one smoothing and the next, EM updates A (least squares,
    without constraints), Q_l, mu_l, P_l and sigma in closed form, from ``mu = 1`` and A by FCLS of each pixel's first
    observed date. The abundances of each date are FCLS with ``M_t = M0 * psi_t`` of the last smoothing.

    The scalings and the constant A explain changes of abundance as changes of the endmembers, so that more iterations,
    which always raise the evidence, need not improve the abundances. Two scenes of changing abundances, ds1 and ds2,
    from the endmembers with which the published program was measured (NRMSE_A .177 and .399 at its 5 iterations):

    ==========  ====  ====  ====  ====  ====  ====
    iterations     1     2     3     4     5     8
    ==========  ====  ====  ====  ====  ====  ====
    ds1         .201  .194  .204  .235  .373  .609
    ds2         .335  .343  .350  .359  .374  .434
    ==========  ====  ====  ====  ====  ====  ====

    So on ds1 this function is worse at the published number of iterations than the published program. That sees every
    25th pixel, keeps covariances between the bands, and leaves mu and P as they start; none of these alone explains it
    (five iterations with every 25th pixel: .292; with mu and P as they start: .373; with covariances between the
    bands: .335).

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : array (L, P), DataArray (wavelength, endmember) or library, optional
        M0. Default VCA of the spectra of all dates, which misses materials more often than `extract_endmembers` does.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of VCA; nothing else is random.
    progress : bool
        Show a bar over the iterations.
    num_iterations : int
        Smoothings, with an update of the parameters between one and the next.
    first_endmembers : array (L, P) or DataArray, optional
        Endmembers for the abundances that EM starts from, in the order of `endmembers`. By default, as published, VCA
        of that first date, in the order with the smallest spectral angles to `endmembers`; of a date with fewer than P
        observed spectra, `endmembers` themselves.
    step_scale, initial_scale, noise_scale : float
        Where EM starts: standard deviations of the elements of q and of psi_0, without units, and of r, reflectance.

    Returns
    -------
    Unmixing
        Without posterior of the abundances. `endmembers(time)` is M_t, alike for all pixels of a date, and may be
        negative: nothing in the method forbids it. `losses` is the negative log evidence ``-log p(Y; A, Q, mu, P,
        sigma)`` per observed value at each smoothing, exact; EM never raises it. Missing pixel-dates are left out of
        all sums and stay missing: their abundances are NaN. The endmembers of a date without any observed pixel are
        filled in by the smoother.

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or a setting are not as described.

    References
    ----------
    Borsoi, Imbiriba, Closas, Bermudez, Richard, "Kalman filtering and expectation maximization for multitemporal
    spectral unmixing", IEEE GRSL, 2020. The default settings are published; the publication has one filter of size L
    P, without the zeros that make it fall apart into bands, and few of the pixels.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.methods.kalman_em(scene.cubes, num_endmembers=3, progress=False)
    <Unmixing by kalman_em (time: 2, y: 10, x: 10, endmember: 3)>
    """
    num_iterations = positive_int(num_iterations, "num_iterations")
    scales = {"step": step_scale, "initial": initial_scale, "noise": noise_scale}
    for name, scale in scales.items():
        in_range(scale, f"{name}_scale", 0.0, open_low=True)
    given = read_input(cubes, num_endmembers, endmembers, seed, ignore)

    first = None
    if first_endmembers is not None:
        first = as_endmembers(first_endmembers, len(given.reference), name="first_endmembers")
        _check_same_count(first, given.reference)

    parameters = _start(given, first, seed, (initial_scale, step_scale, noise_scale))
    sums = collect(given, parameters.abundances)
    scaling = smooth(sums, parameters, given.reference)
    evidence = [scaling.log_evidence]
    with progress_bar(
        total=num_iterations, initial=1, shown=progress, desc="kalman_em", unit="iteration"
    ) as bar:
        for _ in range(1, num_iterations):
            parameters, sums = maximise(given, scaling)
            scaling = smooth(sums, parameters, given.reference)
            evidence.append(scaling.log_evidence)
            bar.update()

    by_date = given.reference * scaling.loc[1:]
    abundances = [
        fcls_of_date(given.pixels[:, time], given.valid[:, time], matrix)
        for time, matrix in enumerate(by_date)
    ]
    return judged(
        to_result(
            given.cubes,
            np.stack(abundances, axis=1),
            given.reference,
            given.names,
            by_date,
            losses=-np.array(evidence) / (given.valid.sum() * len(given.reference)),
            seed=seed,
            method="kalman_em",
        )
    )


@dataclass(frozen=True, eq=False)
class Parameters:
    """What EM estimates.

    Attributes
    ----------
    abundances : array (N, P)
        A', constant in time; 0 at pixels that are never observed.
    initial_loc, initial_covariance : array (L, P), (L, P, P)
        mu_l and P_l.
    step_covariance : array (L, P, P)
        Q_l.
    noise_variance : float
        sigma^2.
    """

    abundances: np.ndarray
    initial_loc: np.ndarray
    initial_covariance: np.ndarray
    step_covariance: np.ndarray
    noise_variance: float


@dataclass(frozen=True, eq=False)
class Sums:
    """All that the filters need of the images, over the observed pixels of each date.

    Attributes
    ----------
    gram : array (T, P, P)
        ``A A'``.
    cross : array (T, L, P)
        ``Y_t A'``, Y_t (L, N).
    energy : array (T, L)
        ``y_lt'y_lt``.
    count : array (T,)
        Observed pixels.
    """

    gram: np.ndarray
    cross: np.ndarray
    energy: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class Scaling:
    """The posterior of the scalings given the parameters; date 0 is the one before the first.

    Attributes
    ----------
    loc, covariance : array (T+1, L, P), (T+1, L, P, P)
        Mean and covariance of psi_lt given all dates.
    lag_covariance : array (T, L, P, P)
        ``cov(psi_l,t+1, psi_lt)``, t = 0 ... T-1.
    log_evidence : float
        ``log p(Y)``.
    """

    loc: np.ndarray
    covariance: np.ndarray
    lag_covariance: np.ndarray
    log_evidence: float


def collect(given: Input, abundances: np.ndarray) -> Sums:
    """The sums over pixels for the abundances (N, P)."""
    num_dates, num_bands = given.pixels.shape[1:]
    size = abundances.shape[1]
    cross = np.zeros((num_dates, num_bands, size))
    energy = np.zeros((num_dates, num_bands))
    for time in range(num_dates):
        for part, spectra in chunks(given.pixels[:, time]):  # missing ones are 0
            cross[time] += spectra.T @ abundances[part]
            energy[time] += np.einsum("nl,nl->l", spectra, spectra)
    weights = given.valid.astype(np.float64).T
    gram = np.stack([abundances.T @ (weight[:, None] * abundances) for weight in weights])
    return Sums(gram, cross, energy, given.valid.sum(axis=0))


def smooth(sums: Sums, parameters: Parameters, reference: np.ndarray) -> Scaling:
    """Kalman filter, Rauch-Tung-Striebel smoother and log evidence, for all bands at once.

    In information form: the pixels of a date act through ``J = diag(m0) A A' diag(m0) / sigma^2``
    and ``h = diag(m0) A y / sigma^2`` (P x P and P in each band), at a cost that does not grow with
    their number.
    """
    variance = parameters.noise_variance
    loc, covariance = parameters.initial_loc, parameters.initial_covariance
    filtered, predicted = [(loc, covariance)], []
    log_evidence = 0.0
    for gram, cross, energy, count in zip(
        sums.gram, sums.cross, sums.energy, sums.count, strict=True
    ):
        covariance = covariance + parameters.step_covariance
        predicted.append(covariance)
        information = reference[:, :, None] * gram * reference[:, None, :] / variance
        pull = reference * cross / variance
        # covariance = root root', and the update (covariance^-1 + J)^-1 = root inner^-1 root'
        root = _square_root(covariance)
        inner = np.eye(gram.shape[-1]) + _transposed(root) @ information @ root
        covariance = root @ np.linalg.solve(inner, _transposed(root))
        surprise = pull - _times(information, loc)  # A(y - E[y]) / sigma^2
        quadratic = energy / variance - _dot(loc, pull + surprise)
        correction = _times(covariance, surprise)
        log_det = np.linalg.slogdet(inner)[1] + count * math.log(2 * math.pi * variance)
        log_evidence -= 0.5 * float(np.sum(log_det + quadratic - _dot(surprise, correction)))
        loc = loc + correction
        filtered.append((loc, covariance))

    locs, covariances, lags = [loc], [covariance], []
    for (loc, covariance), ahead in zip(filtered[-2::-1], predicted[::-1], strict=True):
        gain = covariance @ np.linalg.pinv(ahead, hermitian=True)
        lags.append(covariances[-1] @ _transposed(gain))
        locs.append(loc + _times(gain, locs[-1] - loc))
        covariances.append(covariance + gain @ (covariances[-1] - ahead) @ _transposed(gain))
    locs, covariances, lags = locs[::-1], covariances[::-1], lags[::-1]
    return Scaling(np.stack(locs), np.stack(covariances), np.stack(lags), log_evidence)


def maximise(given: Input, scaling: Scaling) -> tuple[Parameters, Sums]:
    """The parameters of the largest expected complete log-likelihood, and the sums with them."""
    loc, covariance, lag = scaling.loc, scaling.covariance, scaling.lag_covariance
    change = np.diff(loc, axis=0)
    steps = _outer(change) + covariance[1:] + covariance[:-1] - lag - _transposed(lag)

    spectra = given.reference * loc[1:]  # (T, L, P), expected M_t
    second = (
        np.einsum("lp,tlpq,lq->tpq", given.reference, covariance[1:], given.reference)
        + _transposed(spectra) @ spectra
    )  # expected M_t'M_t
    abundances = _least_squares(given, spectra, second)
    sums = collect(given, abundances)

    fitted = np.sum(sums.gram * second) - 2 * np.sum(sums.cross * spectra)
    size = sums.count.sum() * len(given.reference)
    variance = (sums.energy.sum() + fitted) / size
    least = _LEAST_NOISE * sums.energy.sum() / size
    parameters = Parameters(
        abundances=abundances,
        initial_loc=loc[0],
        initial_covariance=covariance[0],
        step_covariance=steps.mean(axis=0),
        noise_variance=max(float(variance), float(least)),
    )
    return parameters, sums


def _least_squares(given: Input, spectra: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Abundances (N, P) that minimise ``sum_t E||y_t - M_t a||^2`` over each pixel's dates."""
    abundances = np.zeros((len(given.pixels), spectra.shape[-1]))
    for time, matrix in enumerate(spectra):
        for part, values in chunks(given.pixels[:, time]):  # missing ones are 0
            abundances[part] += values @ matrix
    patterns, which = np.unique(given.valid, axis=0, return_inverse=True)
    grams = np.einsum("kt,tpq->kpq", patterns.astype(np.float64), second)
    # pinv: a pixel without a date has the gram 0, and keeps the abundances 0
    inverses = np.linalg.pinv(grams, hermitian=True)
    return np.einsum("npq,nq->np", inverses[which.reshape(-1)], abundances)


def _start(
    given: Input, first: np.ndarray | None, seed: int, scales: tuple[float, float, float]
) -> Parameters:
    """mu = 1, A by FCLS of each pixel's first observed date, and the scales of psi_0, q and r."""
    num_bands, size = given.reference.shape
    abundances = np.zeros((len(given.pixels), size))
    todo = np.ones(len(given.pixels), dtype=bool)
    for time, seen in enumerate(given.valid.T):
        rows = todo & seen
        if rows.any():
            matrix = _endmembers_of_date(given, time, seed) if first is None else first
            abundances[rows] = fcls_of_date(given.pixels[:, time], rows, matrix)[rows]
            todo &= ~seen
    eye = np.broadcast_to(np.eye(size), (num_bands, size, size))
    initial, step, noise = (scale**2 for scale in scales)
    return Parameters(abundances, np.ones((num_bands, size)), initial * eye, step * eye, noise)


def _endmembers_of_date(given: Input, time: int, seed: int) -> np.ndarray:
    """VCA of one date (L, P), the materials in the order of the reference."""
    size = given.reference.shape[1]
    rows = given.valid[:, time]
    if rows.sum() < size:
        return given.reference
    found = vca(given.pixels[rows, time], size, seed=seed)
    return found[:, match_endmembers(found, given.reference)]


def _check_same_count(first: np.ndarray, reference: np.ndarray) -> None:
    if first.shape != reference.shape:
        raise ValueError(
            f"first_endmembers must have one column per endmember, shape {reference.shape}, got "
            f"{first.shape}: pass the same materials in the same order"
        )


def _square_root(covariance: np.ndarray) -> np.ndarray:
    """``root root' = covariance``, also where it is singular."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(values.clip(min=0))[..., None, :]


def _transposed(matrices: np.ndarray) -> np.ndarray:
    return matrices.swapaxes(-1, -2)


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[..., None])[..., 0]


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.sum(left * right, axis=-1)


def _outer(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., :, None] * vectors[..., None, :]
