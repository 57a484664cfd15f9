"""IDNet: one image, latent endmembers of every pixel, and two-stream mixing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor, nn

from pyro_unmix.bases.decoded import Decoder, PerceptronDecoder
from pyro_unmix.data.libraries import is_library, library_endmembers
from pyro_unmix.mixing import Mixing, TwoStreamMixing
from pyro_unmix.models.base import VariabilityModel
from pyro_unmix.models.sglmm import _part, _simulated, _subsample
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.priors import FixedEndmembers, Noise, WhiteNoise


class IDNet(VariabilityModel):
    """Interpretable deep unmixing of one image: latent endmembers, Dirichlet abundances, two-stream mixing.

    For every pixel, independently given the parameters::

        z_p ~ N(0, I_H)                      latent endmember of material p
        m_p | z_p ~ N(f_p(z_p), s_p^2 I_L)   its spectrum in this pixel, by a decoder f_p
        a ~ Dirichlet(1)
        y | M, a ~ N(mix(M, a), sigma^2 I_L)

    with ``mix(M, a) = relu(M a + 0.1 g(vec M, a))`` in the paper. Decoder, mixing and noise are objects that can be
    swapped; the defaults are the paper's, whose s and sigma start at 0.1. Sites, in the plate ``pixels``: ``z_1``
    (event P H, material outer), ``M_1`` (event P L, material outer), ``a_1`` (event P) and ``y_1`` (event L).

    Parameters
    ----------
    endmembers : array (L, P), DataArray (wavelength, endmember), or bundles
        Reference spectra, reflectance. Bundles (a DataArray with the coordinate ``label``, as `extract_bundles` or a
        spectral library gives) stand for the means of their classes.
    latent_size : int
        H.
    decoder : Decoder
        f. Default ``PerceptronDecoder()``.
    mixing : Mixing
        Default ``TwoStreamMixing()``.
    noise : Noise
        Default ``WhiteNoise(0.1)``.
    endmember_scale : float
        s at the start, one learned number per material; reflectance.
    seed : int
        Of the random initial weights.

    Raises
    ------
    TypeError
        If a part is of the wrong kind.
    ValueError
        If the endmembers are not as described, or a number is out of range.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, "Learning interpretable deep disentangled neural networks for hyperspectral
    unmixing", IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> model = pu.IDNet(pu.simulate.library().isel(endmember=[0, 1]))
    >>> model.num_endmembers
    2
    """

    def __init__(
        self,
        endmembers: ArrayLike | xr.DataArray,
        *,
        latent_size: int = 2,
        decoder: Decoder | None = None,
        mixing: Mixing | None = None,
        noise: Noise | None = None,
        endmember_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__("model")
        if is_library(endmembers):
            endmembers = library_endmembers(endmembers)
        self.reference = FixedEndmembers(endmembers)
        self.num_bands, self.num_endmembers = self.reference.value.shape
        self.latent_size = positive_int(latent_size, "latent_size")
        self.decoder = _part(decoder, Decoder, PerceptronDecoder, "decoder")
        self.mixing = _part(mixing, Mixing, TwoStreamMixing, "mixing")
        self.noise = _part(noise or WhiteNoise(0.1), Noise, WhiteNoise, "noise")
        scale = positive(endmember_scale, "endmember_scale")
        self.log_endmember_scale = nn.Parameter(torch.full((self.num_endmembers,), math.log(scale)))
        generator = torch.Generator().manual_seed(positive_int(seed, "seed", minimum=0))
        sizes = {"num_bands": self.num_bands, "num_endmembers": self.num_endmembers}
        self.decoder.setup(**sizes, latent_size=self.latent_size, generator=generator)
        self.mixing.setup(**sizes, generator=generator)
        self.noise.setup(num_bands=self.num_bands, generator=generator)

    @property
    def endmember_names(self) -> list[str] | None:
        """Names of the materials, where the given endmembers had them."""
        return self.reference.names

    def design(self) -> Tensor:
        """The reference endmembers, (L, P)."""
        return self.reference.value

    def endmember_distribution(self, latents: Tensor) -> DiagonalNormal:
        """``p(M | z)``, (..., P H) -> event P L, material outer; the guide's q(M | z) is the same."""
        spectra = self.decoder(latents.unflatten(-1, (-1, self.latent_size)), self.reference.value)
        log_scale = self.log_endmember_scale
        scale = log_scale.exp().repeat_interleave(self.num_bands)
        return DiagonalNormal(spectra.flatten(-2), scale, self.num_bands * log_scale.sum())

    def as_endmembers(self, flat: Tensor) -> Tensor:
        """(..., P L), as the site ``M_1`` has them, to (..., L, P)."""
        return flat.unflatten(-1, (self.num_endmembers, self.num_bands)).mT

    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The generative program; parameters as `SGLMM.forward`, with one date."""
        check_one_date(valid)
        like, noise = self.reference.value, self.noise.distributions()
        zeros = like.new_zeros(self.num_endmembers * self.latent_size)
        uniform = like.new_ones(self.num_endmembers)
        mask: Any = valid[:, 0]
        with pyro.plate("pixels", size or len(valid), subsample=_subsample(index, len(valid))):
            latents = pyro.sample("z_1", DiagonalNormal(zeros, torch.ones_like(zeros)))
            flat = pyro.sample("M_1", self.endmember_distribution(latents))
            abundances = pyro.sample("a_1", dist.Dirichlet(uniform))
            mean = self.mixing(self.as_endmembers(flat), abundances)
            with poutine.mask(mask=mask):
                pyro.sample("y_1", noise(mean), obs=None if pixels is None else pixels[:, 0])

    def decode_variability(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., 1, P) and latent endmembers (..., 1, H, P) of site values ``a_1``, ``z_1``."""
        sizes = self.num_endmembers, self.latent_size
        return latents["a_1"].unsqueeze(-2), latents["z_1"].unflatten(-1, sizes).mT.unsqueeze(-3)

    def mixing_endmembers(self, variability: Tensor) -> Tensor:
        """Spectra f(z), (..., H, P) -> (..., L, P)."""
        return self.decoder(variability.mT, self.reference.value).mT

    def mix(self, abundances: Tensor, variability: Tensor) -> Tensor:
        """Noiseless pixels of abundances (..., P) and latent endmembers (..., H, P): (..., L)."""
        return self.mixing(self.mixing_endmembers(variability), abundances)

    def penalised(self) -> list[Tensor]:
        """Weights and biases of the nonlinear stream."""
        return self.mixing.penalised()

    def sample_sequence(
        self, num_pixels: int, num_dates: int = 1, *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Draws of this program: ``pixels`` (N, 1, L), ``abundances`` (N, 1, P), ``variability`` (N, 1, H, P)."""
        return _simulated(self, num_pixels, num_dates, seed)


def check_one_date(valid: Tensor) -> None:
    """Refuse sequences."""
    if valid.shape[-1] != 1:
        raise ValueError(
            f"IDNet unmixes one image, got {valid.shape[-1]} dates: select one with "
            ".isel(time=[0]), or unmix the sequence with SGLMM"
        )
