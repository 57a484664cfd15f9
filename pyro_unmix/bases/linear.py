"""Spectral bases of endmember variability, ``M_n = M0 + sum_k F_k diag(psi_k)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pyro_unmix.data.libraries import classes_of, order_of
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.recipes import Recorded
from pyro_unmix.priors.part import Need


class Basis(Recorded, nn.Module):
    """Spectral basis of endmember variability: ``M_n = M0 + sum_k F_k diag(psi_k)``.

    Subclasses implement `components`, which returns F for given reference endmembers. With
    ``F_k = d_k 1' * M0`` this is eq. (7) of the ReDSUNN paper.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> isinstance(pu.bases.DCT(4), pu.bases.Basis)
    True
    """

    num_components: int
    #: Whether the endmembers are linear in the variability, so that `components` says all.
    is_linear = True
    #: What a guide must be able to serve, see `Guide.serves`.
    needs: ClassVar[frozenset[Need]] = frozenset()

    def setup(self, *, num_bands: int, num_endmembers: int, generator: torch.Generator) -> None:
        """Create the parameters, if there are any."""

    def components(self, endmembers: Tensor) -> Tensor:
        """F, shape (L, K, P), for reference endmembers of shape (L, P)."""
        raise NotImplementedError(f"{type(self).__name__} must implement components(endmembers)")

    def varied(self, endmembers: Tensor, variability: Tensor) -> Tensor:
        """``M0 + sum_k F_k diag(psi_k)``, of (L, P) and (..., K, P): (..., L, P)."""
        parts = torch.einsum("lkp,...kp->...lp", self.components(endmembers), variability)
        return endmembers + parts

    def forward(self, endmembers: Tensor) -> Tensor:
        return self.components(endmembers)

    def _check_num_bands(self, endmembers: Tensor) -> int:
        """L, or ValueError where a basis of functions over the bands has more of them."""
        num_bands, name = len(endmembers), type(self).__name__
        if self.num_components > num_bands:
            raise ValueError(
                f"{name}(num_components={self.num_components}) needs at least as many bands, got "
                f"{num_bands}: use {name}(num_components={num_bands}) or fewer"
            )
        return num_bands


class DCT(Basis):
    """The first K orthonormal discrete cosines as bandwise scalings of the endmembers, equation (7).

    ``d_k(l) = s_k sqrt((2 - [k=0]) / L) cos(pi (2l + 1) k / (2L))``, ``F_k = d_k 1' * M0``.

    Parameters
    ----------
    num_components : int
        K.
    scale : float or sequence of K floats
        ``s_k``; with 1 the columns are orthonormal.

    References
    ----------
    ReDSUNN paper, eq. (7) and Sec. IV-A.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> model = pu.SGLMM(pu.simulate.library().isel(endmember=[0, 1]), basis=pu.bases.DCT(4))
    >>> model.components().shape
    torch.Size([224, 4, 2])
    """

    scale: Tensor

    def __init__(self, num_components: int = 10, *, scale: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")
        factors = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if factors.dim() > 1 or (factors.dim() == 1 and len(factors) != num_components):
            raise ValueError(
                f"scale must be one number or {num_components} numbers (one per component), got "
                f"shape {tuple(factors.shape)}"
            )
        self.register_buffer("scale", factors.expand(num_components).clone())

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = self._check_num_bands(endmembers)
        k = torch.arange(self.num_components, dtype=endmembers.dtype, device=endmembers.device)
        band = torch.arange(num_bands, dtype=endmembers.dtype, device=endmembers.device)
        columns = torch.cos(math.pi * (2 * band[:, None] + 1) * k / (2 * num_bands))
        norm = torch.where(k == 0, 1.0, 2.0).to(columns).div(num_bands).sqrt()
        return (columns * norm * self.scale)[:, :, None] * endmembers[:, None, :]


class Brightness(Basis):
    """One constant component per material: ``m_np = (1 + scale psi_np) m0_p`` (the ELMM).

    Parameters
    ----------
    scale : float
        Relative brightness change at ``psi = 1``.

    References
    ----------
    Drumetz et al., IEEE TIP 25(8), 2016 (extended linear mixing model).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.Brightness(0.2))
    >>> model.components().shape  # (L, K, P)
    torch.Size([4, 1, 3])
    """

    num_components = 1

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = float(scale)

    def components(self, endmembers: Tensor) -> Tensor:
        return self.scale * endmembers[:, None, :]


class BSpline(Basis):
    """Local bumps as bandwise scalings of the endmembers: ``F_k = scale b_k 1' * M0``.

    ``b_1 .. b_K`` are the B-splines of a degree over the numbers of the bands, on even knots with repeated ends:
    smooth, within [0, 1], each over a part of the bands only, and one in sum.

    Parameters
    ----------
    num_components : int
        K, at least degree + 1.
    degree : int
        3 is cubic.
    scale : float
        Relative change of reflectance where all ``psi = 1``.

    References
    ----------
    de Boor, "A practical guide to splines", 1978; `scipy.interpolate.BSpline`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.bases.BSpline(4))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, num_components: int = 10, *, degree: int = 3, scale: float = 0.3) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")
        self.degree = positive_int(degree, "degree", minimum=0)
        self.scale = positive(scale, "scale")
        if self.num_components <= self.degree:
            raise ValueError(
                f"BSpline of degree {degree} needs at least {degree + 1} components, got "
                f"{num_components}: raise num_components or lower degree"
            )

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = self._check_num_bands(endmembers)
        ends = [0.0] * self.degree, [1.0] * self.degree
        inner = np.linspace(0, 1, self.num_components - self.degree + 1)
        knots = np.concatenate([ends[0], inner, ends[1]])
        bands = np.linspace(0, 1, num_bands)
        from scipy import interpolate

        columns = interpolate.BSpline.design_matrix(bands, knots, self.degree).toarray()
        bumps = torch.as_tensor(self.scale * columns).to(endmembers)
        return bumps[:, :, None] * endmembers[:, None, :]


