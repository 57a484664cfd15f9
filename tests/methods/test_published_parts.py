"""The parts of the published program, each against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import reference
import torch
from pyro import poutine
from scipy import fft

from pyro_unmix.guides import PublishedGuide
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.models.published import RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.priors import RandomWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")
BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 7, 3, 2, 4, 3


def spectra() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 0.9, size=(BANDS, MATERIALS))


def pair() -> tuple[FirstDateSGLMM, PublishedGuide]:
    """Small, in float64, every parameter away from its start."""
    model = FirstDateSGLMM(
        spectra(),
        basis=RawDCT(COMPONENTS, amplitude=0.5),
        abundance_prior=VarianceWalk(),
        variability_prior=RandomWalk(0.3),
        noise=WhiteNoise(0.1),
    ).double()
    guide = PublishedGuide(model, basis=TransposedDCT(COMPONENTS, amplitude=0.4)).double()
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, guide


def data() -> tuple[torch.Tensor, torch.Tensor]:
    valid = torch.ones(PIXELS, DATES, dtype=torch.bool)
    valid[1, 2] = valid[2, 0] = False
    y = np.random.default_rng(1).uniform(0.1, 0.9, size=(PIXELS, DATES, BANDS))
    return torch.from_numpy(y) * valid.unsqueeze(-1), valid


def values(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def densities(trace: Any) -> dict[str, np.ndarray]:
    trace.compute_log_prob()
    return {
        name: site["log_prob"].detach().numpy()
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name != "pixels"
    }


def latents(trace: Any) -> dict[str, np.ndarray]:
    sites = trace.nodes.items()
    return {k: s["value"].detach().numpy() for k, s in sites if k.startswith(("c_", "psi_"))}


# ------------------------------------------------------------------------------- bases


def test_the_bases_are_scipys_unnormalised_dct_and_its_transpose() -> None:
    cosines = fft.dct(np.eye(BANDS), axis=0)  # rows are frequencies, amplitude 2
    m0 = torch.from_numpy(spectra())
    for basis, columns in ((RawDCT(3), cosines[:3].T), (TransposedDCT(3), cosines[:, :3])):
        expected = 0.01 * columns[:, :, None] * spectra()[:, None, :]
        np.testing.assert_allclose(basis.components(m0), expected, atol=1e-12)
    assert np.ptp(cosines[0]) < 1e-12 < np.ptp(cosines[:, 0])  # only one of them has a constant


# ------------------------------------------------------------------------------- model


def test_the_model_has_the_hand_written_density() -> None:
    model, _ = pair()
    y, valid = data()
    trace = poutine.trace(model).get_trace(y, valid)
    got, z, value = densities(trace), latents(trace), values(model)
    assert sorted(got) == sorted(f"{n}_{t}" for n in ("c", "psi", "y") for t in (1, 2, 3))
    net = [(value[f"abundance_prior.net.{i}.weight"], value[f"abundance_prior.net.{i}.bias"])
           for i in (0, 2)]  # fmt: skip
    columns = 0.25 * fft.dct(np.eye(BANDS), axis=0)[:COMPONENTS].T
    m0 = value["reference.value"]
    components = np.einsum("lk,lp->lkp", columns, m0)
    for t in range(1, DATES + 1):
        if t == 1:
            priors = {
                name: (value[f"{part}.initial_loc"], np.exp(value[f"{part}.log_initial_scale"]))
                for name, part in (("c", "abundance_prior"), ("psi", "variability_prior"))
            }
        else:
            step = np.sqrt(0.1 * reference.scale_network(z[f"c_{t - 1}"], net))
            priors = {"c": (z[f"c_{t - 1}"], step), "psi": (z[f"psi_{t - 1}"], 0.3)}
        for name, (loc, scale) in priors.items():
            expected = reference.log_normal(z[f"{name}_{t}"], loc, scale)
            np.testing.assert_allclose(got[f"{name}_{t}"], expected, rtol=1e-6)
        mean = reference.mixed(m0, components, reference.softmax(z[f"c_{t}"]), z[f"psi_{t}"])
        noise = np.exp(value["noise.log_scale"])
        expected = reference.log_normal(y[:, t - 1].numpy(), mean, noise)
        expected = np.where(valid[:, t - 1], expected, 0.0)
        np.testing.assert_allclose(got[f"y_{t}"], expected, rtol=1e-10)


def test_the_first_date_has_the_initial_distribution() -> None:
    model = FirstDateSGLMM(spectra(), basis=RawDCT(COMPONENTS), variability_prior=RandomWalk(1e-3))
    drawn = model.sample_sequence(4000, 2, seed=1)
    psi = drawn["variability"].numpy()
    # Scale 1 before the walk has made a step, and a step of 0.001 after it.
    assert psi[:, 0].std() == pytest.approx(1.0, rel=5 / math.sqrt(2 * psi[:, 0].size))
    steps = np.diff(psi, axis=1)
    assert steps.std() == pytest.approx(1e-3, rel=5 / math.sqrt(2 * steps.size) + 1e-3)
    assert drawn["abundances"].shape == (4000, 2, MATERIALS)


def test_the_step_scale_is_that_of_the_transition() -> None:
    model, _ = pair()
    c = torch.randn(5, MATERIALS, dtype=torch.float64)
    step = model.abundance_prior.transitions()(c, 2)
    got = model.abundance_prior.step_scale(c, torch.ones(5))
    np.testing.assert_allclose(got.detach(), step.variance[:, 0].sqrt().detach(), rtol=1e-12)


def test_steps_take_the_time_between_dates() -> None:
    """Variances grow with the gaps, of which the median is the unit."""
    model = FirstDateSGLMM(
        spectra(),
        basis=RawDCT(COMPONENTS),
        abundance_prior=VarianceWalk(),
        variability_prior=RandomWalk(0.3),
        dates=[0, 6, 8],
    ).double()
    y, valid = data()
    trace = poutine.trace(model).get_trace(y, valid)
    got, z, value = densities(trace), latents(trace), values(model)
    net = [(value[f"abundance_prior.net.{i}.weight"], value[f"abundance_prior.net.{i}.bias"])
           for i in (0, 2)]  # fmt: skip
    for t, gap in ((2, 6 / 4), (3, 2 / 4)):
        variance = gap * 0.1 * reference.scale_network(z[f"c_{t - 1}"], net)
        for name, step in (("c", np.sqrt(variance)), ("psi", 0.3 * np.sqrt(gap))):
            expected = reference.log_normal(z[f"{name}_{t}"], z[f"{name}_{t - 1}"], step)
            np.testing.assert_allclose(got[f"{name}_{t}"], expected, rtol=1e-6)
    mean = model.abundance_prior.step_scale(torch.zeros(3, MATERIALS).double(), torch.ones(3))
    at_zero = np.sqrt(0.1 * reference.scale_network(np.zeros(MATERIALS), net))
    np.testing.assert_allclose(mean[1:].detach(), at_zero * np.sqrt([1.5, 0.5]), rtol=1e-6)


# ------------------------------------------------------------------------------- guide


def head(value: dict[str, np.ndarray], name: str, h: np.ndarray) -> np.ndarray:
    for layer in (0, 1):
        h = value[f"{name}.net.{layer}.weight"] @ h + value[f"{name}.net.{layer}.bias"]
    return value[f"{name}.gate"] * h


def hand_written(guide: PublishedGuide, y: Any, valid: Any, z: Any) -> dict[str, np.ndarray]:
    """``log q`` of every site, pixel by pixel."""
    value, m0 = values(guide), guide.model.reference.value.detach().numpy()
    weights = {k.removeprefix("encoder."): v for k, v in value.items() if "encoder" in k}
    columns = 0.2 * fft.dct(np.eye(BANDS), axis=0)[:, :COMPONENTS]
    p, size = MATERIALS, MATERIALS * COMPONENTS
    result = {f"{n}_{t}": np.zeros(PIXELS) for n in ("c", "psi") for t in range(1, DATES + 1)}
    for n in range(PIXELS):
        hidden = reference.bilstm(y[n].numpy(), weights)
        c, psi = value["initial"][:p], value["initial"][p:]
        for t in range(1, DATES + 1):
            h, before = hidden[t - 1], reference.softmax(c)
            matrix = m0 * (1 + columns @ psi.reshape(COMPONENTS, p))
            gram = matrix.T @ matrix
            ridge = 1e-6 * np.trace(gram) / p
            v = np.linalg.solve(gram + ridge * np.eye(p), matrix.T @ y[n, t - 1].numpy())
            s = np.maximum(v, 0) + 1e-12
            u = 0.5 * np.abs(s / s.sum() - before).sum() if valid[n, t - 1] else 0.0
            keep, new = value["alpha"]
            mixed = keep * (1 - u) * before + new * u * (v + head(value, "shift_c", h))
            logs = np.log(np.maximum(mixed, 0) + 1e-8)
            locs = {
                "c": logs - logs.mean(),
                "psi": value["beta"] * psi + head(value, "shift_psi", h),
            }
            c, psi = z[f"c_{t}"][n], z[f"psi_{t}"][n]
            for name, state in (("c", c), ("psi", psi)):
                spread = value[f"spread_{name}.weight"] @ h + value[f"spread_{name}.bias"]
                scale = np.sqrt(np.exp(0.1 * spread))
                result[f"{name}_{t}"][n] = reference.log_normal(state, locs[name], scale)
    assert size == len(psi)
    return result


def test_the_guide_has_the_hand_written_density() -> None:
    _, guide = pair()
    y, valid = data()
    with pyro.validation_enabled(False):
        trace = poutine.trace(guide).get_trace(y, valid)
    got = densities(trace)
    expected = hand_written(guide, y, valid, latents(trace))
    assert set(got) == set(expected)
    for name, density in expected.items():
        np.testing.assert_allclose(got[name], density, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_new_guide_is_that_of_the_published_start() -> None:
    model = FirstDateSGLMM(spectra(), basis=RawDCT(COMPONENTS))
    guide = PublishedGuide(model, seed=3)
    names = {name.split(".")[0] for name, _ in guide.named_parameters()}
    assert names == {
        "encoder", "shift_c", "shift_psi", "spread_c", "spread_psi", "alpha", "beta", "initial",
    }  # fmt: skip
    value = values(guide)
    assert value["shift_c.gate"] == value["shift_psi.gate"] == 0
    assert (value["alpha"] == 1).all() and value["beta"] == 1 and (value["initial"] == 0).all()
    hidden = MATERIALS * (COMPONENTS + 1)
    bound = 1 / math.sqrt(hidden)  # torch's default
    for name, weight in value.items():
        if "weight" in name and "encoder" in name:
            assert 0.8 * bound < np.abs(weight).max() <= bound, name
    y, valid = data()
    sites = poutine.trace(guide).get_trace(y.float(), valid).nodes
    for t in range(1, DATES + 1):  # a standard normal's scale, to a tenth of a small number
        assert np.abs(np.log(sites[f"psi_{t}"]["fn"].scale.detach().numpy())).max() < 0.06
    same, other = PublishedGuide(model, seed=3), PublishedGuide(model, seed=4)
    for name, parameter in same.named_parameters():
        np.testing.assert_array_equal(parameter.detach(), value[name])
    assert not np.array_equal(values(other)["encoder.weight_ih_l0"], value["encoder.weight_ih_l0"])


def test_the_guide_without_a_basis_has_the_models() -> None:
    model = FirstDateSGLMM(spectra(), basis=RawDCT(COMPONENTS))
    torch.testing.assert_close(PublishedGuide(model).design(), model.design())
    own = PublishedGuide(model, basis=TransposedDCT(COMPONENTS)).design()
    assert not torch.allclose(own, model.design())
