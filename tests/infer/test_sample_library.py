"""`sample` of a library: fractions, residuals, what is saved, and libraries of awkward kinds."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.infer import Sampled, log_predictive, sample
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.models import LibraryMixing, SimplexMixing

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")
sampled_module = importlib.import_module("pyro_unmix.infer.sampled")
QUICK = {
    "num_rounds": 12,
    "num_spectra": 60,
    "num_held_out": 10,
    "num_samples": 12,
    "progress": False,
}
WAVELENGTH = np.linspace(450, 2400, 30)


def spectra_of(labels: list[str], seed: int = 0) -> xr.DataArray:
    """Spectra of classes that differ in shape, of members that differ in brightness and slope."""
    rng = np.random.default_rng(seed)
    place = np.linspace(0, 1, len(WAVELENGTH))
    shapes = {
        "leaf": 0.1 + 0.4 / (1 + np.exp(-30 * (place - 0.25))) - 0.2 * place,
        "straw": 0.1 + 0.35 * place**0.5,
        "soil": 0.15 + 0.2 * np.sin(2.5 * place),
        "snow": 0.9 - 0.8 * place**0.3,
    }
    columns = [
        shapes[label]
        * (1 + 0.1 * rng.standard_normal() + 0.2 * rng.standard_normal() * (place - 0.5))
        for label in labels
    ]
    return xr.DataArray(
        np.stack(columns, 1), dims=("wavelength", "endmember"),
        coords={"wavelength": WAVELENGTH, "label": ("endmember", labels)},
    )  # fmt: skip


def mixed(
    library: xr.DataArray, classes: list[str], seed: int = 1
) -> tuple[xr.DataArray, np.ndarray]:
    """Images (1, 12, 12) of one spectrum per class, and the abundances."""
    rng = np.random.default_rng(seed)
    fractions = rng.dirichlet(np.ones(len(classes)), size=(12, 12))
    cubes = np.zeros((12, 12, len(WAVELENGTH)))
    for number, name in enumerate(classes):
        own = np.flatnonzero(library["label"].values == name)
        cubes += fractions[..., number, None] * library.values[
            :, rng.choice(own, (12, 12))
        ].transpose(1, 2, 0)
    cubes += 0.003 * rng.standard_normal(cubes.shape)
    return pu.as_cube_sequence(cubes[None], wavelength=WAVELENGTH).copy(deep=True), fractions


LIBRARY = spectra_of(["leaf"] * 6 + ["straw"] * 3 + ["soil"] * 5)
CLASSES = ["leaf", "straw", "soil"]


@pytest.fixture(scope="module")
def found() -> tuple[Sampled, np.ndarray]:
    cubes, truth = mixed(LIBRARY, CLASSES)
    cubes[0, 0, 0] = np.nan
    return unmix_by_chains(cubes, endmembers=LIBRARY, seed=0, **QUICK), truth


def test_fractions_are_found_and_their_intervals_hold(found: tuple[Sampled, np.ndarray]) -> None:
    result, truth = found
    assert isinstance(result.model, LibraryMixing)
    assert list(result.abundances["endmember"].values) == CLASSES
    seen = np.ones((12, 12), bool)
    seen[0, 0] = False
    error = result.abundances.values[0][seen] - truth[seen]
    by_least_squares = pu.methods.fcls(result.cubes, endmembers=LIBRARY, progress=False)
    other = by_least_squares.abundances.values[0][seen] - truth[seen]
    assert np.sqrt(np.mean(error**2)) < 0.6 * np.sqrt(np.mean(other**2))
    low, high = result.interval(0.9, num_samples=48).values[:, 0][:, seen]
    assert 0.7 < np.mean((low <= truth[seen]) & (truth[seen] <= high)) <= 1


def test_the_residual_is_what_no_spectrum_explains(found: tuple[Sampled, np.ndarray]) -> None:
    result, _ = found
    fractions = result.dataset["library_fractions"].transpose("time", "y", "x", "spectrum").values
    explained = fractions @ LIBRARY.values.T
    seen = result.valid.values
    expected = np.sqrt(np.mean((result.cubes.values - explained) ** 2, axis=-1))
    np.testing.assert_allclose(result.rmse.values[seen], expected[seen], rtol=1e-4)
    assert (
        0.002 < np.median(result.rmse.values[seen]) < 0.008
    )  # noise of 0.003, and fewer draws than many
    assert np.isnan(result.rmse.values[0, 0, 0])


def test_intervals_are_of_the_draws_behind_the_maps(
    found: tuple[Sampled, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = found
    draws = result.sample()
    assert draws.sizes["sample"] == QUICK["num_samples"]
    np.testing.assert_allclose(draws.mean("sample"), result.abundances, atol=1e-6)
    again = result.interval(0.5, num_samples=QUICK["num_samples"], seed=0)
    np.testing.assert_allclose(result.interval(0.5), again, atol=1e-6)
    result.save(tmp_path / "cover")
    loaded = pu.Unmixing.load(tmp_path / "cover")
    monkeypatch.setattr(sampled_module, "_MOST_KEPT", 0)
    large = loaded.predict(result.cubes)
    assert loaded.drawn is None and large.drawn is None
    for other in (large, result.predict(result.cubes)):
        np.testing.assert_allclose(other.sample(), draws, atol=1e-6)


def test_it_is_saved_and_predicts_as_before(
    found: tuple[Sampled, np.ndarray], tmp_path: Path
) -> None:
    result, _ = found
    result.save(tmp_path / "cover")
    loaded = pu.Unmixing.load(tmp_path / "cover")
    np.testing.assert_array_equal(
        loaded.dataset["library_fractions"], result.dataset["library_fractions"]
    )
    part = result.cubes[:, :3, :3]
    np.testing.assert_array_equal(
        loaded.predict(part).abundances.values, result.predict(part).abundances.values
    )
    assert set(loaded.diagnose().data_vars) == {"r_hat_noise", "ess_noise"}


def test_what_the_library_lacks_shows_in_the_residual() -> None:
    everything = spectra_of(["leaf"] * 4 + ["soil"] * 4 + ["snow"] * 2)
    cubes, _ = mixed(everything[:, :8], ["leaf", "soil"])
    cubes[0, :3, :3] = everything.values[:, 8]
    result = unmix_by_chains(cubes, endmembers=everything[:, :8], seed=0, **QUICK)
    corner = np.zeros((12, 12), bool)
    corner[:3, :3] = True
    rmse = result.rmse.values[0]
    assert rmse[corner].min() > 2 * np.quantile(rmse[~corner], 0.95)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["leaf"] * 5 + ["soil"], ["leaf", "soil"]),  # a class of one spectrum
        (["leaf"] * 25 + ["soil"] * 2, ["leaf", "soil"]),  # unbalanced
        (["leaf"] * 4 + ["soil"] * 4 + ["snow"] * 3, ["leaf", "soil"]),  # a class that is not there
    ],
)
def test_awkward_libraries(labels: list[str], classes: list[str]) -> None:
    library = spectra_of(labels)
    cubes, truth = mixed(library, classes)
    result = unmix_by_chains(cubes, endmembers=library, seed=0, **QUICK)
    found = result.abundances.sel(endmember=classes).values[0]
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.12
    if "snow" in labels:
        assert float(result.abundances.sel(endmember="snow").mean()) < 0.08


def test_a_library_of_one_spectrum_each_is_kept_as_it_is() -> None:
    library = spectra_of(["leaf", "soil"])
    cubes, _ = mixed(library, ["leaf", "soil"])
    result = unmix_by_chains(cubes, endmembers=library, seed=0, **QUICK)
    assert isinstance(result.model, SimplexMixing)
    np.testing.assert_allclose(result.reference_endmembers.values, library.values, atol=1e-3)


def test_the_spread_of_a_class_is_that_of_its_spectra(found: tuple[Sampled, np.ndarray]) -> None:
    result, _ = found
    low, high = result.endmembers_interval(0.9).transpose("bound", "wavelength", "endmember").values
    for number, name in enumerate(CLASSES):
        own = LIBRARY.values[:, LIBRARY["label"].values == name]
        assert (low[:, number] >= own.min(1) - 1e-9).all() and (
            high[:, number] <= own.max(1) + 1e-9
        ).all()
        assert np.mean(high[:, number] - low[:, number]) > 0.5 * np.mean(np.ptp(own, axis=1))


@pytest.mark.parametrize("what", ["labels", "spectra", "number"])
def test_several_programs_must_be_of_one_library(what: str) -> None:
    spectra, labels = LIBRARY.values, [str(x) for x in LIBRARY["label"].values]
    one = LibraryMixing(spectra, labels)
    other = {
        "labels": lambda: LibraryMixing(spectra, [*labels[:8], "soil", *labels[9:]]),
        "spectra": lambda: LibraryMixing(spectra[:, ::-1].copy(), labels),
        "number": lambda: LibraryMixing(spectra[:, 1:], labels[1:]),
    }[what]()
    cubes, _ = mixed(LIBRARY, CLASSES)
    with pytest.raises(ValueError, match="same spectra with the same labels"):
        sample([one, other], cubes, **QUICK)


def test_weights_by_prediction_are_not_of_libraries(found: tuple[Sampled, np.ndarray]) -> None:
    with pytest.raises(TypeError, match="SimplexMixing alone, got a chain of LibraryMixing"):
        log_predictive(found[0].chains[0], torch.zeros(2, 30, dtype=torch.float64))


def test_one_band_is_unmixed_as_far_as_it_can_be() -> None:
    model = LibraryMixing(np.array([[0.1, 0.5]]), ["leaf", "soil"], rank=1)
    cubes = np.random.default_rng(0).uniform(0.1, 0.5, (1, 6, 6, 1))
    result = sample(model, cubes, **QUICK)
    assert bool(np.isfinite(result.abundances).all())


def test_small_scenes_with_a_library_are_not_trained() -> None:
    cubes, _ = mixed(LIBRARY, CLASSES)
    short = SimpleNamespace(seen=None)

    def by_chains(*_: object, **settings: object) -> object:
        short.seen = settings["endmembers"]
        return short

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unmix_module, "unmix_by_chains", by_chains)
        assert pu.unmix(cubes, endmembers=LIBRARY, progress=False) is short
    assert short.seen is not None


def test_what_is_no_library_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="zero in all bands, got number 1 of soil"):
        LibraryMixing(np.array([[0.1, 0.0], [0.2, 0.0]]), ["leaf", "soil"])
    with pytest.raises(ValueError, match="two classes at least, got \\['leaf'\\]: add spectra"):
        LibraryMixing(LIBRARY.values[:, :3], ["leaf"] * 3)
    with pytest.raises(ValueError, match="a label for each of 3 spectra, got 2"):
        LibraryMixing(LIBRARY.values[:, :3], ["leaf", "soil"])
    model = LibraryMixing(LIBRARY.values, [str(x) for x in LIBRARY["label"].values])
    with pytest.raises(TypeError, match="SimplexMixing or LibraryMixing, or a sequence of one"):
        sample([model, SimplexMixing(LIBRARY.values[:, :2])], np.zeros((1, 4, 4, 30)))
    with pytest.raises(ValueError, match="has 30 bands, the images 5"):
        sample(model, np.full((1, 4, 4, 5), 0.2))
