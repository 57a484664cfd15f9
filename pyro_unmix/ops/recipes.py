"""Rebuild an object from the arguments that made it, as JSON plus arrays: no pickled code.

Classes that derive from `Recorded` remember their constructor's arguments. `to_recipe` turns an object into plain
JSON values, its arrays set aside by number; `from_recipe` calls the constructors again. A recipe names a class by its
`registered_name`, and no other class than those of the registry is ever called.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar

import numpy as np
import xarray as xr

_CLASSES: dict[str, type] = {}


class Recorded:
    """Mixin: subclasses remember what they were constructed with and can be rebuilt from it."""

    #: Arguments that say how an object starts alone, which a rebuilt one does not take.
    unrecorded: ClassVar[frozenset[str]] = frozenset()

    _recipe: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = registered_name(cls)
        other = _CLASSES.get(name, cls)
        if other.__module__ != cls.__module__:
            raise TypeError(
                f"{cls.__module__} and {other.__module__} both define a {name}: saved results would not tell them "
                "apart, rename one of them"
            )
        _CLASSES[name] = cls
        if "__init__" not in cls.__dict__:
            return
        init = cls.__init__
        signature = inspect.signature(init)

        @functools.wraps(init)
        def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
            if "_recipe" not in self.__dict__:  # the outermost constructor is the one to call again
                bound = list(signature.bind(self, *args, **kwargs).arguments.items())[1:]
                recipe = {name: value for name, value in bound if name not in self.unrecorded}
                object.__setattr__(self, "_recipe", recipe)
            init(self, *args, **kwargs)

        cls.__init__ = recording_init  # type: ignore[method-assign]

    def record(self, **arguments: Any) -> None:
        """Have the object rebuilt with these arguments in place of those that it was constructed with.

        A subclass whose constructor does not take some of them finds its own when it is rebuilt.
        """
        parameters = inspect.signature(type(self)).parameters
        arguments = {name: value for name, value in arguments.items() if name in parameters}
        self._recipe = {**self._recipe, **arguments}


def registered_name(cls: type) -> str:
    """What recipes call a class: its name alone if it is of this package, wherever its file may move."""
    package = __name__.partition(".")[0]
    if cls.__module__.partition(".")[0] == package:
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def registered(name: str) -> type:
    """The class of a `registered_name`.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in _CLASSES:
        raise ValueError(
            f"the saved result uses the class {name}, which is not defined here: import the module "
            "that defines it before loading"
        )
    return _CLASSES[name]


def to_recipe(value: Any, arrays: list[np.ndarray], names: dict[int, str] | None = None) -> Any:
    """JSON values for `value`; arrays are appended to `arrays` and referred to by position.

    Parameters
    ----------
    names : dict, optional
        ``id(object) -> name`` of objects that are saved elsewhere and referred to by name.

    Raises
    ------
    TypeError
        If something cannot be rebuilt from JSON and arrays.
    """
    if names and id(value) in names:
        return {"known": names[id(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Recorded):
        arguments = {k: to_recipe(v, arrays, names) for k, v in value._recipe.items()}
        return {"class": registered_name(type(value)), "arguments": arguments}
    if isinstance(value, (list, tuple)) and not any(isinstance(v, np.ndarray) for v in value):
        return [to_recipe(v, arrays, names) for v in value]
    if isinstance(value, xr.DataArray):
        arrays.append(np.array(value.to_numpy()))
        # Of the coordinates only names and classes matter to a model.
        labels = {
            name: value.coords[name].values.tolist()
            for name in ("endmember", "label")
            if name in value.coords and value.coords[name].dims == ("endmember",)
        }
        return {"array": len(arrays) - 1, "dims": list(value.dims), "endmember": None, **labels}
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        arrays.append(np.array(value))
        return {"array": len(arrays) - 1}
    raise TypeError(
        f"cannot save {value!r} ({type(value).__name__}): a saved model is made of numbers, text, "
        "arrays and parts of pyro_unmix or subclasses of them; put it into such a subclass"
    )


def from_recipe(
    recipe: Any, arrays: list[np.ndarray], objects: dict[str, Any] | None = None
) -> Any:
    """The object that `to_recipe` described."""
    if isinstance(recipe, list):
        return [from_recipe(item, arrays, objects) for item in recipe]
    if not isinstance(recipe, dict):
        return recipe
    if "known" in recipe:
        return (objects or {})[recipe["known"]]
    if "array" in recipe:
        values = arrays[recipe["array"]]
        if "dims" not in recipe:
            return values
        labels = [n for n in ("endmember", "label") if recipe.get(n) is not None]
        coords = {name: ("endmember", recipe[name]) for name in labels}
        return xr.DataArray(values, dims=recipe["dims"], coords=coords)
    arguments = {k: from_recipe(v, arrays, objects) for k, v in recipe["arguments"].items()}
    return registered(recipe["class"])(**arguments)
