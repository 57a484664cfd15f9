"""Latent endmembers: from a few numbers per material to the spectrum that the material has in a pixel."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_unmix.bases.linear import Basis
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.engine_lock import one_engine
from pyro_unmix.ops.perceptrons import MaterialPerceptron
from pyro_unmix.priors import Part
from pyro_unmix.priors.part import Need

_DARKEST = 1e-3


class Decoder(Part):
    """``m_p = f_p(z_p)`` for all materials at once.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> issubclass(pu.bases.ScalingDecoder, pu.bases.Decoder)
    True
    """

    #: Whether there is a `brightness_posterior`.
    knows_brightness: ClassVar[bool] = False

    def setup(
        self, *, num_bands: int, num_endmembers: int, latent_size: int, generator: torch.Generator
    ) -> None:
        """Create the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must implement setup()")

    def forward(self, latents: Tensor, reference: Tensor) -> Tensor:
        """Spectra (..., P, L) of latents (..., P, H) and the reference M0 (L, P)."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward()")

    def brightness_posterior(
        self, amounts: Tensor, reference: Tensor, noise_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a pixel's total brightness says of the latents, their mean and scale (..., P, H); one need not know.

        The amounts (..., P) are non-negative multiples of the reference spectra (L, P) that make up the pixel, not
        summing to one; the noise scale is that of the pixels, a scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} has no brightness_posterior()")


class PerceptronDecoder(Decoder):
    """IDNet's decoder: a perceptron per material with a sigmoid at the end; it does not look at the reference.

    H -> max(ceil(L/10), H+1) -> max(ceil(L/4), H+2) + 3 -> ceil(1.2 L) + 5 -> L, ReLU.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.bases.PerceptronDecoder(), pu.bases.Decoder)
    True
    """

    def __init__(self) -> None:  # of its own, so that its recipe is recorded
        super().__init__()

    def setup(
        self, *, num_bands: int, num_endmembers: int, latent_size: int, generator: torch.Generator
    ) -> None:
        layers = (
            latent_size,
            max(math.ceil(num_bands / 10), latent_size + 1),
            max(math.ceil(num_bands / 4), latent_size + 2) + 3,
            math.ceil(1.2 * num_bands) + 5,
            num_bands,
        )
        self.net = MaterialPerceptron(num_endmembers, layers, generator)

    def forward(self, latents: Tensor, reference: Tensor) -> Tensor:
        return torch.sigmoid(self.net(latents))


class ScalingDecoder(Decoder):
    """The reference spectrum scaled band by band: ``f_p(z) = m0_p * exp(s z_1 + d_p(z))``.

    d_p is a perceptron H -> `hidden_size` -> `hidden_size` -> L whose last layer starts at zero: at the start
    ``f_p(0)`` is the reference and z_1 is its brightness.

    Parameters
    ----------
    brightness : float
        s, relative change of brightness at ``z_1 = 1``, at the start.
    hidden_size : int

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.bases.ScalingDecoder(0.2), pu.bases.Decoder)
    True
    """

    knows_brightness = True

    def __init__(self, brightness: float = 0.2, *, hidden_size: int = 16) -> None:
        super().__init__()
        self.start = positive(brightness, "brightness")
        self.hidden_size = hidden_size

    def setup(
        self, *, num_bands: int, num_endmembers: int, latent_size: int, generator: torch.Generator
    ) -> None:
        layers = (latent_size, self.hidden_size, self.hidden_size, num_bands)
        self.net = MaterialPerceptron(num_endmembers, layers, generator)
        for last in (self.net.weights[-1], self.net.biases[-1]):
            nn.init.zeros_(last)
        self.learn_or_keep("log_brightness", math.log(self.start), num_endmembers)

    def forward(self, latents: Tensor, reference: Tensor) -> Tensor:
        bright = self.log_brightness.exp().unsqueeze(-1) * latents[..., :1]
        change: Tensor = bright + self.net(latents)
        return reference.mT * change.exp()

    def brightness_posterior(
        self, amounts: Tensor, reference: Tensor, noise_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The most probable z_1 with ``sum_p alpha_p exp(-s_p z_p1) = 1`` to first order, and its scale.

        With ``a = alpha / 1'alpha`` the prior's mode on that plane is ``z_p = s_p a_p log(1'alpha) / sum_q (s_q
        a_q)^2``; the scale is ``(1 + (s_p a_p ||m0_p|| / sigma)^2)^(-1/2)``. The other latents keep the prior's.
        """
        total = amounts.sum(-1, keepdim=True).clamp(min=_DARKEST)
        weighted = self.log_brightness.exp() * amounts / total
        loc = (
            weighted * total.log() / weighted.square().sum(-1, keepdim=True).clamp(min=_DARKEST**2)
        )
        scale = (1 + (weighted * reference.norm(dim=0) / noise_scale).square()).rsqrt()
        others = (*loc.shape, self.net.sizes[0] - 1)
        return (
            torch.cat([loc.unsqueeze(-1), loc.new_zeros(others)], dim=-1),
            torch.cat([scale.unsqueeze(-1), scale.new_ones(others)], dim=-1),
        )


