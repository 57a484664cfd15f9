"""Pyro's `Trace_ELBO` and its gradient, without draws of what a guide can integrate out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled


def loss_and_grads(
    elbo: Trace_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> float:
    """`Trace_ELBO.loss_and_grads`, with what a guide can integrate out (`ConjugateGuide.integrates`) not drawn.

    Several draws, and programs that Pyro is to validate, are left to Pyro.
    """
    several = elbo.num_particles > 1 or elbo.vectorize_particles
    integrates = getattr(poutine.unwrap(guide), "integrates", False)
    if several or is_validation_enabled() or not integrates:
        return elbo.loss_and_grads(model, guide, *args, **kwargs)
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs, integrate=True)
    integrated = guide_trace.nodes["_RETURN"]["value"]
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs, integrated=integrated)
    loss = torch.as_tensor(guide_trace.log_prob_sum() - model_trace.log_prob_sum())
    if loss.requires_grad:
        loss.backward(retain_graph=elbo.retain_graph)
    return float(loss.detach())
