"""The classical methods against calculations that share no code with them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_unmix import Unmixing, simulate, unmix
from pyro_unmix.methods import fcls, hbun, kalman_em, online_unmixing
from pyro_unmix.metrics import score
from pyro_unmix.simulate import Scene
from pyro_unmix.start import vca

BANDS, MATERIALS = 12, 3


def exhaustive_fcls(spectrum: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    """The best of the sum-to-one least-squares solutions of every support that are feasible."""
    size = endmembers.shape[1]
    best, smallest = np.full(size, np.nan), np.inf
    for count in range(1, size + 1):
        for support in map(list, combinations(range(size), count)):
            part = endmembers[:, support]
            # Lagrange: [G 1; 1' 0] [a; lambda] = [M'y; 1]
            system = np.block([[part.T @ part, np.ones((count, 1))], [np.ones(count), 0]])
            found = np.linalg.solve(system, [*(part.T @ spectrum), 1])[:count]
            cost = np.sum((spectrum - part @ found) ** 2)
            if (found >= 0).all() and cost < smallest:
                best, smallest = np.zeros(size), cost
                best[support] = found
    return best


def noisy_cubes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cubes (3, 4, 5, L), some of their pixels outside the simplex, and the endmembers (L, P)."""
    rng = np.random.default_rng(seed)
    endmembers = rng.uniform(0.05, 0.6, size=(BANDS, MATERIALS))
    weights = rng.dirichlet(np.full(MATERIALS, 0.5), size=(3, 4, 5))
    cubes = weights @ endmembers.T + rng.normal(0, 0.1, size=(3, 4, 5, BANDS))
    return cubes, endmembers


def test_fcls_is_the_constrained_minimum() -> None:
    cubes, endmembers = noisy_cubes()
    result = fcls(cubes, endmembers=endmembers, progress=False)
    expected = np.apply_along_axis(exhaustive_fcls, -1, cubes, endmembers)
    assert (expected == 0).any() and (expected > 0).all(-1).any()
    # the solver's ridge is 1e-9 of the mean eigenvalue; the condition number here is below 100
    np.testing.assert_allclose(result.abundances, expected, atol=1e-6)
    assert result.abundances.dims == ("time", "y", "x", "endmember")
    assert result.method == "fcls"


def test_the_same_endmembers_serve_every_pixel_and_date() -> None:
    cubes, endmembers = noisy_cubes()
    names = ["soil", "water", "tree"]
    given = xr.DataArray(
        endmembers.T, dims=("endmember", "wavelength"), coords={"endmember": names}
    )
    result = fcls(cubes, endmembers=given, progress=False)
    assert result.abundances["endmember"].values.tolist() == names
    np.testing.assert_array_equal(result.reference_endmembers, endmembers)
    for time in range(3):
        spectra = result.endmembers(time)
        assert spectra.dims == ("y", "x", "wavelength", "endmember")
        np.testing.assert_array_equal(spectra, np.broadcast_to(endmembers, (4, 5, BANDS, 3)))
        expected = result.abundances.values[time] @ endmembers.T
        np.testing.assert_allclose(result.reconstruct(time), expected, rtol=1e-12)


