"""What the values of a program's latent sites say: abundances, and what tells the endmembers.

`decoding_of` makes one of two kinds that the read-out knows no difference between: of our models, whose endmembers are
made of their variability (`OfVariability`), and of any program with a function `decode` (`OfFunction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_unmix.data.types import ModelProgram
from pyro_unmix.models.base import PIXELS, Decode, FunctionModel, VariabilityModel

Arrays = dict[str, Tensor]
#: Variables of a dataset that do not differ by pixel: dims and values.
Variables = dict[str, tuple[tuple[str, ...], Any]]

_HOW = (
    "decode must return abundances (draws, pixels, dates, materials), or a pair with endmembers (draws, pixels, dates, "
    "bands, materials) or (bands, materials)"
)


class Decoded(NamedTuple):
    """Draws of the abundances (S, B, T, P), and what tells the endmembers.

    `maps` have no axis of draws: they are means, by pixel (B, T, ...). `shared` is the same for all pixels.
    """

    abundances: Tensor
    maps: Arrays
    shared: Variables


class Decoding(Protocol):
    """What the read-out asks about a program."""

    @property
    def broadcasts(self) -> bool:
        """Whether all draws of the guide are made by one run of it, with an axis of draws in front."""

    def decode(self, latents: Mapping[str, Tensor], shape: tuple[int, ...]) -> Decoded:
        """What values of the latent sites of spectra (B, T, L) say."""

    def names(self, num_endmembers: int) -> list[Any]:
        """Labels of the materials."""

    def layouts(self, material: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Dims after the pixel-date of each map that `decode` gives, with their labels."""

    def shared(self) -> Variables:
        """Variables of the dataset that are known without a draw."""


def decoding_of(model: ModelProgram, decode: Decode | None = None) -> Decoding:
    """How a program is read out: by the function `decode`, where there is one, else by what the model says."""
    if decode is None and isinstance(model, VariabilityModel):
        return OfVariability(model)
    return OfFunction(model, need_decode(model) if decode is None else decode)


def need_decode(model: ModelProgram) -> Decode:
    """The model's own `decode`.

    Raises
    ------
    ValueError
        If it has none.
    """
    own = getattr(model, "decode", None)
    if callable(own):
        return own
    raise ValueError(
        f"nothing says which latent sites of {name_of(model)} are the abundances: pass fit(..., decode=decode), a "
        "function of the dictionary of their values, such as lambda latents: latents['a'].unsqueeze(-2) for one date, "
        "or derive the model from pyro_unmix.models.Model, whose method decode does it"
    )


def name_of(program: Any) -> str:
    """The name of a function, or the class of a module."""
    program = program.function if isinstance(program, FunctionModel) else program
    return getattr(program, "__name__", type(program).__name__)


def need_own_decode(decoding: Decoding) -> None:
    """Raise ValueError where sweeps, which know the states of a model, would be read out by another function."""
    if not isinstance(decoding, OfVariability):
        raise ValueError(
            "PolishedMean moves the states of SGLMM and reads them out as the model does: leave decode out, or use "
            "PosteriorMean()"
        )


def is_of_a_function(model: ModelProgram, decode: Decode | None) -> bool:
    """Whether a result knows of its endmembers only what `decode` returns."""
    return model is not None and not (decode is None and isinstance(model, VariabilityModel))


@dataclass(frozen=True)
class OfVariability:
    """Of a model such as `SGLMM`: variability by pixel, from which `Unmixing.endmembers` makes spectra."""

    model: VariabilityModel
    broadcasts = True

    def decode(self, latents: Mapping[str, Tensor], shape: tuple[int, ...]) -> Decoded:
        abundances, variability = self.model.decode_variability(latents)
        return Decoded(abundances, {"variability": variability}, {})

    def names(self, num_endmembers: int) -> list[Any]:
        return self.model.endmember_names or list(range(num_endmembers))

    def layouts(self, material: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"variability": {"component": None, **material}, "change": {}}

    def shared(self) -> Variables:
        reference = self.model.reference.value.cpu().numpy()
        variables: Variables = {"reference_endmembers": (("wavelength", "endmember"), reference)}
        # Without components, endmembers are what `mixing_endmembers` makes of the variability.
        if hasattr(self.model, "components"):
            components = self.model.components().cpu().numpy()
            variables["components"] = (("wavelength", "component", "endmember"), components)
        return variables


