"""Draws of a spectrum's variability and brightness, exactly, and of their scales."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra, State, Whitened
from pyro_unmix.ops.factors import cholesky
from pyro_unmix.ops.simplex import tile_components


class VariabilityDraws:
    """psi and b of every spectrum given its abundances, jointly normal, r integrated out.

    With ``V_n = [W diag(s tile(a)), v M a]`` the precision is ``I + V' C^-1 V`` and the pull ``V' C^-1 (y - M a)``.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> new = pu.kernels.VariabilityDraws()(state, spectra)
    >>> new.brightness.shape
    torch.Size([3])
    """

    def __repr__(self) -> str:
        return "VariabilityDraws()"

    def __call__(self, state: State, spectra: Spectra) -> State:
        products = Whitened(state, spectra)
        factor, pull = self.normal(state.abundances, state, products)
        half = torch.linalg.solve_triangular(factor, pull.unsqueeze(-1), upper=False)
        noise = spectra.normal(*half.shape)
        drawn = torch.linalg.solve_triangular(factor.mT, half + noise, upper=True).squeeze(-1)
        return state.having(variability=drawn[:, :-1], brightness=drawn[:, -1], residual=None)

    @staticmethod
    def normal(abundances: Tensor, state: State, products: Whitened) -> tuple[Tensor, Tensor]:
        """Cholesky factor (N, K P + 1, K P + 1) of the precision, and the pull (N, K P + 1), at abundances (N, P)."""
        factor, rows = own_products(abundances, state, products)
        mixed = (rows[..., :-1] @ abundances.unsqueeze(-1)).squeeze(-1)
        return factor, rows[..., -1] - mixed


def own_products(abundances: Tensor, state: State, products: Whitened) -> tuple[Tensor, Tensor]:
    """Cholesky factor (N, K P + 1, K P + 1) of ``I + V' C^-1 V``, and ``V' C^-1 [M, y]`` (N, K P + 1, P + 1)."""
    count, gram = abundances.shape[-1], products.gram
    size = len(gram) - count
    weight = state.scales * tile_components(abundances, size // count)
    mixed = abundances @ gram[:count]  # a' M' C^-1 D
    light = state.brightness_scale
    precision = abundances.new_empty(len(abundances), size + 1, size + 1)
    torch.mul(weight.unsqueeze(-1) * gram[count:, count:], weight.unsqueeze(-2),
              out=precision[:, :-1, :-1])  # fmt: skip
    cross = light * weight * mixed[:, count:]
    precision[:, -1, :-1] = precision[:, :-1, -1] = cross
    precision[:, -1, -1] = light.square() * (abundances * mixed[:, :count]).sum(-1)
    precision.diagonal(dim1=-2, dim2=-1).add_(1.0)
    rows = abundances.new_empty(len(abundances), size + 1, count + 1)
    rows[:, :-1, :-1] = weight.unsqueeze(-1) * gram[count:, :count]
    rows[:, -1, :-1] = light * mixed[:, :count]
    rows[:, :-1, -1] = weight * products.projected[:, count:]
    rows[:, -1, -1] = light * (abundances * products.projected[:, :count]).sum(-1)
    return cholesky(precision), rows


class ScaleDraws:
    """The scales s and v given everything but r, jointly normal: y is linear in them.

    A prior that is normal about zero, in place of one of the variance, gives the same program up to signs, lets a scale
    that is not needed go to zero, and makes this draw exact.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> state = pu.kernels.ResidualDraws()(state, spectra)
    >>> new = pu.kernels.ScaleDraws()(state, spectra)
    >>> bool((new.scales >= 0).all())
    True
    """

    def __repr__(self) -> str:
        return "ScaleDraws()"

    def __call__(self, state: State, spectra: Spectra) -> State:
        factor, pull = self.normal(state, spectra)
        half = torch.linalg.solve_triangular(factor, pull.unsqueeze(-1), upper=False)
        half = half + spectra.normal(len(pull), 1)
        drawn = torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(-1)
        return state.having(scales=drawn[:-1], brightness_scale=drawn[-1], residual=None)

    @staticmethod
    def normal(state: State, spectra: Spectra) -> tuple[Tensor, Tensor]:
        """Cholesky factor of the precision (K P + 1, K P + 1) and the pull, of s and then v."""
        products, count = Whitened(state, spectra), state.abundances.shape[-1]
        gram, projected = products.gram, products.projected
        repeats = state.scales.shape[0] // count
        varied = tile_components(state.abundances, repeats) * state.variability
        bright = state.brightness.unsqueeze(-1) * state.abundances
        left = projected - state.abundances @ gram[:count]
        pull = torch.cat(
            [
                (varied * left[:, count:]).sum(0),
                (bright * left[:, :count]).sum().reshape(1),
            ]
        )
        cross = ((bright @ gram[:count, count:]) * varied).sum(0)
        own = ((bright @ gram[:count, :count]) * bright).sum().reshape(1, 1)
        inner = (varied.mT @ varied) * gram[count:, count:]
        top = torch.cat([inner, cross.unsqueeze(-1)], dim=1)
        precision = torch.cat([top, torch.cat([cross.unsqueeze(0), own], dim=1)])
        precision = precision + torch.eye(len(pull), dtype=pull.dtype, device=pull.device)
        # v ~ N(0, brightness^2), where s ~ N(0, 1)
        precision[-1, -1] += spectra.model.brightness**-2 - 1
        return cholesky(precision), pull
