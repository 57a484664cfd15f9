"""The engine of Markov chains: its weights and predictive densities against quadrature, its result, its refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from scipy import integrate, stats

from pyro_unmix.infer import Sampled, log_predictive, sample, stacking_weights
from pyro_unmix.infer.between_chains import shares, split_r_hat, weighted_quantiles
from pyro_unmix.infer.block_draws import nearest_dates
from pyro_unmix.infer.chains import Chain, kept_rounds
from pyro_unmix.infer.programs import program_of
from pyro_unmix.kernels import ROUND, EllipticalEndmembers
from pyro_unmix.methods.unmix_by_chains import unmix_by_chains
from pyro_unmix.models.simplex import SimplexMixing
from pyro_unmix.priors.bounded import BoundedEndmembers
from pyro_unmix.start.several_starts import smallest_simplex

REFERENCE = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.7], [0.5, 0.3, 0.6], [0.6, 0.1, 0.2]])
FEW = {
    "num_rounds": 12, "num_spectra": 40, "num_held_out": 10, "num_kept": 4, "num_samples": 12,
    "num_warmup": 4, "progress": False,
}  # fmt: skip


def model_of(seed: int = 0, **options: Any) -> SimplexMixing:
    components = 0.02 * np.random.default_rng(seed).standard_normal((4, 1, 3))
    centre = BoundedEndmembers(REFERENCE, scale=0.05)
    return SimplexMixing(centre, components=components, rank=1, **options)


def images(num_dates: int = 2) -> xr.DataArray:
    """Images (T, 6, 8, L) of the program, one pixel-date of which is missing."""
    model = model_of()
    values = model.simulate(48, num_dates, seed=4)["pixels"].numpy().clip(0.001, 1.5)
    cubes = values.reshape(6, 8, num_dates, 4).transpose(2, 0, 1, 3).copy()
    cubes[0, 0, 0] = np.nan
    return xr.DataArray(
        cubes,
        dims=("time", "y", "x", "wavelength"),
        coords={"wavelength": [900.0, 500.0, 600.0, 700.0]},
        name="reflectance",
    )


@pytest.fixture(scope="module")
def result() -> Sampled:
    return sample([model_of(), model_of(1)], images(), seed=1, **FEW)


def test_abundances_are_on_the_simplex_with_labels(result: Sampled) -> None:
    assert result.abundances.dims == ("time", "y", "x", "endmember")
    np.testing.assert_allclose(result.abundances.sum("endmember"), 1.0, atol=1e-12)
    assert float(result.abundances.min()) >= 0
    assert bool((result.abundances_std > 0).all())
    assert not bool(result.valid[0, 0, 0]) and int(result.valid.sum()) == 95
    assert result.weights is not None and result.weights.sum() == pytest.approx(1.0)


def test_a_seed_says_everything_and_leaves_no_trace(result: Sampled) -> None:
    before = torch.get_rng_state()
    again = sample([model_of(), model_of(1)], images(), seed=1, **FEW)
    other = sample([model_of(), model_of(1)], images(), seed=2, **FEW)
    assert torch.equal(before, torch.get_rng_state())
    assert not list(pyro.get_param_store().keys())
    xr.testing.assert_identical(again.abundances, result.abundances)
    assert not np.allclose(other.abundances, result.abundances)
    xr.testing.assert_identical(result.sample(5, seed=3), again.sample(5, seed=3))


def test_what_was_not_observed_is_filled_from_the_nearest_date_or_the_prior(
    result: Sampled,
) -> None:
    cubes = images()
    cubes[:, 0, 1] = np.nan
    other = result.predict(cubes).sample(400, seed=1).values
    # one of two dates is filled from the other one; two of two are not
    np.testing.assert_array_equal(other[:, 0, 0, 0], other[:, 1, 0, 0])
    assert not np.allclose(other[:, 0, 0, 1], other[:, 1, 0, 1])
    draws = other[:, 0, 0, 1]
    alpha = np.mean([float(c.stacked("concentration").mean()) for c in result.chains])
    expected = math.sqrt(1 / 3 * 2 / 3 / (3 * alpha + 1))
    assert draws.std(0).mean() == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(draws.mean(0), 1 / 3, atol=0.1)


def test_intervals_quantiles_and_areas_belong_to_the_draws(result: Sampled) -> None:
    lower, upper = result.interval(0.8, num_samples=30)
    assert bool((lower <= upper).all())
    low, high = result.quantile([0.1, 0.9], num_samples=30)
    draws = result.sample(30)
    np.testing.assert_allclose(low, np.quantile(draws, 0.1, axis=0, method="weibull"))
    assert result.quantile(0.9, num_samples=30).equals(high.assign_coords(quantile=0.9))
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:5] = True
    area = result.area(mask, 0.8, num_samples=30)
    sums = draws.values[:, :, mask].sum(2)
    np.testing.assert_allclose(area["area"], sums.mean(0))
    assert bool((area["lower"] <= area["area"]).all() and (area["area"] <= area["upper"]).all())
    bounds = result.endmembers_interval(0.9)
    assert bounds.dims == ("bound", "wavelength", "endmember")
    inside = (bounds[0] <= result.reference_endmembers) & (result.reference_endmembers <= bounds[1])
    assert float(inside.mean()) > 0.9


def test_draws_of_all_pixels_share_what_is_shared(result: Sampled) -> None:
    """A mean over pixels is uncertain by the shared draws alone: more than by single pixels' draws."""
    draws = result.sample(60, seed=2)
    one = draws.isel(time=1).std("sample").mean(("y", "x"))
    mean = draws.isel(time=1).mean(("y", "x")).std("sample")
    assert bool((mean < one).all())


