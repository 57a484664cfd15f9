"""Draws of distributions as functions of standard-normal noise, for any that Pyro's guides are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor

from pyro_unmix.ops.dirichlet import NOISE_PER_MATERIAL, dirichlet_from_noise

#: ``normals(shape, part)`` gives independent standard normals that broadcast against (batch, *shape); another part of
#: a draw has others.
Normals = Callable[[tuple[int, ...], str], Tensor]

_WRAPPERS = (td.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)


def draw_from_normals(fn: Any, normals: Normals) -> Tensor | None:
    """A draw of `fn` from normals: its reparameterisation where it has one, else its quantile function of their
    probabilities. None where no way is known, as for discrete distributions.

    Gradients are not meant to pass.
    """
    shape = tuple(fn.event_shape)
    if hasattr(fn, "from_noise"):
        return fn.from_noise(normals(shape or (1,), ""))
    base = fn
    while isinstance(base, _WRAPPERS):
        base = base.base_dist
    outer = shape[: len(shape) - len(base.event_shape)]
    if isinstance(base, dist.Delta):
        return fn.mean
    if isinstance(base, td.Normal):
        return base.loc + base.scale * normals(shape, "")
    if isinstance(base, td.MultivariateNormal):
        return base.loc + (base.scale_tril @ normals(shape, "").unsqueeze(-1)).squeeze(-1)
    if isinstance(base, td.LowRankMultivariateNormal):
        factor = base.cov_factor
        common = normals((*outer, factor.shape[-1]), "factor").unsqueeze(-1)
        return base.loc + (factor @ common).squeeze(-1) + base.cov_diag.sqrt() * normals(shape, "")
    if isinstance(base, td.TransformedDistribution):
        inner: Any = base.base_dist
        value = draw_from_normals(dist.Independent(inner, len(outer)) if outer else inner, normals)
        for transform in base.transforms if value is not None else ():
            value = transform(value)
        return value
    if isinstance(base, td.Dirichlet):
        white = normals((*outer, shape[-1] * NOISE_PER_MATERIAL), "")
        return dirichlet_from_noise(
            base.concentration, white.unflatten(-1, (-1, NOISE_PER_MATERIAL))
        )
    return None if base.event_shape else _quantile(base, normals(shape, ""))


def _quantile(base: Any, normal: Tensor) -> Tensor | None:
    """The quantile function of a distribution of one number, at the probabilities of normals."""
    from scipy import special

    tiny = torch.finfo(torch.double).eps
    probability = torch.special.ndtr(normal.double()).clamp(tiny, 1 - tiny)
    if isinstance(base, td.Gamma):
        values = _scipy(special.gammaincinv, base.concentration, probability)
        return values.to(normal) / base.rate
    if isinstance(base, td.Beta):
        shapes = base.concentration1, base.concentration0
        return _scipy(special.betaincinv, *shapes, probability).to(normal)
    if base.support.is_discrete:
        return None
    try:
        value = base.icdf(probability)
    except NotImplementedError:
        return None
    return value.to(normal)


def _scipy(function: Any, *arguments: Tensor) -> Tensor:
    values = function(*(argument.detach().double().cpu().numpy() for argument in arguments))
    return torch.as_tensor(values)
