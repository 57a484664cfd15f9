"""The transformer for tables of spectra, by scikit-learn's own checks and by hand."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import pyro_unmix as pu

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

RNG = np.random.default_rng(0)
SPECTRA = RNG.uniform(0.1, 0.6, size=(3, 12))  # (P, L)
FRACTIONS = np.vstack([np.eye(3), RNG.dirichlet(np.ones(3), size=60)])
ROWS = FRACTIONS @ SPECTRA


@parametrize_with_checks([pu.Unmixer(), pu.Unmixer(num_endmembers=2, seed=3)])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_materials_of_exact_mixtures_are_found() -> None:
    unmixer = pu.Unmixer(3).fit(ROWS)
    order = [int(np.abs(SPECTRA - row).sum(axis=1).argmin()) for row in unmixer.components_]
    assert sorted(order) == [0, 1, 2]
    assert_allclose(unmixer.components_, SPECTRA[order], atol=1e-12)
    assert_allclose(unmixer.transform(ROWS), FRACTIONS[:, order], atol=1e-6)
    assert_allclose(unmixer.inverse_transform(unmixer.transform(ROWS)), ROWS, atol=1e-6)
    assert list(unmixer.get_feature_names_out()) == ["unmixer0", "unmixer1", "unmixer2"]


def test_given_spectra_and_a_pipeline() -> None:
    before = ROWS.copy()
    scale = FunctionTransformer(lambda rows: rows * 2)
    pipe = make_pipeline(scale, pu.Unmixer(endmembers=2 * SPECTRA))
    assert_allclose(pipe.fit_transform(ROWS), FRACTIONS, atol=1e-6)
    assert_array_equal(ROWS, before)
    assert clone(pipe[-1]).endmembers is not None


def test_a_method_with_a_posterior() -> None:
    settings = {"num_steps": 2, "polish": False}

    def method(cubes: Any, count: int, **how: Any) -> pu.Unmixing:
        return pu.unmix(cubes, count, **how, **settings)

    unmixer = pu.Unmixer(endmembers=SPECTRA, method=method).fit(ROWS)
    assert unmixer.result_.abundances.shape == (1, 63, 1, 3)
    ours = unmixer.transform(ROWS[:5])
    theirs = unmixer.result_.predict(ROWS[None, :5, None]).abundances.values[0, :, 0]
    assert_array_equal(ours, theirs)
    assert unmixer.result_.interval(0.9).shape == (2, 1, 63, 1, 3)
    plain = pu.Unmixer(endmembers=SPECTRA, method=pu.methods.fcls).fit(ROWS)
    assert_allclose(plain.transform(ROWS), FRACTIONS, atol=1e-6)


@pytest.mark.parametrize("given", [None, SPECTRA])
@pytest.mark.parametrize("name", ["fcls", "nnls", "sparse_regression", "mesma", "kalman_em"])
def test_other_rows_are_unmixed_by_the_method_itself(name: str, given: np.ndarray | None) -> None:
    rng = np.random.default_rng(2)
    dim = ROWS * rng.uniform(0.5, 0.9, size=(63, 1))  # fractions that sum to less than one
    method = getattr(pu.methods, name)
    unmixer = pu.Unmixer(3, endmembers=given, method=method)
    found = unmixer.fit_transform(dim)
    if name != "kalman_em":  # which goes on from the spectra that it is given
        assert_allclose(found, unmixer.result_.abundances[0, :, 0], atol=1e-6)
    assert unmixer.transform(dim[:4]).shape == (4, 3)
    if given is not None and name == "nnls":
        assert_allclose(found, FRACTIONS, atol=1e-4)  # as shares of what is lit


def test_shade_is_asked_for_again() -> None:
    def shaded(cubes: Any, count: int, **how: Any) -> pu.Unmixing:
        return pu.methods.fcls(cubes, count, shade=True, **how)

    unmixer = pu.Unmixer(endmembers=SPECTRA, method=shaded)
    assert_allclose(unmixer.fit_transform(0.6 * ROWS), FRACTIONS, atol=1e-4)


def test_without_scikit_learn_the_package_can_be_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "Unmixer" in dir(pu)
    monkeypatch.delitem(sys.modules, "pyro_unmix.methods.unmixer")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    names = [name for name, _ in inspect.getmembers(pu)]
    assert "Unmixer" not in names and "unmix" in names
    assert not hasattr(pu, "Unmixer")
    with pytest.raises(AttributeError, match=r"needs sklearn: pip install .pyro-unmix\[sklearn\]"):
        pu.Unmixer  # noqa: B018
    with pytest.raises(ImportError, match=r"needs sklearn: pip install .pyro-unmix\[sklearn\]"):
        importlib.import_module("pyro_unmix.methods.unmixer")


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_endmembers is 13, but n_samples = 63 and n_features"):
        pu.Unmixer(13).fit(ROWS)
    with pytest.raises(TypeError, match="num_endmembers must be an integer"):
        pu.Unmixer(2.5).fit(ROWS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got 'fcls': pass pu.methods.fcls"):
        pu.Unmixer(3, method="fcls").fit(ROWS)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"of 12 bands, a row each, got the shape .12, 3.: transpose"
    ):
        pu.Unmixer(endmembers=SPECTRA.T).fit(ROWS)
    holed = np.where(np.arange(12) == 3, np.nan, SPECTRA)
    with pytest.raises(ValueError, match="endmembers must be finite, got NaN .* in 3 of 3 spectra"):
        pu.Unmixer(endmembers=holed).fit(ROWS)
    with pytest.raises(ValueError, match=r"fractions of shape .n, 3., .* got .63, 12."):
        pu.Unmixer(3).fit(ROWS).inverse_transform(ROWS)
