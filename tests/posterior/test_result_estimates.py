"""What is read out of a trained pair: layout, missing pixel-dates, and the formulas of means and change."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
import xarray as xr
from result_cases import CUBES, LIBRARY, PAIRS, SINGLE, fitted, ours, paper

from pyro_unmix import BiLSTMGuide, fit
from pyro_unmix.posterior import PlugInMean, PosteriorMean

pytestmark = pytest.mark.usefixtures("seeded")


def test_layout(result):
    assert result.abundances.dims == ("time", "y", "x", "endmember")
    assert result.abundances.shape == (3, 6, 7, 3)
    assert result.abundances_std.dims == result.abundances.dims
    assert result.reference_endmembers.dims == ("wavelength", "endmember")
    assert result.endmembers().dims == ("y", "x", "wavelength", "endmember")
    assert result.reconstruct().dims == ("y", "x", "wavelength")
    assert result.change.dims == result.valid.dims == ("time", "y", "x")
    assert result.unit_maximum().dims == result.abundances.dims
    assert result.losses.shape == (4,)
    assert result.num_endmembers == 3
    for array in (result.abundances, result.change, result.valid):
        for name in ("time", "y", "x"):
            np.testing.assert_array_equal(array[name], CUBES[name])
    np.testing.assert_array_equal(result.endmembers(1).wavelength, CUBES.wavelength)
    assert list(result.abundances.endmember.values) == list(LIBRARY.endmember.values[:3])
    for name, array in result.to_dataset().data_vars.items():
        if name != "losses":
            assert array.attrs["long_name"], name


def test_abundances_are_on_the_simplex_with_a_spread(result):
    values, std = result.abundances.values, result.abundances_std.values
    assert (values >= 0).all()
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    assert (std > 0).all()
    assert (std <= 0.5 * np.sqrt(64 / 63) + 1e-6).all()  # the most that values in [0, 1] can have


def test_missing_pixel_dates_are_filled_and_marked(result):
    expected = CUBES.notnull().all("wavelength")
    assert not expected.all()
    xr.testing.assert_equal(result.valid.astype(bool), expected)
    assert np.isfinite(result.abundances).all()
    assert np.isfinite(result.endmembers(1)).all()


@pytest.mark.parametrize("name", PAIRS)
def test_values_beside_a_missing_band_do_not_matter(name):
    cubes, other = CUBES.copy(deep=True), CUBES.copy(deep=True)
    cubes[1, 2, 3, 4] = other[1, 2, 3, 4] = np.nan
    other[1, 2, 3, 5:] = 90.0
    first, second = fitted(PAIRS[name], cubes), fitted(PAIRS[name], other)
    xr.testing.assert_identical(first.to_dataset(), second.to_dataset())
    assert not bool(first.valid[1, 2, 3])


def test_a_pixel_without_any_date_is_the_prior_and_leaves_the_others_alone():
    cubes = CUBES.copy(deep=True)
    cubes[:, 0, 0] = np.nan
    result = fitted(ours, CUBES, num_steps=0)
    gap = result.predict(cubes)
    assert np.isfinite(gap.abundances).all()
    np.testing.assert_allclose(
        gap.abundances.values[:, 1:], result.abundances.values[:, 1:], atol=SINGLE
    )
    # By symmetry of the prior no material is preferred: 64 antithetic draws.
    error = 5 * gap.abundances_std.values[:, 0, 0] / np.sqrt(64)
    assert (np.abs(gap.abundances.values[:, 0, 0] - 1 / 3) < error).all()
    assert (gap.abundances_std[:, 0, 0] > gap.abundances_std.median()).all()


def test_posterior_mean_and_std_are_those_of_the_draws(results):
    result = results["ours"]
    draws = result.sample(64, seed=result.seed).values
    np.testing.assert_allclose(result.abundances, draws.mean(0), atol=1e-5)
    np.testing.assert_allclose(result.abundances_std, draws.std(0, ddof=1), atol=1e-5)


def test_the_number_of_draws_is_the_estimates():
    few = fitted(ours, num_steps=0, estimate=PosteriorMean(num_samples=2))
    draws = few.sample(2, seed=0).values
    np.testing.assert_allclose(few.abundances, draws.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        PosteriorMean(num_samples=1)
    with pytest.raises(TypeError, match="num_samples must be an integer"):
        PlugInMean(num_samples=4.0)


def algorithm_1(guide: BiLSTMGuide, cubes: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper in numpy: the means of eqs. (33)-(35) and (44)-(47), fed forward.

    Returns abundances (T, N, P) and variability (T, N, K P).
    """
    value = {k: v.detach().numpy() for k, v in guide.named_parameters()}
    weights = {k.removeprefix("encoder.lstm."): v for k, v in value.items() if "lstm" in k}
    endmembers = guide.model.reference.value.detach().numpy()
    components = reference.dct_components(endmembers, guide.model.num_components)
    num_bands, num_components, p = components.shape
    spectra = cubes.values.astype(float).reshape(len(cubes), -1, num_bands).swapaxes(0, 1)
    valid = np.isfinite(spectra).all(-1)
    spectra[~valid] = 0
    abundances, variability = [], []
    for y, seen in zip(spectra, valid, strict=True):
        hidden = reference.bilstm(y, weights)
        c, psi = value["initial_loc"][:p], value["initial_loc"][p:]
        for t, h in enumerate(hidden):
            before, factors = reference.softmax(c), psi.reshape(num_components, p)
            matrix = endmembers + np.einsum("lkp,kp->lp", components, factors)
            gram = matrix.T @ matrix
            ridge = 1e-6 * np.trace(gram) / p
            v = np.linalg.solve(gram + ridge * np.eye(p), matrix.T @ y[t])
            s = np.maximum(v, 0) + 1e-12
            u = 0.5 * np.abs(s / s.sum() - before).sum() if seen[t] else 0.0
            keep, new = value["alpha"]
            mixed = keep * (1 - u) * before + new * u * (v + value["shift_c"] @ h)
            logs = np.log(np.maximum(mixed, 0) + 1e-8)
            c = logs - logs.mean()
            psi = value["beta"] * psi + value["shift_psi"] @ h
            abundances.append(reference.softmax(c))
            variability.append(psi)
    shape = (len(spectra), len(cubes), -1)
    return tuple(np.reshape(x, shape).swapaxes(0, 1) for x in (abundances, variability))


