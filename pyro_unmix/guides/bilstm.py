"""The paper's guide: a bi-LSTM beside a physical step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import Guide, glorot
from pyro_unmix.guides.encoders import Encoder, built, encoded
from pyro_unmix.guides.gaussians import Spreads, num_below
from pyro_unmix.mixing import change_detector, linear_regression
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import to_abundances, to_softmax_basis
from pyro_unmix.priors.part import Need


class BiLSTMGuide(Guide):
    """Structured posterior of ReDSUNN, equations (33)-(35), (41)-(47) and figure 4.

    With h_t the bi-LSTM features of the pixel's whole sequence, ``v_t = M_{t-1}^+ y_t`` and
    ``u_t = 1/2 ||s(v_t) - a_{t-1}||_1``::

        c_0, psi_0     ~ N(zeta, diag(xi)^2)
        c_t | past, y  ~ N(pi^-1(alpha_1 (1 - u_t) a_{t-1} + alpha_2 u_t (v_t + W_c h_t)), exp(V_c h_t)^2)
        psi_t | past, y ~ N(beta psi_{t-1} + W_psi h_t, exp(V_psi h_t)^2)

    Start (Sec. V-C): W = 0, alpha_1 = alpha_2 = beta = 1, zeta = 0, xi = 1, the rest Glorot. Where the printed form
    cannot be used: ``pi^-1(v) = log(max(v, 0) + 1e-8)``, centred, and u has the factor 1/2 (the printed 1/(2P) keeps
    u below 1/P). ``M^+ y`` is by normal equations with a small ridge, see `linear_regression`. At a missing date the
    LSTM sees zeros and u = 0: the previous abundances are carried on. Where the model's mixing or basis is nonlinear,
    v_t is that of its linear part; what is left is for W_c and W_psi to learn. `KnownAbundances` are taken
    as they are.

    Parameters
    ----------
    model : SGLMM
    change_detector : callable
        ``(v_t, a_{t-1}) -> u_t``.
    encoder : Encoder, optional
        Another network in place of the LSTM, such as ``GRU()`` or ``Transformer()``.
    full_covariance : bool
        Of c_t and of psi_t given the past, instead of diagonal ones; see `Spreads`.
    seed : int
        Of the initial weights.

    References
    ----------
    ReDSUNN paper, Sec. V and Table I.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.BiLSTMGuide(model)
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    serves = frozenset(Need)

    def __init__(
        self,
        model: SGLMM,
        *,
        change_detector: Callable[[Tensor, Tensor], Tensor] = change_detector,
        encoder: Encoder | None = None,
        full_covariance: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.change_detector = change_detector
        p, kp = model.num_endmembers, model.num_components * model.num_endmembers
        hidden = p + kp
        with seeded(seed):
            self.encoder = built(encoder, model.num_bands, hidden)
            self.scale_c, self.scale_psi = glorot(p, hidden), glorot(kp, hidden)
        self.shift_c = nn.Parameter(torch.zeros(p, hidden))
        self.shift_psi = nn.Parameter(torch.zeros(kp, hidden))
        self.below: nn.Parameter | None = None
        if full_covariance:
            self.below = nn.Parameter(torch.zeros(num_below(p) + num_below(kp), hidden))
        self.alpha = nn.Parameter(torch.ones(2))
        self.beta = nn.Parameter(torch.ones(()))
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
        design = self.model.design()
        gram, projected = design.mT @ design, pixels @ design
        hidden = encoded(self.encoder, pixels, self.model)
        heads = torch.cat([self.shift_c, self.shift_psi, self.scale_c, self.scale_psi])
        shift_c, shift_psi, log_scale_c, log_scale_psi = (hidden @ heads.mT).split(
            [p, hidden.shape[-1] - p] * 2, dim=-1
        )
        below_c = below_psi = None
        if self.below is not None:
            below = hidden @ self.below.mT
            below_c, below_psi = below[..., : num_below(p)], below[..., num_below(p) :]
        spreads_c, spreads_psi = Spreads(log_scale_c, below_c), Spreads(log_scale_psi, below_psi)
        loc, scale = self.initial_loc, self.log_initial_scale.exp()
        # unbind: the gradient of a slice per date would fill a tensor of all dates each time
        projected, observed = projected.unbind(1), valid.to(pixels.dtype).unbind(1)
        shift_c, shift_psi = shift_c.unbind(1), shift_psi.unbind(1)
        (alpha_keep, alpha_new), beta = self.alpha.unbind(), self.beta
        offsets = self.sample_offsets(index)
        shared = [0.0] * num_dates if offsets is None else offsets.unbind(-2)
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            step_of_prior = prior.transitions(index) if not prior.is_random else None
            start = prior.initial(index) if step_of_prior else DiagonalNormal(loc[:p], scale[:p])
            c = pyro.sample("c_0", start)
            psi = pyro.sample("psi_0", DiagonalNormal(loc[p:], scale[p:]))
            for t in pyro.markov(range(num_dates)):
                previous = to_abundances(c)
                regression = linear_regression(gram, projected[t], psi + shared[t])
                u = self.change_detector(regression, previous) * observed[t]
                kept = alpha_keep * (1 - u).unsqueeze(-1) * previous
                new = alpha_new * u.unsqueeze(-1) * (regression + shift_c[t])
                mean = to_softmax_basis(kept + new)
                step = step_of_prior(c, t + 1) if step_of_prior else spreads_c.around(mean, t)
                c = pyro.sample(f"c_{t + 1}", step)
                mean = torch.addcmul(shift_psi[t], beta, psi)
                psi = pyro.sample(f"psi_{t + 1}", spreads_psi.around(mean, t))
