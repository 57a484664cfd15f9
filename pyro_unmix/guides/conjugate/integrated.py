"""Variability that is integrated out: ``log p(y | c)`` of a linear-Gaussian model, and its gradient.

For the exact conditional q of psi, ``log p(y | c) = E_q[log p(y, psi | c)] + H[q]``. Since q is the maximum, the
gradient is that of the expectation under fixed moments: no factorisation is differentiated, and nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.guides.conjugate.moments import Chain, Moments, posterior_moments
from pyro_unmix.mixing import mixing_features
from pyro_unmix.ops.simplex import tile_components, to_abundances

_TINY = 1e-20  # an abundance that no gradient can move
_NARROW = 4  # times as many bands as columns
_SPECTRA = 512  # that are in double precision at a time
_PIECE = 1 << 16  # values of spectra that are treated together, so that they stay in the cache


@dataclass(frozen=True)
class Spectra:
    """Spectra in coordinates in which their noise is white, and a design in the same.

    Either of all bands, or on an orthonormal basis U of the columns of a design ``D = U R`` that no step moves; then of
    y nothing is needed but ``U'y`` and the square of what is left, and they are computed once (`compressed`).

    Parameters
    ----------
    pixels : Tensor, shape (B, T, L) or (B, T, Q)
    design : Tensor, shape (L, Q) or (Q, Q)
    noise_scale : Tensor, scalar
    outside : Tensor, shape (B, T), optional
        ``||y - U U'y||^2``.
    """

    pixels: Tensor
    design: Tensor
    noise_scale: Tensor
    outside: Tensor | None = None

    @classmethod
    def of(cls, model: Any, pixels: Tensor, features: Mapping[str, Tensor]) -> Spectra:
        """Those of a batch, with what `compressed` found of them where it is among `features`."""
        plain = model.design()
        if "inside" in features:
            design, noise_scale = model.noise.whitened(pixels[:1], plain)[1:]
            if not design.requires_grad:
                root = torch.linalg.qr(design.double(), mode="r").R.to(design.dtype)
                return cls(features["inside"], root, noise_scale, features["outside"])
        return cls(*model.noise.whitened(pixels, plain))


@contextmanager
def _all_learned(model: Any) -> Iterator[None]:
    """Every parameter has a gradient, as in the first step: Pyro's store gives one to those that were frozen."""
    frozen = [value for value in model.parameters() if not value.requires_grad]
    for value in frozen:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value in frozen:
            value.requires_grad_(False)