def test_other_images_get_the_same_pixels(result: Sampled) -> None:
    again = result.predict(images())
    xr.testing.assert_allclose(again.abundances, result.abundances)
    with pytest.raises(ValueError, match="one estimate"):
        result.predict(images(), estimate=1)


def test_what_a_sampled_result_has_not_is_refused(result: Sampled) -> None:
    for call in (
        lambda: result.forecast([3]), lambda: result.interpolate([1]),
        lambda: result.reflectance_quantile(0.5),
        lambda: result.predict_to_zarr(None, "x"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not there for sampled results"):
            call()


def test_r_hat_tells_chains_that_agree_from_those_that_do_not(result: Sampled) -> None:
    rng = np.random.default_rng(0)
    draws = torch.as_tensor(rng.standard_normal((4, 200)))
    assert float(split_r_hat(draws)) == pytest.approx(1.0, abs=0.02)
    assert float(split_r_hat(draws + torch.arange(4).unsqueeze(-1))) > 1.5
    found = result.diagnose()
    assert set(found) == {
        f"{of}{name}" for of in ("r_hat", "ess") for name in ("", "_concentration", "_noise")
    }
    # two chains of four draws, which start apart
    assert found["ess"].dims == ("endmember",) and bool((found["ess"] <= 4 * np.log10(4)).all())


def test_kept_endmembers_stay() -> None:
    kernels = [kernel for kernel in ROUND if not isinstance(kernel, EllipticalEndmembers)]
    found = sample(model_of(), images(), seed=1, kernels=kernels, **FEW)
    np.testing.assert_allclose(found.reference_endmembers, REFERENCE)


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="expected a SimplexMixing"):
        sample(["model"], images(), **FEW)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="4 bands, the images 3"):
        sample(model_of(), images()[..., :3], **FEW)
    with pytest.raises(ValueError, match="expected num_endmembers, or the spectra"):
        unmix_by_chains(images())
    with pytest.raises(ValueError, match="num_endmembers is 2, but endmembers are the spectra of"):
        unmix_by_chains(images(), 2, endmembers=REFERENCE)
    with pytest.raises(ValueError, match="least, largest"):
        model_of(concentration=(0.5, 0.1))
    with pytest.raises(ValueError, match=r"components must have the shape \(4, K, 3\)"):
        SimplexMixing(REFERENCE, components=np.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="high must lie"):
        BoundedEndmembers(REFERENCE, high=0.5)


def test_a_whole_scene_from_several_starts() -> None:
    rng = np.random.default_rng(1)
    abundances = rng.dirichlet([0.3] * 3, size=(1, 12, 12))
    cubes = abundances @ REFERENCE.T + 0.005 * rng.standard_normal((1, 12, 12, 4))
    found = unmix_by_chains(cubes.clip(0.001), 3, seed=0, **{**FEW, "num_rounds": 20})
    assert len(found.chains) >= 5 and found.method == "unmix_by_chains"
    given = unmix_by_chains(cubes.clip(0.001), endmembers=REFERENCE, **FEW)
    error = np.sqrt(np.mean((given.abundances.values - abundances) ** 2))
    assert error < 0.05
    np.testing.assert_allclose(given.reference_endmembers, REFERENCE)


# ---------------------------------------------------------------- weights and densities


