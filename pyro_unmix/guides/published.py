"""The guide of the program published with the ReDSUNN paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.bases.linear import Basis
from pyro_unmix.guides.base import Guide
from pyro_unmix.mixing import change_detector, design_matrix, linear_regression
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import to_abundances, to_softmax_basis


class GatedHead(nn.Module):
    """``gate (W_2 (W_1 h + b_1) + b_2)``: zero at the start by its gate alone.

    Parameters
    ----------
    num_inputs, num_outputs : int
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_inputs, num_inputs), nn.Linear(num_inputs, num_outputs)
        )
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.gate * self.net(hidden)


class PublishedGuide(Guide):
    """The published program's posterior: `BiLSTMGuide` with other heads, basis and start.

    With h_t the mean of the two LSTM directions, ``v_t = M_{t-1}^+ y_t`` (M in the guide's own `basis`) and
    ``u_t = 1/2 ||s(v_t) - a_{t-1}||_1``::

        c_t | past, y   ~ N(pi^-1(alpha_1 (1 - u_t) a_{t-1} + alpha_2 u_t (v_t + W_c(h_t))), exp(0.1 V_c(h_t)))
        psi_t | past, y ~ N(beta psi_{t-1} + W_psi(h_t), exp(0.1 V_psi(h_t)))

    W: `GatedHead`; V: linear with bias, a tenth of the log *variance*. The state before the first date is a trained
    point, from zero. torch's default initial weights throughout.

    Parameters
    ----------
    model : FirstDateSGLMM
    basis : Basis, optional
        Of the guide's regression; default the model's.
    change_detector : callable
        ``(v_t, a_{t-1}) -> u_t``.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.models.FirstDateSGLMM(scene.reference_endmembers, basis=pu.models.TransposedDCT(4))
    >>> guide = pu.guides.PublishedGuide(model)
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    def __init__(
        self,
        model: Any,
        *,
        basis: Basis | None = None,
        change_detector: Callable[[Tensor, Tensor], Tensor] = change_detector,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.basis = basis
        self.change_detector = change_detector
        p, kp = model.num_endmembers, model.num_components * model.num_endmembers
        hidden = p + kp
        with seeded(seed):
            self.encoder = nn.LSTM(model.num_bands, hidden, batch_first=True, bidirectional=True)
            self.shift_c, self.shift_psi = GatedHead(hidden, p), GatedHead(hidden, kp)
            self.spread_c, self.spread_psi = nn.Linear(hidden, p), nn.Linear(hidden, kp)
        self.alpha = nn.Parameter(torch.ones(2))
        self.beta = nn.Parameter(torch.ones(()))
        self.initial = nn.Parameter(torch.zeros(hidden))

    def design(self) -> Tensor:
        """``[M0, F_1, ..., F_K]`` as the guide's regression has it, shape (L, (K+1) P)."""
        if self.basis is None:
            return self.model.design()
        reference = self.model.reference.value
        return design_matrix(reference, self.basis.components(reference))

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
        p = self.model.num_endmembers
        design = self.design()
        gram, projected = design.mT @ design, (pixels @ design).unbind(1)
        hidden = torch.stack(self.encoder(pixels)[0].chunk(2, dim=-1)).mean(0)
        shift_c, shift_psi = self.shift_c(hidden).unbind(1), self.shift_psi(hidden).unbind(1)
        scale_c = (0.05 * self.spread_c(hidden)).exp().unbind(1)
        scale_psi = (0.05 * self.spread_psi(hidden)).exp().unbind(1)
        observed = valid.to(pixels.dtype).unbind(1)
        (alpha_keep, alpha_new), beta = self.alpha.unbind(), self.beta
        c, psi = self.initial.expand(batch, -1).split([p, len(self.initial) - p], dim=-1)
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            for t in pyro.markov(range(num_dates)):
                previous = to_abundances(c)
                regression = linear_regression(gram, projected[t], psi)
                u = self.change_detector(regression, previous) * observed[t]
                kept = alpha_keep * (1 - u).unsqueeze(-1) * previous
                new = alpha_new * u.unsqueeze(-1) * (regression + shift_c[t])
                mean = to_softmax_basis(kept + new)
                c = pyro.sample(f"c_{t + 1}", DiagonalNormal(mean, scale_c[t]))
                mean = torch.addcmul(shift_psi[t], beta, psi)
                psi = pyro.sample(f"psi_{t + 1}", DiagonalNormal(mean, scale_psi[t]))
