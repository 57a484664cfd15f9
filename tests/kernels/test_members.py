"""Moves of spectra of a library: against the program's trace, against all that a pixel may hold, and against draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pyro import poutine

from pyro_unmix.kernels import LIBRARY_ROUND, MemberMoves, MemberState, Spectra, Whitened
from pyro_unmix.kernels.members import positive_part
from pyro_unmix.models import LibraryMixing

LABELS = ["leaf", "leaf", "soil"]
SPECTRA = np.array([[0.1, 0.15, 0.5], [0.5, 0.4, 0.4], [0.2, 0.3, 0.3], [0.3, 0.1, 0.2]])


def model_of(**options: object) -> LibraryMixing:
    defaults: dict[str, object] = {
        "num_slots": 2, "rank": 1, "included": 0.7, "amount": 0.6, "residual": 0.03, "noise": 0.05,
    }  # fmt: skip
    return LibraryMixing(SPECTRA, LABELS, **{**defaults, **options})  # type: ignore[arg-type]


def drawn(model: LibraryMixing, count: int, seed: int) -> tuple[MemberState, Spectra]:
    """A draw of everything from the program."""
    sites = model.simulate(count, seed=seed)
    generator = torch.Generator().manual_seed(seed + 10_000)
    return MemberState.of_sites(sites, model), Spectra(
        model, sites["pixels"].flatten(0, 1), generator
    )


def log_joint(model: LibraryMixing, state: MemberState, values: torch.Tensor) -> float:
    """Of the program, at a state and spectra."""
    valid = torch.ones(len(values), 1, dtype=torch.bool)
    conditioned = poutine.condition(model, data=state.sites())
    trace = poutine.trace(conditioned).get_trace(values.unsqueeze(1), valid)
    return float(trace.log_prob_sum())


def amounts_grid(model: LibraryMixing, size: int = 400) -> tuple[torch.Tensor, float]:
    """Amounts up to six standard deviations, in the middles of cells, and the width of a cell."""
    width = 6 * model.amount / size
    return (torch.arange(size, dtype=torch.float64) + 0.5) * width, width


def posterior_of_contents(
    model: LibraryMixing, state: MemberState, spectrum: torch.Tensor
) -> dict[tuple[int, int], float]:
    """Probability of every content of two slots, amounts integrated out on a grid and r in closed form."""
    x, _ = amounts_grid(model)
    pairs = torch.cartesian_prod(x, x)
    factor = state.residual_factor
    covariance = factor @ factor.mT + state.noise_variance * torch.eye(len(spectrum))
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(spectrum), covariance)
    half = torch.distributions.HalfNormal(torch.tensor(model.amount, dtype=torch.float64))
    prior = half.log_prob(pairs).sum(-1)
    found = {}
    for content in itertools.product(range(4), repeat=2):
        members = torch.tensor(content).expand(len(pairs), 2)
        left = spectrum - model.explained(members, pairs)
        weight = model.weights[list(content)].log().sum()
        found[content] = float((normal.log_prob(left) + prior).logsumexp(0) + weight)
    total = np.logaddexp.reduce(list(found.values()))
    return {content: float(np.exp(value - total)) for content, value in found.items()}


def test_contents_are_visited_as_often_as_they_are_probable() -> None:
    model = model_of()
    state, spectra = drawn(model, 1, seed=4)
    expected = posterior_of_contents(model, state, spectra.values[0])
    chains = 3000
    many = Spectra(model, spectra.values.expand(chains, -1), torch.Generator().manual_seed(0))
    state = state.having(
        members=state.members.expand(chains, 2), amounts=state.amounts.expand(chains, 2)
    )
    visits = dict.fromkeys(expected, 0)
    for number in range(40):
        state = MemberMoves()(state, many)
        if number >= 20:
            for content in map(tuple, state.members.tolist()):
                visits[content] += 1
    found = {content: count / (20 * chains) for content, count in visits.items()}
    assert max(expected.values()) < 0.9  # there is something to be found out
    # Sixty thousand visits, of perhaps a tenth as many independent ones: a standard error of 0.006 at most.
    assert found == pytest.approx(expected, abs=0.02)


def test_a_wrong_prior_of_contents_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    state, spectra = drawn(model, 1, seed=4)
    right = posterior_of_contents(model, state, spectra.values[0])
    monkeypatch.setattr(model, "weights", model.weights.flip(0))
    wrong = posterior_of_contents(model, state, spectra.values[0])
    assert max(abs(right[c] - wrong[c]) for c in right) > 0.06  # three times the tolerance above


def test_weights_of_a_slot_are_those_of_the_trace_to_nine_digits() -> None:
    """The conditional weight of a spectrum and its amount's density against the program's own log-density.

    With one slot, the weight times the normal density of an amount within x > 0 is the trace's density as a function of
    both, r integrated out by its own conditional normal density.
    """
    model = model_of(num_slots=1)
    state, spectra = drawn(model, 1, seed=2)
    products = Whitened(state, spectra)
    gram = torch.nn.functional.pad(products.gram, (0, 1, 0, 1))
    projected = torch.nn.functional.pad(products.projected, (0, 1))
    others = torch.empty(1, 0, dtype=torch.long)
    weights, loc, scale, _ = MemberMoves.conditional(others, gram, projected, model)
    factor, noise = state.residual_factor, state.noise_variance
    precision = factor.mT @ factor / noise + torch.eye(1)
    found, expected = [], []
    for member in range(3):
        for amount in (0.05, 0.4, 1.3):
            x = torch.tensor([[amount]], dtype=torch.float64)
            at = state.having(members=torch.tensor([[member]]), amounts=x)
            mean = (spectra.values - at.explained(model)) @ factor / noise / precision
            of_residual = torch.distributions.Normal(mean, precision.rsqrt())
            at = at.having(residual=mean)
            density = log_joint(model, at, spectra.values) - float(of_residual.log_prob(mean))
            expected.append(density)
            normal = torch.distributions.Normal(loc[0, member], scale[0, member])
            inside = torch.special.ndtr(loc[0, member] / scale[0, member])
            found.append(
                float(weights[0, member].log() + normal.log_prob(x.squeeze()) - inside.log())
            )
    differences = np.array(found) - np.array(expected)
    np.testing.assert_allclose(differences, differences[0], atol=1e-9)


def test_weights_are_those_of_spectra_with_all_amounts_integrated_out() -> None:
    """Three slots: the weight of j beside R is the prior's times the density of y with the amounts of R and j normal,
    times twice the probability that j's amount is positive."""
    model = model_of(num_slots=3)
    state, spectra = drawn(model, 5, seed=3)
    products = Whitened(state, spectra)
    gram = torch.nn.functional.pad(products.gram, (0, 1, 0, 1))
    projected = torch.nn.functional.pad(products.projected, (0, 1))
    others = torch.tensor([[0, 2], [1, 1], [3, 2], [3, 3], [0, 1]])
    weights, loc, scale, _ = MemberMoves.conditional(others, gram, projected, model)
    white = state.noise_variance * torch.eye(4) + state.residual_factor @ state.residual_factor.mT
    library = torch.nn.functional.pad(model.spectra, (0, 1))
    for n, rest in enumerate(others.tolist()):
        found = weights[n].log()
        expected = []
        for j in range(4):
            mixed = library[:, [*rest, j]]
            covariance = white + model.amount**2 * mixed @ mixed.mT
            density = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance)
            # j's amount given y, by the formula of regression
            pull = model.amount**2 * library[:, j] @ torch.linalg.inv(covariance)
            mean = pull @ spectra.values[n]
            std = (model.amount**2 - model.amount**2 * pull @ library[:, j]).sqrt()
            torch.testing.assert_close(
                torch.stack([mean, std]), torch.stack([loc[n, j], scale[n, j]])
            )
            positive = 2 * torch.special.ndtr(mean / std)
            log_weight = density.log_prob(spectra.values[n]) + positive.log()
            expected.append(float(log_weight + model.weights[j].log()))
        apart = found.numpy() - np.array(expected)
        np.testing.assert_allclose(apart, apart[0], atol=1e-9)


