"""What a chain is at, over `SimplexMixing` at first, what it is given, and the products that kernels share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_unmix.ops.factors import cholesky
from pyro_unmix.ops.simplex import tile_components

#: Fields of `State` that all spectra share.
SHARED = (
    "endmembers",
    "concentration",
    "scales",
    "brightness_scale",
    "residual_variance",
    "residual_factor",
    "noise_variance",
)
#: Fields that every spectrum has of its own.
OWN = ("abundances", "brightness", "variability", "residual")


@dataclass(frozen=True, eq=False)
class State:
    """Values of all sites of `SimplexMixing`, in double precision; N spectra, pixels and dates in one row.

    Attributes
    ----------
    endmembers : Tensor, shape (L, P)
    concentration, brightness_scale, noise_variance : Tensor, scalars
    scales : Tensor, shape (K P,)
    residual_variance : Tensor, shape (Q,)
    residual_factor : Tensor, shape (L, Q)
    abundances : Tensor, shape (N, P)
    brightness : Tensor, shape (N,)
    variability : Tensor, shape (N, K P)
    residual : Tensor, shape (N, Q), or None
        None while it is integrated out: a kernel that changes anything else that the likelihood sees without it drops
        it, and a kernel that needs it refuses to go on without a new draw (`ResidualDraws`).

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> state.abundances.shape, state.residual is None
    (torch.Size([3, 2]), True)
    """

    endmembers: Tensor
    concentration: Tensor
    scales: Tensor
    brightness_scale: Tensor
    residual_variance: Tensor
    residual_factor: Tensor
    noise_variance: Tensor
    abundances: Tensor
    brightness: Tensor
    variability: Tensor
    residual: Tensor | None = None

    def having(self, **values: Any) -> State:
        """A state with other values."""
        return replace(self, **values)

    def shared(self) -> dict[str, Tensor]:
        """What all spectra share, by the names of the sites."""
        return {name: getattr(self, name) for name in SHARED}

    def sites(self, num_dates: int = 1) -> dict[str, Tensor]:
        """Values by the names of the program's sites, of spectra in the order (pixel, date)."""
        values = self.shared()
        for name in OWN:
            value = getattr(self, name)
            if value is None:
                raise ValueError(f"{name} is integrated out: apply ResidualDraws() first")
            by_date = value.unflatten(0, (-1, num_dates)).unbind(1)
            values.update({f"{name}_{t + 1}": part for t, part in enumerate(by_date)})
        return values

    @classmethod
    def of_sites(cls, sites: Mapping[str, Tensor]) -> State:
        """The state with the program's site values; the reverse of `sites`."""
        dates = range(1, 1 + sum(name.startswith("abundances_") for name in sites))
        own = {n: torch.stack([sites[f"{n}_{t}"] for t in dates], 1).flatten(0, 1) for n in OWN}
        return cls(**{name: sites[name] for name in SHARED}, **own)

    def to(self, device: torch.device) -> State:
        """On a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in values.items()}
        return State(**moved)

    # ---------------------------------------------------------------- what mixes

    def design(self, model: Any) -> Tensor:
        """``D = [M, W]``, (L, P + K P)."""
        return torch.cat([self.endmembers, model.components], dim=1)

    def explained(self, model: Any) -> Tensor:
        """``(1 + v b) M a + W (s psi tile(a))``, (N, L): spectra without the residual."""
        return self.lit @ self.endmembers.mT + self.spread @ model.components.mT

    @property
    def lit(self) -> Tensor:
        """``(1 + v b) a``, (N, P): what multiplies M."""
        return (1 + self.brightness_scale * self.brightness).unsqueeze(-1) * self.abundances

    @property
    def spread(self) -> Tensor:
        """``s * psi * tile(a)``, (N, K P): what multiplies W."""
        repeats = self.variability.shape[-1] // self.abundances.shape[-1]
        return self.scales * self.variability * tile_components(self.abundances, repeats)


@dataclass(frozen=True, eq=False)
class Spectra:
    """What kernels are given: the model with its priors, observed spectra, and the stream of random numbers.

    Attributes
    ----------
    model : SimplexMixing or LibraryMixing
    values : Tensor, shape (N, L)
        Reflectance, in double precision; observed ones only.
    generator : torch.Generator
        On the device of `values`.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> spectra.values.shape, spectra.normal(2).shape
    (torch.Size([3, 4]), torch.Size([2]))
    """

    model: Any
    values: Tensor
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Standard-normal numbers."""
        kind, device = self.values.dtype, self.values.device
        return torch.randn(shape, generator=self.generator, dtype=kind, device=device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1)."""
        kind, device = self.values.dtype, self.values.device
        return torch.rand(shape, generator=self.generator, dtype=kind, device=device)

    def gamma(self, shape: Tensor) -> Tensor:
        """Gamma numbers of these shapes and rate one."""
        return torch._standard_gamma(shape, generator=self.generator)


class Kernel(Protocol):
    """A Markov step that leaves the posterior of a program given the spectra as it is, over states of its kind.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> all(callable(kernel) for kernel in pu.kernels.ROUND)
    True
    """

    def __call__(self, state: Any, spectra: Spectra) -> Any: ...


class Whitened:
    """Products with ``C^-1``, ``C = U U' + sigma^2 I`` the covariance of a spectrum given all but r, by Woodbury.

    Attributes
    ----------
    design : Tensor, shape (L, J)
        D of the state: ``[M, W]``, J = P + K P, or a library.
    gram : Tensor, shape (J, J)
        ``G = D' C^-1 D``.
    projected : Tensor, shape (N, J)
        ``Y C^-1 D``.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> pu.kernels.Whitened(state, spectra).projected.shape[0]
    3
    """

    def __init__(self, state: Any, spectra: Spectra) -> None:
        self.factor, self.variance = state.residual_factor, state.noise_variance
        inner = self.factor.mT @ self.factor
        inner.diagonal().add_(self.variance)
        self.inner = cholesky(inner)  # of U'U + sigma^2 I
        self.design = state.design(spectra.model)
        solved = self.solve(self.design)
        gram = self.design.mT @ solved
        self.gram = (gram + gram.mT) / 2
        self.projected = spectra.model.whitened(spectra.values) @ solved

    def solve(self, columns: Tensor) -> Tensor:
        """``C^-1 X`` of X (L, n)."""
        common = torch.cholesky_solve(self.factor.mT @ columns, self.inner)
        return (columns - self.factor @ common) / self.variance