def compressed(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """``inside`` (N, T, Q) and ``outside`` (N, T) of `Spectra`, where no step moves the design and it is narrow."""
    with torch.enable_grad(), _all_learned(model):
        plain = model.design()
        one, design, _ = model.noise.whitened(pixels[:1], plain)
    num_bands, num_columns = design.shape
    moves = one.requires_grad or design.requires_grad
    if moves or _NARROW * num_columns > num_bands:
        return {}
    basis = torch.linalg.qr(design.double()).Q
    inside = pixels.new_empty(*pixels.shape[:2], num_columns)
    outside = pixels.new_empty(pixels.shape[:2])
    for start in range(0, len(pixels), _SPECTRA):
        part = slice(start, start + _SPECTRA)
        y = model.noise.whitened(pixels[part], plain)[0].double()
        found = y @ basis
        inside[part], outside[part] = found, y.square().sum(-1) - found.square().sum(-1)
    return {"inside": inside, "outside": outside}


@dataclass(frozen=True)
class Integrated:
    """Drawn abundances of an `SGLMM` of linear mixing and Gaussian noise, psi integrated out.

    Parameters
    ----------
    model : SGLMM
    pixels, valid : Tensor, shapes (B, T, L) and (B, T)
    features : mapping
        With what `compressed` found, or without.
    states : Tensor, shape (B, T+1, P)
        c at the dates 0..T.
    """

    model: Any
    pixels: Tensor
    valid: Tensor
    features: Mapping[str, Tensor]
    states: Tensor

    def log_evidence(self, offsets: Tensor | None) -> Tensor:
        """``log p(y | c)`` (B,), given what pixels share and add to psi, (B or 1, T, K P).

        It is NaN where a precision is not positive definite.
        """
        model, valid = self.model, self.valid
        spectra = Spectra.of(model, self.pixels, self.features)
        abundances = to_abundances(self.states[:, 1:])
        chain = Chain.of(model.variability_prior, valid.shape[1])
        moving = spectra.design, spectra.noise_scale, chain.coefficient, chain.variance, offsets
        known = spectra.pixels, spectra.outside, valid, chain.independent
        found: Any = _LogEvidence.apply(abundances, *moving, *known)
        noise = model.noise.distributions()(spectra.design.new_zeros(model.num_bands))
        fits = noise.log_prob(noise.mean)  # of a pixel that fits exactly
        return found + fits * valid.sum(-1)


class _LogEvidence(torch.autograd.Function):
    """``log p(y | c)`` (B,) but for what the noise has of a pixel that fits exactly; NaN where there is none.

    Of abundances (B, T, P), what `Spectra` and `Chain` hold, and offsets (B or 1, T, K P) or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        abundances: Tensor,
        design: Tensor,
        noise_scale: Tensor,
        coefficient: Tensor,
        variance: Tensor,
        offsets: Tensor | None,
        pixels: Tensor,
        outside: Tensor | None,
        valid: Tensor,
        independent: bool,
    ) -> Tensor:
        chain = Chain(coefficient, variance, independent)
        gram, precision = design.mT @ design, noise_scale.pow(-2)
        p = abundances.shape[-1]
        known = abundances if offsets is None else mixing_features(abundances, offsets)
        moment = pixels @ design[:, p:] - known @ gram[: known.shape[-1], p:]
        e = tile_components(abundances, len(gram) // p - 1) * valid.unsqueeze(-1)
        gram = gram[p:, p:]
        moments = posterior_moments(gram, precision, chain, e, moment)
        flat = moments.mean if offsets is None else moments.mean + offsets
        features = mixing_features(abundances, flat)
        misfit, pulled = _misfit(pixels, features, design)
        if outside is not None:
            misfit += outside
        slope = _slope(moments, chain, e, gram, precision)
        misfit = torch.where(valid, misfit, 0.0).sum(-1) + (slope * e).sum((-1, -2))
        square, lag = _steps(moments, chain)
        expected = square.flatten(1) @ variance.reciprocal().flatten() + variance.log().sum()
        expected = expected + precision * misfit - moments.mean[0].numel()
        ctx.save_for_backward(design, noise_scale, variance, offsets, pixels, valid, abundances)
        covariances = moments.covariances if ctx.needs_input_grad[1] else []
        ctx.found = features, flat, pulled, misfit, square, slope, lag, e, covariances
        return -0.5 * expected - moments.half_log_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        design, noise_scale, variance, offsets, pixels, valid, abundances = ctx.saved_tensors
        features, flat, pulled, misfit, square, slope, lag, e, covariances = ctx.found
        needed, p = ctx.needs_input_grad, abundances.shape[-1]
        by_design = by_noise = by_coefficient = by_variance = by_offsets = by_pixels = None
        precision = noise_scale.pow(-2)
        weight = (precision * grad).unsqueeze(-1) * valid  # of the pull of a date
        own, varied = pulled[..., :p], pulled[..., p:]
        by_flat = torch.addcmul(slope, varied, flat, value=-1).unflatten(-1, (-1, p)).sum(-2)
        by_abundances = weight.unsqueeze(-1) * (own - by_flat)
        if needed[1] or needed[6]:
            by_pixels, slopes = _by_data(pixels, features, design, weight)
        if needed[1]:
            spread = sum(_outer(c, x, grad) for c, x in zip(covariances, e.unbind(1), strict=True))
            slopes[:, p:] -= precision * (design[:, p:] @ spread)
            by_design = slopes
        if needed[2]:
            by_noise = (grad @ misfit) * noise_scale.pow(-3)
        if needed[3] and lag is not None:
            by_coefficient = (grad @ lag.flatten(1)).view_as(variance)
        if needed[4]:
            ratio = (grad @ square.flatten(1)).view_as(variance) / variance
            by_variance = 0.5 * (ratio - grad.sum()) / variance
        if offsets is not None and needed[5]:
            by_offsets = (weight.unsqueeze(-1) * varied * e).sum_to_size(offsets.shape)
        moving = by_abundances, by_design, by_noise, by_coefficient, by_variance, by_offsets
        return *moving, by_pixels, None, None, None


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Spectra (B, T, L) and others of the same pixels and dates, some rows at a time."""
    rows = max(1, _PIECE // tensors[0].shape[-1])
    yield from zip(*(tensor.flatten(0, 1).split(rows) for tensor in tensors), strict=True)


def _misfit(pixels: Tensor, features: Tensor, design: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the residuals ``y - D f``, (B, T), and ``D'(y - D f)``, (B, T, Q)."""
    squares, pulled = [], []
    for y, f in _pieces(pixels, features):
        residual = torch.addmm(y, f, design.mT, alpha=-1)
        pulled.append(residual @ design)
        squares.append(residual.square_().sum(-1))
    shape = features.shape
    return torch.cat(squares).view(shape[:-1]), torch.cat(pulled).view(shape)


def _by_data(
    pixels: Tensor, features: Tensor, design: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Slopes of ``-sum weight (y - D f)^2 / 2`` in y, (B, T, L), and in D."""
    by_pixels, by_design = [], torch.zeros_like(design)
    for y, f, w in _pieces(pixels, features, weight.unsqueeze(-1)):
        weighted = torch.addmm(y, f, design.mT, alpha=-1).mul_(w)
        by_design += weighted.mT @ f
        by_pixels.append(weighted.neg_())
    return torch.cat(by_pixels).view_as(pixels), by_design


def _outer(covariance: Tensor, e: Tensor, weight: Tensor) -> Tensor:
    """``sum weight Cov * e e'`` over the pixels, (K P, K P)."""
    return ((weight.unsqueeze(-1) * e).unsqueeze(-1) * e.unsqueeze(-2)).mul_(covariance).sum(0)


def _steps(moments: Moments, chain: Chain) -> tuple[Tensor, Tensor | None]:
    """``E[(psi_t - coefficient psi_{t-1})^2]``, (B, T, K P), and the slope of the log-density in the coefficients."""
    if chain.independent:
        return moments.mean.square() + moments.variance, None
    coefficient, first = chain.coefficient, torch.ones_like(moments.mean[:, :1])
    before = torch.cat([first, moments.mean[:, :-1]], dim=1)
    varied = torch.cat([0.0 * first, moments.variance[:, :-1]], dim=1) * coefficient
    step = moments.mean - coefficient * before
    square = step.square() + moments.variance + coefficient * (varied - 2 * moments.lagged)
    return square, (step * before + moments.lagged - varied) / chain.variance


def _slope(moments: Moments, chain: Chain, e: Tensor, gram: Tensor, precision: Tensor) -> Tensor:
    """``(Cov_t * G) e_t``, (B, T, K P): half the slope of ``e_t' (Cov_t * G) e_t``."""
    if chain.independent:  # (precision E G E + V^-1) Cov = I: the diagonal is enough
        known = (1 - moments.variance / chain.variance) / precision
        return torch.where(e > _TINY, known / e, 0.0)
    pairs = zip(moments.covariances, e.unsqueeze(-1).unbind(1), strict=True)
    return torch.stack([torch.bmm(c * gram, e_t) for c, e_t in pairs], dim=1).squeeze(-1)
