"""Forward physics on tensors: simplex maps, spectral bases and the smooth linear mixing of eq. (7).

The per-pixel endmembers ``M_n = M0 + sum_k F_k diag(psi_k)`` are linear in the variability ``psi``, so a pixel is
``M_n a = design @ features`` with ``design = [M0, F_1, ..., F_K]`` (L x P(K+1)) and ``features = [a, psi_1 * a, ...]``:
no (pixels, L, P) array is ever formed while fitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import interpolate
from torch import Tensor, nn

from pyro_unmix._check import in_range, positive_int
from pyro_unmix._recipe import Recorded

LOG_FLOOR = 1e-8
_RIDGE = 1e-6


def to_abundances(c: Tensor) -> Tensor:
    """Softmax map of eq. (15), from the softmax basis (..., P) to the simplex (..., P)."""
    return torch.softmax(c, dim=-1)


def to_softmax_basis(values: Tensor, floor: float = LOG_FLOOR) -> Tensor:
    """``pi^-1`` of eq. (14): ``log(max(v, 0) + floor)``, centred over the last axis.

    Parameters
    ----------
    values : Tensor, shape (..., P)
        Abundances, or a crude estimate of them that may be negative.
    floor : float
        Keeps the logarithm finite at zero.

    Returns
    -------
    Tensor, shape (..., P)
        Sums to zero over the last axis.
    """
    logs = torch.log(values.clamp(min=0) + floor)
    return logs - logs.mean(-1, keepdim=True)


def clip_to_simplex(values: Tensor) -> Tensor:
    """``s(.)`` below eq. (44): clip at zero and divide by the sum (uniform where nothing is left)."""
    clipped = values.clamp(min=0) + 1e-12
    return clipped / clipped.sum(-1, keepdim=True)


class Basis(Recorded, nn.Module):
    """Spectral basis of endmember variability: ``M_n = M0 + sum_k F_k diag(psi_k)``.

    Subclasses implement `components`, which returns F for given reference endmembers. With
    ``F_k = d_k 1' * M0`` this is eq. (7) of the ReDSUNN paper.
    """

    num_components: int
    #: Whether the endmembers are linear in the variability, so that `components` says all.
    is_linear = True
    #: What a guide must be able to serve, see `Guide.serves`.
    needs: ClassVar[frozenset[str]] = frozenset()

    def setup(self, *sizes: int, generator: torch.Generator) -> None:
        """Create the parameters, if there are any, for these sizes: L and P."""

    def components(self, endmembers: Tensor) -> Tensor:
        """F, shape (L, K, P), for reference endmembers of shape (L, P)."""
        raise NotImplementedError(f"{type(self).__name__} must implement components(endmembers)")

    def varied(self, endmembers: Tensor, variability: Tensor) -> Tensor:
        """``M0 + sum_k F_k diag(psi_k)``, of (L, P) and (..., K, P): (..., L, P)."""
        parts = torch.einsum("lkp,...kp->...lp", self.components(endmembers), variability)
        return endmembers + parts

    def forward(self, endmembers: Tensor) -> Tensor:
        return self.components(endmembers)


class DCT(Basis):
    """The first K orthonormal discrete cosines as bandwise scalings of the endmembers, eq. (7).

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
        num_bands = endmembers.shape[0]
        if self.num_components > num_bands:
            raise ValueError(
                f"DCT(num_components={self.num_components}) needs at least as many bands, got "
                f"{num_bands}: use DCT(num_components={num_bands}) or fewer"
            )
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
    """

    def __init__(self, num_components: int = 10, *, degree: int = 3, scale: float = 0.3) -> None:
        super().__init__()
        self.num_components = positive_int(num_components, "num_components")
        self.degree = positive_int(degree, "degree", minimum=0)
        self.scale = in_range(scale, "scale", low=0, open_low=True)
        if self.num_components <= self.degree:
            raise ValueError(
                f"BSpline of degree {degree} needs at least {degree + 1} components, got "
                f"{num_components}: raise num_components or lower degree"
            )

    def components(self, endmembers: Tensor) -> Tensor:
        num_bands = len(endmembers)
        if self.num_components > num_bands:
            raise ValueError(
                f"BSpline(num_components={self.num_components}) needs at least as many bands, got "
                f"{num_bands}: use fewer components"
            )
        ends = [0.0] * self.degree, [1.0] * self.degree
        inner = np.linspace(0, 1, self.num_components - self.degree + 1)
        knots = np.concatenate([ends[0], inner, ends[1]])
        bands = np.linspace(0, 1, num_bands)
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
    """

    def __init__(self, num_bands: int, *, scale: float = 0.1, additive: bool = False) -> None:
        super().__init__()
        self.num_components = positive_int(num_bands, "num_bands")
        self.scale = in_range(scale, "scale", low=0, open_low=True)
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
    """Components given as an array, as `pyro_unmix.endmembers.learn_basis` estimates them from an image.

    Parameters
    ----------
    components : array, shape (L, K, P)
        F, scaled so that ``psi`` has unit variance; zero columns mean "no variability here".
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


def design_matrix(endmembers: Tensor, components: Tensor) -> Tensor:
    """``[M0, F_1, ..., F_K]``, shape (L, (K+1)P), component outer and material inner."""
    return torch.cat([endmembers[:, None, :], components], dim=1).flatten(1)


def mixing_features(abundances: Tensor, variability: Tensor) -> Tensor:
    """``[a, psi_1 * a, ..., psi_K * a]``, so that ``M_n a = design @ features``.

    Parameters
    ----------
    abundances : Tensor, shape (..., P)
    variability : Tensor, shape (..., K P), component outer and material inner

    Returns
    -------
    Tensor, shape (..., (K+1) P)
    """
    repeats = variability.shape[-1] // abundances.shape[-1]
    return torch.cat([abundances, variability * tile_components(abundances, repeats)], dim=-1)


def tile_components(abundances: Tensor, num_components: int) -> Tensor:
    """``e = tile(a, K)``, shape (..., K P)."""
    return abundances.repeat(*[1] * (abundances.dim() - 1), num_components)


def linear_regression(gram: Tensor, projected: Tensor, variability: Tensor) -> Tensor:
    """``M_n^+ y`` through normal equations, without forming ``M_n``.

    ``M_n'M_n`` and ``M_n'y`` are sums over components of ``design'design`` and ``design'y`` weighted by
    ``[1, psi]``. A ridge of 1e-6 of the mean eigenvalue stands in for the pseudo-inverse's cut-off.

    Parameters
    ----------
    gram : Tensor, shape (Q, Q) with Q = (K+1) P
        ``design' design``.
    projected : Tensor, shape (..., Q)
        ``design' y``.
    variability : Tensor, shape (..., K P)

    Returns
    -------
    Tensor, shape (..., P)
    """
    return _Regression.apply(gram, projected, variability)


class _Regression(torch.autograd.Function):
    """`linear_regression` with its gradient in closed form: it is called at every date of every step.

    With ``w = [1, psi]``, ``E = diag(w)`` summed over components (P x Q), ``N = E G E'`` and ``m = E b``, where
    ``G = design'design`` and ``b = design'y``: ``x = (N + kappa tr(N) I)^-1 m``.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, projected: Tensor, variability: Tensor) -> Tensor:
        size = projected.shape[-1]
        num_endmembers = size - variability.shape[-1]
        select = torch.eye(num_endmembers, dtype=gram.dtype, device=gram.device)
        select = select.repeat(1, size // num_endmembers)
        ones = variability.new_ones(*variability.shape[:-1], num_endmembers)
        weights = torch.cat([ones, variability], dim=-1)
        spread = weights.unsqueeze(-2) * select
        spread_gram = spread @ gram
        normal = spread_gram @ spread.mT
        diagonal = normal.diagonal(dim1=-2, dim2=-1)
        diagonal += _RIDGE * diagonal.mean(-1, keepdim=True)
        factor = torch.linalg.cholesky(normal)
        moment = (projected * weights) @ select.mT
        solution = torch.cholesky_solve(moment.unsqueeze(-1), factor)
        ctx.save_for_backward(projected, select, weights, spread, spread_gram, factor, solution)
        return solution.squeeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        projected, select, weights, spread, spread_gram, factor, solution = ctx.saved_tensors
        num_endmembers = len(select)
        # dL = l'(dm - dN x - kappa tr(dN) x) with l = (N + kappa tr(N) I)^-1 grad
        adjoint = torch.cholesky_solve(grad.unsqueeze(-1), factor)
        outer = adjoint @ solution.mT
        diagonal = outer.diagonal(dim1=-2, dim2=-1)
        diagonal += _RIDGE / num_endmembers * diagonal.sum(-1, keepdim=True)
        tiled = tile_components(adjoint.squeeze(-1), select.shape[1] // num_endmembers)
        by_gram = by_projected = by_variability = None
        if ctx.needs_input_grad[0]:
            by_gram = -(spread.flatten(0, -2).mT @ (outer @ spread).flatten(0, -2))
        if ctx.needs_input_grad[1]:
            by_projected = (tiled * weights).sum_to_size(projected.shape)
        if ctx.needs_input_grad[2]:
            pulled = ((outer + outer.mT) @ spread_gram).mul_(select).sum(-2)
            by_weights = (tiled * projected).sub_(pulled).sum_to_size(weights.shape)
            by_variability = by_weights[..., num_endmembers:]
        return by_gram, by_projected, by_variability


def change_detector(regression: Tensor, previous: Tensor) -> Tensor:
    """``u = 1/2 || s(M^+ y) - a_prev ||_1`` in [0, 1], shape (...,); below eq. (44), with its scale mended.

    The paper prints ``1/(2P)``, which keeps u below 1/P; with 1/2 it is the total-variation distance.
    """
    return 0.5 * (clip_to_simplex(regression) - previous).abs().sum(-1)
