"""Chains as the arrays and programs that a saved result holds, and back, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.infer.chains import Chain
from pyro_unmix.infer.programs import PROGRAMS, program_of
from pyro_unmix.ops.checks import finite_array, in_range, positive_int
from pyro_unmix.start.field_estimate import FieldEstimate


def parts_of(chains: Sequence[Chain]) -> dict[str, Any]:
    """Programs, whose each chain is, and draws by site and number of the chain."""
    models = list({id(chain.model): chain.model for chain in chains}.values())
    parts: dict[str, Any] = {
        "models": models,
        "owners": [[m is chain.model for m in models].index(True) for chain in chains],
    }
    for number, chain in enumerate(chains):
        for name in program_of(chain.model).shared:
            parts[f"{name} {number}"] = chain.stacked(name).cpu().numpy()
    return parts


def chains_of(parts: dict[str, Any]) -> tuple[Chain, ...]:
    """The chains, taken out of the parts.

    Raises
    ------
    ValueError
        If the parts are none of chains.
    """
    models, chains = parts.pop("models"), []
    if not all(isinstance(model, tuple(PROGRAMS)) for model in models):
        raise ValueError("its chains are of a program that sample does not run")
    for number, owner in enumerate(parts.pop("owners")):
        model = models[positive_int(owner, "the number of a program", minimum=0)]
        names = program_of(model).shared
        draws = {name: finite_array(parts.pop(f"{name} {number}"), name) for name in names}
        chains.append(Chain(model, shared_draws(model, draws)))
    return tuple(chains)


def parts_of_field(field: FieldEstimate | None) -> dict[str, Any]:
    """Arrays of a field, none if there is none."""
    if field is None:
        return {}
    return {
        "field abundances": field.abundances.cpu().numpy(), "field endmembers": field.endmembers,
        "field remaining": field.remaining,
    }  # fmt: skip


def field_of(parts: dict[str, Any], model: Any) -> FieldEstimate | None:
    """The field, taken out of the parts, if there is one.

    Raises
    ------
    ValueError
        If the parts are none of a field.
    """
    if "field abundances" not in parts:
        return None
    size = model.num_endmembers
    abundances = np.asarray(parts.pop("field abundances"), dtype=float)
    if abundances.ndim != 2 or abundances.shape[1] != size or np.isinf(abundances).any():
        raise ValueError(f"expected abundances of a field (N, {size}), got {abundances.shape}")
    endmembers = finite_array(parts.pop("field endmembers"), "field endmembers", ndim=2)
    if endmembers.shape != (model.num_bands, size):
        raise ValueError(f"the endmembers of the field have the shape {endmembers.shape}")
    remaining = in_range(parts.pop("field remaining", 1.0), "field remaining", low=0, high=1)
    return FieldEstimate(torch.as_tensor(abundances), endmembers, remaining)


def shared_draws(model: Any, draws: dict[str, np.ndarray]) -> tuple[dict[str, Tensor], ...]:
    """Draws of a chain, one after the other, of saved ones with the draws first."""
    program = program_of(model)
    shapes, count = program.shapes(model), len(draws["endmembers"])
    for name, values in draws.items():
        if not count or values.shape != (count, *shapes.get(name, ())):
            raise ValueError(f"the draws of {name} have the shape {values.shape}")
    for name in ("concentration", "noise_variance", "residual_variance"):
        if name in draws and not (draws[name] > 0).all():
            raise ValueError(f"{name} must be positive")
    sites = zip(*(torch.as_tensor(draws[name]) for name in program.shared), strict=True)
    return tuple(dict(zip(program.shared, values, strict=True)) for values in sites)
