"""Methods with `Hapke`: powders mixed by the formula are taken apart, and results speak of reflectance."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.mixing import BilinearMixing, Hapke

BANDS, T, H, W = 14, 2, 6, 5
RNG = np.random.default_rng(3)
WAVELENGTH = np.linspace(1100, 1670, BANDS)
HAPKE = Hapke(incidence=20)
SPECTRA = xr.DataArray(
    np.stack([np.linspace(0.15, 0.5, BANDS), 0.85 - 0.3 * np.sin(WAVELENGTH / 90) ** 2], axis=1),
    dims=("wavelength", "endmember"),
    coords={"wavelength": WAVELENGTH, "endmember": ["ilmenite", "calcite"]},
)
TRUTH = RNG.dirichlet(np.ones(2), size=(T, H, W))


def mixed(noise: float = 0.0) -> xr.DataArray:
    """Powders by the model's own forward path, which tests of its own compare with the source."""
    clean = HAPKE(torch.tensor(SPECTRA.values), torch.tensor(TRUTH)).numpy()
    noisy = clean + noise * np.random.default_rng(0).normal(size=clean.shape)
    return pu.as_cube_sequence(noisy, wavelength=WAVELENGTH)


def rmse(a: object, b: object) -> float:
    return float(np.sqrt(np.square(np.asarray(a) - np.asarray(b)).mean()))


@pytest.mark.parametrize("name", ["fcls", "nnls"])
def test_powders_are_taken_apart(name: str) -> None:
    method, cubes = getattr(pu.methods, name), mixed()
    result = method(cubes, endmembers=SPECTRA, mixing=HAPKE, progress=False)
    assert rmse(result.abundances, TRUTH) < 1e-7
    assert rmse(method(cubes, endmembers=SPECTRA, progress=False).abundances, TRUTH) > 0.05
    assert result.method == name and result.mixing is HAPKE
    assert result.abundances["endmember"].values.tolist() == ["ilmenite", "calcite"]
    # spectra come back as reflectance, the dataset says what it holds
    np.testing.assert_allclose(result.reconstruct(1), cubes.isel(time=1), atol=1e-7)
    np.testing.assert_allclose(result.residual(1), 0, atol=1e-7)
    assert float(result.rmse.max()) < 1e-7
    np.testing.assert_allclose(result.reference_endmembers, SPECTRA, atol=1e-12)
    assert result.reference_endmembers.attrs["long_name"] == "endmember reflectance"
    own = result.endmembers(0).transpose("y", "x", "wavelength", "endmember")
    np.testing.assert_allclose(own, np.broadcast_to(SPECTRA, own.shape), atol=1e-6)
    assert result.dataset.attrs["mixing"] == "Hapke(incidence=20, emission=0)"
    albedo = result.dataset["reference_endmembers"]
    assert albedo.attrs["long_name"] == "single-scattering albedo of the endmembers"
    np.testing.assert_allclose(albedo, HAPKE.to_albedo(SPECTRA), atol=1e-12)


def test_brightness_is_of_albedo() -> None:
    cubes = mixed()
    darker = HAPKE.to_reflectance(0.7 * HAPKE.to_albedo(cubes))
    result = pu.methods.nnls(darker, endmembers=SPECTRA, mixing=HAPKE, progress=False)
    assert rmse(result.abundances, TRUTH) < 1e-7
    np.testing.assert_allclose(result.dataset["brightness"], 0.7, atol=1e-7)
    np.testing.assert_allclose(result.reconstruct(0), darker.isel(time=0), atol=1e-7)


def test_users_arrays_stay_and_missing_pixels_are_missing() -> None:
    cubes = mixed().copy()
    cubes[0, 0, 0] = np.nan
    before, spectra = cubes.copy(), SPECTRA.values.copy()
    result = pu.methods.fcls(cubes, endmembers=spectra, mixing=HAPKE, progress=False)
    xr.testing.assert_identical(cubes, before)
    np.testing.assert_array_equal(spectra, SPECTRA)
    assert result.abundances[0, 0, 0].isnull().all()
    assert not result.valid[0, 0, 0] and int(result.valid.sum()) == T * H * W - 1


def test_a_library_and_endmembers_from_the_image() -> None:
    library = SPECTRA.isel(endmember=[0, 0, 1]).assign_coords(
        endmember=["a", "b", "c"], label=("endmember", ["ilmenite", "ilmenite", "calcite"])
    )
    cubes = mixed()
    result = pu.methods.fcls(cubes, endmembers=library, mixing=HAPKE, progress=False)
    by_name = result.abundances.sel(endmember=["ilmenite", "calcite"])
    assert rmse(by_name, TRUTH) < 1e-7
    blind = pu.methods.fcls(cubes, 2, mixing=HAPKE, progress=False)
    assert blind.dataset["date_endmembers"].attrs["long_name"].startswith("single-scattering")
    assert float(blind.rmse.max()) < 1e-6  # two spectra span a scene of two materials, in albedo
    bands = pu.methods.fcls(
        cubes, endmembers=SPECTRA, mixing=HAPKE, ignore="1100-1200", progress=False
    )
    assert bands.reconstruct(0).sizes["wavelength"] < BANDS
    assert rmse(bands.abundances, TRUTH) < 1e-7


