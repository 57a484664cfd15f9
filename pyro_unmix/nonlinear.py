"""Mixing of a pixel in two streams, a linear one and a small nonlinear one: ``y = M a + g(M, a)``.

A mixing is an object that a model takes (``IDNet(endmembers, mixing=BilinearMixing())``, and `SGLMM` likewise); its
sizes are set by the model. A model with another mixing than `LinearMixing` forms the spectra of every pixel, (pixels,
L, P).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pyro_unmix._check import in_range
from pyro_unmix.perceptrons import perceptron
from pyro_unmix.priors import Part

#: What a part may need of a guide; see `Guide.serves`.
NONLINEAR = "pixels that are not linear in abundances and variability"

_LEAST = 1e-3


class Mixing(Part):
    """What a pixel of given endmembers and abundances looks like without noise."""

    #: Whether `nonlinear` is zero, so that nobody need compute it.
    is_linear = False
    needs: ClassVar[frozenset[str]] = frozenset({NONLINEAR})

    def nonlinear(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """The nonlinear stream g, (..., L, P) and (..., P) -> (..., L)."""
        raise NotImplementedError(f"{type(self).__name__} must implement nonlinear()")

    def forward(self, endmembers: Tensor, abundances: Tensor) -> Tensor:
        """``M a + g(M, a)``.

        Parameters
        ----------
        endmembers : Tensor, shape (..., L, P)
        abundances : Tensor, shape (..., P)

        Returns
        -------
        Tensor, shape (..., L)
        """
        linear = linear_mixing(endmembers, abundances)
        return linear if self.is_linear else linear + self.nonlinear(endmembers, abundances)

    def penalised(self) -> list[Tensor]:
        """Weights and biases of the nonlinear stream that an objective may hold small."""
        return []


def linear_mixing(endmembers: Tensor, abundances: Tensor) -> Tensor:
    """``M a``, (..., L, P) and (..., P) -> (..., L)."""
    return (endmembers @ abundances.unsqueeze(-1)).squeeze(-1)


class LinearMixing(Mixing):
    """``y = M a``: no nonlinear stream."""

    is_linear = True
    needs: ClassVar[frozenset[str]] = frozenset()

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
    """

    def __init__(self, start: float | Sequence[float] = 0.1) -> None:
        super().__init__()
        self.start = [float(value) for value in np.atleast_1d(np.asarray(start, dtype=float))]
        for value in self.start:
            in_range(value, "start", 0.0, 1.0, open_low=True)

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        _, num_endmembers = sizes
        num_pairs = num_endmembers * (num_endmembers - 1) // 2
        if len(self.start) not in (1, num_pairs):
            raise ValueError(
                f"start must be one number or {num_pairs}, one per pair of materials, got "
                f"{len(self.start)}"
            )
        start = torch.tensor(self.start).clamp(_LEAST, 1 - _LEAST).expand(num_pairs)
        self.logit_strength = nn.Parameter(start.logit())

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
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = in_range(scale, "scale", 0.0, open_low=True)

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        num_bands, p = sizes
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
