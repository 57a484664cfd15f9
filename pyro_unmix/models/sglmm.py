"""The state-space model of ReDSUNN: smooth linear mixing, softmax abundances and variability in time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import pyro
import torch
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor

from pyro_unmix.bases.linear import DCT, Basis
from pyro_unmix.data.days import as_days, day_numbers
from pyro_unmix.data.libraries import is_library, library_endmembers
from pyro_unmix.mixing import LinearMixing, Mixing, design_matrix, mixing_features
from pyro_unmix.models.base import VariabilityModel
from pyro_unmix.ops.checks import positive, positive_int
from pyro_unmix.ops.declared import Declaring
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.ops.simplex import to_abundances
from pyro_unmix.priors import (
    AbundancePrior,
    Endmembers,
    FreeEndmembers,
    Noise,
    RandomWalk,
    SoftmaxWalk,
    VariabilityPrior,
    WhiteNoise,
)
from pyro_unmix.priors.part import Need


class IntegratedStates(Protocol):
    """States c_0 .. c_T (B, T+1, P) that a guide drew, and the density of the images given them, psi integrated out."""

    @property
    def states(self) -> Tensor: ...

    def log_evidence(self, offsets: Tensor | None) -> Tensor:
        """``log p(y | c)`` (B,), given what pixels share and add to psi (..., B, T, K P)."""


class SGLMM(Declaring, VariabilityModel):
    """Dynamical smooth generalised linear mixing model, equations (7)-(22) of the ReDSUNN paper.

    For every pixel n, independently given the parameters::

        c_0 ~ N(nu_c, diag(gamma_c)^2)              psi_0 ~ N(nu_psi, diag(gamma_psi)^2)
        c_t ~ N(c_{t-1}, sigma_a(c_{t-1})^2 I)      psi_t ~ N(psi_{t-1}, sigma_psi^2 I)
        a_t = softmax(c_t)                          M_t = M0 + sum_k F_k diag(psi_tk)
        y_t ~ N(M_t a_t, sigma_r^2 I),              t = 1..T

    Each line is an object that can be swapped; the defaults are the paper's. With `dates`, the transitions take the
    time between them; before the first date passes one unit. Sites: ``c_0 .. c_T`` (event P), ``psi_0 .. psi_T`` (event
    K P, component outer, material inner) and ``y_1 .. y_T`` (event L), in the plate ``pixels``. A pixel-date that is
    not valid is masked in the likelihood while its state still evolves. A prior of M0 is a factor ``M0`` in the plate.

    Parameters
    ----------
    endmembers : array (L, P), DataArray (wavelength, endmember), or an `Endmembers` object
        Reference spectra M0, reflectance. An array is the start of `FreeEndmembers`; wrap it in
        `FixedEndmembers` to keep it. A library (a DataArray with the coordinate ``label``) stands for the mean
        spectra of its classes, see `library_endmembers`; `library_basis` is the basis that goes with them.
    basis : Basis
        F. Default ``DCT(10)``. `DecodedBasis` has endmembers ``f(psi)`` by a network instead.
    mixing : Mixing
        In place of ``M_t a_t``, such as ``BilinearMixing()``; default ``LinearMixing()``.
    abundance_prior : AbundancePrior
        Default ``SoftmaxWalk()``.
    variability_prior : VariabilityPrior
        Default ``RandomWalk()``.
    noise : Noise
        Default ``WhiteNoise()``.
    dates : array of dates (T,), optional
        Of the images, such as ``cubes["time"]``; numbers are days. Only the days between them count, in units of the
        median gap, so that the priors' scales are those of one typical step. Without them all steps are alike.
    time_unit : float, optional
        The unit in days, instead of the median gap.
    seed : int
        Of the random initial weights.

    Raises
    ------
    TypeError
        If a part is of the wrong kind.
    ValueError
        If sizes do not fit together.

    References
    ----------
    Borsoi, Imbiriba, Closas, "Dynamical hyperspectral unmixing with variational recurrent neural networks",
    IEEE TIP 32, 2023.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> model = pu.SGLMM(
    ...     pu.simulate.library([500, 700, 900, 1600]).isel(endmember=[0, 1, 2]), basis=pu.Brightness()
    ... )
    >>> model.num_bands, model.num_endmembers
    (4, 3)
    >>> model.sample_sequence(5, 3, seed=0)['pixels'].shape  # pixels, dates, bands
    torch.Size([5, 3, 4])
    """

    #: Sites in the plate that are of what all pixels share, and say nothing of a single one.
    shared_sites: ClassVar[frozenset[str]] = frozenset({"M0", "field"})

    #: Whether the program is that of the equations above, whose psi `ConjugateGuide` integrates out.
    is_plain: ClassVar[bool] = True
    declarations: ClassVar = {"is_plain": ("forward", "_mean")}

    #: The first step that has states: 0, a unit of time before the first image.
    first_step: ClassVar[int] = 0

    def __init__(
        self,
        endmembers: ArrayLike | Endmembers,
        *,
        basis: Basis | None = None,
        mixing: Mixing | None = None,
        abundance_prior: AbundancePrior | None = None,
        variability_prior: VariabilityPrior | None = None,
        noise: Noise | None = None,
        dates: ArrayLike | None = None,
        time_unit: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__("model")
        if is_library(endmembers):
            endmembers = library_endmembers(endmembers)
        reference = endmembers if isinstance(endmembers, Endmembers) else FreeEndmembers(endmembers)
        self.reference = copy.deepcopy(reference)
        self.basis = _part(basis, Basis, DCT, "basis")
        self.mixing = _part(mixing, Mixing, LinearMixing, "mixing")
        self.abundance_prior = _part(
            abundance_prior, AbundancePrior, SoftmaxWalk, "abundance_prior"
        )
        self.variability_prior = _part(
            variability_prior, VariabilityPrior, RandomWalk, "variability_prior"
        )
        self.noise = _part(noise, Noise, WhiteNoise, "noise")
        self.num_bands, self.num_endmembers = self.reference.value.shape
        self.num_components = self.basis.num_components
        seed = positive_int(seed, "seed", minimum=0)
        generator = torch.Generator().manual_seed(seed)
        for part in (self.basis, self.mixing):
            part.setup(
                num_bands=self.num_bands, num_endmembers=self.num_endmembers, generator=generator
            )
        # In a scope of its own: calling a decoder enters its parameters into Pyro's store.
        with torch.no_grad(), pyro.get_param_store().scope():
            components = self.basis.components(self.reference.value)  # raises if sizes do not fit
        self.abundance_prior.setup(num_endmembers=self.num_endmembers, generator=generator)
        self.variability_prior.setup(
            num_endmembers=self.num_endmembers,
            num_components=self.num_components,
            generator=generator,
        )
        self.noise.setup(num_bands=self.num_bands, generator=generator)
        with torch.no_grad():
            spread = self.variability_prior.first_variance().sqrt()
            spread = spread.reshape(self.num_components, self.num_endmembers)
            self.reference.set_variability(components * spread)
        self.time_unit = time_unit
        if time_unit is not None:
            positive(time_unit, "time_unit")
        self.set_dates(dates)

    def set_dates(self, dates: ArrayLike | None) -> None:
        """Take the dates of the images, or None for steps that are all alike; the unit of time stays.

        Build the guide afterwards, so that it can tell whether it serves uneven dates.

        Raises
        ------
        ValueError
            If dates do not increase.
        """
        #: Days since the first date (T,), where the model was given dates.
        self.days: np.ndarray | None = None
        elapsed = None
        if dates is not None:
            self.days = as_days(dates)
            gaps = np.diff(self.days)
            if self.time_unit is None and len(gaps):
                self.time_unit = float(np.median(gaps))
            units = np.concatenate([[1.0], gaps / (self.time_unit or 1.0)])
            if not np.allclose(units, 1.0, rtol=0, atol=1e-9):
                elapsed = torch.as_tensor(units).to(self.reference.value)
        for part in (self.abundance_prior, self.variability_prior):
            part.set_elapsed(elapsed)
            part.set_days(None if dates is None else np.atleast_1d(np.asarray(dates)))
        days = None if dates is None else day_numbers(dates)
        self.record(dates=days, time_unit=self.time_unit)

    def add_dates(self, places: Sequence[int], dates: ArrayLike) -> None:
        """Take more dates, of which those so far are at `places`, where the variability belongs to its dates."""
        self.set_dates(dates)
        prior: Any = self.variability_prior
        prior.add_dates(places, len(np.atleast_1d(np.asarray(dates))))
        self.record(variability_prior=prior)  # which is rebuilt with the dates that it has now

    @property
    def num_dates(self) -> int | None:
        """T, where the model was given dates."""
        return None if self.days is None else len(self.days)

    @property
    def needs(self) -> frozenset[Need]:
        """What a guide must be able to serve; see `Guide.serves`."""
        priors = self.abundance_prior.needs | self.variability_prior.needs
        return priors | self.noise.needs | self.mixing.needs | self.basis.needs

    @property
    def endmember_names(self) -> list[str] | None:
        """Names of the materials, where the given endmembers had them."""
        return self.reference.names

    @property
    def components(self) -> Callable[[], Tensor]:
        """``components()`` is F, shape (L, K, P); a model with a `DecodedBasis` has none."""
        if not self.basis.is_linear:
            raise AttributeError("endmembers are decoded: see mixing_endmembers")
        return lambda: self.basis.components(self.reference.value)

    def design(self) -> Tensor:
        """``[M0, F_1, ..., F_K]``, shape (L, (K+1) P); with a `DecodedBasis`, its slopes."""
        endmembers = self.reference.value
        return design_matrix(endmembers, self.basis.components(endmembers))

    def forward(
        self,
        pixels: Tensor | None,
        valid: Tensor,
        *,
        index: Tensor | None = None,
        size: int | None = None,
        features: Mapping[str, Tensor] | None = None,
        integrated: IntegratedStates | None = None,
    ) -> None:
        """The generative program; arguments as `Model.forward`.

        Where a guide has drawn c alone, `integrated` (`ConjugateGuide.integrates`), the factor ``y`` is ``log p(y, c)``
        in place of the sites ``c_t``, ``psi_t`` and ``y_t``.
        """
        batch, num_dates = valid.shape
        self._check_dates(num_dates)
        if integrated is not None:
            return self._factor_integrated(valid, index, size, integrated)
        masks: Any = valid.unbind(1)
        design = self.design()
        step_variability = self.variability_prior.transitions(num_dates)
        noise = self.noise.by_date(num_dates)
        step_abundance = self.abundance_prior.transitions(index)
        observed = [None] * num_dates if pixels is None else pixels.unbind(1)
        index = _subsample(index, batch)
        offsets = self.variability_prior.sample_offsets(index, batch, num_dates)
        shared = [0.0] * num_dates if offsets is None else offsets.unbind(-2)
        next_c, next_psi = self.abundance_prior.initial(index), self.variability_prior.initial()
        with pyro.plate("pixels", size or batch, subsample=index, dim=-1):
            self._factor_endmembers(valid)
            for t in pyro.markov(range(self.first_step, num_dates + 1)):
                c = pyro.sample(f"c_{t}", next_c)
                psi = pyro.sample(f"psi_{t}", next_psi)
                if t > 0:
                    mean = self._mean(to_abundances(c), psi + shared[t - 1], design)
                    with poutine.mask(mask=masks[t - 1]):
                        pyro.sample(f"y_{t}", noise[t - 1](mean), obs=observed[t - 1])
                if t < num_dates:
                    next_c, next_psi = step_abundance(c, t + 1), step_variability(psi, t + 1)

    def _factor_integrated(
        self, valid: Tensor, index: Tensor | None, size: int | None, integrated: IntegratedStates
    ) -> None:
        """The program's density at drawn abundances, all dates at once, with psi integrated out."""
        index = _subsample(index, len(valid))
        offsets = self.variability_prior.sample_offsets(index, *valid.shape)
        density = self.abundance_prior.log_prob_of_path(integrated.states, index)
        density = density + integrated.log_evidence(offsets)
        with pyro.plate("pixels", size or len(valid), subsample=index, dim=-1):
            self._factor_endmembers(valid)
            pyro.factor("y", density)

    def _factor_endmembers(self, valid: Tensor) -> None:
        """The prior of M0, in the plate: every pixel brings the share of its observed values."""
        log_prior = self.reference.log_prior(valid.sum(1) * self.num_bands)
        if log_prior is not None:
            pyro.factor("M0", log_prior)

    def _mean(self, abundances: Tensor, flat: Tensor, design: Tensor | None = None) -> Tensor:
        """Noiseless pixels (..., L) of abundances (..., P) and variability (..., K P)."""
        if self.mixing.is_linear and self.basis.is_linear:
            design = self.design() if design is None else design
            return mixing_features(abundances, flat) @ design.mT
        variability = flat.unflatten(-1, (self.num_components, self.num_endmembers))
        return self.mixing(self.mixing_endmembers(variability), abundances)

    def mix(self, abundances: Tensor, variability: Tensor) -> Tensor:
        """Noiseless pixels of abundances (..., P) and variability (..., K, P): (..., L)."""
        return self._mean(abundances, variability.flatten(-2))

    def _check_dates(self, num_dates: int) -> None:
        if self.num_dates not in (None, num_dates):
            raise ValueError(
                f"the model was built for {self.num_dates} dates, the images have {num_dates}: call "
                "set_dates(dates of these images)"
            )

    def decode_variability(self, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Abundances (..., T, P) and variability (..., T, K, P) of site values ``c_t``, ``psi_t``.

        Endmembers follow by `mixing_endmembers`, date by date: all at once they would be L times as large.
        """
        num_states = sum(name.removeprefix("c_").isdigit() for name in latents)
        dates = range(1, num_states + self.first_step)
        c = torch.stack([latents[f"c_{t}"] for t in dates], dim=-2)
        psi = torch.stack([latents[f"psi_{t}"] for t in dates], dim=-2)
        if "field" in latents:
            psi = psi + self.variability_prior.offsets(latents["field"], latents.get("pixels"))
        return to_abundances(c), psi.unflatten(-1, (self.num_components, self.num_endmembers))

    def mixing_endmembers(self, variability: Tensor) -> Tensor:
        """Per-pixel endmembers ``M0 + sum_k F_k diag(psi_k)``, or decoded ones: (..., K, P) -> (..., L, P)."""
        return self.basis.varied(self.reference.value, variability)

    def sample_sequence(
        self, num_pixels: int, num_dates: int, *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Draws of this program: ``pixels`` (N, T, L), ``abundances`` (N, T, P), ``variability`` (N, T, K, P)."""
        return _simulated(self, num_pixels, num_dates, seed)


def _simulated(
    model: VariabilityModel, num_pixels: int, num_dates: int, seed: int
) -> dict[str, Tensor]:
    """Pixels, abundances and variability drawn from a program; its parameters stay out of Pyro's store."""
    sizes = positive_int(num_pixels, "num_pixels"), positive_int(num_dates, "num_dates")
    device = model.reference.value.device
    valid = torch.ones(sizes, dtype=torch.bool, device=device)
    seed = positive_int(seed, "seed", minimum=0)
    with torch.no_grad(), seeded(seed, device), pyro.get_param_store().scope():
        sites = poutine.trace(model).get_trace(None, valid).nodes
    values: dict[str, Any] = {k: v["value"] for k, v in sites.items() if v["type"] == "sample"}
    abundances, variability = model.decode_variability(values)
    pixels = torch.stack([values[f"y_{t}"] for t in range(1, num_dates + 1)], dim=1)
    return {"pixels": pixels, "abundances": abundances, "variability": variability}


def _subsample(index: Tensor | None, batch: int) -> Tensor | None:
    if index is not None and len(index) != batch:
        raise ValueError(f"index must have one entry per pixel ({batch}), got {len(index)}")
    return index


def _part(part: object, kind: type, default: type, name: str):  # type: ignore[no-untyped-def]
    """A private copy of the user's part, or the default one."""
    if part is None:
        return default()
    if not isinstance(part, kind):
        raise TypeError(
            f"{name} must be a {kind.__name__} object such as {default.__name__}(), got "
            f"{part!r} ({type(part).__name__})"
        )
    return copy.deepcopy(part)
