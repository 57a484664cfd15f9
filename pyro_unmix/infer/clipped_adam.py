"""Pyro's `ClippedAdam`, with all parameters moved together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """Of torch, without the decorator that keeps torch.compile away: it imports the compiler, for two seconds."""
    return inspect.unwrap(method)


class ForeachClippedAdam(ClippedAdam):
    """`pyro.optim.clipped_adam.ClippedAdam`, same numbers and same state, in one call per operation for all parameters.

    Every group has a learning rate and its decay ``lrd`` of its own; the other constants must be those of the first
    group. Weight decay and the centred variance are not served: both are refused.

    Raises
    ------
    ValueError
        If a group, or one of a state that is loaded, has settings that would not be followed.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings that differ from the defaults."""
        group = {**self.defaults, **param_group}
        _check(group, self.param_groups[0] if self.param_groups else group)
        _plain(ClippedAdam.add_param_group)(self, param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this optimiser or of Pyro's."""
        groups = state_dict["param_groups"]
        for group in groups:
            _check(group, groups[0])
        _plain(ClippedAdam.load_state_dict)(self, state_dict)

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        return _plain(ClippedAdam.state_dict)(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params, grads, rates = [], [], []
        for group in self.param_groups:
            group["lr"] *= group["lrd"]
            for param in group["params"]:
                if param.grad is not None:
                    params.append(param)
                    grads.append(param.grad)
                    rates.append(group["lr"])
        if params:
            self._move(params, grads, rates)
        return loss

    def _move(self, params: list[Tensor], grads: list[Tensor], rates: list[float]) -> None:
        constants = self.param_groups[0]
        (beta1, beta2), bound = constants["betas"], constants["clip_norm"]
        torch._foreach_clamp_min_(grads, -bound)
        torch._foreach_clamp_max_(grads, bound)
        sizes = []
        for param, rate in zip(params, rates, strict=True):
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(param) for _ in range(2))
            state["step"] += 1
            correction1, correction2 = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
            sizes.append(-rate * math.sqrt(correction2) / correction1)
        means = [self.state[param]["exp_avg"] for param in params]
        squares = [self.state[param]["exp_avg_sq"] for param in params]
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, grads, alpha=1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - beta2)
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_add_(spreads, constants["eps"])
        torch._foreach_addcdiv_(params, means, spreads, sizes)


def _check(group: dict[str, Any], first: dict[str, Any]) -> None:
    for name in ("weight_decay", "centered_variance"):
        if group.get(name):
            raise ValueError(
                f"{name} is not served, got {group[name]}: use pyro.optim.clipped_adam.ClippedAdam"
            )
    for name in ("betas", "eps", "clip_norm"):
        if group[name] != first[name]:
            raise ValueError(
                f"{name} must be {first[name]} as in the first group, got {group[name]}: "
                "use pyro.optim.clipped_adam.ClippedAdam for groups that differ"
            )
