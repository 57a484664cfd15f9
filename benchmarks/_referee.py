"""Hamiltonian Monte Carlo (NUTS) on a few pixels, the referee of other posteriors.

The variability is linear and Gaussian given the abundances, so it is integrated out by hand, over all dates at once;
so is what the likelihood does not see: the first state, and the sum of every softmax state. What is left is a density
of T (P - 1) numbers per pixel, written here in double precision without the package's guides, sweeps and solvers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz
import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import MCMC, NUTS
from scipy.linalg import helmert
from torch import Tensor

from pyro_unmix import SGLMM
from pyro_unmix.priors import ConstantWalk, JumpWalk

Array = NDArray[Any]


@dataclass(frozen=True)
class Walk:
    """A mixture of J isotropic Gaussian steps of contrasts, from a Gaussian start.

    ``log_weights`` (J,) with the steps' normalisers, ``variances`` (J,), ``loc`` (P-1,); ``precisions``
    (J, P-1, P-1) of the first state seen, and the logarithms of their weights, normalised likewise.
    """

    log_weights: Tensor
    variances: Tensor
    loc: Tensor
    precisions: Tensor
    first_log_weights: Tensor


def walk_of(model: SGLMM, contrasts: Tensor) -> Walk:
    """The prior of ``u_t = contrasts c_t``.

    Steps of a softmax walk are isotropic given their scale, so that their part along (1, .., 1) integrates to one.
    """
    prior = model.abundance_prior
    if type(prior) not in (ConstantWalk, JumpWalk):  # a StudentWalk is a ConstantWalk, too
        raise TypeError(f"expected JumpWalk or ConstantWalk, got {type(prior).__name__}")
    scale = prior.log_scale.exp().double()
    if isinstance(prior, JumpWalk):
        jump, rho = prior.log_jump_scale.exp().double(), torch.sigmoid(prior.jump_logit.double())
        weights, scales = torch.stack([1 - rho, rho]), torch.stack([scale, jump])
    else:
        weights, scales = torch.ones(1).double(), scale.reshape(1)
    start, identity = prior.initial(), torch.eye(len(contrasts), dtype=torch.double)
    loc, std = contrasts @ start.loc.detach().double(), start.scale.detach().double()
    variances = scales.detach().square()
    first = (contrasts * std.square()) @ contrasts.mT + variances[:, None, None] * identity
    log_weights = weights.detach().log() - 0.5 * len(loc) * variances.log()
    first_log_weights = weights.detach().log() - 0.5 * torch.logdet(first)
    return Walk(log_weights, variances, loc, torch.linalg.inv(first), first_log_weights)


def log_prior(walk: Walk, u: Tensor) -> Tensor:
    """Log-density of ``u_1 .. u_T`` (T, P-1) up to a constant, the state before them integrated out."""
    away = u[0] - walk.loc
    first = walk.first_log_weights - 0.5 * (walk.precisions @ away) @ away
    squares = u.diff(dim=0).square().sum(-1, keepdim=True)
    steps = walk.log_weights - 0.5 * squares / walk.variances
    return torch.logsumexp(torch.cat([first.unsqueeze(0), steps]), -1).sum()


def chain_covariance(model: SGLMM, num_dates: int) -> Tensor:
    """Covariances ``E[psi_s psi_t]`` of every coefficient, (T, T, K P), for a chain whose means are zero."""
    coefficients, scales = (part.double() for part in model.variability_prior.steps(num_dates))
    variance = model.variability_prior.chain()[3].double().square()
    # psi = powers x innovations, the first of which is psi_0
    responses = [torch.ones_like(variance).unsqueeze(0)]
    innovations = [variance, *scales.square()]
    for t in range(num_dates):
        moved = coefficients[t] * responses[-1]
        responses.append(torch.cat([moved, torch.ones_like(variance).unsqueeze(0)]))
    rows = [torch.nn.functional.pad(r, (0, 0, 0, num_dates + 1 - len(r))) for r in responses[1:]]
    response = torch.stack(rows)  # (T, T+1, K P)
    return torch.einsum("sjk,tjk,jk->stk", response, response, torch.stack(innovations)).detach()


def density_of(model: SGLMM, pixel: Tensor) -> Callable[[Tensor], Tensor]:
    """Log-density of the contrasts u (T, P-1) of the states of a pixel (T, L), up to a constant.

    ``y ~ N(M0 a, sum_k (F_k a_s)(F_k a_t)' cov(psi_s, psi_t) + sigma^2 I)`` over all dates; of the spectra only what
    lies in the span of M0 and F depends on u, which an orthogonal change of the bands keeps.
    """
    num_dates, p = len(pixel), model.num_endmembers
    contrasts = torch.from_numpy(helmert(p))
    walk = walk_of(model, contrasts)
    basis, design = torch.linalg.qr(model.design().detach().double())
    seen = pixel.double() @ basis  # (T, (K+1) P)
    reference, components = design[:, :p], design[:, p:]
    covariance = chain_covariance(model, num_dates)
    noise = float(model.noise.scale) ** 2 * torch.eye(seen.numel(), dtype=torch.double)
    outer = torch.einsum("ik,jk,stk->sitjk", components, components, covariance)
    repeats = model.num_components
    independent = model.variability_prior.independent
    if independent:  # dates by themselves
        noise = noise[: seen.shape[1], : seen.shape[1]]
        outer = torch.einsum("ik,jk,ttk->tijk", components, components, covariance)

    def log_density(u: Tensor) -> Tensor:
        a = torch.softmax(u @ contrasts, -1)
        e = a.repeat(1, repeats)  # (T, K P)
        rest = seen - a @ reference.mT
        if independent:
            spread = torch.einsum("tijk,tk->tij", outer, e.square()) + noise
            factor = torch.linalg.cholesky(spread)
            white = torch.linalg.solve_triangular(factor, rest.unsqueeze(-1), upper=False)
        else:
            spread = torch.einsum("sitjk,sk,tk->sitj", outer, e, e)
            factor = torch.linalg.cholesky(spread.reshape(noise.shape) + noise)
            white = torch.linalg.solve_triangular(factor, rest.reshape(-1, 1), upper=False)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum()
        return log_prior(walk, u) - 0.5 * white.square().sum() - log_det

    return log_density


def referee(
    model: SGLMM,
    pixels: Tensor,
    num_samples: int,
    num_warmup: int,
    num_chains: int = 4,
    max_tree_depth: int = 8,
) -> dict[str, Array]:
    """Draws of the abundances of pixels (B, T, L) by NUTS, pixel by pixel, from random states.

    Returns
    -------
    dict
        ``draws`` (chains S, B, T, P), ``r_hat`` and ``ess`` (B, T, P), both rank-normalised, the latter the smaller
        one of bulk and tails (Vehtari et al., Bayesian Analysis 16, 2021).
    """
    num_dates, p = pixels.shape[1], model.num_endmembers
    contrasts = torch.from_numpy(helmert(p))
    found = []
    for n, pixel in enumerate(pixels):
        # traced: the density is of few numbers, and most of its time is the interpreter's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            log_density = torch.jit.trace(
                density_of(model, pixel), torch.zeros(num_dates, p - 1).double()
            )
        chains = []
        for chain in range(num_chains):
            kernel = NUTS(
                potential_fn=lambda states, density=log_density: -density(states["u"]),
                full_mass=True, max_tree_depth=max_tree_depth, target_accept_prob=0.8,
            )  # fmt: skip
            with torch.random.fork_rng():
                torch.manual_seed(1000 * n + chain)
                begin = {"u": torch.randn(num_dates, p - 1, dtype=torch.double)}
                sampler = MCMC(
                    kernel, num_samples, num_warmup, initial_params=begin, disable_progbar=True
                )
                sampler.run()
            chains.append(torch.softmax(sampler.get_samples()["u"] @ contrasts, -1))
        found.append(torch.stack(chains).numpy())
    draws = np.stack(found, axis=2)  # (chains, S, B, T, P)
    data = arviz.convert_to_dataset(draws)
    ess = [arviz.ess(data, method=method)["x"].values for method in ("bulk", "tail")]
    return {
        "draws": draws.reshape(-1, *draws.shape[2:]),
        "r_hat": arviz.rhat(data)["x"].values,
        "ess": np.minimum(*ess),
    }


def compared(draws: Array, found: dict[str, Array]) -> dict[str, float]:
    """Draws (S, B, T, P) beside those of the referee: errors of mean and std, median, 90th percentile and worst.

    ``mean`` in posterior stds and ``std`` as a ratio minus one. Where the referee's std is below 1e-4 nothing is
    compared.
    """
    mean, std = found["draws"].mean(0), found["draws"].std(0)
    counted = std > 1e-4
    errors = {
        "mean": (np.abs(draws.mean(0) - mean) / std)[counted],
        "std": np.abs(draws.std(0) / std - 1)[counted],
    }
    scores = {"R-hat": float(found["r_hat"].max()), "ESS": float(found["ess"].min())}
    for name, error in errors.items():
        scores[f"{name}, median"] = float(np.median(error))
        scores[f"{name}, 90 %"] = float(np.quantile(error, 0.9))
        scores[f"{name}, worst"] = float(error.max())
    return scores
