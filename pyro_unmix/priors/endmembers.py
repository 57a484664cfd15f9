"""Reference endmembers, learned or kept."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.data.checks import as_endmembers
from pyro_unmix.data.libraries import is_library, library_endmembers
from pyro_unmix.ops.checks import positive
from pyro_unmix.priors.part import Part

_FLOOR = 1e-3  # 30 dB below a spectrum's mean square
_TINY = 1e-4


class Endmembers(Part):
    """Reference endmembers M0 as the model sees them; see `FreeEndmembers` and `FixedEndmembers`.

    Parameters
    ----------
    endmembers : array or DataArray, shape (L, P), reflectance
        A library (a DataArray with the coordinate ``label``) stands for the mean spectra of its classes, see
        `library_endmembers`.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> isinstance(pu.FixedEndmembers(spectra), pu.priors.Endmembers)
    True
    """

    value: Tensor

    def __init__(self, endmembers: ArrayLike) -> None:
        super().__init__()
        if is_library(endmembers):
            endmembers = library_endmembers(endmembers)
        self.names = _endmember_names(endmembers)
        #: nm, where the given endmembers had them
        self.wavelength = _wavelengths(endmembers)
        # Pyro's store would train a contiguous copy of a parameter that is not contiguous.
        matrix = np.ascontiguousarray(as_endmembers(endmembers))
        self._store(torch.tensor(matrix, dtype=torch.get_default_dtype()).contiguous())

    def _store(self, values: Tensor) -> None:
        raise NotImplementedError("use FreeEndmembers(...) or FixedEndmembers(...)")

    def set_variability(self, components: Tensor) -> None:
        """Learn how materials vary at the start: ``F_k diag(std of psi_k)``, shape (L, K, P)."""

    def log_prior(self, num_values: int | Tensor) -> Tensor | None:
        """Share of the log density of `value` that belongs to so many observed values; None without a prior.

        Values are pixels times dates times bands; numbers of any shape give a tensor of that shape.
        """
        return None


class FreeEndmembers(Endmembers):
    """M0 is learned with the model, from the given start (a deterministic parameter, as in the paper).

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(pu.priors.FreeEndmembers(spectra), basis=pu.Brightness())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def _store(self, values: Tensor) -> None:
        self.learn_or_keep("value", values)


class FixedEndmembers(Endmembers):
    """M0 stays as given.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(pu.priors.FixedEndmembers(spectra), basis=pu.Brightness())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def _store(self, values: Tensor) -> None:
        self.learn_or_keep("value", values, learn=False)


class AnchoredEndmembers(FreeEndmembers):
    """M0 is learned under a Laplace prior about the given spectra m, for starts that may be poor.

    ``log p(M0) = -strength n sum_p d_p``, with n the number of values observed in the scene and ``d_p^2 = (M0_p - m_p)'
    (G_p G_p' + s_p^2 I)^-1 (M0_p - m_p) + 1e-4``, the distance in stds of the material's own variability as the model
    has it before training (``G_pk = F_pk std(psi_pk)``; s_p is 30 dB below the spectrum; 1e-4 rounds the tip off, so
    that there is a gradient at m, zero). The normaliser is left out, so that losses with and without it do not compare.

    Without a prior, training M0 raises the ELBO and worsens abundances, even from the true spectra: what a scene's
    pixels have in common beyond the model (their variability is not Gaussian; pixels at the corners of the simplex fit
    a slightly larger simplex better) adds up over all pixels, and a prior of fixed strength is lost among them. This
    one allows the model that much systematic error per value: M0 moves only where that explains more than `strength`
    nats per value and std, so that a good start stays and a bad one moves. A strength that grows with the data is no
    belief held before them: what is maximised is a tempered posterior of M0. Measured in
    ``benchmarks/endmember_training.md``.

    Parameters
    ----------
    endmembers : array or DataArray, shape (L, P), reflectance, or library
    strength : float
        Nats per value and std.

    Raises
    ------
    TypeError, ValueError
        If the endmembers are not as described, or `strength` is not a positive number.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> spectra = pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2])
    >>> model = pu.SGLMM(pu.priors.AnchoredEndmembers(spectra), basis=pu.Brightness())
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, endmembers: ArrayLike, *, strength: float = 2e-3) -> None:
        super().__init__(endmembers)
        self.strength = positive(strength, "strength")

    anchor: Tensor
    spread: Tensor
    gram: Tensor
    floor: Tensor

    def _store(self, values: Tensor) -> None:
        super()._store(values)
        self.register_buffer("anchor", values.clone())

    def set_variability(self, components: Tensor) -> None:
        anchor = self.anchor
        with torch.no_grad():
            spread = components.permute(2, 0, 1).contiguous()  # (P, L, K)
            floor = _FLOOR * anchor.square().mean(0)  # s^2
            gram = spread.mT @ spread
            gram.diagonal(dim1=-2, dim2=-1).add_(floor.unsqueeze(-1))
        self.register_buffer("spread", spread)
        self.register_buffer("gram", gram)
        self.register_buffer("floor", floor)

    def distances(self) -> Tensor:
        """d, shape (P,), in stds of the variability of the model that these endmembers were given to.

        Raises
        ------
        ValueError
            If they were not given to a model yet.
        """
        if not hasattr(self, "gram"):
            raise ValueError(
                "the distances are in stds of a model's variability, and these endmembers belong to no model yet: "
                "make one, SGLMM(endmembers, ...), first"
            )
        away = (self.value - self.anchor).mT.unsqueeze(-1)  # (P, L, 1)
        inside = self.spread.mT @ away
        # Woodbury: (G G' + s^2 I)^-1 = (I - G (s^2 I + G'G)^-1 G') / s^2
        explained = (inside * torch.linalg.solve(self.gram, inside)).sum((-2, -1))
        square = (away.square().sum((-2, -1)) - explained) / self.floor
        return (square.clamp(min=0) + _TINY).sqrt()  # a gradient of zero at the start

    def log_prior(self, num_values: int | Tensor) -> Tensor | None:
        """As `Endmembers.log_prior`; ValueError before a model has them, as `distances`."""
        return -self.strength * num_values * self.distances().sum()


def _endmember_names(endmembers: object) -> list[str] | None:
    coords = getattr(endmembers, "coords", {})
    if "endmember" not in coords or coords["endmember"].dtype.kind not in "USO":
        return None
    return [str(name) for name in coords["endmember"].values]


def _wavelengths(endmembers: object) -> np.ndarray | None:
    coords = getattr(endmembers, "coords", {})
    if "wavelength" not in coords or coords["wavelength"].dims != ("wavelength",):
        return None
    return np.array(coords["wavelength"].values, dtype=float)
