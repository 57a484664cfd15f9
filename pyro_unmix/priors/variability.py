"""How the variability of endmembers evolves: chains that are linear and Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.checks import in_range, positive
from pyro_unmix.ops.declared import Declaring
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.priors.part import Need, Part, logit


class VariabilityPrior(Declaring, Part):
    """A linear-Gaussian chain: ``psi_t ~ N(coefficient psi_{t-1}, diag(step_scale)^2)``.

    Subclasses give the chain's four vectors for steps of one unit of time; `initial`, `transitions` and `marginals`
    follow from them, and so does the exact conditional that `ConjugateGuide` computes. Where the model knows its dates,
    a step over Delta units is the chain in continuous time: ``coefficient^Delta``, and the variance ``step_scale^2 (1 -
    coefficient^(2 Delta)) / (1 - coefficient^2)``, or ``step_scale^2 Delta`` for a coefficient of one.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.Independent(), pu.priors.VariabilityPrior)
    True
    """

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """`Need.UNEVEN_VARIABILITY` where uneven dates make steps of different law."""
        if self.elapsed is None or not bool(self.chain()[0].any()):
            return frozenset()
        return frozenset({Need.UNEVEN_VARIABILITY})

    def setup(
        self, *, num_endmembers: int, num_components: int, generator: torch.Generator
    ) -> None:
        """Create the parameters; there are as many ``coefficients`` as components times materials."""
        self.make_declared(coefficients=num_endmembers * num_components)

    #: Whether the densities of the sites are those of the chain's vectors; see `Declaring`.
    is_chain: ClassVar[bool] = True
    declarations: ClassVar = {"is_chain": ("initial", "transitions")}
    #: Whether it belongs to the pixels and dates that it was fitted to.
    of_scene: ClassVar[bool] = False
    #: Whether the dates of a pixel are independent given what pixels share.
    independent: ClassVar[bool] = False

    def sample_offsets(
        self, index: Tensor | None, num_pixels: int, num_dates: int
    ) -> Tensor | None:
        """What pixels share and is added to the sites ``psi_t``, (..., B, T, K P); None: nothing."""
        return None

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(coefficient, step_scale, initial_loc, initial_scale)`` of a unit of time, each of shape (K P,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement chain()")

    def steps(self, num_dates: int) -> tuple[Tensor, Tensor]:
        """Coefficients and step scales of the dates 1..T, each of shape (T, K P), over the time before each date."""
        coefficient, scale = (values.expand(num_dates, -1) for values in self.chain()[:2])
        if self.elapsed is None:
            return coefficient, scale
        if bool((coefficient < 0).any()):
            raise ValueError(
                f"{type(self).__name__} has a negative coefficient, which has no meaning over "
                "parts of a unit of time: build the model without dates"
            )
        elapsed = coefficient.new_ones(num_dates)
        elapsed[: len(self.elapsed)] = self.elapsed[:num_dates]
        elapsed = elapsed.unsqueeze(-1)
        walks = coefficient == 1
        inside = torch.where(walks, 0.5, coefficient)  # keeps the gradient finite
        # expm1: dates may be so close that 1 - phi^(2 Delta) is rounded to zero
        rate = 2 * inside.log()
        growth = torch.expm1(rate * elapsed) / torch.expm1(rate)
        growth = torch.where(walks, elapsed, growth)
        return torch.where(walks, 1.0, inside**elapsed), scale * growth.sqrt()

    def whole_chain(self, num_dates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`chain` with `steps` of the dates 1..T in place of a step of one unit."""
        return *self.steps(num_dates), *self.chain()[2:]

    def initial(self) -> TorchDistribution:
        _, _, loc, scale = self.chain()
        return DiagonalNormal(loc, scale)

    def transitions(self, num_dates: int | None = None) -> Callable[..., TorchDistribution]:
        """A function ``(previous, t) -> distribution`` with the chain's vectors computed once.

        Without `num_dates` all steps are of one unit, and t need not be given.
        """
        if num_dates is None or self.elapsed is None:
            coefficient, scale, _, _ = self.chain()
            log_det = scale.log().sum(-1)
            return lambda previous, t=1: DiagonalNormal(coefficient * previous, scale, log_det)
        coefficients, scales = (rows.unbind(0) for rows in self.steps(num_dates))
        return lambda previous, t: DiagonalNormal(coefficients[t - 1] * previous, scales[t - 1])

    def first_variance(self) -> Tensor:
        """Variance (K P,) of all that varies at the first date."""
        return self.marginals(1)[1][0]

    def marginals(self, num_dates: int) -> tuple[Tensor, Tensor]:
        """Means and variances of ``psi_1 .. psi_T``, each of shape (T, K P)."""
        _, _, loc, scale = self.chain()
        variance = scale.square()
        locs, variances = [], []
        for coefficient, step_scale in zip(*self.steps(num_dates), strict=True):
            loc = coefficient * loc
            variance = coefficient.square() * variance + step_scale.square()
            locs.append(loc)
            variances.append(variance)
        return torch.stack(locs), torch.stack(variances)