def test_predictive_densities_agree_with_quadrature() -> None:
    """Two materials: one abundance, over which the normal density of the spectrum is integrated."""
    rng = np.random.default_rng(2)
    components = 0.1 * rng.standard_normal((4, 2, 2))
    model = SimplexMixing(REFERENCE[:, :2], components=components, rank=1)
    sites = model.simulate(4, seed=3)
    shared = {k: v for k, v in sites.items() if not k.endswith("_1") and k != "pixels"}
    shared["noise_variance"] = torch.tensor(0.03**2, dtype=torch.float64)
    values = sites["pixels"][:, 0]
    chain = Chain(model, (shared,))
    ours = log_predictive(chain, values, num_shared=1, num_draws=6000, num_rounds=10).numpy()

    s = {k: v.numpy() for k, v in shared.items()}
    alpha, flat = float(s["concentration"]), components.reshape(4, -1)
    common = s["residual_factor"] @ s["residual_factor"].T + s["noise_variance"] * np.eye(4)

    def density(x: float, y: np.ndarray) -> float:
        a = np.array([x, 1 - x])
        mean = s["endmembers"] @ a
        spread = flat * (s["scales"] * np.tile(a, 2))
        bright = s["brightness_scale"] * mean
        covariance = common + spread @ spread.T + np.outer(bright, bright)
        return float(stats.multivariate_normal(mean, covariance).pdf(y))

    beta = math.exp(math.lgamma(2 * alpha) - 2 * math.lgamma(alpha))
    for n, y in enumerate(values.numpy()):
        # in u = x^alpha the pole at zero is gone; by halves
        half = lambda f: integrate.quad(  # noqa: E731
            lambda u: f(u ** (1 / alpha)) * (1 - u ** (1 / alpha)) ** (alpha - 1) / alpha,
            0, 0.5**alpha, limit=200,
        )[0]  # fmt: skip
        total = beta * (half(lambda x: density(x, y)) + half(lambda x: density(1 - x, y)))  # noqa: B023
        assert ours[n] == pytest.approx(math.log(total), abs=0.12)


def test_stacking_weights_maximise_their_objective() -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal(size=(2, 50)) + np.array([[0.5], [0.0]])
    grid = np.linspace(1e-4, 1 - 1e-4, 20_001)
    for shrink in (0.0, 0.1, 1.0):
        mixed = np.log(grid[:, None] * np.exp(logs[0]) + (1 - grid[:, None]) * np.exp(logs[1]))
        objective = mixed.mean(1) + shrink / 2 * (np.log(grid) + np.log(1 - grid))
        weights = stacking_weights(logs, shrink=shrink, num_steps=5000)
        assert float(weights[0]) == pytest.approx(grid[objective.argmax()], abs=2e-4)
    bad = np.stack([np.zeros(50), np.full(50, -3.0)])
    assert float(stacking_weights(bad, shrink=0.0)[1]) < 1e-6
    assert 0.02 < float(stacking_weights(bad, shrink=0.1)[1]) < 0.08


def test_a_simplex_without_pure_pixels_is_found() -> None:
    rng = np.random.default_rng(0)
    abundances = rng.dirichlet([0.6] * 3, size=8000)
    abundances = abundances[abundances.max(-1) < 0.75][:2000]
    spectra = abundances @ REFERENCE.T + 0.002 * rng.standard_normal((len(abundances), 4))
    inner = REFERENCE @ (0.6 * np.eye(3) + 0.4 / 3)
    found = smallest_simplex(spectra, inner, outside=0.02)
    assert np.abs(found - REFERENCE).max() < 0.2 * np.abs(inner - REFERENCE).max()


def test_shares_rounds_and_quantiles() -> None:
    assert shares(np.array([0.5, 0.3, 0.2]), 7).tolist() == [4, 2, 1]
    assert kept_rounds(20, 4).tolist() == [12, 15, 18, 20]
    values, weights = np.arange(5.0)[:, None], np.full(5, 0.2)
    assert weighted_quantiles(values, weights, [0.1, 0.5])[:, 0].tolist() == [0.0, 2.0]


def test_the_nearest_observed_dates_are_found() -> None:
    valid = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=bool)
    assert nearest_dates(valid).tolist() == [[1, 1, 1, 4, 4], [5, 6, 7, 8, 9]]


def test_a_chain_starts_inside_all_bounds() -> None:
    values = torch.as_tensor(images(1).values.reshape(-1, 4)[1:])
    model = model_of()
    state = program_of(model).start(model, values)
    assert float(state.abundances.min()) > 0
    assert float(state.noise_variance) > 0


def test_smoothness_is_over_wavelength() -> None:
    order = [2, 0, 3, 1]
    places = np.array([500.0, 510.0, 700.0, 900.0])
    straight = BoundedEndmembers(REFERENCE, wavelength=places).distribution()
    turned = BoundedEndmembers(REFERENCE[order], wavelength=places[order]).distribution()
    value = torch.as_tensor(REFERENCE + 0.05 * np.arange(4)[:, None])
    expected = straight.log_prob(value)
    assert float(turned.log_prob(value[order])) == pytest.approx(float(expected), rel=1e-9)
    assert float(straight.log_prob(value - 1.0)) == -math.inf
