"""Libraries that are not always installed."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str) -> Any:
    """Import an optional library, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'this needs {module.partition(".")[0]}: pip install "pyro-unmix[{extra}]"'
        ) from error
