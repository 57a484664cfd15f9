"""The guide of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from guide_cases import (
    BANDS,
    CHAINS,
    COMPONENTS,
    DATES,
    MATERIALS,
    PIXELS,
    SIZE,
    bilstm_log_q,
    build,
    data,
    guide_trace,
    latents_of,
    numbers,
    perturbed_guide,
    site_densities,
    spectra,
)

from pyro_unmix import SGLMM, BiLSTMGuide
from pyro_unmix.bases import DCT

pytestmark = pytest.mark.usefixtures("seeded", "own_store")


@pytest.mark.parametrize("chain", CHAINS)
def test_bilstm_guide_has_the_hand_written_density(chain):
    model, (y, valid) = build("softmax", chain), data()
    guide = perturbed_guide(BiLSTMGuide, model)
    trace = guide_trace(guide, y, valid)
    expected = bilstm_log_q(guide, y, valid, latents_of(trace))
    got = site_densities(trace)
    assert set(got) == set(expected)
    for name, density in expected.items():
        np.testing.assert_allclose(got[name], density, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("bands", "materials", "components"), [(12, 3, 4), (8, 2, 1)])
def test_bilstm_guide_has_the_parameter_count_of_table_1(bands, materials, components):
    matrix = np.random.default_rng(0).uniform(0.1, 0.9, size=(bands, materials))
    guide = BiLSTMGuide(SGLMM(matrix, basis=DCT(components)))
    p, k = materials, components
    hidden = (k + 1) * p
    table = (
        8 * hidden * (hidden + bands + 1)  # both LSTMs
        + 3  # alpha_1, alpha_2, beta
        + 2 * p**2 * (k + 1)  # W_c, V_c
        + 2 * k * p**2 * (k + 1)  # W_psi, V_psi
        + 2 * hidden  # zeta, xi
    )
    # torch has a second bias per gate, in both directions.
    assert sum(x.numel() for x in guide.parameters()) == table + 8 * hidden


def test_bilstm_guide_starts_as_in_section_5c():
    model = SGLMM(spectra(), basis=DCT(COMPONENTS))
    guide = BiLSTMGuide(model)
    start = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    assert not start["shift_c"].any()
    assert not start["shift_psi"].any()
    np.testing.assert_array_equal(start["alpha"], [1, 1])
    assert start["beta"] == 1
    assert not start["initial_loc"].any()
    assert not start["log_initial_scale"].any()
    hidden = MATERIALS + SIZE
    for name, value in start.items():
        if "bias" in name:
            assert not value.any(), name
    # Glorot per gate: uniform within sqrt(6 / (rows + columns)), and close to both ends.
    matrices = [("scale_c", 1), ("scale_psi", 1)]
    matrices += [(k, 4) for k in start if "lstm.weight" in k]
    assert len(matrices) == 6
    for name, gates in matrices:
        rows, columns = start[name].shape
        assert rows % gates == 0
        bound = math.sqrt(6 / (rows // gates + columns))
        largest = np.abs(start[name]).max()
        # The largest of n uniform numbers falls short of its bound by 5 / n or less (e^-5).
        assert bound * (1 - 5 / start[name].size) <= largest <= bound, name
    assert start["encoder.lstm.weight_ih_l0"].shape == (4 * hidden, BANDS)


def test_bilstm_guide_carries_abundances_over_missing_dates():
    model = build("softmax", "random walk")
    guide = BiLSTMGuide(model).double()
    y, valid = data()
    trace = guide_trace(guide, y, torch.zeros_like(valid))
    for t in range(1, DATES + 1):
        before = reference.softmax(trace.nodes[f"c_{t - 1}"]["value"].detach().numpy())
        logs = np.log(before + 1e-8)
        got = trace.nodes[f"c_{t}"]["fn"].mean.detach()
        np.testing.assert_allclose(got, logs - logs.mean(-1, keepdims=True), rtol=1e-9, atol=1e-9)


def test_bilstm_guide_takes_another_change_detector():
    model, (y, valid) = build("softmax", "random walk"), data()
    seen = []

    def always(regression, previous):
        seen.append((regression.shape, previous.shape))
        return torch.ones_like(previous[..., 0])

    guide = BiLSTMGuide(model, change_detector=always).double()
    trace = guide_trace(guide, y, valid)
    assert seen == [((PIXELS, MATERIALS), (PIXELS, MATERIALS))] * DATES
    # With u = 1 and W = 0 the mean is pi^-1 of the regression alone.
    endmembers, components = numbers(model.reference.value, model.components())
    psi = trace.nodes["psi_0"]["value"].detach().numpy()[0].reshape(COMPONENTS, MATERIALS)
    matrix = endmembers + np.einsum("lkp,kp->lp", components, psi)
    gram = matrix.T @ matrix
    ridge = 1e-6 * np.trace(gram) / MATERIALS * np.eye(MATERIALS)
    v = np.linalg.solve(gram + ridge, matrix.T @ y[0, 0].numpy())
    logs = np.log(np.maximum(v, 0) + 1e-8)
    got = trace.nodes["c_1"]["fn"].mean[0].detach()
    np.testing.assert_allclose(got, logs - logs.mean(), rtol=1e-9, atol=1e-9)
