"""What all simulated scenes share: the built-in library, layout, noise, clouds and seeds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import xarray as xr
from scene_cases import FLOAT32_ROUNDING
from scipy import stats

from pyro_unmix import simulate
from pyro_unmix.data import as_cube_sequence


@pytest.fixture(scope="module")
def scaled() -> simulate.Scene:
    return simulate.scaled_scene(seed=1)


@pytest.fixture(scope="module")
def bundled() -> simulate.Scene:
    return simulate.bundle_scene(num_dates=5, seed=1)


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


def test_dates_are_positions(bundled):
    np.testing.assert_array_equal(bundled.endmembers(-1), bundled.endmembers(4))
    np.testing.assert_array_equal(bundled.reconstruct(-1), bundled.reconstruct(4))
    for time in (5, -6):
        with pytest.raises(IndexError, match=rf"position of a date, 0 to 4, got {time}"):
            bundled.endmembers(time)
