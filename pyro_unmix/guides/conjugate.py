"""A guide that computes what is Gaussian and learns only the rest."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.distributions import PrecisionNormal
from pyro_unmix.guides.base import BiLSTM, Guide, Noise
from pyro_unmix.guides.smoother import backward_messages, smooth
from pyro_unmix.guides.variability import ExactVariability
from pyro_unmix.mixing import to_abundances, to_softmax_basis
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.priors import Independent
from pyro_unmix.solvers import MarginalMixing

_CHUNK = 2048


class ConjugateGuide(Guide):
    """Posterior with exact Gaussian variability and Laplace-smoothed, LSTM-corrected abundances.

    Abundances. With the variability integrated out, every date's likelihood of a_t is approximated by a Gaussian in
    the softmax basis (curvature Lambda_t, pull eta_t) at a smoothed solution that starts from marginal generalised
    least squares; this is done once per fit. Backward messages J_t, h_t through the model's own transition then give
    ``q(c_t | c_{t-1}, y) = N(V_t (c_{t-1} / s_t^2 + h_t) + C_t'^-1 d_t, (C_t e^{-2 l_t} C_t')^-1)`` with
    ``V_t^-1 = C_t C_t' = J_t + I / s_t^2``; the corrections d_t and l_t come from a bi-LSTM whose heads start at zero.

    Variability. Given all c, psi is linear-Gaussian, and ``q(psi_t | psi_{t-1}, c_{t:T}, y_{t:T})`` is its exact
    conditional, by a backward information filter and draws forward in time.

    Parameters
    ----------
    model : SGLMM
    correction : bool
        Whether the bi-LSTM correction is there (False: an ablation, nothing to train in the guide).
    seed : int
        Of the initial LSTM weights.
    """

    def __init__(self, model: SGLMM, *, correction: bool = True, seed: int = 0) -> None:
        super().__init__(model)
        p = model.num_endmembers
        hidden = p * (model.num_components + 1)
        self.correction = correction
        if correction:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.encoder = BiLSTM(model.num_bands + p, hidden)
            self.head = nn.Parameter(torch.zeros(2 * p, hidden))

    # ---------------------------------------------------------------- once per fit

    @torch.no_grad()
    def prepare(self, pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Laplace approximations of every date's marginal likelihood along a smoothed path.

        Returns
        -------
        dict
            ``curvature`` (N, T, P, P), ``pull`` (N, T, P), ``path`` (N, T+1, P) and ``mean_square`` (N, T).
        """
        parts = [
            self._linearise(pixels[i : i + _CHUNK], valid[i : i + _CHUNK])
            for i in range(0, len(pixels), _CHUNK)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _linearise(
        self, pixels: Tensor, valid: Tensor, num_sweeps: int = 2, num_rounds: int = 5
    ) -> dict[str, Tensor]:
        model, prior = self.model, self.model.abundance_prior
        design = model.design()
        projected = pixels @ design
        dates = self._marginal_dates(design, pixels.shape[1])
        abundances = torch.stack([d.solve(projected[:, t]) for t, d in enumerate(dates)], dim=1)
        batch, num_dates, p = abundances.shape
        mean_square = abundances.new_zeros(batch, num_dates)
        path = None
        for _ in range(num_sweeps):
            gram, moment = zip(
                *(d.information(projected[:, t], abundances[:, t]) for t, d in enumerate(dates)),
                strict=True,
            )
            gram, moment = torch.stack(gram, 1), torch.stack(moment, 1)
            gram, moment = gram * valid[..., None, None], moment * valid[..., None]
            floor = _posterior_scale(gram).clamp(max=1 / p)
            if path is None:
                path = _start_path(abundances, floor, valid)
            for _ in range(num_rounds):
                laplace = _laplace(gram, moment, path[:, 1:], floor)
                path, mean_square = self._smooth_path(laplace, path, mean_square)
            abundances = to_abundances(path[:, 1:])
        curvature, pull = _laplace(gram, moment, path[:, 1:], floor)
        if not prior.is_random:
            path = path * 0
        return {"curvature": curvature, "pull": pull, "path": path, "mean_square": mean_square}

    def _marginal_dates(self, design: Tensor, num_dates: int) -> list[MarginalMixing]:
        """The marginal likelihood of every date under the variability's prior at that date."""
        model = self.model
        locs, variances = model.variability_prior.marginals(num_dates)
        gram, noise = design.mT @ design, model.noise.scale
        pairs = zip(locs, variances.sqrt(), strict=True)
        return [MarginalMixing(gram, noise, *pair, model.num_endmembers) for pair in pairs]

    def _initial(self) -> tuple[Tensor, Tensor]:
        initial = self.model.abundance_prior.initial().base_dist
        return initial.loc, initial.scale

    def _smooth_path(
        self, laplace: tuple[Tensor, Tensor], path: Tensor, mean_square: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One damped Gauss-Newton step of the whole path."""
        scale = self.model.abundance_prior.step_scale(path[:, :-1], mean_square)
        target, mean_square = smooth(backward_messages(*laplace, scale), scale, *self._initial())
        step = target - path
        longest = step.abs().amax(-1, keepdim=True).clamp(min=1)
        return path + step / longest, mean_square

    # ---------------------------------------------------------------- the program

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
        if not features:
            features = self.prepare(pixels, valid)
        batch, num_dates, _ = pixels.shape
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            states = self._sample_abundances(pixels, features, index)
            posterior = self._variability(pixels, valid, states)
            psi = pyro.sample("psi_0", posterior.conditional(0, None))
            for t in range(1, num_dates + 1):
                psi = pyro.sample(f"psi_{t}", posterior.conditional(t, psi))

    def _sample_abundances(
        self, pixels: Tensor, features: Mapping[str, Tensor], index: Tensor | None
    ) -> Tensor:
        """``c_1 .. c_T``, shape (..., B, T, P)."""
        prior = self.model.abundance_prior
        if prior.is_random:
            step = self._abundance_chain(pixels, features)
            c = pyro.sample("c_0", step(None, 0))
        else:
            step = prior.transitions(index)
            c = pyro.sample("c_0", prior.initial(index))
        states = []
        for t in pyro.markov(range(1, pixels.shape[1] + 1)):
            c = pyro.sample(f"c_{t}", step(c, t))
            states.append(c)
        return torch.stack(states, dim=-2)

    def _abundance_chain(self, pixels: Tensor, features: Mapping[str, Tensor]):  # type: ignore[no-untyped-def]
        """A function ``(c_{t-1}, t) -> q(c_t | c_{t-1}, y)``."""
        with torch.no_grad():
            path = features["path"]
            scale = self.model.abundance_prior.step_scale(path[:, :-1], features["mean_square"])
            information, vectors = backward_messages(features["curvature"], features["pull"], scale)
            loc, spread = self._initial()
            start = spread.pow(-2).expand(len(path), 1, -1)
            steps = scale.pow(-2).unsqueeze(-1).expand(*scale.shape, path.shape[-1])
            precision = information + torch.diag_embed(torch.cat([start, steps], dim=1))
            tril = torch.linalg.cholesky(precision)
            covariance = torch.cholesky_inverse(tril)
            vectors = torch.cat([vectors[:, :1] + start * loc, vectors[:, 1:]], dim=1)
            offset = (covariance @ vectors.unsqueeze(-1)).squeeze(-1)
            gain = covariance[:, 1:] * steps.unsqueeze(-2)
        if self.correction:
            shift, log_scale = self._corrections(pixels, path)
            rest = torch.linalg.solve_triangular(
                tril[:, 1:].mT, shift.unsqueeze(-1), upper=True
            ).squeeze(-1)
            offset = torch.cat([offset[:, :1], offset[:, 1:] + rest], dim=1)
            tril = torch.cat([tril[:, :1], tril[:, 1:] * (-log_scale).exp().unsqueeze(-2)], dim=1)
        # unbind: the gradient of a slice per date would fill a tensor of all dates each time
        offsets, trils, gains = offset.unbind(1), tril.unbind(1), gain.unbind(1)
        log_dets = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).unbind(1)

        def conditional(previous: Tensor | None, t: int) -> PrecisionNormal:
            mean = offsets[t]
            if previous is not None:
                mean = mean + (gains[t - 1] @ previous.unsqueeze(-1)).squeeze(-1)
            return PrecisionNormal(mean, trils[t], log_dets[t])

        return conditional

    def _corrections(self, pixels: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
        """Shift (in posterior stds) and log-scale of every ``q(c_t | ...)``, each (B, T, P)."""
        hidden = self.encoder(torch.cat([pixels, path[:, 1:]], dim=-1))
        shift, log_scale = (hidden @ self.head.mT).chunk(2, dim=-1)
        return shift, log_scale

    def _variability(self, pixels: Tensor, valid: Tensor, states: Tensor) -> ExactVariability:
        """``q(psi_t | psi_{t-1}, c, y)`` for all dates, given all c."""
        model = self.model
        return ExactVariability(
            design=model.design(),
            noise_scale=model.noise.scale,
            chain=model.variability_prior.chain(),
            independent=isinstance(model.variability_prior, Independent),
            pixels=pixels,
            valid=valid,
            abundances=to_abundances(states),
        )

    # ---------------------------------------------------------------- read-out

    @torch.no_grad()
    def draw(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], noise: Noise
    ) -> tuple[Tensor, Tensor] | None:
        """Abundance draws without the variability; its mean is exact given each of four draws."""
        if not self.model.abundance_prior.is_random:
            return None
        conditional = self._abundance_chain(pixels, features)
        size = self.model.num_endmembers
        c = conditional(None, 0).from_noise(noise("c_0", size))
        states = []
        for t in range(1, pixels.shape[1] + 1):
            c = conditional(c, t).from_noise(noise(f"c_{t}", size))
            states.append(c)
        drawn = torch.stack(states, dim=-2)
        kept = drawn[:4]
        means = [self._variability(pixels, valid, one).means() for one in kept]
        mean = torch.stack(means).mean(0)
        shape = (self.model.num_components, size)
        return to_abundances(drawn), mean.unflatten(-1, shape)


def _posterior_scale(gram: Tensor) -> Tensor:
    """Std of each abundance under the Gaussian likelihood on the plane ``1'a = 1``, (..., P)."""
    p = gram.shape[-1]
    eye = torch.eye(p, dtype=gram.dtype, device=gram.device)
    plane = torch.linalg.svd(eye - 1 / p)[0][:, : p - 1]
    inner = plane.mT @ gram @ plane
    ridge = 1e-6 * inner.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] + 1e-3
    inner = inner + ridge * torch.eye(p - 1, dtype=gram.dtype, device=gram.device)
    covariance = plane @ torch.linalg.inv(inner) @ plane.mT
    return covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-10).sqrt()


