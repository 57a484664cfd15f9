"""Beliefs about one pixel's states: reference endmembers, abundances, variability and noise.

Each part is a small `PyroModule` that returns distributions. Sizes are not known when a user writes
``SGLMM(endmembers, abundance_prior=JumpWalk())``, so the model copies each part and calls its `setup` once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix._check import as_endmembers, finite_array, in_range, positive_int
from pyro_unmix._recipe import Recorded
from pyro_unmix.distributions import DiagonalNormal, IsotropicNormal, JumpNormal, JumpSteps
from pyro_unmix.libraries import is_library, library_endmembers
from pyro_unmix.mixing import to_softmax_basis

Transition = Callable[[Tensor, int], TorchDistribution]

_MAX_LOG_SCALE = 5.0


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


class Part(Recorded, PyroModule):
    """A part of a model that learns its sizes when a model takes it."""

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        """Create the parameters for these sizes."""


# ------------------------------------------------------------------------------- endmembers


class Endmembers(Part):
    """Reference endmembers M0 as the model sees them; see `FreeEndmembers` and `FixedEndmembers`.

    Parameters
    ----------
    endmembers : array or DataArray, shape (L, P), reflectance
        A library (a DataArray with the coordinate ``label``) stands for the mean spectra of its classes, see
        `library_endmembers`.
    """

    value: Tensor

    def __init__(self, endmembers: ArrayLike) -> None:
        super().__init__()
        if is_library(endmembers):
            endmembers = library_endmembers(endmembers)  # type: ignore[arg-type]
        self.names = _endmember_names(endmembers)
        #: nm, where the given endmembers had them
        self.wavelength = _wavelengths(endmembers)
        # Pyro's store would train a contiguous copy of a parameter that is not contiguous.
        matrix = np.ascontiguousarray(as_endmembers(endmembers))
        self._store(torch.tensor(matrix, dtype=torch.get_default_dtype()).contiguous())

    def _store(self, values: Tensor) -> None:
        raise NotImplementedError("use FreeEndmembers(...) or FixedEndmembers(...)")


class FreeEndmembers(Endmembers):
    """M0 is learned with the model, from the given start (a deterministic parameter, as in the paper)."""

    def _store(self, values: Tensor) -> None:
        self.value = nn.Parameter(values)


class FixedEndmembers(Endmembers):
    """M0 stays as given."""

    def _store(self, values: Tensor) -> None:
        self.register_buffer("value", values)


def _endmember_names(endmembers: object) -> list[str] | None:
    coords = getattr(endmembers, "coords", {})
    if "endmember" not in coords or coords["endmember"].dtype.kind not in "USO":
        return None
    return [str(name) for name in coords["endmember"].values]


def _wavelengths(endmembers: object) -> np.ndarray | None:
    coords = getattr(endmembers, "coords", {})
    if "wavelength" not in coords or coords["wavelength"].dims != ("wavelength",):
        return None
    return np.array(coords["wavelength"].values, dtype=float)


# ------------------------------------------------------------------------------- abundances


class AbundancePrior(Part):
    """How softmax-space abundances start (t = 0) and move (t = 1..T)."""

    #: False where the abundances are given, so that a guide need not infer them.
    is_random = True

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        """Distribution of ``c_0``, event shape (P,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement initial()")

    def transitions(self, index: Tensor | None = None) -> Transition:
        """A function ``(c_{t-1}, t) -> distribution of c_t``, event shape (P,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement transitions()")

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        """Std of the Gaussian step that stands in for the transition, per pixel and date.

        Parameters
        ----------
        previous : Tensor, shape (..., P)
        mean_square : Tensor, shape (...)
            Expected squared step per coordinate, where a robust transition looks for jumps.

        Returns
        -------
        Tensor, shape (...)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement step_scale()")


class GaussianStart(AbundancePrior):
    """``c_0 ~ N(nu, diag(gamma)^2)`` with learned nu (from 0) and gamma, eqs. (19)-(20)."""

    def __init__(self, *, initial_scale: float = 1.0) -> None:
        super().__init__()
        self.initial_scale = in_range(initial_scale, "initial_scale", low=0, open_low=True)

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        (num_endmembers,) = sizes
        self.initial_loc = nn.Parameter(torch.zeros(num_endmembers))
        start = torch.full((num_endmembers,), math.log(self.initial_scale))
        self.log_initial_scale = nn.Parameter(start)

    def initial(self, index: Tensor | None = None) -> TorchDistribution:
        return DiagonalNormal(self.initial_loc, self.log_initial_scale.exp())


class SoftmaxWalk(GaussianStart):
    """``c_t ~ N(c_{t-1}, sigma_a(c_{t-1})^2 I)``, eq. (18), sigma_a a small learned network.

    ``sigma_a = exp(W_R relu(... relu(W_1 c + b_1) ...) + b_R)`` with `num_layers` layers, hidden ones of P neurons,
    Glorot initialisation and zero biases. (Table I counts P outputs for the last layer; a scalar needs one.) The
    exponent is held within -5 and 5, so that a simulated walk whose scale grows with |c| does not overflow.

    Parameters
    ----------
    num_layers : int
        R; the paper uses 2.
    initial_scale : float
        gamma_0 of eq. (20), from which it is learned.

    References
    ----------
    ReDSUNN paper, eqs. (14)-(20).
    """

    def __init__(self, *, num_layers: int = 2, initial_scale: float = 1.0) -> None:
        super().__init__(initial_scale=initial_scale)
        self.num_layers = positive_int(num_layers, "num_layers")

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        super().setup(*sizes, generator=generator)
        (num_endmembers,) = sizes
        for layer in range(self.num_layers):
            outputs = 1 if layer == self.num_layers - 1 else num_endmembers
            weight = torch.empty(outputs, num_endmembers)
            nn.init.xavier_uniform_(weight, generator=generator)
            setattr(self, f"weight_{layer}", nn.Parameter(weight))
            setattr(self, f"bias_{layer}", nn.Parameter(torch.zeros(outputs)))

    def scale(self, c: Tensor) -> Tensor:
        """sigma_a(c), shape (..., 1)."""
        return self._log_scale(c).exp()

    def _log_scale(self, c: Tensor) -> Tensor:
        hidden = c
        for layer in range(self.num_layers):
            if layer:
                hidden = hidden.relu()
            weight, bias = getattr(self, f"weight_{layer}"), getattr(self, f"bias_{layer}")
            hidden = nn.functional.linear(hidden, weight, bias)
        return hidden.clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE)

    def transitions(self, index: Tensor | None = None) -> Transition:
        def transition(previous: Tensor, step: int) -> TorchDistribution:
            return IsotropicNormal(previous, self._log_scale(previous).squeeze(-1))

        return transition

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        return self.scale(previous).squeeze(-1).expand(mean_square.shape)