def pure_scene(
    num_dates: int = 3, factors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noiseless mixtures with one pure pixel per material and date; spectra differ by date.

    Returns cubes (T, 6, 6, L), spectra (T, L, P) and abundances (T, 6, 6, P).
    """
    rng = np.random.default_rng(3)
    shapes = simulate.library(np.linspace(400, 2500, BANDS)).values[:, :MATERIALS]
    if factors is None:
        factors = rng.uniform(0.8, 1.2, (num_dates, 1, MATERIALS))
    spectra = shapes * factors
    abundances = rng.dirichlet(np.ones(MATERIALS), size=(num_dates, 6, 6))
    for time in range(num_dates):
        abundances[time].reshape(-1, MATERIALS)[rng.permutation(36)[:MATERIALS]] = np.eye(MATERIALS)
    return np.einsum("tyxp,tlp->tyxl", abundances, spectra), spectra, abundances


def test_vca_per_date_finds_pure_pixels_and_keeps_the_materials_apart() -> None:
    cubes, spectra, abundances = pure_scene()
    result = fcls(cubes, MATERIALS, progress=False)
    # one permutation for all dates, found from the first date alone
    first = result.dataset["date_endmembers"].values[0]
    distance = np.abs(first[:, None, :] - spectra[0][:, :, None]).max(0)
    order = distance.argmin(1)
    assert sorted(order) == [0, 1, 2]
    for time in range(3):
        # the pure pixels lie in the data as they are, so that VCA returns them exactly
        found = result.endmembers(time).values[2, 3][:, order]
        np.testing.assert_allclose(found, spectra[time], rtol=1e-12)
        np.testing.assert_allclose(result.reconstruct(time), cubes[time], atol=1e-6)
    np.testing.assert_allclose(result.abundances.values[..., order], abundances, atol=1e-6)
    mean = result.reference_endmembers.values[:, order]
    np.testing.assert_allclose(mean, spectra.mean(0), rtol=1e-12)


def test_materials_keep_their_order_where_vca_finds_them_in_another() -> None:
    """The spectra bend from date to date, so that another one is found first."""
    bends = np.sin(np.linspace(0, 3, BANDS)[:, None] + 2.1 * np.arange(MATERIALS))
    factors = 1 + 0.3 * np.stack([np.roll(bends, time, axis=1) for time in range(3)])
    cubes, spectra, abundances = pure_scene(factors=factors)
    alone = [vca(cubes[time].reshape(-1, BANDS), MATERIALS, seed=0) for time in range(3)]
    orders = [
        [int(np.abs(found - spectrum[:, None]).max(0).argmin()) for spectrum in spectra[time].T]
        for time, found in enumerate(alone)
    ]
    assert len({tuple(order) for order in orders}) > 1  # else nothing is tried
    result = fcls(cubes, MATERIALS, progress=False)
    first = orders[0]  # where each material stands at the first date, and at all dates
    for time in range(3):
        found = result.endmembers(time).values[0, 0][:, first]
        np.testing.assert_allclose(found, spectra[time], rtol=1e-12)
    np.testing.assert_allclose(result.abundances.values[..., first], abundances, atol=1e-6)


def test_negative_positions_count_from_the_last_date() -> None:
    result = fcls(pure_scene()[0], MATERIALS, progress=False)
    assert result.endmembers(-1).equals(result.endmembers(2))
    assert result.reconstruct(-1).equals(result.reconstruct(2))
    assert not np.allclose(result.endmembers(0), result.endmembers(2))


@pytest.mark.parametrize("as_number", [True, False])
def test_missing_pixel_dates_stay_missing(as_number: bool) -> None:
    cubes, spectra, _ = pure_scene()
    cubes[1, 2, 3, 4] = np.nan
    untouched = cubes.copy()
    result = fcls(
        cubes,
        **({"num_endmembers": MATERIALS} if as_number else {"endmembers": spectra[0]}),
        progress=False,
    )
    expected = np.ones((3, 6, 6), dtype=bool)
    expected[1, 2, 3] = False
    np.testing.assert_array_equal(result.valid, expected)
    np.testing.assert_array_equal(result.abundances.notnull().all("endmember"), expected)
    np.testing.assert_array_equal(result.abundances.isnull().all("endmember"), ~expected)
    assert np.isnan(result.reconstruct(1).values[2, 3]).all()
    assert np.isfinite(result.endmembers(1)).all()
    np.testing.assert_array_equal(cubes, untouched)


def test_a_date_without_enough_pixels_has_no_vca_endmembers() -> None:
    cubes, _, _ = pure_scene()
    cubes[0] = np.nan  # the order of the materials then comes from the second date
    cubes[2].reshape(36, BANDS)[2:] = np.nan
    result = fcls(cubes, MATERIALS, progress=False)
    assert result.valid.any(("y", "x")).values.tolist() == [False, True, False]
    assert np.isnan(result.endmembers(0)).all() and np.isnan(result.endmembers(2)).all()
    reference = result.endmembers(1).values[0, 0]
    np.testing.assert_array_equal(result.reference_endmembers, reference)


def test_one_image_and_dates_as_coordinate() -> None:
    cubes, _, _ = pure_scene(1)
    wavelength = np.linspace(400.0, 2400.0, BANDS)
    labelled = xr.DataArray(
        cubes[0], dims=("y", "x", "wavelength"), coords={"wavelength": wavelength}
    )
    result = fcls(labelled, MATERIALS, progress=False)
    assert result.abundances.sizes["time"] == 1
    np.testing.assert_array_equal(result.endmembers()["wavelength"], wavelength)


def test_it_has_no_posterior_and_says_which_methods_do() -> None:
    result = fcls(noisy_cubes()[0], endmembers=noisy_cubes()[1], progress=False)
    assert np.isnan(result.abundances_std).all()
    assert result.change.isnull().all()
    for call in (result.sample, lambda: result.quantile(0.5), lambda: result.predict(0)):
        with pytest.raises(ValueError, match=r"fcls has none.*unmix\(\)"):
            call()


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    result = fcls(pure_scene()[0], MATERIALS, progress=False)
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.method == "fcls"
    assert loaded.endmembers(1).equals(result.endmembers(1))
    assert loaded.abundances.equals(result.abundances)


def test_the_seed_decides_and_the_global_generators_are_left_alone() -> None:
    cubes, _ = noisy_cubes()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    results = [fcls(cubes, MATERIALS, seed=seed, progress=False) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert results[0].dataset.identical(results[1].dataset)
    assert any(not results[0].abundances.equals(other.abundances) for other in results[2:])


def test_the_posterior_beats_it_from_the_same_endmembers() -> None:
    scene: Scene = simulate.scaled_scene(num_dates=3, height=20, width=20)
    result = unmix(scene.cubes, 3, num_steps=0, progress=False)
    start = fcls(scene.cubes, endmembers=result.reference_endmembers, progress=False)
    assert score(result, scene)["NRMSE_A"] < score(start, scene)["NRMSE_A"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"num_endmembers": 1}, "num_endmembers must be at least 2"),
        (
            {"num_endmembers": 13},
            "num_endmembers = 13 needs at least as many valid spectra and bands",
        ),
        (
            {"endmembers": np.ones((5, 2))},
            r"endmembers must have one row per band, shape \(12, P\), got \(5, 2\)",
        ),
        ({"endmembers": [0.1, 0.2]}, "endmembers must have 2 dimensions"),
    ],
)
def test_endmembers_that_do_not_fit(given: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fcls(noisy_cubes()[0], progress=False, **given)


METHODS = [fcls, online_unmixing, kalman_em, hbun]


@pytest.mark.parametrize("method", METHODS)
def test_zero_spectra_are_fill_and_no_endmember(method: Callable[..., Unmixing]) -> None:
    cubes, _ = noisy_cubes()
    cubes[1, 2, 3] = cubes[0, 0, 0] = 0
    missing = cubes.copy()
    missing[1, 2, 3] = missing[0, 0, 0] = np.nan
    settings: dict[str, Any] = {"num_steps": 1} if method is hbun else {}
    filled, masked = (method(x, 3, progress=False, **settings) for x in (cubes, missing))
    assert filled.dataset.identical(masked.dataset)


def test_too_few_pixels_for_vca() -> None:
    cubes, endmembers = noisy_cubes()
    cubes[:, 1:] = np.nan
    cubes[:, 0, 2:] = np.nan
    with pytest.raises(ValueError, match="needs a date with 3 observed pixels, got at most 2"):
        fcls(cubes, MATERIALS, progress=False)
    assert fcls(cubes, endmembers=endmembers, progress=False).valid.sum() == 6
