"""HBUN's densities against scipy and plain sums."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from hbun_cases import SCALES, as_sites
from pyro import poutine
from scipy.stats import lognorm, multivariate_normal, norm

from pyro_unmix.models import PerturbedLinear
from pyro_unmix.models.smoothness import SmoothField, SmoothSpectra, curvature

pytestmark = pytest.mark.usefixtures("seeded")
HEIGHTS, W, T, P, L = [2, 3], 3, 2, 2, 6
H = sum(HEIGHTS)
N = H * W
WAVELENGTH = np.array([700.0, 500.0, 900.0, 400.0, 1000.0, 600.0])


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------- the two priors


def field_precision(space: float, time: float, level: float) -> np.ndarray:
    """Precision (N T P, N T P), the sum of one term per pair of neighbours, pair by pair."""
    position = np.arange(N * T * P).reshape(H, W, T, P)
    tile = np.repeat(np.arange(len(HEIGHTS)), HEIGHTS)
    precision = np.eye(N * T * P) / level**2
    for y, x, t, p in product(range(H), range(W), range(T), range(P)):
        pairs = []
        if y + 1 < H and tile[y] == tile[y + 1]:
            pairs.append((position[y + 1, x, t, p], space))
        if x + 1 < W:
            pairs.append((position[y, x + 1, t, p], space))
        if t + 1 < T:
            pairs.append((position[y, x, t + 1, p], time))
        for other, scale in pairs:
            difference = np.zeros(N * T * P)
            difference[[position[y, x, t, p], other]] = 1, -1
            precision += np.outer(difference, difference) / scale**2
    return precision


def smooth_field(space: float = 0.4, time: float = 0.7, level: float = 2.0) -> SmoothField:
    return SmoothField((W, T, P), HEIGHTS, torch.tensor(space), torch.tensor(time), level)


@pytest.mark.usefixtures("_double")
def test_the_density_of_the_field_is_that_of_its_dense_precision():
    value = np.random.default_rng(0).normal(size=N * T * P)
    covariance = np.linalg.inv(field_precision(0.4, 0.7, 2.0))
    expected = multivariate_normal(cov=covariance).logpdf(value)
    assert float(smooth_field().log_prob(torch.tensor(value))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_draws_of_the_field_have_its_covariance():
    count = 20_000
    draws = smooth_field().sample((count,)).numpy()
    covariance = np.linalg.inv(field_precision(0.4, 0.7, 2.0))
    variance = np.diag(covariance)
    # the variance of a product of two jointly normal variables
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / count)
    assert (np.abs(draws.T @ draws / count - covariance) < 6 * error).all()


def second_differences() -> np.ndarray:
    """D (L - 2, L): consecutive triples in the order of the wavelengths."""
    rows = np.zeros((L - 2, L))
    ordered = np.argsort(WAVELENGTH)
    for row in range(L - 2):
        rows[row, ordered[row : row + 3]] = 1, -2, 1
    return rows


def spectra_moments(
    reference: np.ndarray, curve: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (L, P) and covariance (L, L) of every column."""
    differences = second_differences()
    covariance = np.linalg.inv(differences.T @ differences / curve**2 + np.eye(L) / level**2)
    return covariance @ reference / level**2, covariance


@pytest.mark.usefixtures("_double")
def test_the_density_of_the_spectra_and_its_draws():
    rng = np.random.default_rng(1)
    reference, value = rng.uniform(0.1, 0.6, (2, L, P))
    eigen = tuple(map(torch.tensor, np.linalg.eigh(curvature(WAVELENGTH))))
    prior = SmoothSpectra(torch.tensor(reference), eigen, torch.tensor(0.05), 0.2)
    mean, covariance = spectra_moments(reference, 0.05, 0.2)
    expected = sum(multivariate_normal(mean[:, p], covariance).logpdf(value[:, p]) for p in (0, 1))
    got = float(prior.log_prob(torch.tensor(value).flatten()))
    assert got == pytest.approx(expected, rel=1e-9)
    draws = prior.sample((20_000,)).numpy().reshape(-1, L, P)
    error = np.sqrt(np.diag(covariance) / len(draws))[:, None]
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    ratio = draws.var(0) / np.diag(covariance)[:, None]
    assert (np.abs(ratio - 1) < 5 * np.sqrt(2 / len(draws))).all()


# ------------------------------------------------------------------------------- the log joint


def tiny_cubes(missing: bool = True) -> xr.DataArray:
    rng = np.random.default_rng(2)
    cubes = xr.DataArray(
        rng.uniform(0.1, 0.5, (T, H, W, L)),
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": WAVELENGTH, "tile": ("y", np.repeat([7, 3], HEIGHTS))},
    )
    if missing:
        cubes[0, 1, 2, 3] = np.nan
        cubes[1, 4, 0] = np.nan
    return cubes


def reference_spectra() -> np.ndarray:
    return np.random.default_rng(3).uniform(0.1, 0.6, (L, P))


MEDIANS = {
    "noise_scale": 0.02,
    "spatial_scale": 0.5,
    "temporal_scale": 0.6,
    "curvature_scale": 0.03,
    "perturbation_scale": 0.01,
}


