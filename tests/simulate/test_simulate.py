from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from pyro_unmix import simulate
from pyro_unmix.data import as_cube_sequence

FLOAT32_ROUNDING = 2.0**-24  # relative


@pytest.fixture(scope="module")
def scaled() -> simulate.Scene:
    return simulate.scaled_scene(seed=1)


@pytest.fixture(scope="module")
def bundled() -> simulate.Scene:
    return simulate.bundle_scene(num_dates=5, seed=1)


def flat_library(num_bands: int, num_endmembers: int = 2) -> np.ndarray:
    return np.full((num_bands, num_endmembers), 0.5)


def clean_cubes(scene: simulate.Scene) -> np.ndarray:
    """M a by a sum written out over the materials."""
    dates = []
    for time, maps in enumerate(scene.abundances.values):
        endmembers = scene.endmembers(time).values
        dates.append(sum(endmembers[..., p] * maps[..., [p]] for p in range(maps.shape[-1])))
    return np.stack(dates)


def change(scene: simulate.Scene) -> np.ndarray:
    return np.abs(np.diff(scene.abundances.values, axis=0)).sum(axis=-1) / 2


# The built-in library


def test_library_has_distinct_reflectances():
    library = simulate.library()
    assert library.dims == ("wavelength", "endmember")
    assert library.sizes["wavelength"] == 224
    assert library.sizes["endmember"] >= 8
    assert float(library.wavelength[0]) == 400.0
    assert float(library.wavelength[-1]) == 2500.0
    assert 0 < float(library.min()) < float(library.max()) < 1
    unit = library.values / np.linalg.norm(library.values, axis=0)
    angles = np.arccos(np.clip(unit.T @ unit, -1, 1))
    assert angles[np.triu_indices(len(angles), 1)].min() > 0.05


def test_library_shows_the_features_of_the_materials():
    def at(name: str, *wavelength: float) -> np.ndarray:
        return simulate.library(wavelength).sel(endmember=name).values

    def depth(name: str, left: float, centre: float, right: float) -> float:
        first, middle, last = at(name, left, centre, right)
        return 1 - middle / np.interp(centre, [left, right], [first, last])

    red, infrared = at("vegetation", 670, 800)
    assert infrared > 5 * red  # the red edge
    for name in ("vegetation", "soil", "clay", "concrete", "dry vegetation"):
        assert depth(name, 1300, 1445, 1650) > 0.02
        assert depth(name, 1780, 1940, 2070) > 0.05
    assert depth("clay", 2100, 2207, 2270) > 0.3
    assert depth("limestone", 2240, 2340, 2450) > 0.2
    assert at("water", 2000)[0] < 0.02
    assert at("snow", 500)[0] > 0.8 > 0.2 > at("snow", 1500)[0]


def test_library_at_other_wavelengths_is_the_same_curve():
    whole = simulate.library()
    some = whole.wavelength.values[[200, 3, 77]]
    np.testing.assert_array_equal(simulate.library(some).values, whole.values[[200, 3, 77]])


@pytest.mark.parametrize(
    ("wavelength", "text"),
    [
        ([0.4, 2.5], r"between 350 and 2600 nm, got 0.4 to 2.5: multiply micrometres by 1000"),
        ([], r"between 350 and 2600 nm, got none"),
        ([[500.0]], r"wavelength must have 1 dimensions, got 2"),
        ([np.nan], r"wavelength must be finite"),
    ],
)
def test_library_errors(wavelength, text):
    with pytest.raises(ValueError, match=text):
        simulate.library(wavelength)


# What all scenes share


@pytest.mark.parametrize("name", ["scaled", "bundled"])
def test_layout(name, request):
    scene = request.getfixturevalue(name)
    num_dates = scene.cubes.sizes["time"]
    num_endmembers = {"scaled": 3, "bundled": 4}[name]
    assert scene.cubes.dims == ("time", "y", "x", "wavelength")
    assert scene.cubes.shape == (num_dates, 50, 50, 224)
    assert scene.cubes.name == "reflectance"
    xr.testing.assert_identical(as_cube_sequence(scene.cubes), scene.cubes)
    assert scene.abundances.dims == ("time", "y", "x", "endmember")
    assert scene.reference_endmembers.dims == ("wavelength", "endmember")
    assert scene.endmembers(1).dims == ("y", "x", "wavelength", "endmember")
    assert scene.reconstruct(1).dims == ("y", "x", "wavelength")
    assert scene.num_endmembers == num_endmembers
    assert list(scene.abundances.endmember.values) == list(
        simulate.library().endmember.values[:num_endmembers]
    )
    for array in (scene.reference_endmembers, scene.endmembers(), scene.cubes):
        np.testing.assert_array_equal(array.wavelength, simulate.library().wavelength)
    with pytest.raises(dataclasses.FrozenInstanceError):
        scene.cubes = scene.cubes


