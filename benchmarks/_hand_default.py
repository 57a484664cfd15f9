"""What the speed benchmark compares the default with: its ELBO in plain torch, for its parts alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from _programs import _leaves
from torch import Tensor, nn

from pyro_unmix import SGLMM, ConjugateGuide, FixedEndmembers
from pyro_unmix.bases import LearnedBasis
from pyro_unmix.priors import AutoRegressive, Independent, JumpWalk, WhiteNoise

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_PARTS = ("reference", "basis", "abundance_prior", "variability_prior", "noise")
_KINDS = (FixedEndmembers, LearnedBasis, JumpWalk, AutoRegressive | Independent, WhiteNoise)


@dataclass
class Batch:
    """Of B pixels."""

    inputs: Tensor  # of the LSTM (B, T, L + P)
    inside: Tensor  # U'y (B, T, Q)
    outside: Tensor  # |y - U U'y|^2, summed over the dates (B,)
    valid: Tensor  # 0 or 1 (B, T)
    curvature: Tensor
    pull: Tensor
    mean_square: Tensor


class HandDefault:
    """The ELBO of the pair that `unmix` builds, with psi integrated out, in plain torch.

    Starts from copies of a pair's parameters. What an author would write by hand for these parts and no others:

    - M0 and F are kept, so that D = [M0, F_1 .. F_K] = U R is factorised once, and of a spectrum only U'y and
      ``|y - U U'y|^2`` are needed;
    - q(c_0 .. c_T) is one Gaussian, whose precision is factorised at once, the dates in reverse order;
    - ``log p(y | c) = max_q E_q[log p(y, psi | c)] + H[q]``: the moments of q are constants for the gradient.

    Parameters
    ----------
    model : SGLMM
    guide : ConjugateGuide
    pixels, valid : Tensor, shapes (N, T, L) and (N, T)
        Of the whole scene.
    features : mapping
        What ``guide.prepare`` made of them.
    """

    def __init__(
        self,
        model: SGLMM,
        guide: ConjugateGuide,
        pixels: Tensor,
        valid: Tensor,
        features: Mapping[str, Tensor],
    ) -> None:
        _check(model)
        self.theta, phi = _leaves(model), _leaves(guide)
        self.head = phi["head"]
        self.lstm: Any = copy.deepcopy(guide.encoder.lstm)
        self.num_endmembers, self.num_bands = model.num_endmembers, model.num_bands
        self.independent = isinstance(model.variability_prior, Independent)
        seen = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        basis, root = torch.linalg.qr(model.design().detach().double())
        inside = seen.double() @ basis
        outside = seen.double().square().sum((1, 2)) - inside.square().sum((1, 2))
        self.root = root.to(pixels.dtype)
        variable = root[:, self.num_endmembers :]
        self.gram = (variable.mT @ variable).to(pixels.dtype)
        self.data = Batch(
            inputs=torch.cat([seen, features["path"][:, 1:]], dim=-1),
            inside=inside.to(pixels.dtype),
            outside=outside.to(pixels.dtype),
            valid=valid.to(pixels.dtype),
            **{name: features[name] for name in ("curvature", "pull", "mean_square")},
        )

    def parameters(self) -> dict[str, Tensor]:
        """Leaves by the names that the pair's `named_parameters` has."""
        lstm = {f"encoder.lstm.{name}": value for name, value in self.lstm.named_parameters()}
        return {**self.theta, "head": self.head, **lstm}

    def draw_noise(self, batch: int) -> Tensor:
        """Standard-normal draws for c at the dates 0..T, (B, T+1, P)."""
        num_dates, p = self.data.pull.shape[1:]
        return torch.randn(batch, num_dates + 1, p, dtype=self.root.dtype)

    def loss(self, index: Tensor, noise: Tensor, *, scale: float) -> Tensor:
        """``-ELBO`` of these pixels times `scale`."""
        batch = Batch(
            **{name: value.index_select(0, index) for name, value in vars(self.data).items()}
        )
        c, log_q = self._path(batch, noise)
        return scale * (log_q - self._prior(c) - self._evidence(batch, c[:, 1:]))

    def _log_joint(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """Of a drift and of a jump with this squared length, without ``log 2 pi``."""
        odds = self.theta["abundance_prior.jump_logit"]
        log_scales = [self.theta[f"abundance_prior.log_{name}scale"] for name in ("", "jump_")]
        pairs = zip((nn.functional.logsigmoid(x) for x in (-odds, odds)), log_scales, strict=True)
        p = self.num_endmembers
        drift, jump = (w - p * s - 0.5 * (-2 * s).exp() * squared for w, s in pairs)
        return drift, jump

    # ---------------------------------------------------------------- abundances

    def _path(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``c_0 .. c_T`` (B, T+1, P), and ``log q`` without the constants that ``log p`` has too."""
        with torch.no_grad():
            tril, pulled = self._path_root(batch)
        heads = (
            self.lstm(batch.inputs)[0] @ (0.5 * self.head).repeat(1, 2).mT
        )  # the mean of both directions
        shift, log_scale = heads.chunk(2, dim=-1)
        moved = torch.addcmul(shift, log_scale.exp(), noise[:, 1:])
        # dates in reverse, so that every state is drawn given the one before
        inner = torch.cat([noise[:, :1], moved], dim=1).flip(1).flatten(1).unsqueeze(-1)
        c = torch.linalg.solve_triangular(tril.mT, pulled + inner, upper=True)
        log_q = tril.diagonal(dim1=-2, dim2=-1).log().sum() - log_scale.sum()
        log_q = log_q - 0.5 * noise.square().sum()
        return c.view_as(noise).flip(1), log_q

    def _path_root(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """C of the precision ``C C'`` of the path in reverse, and ``C^-1`` times its information vector."""
        (size, num_dates), p = batch.valid.shape, self.num_endmembers
        name = "abundance_prior."
        keys = ("log_initial_scale", "log_scale", "log_jump_scale")
        first, drift, jump = ((-2 * self.theta[name + key]).exp() for key in keys)
        joint = self._log_joint(p * batch.mean_square.flip(1))
        step = torch.lerp(drift, jump, torch.sigmoid(joint[1] - joint[0])).unsqueeze(1)  # T..1
        whole = batch.pull.new_zeros(size, num_dates + 1, p, num_dates + 1, p)
        blocks = whole.diagonal(dim1=1, dim2=3)  # (B, P, P, T+1)
        blocks[..., :-1] = batch.curvature.flip(1).permute(0, 2, 3, 1)
        own = blocks.diagonal(dim1=1, dim2=2)  # (B, T+1, P)
        own[:, :-1] += step.mT
        own[:, 1:] += step.mT
        own[:, -1] += first
        across = whole.diagonal(dim1=2, dim2=4)  # (B, T+1, T+1, P)
        across.diagonal(offset=-1, dim1=1, dim2=2).sub_(step)
        start = (first * self.theta[name + "initial_loc"]).expand(size, 1, p)
        vector = torch.cat([batch.pull.flip(1), start], dim=1).view(size, -1, 1)
        tril = torch.linalg.cholesky_ex(whole.flatten(3, 4).flatten(1, 2)).L
        return tril, torch.linalg.solve_triangular(tril, vector, upper=False)

    def _prior(self, c: Tensor) -> Tensor:
        log_scale = self.theta["abundance_prior.log_initial_scale"]
        start = (c[:, 0] - self.theta["abundance_prior.initial_loc"]) * (-log_scale).exp()
        steps = self._log_joint((c[:, 1:] - c[:, :-1]).square().sum(-1))
        return torch.logaddexp(*steps).sum() - 0.5 * start.square().sum() - len(c) * log_scale.sum()

    # ---------------------------------------------------------------- variability

    def _evidence(self, batch: Batch, c: Tensor) -> Tensor:
        """``log p(y | c)``, summed over the pixels."""
        p, log_noise = self.num_endmembers, self.theta["noise.log_scale"]
        a = torch.softmax(c, dim=-1) * batch.valid.unsqueeze(-1)
        e = a.repeat(1, 1, len(self.gram) // p)
        precision = (-2 * log_noise).exp()
        with torch.no_grad():
            pull = precision * e * ((batch.inside - a @ self.root[:, :p].mT) @ self.root[:, p:])
            moments = self._independent if self.independent else self._smoothed
            mean, variance, lagged, slope, half_log_det = moments(precision, e, pull)
            square = (mean.square() + variance).sum(0)
            cross = None if lagged is None else (mean[:, 1:] * mean[:, :-1] + lagged).sum(0)
        residual = batch.inside - torch.cat([a, mean * e], dim=-1) @ self.root.mT
        spread = (slope * (2 * e - e.detach())).sum()  # of e' (Cov * G) e, a quadratic form
        misfit = residual.square().sum() + batch.outside.sum() + spread
        fits = -0.5 * precision * misfit
        fits = fits - batch.valid.sum() * self.num_bands * (log_noise + _HALF_LOG_2PI)
        return fits + self._chain(square, cross, len(c)) + 0.5 * mean.numel() - half_log_det

    def _chain(self, square: Tensor, cross: Tensor | None, count: int) -> Tensor:
        """``E[log p(psi_1 .. psi_T)]`` of the sums of ``E[psi_t^2]`` and ``E[psi_t psi_{t-1}]`` over the pixels."""
        log_scale = self.theta["variability_prior.log_scale"]
        total = -count * len(square) * log_scale.sum()
        weight = -0.5 * (-2 * log_scale).exp()
        if cross is None:
            return total + weight @ square.sum(0)
        phi = torch.sigmoid(self.theta["variability_prior.logit"])
        rest = 1 - phi.square()
        steps = (square[1:] + phi * (phi * square[:-1] - 2 * cross)).sum(0)
        total = total - 0.5 * count * cross.numel() * rest.log()
        return total + weight @ (square[0] + steps / rest)

    def _independent(self, precision: Tensor, e: Tensor, pull: Tensor) -> tuple[Any, ...]:
        """Means and variances of psi, (Cov * G) e, and half the log-determinant of all precisions."""
        prior = (-2 * self.theta["variability_prior.log_scale"]).exp()
        gram, parts = precision * self.gram, []
        for e_t, pull_t in zip(e.unbind(1), pull.unsqueeze(-1).unbind(1), strict=True):
            whole = (e_t.unsqueeze(-1) * e_t.unsqueeze(-2)).mul_(gram)
            whole.diagonal(dim1=-2, dim2=-1).add_(prior)
            tril = torch.linalg.cholesky_ex(whole).L
            covariance = _inverse(tril)
            diagonals = (x.diagonal(dim1=-2, dim2=-1).clone() for x in (covariance, tril))
            parts.append((torch.bmm(covariance, pull_t).squeeze(-1), *diagonals))
        mean, variance, roots = (torch.stack(x, 1) for x in zip(*parts, strict=True))
        # (precision E G E + V^-1) Cov = I
        slope = torch.where(e > 1e-20, (1 - variance * prior) / (precision * e), 0.0)
        return mean, variance, None, slope, roots.log().sum()

    def _smoothed(self, precision: Tensor, e: Tensor, pull: Tensor) -> tuple[Any, ...]:
        """As `_independent`, and the covariances of dates that follow each other: backwards, then forwards."""
        phi = torch.sigmoid(self.theta["variability_prior.logit"])
        prior = (-2 * self.theta["variability_prior.log_scale"]).exp()
        step = prior / (1 - phi.square())
        blocks = (e.unsqueeze(-1) * e.unsqueeze(-2)).mul_(precision * self.gram)
        first, later, pulled = torch.diag(prior), torch.diag(step), phi * step
        rows = list(zip(blocks.unbind(1), pull.unsqueeze(-1).unbind(1), strict=True))
        given, diagonals = [], []
        passed, passed_vector = (torch.zeros_like(x[0]) for x in rows[0])  # by later dates
        for t in reversed(range(len(rows))):
            own, vector = rows[t][0].add_(passed), rows[t][1] + passed_vector
            tril = torch.linalg.cholesky_ex(own + (later if t else first)).L
            covariance = _inverse(tril)
            given.append((covariance, vector))
            diagonals.append(tril.diagonal(dim1=-2, dim2=-1))
            scaled = pulled.unsqueeze(-1) * covariance
            passed, passed_vector = torch.bmm(scaled, phi * own), torch.bmm(scaled, vector)
        covariance, vector = given.pop()
        covariances, means, lagged = [covariance], [torch.bmm(covariance, vector)], []
        for covariance, vector in reversed(given):
            passed = torch.bmm(covariance * pulled, covariances[-1])
            lagged.append(passed.diagonal(dim1=-2, dim2=-1))
            covariances.append(torch.baddbmm(covariance, passed, (covariance * pulled).mT))
            means.append(torch.bmm(covariance, vector + pulled.unsqueeze(-1) * means[-1]))
        mean = torch.stack(means, 1).squeeze(-1)
        variance = torch.stack([x.diagonal(dim1=-2, dim2=-1) for x in covariances], 1)
        pairs = zip(covariances, e.unsqueeze(-1).unbind(1), strict=True)
        slope = torch.stack([torch.bmm(x * self.gram, e_t) for x, e_t in pairs], 1).squeeze(-1)
        return mean, variance, torch.stack(lagged, 1), slope, torch.cat(diagonals).log().sum()


def _inverse(tril: Tensor) -> Tensor:
    """``(C C')^-1``; a third faster than `torch.cholesky_inverse`."""
    units = torch.eye(tril.shape[-1], dtype=tril.dtype).expand_as(tril).contiguous().mT
    root = torch.linalg.solve_triangular(tril.mT, units, upper=True, left=False)
    return root @ root.mT


def _check(model: SGLMM) -> None:
    for name, kind in zip(_PARTS, _KINDS, strict=True):
        part = getattr(model, name)
        if not isinstance(part, kind) or getattr(part, "elapsed", None) is not None:
            raise TypeError(f"HandDefault is for what unmix builds on even dates, got {part!r}")
