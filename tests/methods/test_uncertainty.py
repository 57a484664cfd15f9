"""Bands that count by their uncertainty, against least squares of whitened spectra."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from products import cube, write_emit
from scipy.optimize import minimize
from scipy.optimize import nnls as scipy_nnls

import pyro_unmix as pu
from pyro_unmix import cli
from pyro_unmix.io import read_uncertainty
from pyro_unmix.methods import fcls, mesma, monte_carlo_sma, nnls, sparse_regression
from pyro_unmix.methods.weights import band_weights

BANDS = 12
RNG = np.random.default_rng(0)
NM = np.linspace(400, 2400, BANDS)
SPECTRA = RNG.uniform(0.1, 0.6, (BANDS, 4))
LIBRARY = xr.DataArray(
    SPECTRA,
    dims=("wavelength", "endmember"),
    coords={"wavelength": NM, "label": ("endmember", ["a", "a", "b", "b"])},
)
SPREAD = RNG.uniform(0.005, 0.1, BANDS)
VALUES = RNG.dirichlet(np.ones(4), (1, 3, 4)) @ SPECTRA.T + SPREAD * RNG.normal(
    size=(1, 3, 4, BANDS)
)
CUBES = pu.as_cube_sequence(VALUES, wavelength=NM)
WHITE = SPECTRA / SPREAD[:, None]
QUIET: dict[str, Any] = {"progress": False, "uncertainty": SPREAD}


def test_nnls_and_sparse_regression_whiten_the_spectra() -> None:
    result = nnls(CUBES, endmembers=SPECTRA, **QUIET)
    plain = nnls(CUBES, endmembers=SPECTRA, progress=False)
    expected = np.array([scipy_nnls(WHITE, y / SPREAD)[0] for y in VALUES.reshape(-1, BANDS)])
    found = (result.abundances * result.dataset["brightness"]).transpose(
        "time", "y", "x", "endmember"
    )
    np.testing.assert_allclose(found.values.reshape(-1, 4), expected, atol=1e-8)
    assert np.abs(result.abundances - plain.abundances).max() > 0.05
    sparse = sparse_regression(CUBES, endmembers=LIBRARY, sparsity=0.0, **QUIET)
    np.testing.assert_allclose(
        sparse.dataset["library_fractions"].values.reshape(-1, 4), expected, atol=1e-8
    )


def test_fcls_whitens_the_spectra() -> None:
    result = fcls(CUBES, endmembers=SPECTRA, **QUIET)
    for y, found in zip(
        VALUES.reshape(-1, BANDS), result.abundances.values.reshape(-1, 4), strict=True
    ):

        def cost(a: np.ndarray, y: np.ndarray = y) -> float:
            return float(np.sum(((y - SPECTRA @ a) / SPREAD) ** 2))

        best = minimize(cost, np.full(4, 0.25), bounds=[(0, 1)] * 4, method="SLSQP",
                        constraints={"type": "eq", "fun": lambda a: a.sum() - 1}, options={"ftol": 1e-12})  # fmt: skip
        assert cost(found) <= cost(best.x) * (1 + 1e-6)
        np.testing.assert_allclose(found, best.x, atol=1e-3)
    # the RMSE of the result is of reflectances all the same
    left = VALUES - result.abundances.values @ SPECTRA.T
    np.testing.assert_allclose(result.rmse, np.sqrt(np.square(left).mean(-1)), rtol=1e-6)


def test_mesma_and_monte_carlo_whiten_the_spectra() -> None:
    result = mesma(CUBES, endmembers=LIBRARY, num_classes=(2,), gain=0.0, **QUIET)
    for y, found in zip(
        VALUES.reshape(-1, BANDS), result.dataset["library_fractions"].values.reshape(-1, 4), strict=True
    ):  # fmt: skip
        best, cost = np.full(4, np.nan), np.inf
        for i, j in product((0, 1), (2, 3)):
            # y - x_j = f (x_i - x_j), whitened
            step = WHITE[:, i] - WHITE[:, j]
            f = step @ (y / SPREAD - WHITE[:, j]) / (step @ step)
            left = np.sum((y / SPREAD - WHITE[:, j] - f * step) ** 2)
            if -0.05 <= f <= 1.05 and left < cost:
                best, cost = np.zeros(4), left
                best[[i, j]] = f, 1 - f
        np.testing.assert_allclose(found, best, atol=1e-7)
    drawn = monte_carlo_sma(CUBES, endmembers=LIBRARY[:, [0, 2]], num_draws=1, **QUIET)
    known = fcls(CUBES, endmembers=SPECTRA[:, [0, 2]], **QUIET)
    np.testing.assert_allclose(drawn.abundances, known.abundances, atol=1e-8)


def test_weights_have_mean_square_one_and_pixels_count_by_their_root_mean_square() -> None:
    weights = band_weights(SPREAD, CUBES)
    np.testing.assert_allclose(weights * SPREAD, (weights * SPREAD)[0])
    assert np.square(weights).mean() == pytest.approx(1)
    np.testing.assert_array_equal(band_weights(None, CUBES), np.ones(BANDS))
    pixels = CUBES.copy(data=SPREAD * RNG.uniform(0.5, 2, CUBES.shape))
    mean = np.sqrt(np.square(pixels.values).mean((0, 1, 2)))
    np.testing.assert_allclose(band_weights(pixels, CUBES), band_weights(mean, CUBES))


def test_bands_are_found_by_their_wavelengths() -> None:
    more = np.sort([*NM, 1000.0, 2000.0])
    values = np.interp(more, NM, SPREAD)
    known = xr.DataArray(values, {"wavelength": more}, ("wavelength",))
    part = nnls(CUBES, endmembers=LIBRARY, uncertainty=known, ignore="0-700", progress=False)
    other = nnls(CUBES[..., 2:], endmembers=LIBRARY[2:], uncertainty=SPREAD[2:], progress=False)
    np.testing.assert_allclose(part.abundances, other.abundances, atol=1e-9)


@pytest.mark.parametrize(
    "given, text",
    [
        (SPREAD[:3], r"standard deviation for each of 12 bands that count, got the shape \(3,\)"),
        (np.where(NM > 2000, 0, SPREAD), "positive and finite, which it is not in 3 of 12 bands"),
        (np.where(NM > 2300, np.nan, SPREAD), r"not in 1 of 12 bands \(2400.0 nm\): leave these bands out, ignore="),
        (xr.DataArray(SPREAD, dims="band"), r"must have the dim 'wavelength', got \('band',\)"),
        (xr.DataArray(SPREAD, {"wavelength": NM + 60}, ("wavelength",)), "no number for 12 of 12 bands"),
    ],
)  # fmt: skip
def test_bad_uncertainties_are_refused(given: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fcls(CUBES, endmembers=SPECTRA, uncertainty=given, progress=False)


def test_not_with_albedos() -> None:
    with pytest.raises(ValueError, match="not of the albedos of mixing"):
        nnls(CUBES, endmembers=SPECTRA, mixing=pu.mixing.Hapke(), **QUIET)


# ------------------------------------------------------------------ EMIT


def granule(folder: Path) -> tuple[Path, Path, np.ndarray]:
    nm = [381.0, 550.0, 860.0, 1380.0, 1650.0, 2200.0]
    image = write_emit(folder / "EMIT_L2A_RFL_001.nc", cube() / 1e3, nm)
    path = write_emit(folder / "EMIT_L2A_RFLUNCERT_001.nc", cube() / 1e5, nm)
    spread = RNG.uniform(0.001, 0.02, (4, 5, 6))
    spread[1, 2] = -9999
    with h5py.File(path, "r+") as file:
        del file["reflectance"]
        file["reflectance_uncertainty"] = spread
    return image, path, np.sqrt(np.square(np.delete(spread.reshape(20, 6), 7, axis=0)).mean(0))


def test_the_uncertainty_of_an_emit_granule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, path, spread = granule(tmp_path)
    monkeypatch.setattr("pyro_unmix.io.uncertainty._ROWS", 3)
    found = read_uncertainty(path)
    np.testing.assert_allclose(found, spread, rtol=1e-12)
    np.testing.assert_allclose(found["wavelength"], [381, 550, 860, 1380, 1650, 2200])
    np.testing.assert_allclose(found["fwhm"], 8.5)
    with pytest.raises(
        pu.FileError, match="is no EMIT_L2A_RFLUNCERT file, .*: take that of the granule; in"
    ):
        read_uncertainty(write_emit(tmp_path / "other.nc", cube() / 1e3, [*range(400, 1000, 100)]))
    xr.testing.assert_identical(read_uncertainty(image), found)  # that beside it
    with h5py.File(path, "r+") as file:
        file["reflectance_uncertainty"][...] = -9999
    with pytest.raises(pu.FileError, match="holds no positive number in any band"):
        read_uncertainty(path)
    path.unlink()
    with pytest.raises(
        pu.FileError, match=r"none beside it \(expected EMIT_L2A_RFLUNCERT_001.nc\)"
    ):
        read_uncertainty(image)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_uncertainty(tmp_path / "none.nc")


@pytest.fixture
def maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command draws nothing."""
    monkeypatch.setattr(cli.unmixing, "write_pictures", lambda *_: [])
    monkeypatch.setattr(cli.unmixing, "write_report", lambda _, path, **__: path.touch() or path)


