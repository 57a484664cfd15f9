"""How abundances move from date to date, in the softmax basis.

Every walk takes a start (``initial=``, an `InitialAbundances`) and, where the model knows its dates, the units of time
Delta that pass before each date; without dates Delta is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_unmix.ops.checks import in_range, positive, positive_int
from pyro_unmix.ops.distributions import IsotropicNormal, IsotropicStudentT, JumpNormal, JumpSteps
from pyro_unmix.priors.abundances import GaussianStart
from pyro_unmix.priors.initial_abundances import InitialAbundances
from pyro_unmix.priors.part import Transition, logit

_MAX_LOG_SCALE = 5.0


def _widened(log_scale: Tensor, elapsed: Tensor | None) -> Tensor:
    """Log of a walk's std after that time: its variance grows with time."""
    return log_scale if elapsed is None else log_scale + 0.5 * elapsed.log()


class Walk(GaussianStart):
    """Base of walks whose steps over equal times are of one law: subclasses give `step` and `step_scale`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.JumpWalk(), pu.priors.Walk)
    True
    """

    alike = True

    def step(self, previous: Tensor, elapsed: Tensor | None) -> TorchDistribution:
        """Distribution of the next state, so many units of time later (None: one)."""
        raise NotImplementedError(f"{type(self).__name__} must implement step()")

    def transitions(self, index: Tensor | None = None) -> Transition:
        return lambda previous, step: self.step(previous, self.elapsed_at(step))


class NetworkWalk(Walk):
    """``c_t ~ N(c_{t-1}, Delta sigma(c_{t-1})^2 I)``, sigma by a network: subclasses give `log_scale`."""

    alike = True

    def log_scale(self) -> Callable[[Tensor], Tensor]:
        """A function c (..., P) -> ``log sigma(c)`` (...): every access to a parameter is a message of Pyro."""
        raise NotImplementedError(f"{type(self).__name__} must implement log_scale()")

    def transitions(self, index: Tensor | None = None) -> Transition:
        log_scale = self.log_scale()
        return lambda previous, step: IsotropicNormal(
            previous, _widened(log_scale(previous), self.elapsed_at(step))
        )

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        log_scale = _widened(self.log_scale()(previous), self.elapsed)
        return log_scale.exp().expand(mean_square.shape)