class DecodedBasis(Basis, PyroModule):
    """Latent endmembers in a sequence model: ``m_p = f_p(psi_p)`` by a decoder of `IDNet`, instead of a linear basis.

    ``SGLMM(endmembers, basis=DecodedBasis(ScalingDecoder()), variability_prior=AutoRegressive(0.5))`` has a latent
    vector per material that moves in time. `components`, which guides use for their regression, are the decoder's
    slopes over one prior standard deviation, ``F_k = (f(e_k) - f(-e_k)) / 2``, without gradient.

    Parameters
    ----------
    decoder : Decoder
        A copy is taken. One that a model has been using (``result.model.decoder`` of `idnet`, of the same L, P and H)
        starts where it is, else it starts from the model's seed.
    latent_size : int
        H, the number of components.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.bases.DecodedBasis(pu.bases.ScalingDecoder()))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    is_linear = False
    needs: ClassVar[frozenset[Need]] = frozenset({Need.NONLINEAR_MIXING})

    def __init__(self, decoder: Decoder, latent_size: int = 2) -> None:
        super().__init__()
        if not isinstance(decoder, Decoder):
            raise TypeError(
                f"decoder must be a Decoder object such as ScalingDecoder(), got {decoder!r}"
            )
        self.num_components = positive_int(latent_size, "latent_size")
        self.decoder = copy.deepcopy(decoder)

    def setup(self, *, num_bands: int, num_endmembers: int, generator: torch.Generator) -> None:
        if next(self.decoder.parameters(), None) is None:
            self.decoder.setup(
                num_bands=num_bands,
                num_endmembers=num_endmembers,
                latent_size=self.num_components,
                generator=generator,
            )
        self._try(num_bands, num_endmembers)

    def varied(self, endmembers: Tensor, variability: Tensor) -> Tensor:
        """``f(psi)``, of (L, P) and (..., K, P): (..., L, P)."""
        spectra: Tensor = self.decoder(variability.mT, endmembers)
        return spectra.mT

    @torch.no_grad()
    def components(self, endmembers: Tensor) -> Tensor:
        units = torch.eye(self.num_components, dtype=endmembers.dtype, device=endmembers.device)
        ones = units.unsqueeze(-1).expand(-1, -1, endmembers.shape[1])
        slopes = (self.varied(endmembers, ones) - self.varied(endmembers, -ones)) / 2
        return slopes.transpose(0, 1)

    @one_engine()
    def _try(self, num_bands: int, num_endmembers: int) -> None:
        """Raise if a decoder that has been used has other sizes."""
        like = next(self.decoder.parameters())
        reference = like.new_ones(num_bands, num_endmembers)
        try:
            with pyro.get_param_store().scope():  # calling a module enters its parameters there
                shape = self.components(reference).shape
        except RuntimeError:
            shape = None
        if shape != (num_bands, self.num_components, num_endmembers):
            raise ValueError(
                "the decoder was made for other numbers of bands, endmembers or latents than "
                f"({num_bands}, {num_endmembers}, {self.num_components}): pass a new one, such as "
                "ScalingDecoder()"
            )
