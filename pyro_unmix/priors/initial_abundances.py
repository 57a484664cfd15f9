"""How abundances start, before the first date."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.checks import in_range, positive
from pyro_unmix.ops.softmax_distributions import PresentOrAbsent, SoftmaxDirichlet
from pyro_unmix.priors.part import Part, logit


class InitialAbundances(Part):
    """Distribution of the softmax state ``c_0``; any transition takes one as ``initial=``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.GaussianStart(), pu.priors.InitialAbundances)
    True
    """

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        """Create the parameters."""
        self.make_declared(num_endmembers=num_endmembers)

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        """Distribution of ``c_0``, event shape (P,), with ``loc`` and ``scale``: its mean and std.

        (`ConjugateGuide` puts the Gaussian of that mean and std in its place; the ELBO stays a bound.)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement initial()")


class DirichletStart(InitialAbundances):
    """``a_0 ~ Dir(alpha)``, alpha learned, one number per material.

    Parameters
    ----------
    concentration : float
        alpha at the start: 1 is uniform over the simplex, less prefers its corners.
    learn : bool

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(
    ...     spectra, basis=pu.Brightness(), abundance_prior=pu.priors.JumpWalk(initial=pu.priors.DirichletStart(1.0))
    ... )
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, concentration: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        log_concentration = math.log(positive(concentration, "concentration"))
        self.declare("log_concentration", log_concentration, per="num_endmembers", learn=learn)

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        return SoftmaxDirichlet(self.log_concentration.exp())


class SparseStart(InitialAbundances):
    """Few materials in a pixel: ``c_0p ~ rho_p N(0, s^2) + (1 - rho_p) N(-depth, s^2)``, each by itself.

    A material is absent with probability ``1 - rho_p``, and then some ``exp(-depth)`` times as abundant as one that
    is present. rho, depth and s are learned from the given start.

    Parameters
    ----------
    presence : float in (0, 1)
        rho, the same for all materials at the start.
    depth : float
    scale : float
        s.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(
    ...     spectra, basis=pu.Brightness(), abundance_prior=pu.priors.JumpWalk(initial=pu.priors.SparseStart(0.5))
    ... )
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, presence: float = 0.5, *, depth: float = 6.0, scale: float = 1.0) -> None:
        super().__init__()
        presence = in_range(presence, "presence", low=1e-6, high=1 - 1e-6)
        self.declare("presence_logit", logit(presence), per="num_endmembers")
        self.declare("log_depth", math.log(positive(depth, "depth")))
        self.declare("log_spread", math.log(positive(scale, "scale")))

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        return PresentOrAbsent(self.presence_logit, self.log_depth.exp(), self.log_spread.exp())
