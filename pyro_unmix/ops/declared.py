"""Declarations that hold for the methods of one class, and not for those that a subclass puts in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class Declaring:
    """Mixin: a class that defines one of the methods of a declaration declares it anew, or it is False."""

    #: Names of declarations, class attributes, and the methods that each of them is about.
    declarations: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, methods in cls.declarations.items():
            if not vars(cls).keys().isdisjoint(methods):
                setattr(cls, name, vars(cls).get(name, False))
