"""True abundances alone, as an array: what they allow to be scored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from pyro_unmix import metrics

TRUE = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4, 5))
ERROR = 0.1
#: Materials in another order, and all of them off by the same.
RESULT = SimpleNamespace(
    abundances=xr.DataArray(TRUE[..., [2, 0, 1]] + ERROR, dims=("time", "y", "x", "endmember"))
)


def test_materials_are_matched_by_their_abundances() -> None:
    named = xr.DataArray(TRUE, dims=("time", "y", "x", "endmember"))
    relative = [ERROR**2 * image.size / np.sum(image**2) for image in TRUE]
    for truth in (TRUE, named, named.transpose()):
        scores = metrics.score(RESULT, truth)
        assert scores.keys() == {"NRMSE_A", "RMSE_A"}
        assert scores["RMSE_A"] == pytest.approx(ERROR, abs=1e-12)
        assert scores["NRMSE_A"] == pytest.approx(np.sqrt(np.mean(relative)), abs=1e-12)


def test_pixels_without_truth_and_one_image() -> None:
    known = TRUE.copy()
    known[0, :2] = np.nan
    assert metrics.score(RESULT, known)["RMSE_A"] == pytest.approx(ERROR, abs=1e-12)
    first = SimpleNamespace(abundances=RESULT.abundances[:1])
    assert metrics.score(first, TRUE[0])["RMSE_A"] == pytest.approx(ERROR, abs=1e-12)


def test_masked_truth_is_unknown() -> None:
    below = TRUE.copy()
    below[0, :2] = 7  # what lies below the mask is no truth
    masked = np.ma.masked_greater(below, 1)
    assert metrics.score(RESULT, masked) == metrics.score(RESULT, masked.filled(np.nan))
    dates = metrics.rmse_abundances(TRUE + ERROR, masked)
    assert dates == pytest.approx(ERROR, abs=1e-12)
    assert masked.data is not None and (masked.data[0, :2] == 7).all()


def test_truth_with_the_dims_of_other_programs() -> None:
    truth = xr.DataArray(TRUE, dims=("date", "lat", "lon", "endmember"))
    assert metrics.score(RESULT, truth.transpose()) == metrics.score(RESULT, TRUE)


def test_errors() -> None:
    for truth in (TRUE.tolist(), torch.tensor(TRUE)):
        with pytest.raises(TypeError, match=r"truth must be .* got .*: pass np.asarray.truth."):
            metrics.score(RESULT, truth)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got a Dataset: pass truth..abundances"):
        metrics.score(RESULT, RESULT.abundances.to_dataset(name="abundances"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="abundances must have the shape of the truth, .4, 5, 3."):
        metrics.score(RESULT, TRUE[0])
    with pytest.raises(TypeError, match="truth must be a regular array of numbers"):
        metrics.score(RESULT, np.array(["soil"]))
    with pytest.raises(TypeError, match="result must have abundances, got ndarray"):
        metrics.score(TRUE, TRUE)