def values(seed: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "endmembers": rng.uniform(0.1, 0.6, (L, P)),
        "perturbations": rng.normal(0, 0.05, (T, L, P)),
        "states": rng.normal(0, 1, (H, W, T, P)),
        **{name: np.float64(scale * rng.uniform(0.8, 1.2)) for name, scale in SCALES.items()},
    }


def likelihood(cubes: xr.DataArray, at: dict[str, np.ndarray]) -> np.ndarray:
    """Log-density of every valid pixel-date (H, W, T), 0 where one is missing."""
    result = np.zeros((H, W, T))
    for y, x, t in product(range(H), range(W), range(T)):
        spectrum = cubes.values[t, y, x]
        weights = np.exp(at["states"][y, x, t])
        mean = (at["endmembers"] + at["perturbations"][t]) @ (weights / weights.sum())
        if np.isfinite(spectrum).all():
            result[y, x, t] = norm(mean, at["noise_scale"]).logpdf(spectrum).sum()
    return result


def log_prior(at: dict[str, np.ndarray]) -> float:
    total = sum(lognorm(s=1, scale=MEDIANS[name]).logpdf(at[name]) for name in MEDIANS)
    precision = field_precision(at["spatial_scale"], at["temporal_scale"], 1.5)
    total += multivariate_normal(cov=np.linalg.inv(precision)).logpdf(at["states"].ravel())
    mean, covariance = spectra_moments(reference_spectra(), at["curvature_scale"], 0.15)
    for p in range(P):
        total += multivariate_normal(mean[:, p], covariance).logpdf(at["endmembers"][:, p])
    return float(total + norm(0, at["perturbation_scale"]).logpdf(at["perturbations"]).sum())


def tiny_model(cubes: xr.DataArray) -> PerturbedLinear:
    scales = {"state_scale": 1.5, "reference_scale": 0.15, **MEDIANS}
    return PerturbedLinear(reference_spectra(), cubes, **scales)


def tensors(cubes: xr.DataArray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (N, T, L) and validity (N, T)."""
    array = cubes.values.transpose(1, 2, 0, 3).reshape(N, T, L)
    valid = np.isfinite(array).all(-1)
    return torch.tensor(np.where(valid[..., None], array, 0)), torch.tensor(valid)


def log_joint(model: PerturbedLinear, at: dict[str, np.ndarray], *data: torch.Tensor, **k) -> float:
    conditioned = poutine.condition(model, data=as_sites(at))
    return float(poutine.trace(conditioned).get_trace(*data, **k).log_prob_sum())


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("missing", [False, True])
def test_the_log_joint_is_the_sum_written_out(missing: bool):
    cubes, at = tiny_cubes(missing), values()
    expected = log_prior(at) + likelihood(cubes, at).sum()
    got = log_joint(tiny_model(cubes), at, *tensors(cubes))
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_a_batch_scales_the_likelihood_but_not_the_prior():
    cubes, at = tiny_cubes(), values()
    model, (pixels, valid) = tiny_model(cubes), tensors(cubes)
    index = torch.tensor([13, 5, 2, 12, 0])
    by_pixel = likelihood(cubes, at).reshape(N, T).sum(1)
    expected = log_prior(at) + by_pixel[index.numpy()].sum() * 14 / 5
    got = log_joint(model, at, pixels[index], valid[index], index=index, size=14)
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("_double")
def test_vectorised_particles_have_their_own_log_joints():
    cubes = tiny_cubes()
    model, data = tiny_model(cubes), tensors(cubes)
    each = [values(seed) for seed in (5, 6, 7)]
    together = {
        name: torch.stack([as_sites(at)[name] for at in each]).unsqueeze(1)
        for name in as_sites(each[0])
    }

    def program(*args):
        with pyro.plate("particles", 3, dim=-2):
            model(*args)

    trace = poutine.trace(poutine.condition(program, data=together)).get_trace(*data)
    trace.compute_log_prob()
    total = sum(
        site["log_prob"].sum(-1)
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["name"] not in ("particles", "pixels")
    )
    np.testing.assert_allclose(total, [log_joint(model, at, *data) for at in each], rtol=1e-10)


def test_the_program_simulates_a_scene():
    cubes = tiny_cubes()
    model = tiny_model(cubes)
    sites = poutine.trace(model).get_trace(None, torch.ones(N, T, dtype=torch.bool)).nodes
    assert sites["y_2"]["value"].shape == (N, L)
    latents = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
    abundances, pick = model.decode_variability(latents)
    weights = np.exp(sites["states"]["value"].numpy().reshape(N, T, P))
    np.testing.assert_allclose(abundances, weights / weights.sum(-1, keepdims=True), rtol=1e-5)
    assert pick.shape == (N, T, T, P)
    again, spectra = model.decode(latents)
    np.testing.assert_array_equal(again, abundances)
    shifts = sites["perturbations"]["value"].reshape(T, L, P)
    np.testing.assert_array_equal(spectra, sites["endmembers"]["value"].reshape(L, P) + shifts)
    model.show(sites["endmembers"]["value"].reshape(L, P), shifts)
    shown = model.mixing_endmembers(pick)
    np.testing.assert_allclose(shown, spectra.expand(N, T, L, P), rtol=1e-12)
