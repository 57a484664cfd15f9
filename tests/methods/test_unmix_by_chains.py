"""When `unmix` draws chains instead of training, what they give, and that it can be saved."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.infer import Sampled, sample
from pyro_unmix.io import FileError
from pyro_unmix.methods import unmix_by_chains
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.posterior import Unmixing

chains_module = importlib.import_module("pyro_unmix.methods.unmix_by_chains")
field_module = importlib.import_module("pyro_unmix.start.field")
unmix_module = importlib.import_module("pyro_unmix.methods.unmix")
REFERENCE = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])


def mixed(count: int = 24, seed: int = 0) -> tuple[xr.DataArray, np.ndarray]:
    """Images of one date without a pure pixel, whose common residual no model of single materials explains."""
    rng = np.random.default_rng(seed)
    abundances = rng.dirichlet([1.0] * 3, size=(1, count, count))
    abundances = 0.7 * abundances + 0.1
    residual = 0.05 * rng.standard_normal((1, count, count, 1)) * np.array([1.0, -1.0, 1.0, -1.0])
    noise = 0.004 * rng.standard_normal((1, count, count, 4))
    return pu.as_cube_sequence(abundances @ REFERENCE.T + residual + noise), abundances


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    models = [SimplexMixing(REFERENCE, rank=1), SimplexMixing(REFERENCE * 0.9, rank=1)]
    few = {"num_rounds": 8, "num_spectra": 40, "num_held_out": 10, "num_kept": 4, "num_samples": 8}
    return sample(models, mixed(8)[0], seed=1, progress=False, **few)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "kind"), [(1.2, Unmixing), (3.0, Sampled)])
def test_chains_are_drawn_where_the_model_does_not_hold(
    factor: float, kind: type, monkeypatch: pytest.MonkeyPatch, sampled: Sampled
) -> None:
    asked: list[Any] = []

    def chains(cubes: Any, count: int, **settings: Any) -> Sampled:
        asked.append((count, settings))
        return sampled

    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: factor)
    monkeypatch.setattr(unmix_module, "unmix_by_chains", chains)
    monkeypatch.setattr(unmix_module, "NUM_STEPS", 2)
    result = pu.unmix(mixed()[0], endmembers=REFERENCE, seed=3, progress=False)
    assert type(result) is kind
    if kind is Sampled:
        count, settings = asked.pop()
        assert count == 3 and settings["seed"] == 3 and settings["endmembers"] is REFERENCE
    assert not asked


@pytest.mark.parametrize(
    "settings",
    [{"num_steps": 0}, {"polish": False}, {"trained": True}, {"batch_size": 64, "num_steps": 1}],
)
def test_what_only_training_has_is_trained(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: 9.0)
    monkeypatch.setattr(unmix_module, "unmix_by_chains", None)
    monkeypatch.setattr(unmix_module, "NUM_STEPS", 1)
    result = pu.unmix(mixed()[0], endmembers=REFERENCE, progress=False, **settings)
    assert type(result) is Unmixing


def test_a_library_is_unmixed_by_chains(monkeypatch: pytest.MonkeyPatch, sampled: Sampled) -> None:
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: 1.0)
    monkeypatch.setattr(unmix_module, "unmix_by_chains", lambda *_, **__: sampled)
    spread = 1 + 0.1 * np.random.default_rng(0).standard_normal((1, 9))
    library = xr.DataArray(
        np.repeat(REFERENCE, 3, axis=1) * spread,
        dims=("wavelength", "endmember"),
        coords={"label": ("endmember", np.repeat(["a", "b", "c"], 3))},
    )
    assert pu.unmix(mixed()[0], endmembers=library, progress=False) is sampled


@pytest.mark.parametrize(
    ("factor", "share", "season", "given", "holds"),
    [
        (1.8, 0.0, 0.0, None, True), (2.0, 0.1, 0.0, None, False), (1.0, 0.5, 0.0, None, False),
        (9.0, 0.5, 0.2, None, True), (1.8, 0.5, 0.0, REFERENCE, True), (2.0, 0.5, 0.0, REFERENCE, False),
    ],
)  # fmt: skip
def test_what_pixels_share_needs_chains_and_seasons_training(
    factor: float, share: float, season: float, given: Any, holds: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cubes = pu.as_cube_sequence(np.concatenate([mixed(seed=s)[0].values for s in range(3)]))
    start = pu.choose_start(cubes, 3, endmembers=REFERENCE)
    shared = SimpleNamespace(unchecked=lambda *_: (share, 2.0))
    monkeypatch.setattr(field_module, "field_correlation", shared)
    seasons = SimpleNamespace(unchecked=lambda *_, **__: season)
    monkeypatch.setattr(unmix_module, "season_share", seasons)
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: factor)
    assert unmix_module._holds(cubes, start, cubes, 0, given) is holds


@pytest.mark.parametrize(("share", "count"), [(0.1, 0), (0.5, 9)])
def test_materials_vary_by_themselves_where_neighbours_share_it(
    share: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SimpleNamespace(unchecked=lambda *_: (share, 2.0))
    monkeypatch.setattr(field_module, "field_correlation", shared)
    monkeypatch.setattr(chains_module, "_SHORT", 4)
    cubes = pu.as_cube_sequence(np.concatenate([mixed(12, seed=s)[0].values for s in range(3)]))
    start = pu.choose_start(cubes, 3)
    few = {"num_rounds": 4, "num_spectra": 20, "num_held_out": 5, "num_samples": 4}
    found = unmix_by_chains(cubes, 3, start=start, progress=False, **few)  # type: ignore[arg-type]
    assert all(chain.stacked("scales").shape[1] == count for chain in found.chains)
    assert len({str(chain.shared[0]["scales"]) for chain in found.chains}) == (
        len(found.chains) if count else 1
    )


@pytest.mark.parametrize(("dates", "side", "told"), [(3, 10, True), (2, 10, False), (3, 9, False)])
def test_few_dates_or_narrow_images_do_not_tell_what_neighbours_share(
    dates: int, side: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SimpleNamespace(unchecked=lambda *_: (0.9, 2.0))
    monkeypatch.setattr(field_module, "field_correlation", shared)
    cubes = pu.as_cube_sequence(
        np.concatenate([mixed(side, seed=s)[0].values for s in range(dates)])
    )
    start = SimpleNamespace()  # which nothing looks at here
    assert field_module.shares_variability(cubes, start) is told


def test_a_start_is_of_the_same_materials() -> None:
    cubes = mixed(12)[0]
    start = pu.choose_start(cubes, 3)
    with pytest.raises(ValueError, match=r"4 bands and 2 materials, got \(4, 3\)"):
        unmix_by_chains(cubes, 2, start=start)
    with pytest.raises(ValueError, match=r"3 bands and 3 materials, got \(4, 3\)"):
        unmix_by_chains(cubes[..., :3], 3, start=start)
    with pytest.raises(ValueError, match="endmembers or a start, got both"):
        unmix_by_chains(cubes, endmembers=REFERENCE, start=start)
    with pytest.raises(TypeError, match="what choose_start returns, got str"):
        unmix_by_chains(cubes, 3, start="best")  # type: ignore[arg-type]


def test_scalings_are_cosines_over_wavelength() -> None:
    wavelength = np.array([400.0, 500.0, 900.0, 2400.0])
    cubes = pu.as_cube_sequence(mixed(4)[0].values, wavelength=wavelength)
    endmembers = xr.DataArray(REFERENCE, dims=("wavelength", "endmember"))
    found = chains_module._scalings(cubes, endmembers)
    place = (wavelength - 400) / 2000
    np.testing.assert_allclose(found[:, 0], 0.1 * REFERENCE)
    expected = 0.1 * np.sqrt(2) * np.cos(2 * np.pi * place)[:, None] * REFERENCE
    np.testing.assert_allclose(found[:, 2], expected)


def test_few_spectra_are_not_sampled_and_wishes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmix_module, "misfit_factor", lambda *_: 9.0)
    monkeypatch.setattr(unmix_module, "NUM_STEPS", 1)
    few = mixed(20)[0]
    assert type(pu.unmix(few, endmembers=REFERENCE, progress=False)) is Unmixing
    with pytest.raises(ValueError, match="trained=False, but a basis"):
        pu.unmix(few, 3, trained=False, num_steps=3)
    with pytest.raises(TypeError, match="trained must be True, False or None"):
        pu.unmix(few, 3, trained="yes")  # type: ignore[arg-type]


def test_a_scene_that_the_model_does_not_hold_for() -> None:
    """Without pure pixels and with a common residual, chains are nearer the truth than training, and know more."""
    cubes, truth = mixed(30)
    errors, held = [], []
    for trained in (True, None):
        result = pu.unmix(cubes, 3, trained=trained, seed=0, progress=False)
        order = pu.match_endmembers(result.reference_endmembers.values, REFERENCE)
        errors.append(np.sqrt(np.mean((result.abundances.values[..., order] - truth) ** 2)))
        low, high = result.interval(0.9, num_samples=60).values[..., order]
        held.append(((low <= truth) & (truth <= high)).mean())
    assert isinstance(result, Sampled)
    assert errors[1] < errors[0] and held[1] > held[0]


def test_a_sampled_result_is_saved_and_loaded(sampled: Sampled, tmp_path: Path) -> None:
    sampled.save(tmp_path / "one")
    again = Unmixing.load(tmp_path / "one")
    assert isinstance(again, Sampled)
    xr.testing.assert_identical(again.abundances, sampled.abundances)
    intervals = [r.interval(0.8, num_samples=20) for r in (again, sampled)]
    xr.testing.assert_allclose(*intervals, rtol=0, atol=1e-12)
    xr.testing.assert_equal(again.endmembers_interval(), sampled.endmembers_interval())
    xr.testing.assert_equal(again.diagnose(), sampled.diagnose())
    assert len({id(chain.model) for chain in again.chains}) == 2
    assert isinstance(again.predict(mixed(8, seed=2)[0]), Sampled)


def test_damaged_chains_are_refused(sampled: Sampled, tmp_path: Path) -> None:
    sampled.save(tmp_path / "one")
    weights = tmp_path / "one" / "weights.pt"
    saved = torch.load(weights, weights_only=True)
    saved["arrays"][-1] = saved["arrays"][-1] * np.nan
    torch.save(saved, weights)
    with pytest.raises(FileError, match="finite|NaN"):
        Unmixing.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("owners", [-1, 0], "the number of a program"),
        ("weights", [2.0, -1.0], "sum to one"),
        ("orders", [[0, 1, 1], [0, 1, 2]], "orders of the materials"),
        ("num_samples", "many", "num_samples"),
        ("num_warmup", -4, "num_warmup"),
        ("models", ["text"], "does not run"),
        ("model", 1, "cannot be parts"),
        ("result", "Else", "does not know"),
    ],
)
def test_foreign_parts_are_refused(
    field: str, value: Any, says: str, sampled: Sampled, tmp_path: Path
) -> None:
    sampled.save(tmp_path / "one")
    file = tmp_path / "one" / "recipe.json"
    recipe = json.loads(file.read_text())
    (recipe if field == "result" else recipe["own"])[field] = value
    file.write_text(json.dumps(recipe))
    with pytest.raises(FileError, match=says):
        Unmixing.load(tmp_path / "one")


def test_sampled_results_are_not_compared(sampled: Sampled) -> None:
    with pytest.raises(ValueError, match="not there for sampled results"):
        pu.compare({"one": sampled, "two": sampled}, progress=False)


@pytest.fixture(scope="module")
def spans() -> tuple[np.ndarray, np.ndarray]:
    """Endmembers (12, 3), and a direction of what is mixed besides, half of it within their span."""
    band = np.linspace(0, 1, 12)
    spectra = np.stack([0.1 + 0.5 * band, 0.5 - 0.3 * band, 0.3 + 0.2 * np.sin(5 * band)], axis=1)
    return spectra, spectra @ [0.5, -0.5, 0.0] + 0.1 * np.cos(9 * band)


def pure_image(
    spans: tuple[np.ndarray, np.ndarray], within: float, side: int = 30
) -> tuple[xr.DataArray, np.ndarray]:
    """An image with pure pixels of every material, in quarters; a residual along the direction of `within` size."""
    rng = np.random.default_rng(1)
    spectra, direction = spans
    abundances = rng.dirichlet([0.4] * 3, size=(1, side, side))
    for p in range(3):
        abundances[0, : side // 3, p * side // 3 : (p + 1) * side // 3] = np.eye(3)[p]
    bent = (
        within * abundances[..., :1] * abundances[..., 1:2] * rng.exponential(1, (1, side, side, 1))
    )
    values = abundances @ spectra.T + bent * direction
    values = values + 0.002 * rng.standard_normal(values.shape)
    return pu.as_cube_sequence(values), abundances


def weight_of_kept(result: Sampled) -> float:
    assert result.weights is not None
    return float(sum(w for w, c in zip(result.weights, result.chains, strict=True) if c.model.kept))


@pytest.mark.parametrize("given", [False, True])
def test_kept_endmembers_stand_beside_learned_ones(
    given: bool, spans: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    few: dict[str, Any] = {
        "num_rounds": 30,
        "num_spectra": 300,
        "num_held_out": 60,
        "progress": False,
    }
    how: dict[str, Any] = {"endmembers": spans[0]} if given else {"num_endmembers": 3}
    weights = []
    for within in (0.0, 2.0):
        cubes, truth = pure_image(spans, within)
        result = unmix_by_chains(cubes, **how, **few)
        weights.append(weight_of_kept(result))
        # blind, those of the start and of windows of 1, 3 and 5 pixels of six starts
        assert sum(chain.model.kept for chain in result.chains) == (3 if given else 4)
        assert len(result.chains) == (6 if given else 10)
        assert result.weights is not None and result.weights.sum() == pytest.approx(1)
        order = pu.match_endmembers(result.reference_endmembers.values, spans[0])
        error = result.abundances.values[..., order] - truth
        assert np.sqrt(np.mean(error**2)) < 0.1
    assert weights[0] < 0.1 < weights[1] < 1
    result.save(tmp_path / "result")
    again = Sampled.load(tmp_path / "result")
    assert [c.model.kept for c in again.chains] == [c.model.kept for c in result.chains]
    xr.testing.assert_identical(again.abundances, result.abundances)