class RandomWalk(VariabilityPrior):
    """``psi_t ~ N(psi_{t-1}, Delta sigma_psi^2 I)``, equation (11), from ``psi_0 ~ N(nu, diag(gamma)^2)`` of (21).

    Parameters
    ----------
    scale : float
        sigma_psi, a standard deviation (the published program's 1e-5 is the variance).
    learn : bool
        Learn sigma_psi; the paper keeps it. nu (from 0) and gamma (from `initial_scale`) are always learned.
    initial_scale : float

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), variability_prior=pu.priors.RandomWalk(0.01))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self, scale: float = 1e-5**0.5, *, learn: bool = False, initial_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.declare("log_scale", math.log(positive(scale, "scale")), learn=learn)
        self.declare("initial_loc", 0.0, per="coefficients")
        log_initial_scale = math.log(positive(initial_scale, "initial_scale"))
        self.declare("log_initial_scale", log_initial_scale, per="coefficients")

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loc = self.initial_loc
        step_scale = self.log_scale.exp().expand_as(loc)
        return torch.ones_like(loc), step_scale, loc, self.log_initial_scale.exp()


class AutoRegressive(VariabilityPrior):
    """Stationary AR(1): ``psi_t ~ N(phi psi_{t-1}, (1 - phi^2) diag(s)^2)``, ``psi_0 ~ N(0, diag(s)^2)``.

    Parameters
    ----------
    coefficient : float in [0, 1)
        phi, correlation between neighbouring dates.
    scale : float
        s, stationary std of every coefficient.
    learn : bool
        Learn phi (one number) and s (one per component and material).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), variability_prior=pu.priors.AutoRegressive(0.8))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, coefficient: float = 0.5, scale: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        phi = in_range(coefficient, "coefficient", low=0, high=0.9999)
        self.declare("logit", logit(min(max(phi, 1e-4), 1 - 1e-4)), learn=learn)
        log_scale = math.log(positive(scale, "scale"))
        self.declare("log_scale", log_scale, per="coefficients", learn=learn)

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        phi, scale = torch.sigmoid(self.logit), self.log_scale.exp()
        step_scale = scale * (1 - phi.square()).sqrt()
        return phi.expand_as(scale), step_scale, torch.zeros_like(scale), scale


class Independent(VariabilityPrior):
    """``psi_t ~ N(0, diag(s)^2)`` anew at every date.

    Parameters
    ----------
    scale : float
        s at the start.
    learn : bool
        Learn s, one per component and material.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), variability_prior=pu.priors.Independent(0.5))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    independent = True

    def __init__(self, scale: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        log_scale = math.log(positive(scale, "scale"))
        self.declare("log_scale", log_scale, per="coefficients", learn=learn)

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = self.log_scale.exp()
        zeros = torch.zeros_like(scale)
        return zeros, scale, zeros, scale
