"""How many materials: HySime, HFC and the likelihood, on scenes of known number and SNR."""

from __future__ import annotations

import importlib
import logging

import _data
import numpy as np
import pytest
import xarray as xr

from pyro_unmix import simulate
from pyro_unmix.start import estimate_num_endmembers, hysime, virtual_dimensionality
from pyro_unmix.start import num_endmembers as module

unmix_module = importlib.import_module("pyro_unmix.methods.unmix")  # the package holds the function

BANDS = 60


def bumps(num_endmembers: int) -> np.ndarray:
    """Spectra (L, P) far from dependent: each its own Gaussian bump, of its own height."""
    band = np.arange(BANDS)[:, None]
    centre = (np.arange(num_endmembers) + 0.5) * BANDS / num_endmembers
    height = np.linspace(0.9, 0.5, num_endmembers)
    return 0.05 + height * np.exp(-0.5 * ((band - centre) / 3.0) ** 2)


def linear_scene(
    num_endmembers: int,
    snr_db: float,
    *,
    concentration: float = 1.0,
    seed: int = 0,
    spectra: np.ndarray | None = None,
) -> np.ndarray:
    """(1, 50, 50, L): Dirichlet abundances, no variability, white noise."""
    spectra = bumps(num_endmembers) if spectra is None else spectra[:, :num_endmembers]
    rng = np.random.default_rng(seed)
    abundances = rng.dirichlet(np.full(num_endmembers, concentration), size=(1, 50, 50))
    clean = abundances @ spectra.T
    scale = np.sqrt(np.mean(clean**2) / 10 ** (snr_db / 10))
    return clean + scale * rng.standard_normal(clean.shape)


# Spectra of smooth curves are nearly dependent: little is left of one beside the others.
SMOOTH = simulate.library(np.linspace(420, 2450, BANDS)).values

# HySime


@pytest.mark.parametrize("snr_db", [20, 30, 40])
@pytest.mark.parametrize("num_endmembers", [2, 3, 5, 8])
def test_hysime_counts_the_materials_of_linear_scenes(num_endmembers, snr_db):
    for seed in range(3):
        assert hysime(linear_scene(num_endmembers, snr_db, seed=seed)) == num_endmembers


def test_hysime_follows_its_paper():
    spectra = linear_scene(4, 20)[0, :14, :14].reshape(-1, BANDS)
    noise = np.empty_like(spectra)
    for band in range(BANDS):
        others = np.delete(spectra, band, axis=1)
        weights = np.linalg.lstsq(others, spectra[:, band], rcond=None)[0]
        noise[:, band] = spectra[:, band] - others @ weights
    np.testing.assert_allclose(module._residuals(spectra), noise, atol=1e-6)
    unbiased = (noise**2).sum(0) / (len(spectra) - (BANDS - 1))
    np.testing.assert_allclose(module._noise_variance(noise), unbiased, rtol=1e-12)


def test_hysime_counts_variability_as_materials_and_misses_what_the_noise_covers():
    """Its limits, so that nobody takes it for more."""
    scene = simulate.scaled_scene(num_dates=1, height=40, width=40, num_endmembers=3)
    assert hysime(scene.cubes) > 3
    assert hysime(linear_scene(8, 20, spectra=SMOOTH)) < 8
    assert hysime(linear_scene(8, 40, spectra=SMOOTH)) == 8


def test_the_noise_variance_is_that_of_the_scene():
    spectra = linear_scene(3, 20).reshape(-1, BANDS)
    true = np.mean(spectra**2) / (1 + 100)  # SNR of 20 dB
    got = module._noise_variance(module._residuals(spectra))
    # Each band's explained part keeps some noise of the others; over bands it is a few per cent.
    assert np.mean(got) == pytest.approx(true, rel=0.1)


# Virtual dimensionality


@pytest.mark.parametrize("snr_db", [20, 30, 40])
@pytest.mark.parametrize("whiten", [False, True])
def test_virtual_dimensionality_counts_nearly_pure_materials(snr_db, whiten):
    for num_endmembers in (2, 3, 4):
        cubes = linear_scene(num_endmembers, snr_db, concentration=0.02)
        assert virtual_dimensionality(cubes, whiten=whiten) == num_endmembers


def test_virtual_dimensionality_misses_evenly_mixed_materials():
    """Its limit: all it sees is the energy of the mean."""
    assert virtual_dimensionality(linear_scene(5, 40, spectra=SMOOTH)) < 5


def test_virtual_dimensionality_by_hand():
    cubes = linear_scene(3, 20, concentration=0.1)
    spectra = cubes.reshape(-1, BANDS)
    centred = spectra - spectra.mean(0)
    raw = np.linalg.svd(spectra, compute_uv=False) ** 2 / len(spectra)
    central = np.linalg.svd(centred, compute_uv=False) ** 2 / len(spectra)
    for false_alarm, quantile in ((1e-3, 3.0902323), (1e-5, 4.2648908)):  # of the normal
        threshold = quantile * np.sqrt(2 * (raw**2 + central**2) / len(spectra))
        expected = int((raw - central > threshold).sum())
        assert virtual_dimensionality(cubes, false_alarm) == expected


def test_noise_without_a_signal_has_no_dimension():
    noise = 0.01 * np.random.default_rng(0).standard_normal((1, 50, 50, BANDS))
    assert virtual_dimensionality(noise) == 0


