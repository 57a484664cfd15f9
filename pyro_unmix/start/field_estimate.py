"""What neighbouring pixels and dates say of abundances besides a pixel's own spectrum."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.io.opening import takes_images
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.solvers import project_simplex
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.start.choice import Start, temporal_correlation
from pyro_unmix.start.field import field_coefficient, field_correlation, smooth_fits
from pyro_unmix.start.field_fit import FitState
from pyro_unmix.start.noise import estimate_noise_scale

logger = logging.getLogger(__name__)

_FIRST_ROUNDS, _ROUNDS = 4, 10  # with the scales of the field kept, and learned
_MOST_MISFIT = 1.03  # stds of the noise that a field leaves which is all there is
_LEAST_LENGTH = 2.0  # pixels, below which neighbours say little
_LEAST_BANDS = 10  # per unknown of a spectrum
_LEAST_REMAINING = 0.75  # of the spread of draws, as the chains' own may be too small
_MOST_PIXEL_DATES = 200_000  # which are in memory at once, some ten kilobytes each


@dataclass(frozen=True, eq=False)
class FieldEstimate:
    """Abundances where the variability of materials is a smooth field, from `estimate_field`.

    Attributes
    ----------
    abundances : Tensor, shape (N, P)
        Of all pixel-dates in the order (pixel, date); NaN where nothing was observed.
    endmembers : ndarray (L, P), reflectance
    remaining : float
        Which share of the spread of draws is left about them, see `beside`.

    Examples
    --------
    >>> import numpy as np, torch, pyro_unmix as pu
    >>> estimate = pu.start.FieldEstimate(torch.tensor([[0.5, 0.5]]), np.ones((3, 2)))
    >>> draws = torch.tensor([[[0.2, 0.8]], [[0.4, 0.6]]])
    >>> estimate.about(draws, slice(0, 1))[:, 0, 0].numpy().round(3)
    array([0.4, 0.6], dtype=float32)
    """

    abundances: Tensor
    endmembers: np.ndarray
    remaining: float = 1.0

    def beside(self, means: Tensor, deviations: Tensor) -> FieldEstimate:
        """The same with `remaining` of what single spectra say, means and standard deviations (N, P).

        By the law of total variance, what spectra leave open is what spectra and neighbours leave open, and how far the
        one expectation is from the other: ``s^2 = r^2 s^2 + E (m - e)^2``, where r is `remaining`, one number of all
        pixel-dates. It is no less than 0.75: the s of chains may be too small.
        """
        seen = self.abundances.isfinite().all(-1) & means.isfinite().all(-1)
        if not bool(seen.any()):
            return self
        here, spread = self.abundances[seen], deviations[seen].to(self.abundances)
        moved = (means[seen].to(here) - here).square().sum() / spread.square().sum()
        left = max(1 - float(moved.nan_to_num(nan=0.0)), _LEAST_REMAINING**2)
        return replace(self, remaining=left**0.5)

    def about(self, draws: Tensor, places: slice | Tensor) -> Tensor:
        """Draws (D, B, P) of these pixel-dates moved here: ``e + r (d - mean of d)``, put onto the simplex.

        r is `remaining`; the mode of the field does not say how sure it is. Those of no estimate stay where they are.
        """
        here = self.abundances[places].to(draws)
        seen = here.isfinite().all(-1, keepdim=True)
        moved = torch.where(seen, here, draws[0]) + self.remaining * (draws - draws.mean(0))
        return torch.where(seen, project_simplex(moved), draws)


@takes_images
@one_thread()
def estimate_field(
    cubes: xr.DataArray,
    start: Start,
    endmembers: Sequence[ArrayLike],
    weights: Sequence[float],
    *,
    seed: int = 0,
    progress: bool = False,
) -> FieldEstimate | None:
    """The mode of a smooth field, of abundances and of endmembers, from endmembers that are near already.

    `SmoothFit` goes from each of the endmembers; the results are averaged. Extracted endmembers of scenes whose
    variability pixels share are too far off for it, those of chains are not.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes.
    start : Start
        Of `choose_start`, from which length and persistence of the field are.
    endmembers : sequence of array (L, P), reflectance
        In one order of the materials; the first is tried first.
    weights : sequence of float
        Of each.
    seed : int
    progress : bool

    Returns
    -------
    FieldEstimate, or None
        None where the field leaves more than 1.03 times the noise (`estimate_noise_scale`), and so is not all that
        there is; where it is smooth over less than two pixels; where spectra have less than ten bands for each number
        that the fit finds of them; or of more than 200 000 pixel-dates, which a fit would hold in memory at once.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=3, height=12, width=12, seed=0)
    >>> start = pu.choose_start(scene.cubes, num_endmembers=3, progress=False)
    >>> estimate = pu.start.estimate_field(scene.cubes, start, [start.endmembers.values], [1.0])
    >>> estimate is None  # as the variability of every pixel is its own there
    True
    """
    num_endmembers, num_bands = start.endmembers.shape[1], cubes.sizes["wavelength"]
    if cubes[..., 0].size > _MOST_PIXEL_DATES:
        logger.info("no field is looked for: more than %d pixel-dates", _MOST_PIXEL_DATES)
        return None
    share, length = field_correlation.unchecked(cubes, start)
    if length < _LEAST_LENGTH:
        logger.info("no field is looked for: variability is smooth over %.1f pixels only", length)
        return None
    coefficient = field_coefficient(temporal_correlation.unchecked(cubes, start), share)
    noise_scale = estimate_noise_scale.unchecked(cubes)
    begin = smooth_fits(cubes, num_endmembers, noise_scale, length, coefficient)
    states: list[FitState] = []
    total = len(endmembers) * (_FIRST_ROUNDS + _ROUNDS)
    with progress_bar(total=total, shown=progress, desc="field", unit="round") as bar:
        for matrix in endmembers:
            fit, state = begin(matrix)
            fit.run(state, _FIRST_ROUNDS, True, learn_scales=False, seed=seed, advance=bar.update)
            fit.run(
                state, _ROUNDS, True, learn_scales=True, seed=seed + _FIRST_ROUNDS, advance=bar.update
            )  # fmt: skip
            misfit = fit.variance**0.5 / noise_scale
            unknowns = num_endmembers - 1 + fit.num_effective / max(int(fit.valid.sum()), 1)
            logger.info("a smooth field leaves %.3f times the noise", misfit)
            if not (misfit <= _MOST_MISFIT and unknowns * _LEAST_BANDS <= num_bands):
                return None
            states.append(state)
    share_of = np.asarray(weights, dtype=float) / np.sum(weights)
    parts = list(zip(share_of.tolist(), states, strict=True))
    mean = torch.stack([share * state.abundances for share, state in parts]).sum(0)
    spectra = torch.stack([share * state.endmembers for share, state in parts]).sum(0)
    if not (mean.isfinite().all() and spectra.isfinite().all()):
        logger.warning("the field is not finite, and is left out")
        return None
    abundances = torch.where(fit.valid.unsqueeze(-1), mean, torch.nan)
    by_pixel = abundances.unflatten(0, fit.shape).transpose(0, 1).flatten(0, 1)
    return FieldEstimate(by_pixel, spectra.numpy())
