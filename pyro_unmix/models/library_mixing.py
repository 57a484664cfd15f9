"""Mixtures of single spectra of a library: few of them in a pixel, and what none of them explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_unmix.models.common_residual import CommonResidual
from pyro_unmix.ops.checks import finite_array, in_range, positive_int


class LibraryMixing(CommonResidual):
    """A pixel holds a few spectra of a library, in amounts of its own; the abundance of a class is their sum.

    For what all pixels share::

        g_q ~ InvGamma(1, residual^2)            variance of a column of U
        U_q ~ N(0, g_q I)                        residual_factor (L, Q)
        sigma^2 ~ InvGamma(1, noise^2)           noise_variance

    and for every pixel and date, independently given these, with slots k = 1..K::

        m_k = none with probability 1 - included, else a class, all alike, and one of its spectra, all alike
        x_k ~ |N(0, amount^2)|                   amount
        r_q ~ N(0, 1)
        y ~ N(sum_k x_k e_(m_k) + U r, sigma^2 I),     a_p = sum_k x_k [m_k in p] / sum_k x_k [m_k not none]

    e are the spectra of the library, which is taken as it is: the variability of a class is what its spectra are.
    Amounts need not sum to one, so that brightness is free. Two slots may hold the same spectrum. Where all slots are
    empty, abundances are equal. A pixel of two spectra of a class has something between the two, as a leaf has that is
    between the leaves of the library; the residual U r takes what is in the scene and in no spectrum of it.

    Sites: ``residual_variance``, ``residual_factor``, ``noise_variance``, and in the plate ``pixels``, for t = 1..T,
    ``members_t`` (K,), numbers of spectra, S for none; ``amounts_t`` (K,), ``residual_t`` (Q,), ``y_t``. All is in
    double precision.

    Parameters
    ----------
    spectra : array (L, S)
        Of the library, reflectance.
    labels : sequence of str (S,)
        Their classes, at least two; abundances are in the order in which these first appear.
    titles : sequence (S,), optional
        Names of the spectra; default 0, 1, ...
    num_slots : int, optional
        K; default P + 2.
    included : float in (0, 1)
        Expected share of slots that hold a spectrum. Near one, so that classes of which there is little are in a
        pixel with little, rather than not at all.
    amount : float, optional
        Scale of the amounts; default 2.5 / K, so that a pixel is expected to be 1.8 times as bright as the library.
    rank : int
        Q, of the residual.
    residual, noise : float
        Scales of U and of the noise, reflectance; their priors have heavy tails.
    uncertainty : array (L,), optional
        s, standard deviations of the noise in the bands, of which only the ratios count; default all alike. With
        ``w_l = c / s_l`` and ``sum_l w_l^2 = L``, U and sigma are then of whitened spectra ``w * y``, so that
        ``y_l ~ N((sum_k x_k e_(m_k))_l + (U r)_l / w_l, sigma^2 / w_l^2)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    Dobigeon, Moussaoui, Tourneret, Carteret, "Bayesian separation of spectral sources under non-negativity and full
    additivity constraints", Signal Processing 89(12), 2009; Roberts et al., "Mapping chaparral in the Santa Monica
    Mountains using multiple endmember spectral mixture models", Remote Sens. Environ. 65(3), 1998 (spectra of each
    pixel from a library).

    Examples
    --------
    >>> import numpy as np, pyro_unmix as pu
    >>> spectra = np.array([[0.1, 0.12, 0.5], [0.2, 0.22, 0.4], [0.2, 0.25, 0.3]])
    >>> model = pu.models.LibraryMixing(spectra, ["leaf", "leaf", "soil"], rank=1)
    >>> model.num_bands, model.num_endmembers, model.num_slots
    (3, 2, 4)
    """

    spectra: Tensor
    classes: Tensor
    weights: Tensor
    bands: Tensor

    def __init__(
        self,
        spectra: ArrayLike,
        labels: Sequence[str],
        *,
        titles: Sequence[Any] | None = None,
        num_slots: int | None = None,
        included: float = 0.9,
        amount: float | None = None,
        rank: int = 8,
        residual: float = 0.01,
        noise: float = 0.001,
        uncertainty: ArrayLike | None = None,
    ) -> None:
        super().__init__(rank, residual, noise)
        array = finite_array(spectra, "spectra", ndim=2)
        names = [str(label) for label in labels]
        if len(names) != array.shape[1]:
            raise ValueError(
                f"expected a label for each of {array.shape[1]} spectra, got {len(names)}"
            )
        self.endmember_names = list(dict.fromkeys(names))
        self.num_endmembers = len(self.endmember_names)
        if self.num_endmembers < 2:
            raise ValueError(
                f"labels must be of two classes at least, got {self.endmember_names}: add spectra of another class to "
                "the library (data.merge_libraries)"
            )
        dark = np.flatnonzero(~array.any(axis=0))
        if dark.size:
            raise ValueError(
                f"spectra must not be zero in all bands, got number {dark[0]} of {names[dark[0]]}: remove it, "
                "brightness is free"
            )
        self.num_bands, self.num_spectra = array.shape
        slots = self.num_endmembers + 2 if num_slots is None else num_slots
        self.num_slots = positive_int(slots, "num_slots")
        self.included = in_range(included, "included", low=0, high=1, open_low=True, open_high=True)
        amount = 2.5 / self.num_slots if amount is None else amount
        self.amount = in_range(amount, "amount", low=0, open_low=True)
        self._titles = np.arange(self.num_spectra) if titles is None else np.array(list(titles))
        if self._titles.shape != (self.num_spectra,):
            raise ValueError(f"expected {self.num_spectra} titles, got {self._titles.size}")
        classes = np.array([self.endmember_names.index(name) for name in names])
        sizes = np.bincount(classes)[classes]
        shares = np.append(self.included / (self.num_endmembers * sizes), 1 - self.included)
        self.register_buffer("spectra", torch.tensor(array))
        self.register_buffer("taken", self.spectra[:, :0], persistent=False)
        self.register_buffer("classes", torch.as_tensor(classes))
        self.register_buffer("weights", torch.tensor(shares))
        self.register_buffer("bands", torch.tensor(_band_weights(uncertainty, self.num_bands)))

    @property
    def titles(self) -> np.ndarray:
        """Names (S,) of the spectra."""
        return self._titles.copy()

    def has_library_of(self, other: LibraryMixing) -> bool:
        """Whether spectra, classes and weights of the bands are the same."""
        return (
            self.endmember_names == other.endmember_names
            and torch.equal(self.classes, other.classes)
            and torch.equal(self.spectra, other.spectra)
            and torch.equal(self.bands, other.bands)
        )

    def belongs(self) -> Tensor:
        """Which class each spectrum is of, zeros and ones (S, P)."""
        # `one_hot` looks at the numbers, for which the host waits.
        numbers = torch.arange(self.num_endmembers, device=self.classes.device)
        return (self.classes.unsqueeze(-1) == numbers).to(self.spectra)

    def class_means(self) -> Tensor:
        """Mean spectrum (L, P) of each class."""
        belongs = self.belongs()
        return self.spectra @ (belongs / belongs.sum(0))

    # ---------------------------------------------------------------- the program

    def own(self, shared: Mapping[str, Tensor]) -> dict[str, dist.TorchDistribution]:
        """Priors of members and amounts."""
        scale = self.amount * torch.ones_like(self.weights[:1]).expand(self.num_slots)
        return {
            "members": dist.Categorical(self.weights).expand([self.num_slots]).to_event(1),
            "amounts": dist.HalfNormal(scale).to_event(1),
        }

    def mean(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
        """Noiseless spectra (..., L)."""
        common = own["residual"] @ shared["residual_factor"].mT
        return self.explained(own["members"], own["amounts"]) + self.unwhitened(common)

    def whitened(self, spectra: Tensor) -> Tensor:
        """Spectra (..., L) times w, in which the noise is alike in all bands."""
        return spectra * self.bands

    def unwhitened(self, spectra: Tensor) -> Tensor:
        """Reflectance (..., L) of what is `whitened`."""
        return spectra / self.bands

    def white_library(self) -> Tensor:
        """The library (L, S), whitened."""
        return self.spectra * self.bands.unsqueeze(-1)

    def explained(self, members: Tensor, amounts: Tensor) -> Tensor:
        """Spectra (..., L) of what is in slots (..., K), without the residual."""
        return self.fractions(members, amounts) @ self.spectra.mT

    def fractions(self, members: Tensor, amounts: Tensor) -> Tensor:
        """Amounts (..., S) of the spectra of the library, of those in slots (..., K)."""
        room = amounts.new_zeros(*amounts.shape[:-1], self.num_spectra + 1)
        return room.scatter_add_(-1, members, amounts)[..., :-1]

    def abundances(self, members: Tensor, amounts: Tensor) -> Tensor:
        """Shares (..., P) of the classes, of slots (..., K)."""
        none = self.num_endmembers
        owner = torch.nn.functional.pad(self.classes, (0, 1), value=none)[members]
        room = amounts.new_zeros(*amounts.shape[:-1], none + 1)
        sums = room.scatter_add_(-1, owner, amounts)[..., :-1]
        total = sums.sum(-1, keepdim=True)
        empty = total < torch.finfo(total.dtype).tiny
        return torch.where(empty, 1 / none, sums / total.masked_fill(empty, 1.0))

    def decode(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Abundances (..., T, P) of site values."""
        dates = range(1, 1 + sum(name.startswith("members_") for name in latents))
        own = [self.abundances(latents[f"members_{t}"], latents[f"amounts_{t}"]) for t in dates]
        return torch.stack(own, dim=-2)

    def prior_abundances(
        self, shared: Mapping[str, Tensor], shape: tuple[int, ...], generator: torch.Generator
    ) -> Tensor:
        """Draws ``(*shape, P)`` of the abundances before anything is seen of their pixels."""
        slots, kind = (*shape, self.num_slots), self.weights.dtype
        number = torch.Size(slots).numel()
        members = torch.multinomial(self.weights, number, replacement=True, generator=generator)
        noise = torch.randn(slots, generator=generator, dtype=kind, device=self.device)
        return self.abundances(members.view(slots), self.amount * noise.abs())


def _band_weights(uncertainty: ArrayLike | None, num_bands: int) -> np.ndarray:
    """w (L,)."""
    if uncertainty is None:
        return np.ones(num_bands)
    spread = finite_array(uncertainty, "uncertainty", ndim=1)
    if len(spread) != num_bands or not (spread > 0).all():
        raise ValueError(
            f"uncertainty must be a positive standard deviation for each of {num_bands} bands, got {len(spread)} from "
            f"{spread.min():g}"
        )
    weights = 1 / spread
    return np.asarray(weights / np.sqrt(np.square(weights).mean()))
