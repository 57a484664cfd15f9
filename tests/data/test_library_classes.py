"""Means and variability of the classes of a spectral library, and who takes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from recipe_cases import rebuilt

import pyro_unmix as pu
from pyro_unmix import SGLMM, FixedEndmembers, extract_endmembers, simulate, unmix
from pyro_unmix.bases import library_basis
from pyro_unmix.data import is_library, library_endmembers
from pyro_unmix.data.libraries import at_bands_of
from pyro_unmix.start import choose_start

pytest.importorskip("spectral")


def make_library(
    spectra: np.ndarray, labels: list[str], wavelength: np.ndarray | None = None
) -> xr.DataArray:
    coords: dict[str, Any] = {
        "endmember": [f"s{i}" for i in range(len(labels))],
        "label": ("endmember", labels),
    }
    if wavelength is not None:
        coords["wavelength"] = wavelength
    return xr.DataArray(spectra, dims=("wavelength", "endmember"), coords=coords)


# Class means and class variability


def random_library(seed: int = 0) -> xr.DataArray:
    """Classes b (4 spectra), a (1), c (3), mixed up; 6 bands."""
    labels = ["b", "a", "b", "c", "c", "b", "b", "c"]
    values = np.random.default_rng(seed).uniform(0.1, 0.9, size=(6, 8))
    return make_library(values, labels, np.linspace(500, 900, 6))


def test_class_means_in_the_order_of_the_classes():
    library = random_library()
    got = library_endmembers(library.transpose("endmember", "wavelength"))
    assert got["endmember"].values.tolist() == ["b", "a", "c"]
    for name in "abc":
        members = library.values[:, library["label"].values == name]
        np.testing.assert_allclose(got.sel(endmember=name), members.mean(1), rtol=1e-14)
    np.testing.assert_array_equal(got["wavelength"], library["wavelength"])


def test_the_basis_has_the_covariance_of_each_class():
    library = random_library()
    array = library_basis(library, 4).array.double().numpy()
    assert array.shape == (6, 4, 3)
    for p, name in enumerate("bac"):
        members = library.values[:, library["label"].values == name]
        expected = np.cov(members) if members.shape[1] > 1 else np.zeros((6, 6))
        np.testing.assert_allclose(array[..., p] @ array[..., p].T, expected, atol=1e-6)
    # With fewer components it is the best approximation of that rank.
    one = library_basis(library, 1).array.double().numpy()[:, 0, 0]
    values, vectors = np.linalg.eigh(np.cov(library.values[:, library["label"].values == "b"]))
    expected = values[-1] * np.outer(vectors[:, -1], vectors[:, -1])
    np.testing.assert_allclose(np.outer(one, one), expected, atol=1e-6)


def test_what_is_no_library_is_refused():
    library = random_library()
    assert is_library(library) and not is_library(library.values)
    assert not is_library(library.drop_vars("label"))
    with pytest.raises(ValueError, match="must have the coordinate label along endmember"):
        library_endmembers(library.drop_vars("label"))
    with pytest.raises(ValueError, match=r"dims \('wavelength', 'endmember'\), got ndarray"):
        library_basis(library.values, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one spectrum per class.*use another basis"):
        library_basis(library[:, [0, 1, 3]], 1)
    with pytest.raises(ValueError, match="num_components is 7, but the library has 6 bands"):
        library_basis(library, 7)
    with pytest.raises(ValueError, match="library must be finite, got 1 NaN"):
        library_endmembers(library.where(library != library[0, 0]))


# Where a library is accepted


@pytest.fixture(scope="module")
def scene() -> simulate.Scene:
    return simulate.bundle_scene(num_dates=2, height=16, width=16, num_endmembers=3, seed=0)


@pytest.fixture(scope="module")
def scene_library(scene) -> xr.DataArray:
    """Pixels' own spectra of each material from a few places of the scene."""
    spots = scene.endmembers(0).values[::4, ::4].reshape(16, -1, 3)  # (S, L, P)
    names = [str(n) for n in scene.reference_endmembers["endmember"].values]
    values = np.moveaxis(spots, 0, 1).reshape(spots.shape[1], -1)  # (L, S P), material inner
    return make_library(values, names * 16, scene.cubes["wavelength"].values)


