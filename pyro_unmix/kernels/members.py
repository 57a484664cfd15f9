"""Moves of single spectra of a library in and out of the slots of a pixel, all amounts integrated out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, Whitened
from pyro_unmix.kernels.truncated import truncated_normal
from pyro_unmix.ops.factors import cholesky, inverse

_BLOCK = 512  # spectra whose products fit a processor's cache
_LEAST_LOGARITHM = -100.0  # of a weight beside the largest one
_FAR = -20.0  # below it the tail of a normal distribution is its expansion, to 2e-5
_ROOT = math.sqrt(2 / math.pi)
_UNUSED = 1e-6  # amount of a class below which its mean is the library's


@dataclass(frozen=True, eq=False)
class MemberState:
    """Values of all sites of `LibraryMixing`; N spectra, pixels and dates in one row.

    Attributes
    ----------
    residual_variance, residual_factor, noise_variance : Tensor
        As in `State`.
    endmembers : Tensor, shape (L, P)
        No site: the mean of the spectra of a class, weighted by their amounts in all pixels.
    members, amounts : Tensor, shape (N, K)
        What is in the slots; S for none.
    abundances : Tensor, shape (N, P)
        No site: of what is in the slots.
    residual : Tensor, shape (N, Q), or None
        None while it is integrated out.

    Examples
    --------
    >>> import dataclasses, pyro_unmix as pu
    >>> [field.name for field in dataclasses.fields(pu.kernels.MemberState)][4:7]
    ['members', 'amounts', 'abundances']
    """

    residual_variance: Tensor
    residual_factor: Tensor
    noise_variance: Tensor
    endmembers: Tensor
    members: Tensor
    amounts: Tensor
    abundances: Tensor
    residual: Tensor | None = None

    #: Fields that all spectra share, which a chain keeps.
    SHARED = ("endmembers", "residual_variance", "residual_factor", "noise_variance")

    def having(self, **values: Any) -> MemberState:
        """A state with other values."""
        return replace(self, **values)

    def shared(self) -> dict[str, Tensor]:
        """What all spectra share."""
        return {name: getattr(self, name) for name in self.SHARED}

    def sites(self) -> dict[str, Tensor]:
        """Values by the names of the program's sites, of one date."""
        if self.residual is None:
            raise ValueError("residual is integrated out: apply ResidualDraws() first")
        shared = {name: value for name, value in self.shared().items() if name != "endmembers"}
        own = {f"{name}_1": getattr(self, name) for name in ("members", "amounts", "residual")}
        return {**shared, **own}

    @classmethod
    def of_sites(cls, sites: Mapping[str, Tensor], model: Any) -> MemberState:
        """The state with the program's site values, of one date."""
        members, amounts = sites["members_1"], sites["amounts_1"]
        shared = {name: sites[name] for name in cls.SHARED if name != "endmembers"}
        return cls(
            **shared, endmembers=model.class_means(), members=members, amounts=amounts,
            abundances=model.abundances(members, amounts), residual=sites["residual_1"],
        )  # fmt: skip

    def to(self, device: torch.device) -> MemberState:
        """On a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in values.items()}
        return MemberState(**moved)

    def design(self, model: Any) -> Tensor:
        """What mixes, (L, S): the library, whitened."""
        return model.white_library()

    def explained(self, model: Any) -> Tensor:
        """Whitened spectra (N, L) without the residual."""
        return model.whitened(model.explained(self.members, self.amounts))


class MemberMoves:
    """The spectrum of one slot after the other given those of the others, with all amounts and r integrated out.

    Let R be the spectra in the other slots. If amounts were N(0, amount^2), of either sign, the amounts of R would
    integrate out of the likelihood of spectrum j in the slot: with C of `Whitened`, ``G = E' C^-1 E``,
    ``h = E' C^-1 y`` and ``A = G_RR + I / amount^2``, its amount is normal with precision and pull ::

        tau_j = G_jj + 1 / amount^2 - G_jR A^-1 G_Rj,     h_j - G_jR A^-1 h_R

    and, kept positive, ``z_j = pull / tau_j^(1/2)``, it weighs
    ``w_j (tau_j amount^2)^(-1/2) exp(z_j^2 / 2) 2 Phi(z_j)``. Drawn are j, its amount, then those of R, which may come
    out negative; the draw is taken if none does. That leaves the posterior as it is: it is that of amounts of either
    sign, restricted to where those of R are positive, too.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.kernels.MemberMoves()
    MemberMoves()
    """

    def __repr__(self) -> str:
        return "MemberMoves()"

    def __call__(self, state: MemberState, spectra: Spectra) -> MemberState:
        model, products = spectra.model, Whitened(state, spectra)
        # An empty slot holds a spectrum of zeros.
        gram = torch.nn.functional.pad(products.gram, (0, 1, 0, 1))
        members, amounts = [], []
        parts = zip(
            products.projected.split(_BLOCK), state.members.split(_BLOCK),
            state.amounts.split(_BLOCK), strict=True,
        )  # fmt: skip
        for projected, own, size in parts:
            projected = torch.nn.functional.pad(projected, (0, 1))
            for slot in range(model.num_slots):
                own, size = self._redrawn(slot, own, size, gram, projected, spectra)
            members.append(own)
            amounts.append(size)
        own, size = torch.cat(members), torch.cat(amounts)
        return state.having(
            members=own, amounts=size, abundances=model.abundances(own, size), residual=None
        )

    @classmethod
    def _redrawn(
        cls, slot: int, members: Tensor, amounts: Tensor, gram: Tensor, projected: Tensor,
        spectra: Spectra,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Members and amounts (B, K), those of a slot drawn anew."""
        model = spectra.model
        others = torch.cat([members[:, :slot], members[:, slot + 1 :]], dim=1)
        weights, loc, scale, (root, cross, pull) = cls.conditional(others, gram, projected, model)
        cumulated = weights.cumsum(-1)
        level = spectra.uniform(len(members), 1) * cumulated[:, -1:]
        chosen = (cumulated < level).sum(-1, keepdim=True).clamp(max=model.num_spectra)
        loc, scale = loc.gather(1, chosen), scale.gather(1, chosen)
        zero = torch.zeros_like(loc)
        amount, _ = truncated_normal(
            loc, scale, zero, zero + torch.inf, spectra.uniform(len(members), 1)
        )
        # Amounts of the others, those of empty slots from their prior.
        taken = cross.gather(2, chosen.unsqueeze(1).expand(-1, others.shape[1], 1)).squeeze(-1)
        half = torch.linalg.solve_triangular(
            root, (pull - taken * amount).unsqueeze(-1), upper=False
        )
        half = half + spectra.normal(*half.shape)
        rest = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
        rest = torch.where(others == model.num_spectra, rest.abs(), rest)
        accept = (rest > 0).all(-1, keepdim=True)
        new_members = torch.cat([others[:, :slot], chosen, others[:, slot:]], dim=1)
        new_amounts = torch.cat([rest[:, :slot], amount, rest[:, slot:]], dim=1)
        return (
            torch.where(accept, new_members, members),
            torch.where(accept, new_amounts, amounts),
        )

    @staticmethod
    def conditional(
        others: Tensor, gram: Tensor, projected: Tensor, model: Any
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Weights (B, S + 1) of what a slot may hold, mean and std of its amount, and what these are made of.

        Parameters
        ----------
        others : Tensor of int, shape (B, K - 1)
        gram : Tensor, shape (S + 1, S + 1)
        projected : Tensor, shape (B, S + 1)
            G and h, with zeros for none.
        """
        precision = model.amount**-2
        inner = gram[others.unsqueeze(-1), others.unsqueeze(-2)]
        inner.diagonal(dim1=-2, dim2=-1).add_(precision)
        root = cholesky(inner)
        cross, pull = gram[others], projected.gather(1, others)
        inverted = inverse(root)
        half = inverted @ cross
        slope = projected - ((inverted @ pull.unsqueeze(-1)).mT @ half).squeeze(-2)
        curvature = gram.diagonal() + precision - half.square().sum(-2)
        scale = curvature.clamp(min=precision).rsqrt()  # but for rounding it is at least that
        factor, logarithm = positive_part(slope * scale)
        weights = logarithm - logarithm.amax(-1, keepdim=True)
        weights = weights.clamp(min=_LEAST_LOGARITHM).exp()  # denormal numbers are slow
        weights = weights * factor * scale * model.weights
        return weights, slope * scale.square(), scale, (root, cross, pull)


class MeanSpectra:
    """Sets `MemberState.endmembers`: the mean of a class over all pixels; no step of the chain.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.kernels.MeanSpectra()
    MeanSpectra()
    """

    def __repr__(self) -> str:
        return "MeanSpectra()"

    def __call__(self, state: MemberState, spectra: Spectra) -> MemberState:
        model = spectra.model
        used = model.fractions(state.members, state.amounts).sum(0)
        shares = model.belongs() * used.unsqueeze(-1)
        total = shares.sum(0)
        means = model.spectra @ (shares / total.clamp(min=_UNUSED))
        return state.having(endmembers=torch.where(total > _UNUSED, means, model.class_means()))


def positive_part(score: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and logarithm of another one of ``exp(z^2 / 2) 2 Phi(z)``, without overflow."""
    inverse = score.clamp(max=_FAR).reciprocal()
    tail = _ROOT * inverse * (inverse.square() - 1)
    factor = torch.where(score < _FAR, tail, torch.special.erfc(score / -math.sqrt(2)))
    return factor, torch.where(score < _FAR, 0.0, 0.5 * score.square())
