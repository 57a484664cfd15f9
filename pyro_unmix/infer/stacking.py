"""Weights of chains that do not mix, by their predictive density of spectra that they have not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_unmix.infer.chains import Chain, draw_abundances
from pyro_unmix.kernels import AbundanceLikelihood, Spectra, State, Whitened
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.ops.checks import finite_array, in_range

_TINY = 1e-290
_LEAST_PRECISION = 1.0  # of a component of the proposal


def log_predictive(
    chain: Chain,
    values: Tensor,
    *,
    num_shared: int = 2,
    num_draws: int = 24,
    num_rounds: int = 24,
    seed: int = 0,
) -> Tensor:
    """``log p(y_n)`` of spectra, all that they have of their own integrated out, averaged over the chain's draws.

    psi, b and r are integrated out in closed form; the abundances by importance sampling. The proposal is a mixture of
    one ``Dirichlet(alpha + kappa a_s)`` per state a_s of a few rounds of the kernels, kappa such that each has the
    variance of all states, and of the prior, for modes that the rounds did not reach. It has the prior's power at every
    face, so that the weights are bounded.

    Parameters
    ----------
    chain : Chain
    values : Tensor, shape (N, L)
        Spectra that the chain has not seen.
    num_shared : int
        Draws of what spectra share that are averaged over.
    num_draws : int
        Importance draws per spectrum, the same number of every component.
    num_rounds : int
        Of the kernels, the second half of which makes the components.
    seed : int

    Returns
    -------
    Tensor, shape (N,), nats

    Examples
    --------
    >>> import torch, pyro_unmix as pu
    >>> scene = pu.simulate.scaled_scene(num_dates=2, height=10, width=10, seed=0)
    >>> model = pu.models.SimplexMixing(scene.reference_endmembers[::16])
    >>> cubes = scene.cubes[..., ::16]
    >>> result = pu.sample(
    ...     model, cubes, num_rounds=4, num_spectra=40, num_held_out=10, num_samples=8, progress=False
    ... )
    >>> values = torch.tensor(cubes.values[0, 0]).double()  # ten spectra
    >>> pu.infer.log_predictive(result.chains[0], values).shape
    torch.Size([10])
    """
    if not isinstance(chain.model, SimplexMixing):
        raise TypeError(
            f"log_predictive knows SimplexMixing alone, got a chain of {type(chain.model).__name__}: weigh such chains "
            "the same"
        )
    places = torch.linspace(0, len(chain.shared) - 1, num_shared + 2)[1:-1].round().long().tolist()
    found = []
    for number, place in enumerate(places):
        generator = torch.Generator(values.device).manual_seed(seed + number)
        one = Chain(chain.model, (chain.shared[place],))
        drawn = draw_abundances(
            one, values, num_rounds // 2, num_warmup=num_rounds // 2, generator=generator
        )
        found.append(_importance(one, values, drawn, num_draws, generator))
    return torch.stack(found).logsumexp(0) - math.log(len(found))


def components_of(drawn: Tensor, alpha: Tensor) -> Tensor:
    """Parameters (S + 1, N, P) of the proposal's components, about states (S, N, P) and of the prior."""
    mean, variance = drawn.mean(0), drawn.var(0).sum(-1) + 1e-9
    precision = (mean * (1 - mean)).sum(-1) / variance - 1
    about = alpha + precision.clamp(min=_LEAST_PRECISION).unsqueeze(-1) * drawn
    return torch.cat([about, alpha.expand_as(about[:1])])


