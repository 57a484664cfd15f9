"""Selection of spectra against loops over pairs, and merging of libraries."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_unmix.data import (
    library_scores,
    merge_libraries,
    resample_library,
    select_from_library,
    select_iteratively,
    square_array,
)

LIMITS = {"min_fraction": -0.02, "max_fraction": 1.3}
MAX_RMSE = 0.04


def library(seed: int = 0, counts: tuple[int, ...] = (6, 4, 1, 5)) -> xr.DataArray:
    """Classes of smooth spectra that overlap, of different brightness, in mixed order."""
    rng = np.random.default_rng(seed)
    nm = np.linspace(450, 2400, 30)
    columns, labels = [], []
    for number, count in enumerate(counts):
        base = 0.3 + 0.1 * np.sin(nm / (300 + 60 * number) + number)
        for _ in range(count):
            wave = 0.03 * np.sin(nm / rng.uniform(200, 500) + rng.uniform(0, 6))
            columns.append(rng.uniform(0.5, 1.4) * (base + wave))
            labels.append("abcd"[number])
    order = rng.permutation(len(labels))
    return xr.DataArray(
        np.stack(columns, axis=1)[:, order],
        dims=("wavelength", "endmember"),
        coords={
            "wavelength": nm,
            "endmember": [f"s{i}" for i in range(len(labels))],
            "label": ("endmember", np.array(labels)[order]),
        },
    )


def pair(model: np.ndarray, spectrum: np.ndarray) -> tuple[float, bool, float, float]:
    """Fraction, whether it is within the limits, RMSE and angle of one pair."""
    free = np.linalg.lstsq(model[:, None], spectrum, rcond=None)[0][0]
    fraction = min(max(free, LIMITS["min_fraction"]), LIMITS["max_fraction"])
    rmse = math.sqrt(
        sum((y - fraction * x) ** 2 for x, y in zip(model, spectrum, strict=True)) / len(model)
    )
    cosine = float(model @ spectrum / math.sqrt(float((model @ model) * (spectrum @ spectrum))))
    return fraction, fraction == free, rmse, math.acos(min(1.0, cosine))


def loops(given: xr.DataArray) -> dict[str, list[float]]:
    values, labels = given.values, given["label"].values
    scores: dict[str, list[float]] = {"ear": [], "masa": [], "in_cob": [], "out_cob": []}
    for i, own in enumerate(labels):
        mine = [pair(values[:, i], values[:, j]) for j in range(len(labels)) if j != i]
        which = [labels[j] for j in range(len(labels)) if j != i]
        inside = [p for p, label in zip(mine, which, strict=True) if label == own]
        outside = [p for p, label in zip(mine, which, strict=True) if label != own]
        scores["ear"].append(np.mean([p[2] for p in inside]) if inside else np.nan)
        scores["masa"].append(np.mean([p[3] for p in inside]) if inside else np.nan)
        for name, pairs in (("in_cob", inside), ("out_cob", outside)):
            scores[name].append(sum(p[1] and p[2] <= MAX_RMSE for p in pairs))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_the_scores_are_those_of_loops_over_pairs(seed: int) -> None:
    given = library(seed)
    before = given.copy(deep=True)
    got = library_scores(given, max_rmse=MAX_RMSE, **LIMITS)
    xr.testing.assert_identical(given, before)
    expected = loops(given)
    # the fraction of least squares is off by rounding, 1e-16 of reflectances near 0.3; acos by its root
    np.testing.assert_allclose(got["ear"], expected["ear"], rtol=1e-12)
    np.testing.assert_allclose(got["masa"], expected["masa"], atol=1e-8)
    np.testing.assert_array_equal(got["in_cob"], expected["in_cob"])
    np.testing.assert_array_equal(got["out_cob"], expected["out_cob"])
    assert 0 < got["in_cob"].sum() and 0 < got["out_cob"].sum()
    assert np.isnan(got["ear"]).sum() == 1  # the class of one spectrum
    square = square_array(given, **LIMITS)
    assert 0 < square["within"].mean() < 1
    three = pair(given.values[:, 3], given.values[:, 7])
    assert square["fraction"].values[3, 7] == pytest.approx(three[0], rel=1e-12)


def test_missing_bands_do_not_count() -> None:
    given = library()
    holed = given.copy(deep=True)
    holed[4:9] = np.nan
    kept = given.isel(wavelength=np.r_[0:4, 9:30])
    xr.testing.assert_equal(library_scores(holed), library_scores(kept))
    chosen = select_from_library(holed)
    assert chosen.sizes["wavelength"] == 30 and np.isnan(chosen[4:9]).all()


@pytest.mark.parametrize("by", ["ear", "masa", "cob"])
@pytest.mark.parametrize("num_spectra", [1, 3])
def test_the_best_of_every_class_are_chosen(by: str, num_spectra: int) -> None:
    given = library(1)
    scores = loops(given)
    expected = []
    for name in "abcd":
        members = [i for i, label in enumerate(given["label"].values) if label == name]
        if by == "cob":
            members.sort(
                key=lambda i: (-scores["in_cob"][i], scores["out_cob"][i], scores["ear"][i])
            )
        else:
            members.sort(key=lambda i: scores[by][i])
        expected += members[:num_spectra]
    got = select_from_library(given, num_spectra, by=by, max_rmse=MAX_RMSE, **LIMITS)
    xr.testing.assert_identical(got, given.isel(endmember=sorted(expected)))


def kappa_of(given: xr.DataArray, chosen: list[int]) -> float:
    """Cohen's kappa from the confusion matrix, one spectrum after the other."""
    labels = given["label"].values
    names = sorted(set(labels))
    table = np.zeros((len(names), len(names) + 1))
    for j, own in enumerate(labels):
        best, column = math.inf, len(names)
        for i in chosen:
            _, within, rmse, _ = pair(given.values[:, i], given.values[:, j])
            if within and rmse <= MAX_RMSE and rmse < best:
                best, column = rmse, names.index(labels[i])
        table[names.index(own), column] += 1
    table /= table.sum()
    agreed = np.trace(table[:, :-1])
    chance = float(table.sum(1) @ table.sum(0)[:-1])
    return (agreed - chance) / (1 - chance)