class SoftmaxWalk(NetworkWalk):
    """``c_t ~ N(c_{t-1}, Delta sigma_a(c_{t-1})^2 I)``, equation (18), sigma_a a small learned network.

    ``sigma_a = exp(W_R relu(... relu(W_1 c + b_1) ...) + b_R)`` with `num_layers` layers, hidden ones of P neurons,
    Glorot initialisation and zero biases. (Table I counts P outputs for the last layer; a scalar needs one.) The
    exponent is held within -5 and 5, so that a simulated walk whose scale grows with ``|c|`` does not overflow.

    Parameters
    ----------
    num_layers : int
        R; the paper uses 2.
    initial_scale, initial
        Of `GaussianStart`.

    References
    ----------
    ReDSUNN paper, eqs. (14)-(20).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.SoftmaxWalk())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        *,
        num_layers: int = 2,
        initial_scale: float = 1.0,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(initial_scale=initial_scale, initial=initial)
        self.num_layers = positive_int(num_layers, "num_layers")

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        super().setup(num_endmembers=num_endmembers, generator=generator)
        for layer in range(self.num_layers):
            outputs = 1 if layer == self.num_layers - 1 else num_endmembers
            weight = torch.empty(outputs, num_endmembers)
            nn.init.xavier_uniform_(weight, generator=generator)
            self.learn_or_keep(f"weight_{layer}", weight)
            self.learn_or_keep(f"bias_{layer}", 0.0, outputs)

    def scale(self, c: Tensor) -> Tensor:
        """sigma_a(c), shape (..., 1)."""
        return self.log_scale()(c).exp().unsqueeze(-1)

    def log_scale(self) -> Callable[[Tensor], Tensor]:
        names = [(f"weight_{layer}", f"bias_{layer}") for layer in range(self.num_layers)]
        layers = [(getattr(self, weight), getattr(self, bias)) for weight, bias in names]

        def network(c: Tensor) -> Tensor:
            for number, (weight, bias) in enumerate(layers):
                c = nn.functional.linear(c.relu() if number else c, weight, bias)
            return c.squeeze(-1).clamp(-_MAX_LOG_SCALE, _MAX_LOG_SCALE)

        return network


class JumpWalk(Walk):
    """Slow drift with rare jumps: ``c_t ~ (1 - rho) N(c_{t-1}, s^2 I) + rho N(c_{t-1}, S^2 I)``.

    A Gaussian step must choose between smoothing the drift and following abrupt changes; this mixture does both.
    With dates, drift and jumps grow with time: ``s^2 Delta`` for s^2 and ``1 - (1 - rho)^Delta`` for rho. All three
    numbers and the initial distribution are learned from the given start.

    Parameters
    ----------
    scale : float
        s, std of one softmax coordinate's drift from date to date.
    jump_scale : float
        S, std of a jump.
    jump_probability : float
        rho, per pixel and date.
    initial_scale, initial
        Of `GaussianStart`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.JumpWalk())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    alike = True

    def __init__(
        self,
        *,
        scale: float = 0.2,
        jump_scale: float = 3.0,
        jump_probability: float = 0.05,
        initial_scale: float = 2.5,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(initial_scale=initial_scale, initial=initial)
        self.declare("log_scale", math.log(positive(scale, "scale")))
        self.declare("log_jump_scale", math.log(in_range(jump_scale, "jump_scale", low=scale)))
        probability = in_range(jump_probability, "jump_probability", low=1e-6, high=0.5)
        self.declare("jump_logit", logit(probability))

    def setup(self, *, num_endmembers: int, generator: torch.Generator) -> None:
        super().setup(num_endmembers=num_endmembers, generator=generator)
        self.size = num_endmembers

    def _steps(self, elapsed: Tensor | None = None) -> JumpSteps:
        odds: Tensor = self.jump_logit
        if elapsed is not None:  # 1 - rho' = (1 - rho)^Delta, in a form that does not overflow
            decay = elapsed * nn.functional.softplus(odds)
            odds = decay + torch.log(-torch.expm1(-decay))
        log_scale = _widened(self.log_scale, elapsed)
        return JumpSteps(log_scale, self.log_jump_scale, odds, self.size)

    def transitions(self, index: Tensor | None = None) -> Transition:
        if self.elapsed is None:
            steps = self._steps()
            return lambda previous, step: JumpNormal(previous, steps)
        return lambda previous, step: JumpNormal(previous, self._steps(self.elapsed_at(step)))

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        if self.elapsed is None:
            return self._stand_in(self._steps(), mean_square)
        dates = zip(self.elapsed, mean_square.unbind(-1), strict=True)
        return torch.stack([self._stand_in(self._steps(e), m) for e, m in dates], dim=-1)

    def _stand_in(self, steps: JumpSteps, mean_square: Tensor) -> Tensor:
        jump = steps.jump_probability(mean_square * self.size)
        drift, leap = steps.scales.pow(-2)
        return ((1 - jump) * drift + jump * leap).rsqrt()


class ConstantWalk(Walk):
    """``c_t ~ N(c_{t-1}, Delta s^2 I)``: a Gaussian walk of one scale.

    Parameters
    ----------
    scale : float
        s, std of one softmax coordinate's step in a unit of time.
    learn : bool
        Learn s from there.
    initial_scale, initial
        Of `GaussianStart`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.ConstantWalk(0.3))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        scale: float = 0.3,
        *,
        learn: bool = True,
        initial_scale: float = 1.0,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(initial_scale=initial_scale, initial=initial)
        self.declare("log_scale", math.log(positive(scale, "scale")), learn=learn)

    def step(self, previous: Tensor, elapsed: Tensor | None) -> TorchDistribution:
        return IsotropicNormal(previous, _widened(self.log_scale, elapsed))

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        return _widened(self.log_scale, self.elapsed).exp().expand(mean_square.shape)


class StudentWalk(ConstantWalk):
    """``c_t ~ t_nu(c_{t-1}, Delta s^2 I)``, multivariate Student-t: quiet for long, then abrupt.

    Its density is ``Gamma((nu + P) / 2) / (Gamma(nu / 2) (nu pi)^(P / 2) s^P)`` times
    ``(1 + |c_t - c_{t-1}|^2 / (nu s^2))^-((nu + P) / 2)``.
    (With dates, a step over Delta units is one Student-t of scale ``s sqrt(Delta)``, not a sum of Delta steps.)

    Parameters
    ----------
    scale : float
        s of a step in a unit of time.
    dof : float
        nu; 1 is a Cauchy, large ones are Gaussian.
    learn : bool
        Learn s and nu from there.
    initial_scale, initial
        Of `GaussianStart`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.StudentWalk(0.3, dof=3))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        scale: float = 0.3,
        *,
        dof: float = 3.0,
        learn: bool = True,
        initial_scale: float = 1.0,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(scale, learn=learn, initial_scale=initial_scale, initial=initial)
        self.declare("log_dof", math.log(positive(dof, "dof")), learn=learn)

    def step(self, previous: Tensor, elapsed: Tensor | None) -> TorchDistribution:
        return IsotropicStudentT(previous, _widened(self.log_scale, elapsed), self.log_dof.exp())

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        # The Gaussian whose precision is the expected one of the mixture that a Student-t is.
        variance = (2 * _widened(self.log_scale, self.elapsed)).exp()
        dof, size = self.log_dof.exp(), previous.shape[-1]
        return ((dof * variance + size * mean_square) / (dof + size)).sqrt()


