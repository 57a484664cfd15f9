"""What makes two fits the same: descriptions of programs and settings, and sentences on how they differ."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_unmix.data.types import ModelProgram
from pyro_unmix.models.base import FunctionModel
from pyro_unmix.ops.recipes import registered, registered_name, to_recipe

# Starts that are computed anew on another machine differ by rounding.
_TOLERANCE = 1e-5


def attributes(thing: Any) -> dict[str, Any]:
    """The numbers, text and tensors that an object holds."""
    kinds = (bool, int, float, str, Tensor, type(None))
    held = getattr(thing, "__dict__", {})
    return {name: _plain(value) for name, value in held.items() if isinstance(value, kinds)}


def describe(thing: Any, depth: int = 2) -> dict[str, Any]:
    """Class and attributes of an object and of the objects it holds, or a function's name and constants."""
    if hasattr(thing, "__qualname__"):
        cells = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        constants = [_plain(cell) for cell in cells if isinstance(cell, (int, float, str))]
        return {"function": f"{thing.__module__}.{thing.__qualname__}", "constants": constants}
    described = {"class": registered_name(type(thing)), **attributes(thing)}
    for name, value in getattr(thing, "__dict__", {}).items():
        if callable(value) and depth > 1:
            described[name] = describe(value, depth - 1)
    return described


def describe_program(program: Any, model: ModelProgram) -> dict[str, Any]:
    """Class, arguments of the constructor where they are known, and names and shapes of parameters."""
    program = program.function if isinstance(program, FunctionModel) else program
    if not isinstance(program, nn.Module):
        return {"function": getattr(program, "__qualname__", registered_name(type(program)))}
    arrays: list[np.ndarray] = []
    known = {} if program is model else {id(model): "model"}
    try:
        recipe = _inlined(to_recipe(program, arrays, known), arrays)
    except TypeError:  # not made of parts that know their arguments
        recipe = {"class": registered_name(type(program))}
    parameters = {
        name: f"{value.dtype} {tuple(value.shape)}"
        for name, value in program.state_dict().items()
        if isinstance(value, Tensor)
    }
    return {**recipe, "parameters": parameters}


def _inlined(recipe: Any, arrays: list[np.ndarray]) -> Any:
    """A recipe with its arrays in their places, and the defaults of what was not given."""
    if isinstance(recipe, list):
        return [_inlined(item, arrays) for item in recipe]
    if not isinstance(recipe, dict):
        return _plain(recipe)
    if "array" in recipe:
        values = arrays[recipe["array"]]
        return torch.from_numpy(values) if values.dtype.kind in "biuf" else values.tolist()
    if "class" not in recipe:
        return recipe
    inner = {name: _inlined(value, arrays) for name, value in recipe["arguments"].items()}
    return {"class": recipe["class"], **_defaults(registered(recipe["class"])), **inner}


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    kinds = (bool, int, float, str)
    return {p.name: p.default for p in parameters if isinstance(p.default, kinds)}


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of Python."""
    return value.item() if isinstance(value, np.generic) else value


def differences(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    """Sentences that name what differs, by its place."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in [*saved, *(key for key in now if key not in saved)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(saved.get(key), now.get(key), inner)
    elif not same(saved, now):
        yield f"{path} is {_short(now)}, the checkpoint has {_short(saved)}"


def same(a: Any, b: Any) -> bool:
    """Whether two values are alike, numbers up to a relative error of `_TOLERANCE`."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return not any(True for _ in differences(a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        scale = float(a.abs().max()) if a.numel() else 0.0
        return torch.allclose(a, b, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_TOLERANCE) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, Tensor):
        return (
            f"an array {tuple(value.shape)} of other values" if value.dim() else str(value.item())
        )
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