@pytest.mark.parametrize("seed", range(2))
def test_iterative_selection_is_greedy_in_kappa(seed: int) -> None:
    given = library(seed, (5, 4, 2, 4))
    size = given.sizes["endmember"]
    chosen: list[int] = []
    best = -math.inf
    while True:  # by brute force
        trials = {i: kappa_of(given, [*chosen, i]) for i in range(size) if i not in chosen}
        added = max(trials, key=lambda i: trials[i], default=None)
        if added is None or not trials[added] > best + 1e-12:
            break
        chosen, best = [*chosen, added], trials[added]
        while len(chosen) > 1:
            fewer = {out: kappa_of(given, [i for i in chosen if i != out]) for out in chosen}
            out = max(fewer, key=lambda i: fewer[i])
            if not fewer[out] > best + 1e-12:
                break
            chosen, best = [i for i in chosen if i != out], fewer[out]
    got = select_iteratively(given, max_rmse=MAX_RMSE, **LIMITS)
    xr.testing.assert_equal(got, given.isel(endmember=sorted(chosen)))
    assert got.attrs["kappa"] == pytest.approx(best, rel=1e-12)
    assert len(chosen) < size and "kappa" not in given.attrs


def test_a_class_without_a_spectrum_is_named(caplog: pytest.LogCaptureFixture) -> None:
    given = library()[:, :1]
    twins = xr.concat([given.assign_coords(label=("endmember", [c])) for c in "ab"], "endmember")
    with caplog.at_level(logging.WARNING, "pyro_unmix"):
        chosen = select_iteratively(twins)
    assert chosen.sizes["endmember"] == 1
    assert "no spectrum of b was chosen" in caplog.text


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda x: select_from_library(x, 0), "num_spectra must be at least 1"),
        (lambda x: select_from_library(x, by="best"), "by must be one of 'ear', 'masa', 'cob', got 'best'"),
        (lambda x: library_scores(x, max_rmse=0.0), "max_rmse must lie"),
        (lambda x: square_array(x, min_fraction=0.1), "min_fraction must lie"),
        (lambda x: square_array(x, max_fraction=0.9), "max_fraction must lie"),
        (lambda x: square_array(0 * x), "must not be zero in all bands, got spectrum 0 of class"),
        (lambda x: square_array(x.drop_vars("label")), "coordinate label along endmember"),
        (lambda x: square_array(x.values), "must be a DataArray"),
        (lambda x: select_iteratively(x[:, x["label"].values == "a"]), "two classes or more, got 'a' alone"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(library())


# Merging


def test_libraries_of_other_bands_are_resampled_to_the_first() -> None:
    pytest.importorskip("spectral")
    one = library(0).assign_coords(fwhm=("wavelength", np.full(30, 70.0)))
    nm = np.arange(400.0, 2500.0, 5)
    two = xr.DataArray(
        np.stack([1e-4 * nm, 2e-4 * nm], axis=1),
        dims=("wavelength", "endmember"),
        coords={
            "wavelength": nm,
            "endmember": ["x", "y"],
            "label": ("endmember", ["a", "e"]),
            "source": ("endmember", ["lab", "lab"]),
        },
    )
    before = two.copy(deep=True)
    merged = merge_libraries([one, two])
    xr.testing.assert_identical(two, before)
    np.testing.assert_array_equal(merged.values[:, :16], one.values)
    np.testing.assert_allclose(
        merged.values[:, 16:], resample_library(two, one["wavelength"], one["fwhm"])
    )
    # a Gaussian leaves a straight line as it is
    np.testing.assert_allclose(merged.sel(endmember="y"), 2e-4 * one["wavelength"], rtol=1e-4)
    assert merged["label"].values[16:].tolist() == ["a", "e"]
    assert merged["source"].values.tolist() == [""] * 16 + ["lab"] * 2
    xr.testing.assert_equal(
        merged["fwhm"].drop_vars("wavelength"), one["fwhm"].drop_vars("wavelength")
    )
    other = merge_libraries([one, two], wavelength=[600.0, 900.0], fwhm=[70.0, 70.0])
    assert other.sizes == {"wavelength": 2, "endmember": 18}


def test_a_band_that_one_library_lacks_is_missing_in_the_whole() -> None:
    one, two = library(0), library(1).assign_coords(endmember=[f"t{i}" for i in range(16)])
    two[3] = np.nan
    merged = merge_libraries([one, two])
    assert np.isnan(merged.values[3]).all() and np.isfinite(np.delete(merged.values, 3, 0)).all()


def named(names: list[str], label: str, level: float) -> xr.DataArray:
    """Flat spectra of one class, each of its own level."""
    return xr.DataArray(
        np.tile(level + 0.01 * np.arange(len(names)), (3, 1)),
        dims=("wavelength", "endmember"),
        coords={
            "wavelength": [500.0, 600.0, 700.0],
            "endmember": names,
            "label": ("endmember", [label] * len(names)),
        },
    )


def test_names_that_an_earlier_library_has_are_numbered_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = [
        named(["soil 1", "soil 2", "soil 4"], "soil", 0.1),
        named(["soil 1", "soil 2", "soil 5"], "soil", 0.3),
        named(["oak", "oak 2"], "leaf", 0.5),
        named(["oak", "soil 1"], "tree", 0.7),
    ]
    with caplog.at_level(logging.INFO, "pyro_unmix"):
        merged = merge_libraries(parts)
    assert merged["endmember"].values.tolist() == [
        *("soil 1", "soil 2", "soil 4", "soil 3", "soil 6", "soil 5", "oak", "oak 2"),
        # Of a class "tree", "soil 1" is no made name.
        *("oak 3", "soil 1 2"),
    ]
    np.testing.assert_array_equal(merged, np.concatenate(parts, axis=1))
    assert "4 spectra have names of earlier ones" in caplog.text
    assert "'soil 1' as 'soil 3'" in caplog.text
    with pytest.raises(ValueError, match="'soil 1' of the class 'soil' is there twice"):
        merge_libraries([*parts, parts[1]])


def test_what_no_file_may_hold_no_merged_library_holds(caplog: pytest.LogCaptureFixture) -> None:
    soil, leaf = named(["a", "b"], "soil", 0.5), named(["c"], "leaf", 0.3)
    with pytest.raises(ValueError, match="'c' has a median of 5000, .* like 1 of 3 spectra: bring"):
        merge_libraries([soil, leaf.copy(data=np.full((3, 1), 5e3))])
    with caplog.at_level(logging.WARNING, "pyro_unmix"):
        merge_libraries([soil, leaf / 100])
    assert "no reflectance of c is above 0.01, as if in another scale" in caplog.text
    like = [
        leaf.assign_coords(label=("endmember", [text]), endmember=[text])
        for text in ("Soil", "soil ", "snow")
    ]
    like = [part + 0.01 * number for number, part in enumerate(like)]
    with pytest.warns(
        UserWarning, match="classes 'soil', 'Soil', 'soil ' differ in case or spaces"
    ) as given:
        merge_libraries([soil, *like])
    assert given[0].filename == __file__
    hollow = [
        part.copy(data=[[0.0] * part.sizes["endmember"], *part.values[1:]]) for part in (soil, leaf)
    ]
    with pytest.warns(UserWarning, match="1 of 3 bands hold the same number, fill, .*: 500"):
        merged = merge_libraries(hollow)
    assert np.isnan(merged[0]).all() and merged[1:].notnull().all()


def test_libraries_without_a_band_in_common_are_refused() -> None:
    one, two = named(["a"], "soil", 0.5), named(["b"], "leaf", 0.3)
    one[:2], two[2:] = np.nan, np.nan
    text = (
        r"no band is left .*library 0 has nothing at 500.0-600.0 nm; library 1 .* 700.0 nm\): merge"
    )
    with pytest.raises(ValueError, match=text):
        merge_libraries([one, two])


def test_what_a_choice_reached_is_not_that_of_the_whole() -> None:
    one = named(["a"], "soil", 0.5).assign_attrs(units="1", kappa=0.9)
    assert merge_libraries([one, named(["b"], "leaf", 0.3)]).attrs == {"units": "1"}


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda x: merge_libraries([]), "expected a list of libraries, got none"),
        (lambda x: merge_libraries(x), "expected a list of libraries, got a single one"),
        (lambda x: merge_libraries([x, x]), "spectrum 's0' of the class 'b' is there twice: give each library once"),
        (lambda x: merge_libraries([x, x.drop_vars("endmember")]), "library 1 has no names of spectra"),
        (lambda x: merge_libraries([x.drop_vars("endmember"), x]), "library 0 has no names of spectra"),
        (lambda x: merge_libraries([x], fwhm=[1.0]), "pass wavelength= with it"),
        (lambda x: merge_libraries([x], wavelength=[300.0, 500.0]), "the library has nothing at 1 of 2"),
    ],
)  # fmt: skip
def test_bad_merges_are_refused(call: Any, text: str) -> None:
    pytest.importorskip("spectral")
    with pytest.raises(ValueError, match=text):
        call(library())
