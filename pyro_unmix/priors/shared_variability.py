"""Variability that pixels share, beside what every pixel has for itself."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_unmix.priors.part import Need
from pyro_unmix.priors.variability import Independent, VariabilityPrior


class SharedVariability(VariabilityPrior):
    """``psi_nt = s * f_t(n) + r_nt``: f is what pixels share, r a chain of every pixel's own.

    f is linear in standard-normal innovations, the site ``field`` *outside* the plate of the pixels, which every
    batch of pixels sees; the sites ``psi_t`` are those of r. Subclasses give `num_innovations` and `offsets`.

    Parameters
    ----------
    scale : float or array (K, P)
        s at the start.
    residual : VariabilityPrior, optional
        Of r; default ``Independent(0.05)``.
    learn : bool
        Learn s.
    start : array (num_innovations,), optional
        Innovations where guides start; default zeros.
    start_scale : float or array (num_innovations,)
        Their standard deviations where guides start.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.priors.SeasonalVariability, pu.priors.SharedVariability)
    True
    """

    def __init__(
        self,
        scale: float | np.ndarray,
        residual: VariabilityPrior | None,
        learn: bool,
        start: np.ndarray | None = None,
        start_scale: float | np.ndarray = 0.1,
    ) -> None:
        super().__init__()
        self.first_scale = np.asarray(scale, dtype=float)
        if not (np.isfinite(self.first_scale).all() and (self.first_scale > 0).all()):
            raise ValueError(f"scale must be positive, got {scale}")
        self.learn = learn
        self.start, self.start_scales = start, np.asarray(start_scale, dtype=float)
        if not (np.isfinite(self.start_scales).all() and (self.start_scales > 0).all()):
            raise ValueError("start_scale must be positive")
        self.residual = Independent(0.05) if residual is None else residual
        if not isinstance(self.residual, VariabilityPrior) or isinstance(
            self.residual, SharedVariability
        ):
            raise TypeError(
                "residual must be a VariabilityPrior of single pixels such as Independent(), got "
                f"{residual!r}"
            )

    def setup(
        self, *, num_endmembers: int, num_components: int, generator: torch.Generator
    ) -> None:
        sizes = {"num_endmembers": num_endmembers, "num_components": num_components}
        super().setup(**sizes, generator=generator)
        self.residual.setup(**sizes, generator=generator)
        shape = (num_components, num_endmembers)
        if self.first_scale.ndim and self.first_scale.shape != shape:
            raise ValueError(
                f"scale must be one number or (components, endmembers) = {shape}, got shape "
                f"{self.first_scale.shape}"
            )
        log_scale = np.broadcast_to(np.log(self.first_scale), shape).flatten()
        self.learn_or_keep("log_scale", log_scale, learn=self.learn)

    def set_elapsed(self, elapsed: Tensor | None) -> None:
        super().set_elapsed(elapsed)
        self.residual.set_elapsed(elapsed)

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """`Need.SHARED_VARIABILITY`, and what the residual needs."""
        return frozenset({Need.SHARED_VARIABILITY}) | self.residual.needs

    # ---------------------------------------------------------------- the residual is the chain

    def chain(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.residual.chain()

    def steps(self, num_dates: int) -> tuple[Tensor, Tensor]:
        return self.residual.steps(num_dates)

    def first_variance(self) -> Tensor:
        return super().first_variance() + (2 * self.log_scale).exp()

    @property
    def independent(self) -> bool:  # type: ignore[override]
        return self.residual.independent

    # ---------------------------------------------------------------- what is shared

    @property
    def num_innovations(self) -> int:
        """Event size of the site ``field``."""
        raise NotImplementedError(f"{type(self).__name__} must implement num_innovations")

    def offsets(self, field: Tensor, index: Tensor | None) -> Tensor:
        """``s f_t(n)`` of innovations (..., num_innovations) at the pixels with these numbers (all: None).

        Of shape (..., B, T, K P); B is one where all pixels have the same.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement offsets()")

    def field_start(self) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviations of ``field`` where a guide starts."""
        numbers = []
        for name, values in (("start", self.start), ("start_scale", self.start_scales)):
            array = np.asarray(0.0 if values is None else values, dtype=float)
            if array.ndim and array.shape != (self.num_innovations,):
                raise ValueError(
                    f"{name} must have {self.num_innovations} innovations (dates, waves, "
                    f"components, endmembers), got shape {array.shape}"
                )
            numbers.append(torch.tensor(np.broadcast_to(array, self.num_innovations).copy()))
        return numbers[0].to(self.log_scale), numbers[1].log().to(self.log_scale)

    def check_scene(self, index: Tensor | None, num_pixels: int, num_dates: int) -> None:
        """Raise ValueError where it has nothing to say about these pixels and dates."""

    def sample_offsets(self, index: Tensor | None, num_pixels: int, num_dates: int) -> Tensor:
        """Draw ``field``; gives its `offsets`."""
        self.check_scene(index, num_pixels, num_dates)
        zeros = self.log_scale.new_zeros(self.num_innovations)
        field = pyro.sample("field", dist.Normal(zeros, 1.0).to_event(1))
        return self.offsets(field, index)


def plain(field: Tensor) -> Tensor:
    """Innovations (..., I) without the place of the plate of the pixels, which they are not in."""
    return field.squeeze(-2) if field.dim() > 1 and field.shape[-2] == 1 else field