@pytest.mark.parametrize("name", ["scaled", "bundled"])
def test_abundances_lie_on_the_simplex(name, request):
    abundances = request.getfixturevalue(name).abundances.values
    assert abundances.min() >= 0
    # Each of P quotients is rounded once.
    assert np.abs(abundances.sum(axis=-1) - 1).max() <= 8 * np.finfo(float).eps


@pytest.mark.parametrize("name", ["scaled", "bundled"])
def test_noise_is_white_with_the_stated_scale_and_snr(name, request):
    scene = request.getfixturevalue(name)
    clean = clean_cubes(scene)
    noise = scene.cubes.values - clean
    # The relative standard error of a standard deviation of n Gaussian values is 1 / sqrt(2 n).
    error = 5 / math.sqrt(2 * noise.size)
    assert noise.std() == pytest.approx(scene.noise_scale, rel=error)
    snr = 10 * math.log10(np.mean(clean**2) / np.mean(noise**2))
    assert snr == pytest.approx(30.0, abs=20 / math.log(10) * error)
    for date in noise:
        error = 5 / math.sqrt(2 * date.size)
        assert date.std() == pytest.approx(scene.noise_scale, rel=error)
    unit = noise / scene.noise_scale
    for axis in range(4):
        pairs = np.delete(unit, 0, axis) * np.delete(unit, -1, axis)
        assert abs(pairs.mean()) < 5 / math.sqrt(pairs.size)
    assert stats.kstest(unit.ravel()[::7], "norm").pvalue > 1e-6


@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
def test_without_noise_the_cubes_are_the_mixtures(make):
    scene = make(num_dates=3, height=6, width=5, snr_db=math.inf, cloud_fraction=0.0, seed=2)
    assert scene.noise_scale == 0
    np.testing.assert_allclose(scene.cubes, clean_cubes(scene), rtol=FLOAT32_ROUNDING)
    for time in range(3):
        np.testing.assert_allclose(scene.reconstruct(time), clean_cubes(scene)[time], rtol=1e-14)


def test_mixing_in_blocks_of_rows_changes_nothing(monkeypatch):
    sizes = {"num_dates": 2, "height": 7, "width": 5, "snr_db": math.inf}
    for make in (simulate.scaled_scene, simulate.bundle_scene):
        whole = make(**sizes)
        with monkeypatch.context() as patch:
            patch.setattr(simulate.scene, "_LARGEST_BLOCK", 2 * 5 * 224 * 4)
            np.testing.assert_array_equal(make(**sizes).cubes, whole.cubes)


@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
def test_the_seed_and_nothing_else_decides(make):
    sizes = {"num_dates": 3, "height": 8, "width": 7, "cloud_fraction": 0.2}
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = make(**sizes, seed=4), make(**sizes, seed=4), make(**sizes, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.testing.assert_array_equal(first.cubes, again.cubes)
    np.testing.assert_array_equal(first.abundances, again.abundances)
    np.testing.assert_array_equal(first.endmembers(2), again.endmembers(2))
    assert not np.array_equal(first.abundances, other.abundances)
    assert not np.array_equal(first.endmembers(2), other.endmembers(2))


@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
def test_noise_and_clouds_leave_the_truth_as_it_is(make):
    sizes = {"num_dates": 3, "height": 8, "width": 7}
    plain, other = make(**sizes), make(**sizes, snr_db=10, cloud_fraction=0.3)
    np.testing.assert_array_equal(plain.abundances, other.abundances)
    np.testing.assert_array_equal(plain.endmembers(2), other.endmembers(2))


@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.25, 0.999])
def test_clouds_hide_their_share_of_every_date(make, fraction):
    scene = make(num_dates=3, height=20, width=30, cloud_fraction=fraction)
    missing = np.isnan(scene.cubes.values)
    np.testing.assert_array_equal(missing.any(axis=-1), missing.all(axis=-1))
    share = missing.any(axis=-1).mean(axis=(1, 2))
    assert (share <= fraction).all()
    assert (share > fraction - 1 / 600).all()
    assert np.isfinite(scene.abundances.values).all()


