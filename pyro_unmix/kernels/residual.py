"""Draws of the residual that all materials have in common, ``U r``, and of the noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_unmix.kernels.state import Spectra
from pyro_unmix.models.common_residual import outside
from pyro_unmix.ops.factors import cholesky


class ResidualDraws:
    """r of every spectrum given all else: normal, of precision ``I + U'U / sigma^2``.

    To be followed by the kernels that need it before any that integrates it out.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> new = pu.kernels.ResidualDraws()(state, spectra)
    >>> new.residual.shape == (3, spectra.model.rank)
    True
    """

    def __repr__(self) -> str:
        return "ResidualDraws()"

    def __call__(self, state: Any, spectra: Spectra) -> Any:
        factor, variance = state.residual_factor, state.noise_variance
        precision = factor.mT @ factor / variance
        precision.diagonal().add_(1.0)
        root = cholesky(precision)
        left = unexplained(state, spectra)
        loc = torch.cholesky_solve(factor.mT @ left.mT / variance, root)
        noise = spectra.normal(*loc.shape)
        away = torch.linalg.solve_triangular(root.mT, noise, upper=True)
        return state.having(residual=(loc + away).mT)


class FactorDraws:
    """U given r and all else: every band a regression on r, with one precision ``R'R / sigma^2 + diag(1 / g)``; then g.

    A column that nothing needs shrinks: its variance g is inverse gamma given it.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> state = pu.kernels.ResidualDraws()(state, spectra)
    >>> new = pu.kernels.FactorDraws()(state, spectra)
    >>> new.residual_factor.shape == state.residual_factor.shape
    True
    """

    def __repr__(self) -> str:
        return "FactorDraws()"

    def __call__(self, state: Any, spectra: Spectra) -> Any:
        residual, variance = drawn_residual(state), state.noise_variance
        precision = residual.mT @ residual / variance + torch.diag(1 / state.residual_variance)
        root = cholesky(precision)
        loc = torch.cholesky_solve(residual.mT @ unexplained(state, spectra) / variance, root)
        noise = spectra.normal(*loc.shape)
        factor = (loc + torch.linalg.solve_triangular(root.mT, noise, upper=True)).mT
        # All bands have one precision, so that directions are independent.
        factor = outside(factor, spectra.model.taken)
        rate = spectra.model.residual**2 + 0.5 * factor.square().sum(0)
        shape = torch.full_like(rate, 1 + 0.5 * spectra.model.factor_size)
        return state.having(residual_factor=factor, residual_variance=rate / spectra.gamma(shape))


class NoiseDraws:
    """``sigma^2`` given r and all else: inverse gamma.

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> from pyro_unmix.infer.programs import program_of
    >>> M = torch.tensor([[.1, .5], [.2, .4], [.3, .3], [.4, .2]], dtype=torch.double)
    >>> values = torch.tensor([[.3, .7], [.9, .1], [.5, .5]], dtype=torch.double) @ M.T
    >>> spectra = pu.kernels.Spectra(pu.models.SimplexMixing(M), values, torch.Generator().manual_seed(0))
    >>> state = program_of(spectra.model).start(spectra.model, values)
    >>> state = pu.kernels.ResidualDraws()(state, spectra)
    >>> new = pu.kernels.NoiseDraws()(state, spectra)
    >>> bool(new.noise_variance > 0)
    True
    """

    def __repr__(self) -> str:
        return "NoiseDraws()"

    def __call__(self, state: Any, spectra: Spectra) -> Any:
        left = unexplained(state, spectra) - drawn_residual(state) @ state.residual_factor.mT
        rate = spectra.model.noise**2 + 0.5 * left.square().sum()
        shape = torch.full_like(rate, 1 + 0.5 * left.numel())
        return state.having(noise_variance=rate / spectra.gamma(shape))


def unexplained(state: Any, spectra: Spectra) -> Tensor:
    """What is left of whitened spectra for U r and noise, (N, L)."""
    return spectra.model.whitened(spectra.values) - state.explained(spectra.model)


def drawn_residual(state: Any) -> Tensor:
    """r (N, Q).

    Raises
    ------
    ValueError
        If it is integrated out.
    """
    if state.residual is None:
        raise ValueError("this kernel needs r, which is integrated out: put ResidualDraws() before")
    return state.residual
