"""How well a posterior fits its model: importance weights per pixel, the bounds they give, when not to trust them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_unmix.data.cubes import from_pixels
from pyro_unmix.ops.checks import positive_int
from pyro_unmix.ops.seeding import seeded
from pyro_unmix.posterior.autoguides import check_by_pixel
from pyro_unmix.posterior.decoding import decoding_of
from pyro_unmix.posterior.programs import model_dtype_and_device, quiet_pyro
from pyro_unmix.posterior.read_out import iterate_pixels

if TYPE_CHECKING:
    from pyro_unmix.posterior.result import Unmixing


#: Above it the importance weights of a pixel have too heavy a tail, and its posterior is not to be trusted.
LARGEST_PARETO_K = 0.7
_LEAST_TAIL = 5  # weights that a tail is fitted to
_ROUNDING = 1e-9  # of weights relative to the largest one
_LEAST_EXCESS = 1e-100  # one weight can be larger than the others by any factor
_DRAWS = "draws of importance weights"  # no name that a model's own plate might have


def log_weights(result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int) -> np.ndarray:
    """``log p(y_n, z) - log q(z | y_n)`` of draws z from the guide, (S, N); zero where a pixel has no date.

    Raises
    ------
    ValueError
        If pixels are not independent given the parameters, or a weight is NaN.
    """
    return np.concatenate(list(_weights(result, cubes, num_samples, seed)), axis=1)


def _weights(
    result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int
) -> Iterator[np.ndarray]:
    model, guide = result.model, result.guide
    per_pixel = cubes.sizes["time"] * num_samples * (cubes.sizes["wavelength"] + 16)
    broadcasts = decoding_of(model, result.decode).broadcasts
    if not broadcasts:
        check_by_pixel(guide, "diagnose")
    shared: frozenset[str] = getattr(model, "shared_sites", frozenset())
    device = model_dtype_and_device(model)[1]
    with quiet_pyro(result.store), torch.no_grad(), seeded(seed, device):
        for _, y, v, known in iterate_pixels(model, guide, cubes, per_pixel):
            # Programs that know no axis of draws are run for one after the other.
            size = num_samples if broadcasts else 1
            runs = []
            for _ in range(num_samples // size):
                with pyro.plate(_DRAWS, size, dim=-2) if broadcasts else nullcontext():
                    drawn = poutine.trace(guide).get_trace(y, v, **known)
                    replayed = poutine.replay(model, trace=drawn)
                    joint = poutine.trace(replayed).get_trace(y, v, **known)
                shape = (size, len(y))
                runs.append(_log_prob(joint, shape, shared) - _log_prob(drawn, shape, shared))
            weights = torch.cat(runs)
            # The plate scales the chunk to the scene.
            weights = torch.where(v.any(1), weights * (len(y) / known["size"]), 0.0)
            if weights.isnan().any():
                raise ValueError(
                    "the importance weights of some pixels are NaN: parameters or spectra are not "
                    "finite, fit the model anew"
                )
            yield weights.cpu().numpy()


def _log_prob(trace: Any, shape: tuple[int, int], shared: frozenset[str]) -> Tensor:
    """Sum over the sites of every pixel, (S, B), in double precision."""
    trace.compute_log_prob()
    total = torch.zeros((), dtype=torch.double)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or name in shared:
            continue
        # By contract the pixels are the last batch dim.
        if any(frame.dim == -1 for frame in site["cond_indep_stack"]):
            log_prob = site["log_prob"].double()
            if log_prob.dim() > len(shape):  # of another plate of the model's own
                log_prob = log_prob.sum(tuple(range(log_prob.dim() - len(shape))))
            total = total.to(log_prob.device) + log_prob
        elif not site["is_observed"]:
            raise ValueError(
                f"site {name!r} is shared by all pixels, and importance weights of a pixel need pixels "
                "that are independent given the parameters, as those of SGLMM with ConjugateGuide"
            )
    return total.expand(shape)


def bounds(
    result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ELBO, importance-weighted ELBO and Pareto k of every pixel, each (N,); chunk by chunk, see `log_weights`."""
    parts = [
        (weights.mean(0), log_mean(weights), pareto_k(weights))
        for weights in _weights(result, cubes, num_samples, seed)
    ]
    elbo, importance, k = (np.concatenate(values) for values in zip(*parts, strict=True))
    return elbo, importance, k


