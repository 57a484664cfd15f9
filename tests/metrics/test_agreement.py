"""Results side by side, against loops over pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pyro_unmix as pu
from pyro_unmix.metrics import side_by_side

RNG = np.random.default_rng(0)
M = RNG.uniform(0.05, 0.6, (8, 3))
CUBES = RNG.dirichlet(np.ones(3), (2, 3, 4)) @ M.T * RNG.uniform(0.6, 1.1, (2, 3, 4, 1))
CUBES[1, 2, 3] = np.nan


def fcls(spectra: np.ndarray = M, **settings: Any) -> pu.Unmixing:
    return pu.methods.fcls(CUBES, endmembers=spectra, progress=False, **settings)


def test_covers_and_differences_are_those_of_the_pixels() -> None:
    turned = [2, 0, 1]  # its own inverse it is not
    one, two = fcls(), fcls(1.2 * M[:, turned], sum_to_one=False)
    two.dataset["abundances"][0, 1, 1] = np.nan
    found = side_by_side({"one": one, "two": two})
    a, b = one.abundances.values, two.abundances.values
    total, squares, count, errors = np.zeros((2, 3)), 0.0, 0, []
    for t in range(2):
        for y in range(3):
            for x in range(4):
                if (t, y, x) in ((1, 2, 3), (0, 1, 1)):
                    continue
                mine = a[t, y, x]
                other = np.array([b[t, y, x, turned.index(p)] for p in range(3)])
                total += [mine, other]
                squares += float(np.sum((mine - other) ** 2))
                errors.append(float(one.rmse.values[t, y, x]))
                count += 1
    assert count == 22
    np.testing.assert_allclose(found["cover"], total / count, rtol=1e-12)
    expected = math.sqrt(squares / (3 * count))
    np.testing.assert_allclose(found["difference"], [[0, expected], [expected, 0]], rtol=1e-12)
    assert float(found["rmse"][0]) == pytest.approx(np.median(errors))
    assert float(found["rmse_90"][0]) == pytest.approx(np.quantile(errors, 0.9))
    assert float(found["compared"]) == 22 / 24
    assert expected > 0.01


def test_named_materials_go_by_their_names() -> None:
    one, two = fcls(), fcls()
    one.dataset.coords["endmember"] = ["a", "b", "c"]
    two.dataset.coords["endmember"] = ["c", "a", "b"]
    found = side_by_side({"one": one, "two": two})
    assert found["endmember"].values.tolist() == ["a", "b", "c"]
    means = one.abundances.mean(("time", "y", "x")).values
    np.testing.assert_allclose(found["cover"].sel(fit="two"), means[[1, 2, 0]])


def test_results_without_spectra_go_by_names_alone() -> None:
    one, two = fcls(), fcls()
    two = replace(two, dataset=two.dataset.drop_vars(["reference_endmembers"]))
    assert not two.has_endmembers
    for results in ({"one": one, "two": two}, {"two": two, "one": one}):
        with pytest.raises(ValueError, match="by their spectra, and 'two' knows none: give both"):
            side_by_side(results)
    for result in (one, two):  # as advised
        result.dataset.coords["endmember"] = ["a", "b", "c"]
    assert float(side_by_side({"one": one, "two": two})["difference"].max()) == 0


@pytest.mark.parametrize(
    "results, error, text",
    [
        ([1], TypeError, "must map names to results"),
        ({"a": fcls()}, ValueError, "two results at least, got 1"),
        ({"a": fcls(), "b": 3}, TypeError, "must hold what a method returned, got 3 as 'b'"),
        ({"a": fcls(), "b": fcls(M[:, :2])}, ValueError, "with as many materials, got 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(results: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        side_by_side(results)


def test_other_images_are_refused() -> None:
    other = pu.methods.fcls(CUBES[:, :2], endmembers=M, progress=False)
    with pytest.raises(
        ValueError, match=r"same images, got \(2, 2, 4\).* in 'b' and \(2, 3, 4\) in 'a'"
    ):
        side_by_side({"a": fcls(), "b": other})