def test_a_round_leaves_draws_of_everything_as_they_are() -> None:
    """Prior-posterior pairs: what is drawn from the program keeps its distribution under rounds given the spectra."""
    model, before, after = model_of(), [], []
    for seed in range(150):
        state, spectra = drawn(model, 3, seed=seed)
        before.append(_numbers(state))
        for _ in range(3):
            for kernel in LIBRARY_ROUND:
                state = kernel(state, spectra)
        after.append(_numbers(state))
    first, second = np.array(before), np.array(after)
    apart = first.mean(0) - second.mean(0)
    # Pairs are dependent; taken as independent, the standard error is too large by at most sqrt(2).
    error = np.sqrt((first.var(0) + second.var(0)) / len(first))
    assert (np.abs(apart) < 4 * error).all(), apart / error


def _numbers(state: MemberState) -> list[float]:
    empty = float((state.members == 3).double().mean())
    return [
        float(state.noise_variance.log()), float(state.residual_variance.log().mean()),
        float(state.amounts.mean()), float(state.amounts.square().mean()), empty,
        float(state.abundances[:, 0].mean()), float(state.abundances[:, 0].square().mean()),
    ]  # fmt: skip


@pytest.mark.parametrize("score", [-300.0, -25.0, -20.001, -19.999, -3.0, 0.0, 4.0, 30.0])
def test_the_positive_part_of_a_normal_weight(score: float) -> None:
    z = torch.tensor([score], dtype=torch.float64)
    factor, logarithm = positive_part(z)
    expected = 0.5 * z.square() + torch.special.log_ndtr(z) + np.log(2)
    torch.testing.assert_close(factor.log() + logarithm, expected, rtol=0, atol=3e-5)


def test_a_spectrum_that_is_missing_says_nothing() -> None:
    model = model_of()
    state, spectra = drawn(model, 3, seed=5)
    valid = torch.tensor([[True], [False], [True]])

    def density(values: torch.Tensor) -> float:
        conditioned = poutine.condition(model, data=state.sites())
        return float(
            poutine.trace(conditioned).get_trace(values.unsqueeze(1), valid).log_prob_sum()
        )

    seen, missing = spectra.values.clone(), spectra.values.clone()
    missing[1] += 1.0
    seen[0] += 1.0
    assert density(missing) == density(spectra.values) != density(seen)


def test_empty_slots_stay_finite() -> None:
    model = model_of()
    state, spectra = drawn(model, 4, seed=1)
    none = torch.full_like(state.members, 3)
    abundances = model.abundances(none, torch.ones_like(state.amounts))
    assert (abundances == 0.5).all()
    dark = Spectra(model, torch.zeros_like(spectra.values), spectra.generator)
    moved = MemberMoves()(state, dark)
    assert torch.isfinite(moved.amounts).all() and (moved.amounts >= 0).all()
    torch.testing.assert_close(moved.abundances.sum(-1), torch.ones(4, dtype=torch.float64))
