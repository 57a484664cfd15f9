"""`ConjugateGuide` with abundances that need not be Gaussian in the softmax basis."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import glorot
from pyro_unmix.guides.conjugate.guide import ConjugateGuide
from pyro_unmix.guides.encoders import Encoder, built, encoded
from pyro_unmix.guides.families import Family, checked_family
from pyro_unmix.guides.stretches import CornerStretch
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.distributions import FactorNormal, PrecisionNormal
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import to_abundances

_WIDTH = 32  # of the layer between features and parameters


class ReshapedGuide(ConjugateGuide):
    """Posterior with exact Gaussian variability, and abundances of a family that is right at corners of the simplex.

    The Gaussians that `ConjugateGuide` computes for c_t given c_{t-1} and y, without its learned corrections, are where
    the family starts::

        q(c_t | c_{t-1}, y) = family around N(m_t, (C_t C_t')^-1) with parameters
                              b + V tanh(A h_t + B (c_{t-1} - path_{t-1}) + e),   t = 0..T

    with h_t the features of an encoder over pixel and path. V starts at zero. Where a date has no data, and at t = 0
    where no date has, the Gaussian stays, so that states without data follow the model's transitions.

    Parameters
    ----------
    model : SGLMM
    family : Family
        ``CornerStretch()`` (the default), ``CornerMixture()`` or ``SplineFlow()``.
    encoder : Encoder, optional
        Such as ``GRU()`` or ``Transformer()``; default the bi-LSTM of the paper.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.guides.ReshapedGuide(model)
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(
        self,
        model: SGLMM,
        *,
        family: Family | None = None,
        encoder: Encoder | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, correction=False, seed=seed)
        self.family = checked_family(CornerStretch() if family is None else copy.copy(family))
        p = model.num_endmembers
        hidden = p * (model.num_components + 1)
        with seeded(seed):
            self.shape_encoder = built(encoder, model.num_bands + p, hidden)
            # beside the features: the previous state, and whether there is none
            self.enter, self.follow = glorot(_WIDTH, hidden), glorot(_WIDTH, p + 1)
        self.offset = nn.Parameter(torch.zeros(_WIDTH))
        start = self.family.start(p)
        self.shape_head = nn.Parameter(torch.zeros(len(start), _WIDTH))
        self.shape_start = nn.Parameter(start)

    def _draw_states(
        self,
        pixels: Tensor,
        valid: Tensor,
        features: Mapping[str, Tensor],
        eps: Sequence[Tensor],
    ) -> list[Tensor]:
        """Abundances of every date, (P, S, B), from noise (P, S, 1) of the dates 0..T."""
        conditional = self._abundance_chain(pixels, valid, features)
        c, states = None, []
        for t, noise in enumerate(eps):
            c = conditional(c, t).from_noise(noise.movedim(0, -1))
            states.append(to_abundances(c).movedim(-1, 0))
        return states[1:]

    def _abundance_chain(self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor]):  # type: ignore[no-untyped-def]
        """A function ``(c_{t-1}, t) -> q(c_t | c_{t-1}, y)``."""
        gaussian = super()._abundance_chain(pixels, valid, features)
        path = features["path"]
        observed = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        hidden = encoded(self.shape_encoder, torch.cat([observed, path[:, 1:]], dim=-1), self.model)
        entered = (hidden @ self.enter.mT + self.offset).unbind(1)
        paths = path.unbind(1)
        has_data = torch.cat([valid.any(1, keepdim=True), valid], dim=1).to(path.dtype).unbind(1)

        def conditional(previous: Tensor | None, t: int):  # type: ignore[no-untyped-def]
            if previous is None:
                layer = entered[0] + self.follow[:, -1]
            else:
                layer = entered[t - 1] + (previous - paths[t - 1]) @ self.follow[:, :-1].mT
            parameters = self.shape_start + torch.tanh(layer) @ self.shape_head.mT
            return self.family.around(
                _by_precision(gaussian(previous, t)), parameters * has_data[t].unsqueeze(-1)
            )

        return conditional


def _by_precision(gaussian: FactorNormal) -> PrecisionNormal:
    """The same distribution by the Cholesky factor of its precision, as families take it."""
    eye = torch.eye(gaussian.factor.shape[-1], dtype=gaussian.loc.dtype, device=gaussian.loc.device)
    inverse = torch.linalg.solve_triangular(gaussian.factor, eye, upper=True)
    return PrecisionNormal(gaussian.loc, inverse.mT, -gaussian.log_det)
