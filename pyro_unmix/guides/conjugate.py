"""A guide that computes what is Gaussian and learns only the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from pyro_unmix._random import seeded
from pyro_unmix.distributions import PrecisionNormal
from pyro_unmix.guides.base import BiLSTM, Guide, Noise
from pyro_unmix.guides.smoother import backward_messages, smooth
from pyro_unmix.guides.variability import ExactVariability
from pyro_unmix.mixing import tile_components, to_abundances, to_softmax_basis
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.priors import Independent
from pyro_unmix.priors.part import BAND_NOISE, UNEVEN_VARIABILITY
from pyro_unmix.solvers import MarginalMixing, simplex_scale

_CHUNK = 2048
_NUM_SWEEPS = 3  # times the marginal covariance is taken at new abundances
_NUM_LAPLACE = 4  # Gauss-Newton rounds that start the path
_NUM_VARIATIONAL = 5  # natural-gradient rounds per sweep
_STEP = 0.5  # of the natural gradient
_NUM_POINTS = 8  # draws behind its expectations
_LONGEST = 0.5  # largest change of a state in one round
_MEAN_BUDGET = 128  # abundance draws behind the mean variability, times its size


class ConjugateGuide(Guide):
    """Posterior with exact Gaussian variability and smoothed, LSTM-corrected abundances.

    Abundances. With the variability integrated out, every date's likelihood of a_t is approximated by a Gaussian in
    the softmax basis (curvature Lambda_t, pull eta_t) along a smoothed path that starts from marginal generalised
    least squares (see `prepare`); this is done once per fit. Backward messages J_t, h_t through the model's own
    transition then give
    ``q(c_t | c_{t-1}, y) = N(V_t (c_{t-1} / s_t^2 + h_t) + C_t'^-1 d_t, (C_t e^{-2 l_t} C_t')^-1)`` with
    ``V_t^-1 = C_t C_t' = J_t + I / s_t^2``; the corrections d_t and l_t come from a bi-LSTM whose heads start at zero.

    The approximations belong to the model's parameters of the moment: training keeps those of its start, while the
    LSTM learns on top of them, and a read-out makes them anew with the trained parameters. ``losses`` are therefore
    those of a slightly worse posterior than the one that is read out. No gradient reaches the abundance prior through
    them, only through the model's own densities.

    Noise that is Gaussian and the same at all dates is whitened first.

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

    serves: ClassVar[frozenset[str]] = frozenset({UNEVEN_VARIABILITY, BAND_NOISE})
    #: States at dates without images follow from the model's transitions.
    follows_dates: ClassVar[bool] = True

    def __init__(self, model: SGLMM, *, correction: bool = True, seed: int = 0) -> None:
        super().__init__(model)
        p = model.num_endmembers
        hidden = p * (model.num_components + 1)
        self.correction = correction
        if correction:
            with seeded(seed):
                self.encoder = BiLSTM(model.num_bands + p, hidden)
            self.head = nn.Parameter(torch.zeros(2 * p, hidden))

    # ---------------------------------------------------------------- once per fit

    @torch.no_grad()
    def prepare(self, pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Gaussian approximations of every date's marginal likelihood along a smoothed path.

        A few Gauss-Newton rounds find the path; then each approximation ``(Lambda_t, eta_t)`` follows the natural
        gradient of the ELBO, which replaces curvature and slope at the mode by their expectations under the smoothed
        posterior (Khan, Lin, "Conjugate-computation variational inference", AISTATS 2017). Near a corner of the
        simplex, where the softmax is flat, the mode says little and the expectation is right.

        Returns
        -------
        dict
            ``curvature`` (N, T, P, P), ``pull`` (N, T, P), ``path`` (N, T+1, P) and ``mean_square`` (N, T).
        """
        if not self.model.abundance_prior.is_random:
            return {}
        parts = [
            self._linearise(pixels[i : i + _CHUNK], valid[i : i + _CHUNK])
            for i in range(0, len(pixels), _CHUNK)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _linearise(self, pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        pixels, design, noise = self.model.noise.whitened(pixels, self.model.design())
        projected = pixels @ design
        dates = self._marginal_dates(design, noise, pixels.shape[1])
        abundances = torch.stack([d.solve(projected[:, t]) for t, d in enumerate(dates)], dim=1)
        gram, moment = _information(dates, projected, abundances, valid)
        floor = simplex_scale(gram).clamp(max=1 / abundances.shape[-1])
        path = _start_path(abundances, floor, valid)
        mean_square = abundances.new_zeros(valid.shape)
        for _ in range(_NUM_LAPLACE):
            sites = _laplace(gram, moment, path[:, 1:], floor)
            path, covariance, mean_square = self._smooth_path(sites, path, mean_square)
        for _ in range(_NUM_SWEEPS):
            gram, moment = _information(dates, projected, to_abundances(path[:, 1:]), valid)
            for _ in range(_NUM_VARIATIONAL):
                target = _expected_laplace(gram, moment, path[:, 1:], covariance[:, 1:])
                sites = (
                    sites[0].lerp(target[0], _STEP),
                    sites[1].lerp(target[1], _STEP),
                )
                path, covariance, mean_square = self._smooth_path(sites, path, mean_square)
        curvature, pull = sites
        return {"curvature": curvature, "pull": pull, "path": path, "mean_square": mean_square}

    def _marginal_dates(
        self, design: Tensor, noise: Tensor, num_dates: int
    ) -> list[MarginalMixing]:
        """The marginal likelihood of every date under the variability's prior at that date."""
        model = self.model
        locs, variances = model.variability_prior.marginals(num_dates)
        gram = design.mT @ design
        pairs = zip(locs, variances.sqrt(), strict=True)
        return [MarginalMixing(gram, noise, *pair, model.num_endmembers) for pair in pairs]

    def _initial(self) -> tuple[Tensor, Tensor]:
        initial = self.model.abundance_prior.initial()
        return initial.loc, initial.scale

    def _smooth_path(
        self, sites: tuple[Tensor, Tensor], path: Tensor, mean_square: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Smooth between the given Gaussian sites; the path moves by at most `_LONGEST` a state."""
        scale = self.model.abundance_prior.step_scale(path[:, :-1], mean_square)
        target, covariance, mean_square = smooth(
            backward_messages(*sites, scale), scale, *self._initial()
        )
        step = target - path
        longest = step.abs().amax(-1, keepdim=True).clamp(min=_LONGEST)
        return path + _LONGEST * step / longest, covariance, mean_square

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
        if features is None:
            features = self.prepare(pixels, valid)
        batch, num_dates, _ = pixels.shape
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            states = self._sample_abundances(pixels, valid, features, index)
            posterior = self._variability(pixels, valid, states)
            psi = pyro.sample("psi_0", posterior.conditional(0, None))
            for t in range(1, num_dates + 1):
                psi = pyro.sample(f"psi_{t}", posterior.conditional(t, psi))

    def _sample_abundances(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], index: Tensor | None
    ) -> Tensor:
        """``c_1 .. c_T``, shape (..., B, T, P)."""
        prior = self.model.abundance_prior
        if prior.is_random:
            step = self._abundance_chain(pixels, valid, features)
            c = pyro.sample("c_0", step(None, 0))
        else:
            step = prior.transitions(index)
            c = pyro.sample("c_0", prior.initial(index))
        states = []
        for t in pyro.markov(range(1, pixels.shape[1] + 1)):
            c = pyro.sample(f"c_{t}", step(c, t))
            states.append(c)
        return torch.stack(states, dim=-2)

    def _abundance_chain(self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor]):  # type: ignore[no-untyped-def]
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
            shift, log_scale = self._corrections(pixels, valid, path)
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

    def _corrections(self, pixels: Tensor, valid: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
        """Shift (in posterior stds) and log-scale of every ``q(c_t | ...)``, each (B, T, P)."""
        observed = torch.where(valid.unsqueeze(-1), pixels, 0.0)
        hidden = self.encoder(torch.cat([observed, path[:, 1:]], dim=-1))
        shift, log_scale = (hidden @ self.head.mT).chunk(2, dim=-1)
        return shift, log_scale

    def _variability(self, pixels: Tensor, valid: Tensor, states: Tensor) -> ExactVariability:
        """``q(psi_t | psi_{t-1}, c, y)`` for all dates, given all c."""
        model = self.model
        prior = model.variability_prior
        pixels, design, noise = model.noise.whitened(pixels, model.design())
        return ExactVariability(
            design=design,
            noise_scale=noise,
            chain=(*prior.steps(pixels.shape[1]), *prior.chain()[2:]),
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
        """Abundance draws, and the abundance-weighted mean of the variability.

        Given each of a few draws of a the mean of psi is exact; ``E[a_p psi_kp] / E[a_p]`` makes the product of
        estimated endmembers and abundances the posterior mean of the noiseless spectrum.
        """
        if not self.model.abundance_prior.is_random:
            return None
        conditional = self._abundance_chain(pixels, valid, features)
        size = self.model.num_endmembers
        c = conditional(None, 0).from_noise(noise("c_0", size))
        states = []
        for t in range(1, pixels.shape[1] + 1):
            c = conditional(c, t).from_noise(noise(f"c_{t}", size))
            states.append(c)
        drawn = torch.stack(states, dim=-2)
        weighted = torch.zeros_like(tile_components(drawn[0], self.model.num_components))
        weights = torch.zeros_like(weighted)
        count = max(4, _MEAN_BUDGET // (self.model.num_components * size))
        for one in drawn[:count]:
            weight = tile_components(to_abundances(one), self.model.num_components)
            weighted = weighted + weight * self._variability(pixels, valid, one).means()
            weights = weights + weight
        mean = weighted / weights.clamp(min=1e-12)
        shape = (self.model.num_components, size)
        return to_abundances(drawn), mean.unflatten(-1, shape)


def _information(
    dates: list[MarginalMixing], projected: Tensor, abundances: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Curvature (B, T, P, P) and linear term (B, T, P) of every date's likelihood in a; zero where missing."""
    parts = [d.information(projected[:, t], abundances[:, t]) for t, d in enumerate(dates)]
    gram = torch.stack([part[0] for part in parts], dim=1)
    moment = torch.stack([part[1] for part in parts], dim=1)
    return gram * valid[..., None, None], moment * valid[..., None]


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


def _expected_laplace(
    gram: Tensor, moment: Tensor, loc: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """`_laplace` with slope and curvature averaged over ``c ~ N(loc, covariance)``, full Hessian included.

    With ``b = Gram a``, ``q = a'b``, ``u = moment - b - a'(moment - b)`` and ``s = a * u`` the slope of
    ``moment'a - a'Gram a / 2`` in c is s, and its negative Hessian
    ``a a' * Gram + w a' + a w' - diag(s)`` with ``w = a * (u - b + q / 2)``; its expectation is made positive
    semi-definite.
    """
    size = loc.shape[-1]
    half = np.random.default_rng(0).standard_normal((_NUM_POINTS // 2, size))
    jitter = 1e-6 * torch.eye(size, dtype=loc.dtype, device=loc.device)
    tril = torch.linalg.cholesky_ex(covariance + jitter).L
    noise = torch.from_numpy(np.concatenate([half, -half])).to(loc).mT
    a = torch.softmax(loc.unsqueeze(-1) + tril @ noise, dim=-2)  # (..., P, points)
    b = gram @ a
    u = moment.unsqueeze(-1) - b
    u = u - (a * u).sum(-2, keepdim=True)
    w = a * (u - b + 0.5 * (a * b).sum(-2, keepdim=True))
    slope = (a * u).mean(-1)
    cross = w @ a.mT
    curvature = (gram * (a @ a.mT) + cross + cross.mT) / _NUM_POINTS
    curvature.diagonal(dim1=-2, dim2=-1).sub_(slope)
    values, vectors = torch.linalg.eigh(curvature)
    curvature = (vectors * values.clamp(min=0).unsqueeze(-2)) @ vectors.mT
    return curvature, slope + (curvature @ loc.unsqueeze(-1)).squeeze(-1)