def test_plug_in_mean_is_algorithm_1():
    """The means fed forward, against numpy alone, at parameters away from their start."""
    model, guide = paper()
    model, guide = model.double(), guide.double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    result = fit(model, guide, CUBES, num_steps=3, progress=False, estimate=PlugInMean())
    missing = ~result.valid.values
    assert missing[0].any() and missing[1].any() and missing[2].any()
    abundances, variability = algorithm_1(guide, CUBES)
    assert abundances.std(axis=(0, 1)).min() > 0.1
    got = result.abundances.values.reshape(abundances.shape)
    np.testing.assert_allclose(got, abundances, rtol=1e-9, atol=1e-9)
    got = result.dataset["variability"].values.reshape(variability.shape)
    np.testing.assert_allclose(got, variability, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_change_is_the_formula(name, results):
    result = results[name]
    change = result.change.values
    assert np.isnan(change[0]).all()
    cubes, valid = result.cubes.values.astype(float), result.valid.values
    for t in (1, 2):
        matrices = result.endmembers(t - 1).values.astype(float)
        a = result.abundances.values[t - 1].astype(float)
        for y, x in np.ndindex(6, 7):
            if not valid[t, y, x]:
                assert np.isnan(change[t, y, x])
                continue
            v = np.linalg.lstsq(matrices[y, x], cubes[t, y, x], rcond=None)[0]
            s = np.maximum(v, 0)
            expected = 0.5 * np.abs(s / s.sum() - a[y, x]).sum()
            # Its regression has a ridge of 1e-6 of the mean eigenvalue, in float32.
            gram = matrices[y, x].T @ matrices[y, x]
            ridge = 3e-6 * np.trace(gram) / 3 / np.linalg.eigvalsh(gram)[0]
            assert change[t, y, x] == pytest.approx(expected, abs=SINGLE + ridge)


def test_endmembers_and_reconstruction_are_the_written_out_products(result):
    psi, components = result.dataset["variability"], result.dataset["components"]
    for t in (0, 2, -1):
        expected = result.reference_endmembers + (components * psi.isel(time=t)).sum("component")
        expected = expected.transpose("y", "x", "wavelength", "endmember")
        got = result.endmembers(t)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        product = np.einsum("yxlp,yxp->yxl", got.values, result.abundances.values[t])
        np.testing.assert_allclose(result.reconstruct(t), product, atol=1e-5)
    xr.testing.assert_equal(result.endmembers(-1), result.endmembers(2))


def test_components_are_the_models(result):
    with torch.no_grad():
        components = result.model.components()
        reference = result.model.reference.value.detach()
    np.testing.assert_array_equal(result.dataset["components"], components)
    np.testing.assert_array_equal(result.reference_endmembers, reference)


def test_unit_maximum_is_the_formula(result):
    got = result.unit_maximum().values
    for t in range(3):
        weighted = result.abundances.values[t] * result.endmembers(t).values.max(2)
        np.testing.assert_allclose(got[t], weighted / weighted.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
