"""What `redsunn` and `unmix` have in common: seeds, settings, and bad input."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import reference
import xarray as xr
from unmix_cases import CUBES, GIVEN, MATRIX, PRESETS, SMALL, assert_same, parameters, run

from pyro_unmix import unmix
from pyro_unmix.bases import DCT, Brightness

# Both


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    cubes = CUBES[:2, :8, :8]
    first, again, other = (
        PRESETS[name](cubes, 3, seed=seed, num_steps=2, progress=False) for seed in (4, 4, 5)
    )
    assert_same(first, again)
    assert (first.losses != other.losses).all()
    assert not np.array_equal(first.abundances, other.abundances)
    assert other.seed == 5


@pytest.mark.parametrize("name", PRESETS)
def test_the_seed_reaches_model_guide_and_fit(name):
    """Even where the start is given and nothing is extracted."""
    first, other = (run(name, seed=seed, num_steps=0) for seed in (0, 1))
    weights = [key for key in parameters(first.guide) if "lstm.weight" in key]
    assert weights
    for key in weights:
        assert (parameters(first.guide)[key] != parameters(other.guide)[key]).any(), key
    if name == "redsunn":
        key = "abundance_prior.weight_0"
        assert (parameters(first.model)[key] != parameters(other.model)[key]).any()
    assert not np.array_equal(first.abundances_std, other.abundances_std)
    trained = [run(name, seed=seed).losses for seed in (0, 1)]
    assert (trained[0] != trained[1]).all()


@pytest.mark.parametrize("kind", ["array", "labelled"])
@pytest.mark.parametrize("name", PRESETS)
def test_given_endmembers_are_used(name, kind):
    matrix = 0.9 * (MATRIX if kind == "labelled" else MATRIX.values)
    before = matrix.copy()
    start = run(name, endmembers=matrix, num_steps=0)
    np.testing.assert_allclose(start.reference_endmembers, matrix, rtol=1e-6)
    names = list(MATRIX.endmember.values) if kind == "labelled" else [0, 1, 2]
    assert list(start.abundances.endmember.values) == names
    trained = run(name, endmembers=matrix)
    kept = np.array_equal(trained.reference_endmembers, start.reference_endmembers)
    assert kept == (name == "unmix")  # where they are known, and where they are the initial ones
    np.testing.assert_array_equal(matrix, before)


def test_a_given_basis_is_used():
    basis = Brightness(0.17)
    result = unmix(SMALL, 3, basis=basis, num_steps=1, progress=False)
    expected = 0.17 * result.reference_endmembers.values[:, None]
    np.testing.assert_allclose(result.dataset["components"], expected, rtol=1e-5)
    cosines = DCT(2, scale=[0.5, 0.1])
    result = run("unmix", basis=cosines)
    expected = reference.dct_components(MATRIX.values, 2) * np.array([0.5, 0.1])[:, None]
    np.testing.assert_allclose(result.dataset["components"], expected, atol=1e-6)


def test_the_number_of_endmembers_may_follow_from_them():
    settings = {"num_steps": 1, "progress": False, **GIVEN["unmix"]}
    assert_same(unmix(SMALL, **settings), unmix(SMALL, 3, **settings))


@pytest.mark.parametrize("name", PRESETS)
def test_settings_of_fit_are_passed_on(name):
    seen: list[int] = []
    result = run(
        name,
        num_steps=4,
        batch_size=5,
        learning_rate=1e-12,
        callback=lambda step, elbo: seen.append(step),
        method="mine",
    )
    assert seen == [0, 1, 2, 3]
    assert result.method == "mine"
    start = run(name, num_steps=0)
    for key, value in parameters(result.model).items():
        np.testing.assert_allclose(value, parameters(start.model)[key], atol=1e-9)
    # 16 pixels in batches of 5: a pass and a quarter are four steps.
    assert len(run(name, num_epochs=1.25, batch_size=5).losses) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_the_users_arrays_stay_as_they_are(name):
    cubes = SMALL.copy(deep=True)
    cubes[0, 1, 2, 3] = np.nan
    before = cubes.copy(deep=True)
    run(name, cubes)
    xr.testing.assert_identical(cubes, before)
    values = before.values.copy()
    run(name, values)
    np.testing.assert_array_equal(values, before.values)


@pytest.mark.usefixtures("told_at_once")
@pytest.mark.parametrize("name", PRESETS)
def test_progress_writes_to_stderr_and_silence_writes_nothing(name, capfd):
    result = run(name, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "3 of 3 steps" in err
    assert f"ELBO/value {-result.losses[-1]:.4f}" in err
    run(name, progress=False)
    assert capfd.readouterr() == ("", "")
    assert inspect.signature(PRESETS[name]).parameters["progress"].default is True


# Recovery


WRONG = [
    ("both", {"num_endmembers": 1}, ValueError, "num_endmembers must be at least 2, got 1"),
    ("both", {"num_endmembers": 2.5}, TypeError, "num_endmembers must be an integer, got 2.5"),
    ("both", {"num_endmembers": True}, TypeError, "num_endmembers must be an integer"),
    (
        "both",
        {"num_endmembers": 33},
        ValueError,
        "num_endmembers = 33 needs at least as many valid spectra and bands, got 32 spectra of "
        "20 bands: lower num_endmembers",
    ),
    ("redsunn", {"num_endmembers": "auto"}, TypeError, "num_endmembers must be an integer"),
    ("unmix", {"num_endmembers": "all"}, ValueError, "must be one of 'auto', got 'all'"),
    (
        "unmix",
        {"num_endmembers": None},
        ValueError,
        "expected num_endmembers, or the spectra of the materials .*: got neither",
    ),
    (
        "redsunn",
        {"endmembers": MATRIX[:, :2]},
        ValueError,
        "num_endmembers is 3, but endmembers are the spectra of 2 materials",
    ),
    (
        "unmix",
        {"endmembers": MATRIX[:, :2]},
        ValueError,
        "num_endmembers is 3, but endmembers are the spectra of 2 materials",
    ),
    (
        "redsunn",
        {"endmembers": MATRIX.values.T},
        ValueError,
        r"endmembers must have one row per band, shape \(20, P\), got \(3, 20\): transpose it",
    ),
    (
        "unmix",
        {"endmembers": MATRIX.values.T},
        ValueError,
        r"endmembers must have one row per band, shape \(20, P\), got \(3, 20\): transpose it",
    ),
    ("redsunn", {"endmembers": MATRIX.values[:12]}, ValueError, r"\(20, P\), got \(12, 3\)"),
    ("unmix", {"endmembers": MATRIX.values[:12]}, ValueError, r"\(20, P\), got \(12, 3\)"),
    ("both", {"endmembers": np.full((20, 3), np.nan)}, ValueError, "endmembers must be finite"),
    ("both", {"endmembers": np.zeros((20, 3))}, ValueError, "must not hold zero spectra"),
    ("redsunn", {"num_basis": 0}, ValueError, "num_basis must be at least 1, got 0"),
    ("redsunn", {"num_basis": 2.5}, TypeError, "num_basis must be an integer, got 2.5"),
    ("redsunn", {"sigma_psi": 0}, ValueError, r"must lie in \(0, inf\), got 0"),
    ("redsunn", {"sigma_psi": "small"}, TypeError, "must be one real number, got 'small'"),
    ("unmix", {"basis": 3}, TypeError, r"basis must be a Basis object such as .*got 3"),
    ("unmix", {"basis": DCT(30)}, ValueError, "needs at least as many bands, got 20: use"),
    ("both", {"num_steps": -1}, ValueError, "num_steps must be at least 0, got -1"),
    ("both", {"num_epochs": 0}, ValueError, r"num_epochs must lie in \(0, inf\), got 0"),
    ("both", {"num_steps": 3, "num_epochs": 2}, ValueError, "pass num_steps or num_epochs"),
    ("both", {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ("both", {"learning_rate": 0}, ValueError, "learning_rate must lie in"),
    ("both", {"steps": 3}, TypeError, "unexpected keyword argument 'steps'"),
    ("both", {"cubes": "scene.nc"}, FileNotFoundError, "no such file: scene.nc"),
    ("both", {"cubes": SMALL * np.nan}, ValueError, "must have a valid pixel"),
    ("both", {"cubes": (SMALL * 1e4).astype(int)}, TypeError, "without a scale: multiply by"),
]


@pytest.mark.parametrize(
    ("name", "settings", "error", "text"),
    [
        pytest.param(name, *rest, id=f"{name}-{'-'.join(rest[0])}-{i}")
        for i, (which, *rest) in enumerate(WRONG)
        for name in (PRESETS if which == "both" else [which])
    ],
)
def test_preset_errors(name, settings, error, text):
    settings = {"cubes": SMALL, "num_endmembers": 3, "progress": False, **settings}
    if name == "unmix":
        settings = {"basis": Brightness(), **settings}  # looks for none
    with pytest.raises(error, match=text):
        PRESETS[name](settings.pop("cubes"), settings.pop("num_endmembers"), **settings)