class JumpWalk(GaussianStart):
    """Slow drift with rare jumps: ``c_t ~ (1 - rho) N(c_{t-1}, s^2 I) + rho N(c_{t-1}, S^2 I)``.

    A Gaussian step must choose between smoothing the drift and following abrupt changes; this mixture does both.
    All three numbers and the initial distribution are learned from the given start.

    Parameters
    ----------
    scale : float
        s, std of one softmax coordinate's drift from date to date.
    jump_scale : float
        S, std of a jump.
    jump_probability : float
        rho, per pixel and date.
    initial_scale : float
        gamma_0.
    """

    def __init__(
        self,
        *,
        scale: float = 0.2,
        jump_scale: float = 3.0,
        jump_probability: float = 0.05,
        initial_scale: float = 2.5,
    ) -> None:
        super().__init__(initial_scale=initial_scale)
        self.start = (
            math.log(in_range(scale, "scale", low=0, open_low=True)),
            math.log(in_range(jump_scale, "jump_scale", low=scale)),
            _logit(in_range(jump_probability, "jump_probability", low=1e-6, high=0.5)),
        )

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        super().setup(*sizes, generator=generator)
        log_scale, log_jump_scale, jump_logit = self.start
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.log_jump_scale = nn.Parameter(torch.tensor(log_jump_scale))
        self.jump_logit = nn.Parameter(torch.tensor(jump_logit))

    def _steps(self) -> JumpSteps:
        size = len(self.initial_loc)
        return JumpSteps(self.log_scale, self.log_jump_scale, self.jump_logit, size)

    def transitions(self, index: Tensor | None = None) -> Transition:
        steps = self._steps()
        return lambda previous, step: JumpNormal(previous, steps)

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        steps = self._steps()
        jump = steps.jump_probability(mean_square * previous.shape[-1])
        drift, leap = steps.scales.pow(-2)
        return ((1 - jump) * drift + jump * leap).rsqrt()


