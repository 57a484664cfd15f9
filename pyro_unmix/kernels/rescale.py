"""Joint moves of a scale and of what it multiplies, along which the likelihood does not change."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.kernels.residual import drawn_residual
from pyro_unmix.kernels.state import Spectra, State


class RescaleMoves:
    """``(s, psi) -> (c s, psi / c)`` per component and material, and so for ``(v, b)`` and ``(U, r)``.

    Draws of one given the other move such a pair along its ridge by a step of ``1 / sqrt(N)`` only. Under the group's
    invariant measure ``dc / c`` the density of ``x = log c`` is, for A numbers of total ``S_A`` over their prior
    variance and N numbers of total ``S_N`` (squares summed)::

        log p(x) = (A - N) x - exp(2 x) S_A / 2 - exp(-2 x) S_N / 2 + constant

    which is log-concave: one Metropolis-Hastings step from x = 0 with the normal at its mode as proposal.

    References
    ----------
    Liu, Sabatti, "Generalised Gibbs sampler and multigrid Monte Carlo", Biometrika 87(2), 2000.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> state = pu.kernels.ResidualDraws()(state, spectra)
    >>> new = pu.kernels.RescaleMoves()(state, spectra)
    >>> new.abundances.sum(-1).round(decimals=6)
    tensor([1., 1., 1.], dtype=torch.float64)
    """

    def __repr__(self) -> str:
        return "RescaleMoves()"

    def __call__(self, state: State, spectra: Spectra) -> State:
        count = len(state.abundances)
        by = self._factors(1, state.scales.square(), count, state.variability, spectra)
        values: dict[str, Tensor | None] = {
            "scales": state.scales * by,
            "variability": state.variability / by,
        }
        square = (state.brightness_scale / spectra.model.brightness).square().reshape(1)
        by = self._factors(1, square, count, state.brightness.unsqueeze(-1), spectra).squeeze(0)
        values["brightness_scale"] = state.brightness_scale * by
        values["brightness"] = state.brightness / by
        if state.residual is not None:
            residual = drawn_residual(state)
            square = state.residual_factor.square().sum(0) / state.residual_variance
            by = self._factors(spectra.model.factor_size, square, count, residual, spectra)
            values.update(residual_factor=state.residual_factor * by, residual=residual / by)
        return state.having(**values)

    @staticmethod
    def _factors(
        size: int, square: Tensor, count: int, multiplied: Tensor, spectra: Spectra
    ) -> Tensor:
        """c (n,) of n pairs; `square` (n,) is S_A, `multiplied` (N, n) what is divided by c."""
        other = multiplied.square().sum(0)
        loc, scale = mode(size - count, square, other)
        start = torch.zeros_like(loc)
        proposed = loc + scale * spectra.normal(len(loc))

        def gain(x: Tensor) -> Tensor:
            proposal = -0.5 * ((x - loc) / scale).square()
            return log_density(x, size - count, square, other) - proposal

        accept = spectra.uniform(len(loc)).log() < gain(proposed) - gain(start)
        return torch.where(accept, proposed, start).exp()


def log_density(x: Tensor, power: int, square: Tensor, other: Tensor) -> Tensor:
    """``power x - exp(2 x) square / 2 - exp(-2 x) other / 2``."""
    return power * x - 0.5 * square * (2 * x).exp() - 0.5 * other * (-2 * x).exp()


def mode(power: int, square: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mode of `log_density`, and ``1 / sqrt`` of its curvature there."""
    # exp(2 x) = e solves square e^2 - power e - other = 0; the root without cancellation
    root = (power**2 + 4 * square * other).sqrt()
    e = 2 * other / (root - power) if power < 0 else (root + power) / (2 * square)
    return 0.5 * e.log(), (2 * square * e + 2 * other / e).rsqrt()
