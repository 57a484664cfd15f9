"""IDNet's guide: encoders of the latent endmembers, and abundances from a regression plus a small network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_unmix.guides.base import Guide, SiteNoise
from pyro_unmix.guides.shrinkage import Regression, ShrinkageSteps
from pyro_unmix.models.idnet import IDNet, check_one_date
from pyro_unmix.ops.checks import in_range, positive_int
from pyro_unmix.ops.dirichlet import NOISE_PER_MATERIAL, dirichlet_from_noise
from pyro_unmix.ops.distributions import DiagonalNormal
from pyro_unmix.ops.perceptrons import MaterialPerceptron, perceptron

_FLOOR = 1e-2


class TwoStreamGuide(Guide):
    """``q(z | y) q(M | z) q(a | M, y)`` of `IDNet`::

        z_p | y ~ N(mu_p(y), diag(s_p(y))^2)          a perceptron per material, L -> 5H -> 2H -> 2H
        M | z   as in the model, by its own decoders
        a | M, y ~ Dirichlet(kappa relu(r(y, M) + 0.1 h(y)) + 0.01),   kappa = 10 + 100 exp(c)

    r is a regression of the pixel on its endmembers (the linear stream), h a perceptron
    L -> 2L -> L/2 -> L/4 -> 4P -> P (the nonlinear one). The 0.01 keeps the concentration positive where r + 0.1 h is
    not. A pixel that is not valid has the prior. The last layers of all networks start scaled by `initial_gain`, and
    the scales of z at about `initial_scale`.

    Parameters
    ----------
    model : IDNet
    regression : Regression
        Default ``ShrinkageSteps()``, the paper's.
    scale : float
        The 0.1.
    informed : bool
        Whether mean and scale of z start from what the decoder's `brightness_posterior` says of the pixel: its mean
        is added to that of the network, its scale multiplied with the network's. Not for every decoder.
    initial_gain : float
        Of the networks' last layers; with 0 the networks say nothing at the start.
    initial_scale : float
    initial_precision : float
        kappa at the start, above 10.
    seed : int
        Of the initial weights.

    Raises
    ------
    TypeError
        If the model is no `IDNet`, or the regression no `Regression`.
    ValueError
        If a number is out of range, or `informed` with a decoder that has no `brightness_posterior`.

    References
    ----------
    Borsoi, Erdogmus, Imbiriba, IEEE TCI 9, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.IDNet(scene.reference_endmembers)
    >>> guide = pu.guides.TwoStreamGuide(model)
    >>> pu.fit(model, guide, scene.cubes[:1], num_steps=2, progress=False)
    <Unmixing by fit (time: 1, y: 10, x: 10, endmember: 3), 2 steps>
    """

    of_sequences: ClassVar[bool] = False

    def __init__(
        self,
        model: IDNet,
        *,
        regression: Regression | None = None,
        scale: float = 0.1,
        informed: bool = False,
        initial_gain: float = 1.0,
        initial_scale: float = 1.0,
        initial_precision: float = 110.0,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if not isinstance(model, IDNet):
            raise TypeError(f"TwoStreamGuide is built from an IDNet, got {type(model).__name__}")
        if not isinstance(regression, (Regression, type(None))):
            raise TypeError(
                "regression must be a Regression object such as ShrinkageSteps(), got "
                f"{regression!r}"
            )
        if informed and not model.decoder.knows_brightness:
            raise ValueError(
                f"informed=True needs a decoder with a brightness_posterior, such as "
                f"ScalingDecoder(), got {type(model.decoder).__name__}"
            )
        self.scale = in_range(scale, "scale", 0.0)
        self.informed = informed
        gain = in_range(initial_gain, "initial_gain", 0.0)
        log_scale = math.log(in_range(initial_scale, "initial_scale", 0.0, open_low=True))
        num_bands, p, size = model.num_bands, model.num_endmembers, model.latent_size
        generator = torch.Generator().manual_seed(positive_int(seed, "seed", minimum=0))
        self.encoder = MaterialPerceptron(p, (num_bands, 5 * size, 2 * size, 2 * size), generator)
        with torch.no_grad():
            for last in (self.encoder.weights[-1], self.encoder.biases[-1]):
                last.mul_(gain)
            self.encoder.biases[-1][..., size:] += log_scale
        self.regression = ShrinkageSteps() if regression is None else copy.deepcopy(regression)
        self.regression.setup(num_endmembers=p, generator=generator)
        halves = (max(1, num_bands // 2), max(1, num_bands // 4))
        layers = (num_bands, 2 * num_bands, *halves, 4 * p, p)
        self.correction = perceptron(layers, generator)
        with torch.no_grad():
            for parameter in self.correction[-1].parameters():
                parameter.mul_(gain)
        extra = in_range(initial_precision, "initial_precision", 10.0, open_low=True) - 10
        self.log_precision = nn.Parameter(torch.tensor(math.log(extra / 100)))

    def check_served(self) -> None:
        """Raise ValueError if the model's noise is not white; the other guides do not serve `IDNet`."""
        noise = getattr(self.model, "noise", None)
        if getattr(noise, "needs", None):
            raise ValueError(
                f"TwoStreamGuide serves white noise only, got {type(noise).__name__}: build the model "
                "with noise=WhiteNoise(...)"
            )

    def latents(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of z, (..., L) and (...) -> (..., P H); those of the prior where not valid."""
        p, size = self.model.num_endmembers, self.model.latent_size
        shared = pixels.unsqueeze(-2).expand(*pixels.shape[:-1], p, -1)
        loc, log_scale = self.encoder(shared).split(size, dim=-1)
        if self.informed:
            start = self._brightness(pixels)
            loc, log_scale = loc + start[0], log_scale + start[1].log()
        observed = valid.unsqueeze(-1)
        loc = torch.where(observed, loc.flatten(-2), 0.0)
        return loc, torch.where(observed, log_scale.flatten(-2).exp(), 1.0)

    def _brightness(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of z by the pixel's brightness, (..., P, H)."""
        reference = self.model.reference.value
        amounts = self.regression(reference, pixels, self.model.mixing)
        return self.model.decoder.brightness_posterior(amounts, reference, self.model.noise.scale)

    def streams(self, pixels: Tensor, endmembers: Tensor) -> tuple[Tensor, Tensor]:
        """``r(y, M)`` and ``0.1 h(y)``, both (..., P), of (..., L) and (..., L, P)."""
        regression = self.regression(endmembers, pixels, self.model.mixing)
        return regression, self.scale * self.correction(pixels)

    def concentration(self, pixels: Tensor, valid: Tensor, endmembers: Tensor) -> Tensor:
        """Of the Dirichlet distribution q(a | M, y), (..., P); ones, as the prior has, where not valid."""
        regression, correction = self.streams(pixels, endmembers)
        precision = 10 + 100 * self.log_precision.exp()
        values = precision * (regression + correction).relu() + _FLOOR
        return torch.where(valid.unsqueeze(-1), values, 1.0)

    def forward(
        self,
        pixels: Tensor,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The variational program; arguments as `SGLMM.forward`, with one date."""
        check_one_date(valid)
        observed = valid[:, 0]
        y = torch.where(observed.unsqueeze(-1), pixels[:, 0], 0.0)
        with pyro.plate("pixels", size or len(y), subsample=index, dim=-1):
            latents = pyro.sample("z_1", DiagonalNormal(*self.latents(y, observed)))
            flat = pyro.sample("M_1", self.model.endmember_distribution(latents))
            endmembers = self.model.as_endmembers(flat)
            pyro.sample("a_1", dist.Dirichlet(self.concentration(y, observed, endmembers)))

    def draw(
        self, pixels: Tensor, valid: Tensor, features: Mapping[str, Tensor], noise: SiteNoise
    ) -> tuple[Tensor, Tensor]:
        """Draws of the abundances (S, B, 1, P) one by one, and the mean latent endmembers (B, 1, H, P)."""
        check_one_date(valid)
        model, observed = self.model, valid[:, 0]
        y = torch.where(observed.unsqueeze(-1), pixels[:, 0], 0.0)
        loc, scale = self.latents(y, observed)
        of_latents = noise("z_1", loc.shape[-1])
        of_spectra = noise("M_1", model.num_endmembers * model.num_bands)
        of_abundances = noise("a_1", model.num_endmembers * NOISE_PER_MATERIAL)
        draws = []
        for s in range(len(of_latents)):
            spectra = model.endmember_distribution(loc + scale * of_latents[s])
            endmembers = model.as_endmembers(spectra.from_noise(of_spectra[s]))
            concentration = self.concentration(y, observed, endmembers)
            white = of_abundances[s].unflatten(-1, (model.num_endmembers, NOISE_PER_MATERIAL))
            draws.append(dirichlet_from_noise(concentration, white))
        sizes = model.num_endmembers, model.latent_size
        return torch.stack(draws).unsqueeze(-2), loc.unflatten(-1, sizes).mT.unsqueeze(-3)

    def degree_of_nonlinearity(
        self, pixels: Tensor, valid: Tensor, endmembers: Tensor | None = None
    ) -> Tensor:
        """``||0.1 h|| / (||r|| + ||0.1 h||)``, the paper's measure of a pixel's nonlinearity.

        Parameters
        ----------
        pixels : Tensor, shape (B, 1, L)
        valid : Tensor of bool, shape (B, 1)
        endmembers : Tensor, shape (B, L, P), optional
            Default those at the mean of ``q(z | y)``.

        Returns
        -------
        Tensor, shape (B,)
            In [0, 1]; NaN where not valid.
        """
        check_one_date(valid)
        observed = valid[:, 0]
        y = torch.where(observed.unsqueeze(-1), pixels[:, 0], 0.0)
        if endmembers is None:
            loc, _ = self.latents(y, observed)
            endmembers = self.model.as_endmembers(self.model.endmember_distribution(loc).mean)
        linear, nonlinear = (stream.norm(dim=-1) for stream in self.streams(y, endmembers))
        total = (linear + nonlinear).clamp(min=torch.finfo(y.dtype).tiny)
        return (nonlinear / total).masked_fill(~observed, float("nan"))

    def penalised(self) -> list[Tensor]:
        """Weights and biases of the nonlinear stream h."""
        return list(self.correction.parameters())
