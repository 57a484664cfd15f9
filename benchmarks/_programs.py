"""What the speed benchmark compares the package with: its ELBO without Pyro, the naive form."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_unmix import SGLMM, BiLSTMGuide
from pyro_unmix.bases import DCT
from pyro_unmix.ops.simplex import to_abundances, to_softmax_basis

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class HandWritten:
    """The ELBO of `SGLMM` and `BiLSTMGuide` with their default parts, in plain torch.

    Starts from copies of a pair's parameters. What an author would write by hand: no distributions,
    no sites, Gram matrices instead of per-pixel endmembers, ``log q`` from the noise itself,
    constants that cancel left out.

    Parameters
    ----------
    model : SGLMM
    guide : BiLSTMGuide
    stacked : bool
        Evaluate the densities of all dates at once after the recursion, instead of date by date as
        a program with one site per date must.
    """

    def __init__(self, model: SGLMM, guide: BiLSTMGuide, *, stacked: bool) -> None:
        if not isinstance(model.basis, DCT):
            raise TypeError(f"HandWritten is for the paper's DCT basis, got {model.basis!r}")
        self.stacked = stacked
        self.theta, phi = _leaves(model), _leaves(guide)
        self.phi = {name: value for name, value in phi.items() if "lstm" not in name}
        given = guide.encoder.lstm
        self.lstm = nn.LSTM(
            given.input_size, given.hidden_size, batch_first=True, bidirectional=True
        ).to(given.weight_ih_l0)
        self.lstm.load_state_dict(given.state_dict())
        self.num_endmembers, self.num_bands = model.num_endmembers, model.num_bands
        self.step_scale = float(model.variability_prior.log_scale.exp())
        # (L, K+1): the mean endmember's column of ones and the orthonormal cosines
        like = given.weight_ih_l0.detach()
        order = torch.arange(model.num_components).to(like)
        band = torch.arange(self.num_bands).to(like)
        cosines = torch.cos(math.pi * (2 * band[:, None] + 1) * order / (2 * self.num_bands))
        cosines[:, 1:] *= math.sqrt(2)
        ones = torch.ones_like(band)[:, None]
        self.columns = torch.cat([ones, cosines / math.sqrt(self.num_bands)], dim=1)[:, :, None]
        self.eye = torch.eye(self.num_endmembers).to(like)
        self.select = self.eye.repeat(1, 1 + model.num_components)

    def parameters(self) -> dict[str, Tensor]:
        """Leaves by the names that the pair's `named_parameters` has."""
        lstm = {f"encoder.lstm.{name}": value for name, value in self.lstm.named_parameters()}
        return {**self.theta, **self.phi, **lstm}

    def draw_noise(self, batch: int, num_dates: int) -> tuple[Tensor, Tensor]:
        """Standard-normal draws for c and psi of the dates 0..T: (T+1, B, P) and (T+1, B, K P)."""
        like = self.phi["initial_loc"]
        noise = torch.randn(num_dates + 1, batch, len(like), dtype=like.dtype)
        p = self.num_endmembers
        return noise[..., :p], noise[..., p:]

    def loss(
        self, pixels: Tensor, valid: Tensor, noise: tuple[Tensor, Tensor], *, scale: float
    ) -> Tensor:
        """``-ELBO`` of these pixels times `scale`."""
        reference = self.theta["reference.value"]
        design = (self.columns * reference[:, None, :]).flatten(1)
        c, psi, log_q = self._guide(pixels, valid, noise, design)
        log_p = self._initial(c[0], psi[0])
        if self.stacked:
            c_all, psi_all = torch.stack(c), torch.stack(psi)
            moves = (c_all[:-1], c_all[1:], psi_all[:-1], psi_all[1:])
            log_p = log_p + self._date(*moves, pixels.transpose(0, 1), valid.mT, design)
        else:
            for t, (y, seen) in enumerate(zip(pixels.unbind(1), valid.unbind(1), strict=True)):
                moves = (c[t], c[t + 1], psi[t], psi[t + 1])
                log_p = log_p + self._date(*moves, y, seen, design)
        return scale * (log_q - log_p)

    def _guide(
        self, pixels: Tensor, valid: Tensor, noise: tuple[Tensor, Tensor], design: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """States of the dates 0..T and ``log q`` without the constants that ``log p`` has too."""
        phi, p = self.phi, self.num_endmembers
        size = design.shape[1] - p
        pixels = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        forwards, backwards = self.lstm(pixels)[0].chunk(2, dim=-1)
        hidden = 0.5 * (forwards + backwards)
        heads = torch.cat([phi[k] for k in ("shift_c", "shift_psi", "scale_c", "scale_psi")])
        read = (hidden @ heads.mT).split([p, size, p, size], dim=-1)
        log_scales = torch.cat(read[2:], dim=-1)
        shift_c, shift_psi, scale_c, scale_psi = (
            part.unbind(1) for part in (*read[:2], read[2].exp(), read[3].exp())
        )
        gram, projected = design.mT @ design, (pixels @ design).unbind(1)
        weight = valid.to(pixels.dtype).unbind(1)
        (keep, new), beta = phi["alpha"].unbind(), phi["beta"]
        start = phi["log_initial_scale"].exp()
        loc = phi["initial_loc"]
        c, psi = [loc[:p] + start[:p] * noise[0][0]], [loc[p:] + start[p:] * noise[1][0]]
        for t in range(len(weight)):
            previous = torch.softmax(c[t], dim=-1)
            v = self._regression(gram, projected[t], psi[t])
            clipped = v.clamp(min=0) + 1e-12
            clipped = clipped / clipped.sum(-1, keepdim=True)
            u = (0.5 * (clipped - previous).abs().sum(-1) * weight[t]).unsqueeze(-1)
            moved = keep * (1 - u) * previous + new * u * (v + shift_c[t])
            logs = (moved.clamp(min=0) + 1e-8).log()
            c.append(logs - logs.mean(-1, keepdim=True) + scale_c[t] * noise[0][t + 1])
            psi.append(beta * psi[t] + shift_psi[t] + scale_psi[t] * noise[1][t + 1])
        squared = noise[0].square().sum() + noise[1].square().sum()
        log_q = -0.5 * squared - log_scales.sum() - len(pixels) * phi["log_initial_scale"].sum()
        return c, psi, log_q

    def _regression(self, gram: Tensor, projected: Tensor, psi: Tensor) -> Tensor:
        """``M^+ y`` by ridged normal equations."""
        weights = torch.cat([psi.new_ones(len(psi), self.num_endmembers), psi], dim=-1)
        spread = weights.unsqueeze(-2) * self.select  # M_n = design @ spread'
        normal = (spread @ gram) @ spread.mT
        moment = (projected * weights) @ self.select.mT
        ridge = 1e-6 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        return torch.linalg.solve(normal + ridge * self.eye, moment)

    def _initial(self, c: Tensor, psi: Tensor) -> Tensor:
        total = c.new_zeros(())
        for name, value in (("abundance_prior", c), ("variability_prior", psi)):
            log_scale = self.theta[f"{name}.log_initial_scale"]
            step = (value - self.theta[f"{name}.initial_loc"]) * (-log_scale).exp()
            total = total - 0.5 * step.square().sum() - len(value) * log_scale.sum()
        return total

    def _date(
        self, c_before: Tensor, c: Tensor, psi_before: Tensor, psi: Tensor, y: Tensor,
        seen: Tensor, design: Tensor,
    ) -> Tensor:  # fmt: skip
        """``log p(c_t, psi_t, y_t | before)`` summed over pixels, of one date or of all stacked."""
        theta, p = self.theta, self.num_endmembers
        hidden = nn.functional.linear(
            c_before, theta["abundance_prior.weight_0"], theta["abundance_prior.bias_0"]
        ).relu()
        log_scale = nn.functional.linear(
            hidden, theta["abundance_prior.weight_1"], theta["abundance_prior.bias_1"]
        ).clamp(-5.0, 5.0)
        step = ((c - c_before) * (-log_scale).exp()).square()
        total = -0.5 * step.sum() - p * log_scale.sum()
        drift = (psi - psi_before).square().sum()
        total = total - 0.5 / self.step_scale**2 * drift - psi.numel() * math.log(self.step_scale)
        a = torch.softmax(c, dim=-1)
        tiled = a.repeat(*[1] * (a.dim() - 1), psi.shape[-1] // p)
        mean = torch.cat([a, psi * tiled], dim=-1) @ design.mT
        log_noise = self.theta["noise.log_scale"]
        squared = (y - mean).square().sum(-1)
        density = -0.5 * (-2 * log_noise).exp() * squared - self.num_bands * (
            log_noise + _HALF_LOG_2PI
        )
        return total + (density * seen).sum()


def _leaves(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, ready to be trained."""
    return {
        name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()
    }


class NaiveModel(SGLMM):
    """`SGLMM` as its equations read: every pixel's endmember matrix is formed."""

    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """As `SGLMM.forward`, for given pixels."""
        assert pixels is not None
        batch, num_dates = valid.shape
        shape = (self.num_components, self.num_endmembers)
        step_c = self.abundance_prior.transitions(index)
        step_psi = self.variability_prior.transitions()
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            c = pyro.sample("c_0", self.abundance_prior.initial(index))
            psi = pyro.sample("psi_0", self.variability_prior.initial())
            for t in pyro.markov(range(1, num_dates + 1)):
                c = pyro.sample(f"c_{t}", step_c(c, t))
                psi = pyro.sample(f"psi_{t}", step_psi(psi))
                endmembers = self.mixing_endmembers(psi.unflatten(-1, shape))
                mean = (endmembers @ to_abundances(c).unsqueeze(-1)).squeeze(-1)
                with poutine.mask(mask=valid[:, t - 1]):
                    noise = dist.Normal(mean, self.noise.scale).to_event(1)
                    pyro.sample(f"y_{t}", noise, obs=pixels[:, t - 1])


class NaiveGuide(BiLSTMGuide):
    """`BiLSTMGuide` with the pseudo-inverse of every pixel's endmembers, as eq. (44) reads."""

    def forward(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """As `BiLSTMGuide.forward`."""
        batch, num_dates, _ = pixels.shape
        p = self.model.num_endmembers
        shape = (self.model.num_components, p)
        hidden = self.encoder(pixels)
        loc, scale = self.initial_loc, self.log_initial_scale.exp()
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            c = _sample("c_0", loc[:p], scale[:p])
            psi = _sample("psi_0", loc[p:], scale[p:])
            for t in pyro.markov(range(num_dates)):
                h = hidden[:, t]
                previous = to_abundances(c)
                endmembers = self.model.mixing_endmembers(psi.unflatten(-1, shape))
                inverse = torch.linalg.pinv(endmembers)
                regression = (inverse @ pixels[:, t].unsqueeze(-1)).squeeze(-1)
                u = (self.change_detector(regression, previous) * valid[:, t]).unsqueeze(-1)
                kept = self.alpha[0] * (1 - u) * previous
                new = self.alpha[1] * u * (regression + h @ self.shift_c.mT)
                scale_c, scale_psi = (h @ self.scale_c.mT).exp(), (h @ self.scale_psi.mT).exp()
                c = _sample(f"c_{t + 1}", to_softmax_basis(kept + new), scale_c)
                loc_psi = self.beta * psi + h @ self.shift_psi.mT
                psi = _sample(f"psi_{t + 1}", loc_psi, scale_psi)


def _sample(name: str, loc: Tensor, scale: Tensor) -> Tensor:
    return pyro.sample(name, dist.Normal(loc, scale).to_event(1))
