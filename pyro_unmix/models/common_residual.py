"""What programs for chains have in common: spectra by themselves, with a residual that all materials share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import Tensor

from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.recipes import Recorded
from pyro_unmix.ops.seeding import seeded

_HALF_LOG_TURN = 0.5 * math.log(2 * math.pi)


class NormalOutside(dist.TorchDistribution):
    """Columns ``U_q ~ N(0, scale_q^2 (I - B B'))``: normal within what is orthogonal to a subspace.

    Parameters
    ----------
    scale : Tensor, shape (Q,)
    taken : Tensor, shape (L, n), orthonormal
        B; the density is with respect to the L - n dimensions outside.
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, scale: Tensor, taken: Tensor) -> None:
        self.scale, self.taken = scale, taken
        super().__init__(torch.Size(), torch.Size((len(taken), len(scale))), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalOutside:
        if tuple(batch_shape):
            raise ValueError(f"one residual for all pixels, got the plate {batch_shape}")
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        size = self.taken.shape[0] - self.taken.shape[1]
        squares = (value / self.scale).square().sum((-2, -1))
        return -0.5 * squares - size * (self.scale.log() + _HALF_LOG_TURN).sum()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        noise = torch.randn(
            *sample_shape, *self.event_shape, dtype=self.scale.dtype, device=self.scale.device
        )
        return outside(noise * self.scale, self.taken)


def outside(columns: Tensor, taken: Tensor) -> Tensor:
    """What of columns (..., L, Q) is orthogonal to orthonormal ones (L, n)."""
    return columns - taken @ (taken.mT @ columns)


class CommonResidual(Recorded, PyroModule):
    """A program of spectra that are independent given what all share, with a residual ``U r`` and white noise.

    ::

        g_q ~ InvGamma(1, residual^2)            residual_variance (Q,)
        sigma^2 ~ InvGamma(1, noise^2)           noise_variance
        U_q ~ N(0, g_q (I - B B'))               residual_factor (L, Q)
        y ~ N(mean, sigma^2 I)                   mean of a date's own sites and the shared ones

    A subclass says what else is shared (`sample_shared`), what a spectrum has of its own (`own`), and `mean`. It sets
    `num_bands`, and `taken`: an orthonormal B (L, n) of what the residual leaves alone; n may be 0. All is in double
    precision.

    Parameters
    ----------
    rank : int
        Q.
    residual, noise : float
        Scales of U and of the noise, reflectance; their priors have heavy tails.
    """

    num_bands: int
    taken: Tensor
    kept = False  # whether its endmembers are those given

    def __init__(self, rank: int, residual: float, noise: float) -> None:
        super().__init__("model")
        self.rank = positive_int(rank, "rank")
        self.residual = in_range(residual, "residual", low=0, open_low=True)
        self.noise = in_range(noise, "noise", low=0, open_low=True)

    @property
    def factor_size(self) -> int:
        """Dimensions that a column of U has."""
        return self.num_bands - self.taken.shape[1]

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The generative program.

        Parameters
        ----------
        pixels : Tensor, shape (B, T, L), or None to simulate
            Reflectance; any finite value where not valid.
        valid : Tensor of bool, shape (B, T)
        index, size, features
            As for `SGLMM`.
        """
        batch, num_dates = valid.shape
        shared = self.sample_shared()
        own = {**self.own(shared), "residual": self.standard(self.rank)}
        noise_scale = self.unwhitened(shared["noise_variance"].sqrt())
        index = torch.arange(batch, device=valid.device) if index is None else index
        masks: Any = valid.unbind(1)
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            for t in range(num_dates):
                drawn = {name: pyro.sample(f"{name}_{t + 1}", prior) for name, prior in own.items()}
                spectrum = dist.Normal(self.mean(drawn, shared), noise_scale).to_event(1)
                observed = None if pixels is None else pixels[:, t]
                with poutine.mask(mask=masks[t]):
                    pyro.sample(f"y_{t + 1}", spectrum, obs=observed)

    def sample_shared(self) -> dict[str, Tensor]:
        """The sites of what all pixels share."""
        one = torch.ones((), dtype=torch.float64, device=self.device)
        variance = dist.InverseGamma(one.expand(self.rank), one * self.residual**2).to_event(1)
        shared = {
            "residual_variance": pyro.sample("residual_variance", variance),
            "noise_variance": pyro.sample(
                "noise_variance", dist.InverseGamma(one, one * self.noise**2)
            ),
        }
        factor = NormalOutside(shared["residual_variance"].sqrt(), self.taken)
        shared["residual_factor"] = pyro.sample("residual_factor", factor)
        return shared

    @abstractmethod
    def own(self, shared: Mapping[str, Tensor]) -> dict[str, dist.TorchDistribution]:
        """Priors of what a spectrum has of its own besides r, by the names of the sites without their dates."""

    @abstractmethod
    def mean(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        """Noiseless spectra (..., L) of a date's sites (without their dates in the names) and the shared ones."""

    def whitened(self, spectra: Tensor) -> Tensor:
        """Spectra (..., L) in units in which the noise is alike in all bands: as they are."""
        return spectra

    def unwhitened(self, spectra: Tensor) -> Tensor:
        """Reflectance of what is `whitened`."""
        return spectra

    def standard(self, *size: int) -> dist.TorchDistribution:
        """Standard-normal numbers."""
        zeros = torch.zeros(size, dtype=torch.float64, device=self.device)
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(len(size))

    def simulate(self, num_pixels: int, num_dates: int = 1, *, seed: int = 0) -> dict[str, Any]:
        """Everything drawn from the program: sites by name, and ``pixels`` (N, T, L).

        Parameters
        ----------
        num_pixels, num_dates : int
        seed : int
        """
        valid = torch.ones(num_pixels, num_dates, dtype=torch.bool, device=self.device)
        with torch.no_grad(), seeded(seed, self.device), pyro.get_param_store().scope():
            trace = poutine.trace(self).get_trace(None, valid)
        sites: dict[str, Any] = {
            k: s["value"] for k, s in trace.nodes.items() if s["type"] == "sample"
        }
        sites["pixels"] = torch.stack([sites[f"y_{t + 1}"] for t in range(num_dates)], 1)
        return sites