class KnownAbundances(AbundancePrior):
    """Abundances held at given values (a point mass), to learn only the endmembers' variability.

    Parameters
    ----------
    abundances : array, shape (N, T, P)
        One row per pixel of the scene, row-major over (y, x); on the simplex. Zeros are held at 1e-8.
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

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        (num_endmembers,) = sizes
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


# ------------------------------------------------------------------------------- variability


class VariabilityPrior(Part):
    """A linear-Gaussian chain: ``psi_t ~ N(coefficient psi_{t-1}, diag(step_scale)^2)``.

    Subclasses give the chain's four vectors; `initial` and `transition` follow from them, and so does the exact
    conditional that `ConjugateGuide` computes.
    """

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(coefficient, step_scale, initial_loc, initial_scale)``, each of shape (K P,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement chain()")

    def initial(self) -> TorchDistribution:
        _, _, loc, scale = self.chain()
        return DiagonalNormal(loc, scale)

    def transitions(self) -> Callable[[Tensor], TorchDistribution]:
        """A function ``previous -> distribution`` with the chain's vectors computed once."""
        coefficient, scale, _, _ = self.chain()
        log_det = scale.log().sum(-1)
        return lambda previous: DiagonalNormal(coefficient * previous, scale, log_det)

    def marginals(self, num_dates: int) -> tuple[Tensor, Tensor]:
        """Means and variances of ``psi_1 .. psi_T``, each of shape (T, K P)."""
        coefficient, step_scale, loc, scale = self.chain()
        variance = scale.square()
        locs, variances = [], []
        for _ in range(num_dates):
            loc = coefficient * loc
            variance = coefficient.square() * variance + step_scale.square()
            locs.append(loc)
            variances.append(variance)
        return torch.stack(locs), torch.stack(variances)


class RandomWalk(VariabilityPrior):
    """``psi_t ~ N(psi_{t-1}, sigma_psi^2 I)``, eq. (11), from ``psi_0 ~ N(nu, diag(gamma)^2)``, eq. (21).

    Parameters
    ----------
    scale : float
        sigma_psi, a standard deviation (the published program's 1e-5 is the variance).
    learn : bool
        Learn sigma_psi; the paper keeps it. nu (from 0) and gamma (from `initial_scale`) are always learned.
    initial_scale : float
    """

    def __init__(
        self, scale: float = 1e-5**0.5, *, learn: bool = False, initial_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.start_scale = in_range(scale, "scale", low=0, open_low=True)
        self.initial_start = in_range(initial_scale, "initial_scale", low=0, open_low=True)
        self.learn = learn

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        num_endmembers, num_components = sizes
        size = num_endmembers * num_components
        log_scale = torch.tensor(math.log(self.start_scale))
        if self.learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.initial_loc = nn.Parameter(torch.zeros(size))
        self.log_initial_scale = nn.Parameter(torch.full((size,), math.log(self.initial_start)))

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
    """

    def __init__(self, coefficient: float = 0.5, scale: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        self.start_coefficient = in_range(coefficient, "coefficient", low=0, high=0.9999)
        self.start_scale = in_range(scale, "scale", low=0, open_low=True)
        self.learn = learn

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        num_endmembers, num_components = sizes
        phi = min(max(self.start_coefficient, 1e-4), 1 - 1e-4)
        logit = torch.tensor(_logit(phi))
        log_scale = torch.full((num_endmembers * num_components,), math.log(self.start_scale))
        if self.learn:
            self.logit, self.log_scale = nn.Parameter(logit), nn.Parameter(log_scale)
        else:
            self.register_buffer("logit", logit)
            self.register_buffer("log_scale", log_scale)

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
    """

    def __init__(self, scale: float = 1.0, *, learn: bool = True) -> None:
        super().__init__()
        self.start_scale = in_range(scale, "scale", low=0, open_low=True)
        self.learn = learn

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        num_endmembers, num_components = sizes
        log_scale = torch.full((num_endmembers * num_components,), math.log(self.start_scale))
        if self.learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = self.log_scale.exp()
        zeros = torch.zeros_like(scale)
        return zeros, scale, zeros, scale


# ------------------------------------------------------------------------------- noise


class Noise(Part):
    """Distribution of a pixel's spectrum about its noiseless mean."""

    def distributions(self) -> Callable[[Tensor], TorchDistribution]:
        """A function ``mean (..., L) -> distribution`` of event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must implement distributions()")


class WhiteNoise(Noise):
    """``y ~ N(mean, sigma_r^2 I)``, eq. (22).

    Parameters
    ----------
    scale : float
        sigma_r, reflectance. The paper starts at 0.01 (its printed 0.0001 is the variance: 35 dB).
    learn : bool
    """

    def __init__(self, scale: float = 0.01, *, learn: bool = True) -> None:
        super().__init__()
        self.start_scale = in_range(scale, "scale", low=0, open_low=True)
        self.learn = learn

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        log_scale = torch.tensor(math.log(self.start_scale))
        if self.learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """sigma_r, a scalar."""
        return self.log_scale.exp()

    def distributions(self) -> Callable[[Tensor], TorchDistribution]:
        log_scale = self.log_scale
        return lambda mean: IsotropicNormal(mean, log_scale)
