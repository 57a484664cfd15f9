"""Hamiltonian Monte Carlo (NUTS) on a few pixels, the referee of other posteriors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_unmix import SGLMM
from pyro_unmix.mixing import to_abundances

Array = NDArray[Any]


def program_of(model: SGLMM, pixels: Tensor) -> Callable[[], None]:
    """The model of pixels (B, T, L) with its parameters as they are and the variability integrated out.

    The states ``c_0 .. c_T`` are those of the model's own prior. The variability must be independent between dates;
    Pyro's low-rank Gaussian integrates it out,
    ``y_t ~ N(M0 a_t, sum_kp (a_p s_kp)^2 F_kp F_kp' + sigma^2 I)``.
    """
    prior, batch = model.abundance_prior, len(pixels)
    components, scales = model.components().detach(), model.variability_prior.chain()[3].detach()
    scales = scales.reshape(model.num_components, model.num_endmembers)
    variance = model.noise.scale.detach().square().expand(pixels.shape[-1])
    reference = model.reference.value

    def program() -> None:
        with pyro.plate("pixels", batch):
            c = pyro.sample("c_0", prior.initial())
            for t in range(1, pixels.shape[1] + 1):
                c = pyro.sample(f"c_{t}", prior.transitions()(c, t))
                a = to_abundances(c)
                factor = (components * scales * a[:, None, None, :]).flatten(-2)
                spectrum = dist.LowRankMultivariateNormal(a @ reference.mT, factor, variance)
                pyro.sample(f"y_{t}", spectrum, obs=pixels[:, t - 1])

    return program


def referee(
    model: SGLMM,
    pixels: Tensor,
    num_samples: int,
    num_warmup: int,
    num_chains: int = 2,
    max_tree_depth: int = 10,
) -> dict[str, Array]:
    """Draws of the abundances of pixels (B, T, L) by NUTS from `program_of` the model.

    Returns
    -------
    dict
        ``draws`` (chains S, B, T, P), ``r_hat`` and ``ess`` (B, T, P).
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    chains = []
    for chain in range(num_chains):
        kernel = NUTS(program_of(model, pixels), max_tree_depth=max_tree_depth)
        sampler = MCMC(kernel, num_samples, num_warmup, disable_progbar=True)
        with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
            torch.manual_seed(chain)
            sampler.run()
        states = sampler.get_samples()
        dates = range(1, pixels.shape[1] + 1)
        chains.append(to_abundances(torch.stack([states[f"c_{t}"] for t in dates], dim=-2)))
    draws = torch.stack(chains)
    return {
        "draws": draws.flatten(0, 1).numpy(),
        "r_hat": split_gelman_rubin(draws).numpy(),
        "ess": effective_sample_size(draws).numpy(),
    }


def compared(draws: Array, found: dict[str, Array]) -> dict[str, float]:
    """Draws (S, B, T, P) beside those of the referee: worst and median errors of mean and std.

    ``mean`` in posterior stds and ``std`` as a ratio minus one. Where the referee's std is below 1e-4 nothing is
    compared.
    """
    mean, std = found["draws"].mean(0), found["draws"].std(0)
    counted = std > 1e-4
    means = (np.abs(draws.mean(0) - mean) / std)[counted]
    stds = np.abs(draws.std(0) / std - 1)[counted]
    return {
        "R-hat": float(found["r_hat"].max()),
        "ESS": float(found["ess"].min()),
        "mean, median": float(np.median(means)),
        "mean, worst": float(means.max()),
        "std, median": float(np.median(stds)),
        "std, worst": float(stds.max()),
    }
