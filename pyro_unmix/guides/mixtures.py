"""Mixtures of Gaussians whose draws carry exact gradients of everything, weights included."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from pyro_unmix.guides.families import Family, White
from pyro_unmix.ops.checks import positive_int

_LOG_2PI = math.log(2 * math.pi)
_EDGE = 1e-9  # of a uniform number that becomes a normal one
_APART = 0.5  # between the locations of components at the start, in units of the Gaussian's std


class CornerMixture(Family):
    """A mixture of K Gaussians of any location, weight and covariance around each Gaussian of the guide.

    Where a material may be absent, the likelihood says only that its abundance is below some small number: in the
    softmax basis the posterior has a steep side and a long one, which the prior alone ends. No Gaussian does both;
    here one component stands at the mode and others in the corner. The components start one after the other about the
    Gaussian, half a standard deviation apart in every coordinate.

    Parameters
    ----------
    num_components : int
        K.

    References
    ----------
    Figurnov, Mohamed, Mnih, "Implicit reparameterization gradients", NeurIPS 2018 (the gradients).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.MeanFieldGuide(model, family=pu.guides.CornerMixture(2))
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(self, num_components: int = 2) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")

    def num_parameters(self, size: int) -> int:
        return self.num_components * _per_component(size)

    def start(self, size: int) -> Tensor:
        start = torch.zeros(self.num_components, _per_component(size))
        order = torch.arange(self.num_components, dtype=start.dtype)
        start[:, 1 : size + 1] = _APART * (order - order.mean())[:, None]
        return start.flatten()

    def white(self, parameters: Tensor, size: int) -> NormalMixture:
        return NormalMixture(parameters, size, self.num_components)


def _per_component(size: int) -> int:
    return 1 + 2 * size + size * (size - 1) // 2


class NormalMixture(White):
    """``sum_k w_k N(m_k, Sigma_k)`` in D dimensions, drawn with pathwise gradients.

    ``w = softmax(logits)``; given component k and the coordinates before d, ``x_d ~ N(m_kd + sum_{j<d} B_kdj (x_j -
    m_kj), s_kd^2)``. A draw picks a component and then is a Gaussian draw. Its gradient is not that of this recipe,
    which has none for the weights, but the implicit one of the conditional distribution functions,
    ``dx_d = -dF_d(x_d | x_{<d}) / f_d(x_d | x_{<d})``: that of moving probability continuously, whichever way the
    draw was made.

    Parameters
    ----------
    parameters : Tensor, shape (..., K (1 + 2 D + D (D - 1) / 2))
        Of each component: logit, m, log s, and B row by row.
    size : int
        D.
    num_components : int
        K.

    References
    ----------
    Figurnov, Mohamed, Mnih, "Implicit reparameterization gradients", NeurIPS 2018, eq. (8) and Sec. 4.
    """

    batched: ClassVar = {"parameters": 1, "logits": 1, "loc": 2, "log_scale": 2, "_rows": 2}

    def __init__(self, parameters: Tensor, size: int, num_components: int) -> None:
        self.parameters, self.size, self.num_components = parameters, size, num_components
        parts = parameters.unflatten(-1, (num_components, -1))
        self.logits = parts[..., 0]
        self.loc = parts[..., 1 : size + 1]
        self.log_scale = parts[..., size + 1 : 2 * size + 1]
        self._rows = parts[..., 2 * size + 1 :]
        super().__init__(parameters.shape[:-1], torch.Size([size]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (torch.softmax(self.logits, -1).unsqueeze(-1) * self.loc).sum(-2)

    def _row(self, d: int) -> Tensor:
        """``B_kd.`` (..., K, d)."""
        return self._rows[..., d * (d - 1) // 2 : d * (d + 1) // 2]

    @torch.no_grad()
    def _drawn(self, noise: Tensor) -> Tensor:
        """Draws (..., D): the first coordinate of the noise also picks the component."""
        # In double precision: what is left of a uniform number within a rare component is a small part of it.
        uniform = torch.special.ndtr(noise[..., :1].double())
        above = torch.softmax(self.logits.double(), -1).cumsum(-1)
        picked = (uniform > above[..., :-1]).sum(-1, keepdim=True)
        shape = torch.broadcast_shapes(picked.shape[:-1], above.shape[:-1])
        edges = torch.nn.functional.pad(above, (1, 0)).expand(*shape, -1)
        picked = picked.expand(*shape, 1)
        low, high = edges.gather(-1, picked), edges.gather(-1, picked + 1)
        left = ((uniform - low) / (high - low)).clamp(_EDGE, 1 - _EDGE)
        first = torch.special.ndtri(left).to(noise.dtype)

        def of_picked(values: Tensor) -> Tensor:
            index = picked.unsqueeze(-1).expand(*shape, 1, values.shape[-1])
            return values.expand(*shape, *values.shape[-2:]).gather(-2, index).squeeze(-2)

        loc, scale = of_picked(self.loc), of_picked(self.log_scale).exp()
        moves: list[Tensor] = []
        for d in range(self.size):
            move = scale[..., d] * (noise[..., d] if d else first[..., 0])
            if d:
                move = move + (of_picked(self._row(d)) * torch.stack(moves, -1)).sum(-1)
            moves.append(move)
        return loc + torch.stack(moves, -1)

    def from_noise(self, noise: Tensor) -> Tensor:
        drawn = self._drawn(noise)
        if not (torch.is_grad_enabled() and self.parameters.requires_grad):
            return drawn
        value, log_prob = self._followed(drawn, implicit=True)
        self._last = (value, log_prob)
        return value

    def _followed(self, x: Tensor, implicit: bool) -> tuple[Tensor, Tensor]:
        """The same x, with the gradients of a draw if asked for, and its log-density, coordinate by coordinate."""
        log_joint = torch.log_softmax(self.logits, -1) - 0.5 * self.size * _LOG_2PI
        values: list[Tensor] = []
        moves: list[Tensor] = []
        for d in range(self.size):
            mean, log_scale = self.loc[..., d], self.log_scale[..., d]
            if d:
                mean = mean + (self._row(d) * torch.stack(moves, -1)).sum(-1)
            value = x[..., d]
            if implicit:
                value = _implicit(value, torch.softmax(log_joint, -1), mean, log_scale)
            z = (value.unsqueeze(-1) - mean) * (-log_scale).exp()
            log_joint = log_joint - 0.5 * z.square() - log_scale
            values.append(value)
            moves.append(value.unsqueeze(-1) - self.loc[..., d])
        return torch.stack(values, -1), torch.logsumexp(log_joint, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and value is self._last[0]:
            return self._last[1]
        return self._followed(value, implicit=False)[1]


def _implicit(value: Tensor, weights: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The same value, with the gradient ``-dF / f`` of a draw of a mixture on the line."""
    z = (value.unsqueeze(-1) - mean) * (-log_scale).exp()
    cumulative = (weights * torch.special.ndtr(z)).sum(-1)
    with torch.no_grad():
        density = (weights * torch.exp(-0.5 * (z.square() + _LOG_2PI) - log_scale)).sum(-1)
        density = density.clamp(min=torch.finfo(density.dtype).tiny)
    return value - (cumulative - cumulative.detach()) / density
