"""Small models of every prior, guides with perturbed heads, and their densities written out."""

from __future__ import annotations

import itertools

import numpy as np
import reference
import torch
from pyro import poutine
from scipy import special

from pyro_unmix import SGLMM, BiLSTMGuide
from pyro_unmix.bases import DCT
from pyro_unmix.priors import (
    AutoRegressive,
    FreeEndmembers,
    Independent,
    JumpWalk,
    KnownAbundances,
    RandomWalk,
    SoftmaxWalk,
    WhiteNoise,
)

BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 7, 3, 2, 4, 4
SIZE = MATERIALS * COMPONENTS
WALKS = {"softmax": SoftmaxWalk, "jump": JumpWalk}
CHAINS = {
    "random walk": lambda: RandomWalk(0.3, learn=True, initial_scale=0.8),
    "autoregressive": lambda: AutoRegressive(0.6, 0.5),
    "independent": lambda: Independent(0.5),
}
MODELS = list(itertools.product(WALKS, CHAINS))


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def perturb(module: torch.nn.Module, scale: float = 0.2) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def build(walk, chain, kind=FreeEndmembers, noise_scale: float = 0.1) -> SGLMM:
    """A small model in float64 with all its parameters away from their start."""
    model = SGLMM(
        kind(spectra()),
        basis=DCT(COMPONENTS, scale=0.6),
        abundance_prior=walk if isinstance(walk, KnownAbundances) else WALKS[walk](),
        variability_prior=CHAINS[chain](),
        noise=WhiteNoise(noise_scale),
    ).double()
    perturb(model)
    return model


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels with no, one, the first, and all but one date missing."""
    rng = np.random.default_rng(1)
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 2] = valid[2, 0] = False
    valid[3, [0, 1, 3]] = False
    y = torch.from_numpy(rng.uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS)))
    return y * valid.unsqueeze(-1), valid


def numbers(*values: torch.Tensor) -> list[np.ndarray]:
    return [value.detach().numpy() for value in values]


def latents_of(trace: poutine.Trace) -> dict[str, torch.Tensor]:
    sites = trace.nodes.items()
    return {k: s["value"].detach() for k, s in sites if k.startswith(("c_", "psi_"))}


def guide_trace(guide, *arguments, **keywords) -> poutine.Trace:
    trace = poutine.trace(guide).get_trace(*arguments, **keywords)
    trace.compute_log_prob()
    return trace


def conditioned(program, latents, *arguments, **keywords) -> poutine.Trace:
    return guide_trace(poutine.condition(program, data=latents), *arguments, **keywords)


def site_densities(trace: poutine.Trace) -> dict[str, np.ndarray]:
    return {
        name: site["log_prob"].detach().numpy()
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name != "pixels"
    }


def dense_posterior(curvature, pull, step_scale, loc, scale):
    """One pixel's posterior under a random walk with Gaussian sites, from joint precisions."""
    num_dates, size = pull.shape
    steps = np.repeat(step_scale[:, None], size, axis=1)
    mean, covariance = reference.chain_moments(1.0, steps, loc, scale)
    total = (num_dates + 1) * size
    prior = np.linalg.inv(covariance.reshape(total, total))
    precision, vector = prior.copy(), prior @ mean.ravel()
    for t in range(num_dates):
        block = slice((t + 1) * size, (t + 2) * size)
        precision[block, block] += curvature[t]
        vector[block] += pull[t]
    covariance = np.linalg.inv(precision)
    shape = (num_dates + 1, size)
    return (covariance @ vector).reshape(shape), covariance.reshape(shape * 2)


def columns(curvature, pull, steps) -> tuple[torch.Tensor, ...]:
    """The same with pixels last and matrix axes first, and variances of the steps."""
    arrays = curvature.transpose(2, 3, 1, 0), pull.transpose(2, 1, 0), steps.T**2
    return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays)


def parts_of(model: SGLMM):
    endmembers, components = numbers(model.reference.value, model.components())
    return {
        "endmembers": endmembers,
        "components": components,
        "chain": tuple(numbers(*model.variability_prior.chain())),
        "noise_scale": model.noise.scale.item(),
    }


def exact_log_q(model: SGLMM, y, valid, abundances, psi) -> np.ndarray:
    """``log q(psi_t | psi_{t-1}, ...)`` (T+1, N) from each pixel's dense posterior."""
    parts, result = parts_of(model), []
    for n in range(len(y)):
        mean, covariance, _ = reference.variability_evidence(
            y[n].numpy(), valid[n], abundances[n], **parts
        )
        result.append(reference.log_conditionals(psi[n], mean, covariance))
    return np.stack(result, axis=1)


def perturbed_guide(kind, model: SGLMM, **settings):
    guide = kind(model, **settings).double()
    perturb(guide, 0.1)
    return guide