def test_clouds_are_compact_and_differ_between_dates():
    scene = simulate.scaled_scene(num_dates=4, height=50, width=50, cloud_fraction=0.2)
    hidden = np.isnan(scene.cubes.values).any(axis=-1)
    # Scattered pixels would have a hidden neighbour in a fifth of the cases.
    assert hidden[:, :, 1:][hidden[:, :, :-1]].mean() > 0.8
    assert not np.array_equal(hidden[0], hidden[1])


def test_smooth_fields_have_unit_variance_and_a_gaussian_correlation():
    # Correlation exp(-d^2 / (4 s^2)) with s = 0.08 * 50 = 4 pixels.
    fields = simulate.maps.smooth_fields(np.random.default_rng(0), 2000, 50, 50)
    corner, near, far = fields[:, 0, 0], fields[:, 0, 6], fields[:, 49, 0]
    error = 5 / math.sqrt(2000)
    assert corner.std() == pytest.approx(1, abs=error / math.sqrt(2))
    assert np.mean(corner * near) == pytest.approx(math.exp(-36 / 64), abs=1.5 * error)
    assert np.mean(corner * far) == pytest.approx(0, abs=error)


@pytest.mark.parametrize("num_endmembers", [2, 3, 6])
def test_abundances_are_smooth_nearly_pure_and_drift_slowly(num_endmembers):
    # The character of published sequences of this kind, with room on either side.
    scene = simulate.scaled_scene(num_endmembers=num_endmembers, seed=3)
    first = scene.abundances.values[0]
    for p in range(num_endmembers):
        left, right = first[:, :-1, p].ravel(), first[:, 1:, p].ravel()
        assert np.corrcoef(left, right)[0, 1] > 0.9
    purest = first.max(axis=-1)
    assert np.median(purest) > 0.75
    assert np.quantile(purest, 0.95) > 0.95
    assert 0.001 < np.median(change(scene)) < 0.04


@pytest.mark.parametrize("seed", range(5))
def test_abrupt_changes_are_local_and_at_inner_dates(seed):
    scene = simulate.scaled_scene(num_dates=6, height=50, width=50, seed=seed)
    jumps = (change(scene) > 0.3).sum(axis=(1, 2))
    # One or two rectangles of at most 10 x 10 pixels at each of the dates 2 to 5 of 6.
    assert (jumps[:-1] <= 200).all()
    assert np.count_nonzero(jumps[:-1]) >= 3
    assert jumps[-1] == 0


def test_an_abrupt_change_gives_one_rectangle_to_a_scarce_material():
    rng = np.random.default_rng(0)
    for _ in range(50):
        before = rng.standard_normal((3, 40, 60))
        after = before.copy()
        simulate.maps.change_abruptly(rng, after)
        changed = (after != before).any(axis=0)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert changed.sum() == rows.size * columns.size
        assert 4 <= rows.size <= 8
        assert 6 <= columns.size <= 12
        share = {}
        for name, logits in (("before", before), ("after", after)):
            weights = np.exp(logits[:, changed])
            share[name] = (weights / weights.sum(axis=0)).mean(axis=1)
        dominant = share["after"].argmax()
        # The floor of 0.001 of the other materials takes at most 0.002 of the purity.
        assert 0.598 <= share["after"][dominant] <= 0.99
        assert share["before"][dominant] <= 1 / 3


@pytest.mark.parametrize("sizes", [(1, 1, 1, 2), (2, 1, 9, 2), (4, 2, 2, 6), (3, 9, 1, 3)])
def test_smallest_scenes(sizes):
    num_dates, height, width, num_endmembers = sizes
    for make in (simulate.scaled_scene, simulate.bundle_scene):
        scene = make(
            num_dates=num_dates,
            height=height,
            width=width,
            num_endmembers=num_endmembers,
            cloud_fraction=0.5,
        )
        assert scene.cubes.shape == (num_dates, height, width, 224)
        assert np.isfinite(scene.cubes.values).any()
        np.testing.assert_allclose(scene.abundances.sum("endmember"), 1, atol=1e-14)


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

