"""A round of the kernels and NUTS, from the same spectra."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS
from scipy import stats
from simplex_cases import start_of
from torch import Tensor

from pyro_unmix.kernels import ROUND
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.priors.bounded import BoundedEndmembers


@pytest.mark.slow
def test_a_round_agrees_with_nuts() -> None:
    """All that one small model does not know, by Pyro's NUTS over the program and by the kernels."""
    model = SimplexMixing(
        BoundedEndmembers([[0.2, 0.6], [0.3, 0.5], [0.4, 0.2]], scale=0.1, high=1.0),
        rank=1, concentration=(1.0, 3.0), residual=0.02, noise=0.05,
    )  # fmt: skip
    state, spectra = start_of(model, 4, 11)
    pixels, valid = spectra.values.unsqueeze(1), torch.ones(4, 1, dtype=torch.bool)
    names = ("abundances_1", "endmembers", "noise_variance", "concentration")
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        torch.manual_seed(0)
        mcmc = MCMC(
            NUTS(model, target_accept_prob=0.95, max_tree_depth=6), 300, 200, disable_progbar=True
        )
        mcmc.run(pixels, valid)
        # by chain: Pyro cannot flatten sites without elements, such as scales of no components
        theirs = {name: draws[0] for name, draws in mcmc.get_samples(group_by_chain=True).items()}
    rounds: dict[str, list[Tensor]] = {name: [] for name in names}
    for number in range(2500):
        for kernel in ROUND:
            state = kernel(state, spectra)
        if number >= 500:
            values = {**state.shared(), "abundances_1": state.abundances}
            for name in names:
                rounds[name].append(values[name])
    for name in names:
        ours, others = torch.stack(rounds[name]), theirs[name].reshape(300, *rounds[name][0].shape)
        if name == "noise_variance":
            ours, others = ours.log(), others.log()
        ours_error = ours.reshape(50, -1, *ours.shape[1:]).mean(1).var(0) / 50
        others_error = others.reshape(20, 15, *ours.shape[1:]).mean(1).var(0) / 20
        z = (ours.mean(0) - others.mean(0)) / (ours_error + others_error).sqrt()
        # 19 means, with errors from twenty batches
        assert float(z.abs().max()) < stats.t.isf(1e-3 / 38, 19), name
