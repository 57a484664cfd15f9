"""Forward physics on tensors: simplex maps, spectral bases and the smooth linear mixing of eq. (7).

The per-pixel endmembers ``M_n = M0 + sum_k F_k diag(psi_k)`` are linear in the variability ``psi``, so a pixel is
``M_n a = design @ features`` with ``design = [M0, F_1, ..., F_K]`` (L x P(K+1)) and ``features = [a, psi_1 * a, ...]``:
no (pixels, L, P) array is ever formed while fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.ops.checks import in_range, positive
from pyro_unmix.ops.perceptrons import perceptron
from pyro_unmix.ops.simplex import clip_to_simplex, tile_components
from pyro_unmix.priors.part import Need, Part

__all__ = ["BilinearMixing", "LinearMixing", "Mixing", "TwoStreamMixing"]

_RIDGE = 1e-6


def design_matrix(endmembers: Tensor, components: Tensor) -> Tensor:
    """``[M0, F_1, ..., F_K]``, shape (L, (K+1)P), component outer and material inner."""
    return torch.cat([endmembers[:, None, :], components], dim=1).flatten(1)


def mixing_features(abundances: Tensor, variability: Tensor) -> Tensor:
    """``[a, psi_1 * a, ..., psi_K * a]``, so that ``M_n a = design @ features``.

    Of shapes (..., P) and (..., K P), component outer and material inner: (..., (K+1) P).
    """
    repeats = variability.shape[-1] // abundances.shape[-1]
    return torch.cat([abundances, variability * tile_components(abundances, repeats)], dim=-1)


def linear_regression(gram: Tensor, projected: Tensor, variability: Tensor) -> Tensor:
    """``M_n^+ y`` through normal equations, without forming ``M_n``.

    ``M_n'M_n`` and ``M_n'y`` are sums over components of ``design'design`` (`gram`, (Q, Q) with Q = (K+1) P) and
    ``design'y`` (`projected`, (..., Q)), weighted by 1 and psi (..., K P). A ridge of 1e-6 of the mean eigenvalue
    stands in for the pseudo-inverse's cut-off.
    """
    return _Regression.apply(gram, projected, variability)


class _Regression(torch.autograd.Function):
    """`linear_regression` with its gradient in closed form: it is called at every date of every step.

    With ``w = [1, psi]``, ``E = diag(w)`` summed over components (P x Q), ``N = E G E'`` and ``m = E b``, where
    ``G = design'design`` and ``b = design'y``: ``x = (N + kappa tr(N) I)^-1 m``.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, projected: Tensor, variability: Tensor) -> Tensor:
        size = projected.shape[-1]
        num_endmembers = size - variability.shape[-1]
        select = torch.eye(num_endmembers, dtype=gram.dtype, device=gram.device)
        select = select.repeat(1, size // num_endmembers)
        ones = variability.new_ones(*variability.shape[:-1], num_endmembers)
        weights = torch.cat([ones, variability], dim=-1)
        spread = weights.unsqueeze(-2) * select
        spread_gram = spread @ gram
        normal = spread_gram @ spread.mT
        diagonal = normal.diagonal(dim1=-2, dim2=-1)
        diagonal += _RIDGE * diagonal.mean(-1, keepdim=True)
        factor = torch.linalg.cholesky(normal)
        moment = (projected * weights) @ select.mT
        solution = torch.cholesky_solve(moment.unsqueeze(-1), factor)
        ctx.save_for_backward(projected, select, weights, spread, spread_gram, factor, solution)
        return solution.squeeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        projected, select, weights, spread, spread_gram, factor, solution = ctx.saved_tensors
        num_endmembers = len(select)
        # dL = l'(dm - dN x - kappa tr(dN) x) with l = (N + kappa tr(N) I)^-1 grad
        adjoint = torch.cholesky_solve(grad.unsqueeze(-1), factor)
        outer = adjoint @ solution.mT
        diagonal = outer.diagonal(dim1=-2, dim2=-1)
        diagonal += _RIDGE / num_endmembers * diagonal.sum(-1, keepdim=True)
        tiled = tile_components(adjoint.squeeze(-1), select.shape[1] // num_endmembers)
        by_gram = by_projected = by_variability = None
        if ctx.needs_input_grad[0]:
            by_gram = -(spread.flatten(0, -2).mT @ (outer @ spread).flatten(0, -2))
        if ctx.needs_input_grad[1]:
            by_projected = (tiled * weights).sum_to_size(projected.shape)
        if ctx.needs_input_grad[2]:
            pulled = ((outer + outer.mT) @ spread_gram).mul_(select).sum(-2)
            by_weights = (tiled * projected).sub_(pulled).sum_to_size(weights.shape)
            by_variability = by_weights[..., num_endmembers:]
        return by_gram, by_projected, by_variability


def change_detector(regression: Tensor, previous: Tensor) -> Tensor:
    """``u = 1/2 || s(M^+ y) - a_prev ||_1`` in [0, 1], shape (...,); below equation (44), with its scale mended.

    The paper prints ``1/(2P)``, which keeps u below 1/P; with 1/2 it is the total-variation distance.
    """
    return 0.5 * (clip_to_simplex(regression) - previous).abs().sum(-1)


_LEAST = 1e-3


class Mixing(Part):
    """What a pixel of given endmembers and abundances looks like without noise.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.mixing.LinearMixing(), pu.mixing.Mixing)
    True
    """

    #: Whether `nonlinear` is zero, so that nobody need compute it.
    is_linear = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.NONLINEAR_MIXING})

    def setup(self, *, num_bands: int, num_endmembers: int, generator: torch.Generator) -> None:
        """Create the parameters."""

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """The nonlinear stream g, (..., L, P) and (..., P) -> (..., L)."""
        raise NotImplementedError(f"{type(self).__name__} must implement nonlinear()")

    def forward(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """``M a + g(M, a)``, (..., L, P) and (..., P) -> (..., L)."""
        linear = linear_mixing(endmembers, abundances)
        return linear if self.is_linear else linear + self.nonlinear(endmembers, abundances)

    def penalised(self) -> list[Tensor]:
        """Weights and biases of the nonlinear stream that an objective may hold small."""
        return []


def linear_mixing(endmembers: Tensor, abundances: Tensor) -> Tensor:
    """``M a``, (..., L, P) and (..., P) -> (..., L)."""
    return (endmembers @ abundances.unsqueeze(-1)).squeeze(-1)


class LinearMixing(Mixing):
    """``y = M a``: no nonlinear stream.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> M = torch.tensor([[.1, .5], [.2, .4]])
    >>> a = torch.tensor([.5, .5])
    >>> pu.mixing.LinearMixing()(M, a)
    tensor([0.3000, 0.3000])
    """

    is_linear = True
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self) -> None:  # of its own, so that its recipe is recorded
        super().__init__()

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        return torch.zeros_like(endmembers[..., 0])