def test_unmix_and_what_a_posterior_gives(tmp_path: Path) -> None:
    cubes = mixed(noise=0.004)
    how = {"endmembers": SPECTRA, "basis": pu.Brightness(0.02), "num_steps": 60, "progress": False}
    result = pu.unmix(cubes, mixing=HAPKE, **how)
    plain = pu.unmix(cubes, **how)
    assert rmse(result.abundances, TRUTH) < 0.5 * rmse(plain.abundances, TRUTH)
    assert float(result.rmse.mean()) < 2 * 0.004
    np.testing.assert_allclose(result.reference_endmembers, SPECTRA, atol=1e-5)
    low, high = (result.reflectance_quantile(q, num_samples=50) for q in (0.05, 0.95))
    inside = (cubes.values > low.transpose(*cubes.dims)) & (
        cubes.values < high.transpose(*cubes.dims)
    )
    assert 0.75 < float(inside.mean()) <= 1
    again = result.predict(cubes)
    np.testing.assert_allclose(again.abundances, result.abundances, atol=1e-5)
    assert again.mixing is HAPKE and again.dataset.attrs["mixing"] == repr(HAPKE)
    result.save(tmp_path / "powder")
    loaded = pu.Unmixing.load(tmp_path / "powder")
    assert repr(loaded.mixing) == repr(HAPKE)
    np.testing.assert_allclose(loaded.rmse, result.rmse, atol=1e-6)
    np.testing.assert_allclose(loaded.predict(cubes).abundances, result.abundances, atol=1e-5)
    with pytest.raises(ValueError, match="predict_to_zarr does not convert images for Hapke"):
        result.predict_to_zarr(cubes, tmp_path / "maps.zarr")


def test_dates_between_are_not_converted_twice() -> None:
    cubes = mixed(noise=0.004).assign_coords(time=[0.0, 10.0])
    result = pu.unmix(
        cubes, endmembers=SPECTRA, mixing=HAPKE, basis=pu.Brightness(0.02), num_steps=5,
        progress=False,
    )  # fmt: skip
    between = result.interpolate([0.0, 5.0])
    np.testing.assert_allclose(
        between.reconstruct(0), result.reconstruct(0), atol=0.02
    )  # converted twice, it would be .2 off


def test_chains() -> None:
    cubes = mixed(noise=0.004)
    result = pu.methods.unmix_by_chains(
        HAPKE.to_albedo(cubes), endmembers=HAPKE.to_albedo(SPECTRA), num_rounds=6, num_spectra=30,
        num_held_out=5, num_samples=6, progress=False,
    )  # fmt: skip
    powder = dataclasses.replace(result, mixing=HAPKE)
    np.testing.assert_allclose(powder.reference_endmembers, SPECTRA, atol=1e-6)
    np.testing.assert_allclose(
        powder.endmembers_interval(0.9),
        HAPKE.to_reflectance(result.endmembers_interval(0.9)), atol=1e-12,
    )  # fmt: skip
    assert rmse(powder.predict(cubes).reconstruct(0), cubes.isel(time=0)) < 0.05
    assert powder.predict(cubes).dataset.attrs["mixing"] == repr(HAPKE)


def test_what_is_refused_and_what_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for method in (pu.methods.fcls, pu.methods.nnls, pu.unmix):
        with pytest.raises(TypeError, match=r"mixing must be None or pyro_unmix.mixing.Hapke\(\)"):
            method(mixed(), endmembers=SPECTRA, mixing=BilinearMixing(), progress=False)
    cubes = mixed().copy()
    cubes[0, 0, 0] = 1.5
    with caplog.at_level(logging.WARNING):
        pu.methods.fcls(cubes, endmembers=SPECTRA, mixing=HAPKE, progress=False)
    assert "1.7 % of the reflectances are above 1.11" in caplog.text


# Measured powders


def minerals(folder: Path, pair: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(folder / "minerals.npz") as data:
        names = [f"{pair}_pure_{pair[:2]}", f"{pair}_pure_{pair[2:]}"]
        pure = np.stack([data[n][0].reshape(-1, 113).mean(0) for n in names], axis=1)
        return data[f"{pair}_Y"], data[f"{pair}_A"], pure


def test_measured_powders_with_brightness_free(data_dir: Path) -> None:
    errors: dict[str, list[float]] = {}
    for pair in ("CaSi", "FeCa", "FeSi"):
        cubes, truth, pure = minerals(data_dir, pair)
        for name, how in (("area", {}), ("powder", {"mixing": Hapke()})):
            result = pu.methods.nnls(cubes, endmembers=pure, progress=False, **how)
            mean = result.abundances.mean(("y", "x"))
            errors.setdefault(name, []).append(rmse(mean, truth))
    assert np.mean(errors["powder"]) < 0.06 < 0.075 < np.mean(errors["area"])


@pytest.mark.parametrize("given", ["other acquisition", "a third powder"])
def test_measured_powders_whose_spectra_are_alike_have_a_posterior(
    data_dir: Path, given: str
) -> None:
    """Albedos near one, and noise far below the rounding of single precision."""
    with np.load(data_dir / "minerals.npz") as data:
        images = data["FeSi_Y"][:, ::2, ::2]
        parts = {
            "other acquisition": [data["FeSi_pure_Fe"][1], data["FeSi_pure_Si"][0]],
            "a third powder": [
                data["FeSi_pure_Fe"][0], data["FeSi_pure_Si"][0], data["CaSi_pure_Ca"][0],
            ],
        }[given]  # fmt: skip
    pure = np.stack([part.reshape(-1, 113).mean(0) for part in parts], axis=1)
    result = pu.unmix(
        images, endmembers=pure, mixing=Hapke(), num_steps=2, polish=False, progress=False
    )
    assert result.abundances.notnull().all() and result.abundances_std.notnull().all()