NAN_LIBRARY = np.full((4, 3), np.nan)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"num_dates": 0}, ValueError, r"num_dates must be at least 1, got 0"),
        ({"height": 2.5}, TypeError, r"height must be an integer, got 2.5"),
        ({"width": -1}, ValueError, r"width must be at least 1, got -1"),
        ({"num_endmembers": 1}, ValueError, r"num_endmembers must be at least 2, got 1"),
        ({"seed": -1}, ValueError, r"seed must be at least 0, got -1"),
        ({"seed": None}, TypeError, r"seed must be an integer, got None"),
        ({"snr_db": math.nan}, ValueError, r"snr_db must lie in .*, got nan"),
        ({"snr_db": -math.inf}, ValueError, r"snr_db must lie in .*, got -inf"),
        ({"snr_db": "30"}, TypeError, r"snr_db must be one real number, got '30'"),
        ({"cloud_fraction": 1.0}, ValueError, r"cloud_fraction must lie in \[0, 1\), got 1"),
        ({"cloud_fraction": -0.1}, ValueError, r"cloud_fraction must lie in \[0, 1\), got -0.1"),
    ],
)
@pytest.mark.parametrize(
    "make", [simulate.scaled_scene, simulate.bundle_scene, simulate.smooth_scene]
)
def test_errors_of_settings(make, settings, error, text):
    with pytest.raises(error, match=text):
        make(**{"num_dates": 2, "height": 3, "width": 3, **settings})


@pytest.mark.parametrize(
    ("library", "text"),
    [
        (flat_library(5, 2), r"library must hold num_endmembers=3 spectra, got 2: pass more"),
        (np.ones(5), r"library must have 2 dimensions, got 1"),
        (NAN_LIBRARY, r"library must be finite, got 12 NaN"),
        (xr.DataArray(np.ones((5, 3)), dims=("band", "endmember")), r"library must have the dims"),
        (xr.DataArray(np.ones((5, 3)), dims=("wavelength", "name")), r"library must have the dims"),
        (np.eye(5)[:, :3] * 0, r"library must not hold zero spectra"),
    ],
)
def test_errors_of_libraries(library, text):
    with pytest.raises(ValueError, match=text):
        simulate.scaled_scene(library=library, num_dates=2, height=3, width=3)


BUNDLE = np.full((4, 3), 0.5)


@pytest.mark.parametrize(
    ("bundles", "settings", "error", "text"),
    [
        (np.ones((2, 4, 3)), {}, TypeError, r"bundles must be a list .* got ndarray"),
        ([BUNDLE], {}, ValueError, r"number of bundles must be at least 2, got 1"),
        ([BUNDLE, BUNDLE], {"num_endmembers": 3}, ValueError, r"at most the number of bundles, 2"),
        (None, {"num_endmembers": 99}, ValueError, r"at most the number of bundles, 12, got 99"),
        ([BUNDLE, BUNDLE[:3]], {}, ValueError, r"must have the same bands, got \[3, 4\] bands"),
        ([BUNDLE, BUNDLE[0]], {}, ValueError, r"bundles\[1\] must have 2 dimensions, got 1"),
        ([BUNDLE, BUNDLE[:, :0]], {}, ValueError, r"bundles\[1\] must hold spectra"),
        ([BUNDLE, BUNDLE * 0], {}, ValueError, r"bundles\[1\] .* with a zero column: remove it"),
        (
            [BUNDLE, xr.DataArray(BUNDLE, dims=("band", "pixel"))],
            {},
            ValueError,
            r"bundles\[1\] must have the dim 'wavelength' and one other, got \('band', 'pixel'\)",
        ),
        (
            [
                xr.DataArray(BUNDLE, dims=("wavelength", "s"), coords={"wavelength": range(4)}),
                xr.DataArray(BUNDLE, dims=("wavelength", "s"), coords={"wavelength": range(1, 5)}),
            ],
            {},
            ValueError,
            r"bundles must have the same wavelengths",
        ),
    ],
)
def test_errors_of_bundles(bundles, settings, error, text):
    with pytest.raises(error, match=text):
        simulate.bundle_scene(bundles, num_dates=2, height=3, width=3, **settings)


def test_dates_are_positions(bundled):
    np.testing.assert_array_equal(bundled.endmembers(-1), bundled.endmembers(4))
    np.testing.assert_array_equal(bundled.reconstruct(-1), bundled.reconstruct(4))
    for time in (5, -6):
        with pytest.raises(IndexError, match=rf"position of a date, 0 to 4, got {time}"):
            bundled.endmembers(time)


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