class BilinearMixing(Mixing):
    """``g(M, a) = sum_{p<q} gamma_pq a_p a_q m_p * m_q``: light that met two materials.

    One number in [0, 1] per pair of materials, learned: 0 is the linear model, 1 the model of Fan et al.

    Parameters
    ----------
    start : float or sequence of P (P-1) / 2 floats
        gamma at the start, in the order of `itertools.combinations`; inside (0, 1).

    References
    ----------
    Fan et al., "Comparative study between a new nonlinear model and common linear model for analysing laboratory
    simulated-forest hyperspectral data", Int. J. Remote Sensing 30(11), 2009; Halimi et al., IEEE TGRS 49(11), 2011.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(), mixing=pu.mixing.BilinearMixing(0.8))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, start: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        self.start = [float(value) for value in np.atleast_1d(np.asarray(start, dtype=float))]
        for value in self.start:
            in_range(value, "start", 0.0, 1.0, open_low=True)

    def setup(self, *, num_bands: int, num_endmembers: int, generator: torch.Generator) -> None:
        num_pairs = num_endmembers * (num_endmembers - 1) // 2
        if len(self.start) not in (1, num_pairs):
            raise ValueError(
                f"start must be one number or {num_pairs}, one per pair of materials, got "
                f"{len(self.start)}"
            )
        start = torch.tensor(self.start).clamp(_LEAST, 1 - _LEAST)
        self.learn_or_keep("logit_strength", start.logit(), num_pairs)

    @property
    def strength(self) -> Tensor:
        """gamma of every pair of materials, in the order of `itertools.combinations`."""
        return torch.sigmoid(self.logit_strength)

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        strength, p = self.strength, abundances.shape[-1]
        parts = endmembers * abundances.unsqueeze(-2)
        # gamma_pq a_p m_p summed over p for every q, then one product with a_q m_q
        pairs = torch.triu_indices(p, p, 1, device=strength.device).unbind()
        matrix = strength.new_zeros(p, p).index_put(pairs, strength)
        return ((parts @ matrix) * parts).sum(-1)


class TwoStreamMixing(Mixing):
    """IDNet's mixing: ``y = relu(M a + 0.1 g(vec M, a))`` with a perceptron g.

    g: P (L+1) -> P L -> L -> L -> L, ReLU.

    Parameters
    ----------
    scale : float
        The 0.1.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, "Learning interpretable deep disentangled neural networks for hyperspectral
    unmixing", IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.mixing.TwoStreamMixing(0.1), pu.mixing.Mixing)
    True
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = positive(scale, "scale")

    def setup(self, *, num_bands: int, num_endmembers: int, generator: torch.Generator) -> None:
        p = num_endmembers
        layers = (p * (num_bands + 1), p * num_bands, *(num_bands,) * 3)
        self.net = perceptron(layers, generator)

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        lead = torch.broadcast_shapes(endmembers.shape[:-2], abundances.shape[:-1])
        spectra = endmembers.mT.flatten(-2).expand(*lead, -1)
        return self.scale * self.net(torch.cat([spectra, abundances.expand(*lead, -1)], dim=-1))

    def forward(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        return super().forward(endmembers, abundances).relu()

    def penalised(self) -> list[Tensor]:
        return list(self.net.parameters())
