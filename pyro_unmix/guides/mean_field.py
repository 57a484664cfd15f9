"""A guide without memory: every date by itself, given the pixel's whole sequence."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import Guide, glorot
from pyro_unmix.guides.encoders import Encoder, built, encoded
from pyro_unmix.guides.families import Family, checked_family
from pyro_unmix.guides.gaussians import Spreads, num_below
from pyro_unmix.mixing import linear_regression
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import to_softmax_basis
from pyro_unmix.priors.part import Need

_FLOOR = 0.01  # of the regression's abundances, in the softmax basis


class MeanFieldGuide(Guide):
    """Amortised mean field: ``q = prod_t q(c_t | y) q(psi_t | y)``, Gaussians from the features h_t of an encoder.

    With ``v_t`` the least-squares abundances of y_t with M0::

        c_0, psi_0  ~ N(zeta, diag(xi)^2)
        c_t | y     ~ N(pi^-1(v_t) + W_c h_t, Sigma_ct),      l_ct = b_c + V_c h_t
        psi_t | y   ~ N(W_psi h_t, Sigma_psit),               l_psit = b_psi + V_psi h_t

    and l the log-scales of Sigma, see `Spreads`. W starts at zero, V Glorot, b at -1. A missing date starts from the
    mean over the pixel's other dates; `KnownAbundances` are taken as they are. It knows nothing of the model but its
    sites: every prior, basis, mixing and noise will do. What dates say about each other it must learn.

    Parameters
    ----------
    model : SGLMM
    encoder : Encoder, optional
        Such as ``GRU()`` or ``Transformer()``; default the bi-LSTM of the paper.
    full_covariance : bool
        Of c_t and of psi_t at every date, instead of diagonal ones.
    family : Family, optional
        Of c_t around its Gaussian, such as ``CornerStretch()`` or ``SplineFlow()``, with parameters
        ``b + V h_t``; V starts at zero.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.MeanFieldGuide(model)
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    serves = frozenset(Need)

    def __init__(
        self,
        model: SGLMM,
        *,
        encoder: Encoder | None = None,
        full_covariance: bool = False,
        family: Family | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        p, kp = model.num_endmembers, model.num_components * model.num_endmembers
        hidden = p + kp
        with seeded(seed):
            self.encoder = built(encoder, model.num_bands, hidden)
            self.spread = glorot(hidden, hidden)
        self.shift = nn.Parameter(torch.zeros(hidden, hidden))
        self.log_scale = nn.Parameter(torch.full((hidden,), -1.0))
        self.below: nn.Parameter | None = None
        if full_covariance:
            self.below = nn.Parameter(torch.zeros(num_below(p) + num_below(kp), hidden))
        self.family = None if family is None else checked_family(copy.copy(family))
        if self.family is not None:
            self.shape_start = nn.Parameter(self.family.start(p))
            self.shape_head = nn.Parameter(torch.zeros(len(self.shape_start), hidden))
        self.initial_loc = nn.Parameter(torch.zeros(hidden))
        self.log_initial_scale = nn.Parameter(torch.zeros(hidden))

    def forward(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The variational program; arguments as `SGLMM.forward`."""
        batch, num_dates, _ = pixels.shape
        pixels = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        p, prior = self.model.num_endmembers, self.model.abundance_prior
        hidden = encoded(self.encoder, pixels, self.model)
        shift_c, shift_psi = self._split(hidden @ self.shift.mT)
        locs_c = (self._regression(pixels, valid) + shift_c).unbind(1)
        locs_psi = shift_psi.unbind(1)
        log_c, log_psi = self._split(self.log_scale + hidden @ self.spread.mT)
        below_c = below_psi = None
        if self.below is not None:
            cut = num_below(p)
            below = hidden @ self.below.mT
            below_c, below_psi = below[..., :cut], below[..., cut:]
        spreads_c, spreads_psi = Spreads(log_c, below_c), Spreads(log_psi, below_psi)
        if self.family is not None:
            shapes = (self.shape_start + hidden @ self.shape_head.mT).unbind(1)
        loc, scale = self.initial_loc, self.log_initial_scale.exp()
        self.sample_offsets(index)
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            step_of_prior = prior.transitions(index) if not prior.is_random else None
            start = prior.initial(index) if step_of_prior else DiagonalNormal(loc[:p], scale[:p])
            c = pyro.sample("c_0", start)
            pyro.sample("psi_0", DiagonalNormal(loc[p:], scale[p:]))
            for t in range(num_dates):
                step = step_of_prior(c, t + 1) if step_of_prior else spreads_c.around(locs_c[t], t)
                if self.family is not None and not step_of_prior:
                    step = self.family.around(step, shapes[t])
                c = pyro.sample(f"c_{t + 1}", step)
                pyro.sample(f"psi_{t + 1}", spreads_psi.around(locs_psi[t], t))

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of c and of psi."""
        p = self.model.num_endmembers
        return values[..., :p], values[..., p:]

    def _regression(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """States (B, T, P) of the least-squares abundances; a missing date takes the mean of the others."""
        design = self.model.design()
        still = pixels.new_zeros(*valid.shape, design.shape[1] - self.model.num_endmembers)
        solved = linear_regression(design.mT @ design, pixels @ design, still)
        observed = valid.unsqueeze(-1)
        states = to_softmax_basis(solved, _FLOOR) * observed
        mean = states.sum(1, keepdim=True) / observed.sum(1, keepdim=True).clamp(min=1)
        return torch.where(observed, states, mean)
