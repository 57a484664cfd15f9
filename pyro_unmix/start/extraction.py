"""Endmember extraction from image sequences, and matching of materials."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import valid_spectra
from pyro_unmix.data.libraries import at_bands_of, library_endmembers
from pyro_unmix.data.windows import window_mean
from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.checks import finite_array, positive_int
from pyro_unmix.ops.solvers import fcls
from pyro_unmix.ops.threads import one_thread

_MAX_SWEEPS = 20
_NUM_LENGTHS = 200  # pixels behind the brightness of an endmember that was found without it


def vca(spectra: ArrayLike, num_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """Vertex component analysis: P extreme spectra of a cloud.

    Projects the spectra on their P leading directions and perspectively on a hyperplane, then takes, P times, the
    spectrum that is most extreme along a random direction orthogonal to those found before. This is the paper's
    projective branch, which it uses above an SNR of 15 + 10 log10(P) dB; there is no other one here.

    Parameters
    ----------
    spectra : array, shape (N, L), reflectance
    num_endmembers : int
        P, at least 2, at most min(N, L).
    seed : int
        Of the random directions.

    Returns
    -------
    ndarray, shape (L, P)

    References
    ----------
    Nascimento, Bioucas-Dias, IEEE TGRS 43(4), 2005.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> spectra = np.array([[1, 0], [0, 1], [.5, .5]]) @ M.T
    >>> found = pu.start.vca(spectra, 2)
    >>> np.sort(found[0]).round(3).tolist()
    [0.1, 0.5]
    """
    array = _spectra(spectra, num_endmembers)
    return array[_vca_indices(_projected(array, num_endmembers), np.random.default_rng(seed))].T


def nfindr(spectra: ArrayLike, num_endmembers: int, *, seed: int = 0) -> np.ndarray:
    """N-FINDR: P spectra of the cloud that span the largest simplex in P-1 principal components.

    Starts from `vca`, whose parameters and result it has, and replaces one vertex at a time by the spectrum that
    enlarges the volume most, until none does.

    References
    ----------
    Winter, "N-FINDR: an algorithm for fast autonomous spectral end-member determination", Proc. SPIE 3753, 1999.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> spectra = np.array([[1, 0], [0, 1], [.5, .5]]) @ M.T
    >>> found = pu.start.nfindr(spectra, 2)
    >>> np.sort(found[0]).round(3).tolist()
    [0.1, 0.5]
    """
    array = _spectra(spectra, num_endmembers)
    start = _vca_indices(_projected(array, num_endmembers), np.random.default_rng(seed))
    indices, _ = _grow_simplex(_principal(array, num_endmembers - 1), start)
    return array[indices].T


@takes_images
@one_thread()
def extract_endmembers(
    cubes: xr.DataArray,
    num_endmembers: int | None = None,
    *,
    library: xr.DataArray | None = None,
    seed: int = 0,
    window: int = 3,
    num_starts: int = 8,
    num_average: int = 20,
    directions: int | None = None,
) -> xr.DataArray:
    """Reference endmembers of a sequence, robust against noise, variability and unlucky starts.

    Each date is averaged over a small window (within tiles, missing pixels left out), the dates are pooled, N-FINDR
    refines VCA from several starts, the largest simplex is kept, and each endmember becomes the mean of the averaged
    pixels with its largest FCLS abundances. With a library nothing is extracted: the endmembers are the mean spectra
    of its classes, at the bands of the cubes.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    num_endmembers : int
        P, at least 2; may be left out with a library.
    library : DataArray (wavelength, endmember) with the coordinate ``label``, optional
        See `read_library`.
    seed : int
        Of the starts.
    window : int
        Odd width of the spatial average, pixels; 1 for none.
    num_starts : int
        VCA starts.
    num_average : int
        Pixels averaged per endmember, at most.
    directions : int, optional
        Project the spectra on as many leading directions and scale them to length one, so that differences of
        brightness make no endmembers; each endmember then gets the median length of its pixels. P, or a few more
        where a material is weak.

    Returns
    -------
    DataArray (wavelength, endmember), reflectance

    Raises
    ------
    ValueError
        If there are fewer valid spectra or bands than endmembers, or fewer distinct ones, or if the library has
        another number of classes or lacks bands.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> found = pu.extract_endmembers(scene.cubes, 3)
    >>> dict(found.sizes)['endmember']
    3
    """
    if library is not None:
        return _of_library(cubes, num_endmembers, library)
    if num_endmembers is None:
        raise ValueError("expected a number of endmembers or a library: pass num_endmembers=")
    smooth = window_mean(cubes, window) if window != 1 else cubes
    spectra = _spectra(valid_spectra(smooth), num_endmembers)
    lengths = None
    if directions is not None:
        spectra, lengths = _unit_length(spectra, positive_int(directions, "directions"))
    scores = _principal(spectra, num_endmembers - 1)
    rng = np.random.default_rng(seed)
    # Volumes below this are rounding: the spectra lie in fewer dimensions.
    best, largest = None, (1e-7 * float(np.abs(spectra).max())) ** (num_endmembers - 1)
    projected = _projected(spectra, num_endmembers)
    for _ in range(positive_int(num_starts, "num_starts")):
        indices, volume = _grow_simplex(scores, _vca_indices(projected, rng))
        if volume > largest:
            best, largest = indices, volume
    if best is None:
        raise ValueError(
            f"found no {num_endmembers} distinct spectra in the cubes: lower num_endmembers"
        )
    matrix = _average_purest(spectra, spectra[best].T, positive_int(num_average, "num_average"))
    if lengths is not None:
        matrix = matrix * _typical_lengths(spectra, matrix, lengths)
    coords = {"wavelength": cubes["wavelength"]} if "wavelength" in cubes.coords else {}
    return xr.DataArray(
        matrix,
        dims=("wavelength", "endmember"),
        coords={**coords, "endmember": np.arange(num_endmembers)},
        name="endmembers",
        attrs={"long_name": "endmember reflectance", "units": "1"},
    )


def _unit_length(spectra: np.ndarray, directions: int) -> tuple[np.ndarray, np.ndarray]:
    """Spectra (N, L) in their leading directions and scaled to length one, and the lengths (N,)."""
    leading = np.linalg.eigh(spectra.T @ spectra)[1][:, -directions:]
    spectra = (spectra @ leading) @ leading.T
    lengths = np.linalg.norm(spectra, axis=1)
    return spectra / np.maximum(lengths, np.finfo(float).tiny)[:, np.newaxis], lengths


def _typical_lengths(units: np.ndarray, endmembers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Median length (P,) of the pixels with the largest FCLS abundances of each endmember."""
    abundances = fcls(torch.from_numpy(units), torch.from_numpy(endmembers)).numpy()
    count = min(_NUM_LENGTHS, len(units))
    purest = np.argsort(-abundances, axis=0, kind="stable")[:count]
    return np.median(lengths[purest], axis=0)


