"""The parts of the published program, each against numpy; the preset and its benchmark."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import redsunn as benchmark
import reference
import torch
import xarray as xr
from pyro import poutine
from scipy import fft

from pyro_unmix import Unmixing, fit, simulate
from pyro_unmix.guides import PublishedGuide
from pyro_unmix.infer import Ramp, WeightedELBO
from pyro_unmix.methods import fcls, redsunn_published
from pyro_unmix.methods.redsunn_published import along_trajectories
from pyro_unmix.models import FirstDateSGLMM
from pyro_unmix.models.published import RawDCT, TransposedDCT, VarianceWalk
from pyro_unmix.posterior import PlugInMean
from pyro_unmix.posterior.read_out import as_tensors, quiet_pyro, read_out
from pyro_unmix.priors import FreeEndmembers, RandomWalk, WhiteNoise

pytestmark = pytest.mark.usefixtures("seeded", "own_store")

# The package holds the function of this name.
published_module = importlib.import_module("pyro_unmix.methods.redsunn_published")

BANDS, MATERIALS, COMPONENTS, PIXELS, DATES = 7, 3, 2, 4, 3
LIBRARY = simulate.library(np.linspace(450, 2400, 14))
CUBES = simulate.scaled_scene(num_dates=3, height=5, width=4, library=LIBRARY, seed=0).cubes
MATRIX = LIBRARY.values[:, :3]


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
    with quiet_pyro():
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


# ------------------------------------------------------------------------------- read-out


@pytest.fixture(scope="module")
def fitted() -> Unmixing:
    return redsunn_published(CUBES, 3, endmembers=MATRIX, num_basis=2, num_steps=3, progress=False)


def test_a_trajectory_has_the_means_given_the_draws_before(fitted: Unmixing) -> None:
    got = along_trajectories(fitted, seed=4)
    y, valid = as_tensors(CUBES, fitted.model)
    with quiet_pyro(), torch.no_grad():
        torch.manual_seed(4)
        nodes = poutine.trace(fitted.guide).get_trace(y, valid).nodes
    for t in range(1, 4):
        a = reference.softmax(nodes[f"c_{t}"]["fn"].loc.numpy())
        np.testing.assert_allclose(
            got.abundances[t - 1].values.reshape(-1, 3), a, rtol=1e-5, atol=1e-7
        )
        psi = nodes[f"psi_{t}"]["fn"].loc.numpy().reshape(-1, 2, 3)
        variability = got.dataset["variability"][t - 1].values.reshape(-1, 2, 3)
        np.testing.assert_allclose(variability, psi, rtol=1e-5, atol=1e-7)


def test_trajectories_replace_the_estimates_alone(fitted: Unmixing) -> None:
    before = fitted.dataset.copy(deep=True)
    got = along_trajectories(fitted, 3, seed=1)
    xr.testing.assert_identical(fitted.dataset, before)
    for name, variable in before.items():
        assert got.dataset[name].dims == variable.dims
        assert got.dataset[name].attrs == variable.attrs
        changed = name in ("abundances", "variability")
        assert changed != np.array_equal(got.dataset[name], variable, equal_nan=True), name
    np.testing.assert_allclose(got.abundances.sum("endmember"), 1, atol=1e-6)
    assert got.endmembers(0).shape == fitted.endmembers(0).shape
    xr.testing.assert_identical(got.abundances, along_trajectories(fitted, 3, seed=1).abundances)
    assert not got.abundances.equals(along_trajectories(fitted, 3, seed=2).abundances)


def test_without_spread_a_trajectory_is_algorithm_1() -> None:
    model = FirstDateSGLMM(MATRIX, basis=RawDCT(2), abundance_prior=VarianceWalk())
    guide = PublishedGuide(model)
    with torch.no_grad():
        for spread in (guide.spread_c, guide.spread_psi):
            spread.bias.fill_(-1000.0)
    result = fit(model, guide, CUBES, num_steps=0, progress=False)
    expected = read_out(model, guide, CUBES, estimate=PlugInMean())
    got = along_trajectories(result, 2).dataset
    for name in ("abundances", "variability"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_result_without_a_guide_has_no_trajectories() -> None:
    with pytest.raises(ValueError, match="expected a result with model, guide and cubes"):
        along_trajectories(fcls(CUBES, 3, progress=False))


# ------------------------------------------------------------------------------- preset


def test_the_preset_is_made_of_these_parts() -> None:
    """Every setting written out."""
    got = redsunn_published(CUBES, 3, endmembers=MATRIX, num_basis=2, seed=1, progress=False)
    assert not list(pyro.get_param_store().keys())
    model = FirstDateSGLMM(
        FreeEndmembers(MATRIX),
        basis=RawDCT(2, amplitude=0.02),
        abundance_prior=VarianceWalk(0.1),
        variability_prior=RandomWalk(math.sqrt(1e-5), learn=False, initial_scale=1.0),
        noise=WhiteNoise(0.005, learn=True),
        seed=1,
    )
    guide = PublishedGuide(model, basis=TransposedDCT(2, amplitude=0.02), seed=1)
    result = fit(
        model, guide, CUBES, num_epochs=30, batch_size=128, learning_rate=1e-3, seed=1,
        loss=WeightedELBO(Ramp(5000, 14 / 9)), progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(got.losses, result.losses)
    xr.testing.assert_equal(got.abundances, along_trajectories(result, seed=1).abundances)
    assert got.method == "redsunn_published"


def test_the_preset_takes_its_own_endmembers_and_settings() -> None:
    result = redsunn_published(CUBES, 3, num_steps=2, num_trajectories=4, progress=False)
    assert len(result.losses) == 2
    assert result.dataset.sizes["component"] == 10
    one = redsunn_published(CUBES, 3, num_steps=2, progress=False)
    assert not one.abundances.equals(result.abundances)
    np.testing.assert_array_equal(one.reference_endmembers, result.reference_endmembers)
    with pytest.raises(ValueError, match="num_endmembers is 4, but endmembers are"):
        redsunn_published(CUBES, 4, endmembers=MATRIX)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"sigma_psi": -1.0}, ValueError, "sigma_psi must lie in"),
        ({"num_trajectories": 0}, ValueError, "num_trajectories must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"num_stepps": 3}, TypeError, "unexpected keyword argument 'num_stepps'"),
    ],
)
def test_settings_are_refused_before_anything_is_computed(
    settings: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_module, "vca", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(error, match=text):
        redsunn_published(CUBES, 3, **settings)


def test_the_read_out_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(result: Unmixing, *_: Any, **__: Any) -> Unmixing:
        seen.append(torch.get_num_threads())
        return result

    monkeypatch.setattr(published_module, "along_trajectories", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        redsunn_published(CUBES, 3, num_steps=1, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_the_result_can_be_saved_and_loaded(fitted: Unmixing, tmp_path: Path) -> None:
    fitted.save(tmp_path / "result")
    loaded = Unmixing.load(tmp_path / "result")
    xr.testing.assert_equal(loaded.abundances, fitted.abundances)
    again = loaded.predict(CUBES)
    xr.testing.assert_allclose(again.abundances, fitted.predict(CUBES).abundances)


# ------------------------------------------------------------------------------- benchmark


def test_the_benchmark_runs_and_resumes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ["--data", str(data_dir), "--quick", "--seeds", "0", "--cache", str(tmp_path / "c")]
    others = benchmark.main([*options, "--scenes", "ds2", "--rows", "published", "degenerate"])
    records = benchmark.main([*options, "--scenes", "ds1", "--each", "published"])
    printed = capsys.readouterr().out
    assert printed.count("| **the published program** |") == 2
    assert "published, one draw, by seed: " in printed
    known = [row for row in benchmark.ROWS if row != "degenerate"]  # ds1 has no such start
    assert [record["row"] for record in records] == known
    for record in [*records, *others]:
        assert all(0 <= record[name] < 9 for name in benchmark.COLUMNS), record["row"]

    def fail(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(benchmark, "measure", fail)
    assert benchmark.main([*options, "--scenes", "ds1"]) == records
    with pytest.raises(AssertionError, match="measured again"):
        benchmark.main([*options[:4], "1", *options[5:], "--scenes", "ds1"])


def test_the_printed_detector_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    v, a = rng.normal(0.3, 0.4, (6, 4)), rng.dirichlet(np.ones(4), 6)
    clipped = np.maximum(v, 0)
    s = clipped / clipped.sum(1, keepdims=True)
    expected = np.abs(s - a).sum(1) / (2 * 4)
    got = benchmark._printed_detector(torch.from_numpy(v), torch.from_numpy(a))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_every_row_of_the_benchmark_is_one_change() -> None:
    for row, (_, setting) in benchmark.ROWS.items():
        base = benchmark.PAPER if setting.paper else benchmark.PUBLISHED
        changed = [name for name, value in vars(base).items() if vars(setting)[name] is not value]
        together = {"basis": 2, "dct": 2, "frozen-truth": 2, "published": 0, "paper": 0}
        assert len(changed) == together.get(row, 1), (row, changed)


def test_the_table_has_medians_and_ranges() -> None:
    record = {name: 0.5 for name in benchmark.COLUMNS}
    records = [{**record, "row": "frozen", "mean": mean} for mean in (0.3, 0.1, 0.2)]
    last = benchmark.table(records).splitlines()[-1]
    assert last.startswith("| M0 not trained | 3 | 0.500 (0.500 to 0.500) | 0.200 (0.100 to 0.300)")
