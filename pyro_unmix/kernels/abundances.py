"""Moves of mass between pairs of materials: abundances exactly on the simplex, corners and faces included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, State, Whitened
from pyro_unmix.kernels.truncated import truncated_normal

_TINY = 1e-290  # abundances do not underflow, so that their logarithms stay finite
_LIKELY, _CORNER = (
    0.5,
    0.25,
)  # shares of the proposals that follow the likelihood, and each end's prior
_HALF_LOG_TURN = 0.5 * math.log(2 * math.pi)


class MassMoves:
    """For every pair of materials i, j: ``(a_i, a_j) -> (x, a_i + a_j - x)``, r integrated out.

    The likelihood of x is normal, ``N(mu, 1 / h)`` with ``h = G_ii + G_jj - 2 G_ij``, G the pixel's own
    ``M_n' C^-1 M_n``, and the prior is ``(x (s - x))^(alpha - 1)`` with ``s = a_i + a_j``. One Metropolis-Hastings step
    with an independent proposal: half of the time the likelihood's normal within [0, s], else one of the prior's
    powers, x or s - x being ``s u^(1/alpha)``. The powers reach what no likelihood does: the prior of a sparse mixture
    has much of its mass so close to zero that all of it looks the same. Target over proposal is bounded, so that the
    step mixes uniformly.

    Examples
    --------
    >>> MassMoves()
    MassMoves()
    """

    def __repr__(self) -> str:
        return "MassMoves()"

    def __call__(self, state: State, spectra: Spectra) -> State:
        gram, pull = self.quadratic(state, Whitened(state, spectra))
        columns = [column.clamp(min=_TINY) for column in state.abundances.unbind(-1)]
        for i in range(1, len(columns)):
            for j in range(i):
                columns[i], columns[j] = self._move(columns, i, j, gram, pull, state, spectra)
        abundances = torch.stack(columns, dim=-1)
        total = abundances.sum(-1, keepdim=True)  # one, but for rounding
        return state.having(abundances=abundances / total, residual=None)

    @staticmethod
    def quadratic(state: State, products: Whitened) -> tuple[Tensor, Tensor]:
        """``M_n' C^-1 M_n`` (N, P, P) and ``M_n' C^-1 y_n`` (N, P) of the pixels' own endmembers.

        The log-likelihood of abundances a, r integrated out, is ``a' pull - a' gram a / 2`` plus a constant.
        """
        count, num_endmembers = state.abundances.shape
        light = (1 + state.brightness_scale * state.brightness).unsqueeze(-1)
        weights = torch.cat(
            [light.expand(-1, num_endmembers), state.scales * state.variability], dim=-1
        )
        blocks = weights.shape[-1] // num_endmembers
        weights = weights.reshape(count, blocks, num_endmembers)
        by_row = products.gram.reshape(blocks, num_endmembers, -1).transpose(0, 1)  # (P, K+1, Q)
        half = weights.permute(2, 0, 1) @ by_row
        half = half.reshape(num_endmembers, count, blocks, num_endmembers)
        gram = (half * weights).sum(2).transpose(0, 1)
        pull = (weights * products.projected.reshape(weights.shape)).sum(1)
        return gram, pull

    @staticmethod
    def _move(
        columns: list[Tensor],
        i: int,
        j: int,
        gram: Tensor,
        pull: Tensor,
        state: State,
        spectra: Spectra,
    ) -> tuple[Tensor, Tensor]:
        first, second = columns[i], columns[j]
        mass, count = first + second, len(first)
        precision = gram[:, i, i] + gram[:, j, j] - 2 * gram[:, i, j]
        scale = precision.clamp(min=_TINY).rsqrt()
        slope = pull[:, i] - pull[:, j]
        for p, column in enumerate(columns):
            slope = slope - (gram[:, i, p] - gram[:, j, p]) * column
        loc, alpha = first + slope * scale.square(), state.concentration
        likely, inside = truncated_normal(
            loc, scale, torch.zeros_like(mass), mass, spectra.uniform(count)
        )
        small = mass * spectra.uniform(count) ** (1 / alpha)
        kind = spectra.uniform(count)
        new = torch.where(kind < _LIKELY, likely, torch.where(kind < 0.75, small, mass - small))
        rest = torch.where(
            kind < _LIKELY, mass - likely, torch.where(kind < 0.75, mass - small, small)
        )
        new, rest = new.clamp(min=_TINY), rest.clamp(min=_TINY)

        def gain(x: Tensor, other: Tensor) -> Tensor:
            """Log of target over proposal."""
            normal = -0.5 * ((x - loc) / scale).square()
            target = normal + (alpha - 1) * (x.log() + other.log())
            power = math.log(_CORNER) + alpha.log() - alpha * mass.log()
            parts = [
                math.log(_LIKELY) + normal - _HALF_LOG_TURN - scale.log() - inside.log(),
                power + (alpha - 1) * x.log(),
                power + (alpha - 1) * other.log(),
            ]
            return target - torch.stack(parts).logsumexp(0)

        accept = spectra.uniform(count).log() < gain(new, rest) - gain(first, second)
        return torch.where(accept, new, first), torch.where(accept, rest, second)
