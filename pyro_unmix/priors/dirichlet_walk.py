"""A walk of abundances on the simplex itself."""

from __future__ import annotations

import math

from torch import Tensor

from pyro_unmix.ops.checks import positive
from pyro_unmix.ops.simplex import to_abundances
from pyro_unmix.ops.softmax_distributions import SoftmaxDirichlet
from pyro_unmix.priors.abundance_walks import Walk
from pyro_unmix.priors.initial_abundances import InitialAbundances


class DirichletWalk(Walk):
    """``a_t ~ Dir(kappa a_{t-1} / Delta + alpha_0)``, equation (13), exactly.

    Its states are softmax states all the same, with the density of eq. (16), so that any guide can serve it: the
    abundances have the Dirichlet density, and the constant that the softmax does not see is standard normal beside
    them (see `SoftmaxDirichlet`).

    Parameters
    ----------
    concentration : float
        kappa: abundances move by some ``sqrt(a (1 - a) / kappa)`` in a unit of time.
    floor : float
        alpha_0, which lets absent materials return.
    learn : bool
        Learn both.
    initial_scale, initial
        Of `GaussianStart`.

    References
    ----------
    ReDSUNN paper, eqs. (13)-(16); MacKay, Machine Learning 33, 1998.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.DirichletWalk(50))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        concentration: float = 50.0,
        *,
        floor: float = 0.5,
        learn: bool = True,
        initial_scale: float = 1.0,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(initial_scale=initial_scale, initial=initial)
        log_concentration = math.log(positive(concentration, "concentration"))
        self.declare("log_concentration", log_concentration, learn=learn)
        self.declare("log_floor", math.log(positive(floor, "floor")), learn=learn)

    def step(self, previous: Tensor, elapsed: Tensor | None) -> SoftmaxDirichlet:
        kappa = self.log_concentration.exp()
        if elapsed is not None:
            kappa = kappa / elapsed.unsqueeze(-1)
        return SoftmaxDirichlet(kappa * to_abundances(previous) + self.log_floor.exp())

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        variance = self.step(previous, self.elapsed).variance.mean(-1)
        return variance.sqrt().expand(mean_square.shape)