def _start_path(abundances: Tensor, floor: Tensor, valid: Tensor) -> Tensor:
    """States 0..T at the floored solution; missing dates take the pixel's mean state."""
    states = to_softmax_basis(torch.maximum(abundances, floor)) * valid.unsqueeze(-1)
    mean = states.sum(1, keepdim=True) / valid.sum(1).clamp(min=1)[:, None, None]
    states = torch.where(valid.unsqueeze(-1), states, mean)
    return torch.cat([states[:, :1], states], dim=1)


def _laplace(gram: Tensor, moment: Tensor, states: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian approximation in the softmax basis of ``exp(moment'a - a'Gram a / 2)``.

    Near a corner the softmax is flat, so that value and slope are taken where every abundance is at least its
    posterior std.
    """
    inside = torch.maximum(to_abundances(states), floor)
    inside = inside / inside.sum(-1, keepdim=True)
    slope = torch.diag_embed(inside) - inside.unsqueeze(-1) * inside.unsqueeze(-2)
    curvature = slope @ gram @ slope
    residual = moment.unsqueeze(-1) - gram @ inside.unsqueeze(-1)
    mode = to_softmax_basis(inside, 0.0).unsqueeze(-1)
    return curvature, (slope @ residual + curvature @ mode).squeeze(-1)
