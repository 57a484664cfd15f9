"""A perturbed linear model per date with smoothness priors, for whole scenes at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.cubes import as_cube_sequence, tiles, to_pixels
from pyro_unmix.data.types import CubesLike
from pyro_unmix.mixing import design_matrix
from pyro_unmix.models.base import VariabilityModel
from pyro_unmix.models.smoothness import SmoothField, SmoothSpectra, curvature
from pyro_unmix.ops.checks import in_range, positive
from pyro_unmix.ops.distributions import IsotropicNormal
from pyro_unmix.ops.recipes import Recorded
from pyro_unmix.ops.simplex import to_abundances
from pyro_unmix.priors import FixedEndmembers


class SceneLayout(Recorded):
    """What `PerturbedLinear` keeps of a scene of N pixels, T dates and L bands: not its images.

    Parameters
    ----------
    first_band : numpy.ndarray (N, T)
        Reflectance, by which the scene is known again.
    wavelength : numpy.ndarray (L,)
        nm, or the numbers of the bands.
    width : int
        Pixels in a row.
    tile_heights : list of int
        Rows of the disjoint tiles.
    """

    def __init__(
        self,
        first_band: np.ndarray,
        wavelength: np.ndarray,
        width: int,
        tile_heights: list[int],
    ) -> None:
        self.first_band, self.wavelength = first_band, wavelength
        self.width, self.tile_heights = int(width), list(tile_heights)

    @classmethod
    def of(cls, cubes: CubesLike) -> SceneLayout:
        """The layout of anything that `as_cube_sequence` takes."""
        sequence = as_cube_sequence(cubes)
        pixels, _valid = to_pixels(sequence)
        wavelength = np.asarray(sequence.coords.get("wavelength", np.arange(pixels.shape[2])))
        heights = [tile.stop - tile.start for tile in tiles(sequence)]
        return cls(pixels[..., 0].copy(), wavelength, sequence.sizes["x"], heights)


class PriorScales(TypedDict, total=False):
    """Keywords of `PerturbedLinear`."""

    state_scale: float
    reference_scale: float
    noise_scale: float
    curvature_scale: float
    perturbation_scale: float
    spatial_scale: float
    temporal_scale: float


class PerturbedLinear(VariabilityModel):
    """Perturbed linear mixing, one perturbation per date, with composite smoothness priors.

    For the pixels n and the dates t of one scene::

        y_nt ~ N((M + dM_t) a_nt, sigma^2 I),      a_nt = softmax(c_nt)
        p(c) ~ exp -1/2 [ sum_{n ~ m, t} ||c_nt - c_mt||^2 / s_space^2
                          + sum_nt ||c_nt - c_n,t-1||^2 / s_time^2 + ||c||^2 / s_state^2 ]
        p(M) ~ exp -1/2 [ ||D M||^2 / s_curve^2 + ||M - M0||^2 / s_ref^2 ]
        dM_t ~ N(0, s_date^2 I)

    where ``n ~ m`` are neighbours in a row or a column of the same tile, and D takes second differences over the bands
    in the order of their wavelengths. Both priors are normalised exactly, so that sigma and the s can be inferred: they
    are log-normal with the given medians and a log-standard deviation of 1; s_state and s_ref are fixed.

    Sites, all global: ``noise_scale``, ``spatial_scale``, ``temporal_scale``, ``curvature_scale``,
    ``perturbation_scale``, and the vectors ``endmembers`` (event L P, from (L, P)), ``perturbations`` (event T L P) and
    ``states`` (event N T P). Observed are ``y_1 .. y_T`` (event L) in the plate ``pixels``. Since the prior of c
    couples all pixels, c is there in full at every step; a batch of pixels gives an unbiased ELBO, all pixels the exact
    one. Missing pixel-dates are masked in the likelihood.

    A guide must declare the plate, so that a part of the pixels can be read out:
    ``AutoNormal(model, create_plates=model.plates)``.

    Parameters
    ----------
    endmembers : array (L, P) or DataArray (wavelength, endmember)
        M0, reflectance.
    cubes
        The scene, anything that `as_cube_sequence` takes: its grid, tiles, dates and wavelengths.
        The model is for these images only; it keeps their `SceneLayout`, which may stand for them.
    state_scale : float
        s_state, without unit.
    reference_scale : float
        s_ref, reflectance.
    noise_scale, curvature_scale, perturbation_scale : float
        Prior medians of sigma, s_curve and s_date, reflectance.
    spatial_scale, temporal_scale : float
        Prior medians of s_space and s_time, without unit.

    Raises
    ------
    ValueError, TypeError
        If the cubes, the endmembers or a scale are not as described.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.models.PerturbedLinear(scene.reference_endmembers, scene.cubes)
    >>> model.num_endmembers
    3
    """

    initial: Tensor
    shown: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    first_band: Tensor

    def __init__(
        self,
        endmembers: ArrayLike | xr.DataArray,
        cubes: CubesLike | SceneLayout,
        *,
        state_scale: float = 3.0,
        reference_scale: float = 0.01,
        noise_scale: float = 0.01,
        curvature_scale: float = 0.01,
        perturbation_scale: float = 0.03,
        spatial_scale: float = 0.5,
        temporal_scale: float = 0.5,
    ) -> None:
        super().__init__("model")
        layout = cubes if isinstance(cubes, SceneLayout) else SceneLayout.of(cubes)
        self.record(cubes=layout)  # a saved model holds no images
        self.num_pixels, self.num_dates = layout.first_band.shape
        self.num_bands = len(layout.wavelength)
        self.width, self.tile_heights = layout.width, layout.tile_heights
        as_endmembers(endmembers, self.num_bands)
        #: What the read-out shows as M, see `show`.
        self.reference = FixedEndmembers(endmembers)
        self.num_endmembers = self.reference.value.shape[1]
        self.state_scale = positive(state_scale, "state_scale")
        self.reference_scale = positive(reference_scale, "reference_scale")
        self.medians = {
            "noise_scale": noise_scale,
            "spatial_scale": spatial_scale,
            "temporal_scale": temporal_scale,
            "curvature_scale": curvature_scale,
            "perturbation_scale": perturbation_scale,
        }
        for name, median in self.medians.items():
            in_range(median, name, 0.0, open_low=True)
        start = self.reference.value
        by_date = start.new_zeros(self.num_dates, *start.shape)
        self.register_buffer("initial", start.clone())
        self.register_buffer("shown", by_date)  # dM_t
        values, vectors = np.linalg.eigh(curvature(layout.wavelength))
        self.register_buffer("eigenvalues", torch.as_tensor(values).clamp(min=0).to(start))
        self.register_buffer("eigenvectors", torch.as_tensor(vectors).to(start))
        self.register_buffer("first_band", torch.as_tensor(layout.first_band).to(start))

    @property
    def endmember_names(self) -> list[str] | None:
        """Names of the materials, where the given endmembers had them."""
        return self.reference.names

    def components(self) -> Tensor:
        """The perturbations that the read-out shows, (L, T, P): component t is dM_t."""
        return self.shown.movedim(0, 1)

    def design(self) -> Tensor:
        """``[M, dM_1, ..., dM_T]`` as the read-out shows them, shape (L, (T+1) P)."""
        return design_matrix(self.reference.value, self.components())

    def show(self, endmembers: Tensor, perturbations: Tensor) -> None:
        """Let the read-out show these M (L, P) and dM (T, L, P); the density stays as it is."""
        self.reference.value.copy_(endmembers)
        self.shown.copy_(perturbations)

    def plates(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> pyro.plate:
        """The plate of the pixels, for the `create_plates` of Pyro's guides.

        Raises
        ------
        ValueError
            If the pixels are not those of the model's scene.
        """
        rows = torch.arange(len(valid), device=valid.device) if index is None else index
        same = valid.shape[1] == self.num_dates and int(rows.max()) < self.num_pixels
        if same and pixels is not None:
            same = torch.allclose(pixels[..., 0], self.first_band[rows])
        if not same:
            raise ValueError(
                "expected pixels of the images that this model was made for, got others: its "
                "abundances belong to those images; make a model for the new ones and fit it"
            )
        return pyro.plate("pixels", size or len(valid), subsample=rows, dim=-1)

    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        """The generative program; parameters as `SGLMM.forward`."""
        scale = {name: self._scale(name) for name in self.medians}
        spectra = SmoothSpectra(
            self.initial,
            (self.eigenvalues, self.eigenvectors),
            scale["curvature_scale"],
            self.reference_scale,
        )
        sizes = self.num_dates, self.num_bands, self.num_endmembers
        zeros = self.initial.new_zeros(math.prod(sizes))
        perturbation = dist.Normal(zeros, scale["perturbation_scale"].unsqueeze(-1)).to_event(1)
        field = SmoothField(
            (self.width, self.num_dates, self.num_endmembers),
            self.tile_heights,
            scale["spatial_scale"],
            scale["temporal_scale"],
            self.state_scale,
        )
        endmembers = pyro.sample("endmembers", spectra).unflatten(-1, (1, *sizes[1:]))
        endmembers = endmembers + pyro.sample("perturbations", perturbation).unflatten(-1, sizes)
        states = pyro.sample("states", field)
        log_noise = scale["noise_scale"].log()
        masks: Any = valid.unbind(1)
        rows: Any
        with self.plates(pixels, valid, index=index, size=size) as rows:
            abundances = self._abundances(states, rows)
            for t in range(self.num_dates):
                mean = abundances[..., t, :] @ endmembers[..., t, :, :].mT
                # global draws have a singleton where the plate is
                mean = mean.reshape(*mean.shape[:-3], *mean.shape[-2:])
                with poutine.mask(mask=masks[t]):
                    observed = None if pixels is None else pixels[:, t]
                    pyro.sample(f"y_{t + 1}", IsotropicNormal(mean, log_noise), obs=observed)

    def decode_variability(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., B, T, P) of the pixels of the plate, and ones that pick dM_t.

        The second are (B, T, T, P), of component k at date t 1 where k = t, else 0.
        """
        if "pixels" not in latents:
            raise ValueError(
                "the guide must declare the plate 'pixels', got a guide without it: pass "
                "create_plates=model.plates to Pyro's guide"
            )
        rows = latents["pixels"]
        abundances = self._abundances(latents["states"], rows)
        abundances = abundances.reshape(*abundances.shape[:-4], *abundances.shape[-3:])
        pick = torch.eye(self.num_dates, dtype=abundances.dtype, device=abundances.device)
        return abundances, pick[..., None].expand(len(rows), -1, -1, self.num_endmembers)

    def decode(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., B, T, P) and endmembers ``M + dM_t`` (..., T, L, P), those of the sites."""
        sizes = self.num_dates, self.num_bands, self.num_endmembers
        endmembers = latents["endmembers"].unflatten(-1, (1, *sizes[1:]))
        spectra = endmembers + latents["perturbations"].unflatten(-1, sizes)
        return self.decode_variability(latents)[0], spectra

    def mixing_endmembers(self, variability: Tensor) -> Tensor:
        """``M + sum_k dM_k diag(psi_k)`` as the read-out shows them, (..., K, P) -> (..., L, P)."""
        parts = torch.einsum("lkp,...kp->...lp", self.components(), variability)
        return self.reference.value + parts

    def _scale(self, name: str) -> Tensor:
        median = self.initial.new_tensor(self.medians[name])
        return pyro.sample(name, dist.LogNormal(median.log(), torch.ones_like(median)))

    def _abundances(self, states: Tensor, rows: Tensor) -> Tensor:
        """(..., N T P) -> (..., B, T, P)."""
        sizes = self.num_pixels, self.num_dates, self.num_endmembers
        return to_abundances(states.unflatten(-1, sizes)[..., rows, :, :])
