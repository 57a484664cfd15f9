"""Linear mixing with everything unknown: abundances on the simplex, variability, and what no material explains.

To be sampled by `pyro_unmix.infer.sample`, whose kernels (`pyro_unmix.kernels`) know the conditional densities of this
program. Use it where the answer must be as uncertain as it is; `SGLMM` is the model in time, trained by `fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro.distributions import constraints
from torch import Tensor

from pyro_unmix.models.common_residual import CommonResidual
from pyro_unmix.ops.checks import finite_array, in_range
from pyro_unmix.ops.simplex import tile_components
from pyro_unmix.priors.bounded import BoundedEndmembers

_LEAST = 1e-4  # reflectance of an endmember where chains start


class LogUniform(dist.TorchDistribution):
    """``log x ~ U(log low, log high)``.

    Parameters
    ----------
    low, high : Tensor, scalars
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        super().__init__(torch.Size(), torch.Size(), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogUniform:
        if tuple(batch_shape):
            raise ValueError(f"one number for all pixels, got the plate {batch_shape}")
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        inside = (value >= self.low) & (value <= self.high)
        density = -value.log() - (self.high / self.low).log().log()
        return torch.where(inside, density, -torch.inf)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        uniform = torch.rand(sample_shape, dtype=self.low.dtype, device=self.low.device)
        return self.low * (self.high / self.low) ** uniform


class SimplexMixing(CommonResidual):
    """Mixtures on the simplex, with variability of each material and a residual that they have in common.

    For what all pixels share::

        M ~ N(m, K) within [0, high]             endmembers (L, P), smooth over wavelength: `BoundedEndmembers`
        alpha ~ LogUniform(low, high)            concentration of the abundances
        s_kp ~ N(0, 1)                           scales of the variability (K P), component outer
        v ~ N(0, brightness^2)                   scale of the whole pixel's brightness
        g_q ~ InvGamma(1, residual^2)            variance of a column of U
        U_q ~ N(0, g_q I)                        residual_factor (L, Q)
        sigma^2 ~ InvGamma(1, noise^2)           noise_variance

    and for every pixel and date, independently given these::

        a ~ Dirichlet(alpha, .., alpha)          abundances; sparse, as alpha is below one half
        b ~ N(0, 1),  psi_kp ~ N(0, 1),  r_q ~ N(0, 1)
        y ~ N((1 + v b) M a + W (s * psi * tile(a)) + U r, sigma^2 I)

    The sign of a scale means nothing; a scale that the data do not need goes to zero. The prior of a date does not
    depend on other dates: a link between them would have to be one of the residuals, too, or intervals become too
    narrow. Sites: the names above in full (``endmembers``, ``concentration``, ``scales``, ``brightness_scale``,
    ``residual_variance``, ``residual_factor``, ``noise_variance``), and in the plate ``pixels``, for t = 1..T,
    ``abundances_t``, ``brightness_t``, ``variability_t``, ``residual_t``, ``y_t``. All is in double precision:
    abundances near a corner need it.

    Parameters
    ----------
    endmembers : array (L, P), DataArray (wavelength, endmember), or `BoundedEndmembers`
        What M is near; an array is the centre of ``BoundedEndmembers()``.
    components : array (L, K, P), optional
        W, spectral components of each material's variability, for psi of unit variance; such as
        ``learn_basis(cubes, endmembers).array``. Default none.
    rank : int
        Q, of the residual.
    concentration : tuple of float
        Least and largest alpha. Above one half, where nothing holds the faces of the simplex in place, good endmembers
        drift.
    brightness : float
        Scale of v.
    residual, noise : float
        Scales of U and of the noise, reflectance; their priors have heavy tails.
    kept : bool
        Whether the endmembers are those given, and the residual is outside of what they span: ``M = m`` and
        ``U_q ~ N(0, g_q (I - B B'))``, B a basis of m. Within the span all is abundance and brightness then, as in
        least squares; a residual that reaches into it takes part of the abundances where spectra do not follow the
        model.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> model = pu.models.SimplexMixing(np.array([[0.1, 0.5], [0.2, 0.4], [0.2, 0.3]]), rank=1)
    >>> model.num_bands, model.num_endmembers, model.num_components
    (3, 2, 0)
    """

    components: Tensor
    concentration_bounds: Tensor

    def __init__(
        self,
        endmembers: ArrayLike | BoundedEndmembers,
        *,
        components: ArrayLike | None = None,
        rank: int = 8,
        concentration: tuple[float, float] = (0.1, 0.5),
        brightness: float = 0.2,
        residual: float = 0.01,
        noise: float = 0.001,
        kept: bool = False,
    ) -> None:
        super().__init__(rank, residual, noise)
        self.reference = (
            endmembers
            if isinstance(endmembers, BoundedEndmembers)
            else BoundedEndmembers(endmembers)
        )
        self.num_bands, self.num_endmembers = self.reference.centre.shape
        low, high = (in_range(c, "concentration", low=0, open_low=True) for c in concentration)
        if not low < high:
            raise ValueError(f"concentration must be (least, largest), got {concentration}")
        self.register_buffer("concentration_bounds", torch.tensor([low, high], dtype=torch.float64))
        self.register_buffer("components", self._checked(components))
        self.num_components = self.components.shape[1] // self.num_endmembers
        self.brightness = in_range(brightness, "brightness", low=0, open_low=True)
        self.kept = bool(kept)
        size = self.num_endmembers if self.kept else 0
        if size >= self.num_bands:
            raise ValueError(
                f"kept=True leaves no residual outside of {size} endmembers at {self.num_bands} bands: give more "
                "bands, or leave it out"
            )
        taken = torch.linalg.qr(self.first_endmembers()[:, :size])[0]
        self.register_buffer("taken", taken, persistent=False)

    def _checked(self, components: ArrayLike | None) -> Tensor:
        """W, shape (L, K P), component outer and material inner."""
        if components is None:
            return torch.zeros(self.num_bands, 0, dtype=torch.float64)
        array = finite_array(components, "components", ndim=3)
        if array.shape[::2] != (self.num_bands, self.num_endmembers):
            raise ValueError(
                f"components must have the shape ({self.num_bands}, K, {self.num_endmembers}), got "
                f"{array.shape}: learn them for these endmembers"
            )
        return torch.tensor(array.reshape(self.num_bands, -1))

    @property
    def endmember_names(self) -> list[Any] | None:
        """Names of the materials, where the given endmembers had them."""
        names = self.reference.names
        return None if names is None else list(names)

    def first_endmembers(self) -> Tensor:
        """M (L, P) where chains start: the centre of its prior, inside the bounds."""
        return self.reference.centre.clamp(_LEAST, self.reference.high)

    # ---------------------------------------------------------------- the program

    def sample_shared(self) -> dict[str, Tensor]:
        """The sites of what all pixels share."""
        low, high = self.concentration_bounds.unbind()
        scale = self.brightness * torch.ones_like(low)
        return {
            "endmembers": pyro.sample("endmembers", self._endmembers()),
            "concentration": pyro.sample("concentration", LogUniform(low, high)),
            "scales": pyro.sample("scales", self.standard(self.components.shape[1])),
            "brightness_scale": pyro.sample("brightness_scale", dist.Normal(0 * scale, scale)),
            **super().sample_shared(),
        }

    def _endmembers(self) -> dist.TorchDistribution:
        if self.kept:
            return dist.Delta(self.first_endmembers()).to_event(2)
        return self.reference.distribution()

    def own(self, shared: Mapping[str, Tensor]) -> dict[str, dist.TorchDistribution]:
        """Priors of abundances, brightness and variability."""
        return {
            "abundances": dist.Dirichlet(shared["concentration"].expand(self.num_endmembers)),
            "brightness": self.standard(),
            "variability": self.standard(self.components.shape[1]),
        }

    def mean(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        """Noiseless spectra (..., L) of a date's sites (without their dates in the names) and the shared ones."""
        abundances = own["abundances"]
        spread = shared["scales"] * own["variability"]
        spread = spread * tile_components(abundances, self.num_components)
        light = 1 + shared["brightness_scale"] * own["brightness"]
        direct = light.unsqueeze(-1) * abundances @ shared["endmembers"].mT
        common = own["residual"] @ shared["residual_factor"].mT
        return direct + spread @ self.components.mT + common

    def prior_abundances(
        self, shared: Mapping[str, Tensor], shape: tuple[int, ...], generator: torch.Generator
    ) -> Tensor:
        """Draws ``(*shape, P)`` of the abundances before anything is seen of their pixels."""
        alpha = shared["concentration"].to(self.components)
        drawn = torch._standard_gamma(
            alpha.expand(*shape, self.num_endmembers), generator=generator
        ).clamp(min=1e-290)
        return drawn / drawn.sum(-1, keepdim=True)

    def decode(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., T, P) and scaled variability (..., T, K, P) of site values."""
        dates = range(1, 1 + sum(name.startswith("abundances_") for name in latents))
        abundances = torch.stack([latents[f"abundances_{t}"] for t in dates], dim=-2)
        psi = torch.stack([latents[f"variability_{t}"] for t in dates], dim=-2)
        shape = (self.num_components, self.num_endmembers)
        return abundances, (psi * latents["scales"]).unflatten(-1, shape)


def as_components(basis: Any, endmembers: ArrayLike) -> np.ndarray:
    """F (L, K, P) of a `Basis` at some endmembers (L, P), as `SimplexMixing` takes it."""
    return basis.components(torch.as_tensor(np.array(endmembers))).numpy()
