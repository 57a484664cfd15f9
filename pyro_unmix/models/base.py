"""What a generative program is to the rest: `Model`, and plain functions as modules."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.nn.module import PyroModule, _PyroModuleMeta
from torch import Tensor, nn

from pyro_unmix.data.types import GuideProgram, ModelProgram
from pyro_unmix.ops.recipes import Recorded

#: The plate of the pixels, at dim -1 of every program.
PIXELS = "pixels"
#: How model and guide are called, in errors.
CALL = "(pixels, valid, *, index=None, size=None, features=None)"

Latents = Mapping[str, Tensor]
Decode = Callable[[Latents], Any]


class _Abstract(ABCMeta, _PyroModuleMeta):
    """Abstract methods for modules of Pyro."""


class Model(Recorded, PyroModule, metaclass=_Abstract):
    """A generative program, and what its latent sites mean.

    A subclass is written in Pyro, trained by `fit` with any guide, and saved by `Unmixing.save` if its constructor
    takes numbers, text, arrays and objects that can be saved themselves. Its parameters are named ``model....``, so
    that they are not taken for the guide's. An attribute ``endmember_names``, a list, labels the materials.

    Parameters
    ----------
    name : str
        Of the parameters.

    Examples
    --------
    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> import pyro_unmix as pu
    >>> class Mixture(pu.models.Model):
    ...     def __init__(self, endmembers):
    ...         super().__init__()
    ...         self.register_buffer("spectra", torch.as_tensor(endmembers).float())
    ...
    ...     def forward(self, pixels, valid, *, index=None, size=None, features=None):
    ...         with pyro.plate("pixels", size or len(valid), subsample=index, dim=-1):
    ...             a = pyro.sample("a", dist.Dirichlet(torch.ones(self.spectra.shape[1])))
    ...             noise = dist.Normal(a @ self.spectra.T, 0.1).to_event(1).mask(valid[:, 0])
    ...             pyro.sample("y_1", noise, obs=None if pixels is None else pixels[:, 0])
    ...
    ...     def decode(self, latents):
    ...         return latents["a"].unsqueeze(-2), self.spectra  # (..., 1, P) and (L, P)
    >>> model = Mixture(torch.eye(4, 2))
    >>> abundances, spectra = model.decode({"a": torch.ones(64, 10, 2) / 2})
    >>> abundances.shape
    torch.Size([64, 10, 1, 2])
    """

    def __init__(self, name: str = "model") -> None:
        super().__init__(name)

    @abstractmethod
    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """The generative program.

        Parameters
        ----------
        pixels : Tensor, shape (B, T, L), or None to simulate
            Reflectance; any finite value where not valid.
        valid : Tensor of bool, shape (B, T)
            What was observed; the rest must be masked in the likelihood.
        index : Tensor of int, shape (B,), optional
            Which pixels of the scene these are: the `subsample` of the plate ``pixels``.
        size : int, optional
            Number of pixels of the whole scene: the size of that plate.
        features : mapping, optional
            What a guide prepared.
        """

    @abstractmethod
    def decode(self, latents: Latents) -> Tensor | tuple[Tensor, Tensor]:
        """Abundances, or abundances and endmembers, of values of the latent sites.

        Parameters
        ----------
        latents : mapping of name to Tensor
            Every latent site, (draws, pixels, ...): its axes of other plates and of its event follow. A site outside
            the plate ``pixels`` has one in place of the pixels.

        Returns
        -------
        Tensor (..., T, P), or a pair with endmembers (..., T, L, P) or (L, P)
            Where an axis of the endmembers is one, they are the same along it.
        """


class VariabilityModel(Model):
    """A model whose endmembers are made of few numbers, the variability of every pixel and date.

    A result keeps these in place of the spectra, which would be L times as large.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.SGLMM, pu.models.VariabilityModel)
    True
    """

    #: M0; its ``value`` is (L, P).
    reference: Any

    @property
    def endmember_names(self) -> list[str] | None:
        """Names of the materials, where they have any."""
        return None

    @abstractmethod
    def decode_variability(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Abundances (..., T, P) and variability (..., T, K, P) of values of the latent sites."""

    @abstractmethod
    def mixing_endmembers(self, variability: Tensor) -> Tensor:
        """Endmembers (..., L, P) of variability (..., K, P)."""

    def decode(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Abundances (..., T, P) and endmembers (..., T, L, P) of values of the latent sites."""
        abundances, variability = self.decode_variability(latents)
        return abundances, self.mixing_endmembers(variability)


class FunctionModel(nn.Module):
    """A program that is a plain function, as a module without parameters: those are in Pyro's store.

    Parameters
    ----------
    function : callable
        Called as a model is.
    like : Tensor
        Whose type and device the pixels have that it is given.
    """

    like: Tensor

    def __init__(self, function: Callable[..., Any], like: Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("like", like.detach().new_empty(0))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function does."""
        return self.function(*args, **kwargs)


def as_module(model: ModelProgram, guide: GuideProgram) -> nn.Module:
    """The model, or a function as a `FunctionModel` of the guide's type and device; where that has none, torch's."""
    if isinstance(model, nn.Module):
        return model
    tensors = [*guide.parameters(), *guide.buffers()] if isinstance(guide, nn.Module) else []
    floating = (tensor for tensor in tensors if tensor.is_floating_point())
    return FunctionModel(model, next(floating, torch.empty(0)))
