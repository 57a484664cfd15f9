"""A guide that computes what is Gaussian and learns only the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import Guide, SiteNoise
from pyro_unmix.guides.conjugate.integrated import Integrated
from pyro_unmix.guides.conjugate.markov_normal import MarkovNormal
from pyro_unmix.guides.conjugate.path import (
    Path,
    StepVariance,
    blocks,
    find_sites,
    softmax,
    spectra_of,
)
from pyro_unmix.guides.conjugate.smoother import conditionals
from pyro_unmix.guides.conjugate.variability import ExactVariability, GaussianChain
from pyro_unmix.guides.encoders import Encoder, built, encoded
from pyro_unmix.models.sglmm import SGLMM
from pyro_unmix.ops.declared import Declaring
from pyro_unmix.ops.distributions import FactorNormal
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import tile_components, to_abundances
from pyro_unmix.ops.small_matrices import apply, cholesky, multiply, project
from pyro_unmix.ops.solvers import MarginalDates, MarginalMixing
from pyro_unmix.priors.part import Need

_CHUNK = 32768  # pixels times dates that are treated together
_DRAWN = 4096  # ... in a read-out: what the network and the filter hold of them stays in the cache
# Of a state given those before: rounding may leave a curvature that is not quite positive.
_LEAST_STD = 1e-6
_NUM_MEANS = 2  # abundance draws behind the mean variability: a pair of opposite ones


class ConjugateGuide(Declaring, Guide):
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
    encoder : Encoder, optional
        In place of the bi-LSTM: `GRU` or `Transformer`.
    seed : int
        Of the initial LSTM weights.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.SGLMM(scene.reference_endmembers, basis=pu.Brightness())
    >>> guide = pu.ConjugateGuide(model, correction=False)
    >>> pu.fit(model, guide, scene.cubes, num_steps=2, progress=False)
    <Unmixing by fit (time: 2, y: 10, x: 10, endmember: 3), 2 steps>
    """

    serves: ClassVar[frozenset[Need]] = frozenset(
        {Need.UNEVEN_VARIABILITY, Need.BAND_NOISE, Need.SHARED_VARIABILITY}
    )
    #: States at dates without images follow from the model's transitions.
    follows_dates: ClassVar[bool] = True
    #: Whether psi is drawn from its exact conditional alone, so that it can be integrated out.
    is_exact: ClassVar[bool] = True
    #: Whether q(c) is a Gaussian chain, whose dates need no sites of their own.
    has_path: ClassVar[bool] = True
    declarations: ClassVar = {
        "is_exact": ("forward", "_variability"),
        "has_path": ("_abundance_chain", "_sample_abundances"),
    }

    def __init__(
        self,
        model: SGLMM,
        *,
        correction: bool = True,
        encoder: Encoder | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        p = model.num_endmembers
        hidden = p * (model.num_components + 1)
        self.correction = correction
        if correction:
            with seeded(seed):
                self.encoder = built(encoder, model.num_bands + p, hidden)
            self.head = nn.Parameter(torch.zeros(2 * p, hidden))

    # ---------------------------------------------------------------- once per fit

    @torch.no_grad()
    def prepare(
        self, pixels: Tensor, valid: Tensor, *, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Gaussian approximations of every date's marginal likelihood along a smoothed path.

        A few Gauss-Newton rounds find the path; then each approximation ``(Lambda_t, eta_t)`` follows the natural
        gradient of the ELBO, which replaces curvature and slope at the mode by their expectations under the smoothed
        posterior (Khan, Lin, "Conjugate-computation variational inference", AISTATS 2017). Near a corner of the
        simplex, where the softmax is flat, the mode says little and the expectation is right.

        Returns
        -------
        dict
            ``curvature`` (N, T, P, P), ``pull`` (N, T, P), ``path`` (N, T+1, P) and ``mean_square`` (N, T); with
            variability that pixels share, its mean ``offsets`` (N, T, K P).
        """
        offsets = self.mean_offsets(index)
        shared = {}
        if offsets is not None:
            offsets = offsets.expand(len(valid), *offsets.shape[1:])
            shared = {"offsets": offsets}
        if not self.model.abundance_prior.is_random:
            return shared
        num_dates, plain = pixels.shape[1], self.model.design()
        _, design, noise = self.model.noise.whitened(pixels[:1], plain)
        dates = self._marginal_dates(design, noise, num_dates)
        parts = []
        for block, wanted in blocks(len(valid), num_dates, _CHUNK):
            spectra = spectra_of(pixels, block, wanted)
            projected = project(self.model.noise.whitened(spectra, plain)[0], design)
            likelihoods = dates if offsets is None else dates.shifted(_columns(offsets[block]))
            features = self._sites(likelihoods, projected, valid[block])
            if not _are_finite(
                features
            ):  # bright, alike materials and little noise: all is rounding
                exact = self._sites(likelihoods.in_double(), projected.double(), valid[block])
                features = {name: value.to(pixels.dtype) for name, value in exact.items()}
            parts.append({name: value[wanted] for name, value in features.items()})
        features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if not _are_finite(features):
            raise torch.linalg.LinAlgError("the approximations of the abundances are not finite")
        return {**features, **shared}

    def _sites(self, dates: MarginalDates, projected: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """`find_sites` with the pixels first; in the precision of what is given."""
        # A quarter less overhead; `cat` makes ordinary tensors of what comes out.
        with torch.inference_mode():
            (curvature, pull), path = find_sites(
                dates, projected, valid.mT, lambda states: Path(states, *self._walk())
            )
        return {
            "curvature": curvature.movedim((0, 1), (-2, -1)).transpose(0, 1),
            "pull": pull.permute(2, 1, 0),
            "path": path.states.permute(2, 1, 0),
            "mean_square": path.mean_square.mT,
        }

    def _marginal_dates(self, design: Tensor, noise: Tensor, num_dates: int) -> MarginalDates:
        """The marginal likelihood of every date under the variability's prior at that date."""
        model = self.model
        locs, variances = model.variability_prior.marginals(num_dates)
        scales = variances.sqrt()

        def of(gram: Tensor) -> MarginalDates:
            pairs = zip(locs, scales, strict=True)
            return MarginalDates(
                [MarginalMixing(gram, noise, *pair, model.num_endmembers) for pair in pairs]
            )

        dates = of(design.mT @ design)
        return of(design.double().mT @ design.double()) if dates.drowns_noise() else dates

    def _walk(self) -> tuple[StepVariance, Tensor, Tensor]:
        """The Gaussian walk that stands in for the prior's: variance of its steps, mean and precision of its start."""
        prior = self.model.abundance_prior
        initial = prior.initial()

        def step_variance(states: Tensor, mean_square: Tensor) -> Tensor:
            previous = states[:, :-1].permute(2, 1, 0)
            return prior.step_scale(previous, mean_square.mT).mT.square().contiguous()

        return step_variance, initial.loc, initial.scale.pow(-2)

    # ---------------------------------------------------------------- the program

    def forward(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
        integrate: bool = False,
    ) -> Integrated | None:
        """The variational program; arguments as `SGLMM.forward`. On `integrate` see `integrates`."""
        if features is None:
            features = self.prepare(pixels, valid, index=index)
        batch, num_dates, _ = pixels.shape
        offsets = self.sample_offsets(index)
        path = self._path(pixels, valid, features) if integrate else None
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            if path is not None:
                states = pyro.sample("c", path)
            else:
                states = self._sample_abundances(pixels, valid, features, index)
            if integrate:
                return Integrated(self.model, pixels, valid, states)
            posterior = self._variability(pixels, valid, states[..., 1:, :], offsets)
            psi = pyro.sample("psi_0", posterior.conditional(0, None))
            for t in range(1, num_dates + 1):
                psi = pyro.sample(f"psi_{t}", posterior.conditional(t, psi))
        return None

    @property
    def integrates(self) -> bool:
        """Whether the ELBO can do without draws of psi: it is the same for all of them.

        Called with ``integrate=True`` the guide has no sites ``psi_t`` and returns what the model takes as
        ``integrated`` in place of all its sites in the plate.
        """
        model: SGLMM = self.model
        programs = self.is_exact and model.is_plain
        return programs and model.noise.is_gaussian and model.variability_prior.is_chain

    def _sample_abundances(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], index: Tensor | None
    ) -> Tensor:
        """``c_0 .. c_T``, shape (..., B, T+1, P)."""
        prior = self.model.abundance_prior
        if prior.is_random:
            step = self._abundance_chain(pixels, valid, features)
            c = pyro.sample("c_0", step(None, 0))
        else:
            step = prior.transitions(index)
            c = pyro.sample("c_0", prior.initial(index))
        states = [c]
        for t in pyro.markov(range(1, pixels.shape[1] + 1)):
            c = pyro.sample(f"c_{t}", step(c, t))
            states.append(c)
        return torch.stack(states, dim=-2)

    def _path(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor]
    ) -> MarkovNormal | None:
        """``q(c_0 .. c_T | y)``, or None where the dates have sites of their own."""
        if not (self.has_path and self.model.abundance_prior.is_random):
            return None
        with torch.no_grad():
            offset, gain, factor = self._chain(features)
        corrections = self._corrections(pixels, valid, features["path"]) if self.correction else ()
        return MarkovNormal(offset, gain, factor, *corrections)

    def _abundance_chain(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor]
    ) -> Callable[[Tensor | None, int], FactorNormal]:
        """A function ``(c_{t-1}, t) -> q(c_t | c_{t-1}, y)``."""
        with torch.no_grad():
            offsets, gains, factors = self._chain(features)
            log_dets = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1).unbind()
        corrections_of: list[Any] = [()] * len(offsets)
        if self.correction:
            corrections = self._corrections(pixels, valid, features["path"])
            # unbind: the gradient of a slice per date would fill a tensor of all dates each time
            corrections_of[1:] = zip(*(x.unbind(1) for x in corrections), strict=True)

        def conditional(previous: Tensor | None, t: int) -> FactorNormal:
            loc = offsets[t]
            if previous is not None:
                loc = loc + (gains[t - 1] @ previous.unsqueeze(-1)).squeeze(-1)
            return FactorNormal(loc, factors[t], log_dets[t], *corrections_of[t])

        return conditional

    def _chain(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``c_t = offset_t + gain_t c_{t-1} + factor_t eps``: (T+1, B, P), (T, B, P, P) and (T+1, B, P, P)."""
        offset, gain, factor = self._chain_columns(features)
        rows = (2, 3, 0, 1)
        return offset.permute(1, 2, 0), gain.permute(rows), factor.permute(rows).contiguous()

    def _chain_columns(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``c_t = offset_t + gain_t c_{t-1} + factor_t eps``: (P, T+1, B), (P, P, T, B) and (P, P, T+1, B)."""
        step_variance, loc, precision = self._walk()
        path, dtype = _columns(features["path"]), features["path"].dtype
        # In double precision, and symmetric: rounding must not cost a covariance its smallest eigenvalue.
        variances = step_variance(path, features["mean_square"].mT).double()
        curvature = features["curvature"].permute(2, 3, 1, 0).double()
        curvature = 0.5 * (curvature + curvature.transpose(0, 1))
        pull, loc, precision = _columns(features["pull"]).double(), loc.double(), precision.double()
        gain, first, vectors = conditionals(curvature, pull, variances, precision)
        vectors[:, 0] += (precision * loc).unsqueeze(-1)
        covariance = torch.cat([first.unsqueeze(2), gain * variances], dim=2)
        # V = F F' with F upper triangular, as the Cholesky factor C of the precision has F = C'^-1
        factor = cholesky(covariance.flip(0, 1)).flip(0, 1)
        factor.diagonal(dim1=0, dim2=1).clamp_(min=_LEAST_STD)
        return apply(covariance, vectors).to(dtype), gain.to(dtype), factor.to(dtype)

    def _corrections(self, pixels: Tensor, valid: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
        """Shift (in posterior stds) and log-scale of every ``q(c_t | ...)``, each (B, T, P)."""
        sequence = torch.cat([pixels * valid.unsqueeze(-1), path[:, 1:]], dim=-1)
        hidden = encoded(self.encoder, sequence, self.model)
        if torch.is_grad_enabled():
            shift, log_scale = (hidden @ self.head.mT).chunk(2, dim=-1)
            return shift, log_scale
        # In double precision, so that the rounding of a read-out does not depend on the batch.
        heads = (hidden.double() @ self.head.mT.double()).to(hidden.dtype)
        shift, log_scale = heads.chunk(2, dim=-1)
        return shift, log_scale

    def _variability(
        self, pixels: Tensor, valid: Tensor, states: Tensor, offsets: Tensor | None
    ) -> ExactVariability:
        """``q(psi_t | psi_{t-1}, c, y)`` for all dates, given all c and what pixels share."""
        model = self.model
        pixels, design, noise_scale = model.noise.whitened(pixels, model.design())
        return ExactVariability(
            gram=design.mT @ design,
            projected=pixels @ design,
            noise_scale=noise_scale,
            chain=GaussianChain.of(model.variability_prior, pixels.shape[1]),
            valid=valid,
            abundances=to_abundances(states),
            offsets=offsets,
        )

    # ---------------------------------------------------------------- read-out

    @torch.no_grad()
    def draw(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], noise: SiteNoise
    ) -> tuple[Tensor, Tensor] | None:
        """Abundance draws, and the abundance-weighted mean of the variability.

        Given each of a few draws of a the mean of psi is exact; ``E[a_p psi_kp] / E[a_p]`` makes the product of
        estimated endmembers and abundances the posterior mean of the noiseless spectrum.
        """
        if not self.model.abundance_prior.is_random:
            return None
        num_dates, size = pixels.shape[1], self.model.num_endmembers
        eps = [noise(f"c_{t}", size).movedim(-1, 0) for t in range(num_dates + 1)]
        drawn = pixels.new_empty(num_dates, size, eps[0].shape[1], len(pixels))
        variability = pixels.new_empty(*valid.shape, self.model.num_components * size)
        start = 0
        for index, wanted in blocks(len(valid), num_dates, _DRAWN):
            place = slice(start, start + wanted.stop)
            start = place.stop
            part = {name: feature[index] for name, feature in features.items()}
            y, mask = spectra_of(pixels, index, wanted), valid[index]
            states = self._draw_states(y, mask, part, eps)
            for t, state in enumerate(states):
                drawn[t, :, :, place] = state[..., wanted]
            variability[place] = self._mean_variability(y, mask, states, part)[wanted]
        shape = (self.model.num_components, size)
        return drawn.permute(2, 3, 0, 1), variability.unflatten(-1, shape)

    def _draw_states(
        self,
        pixels: Tensor,
        valid: Tensor,
        features: Mapping[str, Tensor],
        eps: Sequence[Tensor],
    ) -> list[Tensor]:
        """Abundances of every date, (P, S, B), from noise (P, S, 1) of the dates 0..T."""
        offset, gain, factor = self._chain_columns(features)
        if self.correction:
            corrections = self._corrections(pixels, valid, features["path"])
            shift, log_scale = (_columns(part) for part in corrections)
            offset[:, 1:] += apply(factor[:, :, 1:], shift)
            factor[:, :, 1:] *= log_scale.exp()
        c = offset[:, None, 0] + multiply(factor[:, :, 0], eps[0])
        states = []
        for t in range(1, len(eps)):
            c = multiply(gain[:, :, t - 1], c).add_(offset[:, None, t])
            c = c.add_(multiply(factor[:, :, t], eps[t]))
            states.append(softmax(c))
        return states

    def _mean_variability(
        self,
        pixels: Tensor,
        valid: Tensor,
        states: Sequence[Tensor],
        features: Mapping[str, Tensor],
    ) -> Tensor:
        """``E[a_p psi_kp] / E[a_p]`` over the first draws of a, shape (B, T, K P)."""
        model = self.model
        pixels, design, noise_scale = model.noise.whitened(pixels, model.design())
        projected = project(pixels, design).permute(2, 1, 0)
        chain = GaussianChain.of(model.variability_prior, len(states)).later()
        offsets = features["offsets"] if self.has_field else None
        weighted = torch.zeros_like(projected[..., model.num_endmembers :])
        weights = torch.zeros_like(weighted)
        for number in range(min(_NUM_MEANS, states[0].shape[1])):
            abundances = torch.stack([state[:, number].mT for state in states], dim=1)
            posterior = ExactVariability(
                gram=design.mT @ design, projected=projected, noise_scale=noise_scale, chain=chain,
                valid=valid, abundances=abundances, offsets=offsets,
            )  # fmt: skip
            means = posterior.means() if offsets is None else posterior.means() + offsets
            weight = tile_components(abundances, model.num_components)
            weighted, weights = weighted + weight * means, weights + weight
        return weighted / weights.clamp(min=1e-12)


def _columns(values: Tensor) -> Tensor:
    """(B, T, Q) -> (Q, T, B)."""
    return values.permute(2, 1, 0).contiguous()


def _are_finite(features: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(feature).all()) for feature in features.values())