def diagnose(result: Unmixing, cubes: xr.DataArray, num_samples: int, seed: int) -> xr.Dataset:
    """See `Unmixing.diagnose`."""
    num_samples = positive_int(num_samples, "num_samples", minimum=2)
    elbo, importance, k = bounds(result, cubes, num_samples, positive_int(seed, "seed", minimum=0))
    observed = cubes.notnull().all("wavelength").any("time").values.ravel()
    maps = {
        "elbo": (elbo, "ELBO of the pixel"),
        "importance_elbo": (importance, f"importance-weighted ELBO, {num_samples} draws"),
        "pareto_k": (k, "tail of the importance weights"),
    }
    plane = cubes.isel(time=[0])
    out = {}
    for name, (values, title) in maps.items():
        values = np.where(observed, values, np.nan)
        out[name] = from_pixels(values[:, np.newaxis], plane, name=name).isel(time=0, drop=True)
        out[name].attrs = {"long_name": title, "units": "1"}
    return xr.Dataset(out)


def log_mean(weights: np.ndarray) -> np.ndarray:
    """``log mean_s exp w_s``, (N,)."""
    largest = np.maximum(weights.max(0), np.finfo(float).min)  # all of them may be -inf
    with np.errstate(divide="ignore"):
        return largest + np.log(np.exp(weights - largest).mean(0))


def pareto_k(weights: np.ndarray) -> np.ndarray:
    """Shape of the generalised Pareto distribution of the largest importance weights, per pixel.

    Of the S weights of a pixel the ``min(S / 5, 3 sqrt(S))`` largest are taken, as excesses over the next one. The fit
    is the approximate posterior mean of Zhang and Stephens with a weak prior of k about 1/2.

    Parameters
    ----------
    weights : array (S, N)
        Logarithms.

    Returns
    -------
    array (N,)
        Below 0.5 the weights have a variance; above 0.7 even importance sampling does not mend the posterior. Infinite
        with fewer than five weights in the tail.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 25, 2024. Zhang, Stephens, "A new
    and efficient estimation method for the generalized Pareto distribution", Technometrics 51, 2009.
    """
    num_samples, num_pixels = weights.shape
    size = math.ceil(min(0.2 * num_samples, 3 * math.sqrt(num_samples)))
    if size < _LEAST_TAIL:
        return np.full(num_pixels, np.inf)
    largest = weights.max(0)
    ordered = np.sort(weights - np.maximum(largest, np.finfo(float).min), axis=0)
    tail = np.exp(ordered[-size:]) - np.exp(ordered[-size - 1])
    return np.where(np.isneginf(largest), np.inf, generalised_pareto_shape(tail))


def generalised_pareto_shape(excesses: np.ndarray) -> np.ndarray:
    """k of sorted excesses (S, N) over a threshold of zero; zero where all of them are alike."""
    size = len(excesses)
    alike = excesses[-1] <= _ROUNDING
    x = np.where(alike, 1.0 + np.arange(size)[:, np.newaxis], excesses)  # a stand-in
    x = np.maximum(x, _LEAST_EXCESS)
    largest, quartile = x[-1], x[int(size / 4 + 0.5) - 1]
    count = 30 + int(math.sqrt(size))
    grid = 1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))
    theta = 1 / largest + grid[:, np.newaxis] / (3 * quartile)  # (grid, N)
    k = np.log1p(-theta[:, np.newaxis] * x).mean(1)
    likelihood = size * (np.log(-theta / k) - k - 1)
    weight = np.exp(likelihood - likelihood.max(0))
    best = (weight / weight.sum(0) * theta).sum(0)
    shape = np.log1p(-best * x).mean(0)
    return np.where(alike, 0.0, (shape * size + 0.5 * 10) / (size + 10))