class Full(Basis):
    """Every band of every material by itself: no assumption on the shape of variability.

    ``F_k = scale e_k 1' * M0`` with e_k the unit vector of band k (the GLMM: band-wise scalings), or ``scale e_k 1'``
    (the PLMM: additive perturbations). K is the number of bands: psi has L P numbers per pixel and date, for images of
    few bands.

    Parameters
    ----------
    num_bands : int
        L.
    scale : float
        Change at ``psi = 1``, relative or in reflectance.
    additive : bool
        Perturbations that are added instead of scalings.

    References
    ----------
    Imbiriba, Borsoi, Bermudez, "Generalized linear mixing model accounting for endmember variability", ICASSP 2018;
    Thouvenin, Dobigeon, Tourneret, IEEE TSP 64(2), 2016 (perturbed linear mixing model).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(spectra, basis=pu.bases.Full(4))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, num_bands: int, *, scale: float = 0.1, additive: bool = False) -> None:
        super().__init__()
        self.num_components = positive_int(num_bands, "num_bands")
        self.scale = positive(scale, "scale")
        self.additive = additive

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = len(endmembers)
        if num_bands != self.num_components:
            raise ValueError(
                f"Full(num_bands={self.num_components}) has a component per band, the endmembers "
                f"have {num_bands} bands: use Full({num_bands})"
            )
        height = torch.ones_like(endmembers) if self.additive else endmembers
        units = torch.eye(num_bands, dtype=endmembers.dtype, device=endmembers.device)
        return self.scale * units[:, :, None] * height[:, None, :]


class LearnedBasis(Basis):
    """Components given as an array, as `pyro_unmix.start.learn_basis` estimates them from an image.

    Parameters
    ----------
    components : array, shape (L, K, P)
        F, scaled so that ``psi`` has unit variance; zero columns mean "no variability here".

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> components = np.ones((4, 1, 3)) * spectra.values[:, None]  # (L, K, P)
    >>> model = pu.SGLMM(spectra, basis=pu.bases.LearnedBasis(components))
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    array: Tensor

    def __init__(self, components: ArrayLike) -> None:
        super().__init__()
        values = np.asarray(components, dtype=np.float64)
        if values.ndim != 3 or not np.isfinite(values).all():
            raise ValueError(
                "LearnedBasis expects finite components of shape (bands, components, endmembers), "
                f"got shape {values.shape}: pass the array that learn_basis returns"
            )
        self.register_buffer("array", torch.tensor(values, dtype=torch.get_default_dtype()))
        self.num_components = values.shape[1]

    def components(self, endmembers: Tensor) -> Tensor:
        if self.array.shape[::2] != endmembers.shape:
            raise ValueError(
                f"this basis was learned for (bands, endmembers) = {tuple(self.array.shape[::2])}, "
                f"the model has {tuple(endmembers.shape)}: learn it again for these endmembers"
            )
        return self.array.to(endmembers.dtype)


def library_basis(library: xr.DataArray, num_components: int) -> LearnedBasis:
    """Variability basis from the spread within each class: principal components times their std.

    ``F_k[:, p] = v_pk s_pk / sqrt(S_p - 1)``, from the singular values ``s_pk`` and left vectors ``v_pk`` of the S_p
    centred spectra of class p, so that ``psi ~ N(0, I)`` has the covariance of the class in K components. A class of
    S_p spectra has at most S_p - 1 components; the others are zero. Pairs with `library_endmembers`.

    Parameters
    ----------
    library : DataArray (wavelength, endmember) with the coordinate ``label``
        At the bands of the scene.
    num_components : int
        K, at most the number of bands.

    Raises
    ------
    ValueError
        If `library` is no such array, K exceeds the bands, or no class has two spectra.

    References
    ----------
    Roberts et al., Remote Sensing of Environment 65(3), 1998, for classes that are many spectra; Jolliffe, "Principal
    Component Analysis", 2002.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900])
    >>> library = spectra.isel(
    ...     endmember=[0, 1, 2, 3]).assign_coords(label=('endmember', ['a', 'a', 'b', 'b'])
    ... )
    >>> pu.bases.library_basis(library, 1).num_components
    1
    """
    spectra, labels = classes_of(library)
    size = positive_int(num_components, "num_components")
    if size > len(spectra):
        raise ValueError(
            f"num_components is {size}, but the library has {len(spectra)} bands: lower it"
        )
    counts = {label: int((labels == label).sum()) for label in order_of(labels)}
    if max(counts.values()) < 2:
        raise ValueError(
            "the library has one spectrum per class, which says nothing of variability: use "
            "another basis, for example DCT(), or a library with several spectra per class"
        )
    parts = np.zeros((len(spectra), size, len(counts)))
    for p, (label, count) in enumerate(counts.items()):
        members = spectra[:, labels == label]
        vectors, values, _ = np.linalg.svd(members - members.mean(1, keepdims=True), False)
        rank = min(size, count - 1)
        parts[:, :rank, p] = vectors[:, :rank] * values[:rank] / np.sqrt(max(count - 1, 1))
    return LearnedBasis(parts)
