"""Pyro's `Trace_ELBO` and its gradient in few operations."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.distribution import Distribution
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor


def loss_and_grads(elbo: Trace_ELBO, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
    """`Trace_ELBO.loss_and_grads`, up to rounding, with the densities of all sites scaled and added at once.

    Pyro scales, sums and reads every site by itself: some ten operations and a wait for the device per site and step.
    Several draws, guides that are messengers, and sites without reparameterisation are left to Pyro. What a guide can
    integrate out (`ConjugateGuide.integrates`) is not drawn.
    """
    several = elbo.num_particles > 1 or elbo.vectorize_particles
    program = poutine.unwrap(guide)
    if several or is_validation_enabled() or isinstance(program, Messenger):
        return elbo.loss_and_grads(model, guide, *args, **kwargs)
    if getattr(program, "integrates", False):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs, integrate=True)
        kwargs["integrated"] = guide_trace.nodes["_RETURN"]["value"]
    else:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    drawn = _sites(guide_trace)
    if all(_is_plain(site["fn"]) for site in drawn):
        surrogate = _total(drawn) - _total(_sites(model_trace))
        loss = float(surrogate.detach())
    else:
        model_trace, guide_trace = map(prune_subsample_sites, (model_trace, guide_trace))
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        loss, surrogate = elbo._differentiable_loss_particle(model_trace, guide_trace)
    if getattr(surrogate, "requires_grad", False):
        surrogate.backward(retain_graph=elbo.retain_graph)
    return loss


def _sites(trace: Any) -> list[Any]:
    return [
        site
        for site in trace.nodes.values()
        if site["type"] == "sample" and not site_is_subsample(site)
    ]


def _is_plain(fn: Any) -> bool:
    """Whether the gradient of a draw's density is all that the site adds to the gradient of the ELBO."""
    return fn.has_rsample and type(fn).score_parts is Distribution.score_parts


def _total(sites: list[Any]) -> Tensor:
    """Sum of the scaled and masked densities of sites."""
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for site in sites:
        density, scale, mask = _density(site), site["scale"], site["mask"]
        if isinstance(scale, Tensor):  # of this site alone
            density, scale = scale * density, 1.0
        masked = mask is not None and mask is not True
        if masked:
            mask = torch.as_tensor(mask, device=density.device)
            if mask.shape != density.shape:
                density, mask = torch.broadcast_tensors(density, mask)
        densities, masks = groups.setdefault((scale, density.shape, masked), ([], []))
        densities.append(density)
        if masked:
            masks.append(mask)
    total = torch.zeros(())
    for (scale, *_), (densities, masks) in groups.items():
        stacked = torch.stack(densities)
        if masks:
            stacked = torch.where(torch.stack(masks), stacked, 0.0)
        total = total + (scale * stacked).sum()
    return total


def _density(site: Any) -> Tensor:
    try:
        return torch.as_tensor(site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"]))
    except ValueError as error:  # as Pyro reports it
        name = site["name"]
        raise ValueError(f"Error while computing log_prob at site {name!r}:\n{error}") from error
