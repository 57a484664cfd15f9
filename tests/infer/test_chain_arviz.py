"""Chains in ArviZ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyro_unmix.infer import Sampled, sample
from pyro_unmix.models import LibraryMixing

arviz = pytest.importorskip("arviz")

SPECTRA = np.random.default_rng(2).uniform(0.1, 0.6, (5, 6))
WAVELENGTH = [450.0, 550.0, 650.0, 850.0, 1600.0]


@pytest.fixture(scope="module")
def result() -> Sampled:
    model = LibraryMixing(SPECTRA, ["leaf"] * 3 + ["soil"] * 3, rank=1)
    images = model.simulate(24, 2, seed=1)["pixels"].numpy().reshape(4, 6, 2, 5)
    images = images.transpose(2, 0, 1, 3).clip(0, 1)
    images[1, 0, 0] = np.nan
    return sample(
        model, images, num_rounds=12, num_chains=2, num_spectra=30, num_held_out=5, num_kept=4,
        num_samples=8, num_warmup=2, progress=False,
    )  # fmt: skip


def test_shared_draws_are_those_of_the_chains(result: Sampled) -> None:
    data = result.to_arviz()
    noise = np.stack([chain.stacked("noise_variance") for chain in result.chains])
    np.testing.assert_array_equal(data.posterior["noise_variance"], noise)
    assert data.posterior["endmembers"].dims == ("chain", "draw", "wavelength", "endmember")
    assert data.posterior["endmember"].values.tolist() == ["leaf", "soil"]
    np.testing.assert_allclose(data.sample_stats["weight"].sum("chain"), 1)
    assert float(arviz.rhat(data.posterior["noise_variance"])["noise_variance"]) > 0.5
    assert "not moved apart" in data.posterior.attrs["sampling"]


def test_pixels_are_drawn_under_the_shared_draws(result: Sampled) -> None:
    data = result.to_arviz([0, 7], num_samples=3, seed=2)
    own = data.posterior["abundances"]
    assert own.dims == ("chain", "draw", "pixel", "time", "endmember") and own.shape == (
        2,
        3,
        2,
        2,
        2,
    )
    assert own["pixel"].values.tolist() == [0, 7]
    np.testing.assert_allclose(own.values[:, :, 1].sum(-1), 1)
    assert np.isnan(own.values[:, :, 0, 1]).all()  # what was not observed
    seen = result.cubes.values[:, 1, 1]
    np.testing.assert_array_equal(data.observed_data["reflectance"].values[1], seen)
    again = result.to_arviz([0, 7], num_samples=3, seed=2).posterior["abundances"]
    np.testing.assert_array_equal(own, again)


def test_materials_are_in_the_order_of_the_result(result: Sampled) -> None:
    turned = replace(result, orders=np.array([[0, 1], [1, 0]]))
    one, two = (r.to_arviz([7], seed=2).posterior for r in (result, turned))
    for name in ("endmembers", "abundances"):
        np.testing.assert_array_equal(one[name][0], two[name][0])
        np.testing.assert_array_equal(one[name][1], two[name][1].isel(endmember=[1, 0]))
        assert not np.array_equal(one[name][1], two[name][1])


def test_more_draws_than_were_kept_are_refused(result: Sampled) -> None:
    with pytest.raises(ValueError, match="kept 4 draws each, got num_samples=9"):
        result.to_arviz(num_samples=9)
