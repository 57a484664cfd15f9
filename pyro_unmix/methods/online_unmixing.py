"""Online unmixing (OU): a perturbed linear model per date, dates visited one at a time."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.data.bands import Ignore
from pyro_unmix.data.types import ImagesLike
from pyro_unmix.methods.arguments import judged
from pyro_unmix.methods.classical import Input, fcls_of_date, read_input, to_result
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.progress import progress_bar
from pyro_unmix.ops.solvers import project_simplex
from pyro_unmix.ops.threads import one_thread
from pyro_unmix.posterior.result import Unmixing

logger = logging.getLogger(__name__)

_STEP = 1 / 1.1  # of the inverse Lipschitz constant, as published


@one_thread()
def online_unmixing(
    cubes: ImagesLike,
    num_endmembers: int | None = None,
    *,
    endmembers: ArrayLike | xr.DataArray | None = None,
    ignore: Ignore = None,
    seed: int = 0,
    progress: bool = True,
    num_epochs: int = 20,
    num_inner_steps: int = 50,
    num_endmember_steps: int = 50,
    forgetting: float = 0.98,
    max_variability: float = 1.0,
    max_mean_variability: float = math.sqrt(0.1),
    distance_weight: float = 1e-4,
    abundance_weight: float = 0.0,
    variability_weight: float = 0.0,
) -> Unmixing:
    """Online unmixing of a sequence with endmembers that vary from date to date.

    The date t, an image ``Y_t`` (L, N), is ``(M + dM_t) A_t`` plus noise. Minimises::

        sum_t 1/2 ||Y_t - (M + dM_t) A_t||^2 + alpha/2 ||A_t - A_{t-1}||^2
              + gamma/2 ||dM_t - dM_{t-1}||^2 + beta/2 sum_{p<q} ||m_p - m_q||^2
        subject to A_t >= 0, 1'A_t = 1', M >= 0, ||dM_t|| <= sigma, ||mean_t dM_t|| <= kappa

    (Frobenius norms) by stochastic programming: every epoch visits the dates in random order. A visit takes
    alternating proximal gradient steps on ``A_t`` and ``dM_t``, then projected gradient steps on M from sums over the
    visits so far, which forget. The mean of the perturbations is bounded as in the published program: at visit k,
    ``||E + dM_t|| <= k kappa`` with E the forgetting sum over the earlier visits. The intersection of that ball with
    ``||dM_t|| <= sigma`` is projected on in closed form, where the publication iterates Dykstra's algorithm.

    Parameters
    ----------
    cubes
        Anything that `as_cube_sequence` takes, reflectance; or files, as `open_images` reads them.
    num_endmembers : int, optional
        P, at least 2. May be left out if `endmembers` are given.
    endmembers : array (L, P), DataArray (wavelength, endmember) or library, optional
        Where M starts. Default VCA of the spectra of all dates, which misses materials more often than
        `extract_endmembers` does. Negative values, which noise makes, are allowed here with a warning: the first visit
        uses them, then M is projected on ``M >= 0``.
    ignore : str or sequence of pairs, optional
        Leave out the bands in these ranges, nm, as `read_sequence` does: ``"emit"``, ``"0-440,1310-1490"``.
    seed : int
        Of the order of the dates, and of VCA.
    progress : bool
        Show a bar over the epochs.
    num_epochs : int
        Visits to each date.
    num_inner_steps, num_endmember_steps : int
        Gradient steps on ``A_t`` and ``dM_t``, and on M, in each visit.
    forgetting : float in (0, 1]
        Factor rho on the sums at each visit.
    max_variability, max_mean_variability : float, reflectance
        sigma and kappa: Frobenius norms over all bands and materials, so they grow with both.
    distance_weight, abundance_weight, variability_weight : float
        beta, alpha and gamma.

    Returns
    -------
    Unmixing
        Without posterior. `reference_endmembers` is M, `endmembers(time)` is ``M + dM_t``, alike for all pixels of a
        date. Missing pixel-dates are left out of all sums and stay missing: their abundances are NaN. A date without
        any observed pixel is not visited; its endmembers are M. The image enters products in the precision of the
        cubes, the rest is float64.

    Raises
    ------
    TypeError, ValueError
        If the cubes, the endmembers or a setting are not as described.

    References
    ----------
    Thouvenin, Dobigeon, Tourneret, "Online unmixing of multitemporal hyperspectral images accounting for spectral
    variability", IEEE TIP 25(9), 2016. The default settings are published.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> pu.methods.online_unmixing(scene.cubes, num_endmembers=3, progress=False)
    <Unmixing by online_unmixing (time: 2, y: 10, x: 10, endmember: 3)>
    """
    num_epochs = positive_int(num_epochs, "num_epochs")
    settings = _Settings(
        num_inner_steps=positive_int(num_inner_steps, "num_inner_steps"),
        num_endmember_steps=positive_int(num_endmember_steps, "num_endmember_steps"),
        forgetting=in_range(forgetting, "forgetting", 0.0, 1.0, open_low=True),
        max_variability=in_range(max_variability, "max_variability", 0.0),
        max_mean_variability=in_range(max_mean_variability, "max_mean_variability", 0.0),
        distance_weight=in_range(distance_weight, "distance_weight", 0.0),
        abundance_weight=in_range(abundance_weight, "abundance_weight", 0.0),
        variability_weight=in_range(variability_weight, "variability_weight", 0.0),
    )
    given = read_input(cubes, num_endmembers, endmembers, seed, ignore)
    negative = int(np.count_nonzero(given.reference < 0))
    if negative:
        logger.warning(
            "%d of %d values of the endmembers are negative, which M may not be: 0 from the first "
            "update on", negative, given.reference.size
        )  # fmt: skip
    programme = _Programme(given, settings)
    rng = np.random.default_rng(seed)
    for _ in progress_bar(range(num_epochs), shown=progress, desc="online unmixing", unit="epoch"):
        for position in rng.permutation(len(programme.dates)):
            programme.visit(int(position))

    reference = programme.endmembers.numpy()
    abundances = np.full((*given.valid.shape, reference.shape[1]), np.nan)
    by_date = np.repeat(reference[None], given.valid.shape[1], axis=0)
    for date in programme.dates:
        abundances[date.rows, date.time] = date.abundances.numpy()
        by_date[date.time] += date.variability.numpy()
    return judged(
        to_result(
            given.cubes,
            abundances,
            reference,
            given.names,
            by_date,
            seed=seed,
            method="online_unmixing",
        )
    )


@dataclass(frozen=True)
class _Settings:
    """The keywords of `online_unmixing`."""

    num_inner_steps: int
    num_endmember_steps: int
    forgetting: float
    max_variability: float
    max_mean_variability: float
    distance_weight: float
    abundance_weight: float
    variability_weight: float


@dataclass
class _DateEstimate:
    """What is estimated of one date, at its observed pixels."""

    time: int
    rows: np.ndarray  # (n,), positions of the observed pixels
    abundances: Tensor  # (n, P)
    variability: Tensor  # (L, P), dM_t


class _Programme:
    """The state of the stochastic programme: M, what is known of each date, and the sums.

    Attributes
    ----------
    endmembers : Tensor (L, P)
        M.
    dates : list of _DateEstimate
        Those with an observed pixel, in their order.
    """

    def __init__(self, given: Input, settings: _Settings) -> None:
        self.settings = settings
        self.pixels, self.valid = given.pixels, given.valid
        self.endmembers = torch.tensor(given.reference, dtype=torch.float64)
        self.dates: list[_DateEstimate] = []
        for time in np.flatnonzero(given.valid.any(axis=0)):
            seen = given.valid[:, time]
            start = fcls_of_date(given.pixels[:, time], seen, given.reference)[seen]
            rows = np.flatnonzero(seen)
            zero = torch.zeros_like(self.endmembers)
            self.dates.append(_DateEstimate(int(time), rows, torch.from_numpy(start), zero))
        size = self.endmembers.shape[1]
        self.num_visits = 0
        self.gram = torch.zeros(size, size, dtype=torch.float64)  # C
        self.cross = torch.zeros_like(self.endmembers)  # D
        self.variability = torch.zeros_like(self.endmembers)  # E

    def visit(self, position: int) -> None:
        """Estimate one date given M, add it to the sums, and update M."""
        date, rho = self.dates[position], self.settings.forgetting
        image = torch.from_numpy(self.pixels[date.rows, date.time])
        self.num_visits += 1
        inner = self._inner_problem(image, position)
        for _ in range(self.settings.num_inner_steps):
            date.abundances, date.variability = inner.step(date.abundances, date.variability)

        gram = date.abundances.mT @ date.abundances
        fit = date.variability @ gram - _sum_over_pixels(image, date.abundances)
        self.gram = rho * self.gram + gram
        self.cross = rho * self.cross + fit
        self.variability = rho * self.variability + date.variability
        self.endmembers = self._improved_endmembers()

    def _inner_problem(self, image: Tensor, position: int) -> _Inner:
        settings = self.settings
        previous = self.dates[position - 1] if position > 0 else None
        return _Inner(
            image=image,
            endmembers=self.endmembers,
            radius=settings.max_variability,
            centre=-self.variability,
            other_radius=self.num_visits * settings.max_mean_variability,
            abundance_weight=settings.abundance_weight,
            previous_abundances=self._abundances_before(position),
            variability_weight=settings.variability_weight if previous else 0.0,
            previous_variability=previous.variability if previous else 0.0,
        )

    def _abundances_before(self, position: int) -> Tensor | None:
        """A_{t-1} at the pixels of date t, NaN where it is not known there (n, P)."""
        if position == 0 or self.settings.abundance_weight == 0:
            return None
        before, now = self.dates[position - 1], self.dates[position]
        everywhere = np.full((len(self.valid), self.endmembers.shape[1]), np.nan)
        everywhere[before.rows] = before.abundances.numpy()
        return torch.from_numpy(everywhere[now.rows])

    def _improved_endmembers(self) -> Tensor:
        """Projected gradient steps on ``tr(M'M C)/2s + tr(M'D)/s + beta/2 ||M G||^2``, M >= 0."""
        rho, size = self.settings.forgetting, len(self.gram)
        # (1 - rho^k)/(1 - rho), which is k for rho = 1
        total = math.fsum(rho**k for k in range(self.num_visits))
        differences = size * torch.eye(size, dtype=torch.float64) - 1  # GG' over the pairs p < q
        curvature = self.gram / total + self.settings.distance_weight * differences
        step = _STEP / _norm(curvature)
        keep = torch.eye(size, dtype=torch.float64) - step * curvature
        push = step / total * self.cross
        endmembers = self.endmembers
        for _ in range(self.settings.num_endmember_steps):
            endmembers = (endmembers @ keep - push).clamp(min=0)
        return endmembers


@dataclass(frozen=True, eq=False)
class _Inner:
    """The problem of one date given M: its abundances and its variability.

    Minimises ``1/2 ||Y - (M + dM) A||^2 + alpha/2 ||A - A_prev||^2 + gamma/2 ||dM - dM_prev||^2``
    with A on the simplex and dM in two balls, around 0 and around `centre`.
    """

    image: Tensor  # (n, L)
    endmembers: Tensor  # (L, P), M
    radius: float
    centre: Tensor  # (L, P)
    other_radius: float
    abundance_weight: float = 0.0
    previous_abundances: Tensor | None = None  # (n, P), NaN where unknown
    variability_weight: float = 0.0
    previous_variability: Tensor | float = 0.0

    def step(self, abundances: Tensor, variability: Tensor) -> tuple[Tensor, Tensor]:
        """One proximal gradient step on the abundances (n, P), then one on the variability."""
        abundances = self._abundance_step(abundances, self.endmembers + variability)
        return abundances, self._variability_step(abundances, variability)

    def _abundance_step(self, abundances: Tensor, spectra: Tensor) -> Tensor:
        gram = spectra.mT @ spectra
        slope = abundances @ gram - _along_bands(self.image, spectra)
        bound = _norm(gram)
        if self.previous_abundances is not None:
            change = (abundances - self.previous_abundances).nan_to_num(nan=0.0)
            slope = slope + self.abundance_weight * change
            bound += self.abundance_weight
        return project_simplex(abundances - _STEP / bound * slope)

    def _variability_step(self, abundances: Tensor, variability: Tensor) -> Tensor:
        gram = abundances.mT @ abundances
        slope = (self.endmembers + variability) @ gram - _sum_over_pixels(self.image, abundances)
        slope = slope + self.variability_weight * (variability - self.previous_variability)
        step = _STEP / (_norm(gram) + self.variability_weight)
        target = variability - step * slope
        return project_balls(target, self.radius, self.centre, self.other_radius)


def project_balls(point: Tensor, radius: float, centre: Tensor, other_radius: float) -> Tensor:
    """Projection onto the intersection of two balls that meet, around 0 and around `centre`.

    Where the projection onto one ball lies in the other, it is that. Else both bounds hold with
    equality: on the circle ``{h u + w, w'u = 0, |w|^2 = radius^2 - h^2}`` with
    ``u = centre/d``, ``d = |centre|``, ``h = (d^2 + radius^2 - other_radius^2) / 2d``.

    Parameters
    ----------
    point, centre : Tensor, any one shape
        Taken as vectors.
    radius, other_radius : float

    Returns
    -------
    Tensor
    """
    first = _shrink(point, radius)
    if _norm(first - centre) <= other_radius:
        return first
    second = centre + _shrink(point - centre, other_radius)
    if _norm(second) <= radius:
        return second
    distance = _norm(centre)
    direction = centre / distance
    height = (distance**2 + radius**2 - other_radius**2) / (2 * distance)
    across = point - (point * direction).sum() * direction
    length = math.sqrt(max(radius**2 - height**2, 0.0))
    return height * direction + length / max(_norm(across), _TINY) * across


_TINY = float(np.finfo(np.float64).tiny)


def _shrink(point: Tensor, radius: float) -> Tensor:
    """Projection onto a ball around 0."""
    norm = _norm(point)
    return point if norm <= radius else radius / norm * point


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values))


# The only products with the image. Their thin factor is laid out with the long side last, which
# makes them five times as fast; it takes the precision of the image, which need not be copied.


def _along_bands(image: Tensor, spectra: Tensor) -> Tensor:
    """``Y'M`` (n, P) of an image (n, L) and spectra (L, P)."""
    thin = spectra.mT.contiguous().to(image.dtype)
    return (thin @ image.mT).to(spectra.dtype).mT


def _sum_over_pixels(image: Tensor, abundances: Tensor) -> Tensor:
    """``Y A'`` (L, P) of an image (n, L) and abundances (n, P)."""
    thin = abundances.to(image.dtype).mT.contiguous()
    return (thin @ image).to(abundances.dtype).mT
