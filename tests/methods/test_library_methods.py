"""Methods of single library spectra against calculations that share no code with them."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from scipy.optimize import minimize
from scipy.optimize import nnls as scipy_nnls

import pyro_unmix as pu
from pyro_unmix.cli.results import summary_of
from pyro_unmix.data.cubes import DIMS
from pyro_unmix.methods import fcls, mesma, minimum_volume, monte_carlo_sma, nnls, sparse_regression
from pyro_unmix.methods.arguments import _thinned

BANDS = 16
RNG = np.random.default_rng(0)
CLASSES = ["soil"] * 3 + ["leaf"] * 2 + ["roof"]
BASES = RNG.uniform(0.1, 0.6, (BANDS, 3))
SPECTRA = np.stack([BASES[:, {"soil": 0, "leaf": 1, "roof": 2}[c]] for c in CLASSES], axis=1)
SPECTRA = SPECTRA * RNG.uniform(0.7, 1.3, SPECTRA.shape)
LIBRARY = xr.DataArray(
    SPECTRA, dims=("wavelength", "endmember"), coords={"label": ("endmember", CLASSES)}
)
FRACTIONS = np.zeros((2, 3, 4, 6))
for place in np.ndindex(2, 3, 4):
    chosen = [RNG.integers(3), 3 + RNG.integers(2), 5]
    FRACTIONS[place][chosen] = RNG.dirichlet(np.ones(3))
CUBES = FRACTIONS @ SPECTRA.T
NOISY = CUBES + RNG.normal(0, 0.02, CUBES.shape)
NOISY[1, 2, 3, 4] = np.nan
QUIET: dict[str, Any] = {"endmembers": LIBRARY, "progress": False}


def class_fractions(fractions: np.ndarray) -> np.ndarray:
    return np.stack(
        [fractions[..., :3].sum(-1), fractions[..., 3:5].sum(-1), fractions[..., 5]], -1
    )


def test_fcls_leaves_room_for_shade_and_brightness() -> None:
    light = RNG.uniform(0.3, 0.9, (2, 3, 4, 1))
    shares = RNG.dirichlet(np.ones(3), (2, 3, 4))
    cubes = light * shares @ BASES.T
    for settings in (
        {"shade": True},
        {"sum_to_one": False},
        {"sum_to_one": False, "normalize": True},
    ):
        result = fcls(cubes, endmembers=BASES, progress=False, **settings)
        np.testing.assert_allclose(result.abundances, shares, atol=1e-6)
        np.testing.assert_allclose(result.dataset["brightness"], light[..., 0], atol=1e-6)
        np.testing.assert_allclose(result.reconstruct(1), cubes[1], atol=1e-7)
        shown = (result.endmembers(1).values @ result.abundances.values[1, ..., None])[..., 0]
        np.testing.assert_allclose(shown, cubes[1], atol=1e-7)
    assert not np.allclose(
        fcls(cubes, endmembers=BASES, progress=False).abundances, shares, atol=0.05
    )


def test_normalised_spectra_are_compared_by_shape_and_converted_back() -> None:
    result = fcls(NOISY, endmembers=BASES, normalize=True, progress=False)
    norms = np.linalg.norm(BASES, axis=0)
    units = NOISY / np.linalg.norm(NOISY, axis=-1, keepdims=True)
    plain = fcls(np.nan_to_num(units, nan=np.nan), endmembers=BASES / norms, progress=False)
    areas = plain.abundances.values / norms
    expected = areas / areas.sum(-1, keepdims=True)
    np.testing.assert_allclose(result.abundances, expected, atol=1e-6)


def test_nnls_is_that_of_scipy_scaled_to_one(tmp_path: Path) -> None:
    result = nnls(NOISY, endmembers=BASES, progress=False)
    valid = result.valid.values
    expected = np.array([scipy_nnls(BASES, y)[0] for y in NOISY[valid]])
    total = expected.sum(-1)
    np.testing.assert_allclose(result.dataset["brightness"].values[valid], total, atol=1e-6)
    np.testing.assert_allclose(
        result.abundances.values[valid], expected / total[:, None], atol=1e-6
    )
    assert valid.sum() == 23 and result.method == "nnls"
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.reconstruct(0), result.reconstruct(0))
    scaled = nnls(3 * NOISY, endmembers=BASES, progress=False)
    np.testing.assert_allclose(scaled.abundances, result.abundances, atol=1e-6)


def every_model(
    y: np.ndarray, shade: bool, low: float, high: float
) -> list[tuple[float, np.ndarray]]:
    """Of each number of classes the best RMSE of all models, and its fractions."""
    members = [[0, 1, 2], [3, 4], [5]]
    best = []
    for size in (1, 2, 3):
        found = (np.inf, np.full(6, np.nan))
        for classes in combinations(range(3), size):
            for chosen in product(*(members[c] for c in classes)):
                e = SPECTRA[:, list(chosen)]
                if shade:
                    a = np.linalg.lstsq(e, y, rcond=None)[0]
                else:  # a weight that makes the sum certain
                    a = np.linalg.lstsq(
                        np.vstack([e, 1e5 * np.ones(size)]), np.append(y, 1e5), rcond=None
                    )[0]
                if a.min() < low or a.max() > high or (shade and not low <= 1 - a.sum() <= 0.8):
                    continue
                rmse = np.sqrt(np.mean((y - e @ a) ** 2))
                if rmse < found[0]:
                    found = rmse, np.zeros(6)
                    found[1][list(chosen)] = a
        best.append(found)
    return best


@pytest.mark.parametrize("shade", [True, False])
@pytest.mark.parametrize("gain", [0.0, 0.007])
@pytest.mark.parametrize("limits", [(-0.05, 1.05), (0.0, 1.0)])
def test_mesma_is_the_best_of_all_models(
    shade: bool, gain: float, limits: tuple[float, float]
) -> None:
    cubes = 0.8 * NOISY if shade else NOISY
    low, high = limits
    settings = {"gain": gain, "shade": shade, "min_fraction": low, "max_fraction": high}
    result = mesma(cubes, **settings, **QUIET)
    for place in np.ndindex(2, 3, 4):
        if place == (1, 2, 3):
            assert not result.valid[place]
            continue
        rmse, fractions = np.inf, np.full(6, np.nan)
        for own, found in every_model(cubes[place], shade, low, high):
            if np.isfinite(own) and (rmse - own > gain or not np.isfinite(rmse)):
                rmse, fractions = own, found
        got = result.dataset["library_fractions"].values[place]
        np.testing.assert_allclose(got, fractions, atol=1e-6)
        np.testing.assert_allclose(result.rmse.values[place], rmse, atol=1e-7)
        shares = class_fractions(fractions)
        np.testing.assert_allclose(
            result.abundances.values[place], shares / shares.sum(), atol=1e-6
        )
    assert result.abundances["endmember"].values.tolist() == ["soil", "leaf", "roof"]


def test_mesma_finds_the_spectra_that_were_mixed_and_says_what_does_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = mesma(CUBES, gain=0, **QUIET)
    np.testing.assert_allclose(result.dataset["library_fractions"], FRACTIONS, atol=1e-6)
    np.testing.assert_allclose(result.reconstruct(1), CUBES[1], atol=1e-8)
    shown = (result.endmembers(0).values @ result.abundances.values[0, ..., None])[..., 0]
    np.testing.assert_allclose(shown, CUBES[0], atol=1e-8)
    odd = CUBES.copy()
    odd[0, 0, 0] = RNG.uniform(0, 1, BANDS)
    odd[1, 2, 3, 4] = np.nan
    assert "fit no model" not in caplog.text
    missed = mesma(odd, max_rmse=0.025, **QUIET)
    assert "1 of 23 observed pixels fit no model: their abundances are NaN; give" in caplog.text
    assert "or a larger max_rmse" in caplog.text
    # observed, though nothing fits
    assert missed.valid[0, 0, 0] and not missed.valid[1, 2, 3] and missed.valid.sum() == 23
    assert np.isnan(missed.abundances[0, 0, 0]).all() and missed.abundances.notnull().sum() == 66
    assert np.isnan(missed.residual(0).values[0, 0]).all()
    assert missed.rmse.notnull().sum() == 22
    summary = summary_of(missed)
    assert summary["valid_share"] == 23 / 24
    assert sum(summary["mean_abundances"].values()) == pytest.approx(1)
    with xr.open_dataset(missed.to_netcdf(tmp_path / "missed.nc")) as written:
        found = written["abundances"].transpose(*missed.abundances.dims)
        np.testing.assert_allclose(found, missed.abundances, atol=1e-6)
        assert written["valid"].sum() == 23
    images = missed.to_geotiff(tmp_path / "maps")
    with rasterio.open(images[0]) as image:
        assert np.isnan(image.read()[:3, 0, 0]).all()
    loaded = pu.Unmixing.load(result.save(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.endmembers(1), result.endmembers(1))


@pytest.mark.parametrize("method", [mesma, monte_carlo_sma, sparse_regression])
def test_a_spectrum_without_light_is_refused_by_name(method: Any) -> None:
    dark = LIBRARY.copy(deep=True)
    dark.values[:, 1] = 0
    dark = dark.assign_coords(endmember=[f"s{i}" for i in range(6)])
    with pytest.raises(ValueError, match=r"1 of 6 \(s1 of class soil\): remove them; shade=True"):
        method(CUBES, endmembers=dark, progress=False)


def test_mesma_draws_models_where_there_are_many() -> None:
    few = mesma(NOISY, max_models=2, **QUIET)
    assert few.rmse.mean() > mesma(NOISY, **QUIET).rmse.mean()
    same = mesma(NOISY, max_models=2, **QUIET)
    np.testing.assert_array_equal(few.abundances, same.abundances)
    pairs = mesma(NOISY, num_classes=(2,), **QUIET).dataset["library_fractions"].values
    assert {int(n) for n in (pairs != 0).sum(-1)[np.isfinite(pairs).all(-1)]} == {2}


def test_draws_of_members_have_the_mean_and_spread_of_all_their_combinations() -> None:
    result = monte_carlo_sma(NOISY, num_draws=4000, **QUIET)
    models = list(product([0, 1, 2], [3, 4], [5]))
    alone = [
        fcls(NOISY, endmembers=SPECTRA[:, list(chosen)], progress=False).abundances.values
        for chosen in models
    ]
    mean, std = np.mean(alone, axis=0), np.std(alone, axis=0)
    # six standard errors of the mean of the draws; of a std at most as much
    allowed = 6 * np.nanmax(std) / np.sqrt(4000)
    np.testing.assert_allclose(result.abundances, mean, atol=allowed)
    np.testing.assert_allclose(result.abundances_std, std, atol=allowed)
    every = monte_carlo_sma(NOISY, num_draws=3, num_members=3, **QUIET)
    whole = fcls(NOISY, endmembers=SPECTRA, progress=False).abundances.values
    np.testing.assert_allclose(every.abundances, class_fractions(whole), atol=1e-6)
    np.testing.assert_allclose(every.abundances_std.values[0], 0, atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 1e-3, 0.05])
def test_sparse_regression_is_the_minimum(sparsity: float) -> None:
    result = sparse_regression(NOISY, sparsity=sparsity, **QUIET)
    gram = SPECTRA.T @ SPECTRA
    root = np.linalg.cholesky(gram).T
    valid = result.valid.values
    # 1/2 |y - E x|^2 + lambda 1'x is 1/2 |q - R x|^2 with R'R = E'E and R'q = E'y - lambda 1
    targets = np.linalg.solve(root.T, (NOISY[valid] @ SPECTRA - sparsity).T).T
    expected = np.array([scipy_nnls(root, q)[0] for q in targets])
    found = result.dataset["library_fractions"].values[valid]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (expected == 0).any()
    shares = class_fractions(expected)
    np.testing.assert_allclose(
        result.abundances.values[valid], shares / shares.sum(-1, keepdims=True), atol=1e-5
    )


def test_a_library_may_have_more_spectra_than_bands() -> None:
    many = xr.concat([LIBRARY] * 4, dim="endmember") * RNG.uniform(0.9, 1.1, 24)
    result = sparse_regression(CUBES, endmembers=many, progress=False)
    assert result.dataset.sizes["spectrum"] == 24
    assert result.rmse.max() < 0.02


def test_the_smallest_simplex_is_found_where_no_pixel_is_pure() -> None:
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(3), 3000)
    shares = shares[shares.max(1) < 0.8][:900].reshape(1, 30, 30, 3)
    result = minimum_volume(shares @ BASES.T, 3, outside=0.02, progress=False)
    order = pu.match_endmembers(result.reference_endmembers, BASES)
    # an optimum within the rounding of the hinge, which costs some hundredths
    np.testing.assert_allclose(result.abundances.values[..., order], shares, atol=0.06)
    pure = fcls(shares @ BASES.T, 3, progress=False)
    order = pu.match_endmembers(pure.reference_endmembers, BASES)
    assert np.abs(pure.abundances.values[..., order] - shares).max() > 0.15


def test_the_smallest_simplex_is_that_of_another_optimiser() -> None:
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.ones(3), 1500)
    shares = shares[shares.max(1) < 0.8][:600]
    spectra = shares @ BASES.T + rng.normal(0, 0.002, (600, BANDS))
    outside = 0.1
    found = minimum_volume(
        spectra.reshape(1, 20, 30, BANDS), 3, outside=outside, progress=False
    ).reference_endmembers.values
    mean = spectra.mean(0)
    axes = np.linalg.svd(spectra - mean, full_matrices=False)[2][:2].T
    ones = np.ones((1, 3))

    def objective(corners: np.ndarray) -> float:
        """That of the docstring, its hinge not rounded."""
        square = np.vstack([corners.reshape(2, 3), ones])
        inside = np.linalg.solve(square, np.vstack([((spectra - mean) @ axes).T, np.ones(600)]))
        volume = np.log(np.abs(np.linalg.det(square)))
        return volume + 2 / outside * np.maximum(-inside, 0).sum(0).mean()

    start = ((BASES.T - mean) @ axes).T.ravel()
    settings = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-7, "fatol": 1e-9, "adaptive": True}
    best = minimize(objective, start, method="Nelder-Mead", options=settings)
    corners = (mean[:, None] + axes @ best.x.reshape(2, 3)).clip(1e-3, None)
    order = pu.match_endmembers(found, corners)
    contrast = np.linalg.norm(corners[:, 0] - corners[:, 1])
    assert np.linalg.norm(found[:, order] - corners, axis=0).max() < 0.05 * contrast
    assert objective(((found.T - mean) @ axes).T.ravel()) < best.fun + 0.02


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        (
            mesma,
            {"num_classes": (4,)},
            r"num_classes must be numbers of classes from 1 to 3, got \(4,\)",
        ),
        (mesma, {"min_fraction": 0.1}, r"min_fraction must lie in \(-inf, 0\], got 0.1"),
        (mesma, {"max_fraction": 0.9}, r"max_fraction must lie in \[1, inf\), got 0.9"),
        (mesma, {"max_shade": -1}, r"max_shade must lie in \[0, inf\), got -1"),
        (mesma, {"max_shade": np.nan}, r"max_shade must lie in .* got nan"),
        (fcls, {"shade": True, "sum_to_one": False}, "shade=True asks for .* pass one of them"),
        (monte_carlo_sma, {"shade": True, "sum_to_one": False}, "sum_to_one=False for a free sum"),
        (mesma, {"max_rmse": 0.0}, "max_rmse must lie in"),
        (mesma, {"num_endmembers": 4}, "num_endmembers is 4, but endmembers are the spectra of 3"),
        (monte_carlo_sma, {"num_draws": 0}, "num_draws must be at least 1"),
        (sparse_regression, {"sparsity": -1.0}, "sparsity must lie in"),
        (minimum_volume, {"outside": 0.0}, "outside must lie in"),
    ],
)
def test_settings_that_make_no_sense(method: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        method(NOISY, **given, **QUIET)


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        (mesma, {"max_shade": "x"}, "max_shade must be one real number, got 'x'"),
        (mesma, {"min_fraction": "a"}, "min_fraction must be one real number, got 'a'"),
        (mesma, {"shade": "no"}, "shade must be True or False, got 'no'"),
        (fcls, {"shade": "no"}, "shade must be True or False, got 'no'"),
        (fcls, {"sum_to_one": None}, "sum_to_one must be True or False, got None"),
        (fcls, {"non_negative": 1}, "non_negative must be True or False, got 1"),
        (fcls, {"normalize": "x"}, "normalize must be True or False, got 'x'"),
        (monte_carlo_sma, {"normalize": "x"}, "normalize must be True or False, got 'x'"),
        (monte_carlo_sma, {"sum_to_one": None}, "sum_to_one must be True or False, got None"),
        (monte_carlo_sma, {"shade": 0}, "shade must be True or False, got 0"),
    ],
)
def test_settings_of_another_type(method: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        method(NOISY, **given, **QUIET)


def test_fractions_with_shade_that_may_be_negative_sum_to_one_at_most() -> None:
    settings: dict[str, Any] = {"endmembers": BASES, "non_negative": False, "progress": False}
    cubes = NOISY * np.linspace(0.4, 1.3, 4)[:, None]
    shaded = fcls(cubes, shade=True, **settings)
    free = fcls(cubes, sum_to_one=False, **settings)
    whole = fcls(cubes, **settings)
    bright = (free.dataset["brightness"] > 1).values
    assert 0 < bright.sum() < 23
    np.testing.assert_allclose(shaded.dataset["brightness"].values[bright], 1)
    np.testing.assert_allclose(shaded.abundances.values[bright], whole.abundances.values[bright])
    np.testing.assert_array_equal(
        shaded.abundances.values[~bright], free.abundances.values[~bright]
    )


def test_draws_without_any_fraction_do_not_count() -> None:
    # Of the first leaf's own colour the others have nothing.
    spectra = 0.01 + 0.5 * np.eye(4)
    spectra[:, 1:] *= [[-1.0], [1.0], [1.0], [1.0]]
    labels = ("endmember", ["leaf", "leaf", "soil", "soil"])
    library = xr.DataArray(spectra, dims=("wavelength", "endmember"), coords={"label": labels})
    cubes = np.array([0.5, 0.0, 0.0, 0.0])[None, None]
    result = monte_carlo_sma(
        cubes, endmembers=library, sum_to_one=False, num_draws=20, progress=False
    )
    np.testing.assert_allclose(result.abundances.values.ravel(), [1, 0], atol=1e-12)
    np.testing.assert_allclose(result.abundances_std.values.ravel(), 0, atol=1e-6)
    np.testing.assert_allclose(result.reconstruct()[0, 0, 0], 0.5, atol=0.01)
    nothing = monte_carlo_sma(
        cubes, endmembers=library[:, 1:], sum_to_one=False, num_draws=3, progress=False
    )
    assert nothing.valid.all() and nothing.abundances.isnull().all()


def test_a_simplex_needs_more_spectra_than_corners() -> None:
    with pytest.raises(
        ValueError, match="of 3 endmembers needs at least 4 observed spectra, got 1"
    ):
        minimum_volume(CUBES[:1, :1, :1], endmembers=BASES, progress=False)


@pytest.mark.parametrize("method", [nnls, monte_carlo_sma, sparse_regression])
def test_pixels_that_hold_nothing_of_the_spectra_are_observed(
    method: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cubes = CUBES.copy()
    cubes[0, 0, 0] *= -0.01
    cubes[0, 0, 1, 0] = np.nan
    more: dict[str, Any] = {"sum_to_one": False} if method is monte_carlo_sma else {}
    result = method(cubes, **more, **QUIET)
    assert "1 of 23 observed pixels fit no model" in caplog.text
    assert result.valid.sum() == 23 and result.valid[0, 0, 0]
    assert np.isnan(result.abundances[0, 0, 0]).all() and result.rmse.notnull().sum() == 22


def test_spectra_of_a_long_row_are_thinned_too() -> None:
    for shape in ((1, 1, 400_000), (1, 400_000, 1), (4, 300, 300), (400, 30, 30), (2, 10, 10)):
        cubes = xr.DataArray(np.broadcast_to(0.2, (*shape, 1)), dims=DIMS)
        thin = _thinned(cubes)
        count = thin.size
        assert min(10_000, cubes.size) <= count <= 40_000
        assert thin.sizes["y"] >= min(10, shape[1])


def test_mesma_has_no_model_of_pixels_that_are_nearly_all_shade() -> None:
    dark = 0.05 * CUBES
    settings: dict[str, Any] = {**QUIET, "shade": True, "gain": 0.0}
    assert bool(mesma(dark, **settings).abundances.isnull().all())
    assert bool(mesma(dark, **settings, max_shade=1.0).abundances.notnull().all())