def _of_library(
    cubes: xr.DataArray, num_endmembers: int | None, library: xr.DataArray
) -> xr.DataArray:
    means = library_endmembers(at_bands_of(library, cubes))
    if num_endmembers not in (None, means.sizes["endmember"]):
        raise ValueError(
            f"num_endmembers is {num_endmembers}, but the library has the "
            f"{means.sizes['endmember']} classes {', '.join(means['endmember'].values)}: leave "
            "num_endmembers out, or select spectra from the library"
        )
    return means


def match_endmembers(estimated: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Which estimated endmember belongs to which reference, by the smallest total spectral angle.

    Parameters
    ----------
    estimated, reference : array (L, P) or DataArray (wavelength, endmember)

    Returns
    -------
    ndarray of int, shape (P,)
        ``estimated[:, order]`` lines up with `reference`.

    References
    ----------
    Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics 2, 1955.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> M = np.array([[.1, .5], [.2, .4], [.3, .3]])  # (L, P)
    >>> pu.match_endmembers(M[:, ::-1], M).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    ours = as_endmembers(estimated, name="estimated")
    theirs = as_endmembers(reference, name="reference")
    if ours.shape != theirs.shape:
        raise ValueError(
            f"estimated and reference must have the same (bands, endmembers), got {ours.shape} "
            f"and {theirs.shape}: select the same bands and materials"
        )
    ours = ours / np.linalg.norm(ours, axis=0)
    theirs = theirs / np.linalg.norm(theirs, axis=0)
    angles = np.arccos(np.clip(theirs.T @ ours, -1, 1))
    return linear_sum_assignment(angles)[1]


def _spectra(spectra: ArrayLike, num_endmembers: int) -> np.ndarray:
    array = finite_array(spectra, "spectra", ndim=2)
    positive_int(num_endmembers, "num_endmembers", minimum=2)
    if min(array.shape) < num_endmembers:
        raise ValueError(
            f"num_endmembers = {num_endmembers} needs at least as many valid spectra and bands, got "
            f"{array.shape[0]} spectra of {array.shape[1]} bands: lower num_endmembers"
        )
    return array


def _principal(spectra: np.ndarray, size: int) -> np.ndarray:
    """Scores (N, size) on the leading principal components."""
    centred = spectra - spectra.mean(0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :size]
    return centred @ directions


def _projected(spectra: np.ndarray, size: int) -> np.ndarray:
    """Scores (N, P) on the P leading directions, perspectively on a hyperplane: what VCA looks at."""
    directions = np.linalg.eigh(spectra.T @ spectra)[1][:, ::-1][:, :size]
    scores = spectra @ directions
    along = scores @ scores.mean(0)
    # A spectrum that is nearly orthogonal to the mean would be projected to infinity.
    along = np.maximum(along, 1e-3 * np.median(np.abs(along)) + np.finfo(float).tiny)
    return scores / along[:, None]


def _vca_indices(projected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the P spectra that VCA picks (the projective variant, for high SNR)."""
    size = projected.shape[1]
    vertices = np.zeros((size, size))
    vertices[-1, 0] = 1
    indices = np.zeros(size, dtype=int)
    for i in range(size):
        direction = rng.standard_normal((size,))
        direction -= vertices @ (np.linalg.pinv(vertices) @ direction)
        indices[i] = np.abs(projected @ direction).argmax()
        vertices[:, i] = projected[indices[i]]
    return indices


def _grow_simplex(scores: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace one vertex at a time while the volume grows; returns indices and |determinant|.

    The determinant is linear in each vertex, so that all candidates for one are one matrix product.
    """
    points = np.column_stack([np.ones(len(scores)), scores])
    indices = indices.copy()
    volume = abs(np.linalg.det(points[indices]))
    for _ in range(_MAX_SWEEPS):
        before = volume
        for p in range(len(indices)):
            volumes = np.abs(points @ _cofactors(points[indices], p))
            candidate = int(volumes.argmax())
            if volumes[candidate] > volume * (1 + 1e-9):
                indices[p], volume = candidate, volumes[candidate]
        if volume == before:
            break
    return indices, float(volume)


def _cofactors(matrix: np.ndarray, row: int) -> np.ndarray:
    """Cofactors of one row: the determinant as a linear function of that row."""
    others = np.delete(matrix, row, axis=0)
    size = len(matrix)
    minors = [np.linalg.det(np.delete(others, column, axis=1)) for column in range(size)]
    return np.array(minors) * (-1.0) ** (row + np.arange(size))


def _average_purest(spectra: np.ndarray, endmembers: np.ndarray, num_average: int) -> np.ndarray:
    """Mean of the spectra in which each endmember is most abundant, (L, P)."""
    abundances = fcls(torch.from_numpy(spectra), torch.from_numpy(endmembers)).numpy()
    count = max(1, min(num_average, len(spectra) // (5 * endmembers.shape[1])))
    purest = np.argsort(-abundances, axis=0, kind="stable")[:count]
    return spectra[purest].mean(0).T