def test_the_uncertainty_from_the_shell(
    tmp_path: Path, maps_alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    image, path, spread = granule(tmp_path)
    given = [
        "unmix",
        str(image),
        "--endmembers",
        "2",
        "--uncertainty",
        str(path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*given, "--method", "nnls"]) == 0
    found = pu.Unmixing.load(tmp_path / "out" / "saved").abundances
    cubes = pu.read_sequence(image)
    np.testing.assert_allclose(
        found, nnls(cubes, 2, uncertainty=spread, progress=False).abundances, atol=1e-9
    )
    assert cli.main([*given, "--method", "kalman-em"]) == 2
    assert "--uncertainty is for unmix, fcls, nnls, mesma" in capsys.readouterr().err
    given[given.index("--uncertainty") + 1] = "product"
    assert cli.main([*given, "--method", "nnls"]) == 0
    same = pu.Unmixing.load(tmp_path / "out" / "saved").abundances
    np.testing.assert_array_equal(same, found)
    assert cli.main([*given, "--method", "nnls", "--uncertainty", "none"]) == 0
    given[1] = str(image.rename(tmp_path / "crop.nc"))
    assert cli.main([*given, "--method", "nnls"]) == 2
    assert "crop.nc: --uncertainty product is for EMIT_L2A_RFL_*.nc" in capsys.readouterr().err


def test_unmix_weighs_by_the_product_that_has_an_uncertainty(
    tmp_path: Path, maps_alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    image, path, spread = granule(tmp_path)
    nm = pu.read_sequence(image)["wavelength"].values
    rows = [",".join(["class", *map(str, nm)])]
    rows += [f"{name}," + ",".join(f"{v:.3f}" for v in RNG.uniform(0.1, 0.6, 6)) for name in "aabb"]
    (tmp_path / "library.csv").write_text("\n".join(rows))
    library = pu.read_library(tmp_path / "library.csv")

    def unmixed(*more: str) -> tuple[np.ndarray, str]:
        given = ["unmix", str(image), "--endmembers", str(tmp_path / "library.csv")]
        assert cli.main([*given, "--out", str(tmp_path / "out"), *more]) == 0
        maps = pu.Unmixing.load(tmp_path / "out" / "saved").abundances
        return maps.values, capsys.readouterr().err

    expected = pu.unmix(
        pu.read_sequence(image), endmembers=library, uncertainty=spread, progress=False
    )
    weighed, said = unmixed()
    np.testing.assert_allclose(weighed, expected.abundances, atol=1e-6)
    assert "weighed by the uncertainty of the product; not with --uncertainty none" in said
    alike, said = unmixed("--uncertainty", "none")
    assert "weighed" not in said and np.abs(alike - weighed).max() > 0.01
    np.testing.assert_array_equal(unmixed("--uncertainty", str(path))[0], weighed)
    with h5py.File(path, "r+") as file:
        file["reflectance_uncertainty"][...] = -9999
    same, said = unmixed()
    np.testing.assert_array_equal(same, alike)
    assert "not weighed by the uncertainty of the product: " in said
