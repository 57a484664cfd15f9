"""What all parts of a model share, and how they learn how much time passes between dates."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix.ops.recipes import Recorded

#: Of a state (..., P) and the number of a date, the distribution of the state at that date.
Transition = Callable[[Tensor, int], TorchDistribution]


class Need(Enum):
    """What a part of a model may need of a guide; see `Part.needs` and `Guide.serves`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> sorted(need.name for need in pu.priors.Need)[:2]
    ['BAND_NOISE', 'COLOURED_NOISE']
    """

    BAND_NOISE = "noise that differs between bands"
    COLOURED_NOISE = "noise that is not Gaussian, or not the same at all dates"
    NONLINEAR_MIXING = "pixels that are not linear in abundances and variability"
    SHARED_VARIABILITY = "variability that pixels share"
    UNEVEN_VARIABILITY = "variability that depends on uneven dates"


class Part(Recorded, PyroModule):
    """A part of a model.

    Its constructor declares its numbers, learned or kept (`declare`). It learns its sizes when a model takes it: every
    kind of part has a method `setup` with those that it needs as keywords, which makes what was declared, and by
    `learn_or_keep` what starts at random.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.priors.WhiteNoise(), pu.priors.Part)
    True
    """

    #: What a guide must be able to serve beyond Gaussian chains and white noise.
    needs: ClassVar[frozenset[Need]] = frozenset()

    elapsed: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, tuple[ArrayLike, str | None, bool]] = {}
        self.register_buffer("elapsed", None, persistent=False)

    def set_elapsed(self, elapsed: Tensor | None) -> None:
        """Tell how much time passes before each date, shape (T,), in units; None: one unit each."""
        self.elapsed = elapsed

    def set_days(self, dates: np.ndarray | None) -> None:
        """Tell the dates themselves, for parts that know the calendar."""

    def elapsed_at(self, step: int) -> Tensor | None:
        """Units of time between the dates ``step - 1`` and ``step``, a scalar; None: one unit."""
        if self.elapsed is None or step > len(self.elapsed):
            return None
        return self.elapsed[step - 1]

    def declare(
        self, name: str, start: ArrayLike, *, per: str | None = None, learn: bool = True
    ) -> None:
        """Have a number that starts here, or as many as the size `per` says."""
        self._declared[name] = (start, per, learn)

    def make_declared(self, **sizes: int) -> None:
        """Make all declared numbers; `setup` calls it with the sizes."""
        for name, (start, per, learn) in self._declared.items():
            shape = () if per is None else (sizes[per],)
            self.learn_or_keep(name, start, *shape, learn=learn)

    def learn_or_keep(
        self, name: str, value: ArrayLike | Tensor, *shape: int, learn: bool = True
    ) -> None:
        """Hold a number (an array of `shape`, if given) as a parameter or, if it is not learned, as a buffer."""
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
        numbers = numbers.expand(shape or numbers.shape).clone()
        if learn:
            setattr(self, name, nn.Parameter(numbers))
        else:
            self.register_buffer(name, numbers)


def logit(probability: float) -> float:
    """``log(p / (1 - p))``."""
    return math.log(probability / (1 - probability))