def test_whitening_undoes_unequal_noise():
    cubes = linear_scene(3, 40, concentration=0.02)
    gain = np.linspace(1, 30, BANDS)
    rng = np.random.default_rng(1)
    noise = 1e-3 * gain * rng.standard_normal(cubes.shape)
    assert virtual_dimensionality(cubes + noise, whiten=True) == 3


# The likelihood


@pytest.mark.parametrize(
    "make, num_endmembers",
    [(simulate.scaled_scene, 2), (simulate.scaled_scene, 3), (simulate.bundle_scene, 3)],
)
def test_the_likelihood_sees_through_variability(make, num_endmembers):
    scene = make(num_dates=1, height=20, width=20, num_endmembers=num_endmembers, seed=0)
    bands = scene.cubes[..., :: scene.cubes.sizes["wavelength"] // 40]
    assert estimate_num_endmembers(bands) == num_endmembers


def test_the_likelihood_counts_materials_without_variability_too():
    assert estimate_num_endmembers(linear_scene(3, 30)[:, :20, :20]) == 3


class _Start:
    def __init__(self, score: float) -> None:
        self.log_likelihoods = {"good": score, "poor": score - 1.0}


@pytest.mark.parametrize(
    "per_spectrum, expected",
    [
        ([10, 11.1, 12.0, 99], 3),  # a gain of 0.9 stops, whatever comes later
        ([10, 11.0, 20], 2),  # a gain of one is not enough
        ([10, 12, 14, 13], 4),
        ([10, 8, 30], 2),
    ],
)
def test_one_more_material_must_gain_more_than_one(monkeypatch, per_spectrum, expected):
    table = dict(enumerate(per_spectrum, start=2))
    monkeypatch.setattr(
        module, "choose_start", lambda cubes, count, seed, progress: _Start(table[count] / BANDS)
    )
    assert estimate_num_endmembers(linear_scene(3, 30)) == expected


def test_the_search_ends_at_its_maximum_and_where_spectra_run_out(monkeypatch, caplog):
    monkeypatch.setattr(
        module, "choose_start", lambda cubes, count, seed, progress: _Start(float(count))
    )
    with caplog.at_level(logging.WARNING, "pyro_unmix"):
        assert estimate_num_endmembers(linear_scene(3, 30), max_endmembers=5) == 5
    assert "still grows at 5 endmembers: raise max_endmembers" in caplog.text
    monkeypatch.undo()
    few = np.repeat(np.repeat(bumps(2).T[None, None], 6, axis=1), 6, axis=2)  # two spectra
    assert estimate_num_endmembers(few.reshape(1, 6, 12, BANDS)) == 2


def test_methods_are_named():
    cubes = linear_scene(3, 30, concentration=0.02)
    assert estimate_num_endmembers(cubes, "hysime") == hysime(cubes)
    assert estimate_num_endmembers(cubes, "hfc") == virtual_dimensionality(cubes)
    assert estimate_num_endmembers(cubes, "nwhfc") == virtual_dimensionality(cubes, whiten=True)
    with pytest.raises(ValueError, match="method must be one of 'likelihood', 'hysime', 'hfc'"):
        estimate_num_endmembers(cubes, "hysim")


def test_missing_and_zero_spectra_do_not_count():
    cubes = linear_scene(3, 30, concentration=0.02)
    holes = cubes.copy()
    holes[0, :3], holes[0, 3:6] = np.nan, 0.0
    rest = cubes[:, 6:]
    assert hysime(holes) == hysime(rest) == 3
    assert virtual_dimensionality(holes) == virtual_dimensionality(rest)


@pytest.mark.parametrize("estimate", [hysime, virtual_dimensionality])
def test_too_few_spectra_are_refused(estimate):
    with pytest.raises(ValueError, match="got 36 valid spectra of 60 bands: give num_endmembers"):
        estimate(linear_scene(3, 30)[:, :6, :6])
    with pytest.raises(ValueError, match=r"false_alarm must lie in \(0, 0.5\), got 0.7"):
        virtual_dimensionality(linear_scene(3, 30), 0.7)


def test_unmix_finds_the_number_itself(monkeypatch):
    asked = []

    def answer(cubes: xr.DataArray, seed: int, progress: bool) -> int:
        asked.append((cubes.shape, seed, progress))
        return 3

    monkeypatch.setattr(unmix_module.estimate_num_endmembers, "unchecked", answer)
    cubes = linear_scene(3, 30)[:, :12, :12]
    result = unmix_module.unmix(cubes, "auto", num_steps=0, seed=7, progress=False)
    assert result.abundances.sizes["endmember"] == 3
    assert asked == [((1, 12, 12, BANDS), 7, False)]
    two = unmix_module.unmix(cubes, "auto", endmembers=bumps(2), num_steps=0, progress=False)
    assert two.abundances.sizes["endmember"] == 2 and len(asked) == 1


# A published scene


def test_the_likelihood_and_hysime_on_the_first_scene_of_the_paper(data_dir):
    scene = _data.load("ds1", data_dir).scene
    part = scene.cubes[:1, :40, :40, ::4]
    assert estimate_num_endmembers(part, max_endmembers=5) == scene.num_endmembers == 3
    assert hysime(scene.cubes) > 3  # it counts the variability