def test_a_model_takes_the_class_means_and_is_rebuilt_with_them(scene_library):
    model = SGLMM(scene_library, basis=library_basis(scene_library, 3))
    means = library_endmembers(scene_library)
    assert model.endmember_names == means["endmember"].values.tolist()
    np.testing.assert_allclose(model.reference.value.detach(), means, rtol=1e-6)
    again = rebuilt(model)
    assert again.endmember_names == model.endmember_names
    again.load_state_dict(model.state_dict())
    fixed = SGLMM(FixedEndmembers(library_endmembers(scene_library)))
    assert fixed.num_endmembers == 3


def test_extract_endmembers_takes_a_library_at_the_bands_of_the_cubes(scene, scene_library):
    means = library_endmembers(scene_library)
    np.testing.assert_array_equal(extract_endmembers(scene.cubes, library=scene_library), means)
    every_other = scene.cubes[..., ::2]
    got = extract_endmembers(every_other, 3, library=scene_library)
    np.testing.assert_array_equal(got["wavelength"], every_other["wavelength"])
    np.testing.assert_allclose(got, means[::2], atol=0.02)
    with pytest.raises(ValueError, match="num_endmembers is 4, but the library has the 3 classes"):
        extract_endmembers(scene.cubes, 4, library=scene_library)
    with pytest.raises(ValueError, match="expected a number of endmembers or a library"):
        extract_endmembers(scene.cubes)


def test_the_spread_of_a_library_is_a_candidate_for_the_basis(scene, scene_library):
    start = choose_start(scene.cubes, 3, endmembers=scene_library)
    scores = {name.partition(", ")[2]: value for name, value in start.log_likelihoods.items()}
    # The library holds the true endmembers of the scene: its basis fits better than brightness.
    assert scores["library 6"] > scores["brightness"]
    np.testing.assert_allclose(start.endmembers, library_endmembers(scene_library), rtol=1e-12)
    alone = scene_library[:, :3]
    none = choose_start(scene.cubes, 3, endmembers=alone).log_likelihoods
    assert not any("library" in name for name in none)


def test_unmix_takes_a_library_and_names_the_materials(scene, scene_library):
    result = unmix(
        scene.cubes,
        endmembers=scene_library.isel(wavelength=slice(None)),
        num_steps=0,
        progress=False,
    )
    names = [str(n) for n in scene.reference_endmembers["endmember"].values]
    assert result.abundances["endmember"].values.tolist() == names
    error = np.sqrt(np.mean((result.abundances.values - scene.abundances.values) ** 2))
    assert error < 0.1
    with pytest.raises(ValueError, match="expected num_endmembers, or .*: got neither"):
        unmix(scene.cubes)
    with pytest.raises(ValueError, match="must be one of 'auto', got 'all'"):
        unmix(scene.cubes, "all")


def test_a_scene_without_some_bands_of_a_library_takes_the_others_as_they_are() -> None:
    centres = np.arange(400.0, 900.0, 10.0)
    values = np.random.default_rng(0).uniform(size=(50, 2))
    library = xr.DataArray(
        values,
        dims=("wavelength", "endmember"),
        coords={"wavelength": centres, "label": ("endmember", ["a", "b"])},
    )

    def scene(bands: np.ndarray, **coords: object) -> xr.DataArray:
        return xr.DataArray(
            np.full((1, 1, 1, len(bands)), 0.2),
            dims=("time", "y", "x", "wavelength"),
            coords={"wavelength": bands, **coords},
        )

    kept = np.delete(np.arange(50), [3, 20, 21, 49])
    np.testing.assert_array_equal(at_bands_of(library, scene(centres[kept])), values[kept])
    # bands three times as wide are not those of the library
    pytest.importorskip("spectral")
    wide = at_bands_of(library, scene(centres[1:-1:3]))
    assert np.abs(wide.values - values[1:-1:3]).max() > 0.1


def test_the_basis_of_a_library_has_the_sample_covariance_of_each_class() -> None:
    spectra = np.random.default_rng(3).uniform(0.1, 0.6, (4, 7))
    labels = ["soil"] * 3 + ["tree"] * 4
    library = xr.DataArray(
        spectra,
        {"wavelength": [500.0, 600.0, 700.0, 800.0], "label": ("endmember", labels)},
        ("wavelength", "endmember"),
    )
    parts = pu.bases.library_basis(library, 4).components(torch.zeros(4, 2)).double().numpy()
    for p, members in enumerate((spectra[:, :3], spectra[:, 3:])):
        np.testing.assert_allclose(parts[..., p] @ parts[..., p].T, np.cov(members), atol=1e-6)