@dataclass(frozen=True)
class OfFunction:
    """Of any program, by a function of the values of its latent sites."""

    model: Any
    function: Decode
    #: Whether endmembers differ by pixel.
    by_pixel: bool = False
    broadcasts = False

    def decode(self, latents: Mapping[str, Tensor], shape: tuple[int, ...]) -> Decoded:
        abundances, spectra = self.draws(latents, shape)
        if spectra is None:
            return Decoded(abundances, {}, {})
        return Decoded(abundances, *_means(spectra, self.by_pixel, shape))

    def draws(
        self, latents: Mapping[str, Tensor], shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor | None]:
        """Abundances (S, B, T, P), and endmembers with as many axes before (L, P), one where they are the same."""
        num_pixels, num_dates, num_bands = shape
        try:
            decoded = self.function(latents)
        except KeyError as error:
            raise ValueError(
                f"decode asks for the latent site {error}, and there are {sorted(latents)}: name one of these"
            ) from error
        pair = decoded if isinstance(decoded, (tuple, list)) else (decoded, None)
        if len(pair) != 2 or not isinstance(pair[0], Tensor):
            raise TypeError(f"{_HOW}, got {_kind(decoded)}")
        lead = len(next(iter(latents.values()))), num_pixels
        abundances, endmembers = pair
        if abundances.dim() != 4 or abundances.shape[2] != num_dates:
            wanted = f"{tuple(lead)} + ({num_dates}, materials)"
            hint = ": add the axis of dates by .unsqueeze(-2)" if abundances.dim() == 3 else ""
            raise ValueError(
                f"{_HOW}; expected abundances {wanted}, got {tuple(abundances.shape)}{hint}"
            )
        _check_lead(abundances, lead, "abundances")
        abundances = abundances.expand(*lead, *abundances.shape[2:])
        if endmembers is None:
            return abundances, None
        return abundances, _as_five(endmembers, lead, (num_dates, num_bands, abundances.shape[-1]))

    def names(self, num_endmembers: int) -> list[Any]:
        names = getattr(self.model, "endmember_names", None)
        if names is None:
            return list(range(num_endmembers))
        if len(names) != num_endmembers:
            raise ValueError(
                f"endmember_names of the model must be {num_endmembers}, one per material of decode, got {names}"
            )
        return list(names)

    def layouts(self, material: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {"endmembers": {"wavelength": None, **material}}

    def shared(self) -> Variables:
        return {}


def _as_five(endmembers: Any, lead: tuple[int, ...], sizes: tuple[int, int, int]) -> Tensor:
    """Endmembers (draws, pixels, dates, bands, materials), each of the first three 1 where nothing differs."""
    num_dates, *spectral = sizes
    if not isinstance(endmembers, Tensor):
        raise TypeError(f"{_HOW}, got {_kind(endmembers)} for the endmembers")
    spectra = endmembers
    if spectra.dim() == 2:
        spectra = spectra[None, None, None]
    elif spectra.dim() == 4 and spectra.shape[1] == 1:  # of a site that all pixels share
        spectra = spectra.unsqueeze(2)
    if (
        spectra.dim() != 5
        or spectra.shape[2] not in (1, num_dates)
        or list(spectra.shape[3:]) != spectral
    ):
        raise ValueError(
            f"{_HOW}; expected endmembers {(*lead, *sizes)} or {tuple(spectral)}, got {tuple(endmembers.shape)}"
        )
    _check_lead(spectra, lead, "endmembers")
    return spectra


def _check_lead(values: Tensor, lead: tuple[int, ...], what: str) -> None:
    """Raise ValueError unless draws and pixels are those of the sites, or one."""
    if any(size not in (1, wanted) for size, wanted in zip(values.shape[:2], lead, strict=True)):
        raise ValueError(
            f"{_HOW}; expected {lead[0]} draws of {lead[1]} pixels in the {what}, as the sites have, got "
            f"{tuple(values.shape)}"
        )


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _means(spectra: Tensor, by_pixel: bool, shape: tuple[int, ...]) -> tuple[Arrays, Variables]:
    """Means over the draws: by pixel, or where all pixels share them by date, or one set of spectra."""
    mean = spectra[0] if spectra.shape[0] == 1 else spectra.mean(0)
    if by_pixel:
        return {"endmembers": mean.expand(*shape[:2], *mean.shape[2:])}, {}
    by_date = mean[0].cpu().numpy()
    variables: Variables = {
        "reference_endmembers": (("wavelength", "endmember"), by_date.mean(0)),
    }
    if len(by_date) > 1:
        variables["date_endmembers"] = (("time", "wavelength", "endmember"), by_date)
    return {}, variables


def latents_of(nodes: Any, rows: Tensor | None = None) -> Arrays:
    """Values (pixels, ...) of a guide's latent sites that the model has too, from one draw.

    Parameters
    ----------
    nodes : mapping
        Of a trace of Pyro.
    rows : Tensor of int, optional
        Which pixels to take, of a guide that draws all of the scene.
    """
    return {
        name: _pixels_first(site, rows)
        for name, site in nodes.items()
        if is_latent_site(site) and not site["infer"].get("is_auxiliary")
    }


def is_latent_site(site: Any) -> bool:
    """Whether a node of a trace is a draw that nothing observes."""
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def in_pixels(site: Any) -> bool:
    """Whether a site is in the plate of the pixels."""
    return any(frame.name == PIXELS for frame in site["cond_indep_stack"])


def _pixels_first(site: Any, rows: Tensor | None) -> Tensor:
    """A site's value with the pixels first, one where it has none; axes of other plates follow, and the event."""
    value, event = site["value"], site["fn"].event_dim
    dims = {f.dim: f.name for f in site["cond_indep_stack"] if f.dim is not None}
    depth = max([value.dim() - event, *(-dim for dim in dims)])
    value = value.reshape((1,) * (depth + event - value.dim()) + value.shape)
    kept = [
        dim
        for dim in range(-depth, 0)
        if dims.get(dim) != PIXELS and (dim in dims or value.shape[depth + dim] > 1)
    ]
    pixels = [dim for dim in range(-depth, 0) if dims.get(dim) == PIXELS]
    dropped = [dim for dim in range(-depth, 0) if dim not in kept and dim not in pixels]
    order = [*pixels, *kept, *dropped]
    axes = [depth + dim for dim in order] + list(range(depth, depth + event))
    value = value.permute(axes)
    start = len(pixels) + len(kept)
    value = value.reshape(value.shape[:start] + value.shape[start + len(dropped) :])
    if not pixels:
        return value.unsqueeze(0)
    return value if rows is None else value.index_select(0, rows)
