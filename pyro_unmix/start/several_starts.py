"""Endmembers of several kinds of extraction, for chains that start apart: no kind is right for every scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence, to_pixels
from pyro_unmix.io.opening import open_images
from pyro_unmix.ops.checks import finite_array, in_range, positive_int
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start.choice import Start, windows_of
from pyro_unmix.start.extraction import extract_endmembers

_MORE_DIRECTIONS = 3
_ROUNDING = 0.01  # abundance over which the hinge of a face is rounded
_MAX_ITERATIONS = 300
_LEAST = 1e-3  # reflectance: an endmember beyond the data may come out negative


@one_thread()
def several_starts(
    cubes: Any, start: Start, *, seed: int = 0, num_spectra: int = 3000
) -> list[xr.DataArray]:
    """Endmembers by the marginal likelihood, in pure neighbourhoods of three sizes, by direction, and by volume.

    In turn: those of a start; `extract_endmembers` in windows of 1, 3 and 5 pixels; in spectra scaled to length
    one in P + 3 directions; and `smallest_simplex` from those of window 1, for scenes without pure pixels.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, or files.
    start : Start
        By `choose_start` for these images, of two materials at least.
    seed : int
    num_spectra : int
        Behind the simplex of least volume.

    Returns
    -------
    list of DataArray (wavelength, endmember), reflectance
        Windows that do not fit into the image are left out, and the simplex of no more than P spectra.
    """
    sequence = as_cube_sequence(open_images(cubes))
    first = start.endmembers
    count = positive_int(first.sizes["endmember"], "the number of materials", minimum=2)
    most = min(sequence.sizes["wavelength"], count + _MORE_DIRECTIONS)
    plain = [extract_endmembers(sequence, count, window=w, seed=seed) for w in windows_of(sequence)]
    found = [first, *plain]
    found.append(extract_endmembers(sequence, count, window=1, directions=most, seed=seed))
    single = plain[0]
    pixels, valid = to_pixels(sequence)
    spectra = pixels[valid]
    if len(spectra) <= count:  # too few for a simplex
        return found
    chosen = np.random.default_rng(seed).permutation(len(spectra))[:num_spectra]
    small = smallest_simplex(spectra[chosen], single)
    found.append(single.copy(data=small.clip(_LEAST, None)))
    return found


def smallest_simplex(
    spectra: ArrayLike, endmembers: ArrayLike, *, outside: float = 0.1
) -> np.ndarray:
    """The simplex of least volume that holds nearly all spectra, in their P - 1 leading principal components.

    Minimises ``log |det [V; 1']| + (P - 1) / outside mean_n sum_p max(-a_np, 0)`` over the vertices V, a the
    barycentric coordinates of the spectra, the hinge rounded over one per cent: no pixel need be pure, as long as the
    facets are touched.

    Parameters
    ----------
    spectra : array (N, L), reflectance
    endmembers : array (L, P)
        Where the search starts.
    outside : float
        The larger, the more spectra may be outside: at the optimum ``mean_n sum_p [a_np < 0]`` is at most about
        `outside`.

    Returns
    -------
    ndarray (L, P), some of it possibly negative

    Raises
    ------
    ValueError
        If there are no more than P spectra.

    References
    ----------
    Bioucas-Dias, "A variable splitting augmented Lagrangian approach to linear spectral unmixing", WHISPERS 2009
    (whose objective this is).
    """
    values, start = finite_array(spectra, "spectra", ndim=2), as_endmembers(endmembers)
    in_range(outside, "outside", low=0, open_low=True)
    size = start.shape[1]
    if len(values) <= size:
        raise ValueError(
            f"the smallest simplex of {size} endmembers needs at least {size + 1} observed spectra, got {len(values)}"
        )
    mean = values.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(values.T))
    scale = np.sqrt(np.maximum(variances[1 - size :], np.finfo(float).tiny))
    turn = vectors[:, 1 - size :] / scale  # to scores of unit variance
    scores = torch.tensor((values - mean) @ turn)
    points = torch.cat([scores, torch.ones_like(scores[:, :1])], dim=1).mT
    vertices = torch.tensor((start.T - mean) @ turn).requires_grad_()
    search = torch.optim.LBFGS([vertices], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> float:
        search.zero_grad()
        corners = torch.cat([vertices, torch.ones_like(vertices[:, :1])], dim=1)
        coordinates = torch.linalg.solve(corners.mT, points)
        hinge = _ROUNDING * torch.nn.functional.softplus(-coordinates / _ROUNDING)
        loss = torch.linalg.slogdet(corners)[1] + (size - 1) / outside * hinge.sum(0).mean()
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        search.step(objective)
    found = vertices.detach().numpy()
    return ((found * scale) @ vectors[:, 1 - size :].T + mean).T
