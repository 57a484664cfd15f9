"""The explorer without a browser: what it shows is what the result holds there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import pyro_unmix as pu
from pyro_unmix.plots.pixels import Pixels

pytest.importorskip("panel")
SCENE = pu.simulate.scaled_scene(num_dates=3, height=5, width=6, seed=0)
Y, X = 3, 1


@pytest.fixture(scope="module")
def fitted() -> pu.Unmixing:
    model = pu.SGLMM(SCENE.reference_endmembers, basis=pu.Brightness())
    guide = pu.ConjugateGuide(model, correction=False)
    return pu.fit(model, guide, SCENE.cubes, num_steps=2, progress=False)


@pytest.fixture(scope="module")
def without_posterior() -> pu.Unmixing:
    return pu.methods.fcls(SCENE.cubes[:1], endmembers=SCENE.reference_endmembers, progress=False)


def test_the_curves_of_a_pixel(fitted: pu.Unmixing) -> None:
    explorer = fitted.explore()
    explorer.choose(pixel=(Y, X), time=2, material=1)
    curves = explorer._curves
    assert_allclose(curves["measured"].data["y"], SCENE.cubes[2, Y, X])
    assert_array_equal(curves["measured"].data["x"], SCENE.cubes["wavelength"])
    spectra = fitted.endmembers(2)[Y, X].transpose("wavelength", "endmember").values
    fit = spectra @ fitted.abundances[2, Y, X].values
    assert_allclose(curves["fit"].data["y"], fit, rtol=1e-5)
    lower, upper = fitted.interval(0.9)[:, :, Y, X].values
    for p in range(3):
        assert_allclose(explorer._means[p].data["y"], fitted.abundances[:, Y, X, p])
        assert_allclose(explorer._bands[p].data["low"], lower[:, p])
        assert_allclose(explorer._bands[p].data["high"], upper[:, p])
    assert_array_equal(explorer._image.data["image"][0], fitted.abundances[2, :, :, 1])
    assert explorer._mark.data == {"x": [X + 0.5], "y": [Y + 0.5]}
    assert explorer._map.title.text == "soil, t = 2"
    assert "pixel (y, x) = (3, 1), t = 2" in explorer._said.object
    assert "90 % credible intervals" in explorer._said.object


def test_a_click_and_the_controls(fitted: pu.Unmixing) -> None:
    explorer = fitted.explore()
    explorer._clicked(SimpleNamespace(x=4.2, y=0.9))
    assert explorer.pixel == (0, 4)
    explorer._clicked(SimpleNamespace(x=6.1, y=0.9))  # beside the map
    assert explorer.pixel == (0, 4)
    explorer._ask_material.value = 2
    explorer._ask_date.value = 1
    assert (explorer.material, explorer.time) == (2, 1)
    assert_array_equal(explorer._image.data["image"][0], fitted.abundances[1, :, :, 2])


def test_without_a_posterior_and_without_images(without_posterior: pu.Unmixing) -> None:
    explorer = without_posterior.explore()
    assert "no intervals: the method has no posterior" in explorer._said.object
    assert len(explorer._bands[0].data["x"]) == 0
    assert explorer._means[0].data["x"] == ["vegetation"]  # no time where there is one date
    bare = Pixels(SimpleNamespace(  # type: ignore[arg-type]
        abundances=without_posterior.abundances, cubes=None,
        reference_endmembers=without_posterior.reference_endmembers, has_endmembers=False,
    ))  # fmt: skip
    assert bare.observed(0, Y, X) is None and bare.fitted(0, Y, X) is None
    assert_array_equal(bare.bands, SCENE.cubes["wavelength"])


def test_bounds_of_large_scenes_are_of_mean_and_std(
    fitted: pu.Unmixing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_unmix.plots.pixels.MOST_DRAWN", 89)
    pixels = Pixels(fitted)
    bounds = pixels.bounds(Y, X)
    assert bounds is not None and "1.64 standard deviations" in pixels.kind_of_bounds
    mean, std = fitted.abundances[:, Y, X].values, fitted.abundances_std[:, Y, X].values
    assert_allclose(bounds[0], (mean - 1.6448536 * std).clip(0, 1), atol=1e-6)
    assert_allclose(bounds[1], (mean + 1.6448536 * std).clip(0, 1), atol=1e-6)


def test_large_maps_are_thinned_in_place(
    fitted: pu.Unmixing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_unmix.plots.explorer._MOST_PIXELS", 3)
    explorer = fitted.explore()  # 5 x 6, every second pixel
    assert_array_equal(explorer._image.data["image"][0], fitted.abundances[0, ::2, ::2, 0])
    glyph = explorer._map.renderers[0].glyph
    assert (glyph.dh, glyph.dw) == (6, 6)  # three of two pixels each


def test_one_pixel_is_reconstructed_at_a_click(
    fitted: pu.Unmixing, without_posterior: pu.Unmixing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconstruct, sizes = pu.Unmixing.reconstruct, []

    def watched(self: pu.Unmixing, time: int = 0) -> xr.DataArray:
        sizes.append(self.valid.shape[1:])
        return reconstruct(self, time)

    monkeypatch.setattr(pu.Unmixing, "reconstruct", watched)
    for result in (fitted, without_posterior):
        fit = Pixels(result).fitted(0, Y, X)
        assert fit is not None
        assert_allclose(fit, reconstruct(result, 0)[Y, X], rtol=1e-6)
    assert sizes == [(1, 1), (1, 1)]


def test_errors(fitted: pu.Unmixing, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = fitted.explore()
    with pytest.raises(ValueError, match="pixel y between -5 and 4, got 5"):
        explorer.choose(pixel=(5, 0))
    with pytest.raises(ValueError, match="time between -3 and 2, got 3"):
        explorer.choose(time=3)
    before = explorer.pixel, explorer.time, explorer.material
    with pytest.raises(ValueError, match="material between -3 and 2, got 3"):
        explorer.choose(pixel=(0, 0), time=2, material=3)
    assert (explorer.pixel, explorer.time, explorer.material) == before  # all or nothing
    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(ImportError, match=r"pip install .pyro-unmix\[view\]"):
        fitted.explore()


def test_pictures_are_methods_of_a_result(fitted: pu.Unmixing) -> None:
    drawn = {
        "abundances": pu.plots.plot_abundances,
        "composite": pu.plots.plot_abundance_composite,
        "endmembers": pu.plots.plot_endmembers,
        "endmembers_over_time": pu.plots.plot_endmembers_over_time,
        "uncertainty": pu.plots.plot_uncertainty,
        "rmse": pu.plots.plot_rmse,
        "change": pu.plots.plot_change,
        "losses": pu.plots.plot_losses,
        "nonlinearity": pu.plots.plot_nonlinearity,
    }
    for name, function in drawn.items():
        ours, theirs = getattr(fitted.plot, name)(), function(fitted)
        assert [ax.get_title() for ax in ours.axes] == [ax.get_title() for ax in theirs.axes], name
        for one, two in zip(ours.axes, theirs.axes, strict=True):
            for image, other in zip(one.images, two.images, strict=True):
                assert_array_equal(image.get_array(), other.get_array())
    public = {name for name in dir(fitted.plot) if not name.startswith("_")}
    assert public == {*drawn, "latents", "unit_maximum"}
    assert len(fitted.plot(dates=[0]).axes) == len(pu.plots.plot_abundances(fitted, dates=[0]).axes)
    maps = fitted.plot.unit_maximum(dates=[1]).axes[0].images[0].get_array()
    assert_allclose(np.ma.getdata(maps), fitted.unit_maximum()[1, :, :, 0])