def step_scales(model: SGLMM, path: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Std of the Gaussian that stands in for each transition, (N, T)."""
    value = {k: v.detach().numpy() for k, v in model.abundance_prior.state_dict().items()}
    if isinstance(model.abundance_prior, SoftmaxWalk):
        layers = [(value[f"weight_{i}"], value[f"bias_{i}"]) for i in range(2)]
        return reference.scale_network(path[:, :-1], layers)[..., 0]
    scales = np.exp([value["log_scale"], value["log_jump_scale"]])
    squared = mean_square * path.shape[-1]
    odds = value["jump_logit"] + path.shape[-1] * np.log(scales[0] / scales[1])
    odds = odds + 0.5 * squared * (scales[0] ** -2 - scales[1] ** -2)
    jump = special.expit(odds)
    return ((1 - jump) / scales[0] ** 2 + jump / scales[1] ** 2) ** -0.5


def conjugate_log_q(guide, y, valid, features, latents) -> dict[str, np.ndarray]:
    """``log q`` of every site, from dense Gaussian conditioning and a hand-written LSTM."""
    model = guide.model
    feature = {k: v.numpy() for k, v in features.items()}
    scales = step_scales(model, feature["path"], feature["mean_square"])
    loc, spread = numbers(
        model.abundance_prior.initial_loc, model.abundance_prior.log_initial_scale.exp()
    )
    c = np.stack([latents[f"c_{t}"].numpy() for t in range(DATES + 1)], axis=1)
    psi = np.stack([latents[f"psi_{t}"].numpy() for t in range(DATES + 1)], axis=1)
    result = {f"c_{t}": np.zeros(len(y)) for t in range(DATES + 1)}
    for n in range(len(y)):
        mean, covariance = dense_posterior(
            feature["curvature"][n], feature["pull"][n], scales[n], loc, spread
        )
        result["c_0"][n] = reference.log_gaussian(c[n, 0], mean[0], covariance[0, :, 0])
        shift, log_scale = correction(guide, y[n].numpy(), feature["path"][n, 1:])
        for t in range(1, DATES + 1):
            before = covariance[t - 1, :, t - 1]
            gain = np.linalg.solve(before, covariance[t - 1, :, t]).T
            conditional = covariance[t, :, t] - gain @ covariance[t - 1, :, t]
            factor = np.linalg.cholesky(np.linalg.inv(conditional))
            centre = mean[t] + gain @ (c[n, t - 1] - mean[t - 1])
            centre = centre + np.linalg.solve(factor.T, shift[t - 1])
            root = factor @ np.diag(np.exp(-log_scale[t - 1]))
            spreads = np.linalg.inv(root @ root.T)
            result[f"c_{t}"][n] = reference.log_gaussian(c[n, t], centre, spreads)
    densities = exact_log_q(model, y, valid, reference.softmax(c[:, 1:]), psi)
    return result | {f"psi_{t}": densities[t] for t in range(DATES + 1)}


def correction(guide, y: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not guide.correction:
        return np.zeros((2, DATES, MATERIALS))
    weights = {k: v.detach().numpy() for k, v in guide.encoder.lstm.named_parameters()}
    hidden = reference.bilstm(np.concatenate([y, path], axis=-1), weights)
    head = guide.head.detach().numpy()
    return tuple(np.split(hidden @ head.T, 2, axis=-1))


def bilstm_log_q(guide: BiLSTMGuide, y, valid, latents) -> dict[str, np.ndarray]:
    """``log q`` of every site by eqs. (33)-(35) and (41)-(47), pixel by pixel."""
    value = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    endmembers, components = numbers(guide.model.reference.value, guide.model.components())
    weights = {k.removeprefix("encoder.lstm."): v for k, v in value.items() if "lstm" in k}
    loc, scale = value["initial_loc"], np.exp(value["log_initial_scale"])
    c = [latents[f"c_{t}"].numpy() for t in range(DATES + 1)]
    psi = [latents[f"psi_{t}"].numpy() for t in range(DATES + 1)]
    p = MATERIALS
    result = {
        "c_0": reference.log_normal(c[0], loc[:p], scale[:p]),
        "psi_0": reference.log_normal(psi[0], loc[p:], scale[p:]),
    }
    for t in range(1, DATES + 1):
        result[f"c_{t}"], result[f"psi_{t}"] = np.zeros((2, len(y)))
    for n in range(len(y)):
        hidden = reference.bilstm(y[n].numpy(), weights)
        for t in range(1, DATES + 1):
            h, before = hidden[t - 1], reference.softmax(c[t - 1][n])
            matrix = endmembers + np.einsum(
                "lkp,kp->lp", components, psi[t - 1][n].reshape(COMPONENTS, p)
            )
            gram = matrix.T @ matrix
            ridge = 1e-6 * np.trace(gram) / p
            v = np.linalg.solve(gram + ridge * np.eye(p), matrix.T @ y[n, t - 1].numpy())
            s = np.maximum(v, 0) + 1e-12
            u = 0.5 * np.abs(s / s.sum() - before).sum() if valid[n, t - 1] else 0.0
            keep, new = value["alpha"]
            mixed = keep * (1 - u) * before + new * u * (v + value["shift_c"] @ h)
            logs = np.log(np.maximum(mixed, 0) + 1e-8)
            result[f"c_{t}"][n] = reference.log_normal(
                c[t][n], logs - logs.mean(), np.exp(value["scale_c"] @ h)
            )
            result[f"psi_{t}"][n] = reference.log_normal(
                psi[t][n],
                value["beta"] * psi[t - 1][n] + value["shift_psi"] @ h,
                np.exp(value["scale_psi"] @ h),
            )
    return result
