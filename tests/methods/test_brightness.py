"""What methods make of light: shade, normalised spectra and free brightness, under the same names in all of them."""

from __future__ import annotations

import inspect
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.methods import fcls, mesma, minimum_volume, monte_carlo_sma

BANDS = 16
RNG = np.random.default_rng(0)
CLASSES = ["soil", "soil", "leaf", "leaf", "roof"]
SPECTRA = RNG.uniform(0.1, 0.6, (BANDS, 5))
LIBRARY = xr.DataArray(
    SPECTRA, dims=("wavelength", "endmember"), coords={"label": ("endmember", CLASSES)}
)
LIGHT = RNG.uniform(0.3, 1.6, (2, 3, 4, 1))
QUIET: dict[str, Any] = {"endmembers": LIBRARY, "progress": False}


def test_the_options_have_one_name_in_every_method() -> None:
    offered = {
        name: set(inspect.signature(getattr(pu.methods, name)).parameters)
        & {"shade", "normalize", "sum_to_one"}
        for name in pu.methods.__all__
    }
    assert {name: found for name, found in offered.items() if found} == {
        "fcls": {"shade", "normalize", "sum_to_one"},
        "mesma": {"shade", "normalize"},
        "monte_carlo_sma": {"shade", "normalize", "sum_to_one"},
        "minimum_volume": {"sum_to_one"},
    }


def best_of_units(y: np.ndarray, gain: float) -> np.ndarray:
    """MESMA's fractions (5,) of spectra that are compared with length one; RMSE as reflectance."""
    members = [[0, 1], [2, 3], [4]]
    length, norms = np.linalg.norm(y), np.linalg.norm(SPECTRA, axis=0)
    rmse, fractions = np.inf, np.full(5, np.nan)
    for size in (1, 2, 3):
        own, mine = np.inf, np.full(5, np.nan)
        for classes in combinations(range(3), size):
            for chosen in map(list, product(*(members[c] for c in classes))):
                units = SPECTRA[:, chosen] / norms[chosen]
                heavy = np.vstack([units, 1e5 * np.ones(size)])  # a weight that makes the sum one
                shares = np.linalg.lstsq(heavy, np.append(y / length, 1e5), rcond=None)[0]
                if shares.min() < -0.05 or shares.max() > 1.05:
                    continue
                left = length * np.sqrt(np.mean((y / length - units @ shares) ** 2))
                if left < own:
                    own, mine = left, np.zeros(5)
                    mine[chosen] = length * shares / norms[chosen]
        if own < rmse - gain:
            rmse, fractions = own, mine
    return fractions


@pytest.mark.parametrize("gain", [0.0, 0.01])
def test_mesma_compares_spectra_of_length_one(gain: float) -> None:
    cubes = LIGHT * RNG.dirichlet(np.full(5, 0.3), (2, 3, 4)) @ SPECTRA.T
    cubes += RNG.normal(0, 0.01, cubes.shape)
    result = mesma(cubes, normalize=True, gain=gain, **QUIET)
    expected = np.array([best_of_units(y, gain) for y in cubes.reshape(-1, BANDS)])
    found = result.dataset["library_fractions"].values.reshape(-1, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        result.dataset["brightness"].values.ravel(), expected.sum(-1), atol=1e-5
    )
    left = np.sqrt(np.square(cubes.reshape(-1, BANDS) - expected @ SPECTRA.T).mean(-1))
    np.testing.assert_allclose(result.rmse.values.ravel(), left, atol=1e-6)


@pytest.mark.parametrize("method", [fcls, mesma, monte_carlo_sma])
def test_light_does_not_count_in_normalised_spectra(method: Any) -> None:
    cubes = RNG.dirichlet(np.ones(5), (2, 3, 4)) @ SPECTRA.T
    more: dict[str, Any] = {"gain": 0.0} if method is mesma else {}
    given = {**QUIET, "normalize": True, **more}
    dark, bright = method(0.4 * cubes, **given), method(1.7 * cubes, **given)
    np.testing.assert_allclose(dark.abundances, bright.abundances, atol=1e-6)
    plain = {**QUIET, **more}
    assert np.abs(method(0.4 * cubes, **plain).abundances - bright.abundances).max() > 0.1


def test_mesma_says_what_normalize_must_be() -> None:
    with pytest.raises(TypeError, match="normalize must be True or False, got 'x'"):
        mesma(LIGHT * SPECTRA[:, 0], normalize="x", **QUIET)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_smallest_simplex_of_pixels_in_any_light(spread: float) -> None:
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(3), 3000)
    shares = shares[shares.max(1) < 0.8][:900].reshape(1, 30, 30, 3)
    bases = SPECTRA[:, [0, 2, 4]] * [1.0, 0.6, 1.5]  # of unlike brightness
    light = rng.uniform(1 - spread, 1 + spread, (1, 30, 30, 1))
    cubes = light * shares @ bases.T

    def error(sum_to_one: bool) -> float:
        result = minimum_volume(cubes, 3, outside=0.02, sum_to_one=sum_to_one, progress=False)
        order = pu.match_endmembers(result.reference_endmembers, bases)
        return float(np.sqrt(np.square(result.abundances.values[..., order] - shares).mean()))

    assert error(False) < 0.04
    assert (error(True) > 0.1) == (spread > 0)
