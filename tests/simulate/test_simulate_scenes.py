"""Each kind of scene: scaled, of bundles, drawn from a model, and smooth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scene_cases import FLOAT32_ROUNDING, flat_library
from scipy import stats

from pyro_unmix import simulate

# Scaled scene


def test_scaling_starts_uniform_and_moves_by_uniform_steps():
    # With as many bands as knots, the bands are the knots.
    library = np.random.default_rng(0).uniform(0.1, 0.9, (6, 2))
    scene = simulate.scaled_scene(library=library, num_endmembers=2, num_dates=4, seed=5)
    scaling = np.stack([scene.endmembers(t).values / library for t in range(4)])
    steps = np.diff(scaling, axis=0)
    rounding = 2 * FLOAT32_ROUNDING * scaling.max()
    for values, low, high in ((scaling[0], 0.85, 1.15), (steps, -0.1, 0.1)):
        assert values.min() >= low - rounding
        assert values.max() <= high + rounding
        middle, width = (low + high) / 2, high - low
        error = 5 / math.sqrt(values.size)
        assert values.mean() == pytest.approx(middle, abs=width / math.sqrt(12) * error)
        # The kurtosis of the uniform distribution is 1.8.
        relative = math.sqrt(0.8) / 2 * error
        assert values.std() == pytest.approx(width / math.sqrt(12), rel=relative)


def test_scaling_is_linear_between_the_knots():
    library = flat_library(num_bands=16)  # two bands between each two knots, at thirds
    scene = simulate.scaled_scene(library=library, num_endmembers=2, num_dates=2, height=4, width=4)
    scaling = scene.endmembers(1).values / 0.5
    knots = scaling[:, :, ::3]
    third = (2 * knots[:, :, :-1] + knots[:, :, 1:]) / 3
    np.testing.assert_allclose(scaling[:, :, 1::3], third, rtol=1e-13)
    assert np.ptp(knots, axis=2).min() > 0


def test_scaling_of_long_sequences_stays_positive():
    scene = simulate.scaled_scene(
        library=flat_library(6), num_endmembers=2, num_dates=40, height=8, width=8
    )
    scaling = np.stack([scene.endmembers(t).values / 0.5 for t in range(40)])
    rounding = 2 * FLOAT32_ROUNDING * scaling.max()
    assert scaling.min() >= 0.1 - rounding
    assert np.abs(np.diff(scaling, axis=0)).max() <= 0.1 + rounding


def test_a_library_gives_its_first_spectra_names_and_wavelengths():
    library = simulate.library([500, 900, 1600, 2200]).isel(endmember=[5, 2, 0, 1])
    scene = simulate.scaled_scene(library=library.T, num_dates=1, height=2, width=2)
    xr.testing.assert_equal(
        scene.reference_endmembers, library.isel(endmember=slice(3)).rename("reference_endmembers")
    )
    assert list(scene.endmembers().endmember.values) == ["clay", "water", "vegetation"]


def test_a_library_without_names_and_wavelengths():
    library = flat_library(5, 4)
    scene = simulate.scaled_scene(library=library, num_dates=1, height=2, width=2)
    assert "wavelength" not in scene.cubes.coords
    assert list(scene.abundances.endmember.values) == [0, 1, 2]
    library[:] = 7  # the scene has a copy
    assert float(scene.reference_endmembers.max()) == 0.5


# Bundle scene


def test_endmembers_are_drawn_evenly_from_the_bundles():
    rng = np.random.default_rng(0)
    bundles = [rng.uniform(0.1, 0.9, (5, size)) for size in (3, 7, 1)]
    copies = [bundle.copy() for bundle in bundles]
    scene = simulate.bundle_scene(bundles, num_dates=4, height=20, width=20, seed=6)
    assert scene.num_endmembers == 3
    for p, bundle in enumerate(bundles):
        drawn = np.stack([scene.endmembers(t).values[..., p] for t in range(4)])
        equal = (drawn[..., None] == bundle).all(axis=-2)
        np.testing.assert_array_equal(equal.sum(axis=-1), 1)
        if bundle.shape[1] > 1:
            counts = equal.sum(axis=(0, 1, 2))
            assert stats.chisquare(counts).pvalue > 1e-6
            # A draw says nothing of the next pixel or date.
            repeats = (equal[:, :, 1:] & equal[:, :, :-1]).any(axis=-1)
            chance = 1 / bundle.shape[1]
            error = math.sqrt(chance * (1 - chance) / repeats.size)
            assert repeats.mean() == pytest.approx(chance, abs=5 * error)
        np.testing.assert_allclose(
            scene.reference_endmembers.values[:, p], bundle.mean(axis=1), rtol=1e-14
        )
        np.testing.assert_array_equal(bundle, copies[p])


def test_named_bundles_name_the_materials():
    wavelength = [500.0, 700.0, 900.0]
    bundles = [
        xr.DataArray(
            np.full((4, 3), 0.1 * (1 + p)),
            dims=("pixel", "wavelength"),
            coords={"wavelength": wavelength},
            name=name,
        )
        for p, name in enumerate(["lake", "field", "town"])
    ]
    scene = simulate.bundle_scene(bundles, num_endmembers=2, num_dates=1, height=2, width=2)
    assert list(scene.abundances.endmember.values) == ["lake", "field"]
    np.testing.assert_array_equal(scene.cubes.wavelength, wavelength)
    np.testing.assert_allclose(scene.reference_endmembers.values, [[0.1, 0.2]] * 3)


def test_built_in_bundles_vary_as_much_as_measured_ones():
    # Bundles of an airborne image: mean angle to their mean 0.03 to 0.1 rad, brightness 6 to 13 %.
    bundles, reference = simulate.bundle.built_in_bundles(np.random.default_rng(0), 4)
    for bundle, mean in zip(bundles, reference.values.T, strict=True):
        assert 0 < bundle.min() < bundle.max() < 1
        cosines = mean @ bundle / np.linalg.norm(mean) / np.linalg.norm(bundle, axis=0)
        assert 0.02 < np.arccos(cosines).mean() < 0.12
        assert 0.05 < (mean @ bundle / (mean @ mean)).std() < 0.15


# State space


class RandomWalkModel:
    """A stand-in for a model: scaling per material, in float32, with known mixing."""

    def __init__(self) -> None:
        self.reference = np.random.default_rng(0).uniform(0.1, 0.9, (7, 3))

    def sample_sequence(self, num_pixels, num_dates, *, seed=0):
        rng = np.random.default_rng(seed)
        variability = 0.1 * rng.standard_normal((num_pixels, num_dates, 1, 3)).cumsum(axis=1)
        abundances = rng.dirichlet(np.ones(3), (num_pixels, num_dates))
        pixels = np.einsum("ntlp,ntp->ntl", self.mixing_endmembers(variability), abundances)
        return {"pixels": pixels, "abundances": abundances, "variability": variability}

    def mixing_endmembers(self, variability):
        return self.reference * (1 + variability)


class TensorModel(RandomWalkModel):
    """The same with the tensors of a model that is being trained."""

    def sample_sequence(self, num_pixels, num_dates, *, seed=0):
        import torch

        draw = super().sample_sequence(num_pixels, num_dates, seed=seed)
        return {name: torch.tensor(value, requires_grad=True) for name, value in draw.items()}

    def mixing_endmembers(self, variability):
        import torch

        if isinstance(variability, np.ndarray):
            return super().mixing_endmembers(variability)
        return torch.tensor(self.reference) * (1 + variability)


@pytest.mark.parametrize("model", [RandomWalkModel(), TensorModel()])
def test_state_space_scene_is_a_draw_of_the_model(model):
    scene = simulate.state_space(model, num_dates=4, height=3, width=5, seed=8)
    draw = RandomWalkModel().sample_sequence(15, 4, seed=8)
    assert scene.cubes.dims == ("time", "y", "x", "wavelength")
    assert scene.noise_scale is None
    for time, y, x in np.ndindex(4, 3, 5):
        n = 5 * y + x
        np.testing.assert_allclose(
            scene.cubes.values[time, y, x], draw["pixels"][n, time], rtol=FLOAT32_ROUNDING
        )
        np.testing.assert_array_equal(
            scene.abundances.values[time, y, x], draw["abundances"][n, time]
        )
        np.testing.assert_array_equal(
            scene.endmembers(time).values[y, x],
            model.reference * (1 + draw["variability"][n, time]),
        )
    np.testing.assert_array_equal(scene.reference_endmembers.values, model.reference)
    np.testing.assert_allclose(scene.reconstruct(3), scene.cubes[3], rtol=1e-6)


def test_training_the_model_later_leaves_the_truth_as_it_is():
    model = RandomWalkModel()
    scene = simulate.state_space(model, num_dates=2, height=2, width=2)
    before = scene.endmembers(1).values
    model.reference *= 2
    np.testing.assert_array_equal(scene.endmembers(1).values, before)


def test_state_space_scene_with_clouds():
    scene = simulate.state_space(RandomWalkModel(), height=10, width=10, cloud_fraction=0.25)
    missing = np.isnan(scene.cubes.values).any(axis=-1)
    np.testing.assert_array_equal(missing.sum(axis=(1, 2)), 25)


class Broken(RandomWalkModel):
    def __init__(self, **entries) -> None:
        super().__init__()
        self.entries = entries

    def sample_sequence(self, num_pixels, num_dates, *, seed=0):
        draw = {**super().sample_sequence(num_pixels, num_dates, seed=seed), **self.entries}
        return {name: value for name, value in draw.items() if value is not None}


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (object(), TypeError, r"model must have a method 'sample_sequence', got object: pass"),
        (Broken(variability=None), ValueError, r"must return an entry 'variability' \(N, T, K, P"),
        (
            Broken(pixels=np.zeros((6, 3, 7))),
            ValueError,
            r"must return 'pixels' as \(N, T, L\) with N=4, T=2, got shape \(6, 3, 7\)",
        ),
        (
            Broken(abundances=np.zeros((4, 2, 5))),
            ValueError,
            r"as many materials in 'variability' as in 'abundances', 5, got 3",
        ),
    ],
)
def test_state_space_errors(model, error, text):
    with pytest.raises(error, match=text):
        simulate.state_space(model, num_dates=2, height=2, width=2)


# Errors


def test_smooth_scene_is_few_pure_irregular_and_smooth_in_space_and_time():
    scene = simulate.smooth_scene(num_dates=5, height=60, width=60, cloud_fraction=0.0, seed=1)
    days = np.diff(scene.cubes["time"].values) / np.timedelta64(1, "D")
    assert (days >= 3).all() and (days <= 40).all() and np.ptp(days) > 0
    assert (scene.abundances.values.max(-1) > 0.95).mean() < 0.1
    reference = scene.reference_endmembers.values
    scaling = np.stack([scene.endmembers(t).values[:, :, ::40] / reference[::40] for t in range(5)])
    fields = scaling - 1
    assert 0.1 < fields.std() < 0.2  # illumination 0.1 and knots 0.1

    def correlation(one, two):
        return np.corrcoef(one.ravel(), two.ravel())[0, 1]

    beside = correlation(fields[:, :, 1:], fields[:, :, :-1])
    apart = correlation(fields[:, :, 20:], fields[:, :, :-20])
    assert beside > 0.95 and abs(apart) < 0.35
    later = correlation(fields[1:], fields[:-1])
    assert 0.7 < later < 0.97
    # Materials share the illumination, and nothing else.
    bare = simulate.smooth_scene(num_dates=2, height=20, width=20, variability_scale=0.0, seed=1)
    ratio = bare.endmembers(1).values / bare.reference_endmembers.values
    assert np.allclose(ratio, ratio[:, :, :1, :1])
    assert 0.05 < ratio.std() < 0.2


@pytest.mark.parametrize("name", ["illumination_scale", "variability_scale"])
def test_smooth_scene_refuses_negative_scales(name):
    with pytest.raises(ValueError, match=name):
        simulate.smooth_scene(**{name: -0.1})
