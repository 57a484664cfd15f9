"""The error of a fit that has left the numbers, without the engine that raises it."""

from __future__ import annotations


class NonFiniteLossError(ArithmeticError):
    """A loss or its gradient became NaN or infinite; the parameters are the last that gave a finite loss.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.NonFiniteLossError, ArithmeticError)
    True
    """
