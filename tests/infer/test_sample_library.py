"""`sample` of a library: fractions, residuals, what is saved, and libraries of awkward kinds."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.infer import Sampled, sample
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.models import LibraryMixing, SimplexMixing

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
    assert set(loaded.diagnose().data_vars) == {"r_hat", "r_hat_noise"}


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


def test_what_is_no_library_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes at least, got \\['leaf'\\]"):
        LibraryMixing(LIBRARY.values[:, :3], ["leaf"] * 3)
    with pytest.raises(ValueError, match="a label for each of 3 spectra, got 2"):
        LibraryMixing(LIBRARY.values[:, :3], ["leaf", "soil"])
    model = LibraryMixing(LIBRARY.values, [str(x) for x in LIBRARY["label"].values])
    with pytest.raises(TypeError, match="SimplexMixing or LibraryMixing, or a sequence of one"):
        sample([model, SimplexMixing(LIBRARY.values[:, :2])], np.zeros((1, 4, 4, 30)))
    with pytest.raises(ValueError, match="has 30 bands, the images 5"):
        sample(model, np.full((1, 4, 4, 5), 0.2))
