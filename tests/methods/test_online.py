"""Online unmixing against a slow transcription, scipy's solvers and the published scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _data
import numpy as np
import pytest
import xarray as xr
from online_cases import H, L, P, T, W, dykstra
from scipy.optimize import minimize

from pyro_unmix import Unmixing
from pyro_unmix.methods import fcls, online_unmixing
from pyro_unmix.metrics import score


def small_scene(seed: int = 0, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cubes (T, H, W, L), endmembers M (L, P), and those of each date (T, L, P)."""
    rng = np.random.default_rng(seed)
    endmembers = rng.uniform(0.1, 0.8, size=(L, P))
    by_date = endmembers + rng.normal(0, 0.04, size=(T, L, P))
    weights = rng.dirichlet(np.full(P, 0.5), size=(T, H, W))
    cubes = np.einsum("tyxp,tlp->tyxl", weights, by_date)
    return cubes + rng.normal(0, noise, size=cubes.shape), endmembers, by_date


def project_simplex_by_bisection(values: np.ndarray) -> np.ndarray:
    low, high = values.min() - 1, values.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(values - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(values - low, 0)


def transcription(
    cubes: np.ndarray, endmembers: np.ndarray, seed: int, epochs: int, steps: int, **weights: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The equations as they stand, pixel by pixel: M, A (T, N, P) and dM (T, L, P)."""
    rho, sigma, kappa = 0.9, weights["sigma"], weights["kappa"]
    alpha, beta, gamma = weights["alpha"], weights["beta"], weights["gamma"]
    pixels = cubes.reshape(len(cubes), -1, L)
    seen = ~np.isnan(pixels).any(axis=-1)
    M = endmembers.copy()
    A = fcls(cubes, endmembers=endmembers, progress=False).abundances.values.reshape(
        len(cubes), -1, P
    )
    dM = np.zeros((len(cubes), L, P))
    C, D, E, visits = np.zeros((P, P)), np.zeros((L, P)), np.zeros((L, P)), 0
    pairs = [(p, q) for q in range(P) for p in range(q)]
    G = np.array([np.eye(P)[p] - np.eye(P)[q] for p, q in pairs]).T
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for t in rng.permutation(len(cubes)):
            visits += 1
            for _ in range(steps):
                spectra = M + dM[t]
                lipschitz = np.linalg.norm(spectra.T @ spectra) + alpha * (t > 0)
                for n in np.flatnonzero(seen[t]):
                    slope = spectra.T @ (spectra @ A[t, n] - pixels[t, n])
                    if t > 0 and seen[t - 1, n]:
                        slope = slope + alpha * (A[t, n] - A[t - 1, n])
                    A[t, n] = project_simplex_by_bisection(A[t, n] - slope / (1.1 * lipschitz))
                At, Yt = A[t, seen[t]].T, pixels[t, seen[t]].T
                slope = ((M + dM[t]) @ At - Yt) @ At.T
                lipschitz = np.linalg.norm(At @ At.T)
                if t > 0:
                    slope = slope + gamma * (dM[t] - dM[t - 1])
                    lipschitz += gamma
                target = dM[t] - slope / (1.1 * lipschitz)
                dM[t] = dykstra(target, sigma, -E, visits * kappa, 2000)
            C = rho * C + At @ At.T
            D = rho * D + (dM[t] @ At - Yt) @ At.T
            E = rho * E + dM[t]
            s = (1 - rho**visits) / (1 - rho)
            for _ in range(steps):
                slope = (M @ C + D) / s + beta * M @ G @ G.T
                M = np.maximum(M - slope / (1.1 * np.linalg.norm(C / s + beta * G @ G.T)), 0)
    return M, A, dM


@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_it_is_the_programme_of_the_publication(smooth: float) -> None:
    cubes, endmembers, _ = small_scene()
    endmembers[0, 0] = 0.001  # ends on the bound M >= 0
    cubes[..., 0] -= 0.6
    if smooth:
        cubes[1, 2, 3, 4] = np.nan
        cubes[0, 1, 1] = np.nan
    # Dykstra's iteration is slow where both balls hold at a sharp angle: these do not
    weights = dict(sigma=0.15, kappa=0.1, alpha=smooth, beta=0.5, gamma=smooth)
    M, A, dM = transcription(cubes, endmembers, 4, 2, 6, **weights)
    result = online_unmixing(
        cubes,
        endmembers=endmembers,
        seed=4,
        progress=False,
        num_epochs=2,
        num_inner_steps=6,
        num_endmember_steps=6,
        forgetting=0.9,
        max_variability=0.15,
        max_mean_variability=0.1,
        distance_weight=0.5,
        abundance_weight=smooth,
        variability_weight=smooth,
    )
    assert (M == 0).any() and np.abs(M - endmembers).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(dM, axis=(1, 2)).max(), 0.15, rtol=1e-6)
    np.testing.assert_allclose(result.reference_endmembers, M, atol=1e-7)
    found = result.abundances.values.reshape(T, -1, P)
    np.testing.assert_allclose(found, A, atol=1e-6)
    for time in range(T):
        np.testing.assert_allclose(result.endmembers(time)[1, 2], M + dM[time], atol=1e-6)


def test_endmember_steps_find_the_minimum() -> None:
    cubes, endmembers, _ = small_scene()
    cubes[..., 0] -= 0.6
    beta = 0.3
    settings = dict(progress=False, num_epochs=1, distance_weight=beta, num_endmember_steps=20_000)
    result = online_unmixing(cubes[:1], endmembers=endmembers, **settings)
    reference = result.reference_endmembers.values
    variability = result.endmembers(0).values[0, 0] - reference
    abundances, image = result.abundances.values[0].reshape(-1, P), cubes[0].reshape(-1, L)

    def objective(flat: np.ndarray) -> float:
        matrix = flat.reshape(L, P)
        misfit = np.sum((image - abundances @ (matrix + variability).T) ** 2)
        apart = sum(np.sum((matrix[:, p] - matrix[:, q]) ** 2) for q in range(P) for p in range(q))
        return 0.5 * float(misfit + beta * apart)

    bounds = [(0, None)] * (L * P)
    solved = minimize(objective, endmembers.ravel(), bounds=bounds, method="L-BFGS-B", tol=1e-13)
    assert (reference == 0).any()
    assert objective(reference.ravel()) <= solved.fun + 1e-9
    np.testing.assert_allclose(reference.ravel(), solved.x, atol=1e-4)


def test_an_exact_mixture_is_a_fixed_point() -> None:
    rng = np.random.default_rng(3)
    endmembers = rng.uniform(0.1, 0.8, size=(L, P))
    weights = rng.dirichlet(np.ones(P), size=(T, H, W))
    settings = dict(progress=False, num_epochs=3, distance_weight=0.0)
    result = online_unmixing(weights @ endmembers.T, endmembers=endmembers, **settings)
    np.testing.assert_allclose(result.reference_endmembers, endmembers, atol=1e-6)
    np.testing.assert_allclose(result.abundances, weights, atol=1e-6)
    for time in range(T):
        np.testing.assert_allclose(result.endmembers(time)[0, 0], endmembers, atol=1e-6)


def test_the_bounds_hold_and_without_variability_all_dates_are_alike() -> None:
    cubes, endmembers, _ = small_scene(noise=0.1)
    settings = dict(progress=False, num_epochs=4)
    free = online_unmixing(cubes, endmembers=endmembers, **settings)
    tight = online_unmixing(cubes, endmembers=endmembers, max_variability=0.05, **settings)
    none = online_unmixing(cubes, endmembers=endmembers, max_variability=0.0, **settings)
    balanced = online_unmixing(cubes, endmembers=endmembers, max_mean_variability=0.0, **settings)
    for time in range(T):
        change = [
            np.linalg.norm(r.endmembers(time)[0, 0] - r.reference_endmembers)
            for r in (free, tight, none, balanced)
        ]
        assert change[0] > 0.06 and change[1] == pytest.approx(0.05, abs=1e-9)
        assert change[2] == change[3] == 0  # their mean can only be 0 from the first visit on
        assert none.endmembers(time).equals(none.endmembers(0))


def test_it_follows_endmembers_that_change_with_the_date() -> None:
    cubes, endmembers, by_date = small_scene(noise=0.002)
    result = online_unmixing(cubes, endmembers=endmembers, progress=False, num_epochs=40)
    start = fcls(cubes, endmembers=endmembers, progress=False)

    def errors(method: Any) -> tuple[float, float]:
        spectra = np.stack([method.endmembers(t).values[0, 0] for t in range(T)])
        fit = np.stack([method.reconstruct(t).values for t in range(T)])
        return float(np.sum((spectra - by_date) ** 2)), float(np.sum((fit - cubes) ** 2))

    assert errors(result)[0] < 0.7 * errors(start)[0]
    assert errors(result)[1] < 0.05 * errors(start)[1]
    fitted = result.abundances.values[1] @ result.endmembers(1).values[0, 0].T
    np.testing.assert_allclose(result.reconstruct(1), fitted, rtol=1e-12)
    assert result.method == "online_unmixing"


def test_missing_pixel_dates_are_left_out_and_stay_missing() -> None:
    cubes, endmembers, _ = small_scene()
    settings = dict(progress=False, num_epochs=3)
    part = online_unmixing(cubes[:, 1:], endmembers=endmembers, **settings)
    cubes[:, 0] = np.nan  # as good as not there
    untouched = cubes.copy()
    result = online_unmixing(cubes, endmembers=endmembers, **settings)
    np.testing.assert_array_equal(cubes, untouched)
    np.testing.assert_array_equal(result.valid, ~np.isnan(cubes).any(axis=-1))
    assert result.abundances[:, 0].isnull().all()
    assert result.reconstruct(1)[0].isnull().all()
    np.testing.assert_allclose(result.abundances[:, 1:], part.abundances, atol=1e-10)
    np.testing.assert_allclose(result.endmembers(2)[1, 1], part.endmembers(2)[1, 1], atol=1e-10)


def test_a_missing_date_keeps_the_endmembers_of_the_others() -> None:
    cubes, endmembers, _ = small_scene()
    settings = dict(progress=False, num_epochs=3, abundance_weight=0.1, variability_weight=0.1)
    part = online_unmixing(cubes[[0, 2]], endmembers=endmembers, **settings)
    cubes[1] = np.nan
    result = online_unmixing(cubes, endmembers=endmembers, **settings)
    assert result.abundances[1].isnull().all()
    np.testing.assert_array_equal(result.endmembers(1)[0, 0], result.reference_endmembers)
    np.testing.assert_array_equal(result.abundances[[0, 2]], part.abundances)
    np.testing.assert_array_equal(result.endmembers(2), part.endmembers(1))


def test_neither_the_order_of_the_pixels_nor_the_precision_of_the_cubes_matters() -> None:
    cubes, endmembers, _ = small_scene()
    cubes[1, 0, 0] = np.nan
    order = np.random.default_rng(0).permutation(H * W)
    shuffled = cubes.reshape(T, -1, L)[:, order].reshape(cubes.shape)
    one, other = (
        online_unmixing(x, endmembers=endmembers, progress=False) for x in (cubes, shuffled)
    )
    flat = one.abundances.values.reshape(T, -1, P)[:, order]
    np.testing.assert_allclose(flat, other.abundances.values.reshape(T, -1, P), atol=1e-8)
    np.testing.assert_allclose(one.reference_endmembers, other.reference_endmembers, atol=1e-8)
    single = online_unmixing(cubes.astype(np.float32), endmembers=endmembers, progress=False)
    np.testing.assert_allclose(single.abundances, one.abundances, atol=1e-4)


def test_the_seed_decides_the_order_of_the_dates() -> None:
    cubes, endmembers, _ = small_scene()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    settings = dict(progress=False, num_epochs=2)
    results = [
        online_unmixing(cubes, endmembers=endmembers, seed=seed, **settings)
        for seed in (0, 0, 1, 2)
    ]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert results[0].dataset.identical(results[1].dataset)
    assert any(not results[0].abundances.equals(other.abundances) for other in results[2:])


def test_names_numbers_and_saving(tmp_path: Path) -> None:
    cubes, endmembers, _ = small_scene()
    labels = {"endmember": ["soil", "tree", "water"]}
    named = xr.DataArray(endmembers, dims=("wavelength", "endmember"), coords=labels)
    result = online_unmixing(cubes, endmembers=named, progress=False, num_epochs=1)
    assert result.abundances["endmember"].values.tolist() == labels["endmember"]
    loaded = Unmixing.load(result.save(tmp_path / "saved"))
    assert loaded.endmembers(1).equals(result.endmembers(1))
    counted = online_unmixing(cubes, 3, progress=False, num_epochs=1)
    assert counted.abundances.sizes["endmember"] == 3
    with pytest.raises(ValueError, match=r"online_unmixing has none"):
        counted.sample()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(num_epochs=0), "num_epochs must be at least 1"),
        (dict(num_inner_steps=0), "num_inner_steps must be at least 1"),
        (dict(num_endmember_steps=0), "num_endmember_steps must be at least 1"),
        (dict(forgetting=0.0), r"forgetting must lie in \(0, 1\], got 0"),
        (dict(forgetting=1.1), r"forgetting must lie in \(0, 1\], got 1.1"),
        (dict(max_variability=-1.0), r"max_variability must lie in \[0, "),
        (dict(max_mean_variability=-1.0), r"max_mean_variability must lie in \[0, "),
        (dict(distance_weight=-1.0), r"distance_weight must lie in \[0, "),
        (dict(abundance_weight=np.inf), r"abundance_weight must lie in \[0, "),
        (dict(variability_weight=np.nan), r"variability_weight must lie in \[0, "),
        (dict(endmembers=None, num_endmembers=1), "num_endmembers must be at least 2"),
        (
            dict(endmembers=None, num_endmembers=9),
            "num_endmembers = 9 needs at least as many valid spectra and bands",
        ),
        (dict(endmembers=np.ones((5, 2))), "endmembers must have one row per band"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], text: str) -> None:
    cubes, endmembers, _ = small_scene()
    with pytest.raises(ValueError, match=text):
        online_unmixing(cubes, **{"endmembers": endmembers, "progress": False, **settings})


def test_negative_endmembers_are_reported_and_end_at_zero(caplog: pytest.LogCaptureFixture) -> None:
    cubes, endmembers, _ = small_scene()
    online_unmixing(cubes, endmembers=endmembers, progress=False, num_epochs=1)
    assert not caplog.records
    endmembers[2, 1] = -0.01
    given = endmembers.copy()
    result = online_unmixing(cubes, endmembers=endmembers, progress=False, num_epochs=1)
    assert "1 of 24 values of the endmembers are negative" in caplog.text
    assert (result.reference_endmembers.values >= 0).all()
    np.testing.assert_array_equal(endmembers, given)


def test_on_the_published_scene(data_dir: Path) -> None:
    scene = _data.load("ds1", data_dir).scene
    with np.load(data_dir / "peer_endmembers.npz") as file:
        start = file["ds1"]
    scores = score(online_unmixing(scene.cubes, endmembers=start, progress=False), scene)
    # The published program; it draws another order of the dates, which moves the endmembers.
    published = {"NRMSE_A": 0.287, "NRMSE_M": 0.209, "SAM_M": 0.165, "NRMSE_Y": 0.080}
    for name, value in published.items():
        assert scores[name] == pytest.approx(value, abs=0.005), name