def _importance(
    chain: Chain, values: Tensor, drawn: Tensor, num_draws: int, generator: torch.Generator
) -> Tensor:
    shared = {k: v.to(values) for k, v in chain.shared[0].items()}
    state = State(
        **shared, abundances=drawn[-1], brightness=values.new_zeros(len(values)),
        variability=values.new_zeros(len(values), len(shared["scales"])),
    )  # fmt: skip
    spectra = Spectra(chain.model, values, generator)
    products, weights = Whitened(state, spectra), []
    alpha = state.concentration.expand(drawn.shape[-1])
    proposal = components_of(drawn, state.concentration)
    with torch.no_grad():
        base = log_normal_without_own(state, spectra, products)
        for number in range(-(-num_draws // len(proposal)) * len(proposal)):
            gamma = spectra.gamma(proposal[number % len(proposal)]).clamp(min=_TINY)
            new = (gamma / gamma.sum(-1, keepdim=True)).clamp(min=_TINY)
            density = log_dirichlet(new, proposal).logsumexp(0) - math.log(len(proposal))
            likelihood = base + AbundanceLikelihood.of(new, state, products).log_likelihood
            weights.append(likelihood + log_dirichlet(new, alpha) - density)
    return torch.stack(weights).logsumexp(0) - math.log(len(weights))


def log_normal_without_own(state: State, spectra: Spectra, products: Whitened) -> Tensor:
    """``log N(y; 0, C)``, (N,)."""
    values = spectra.values
    quadratic = (values * products.solve(values.mT).mT).sum(-1)
    rank, num_bands = products.inner.shape[0], values.shape[-1]
    log_det = (
        2 * products.inner.diagonal().log().sum() + (num_bands - rank) * products.variance.log()
    )
    return -0.5 * (quadratic + log_det + num_bands * math.log(2 * math.pi))


def log_dirichlet(abundances: Tensor, parameters: Tensor) -> Tensor:
    """Log-density (..., N) of abundances (N, P) under parameters (..., P)."""
    normaliser = torch.lgamma(parameters.sum(-1)) - torch.lgamma(parameters).sum(-1)
    return normaliser + ((parameters - 1) * abundances.log()).sum(-1)


def stacking_weights(
    log_densities: Tensor | Sequence[Sequence[float]], *, shrink: float = 0.1, num_steps: int = 500
) -> Tensor:
    """Weights w that maximise ``mean_n log sum_c w_c p_c(y_n) + shrink / C sum_c log w_c``.

    The second term draws them towards equal ones: spectra that neighbours and dates share do not count as independent,
    and what a chain loses by being unsure is worth less than what all lose where the best one is sure and wrong.

    Parameters
    ----------
    log_densities : Tensor, shape (C, N)
        ``log p_c(y_n)`` of spectra that no chain has seen.
    shrink : float
        0 is stacking as published; the larger, the nearer to equal weights.
    num_steps : int
        Of expectation-maximisation, each of which raises the objective.

    Returns
    -------
    Tensor, shape (C,), summing to one

    References
    ----------
    Yao, Vehtari, Gelman, "Stacking for non-mixing Bayesian computations: the curse and blessing of multimodal
    posteriors", JMLR 23, 2022.

    Examples
    --------
    >>> import pyro_unmix as pu
    >>> pu.infer.stacking_weights([[0.0, 0.0], [0.0, 0.0]]).tolist()
    [0.5, 0.5]
    """
    array = torch.as_tensor(finite_array(log_densities, "log_densities", ndim=2))
    in_range(shrink, "shrink", low=0)
    logs = array - array.max(0).values
    weights = torch.full((len(logs),), 1 / len(logs), dtype=logs.dtype)
    densities = logs.exp()
    for _ in range(num_steps):
        share = weights.unsqueeze(-1) * densities
        weights = (share / share.sum(0)).mean(-1) + shrink / len(logs)
        weights = weights / weights.sum()
    return weights


def share_of_kept(free: Tensor, weights: Tensor, kept: Tensor, num_bands: int) -> float:
    """Weight of all chains that keep extracted endmembers (``SimplexMixing(kept=True)``) beside those that learn them.

    Predictive density always prefers the ones that learn: their residual reaches into the span of the materials. How
    much it explains there tells how far spectra are from mixtures with a residual that all materials share, which is
    what the abundances of these chains rest on. With g the median over spectra of the gain in log-density, the part
    ``s = 1 - exp(-2 g / L)`` of the variance that the kept ones leave is explained within the span; the kept chains
    weigh in proportion to ``s^2``, the others to ``(1 - s)^2``. Where the model holds, s is nearly zero.

    Parameters
    ----------
    free : Tensor, shape (C, N)
        Log-densities of N spectra under every chain.
    weights : Tensor, shape (C,)
        Of these chains, summing to one.
    kept : Tensor, shape (D, N)
        The same under the chains that keep endmembers, which weigh alike.
    num_bands : int
        L.
    """
    mixed = (free + weights.log().unsqueeze(-1)).logsumexp(0)
    gain = (mixed - kept.logsumexp(0) + math.log(len(kept))).median()
    share = -math.expm1(-2 * max(float(gain), 0.0) / num_bands)
    return share**2 / (share**2 + (1 - share) ** 2)
