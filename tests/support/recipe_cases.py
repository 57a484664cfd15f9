"""What is saved of a part, a model or a guide, and made of that."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_unmix.ops.recipes import from_recipe, to_recipe


def rebuilt(saved: Any, **known: Any) -> Any:
    """Made of its recipe alone: the arguments of its constructor, with those that are known by name."""
    arrays: list[np.ndarray] = []
    names = {id(value): name for name, value in known.items()}
    return from_recipe(to_recipe(saved, arrays, names), arrays, known)