class OrnsteinUhlenbeck(Walk):
    """``c_t ~ N(m + phi^Delta (c_{t-1} - m), s^2 (1 - phi^(2 Delta)) I)``: a walk that returns to a mean.

    m is learned, one number per material (from 0), and shared by all pixels.

    Parameters
    ----------
    coefficient : float in (0, 1)
        phi, correlation of two states a unit of time apart.
    scale : float
        s, std about m after a long time.
    learn : bool
        Learn m, phi and s.
    initial_scale, initial
        Of `GaussianStart`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), abundance_prior=pu.priors.OrnsteinUhlenbeck())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(
        self,
        coefficient: float = 0.9,
        scale: float = 2.0,
        *,
        learn: bool = True,
        initial_scale: float = 2.0,
        initial: InitialAbundances | None = None,
    ) -> None:
        super().__init__(initial_scale=initial_scale, initial=initial)
        coefficient = in_range(coefficient, "coefficient", low=1e-6, high=1 - 1e-6)
        self.declare("logit", logit(coefficient), learn=learn)
        self.declare("log_scale", math.log(positive(scale, "scale")), learn=learn)
        self.declare("loc", 0.0, per="num_endmembers", learn=learn)

    def _log_coefficient(self, elapsed: Tensor | None) -> Tensor:
        log_coefficient = nn.functional.logsigmoid(self.logit)
        return log_coefficient if elapsed is None else elapsed * log_coefficient

    def step(self, previous: Tensor, elapsed: Tensor | None) -> TorchDistribution:
        log_coefficient = self._log_coefficient(elapsed)
        mean = self.loc + log_coefficient.exp() * (previous - self.loc)
        shrunk = torch.log(-torch.expm1(2 * log_coefficient))  # log(1 - phi^2)
        return IsotropicNormal(mean, self.log_scale + 0.5 * shrunk)

    def step_scale(self, previous: Tensor, mean_square: Tensor) -> Tensor:
        # Root mean square of a step in the long run, 2 s^2 (1 - phi): a walk of steps as long.
        left = -torch.expm1(self._log_coefficient(self.elapsed))
        return (self.log_scale.exp() * (2 * left).sqrt()).expand(mean_square.shape)
