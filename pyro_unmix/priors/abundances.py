"""What every prior of abundances is, how a Gaussian one starts, and abundances that are known."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_unmix.ops.checks import finite_array, positive
from pyro_unmix.ops.declared import Declaring
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.ops.simplex import to_softmax_basis
from pyro_unmix.priors.initial_abundances import InitialAbundances
from pyro_unmix.priors.part import Transition


class AbundancePrior(Declaring, InitialAbundances):
    """How softmax-space abundances start (t = 0) and move (t = 1..T).

    Where the model knows its dates, `elapsed_at` gives the units of time before each of them.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.JumpWalk(), pu.priors.AbundancePrior)
    True
    """

    #: False where the abundances are given, so that a guide need not infer them.
    is_random = True
    #: Whether the transitions to dates that are as far apart are of one law.
    alike: ClassVar[bool] = False
    declarations: ClassVar = {"alike": ("transitions",)}

    def transitions(self, index: Tensor | None = None) -> Transition:
        """A function ``(c_{t-1}, t) -> distribution of c_t``, event shape (P,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement transitions()")

    @property
    def is_even(self) -> bool:
        """Whether the transitions to all dates are of one law, so that all can be computed at once."""
        return self.alike and self.elapsed is None

    def log_prob_of_path(self, states: Tensor, index: Tensor | None = None) -> Tensor:
        """Log-density (...) of the states of the dates 0..T, (..., T+1, P)."""
        start = self.initial(index).log_prob(states[..., 0, :])
        step, before, after = self.transitions(index), states[..., :-1, :], states[..., 1:, :]
        if self.is_even:
            return start + step(before, 1).log_prob(after).sum(-1)
        pairs = enumerate(zip(before.unbind(-2), after.unbind(-2), strict=True), start=1)
        return start + sum(step(c, t).log_prob(following) for t, (c, following) in pairs)

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        """Std (...) of the Gaussian step that stands in for the transition, of the states before it (..., P).

        `mean_square` (...) is the expected squared step per coordinate, where a robust transition looks for jumps.
        Where the model knows its dates, the last axis is the dates 1..T.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement step_scale()")


class GaussianStart(AbundancePrior):
    """``c_0 ~ N(nu, diag(gamma)^2)`` with learned nu (from 0) and gamma, equations (19)-(20).

    Parameters
    ----------
    initial_scale : float
        gamma at the start.
    initial : InitialAbundances, optional
        Another distribution of c_0 in its place, such as ``DirichletStart()``.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(
    ...     spectra, basis=pu.Brightness(), abundance_prior=pu.priors.JumpWalk(initial=pu.priors.GaussianStart())
    ... )
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    initial_state: InitialAbundances | None

    def __init__(
        self, *, initial_scale: float = 1.0, initial: InitialAbundances | None = None
    ) -> None:
        super().__init__()
        log_scale = math.log(positive(initial_scale, "initial_scale"))
        if initial is not None and not isinstance(initial, InitialAbundances):
            raise TypeError(
                "initial must be an InitialAbundances object such as DirichletStart() or SparseStart(), got "
                f"{initial!r} ({type(initial).__name__})"
            )
        self.initial_state = copy.deepcopy(initial)
        if initial is None:
            self.declare("initial_loc", 0.0, per="num_endmembers")
            self.declare("log_initial_scale", log_scale, per="num_endmembers")

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        super().setup(num_endmembers=num_endmembers, generator=generator)
        if self.initial_state is not None:
            self.initial_state.setup(num_endmembers=num_endmembers, generator=generator)

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        if self.initial_state is not None:
            return self.initial_state.initial(index)
        return DiagonalNormal(self.initial_loc, self.log_initial_scale.exp())


class KnownAbundances(AbundancePrior):
    """Abundances held at given values (a point mass), to learn only the endmembers' variability.

    Parameters
    ----------
    abundances : array, shape (N, T, P)
        One row per pixel of the scene, row-major over (y, x); on the simplex. Zeros are held at 1e-8.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> fractions = torch.full((5, 3, 2), .5)  # pixels, dates, materials
    >>> prior = pu.priors.KnownAbundances(fractions)
    >>> isinstance(prior, pu.priors.AbundancePrior)
    True
    """

    is_random = False
    values: Tensor

    def __init__(self, abundances: ArrayLike) -> None:
        super().__init__()
        array = finite_array(abundances, "abundances", ndim=3)
        if (array < 0).any() or not np.allclose(array.sum(-1), 1, atol=1e-4):
            raise ValueError(
                "abundances must be non-negative and sum to one over the last axis, got sums "
                f"{array.sum(-1).min():.4g} to {array.sum(-1).max():.4g}: divide them by their sum"
            )
        states = to_softmax_basis(torch.tensor(array, dtype=torch.get_default_dtype()))
        self.register_buffer("values", torch.cat([states[:, :1], states], dim=1))

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        if self.values.shape[-1] != num_endmembers:
            raise ValueError(
                f"KnownAbundances has {self.values.shape[-1]} materials, the model "
                f"{num_endmembers}: pass abundances of shape (pixels, dates, {num_endmembers})"
            )

    def _at(self, step: int, index: Tensor | None) -> TorchDistribution:
        largest = len(self.values) if index is None or not len(index) else int(index.max()) + 1
        if step >= self.values.shape[1] or largest > len(self.values):
            raise ValueError(
                f"KnownAbundances holds {len(self.values)} pixels and {self.values.shape[1] - 1} "
                f"dates, asked for pixel {largest - 1} at date {step}: pass abundances of the "
                "whole scene that is fitted"
            )
        values = self.values[:, step] if index is None else self.values[index, step]
        return dist.Delta(values).to_event(1)

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        return self._at(0, index)

    def transitions(self, index: Tensor | None = None) -> Transition:
        return lambda previous, step: self._at(step, index)

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        return torch.ones_like(mean_square)
