"""Fans of endmembers, over space and over time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from plot_cases import NAMES, SIGHTS, cielab, legend_texts, make_result

import pyro_unmix as pu
from pyro_unmix import plots
from pyro_unmix.plots import fans


def lines(ax: Any, label: str) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata()) for line in ax.lines if line.get_label() == label]


def test_fans_over_space():
    result = make_result()
    figure = plots.plot_endmembers(result, time=1, num_spectra=7)
    assert len(figure.axes) == 3
    pixels = result.spectra[1].reshape(-1, 8, 3)
    for p, ax in enumerate(figure.axes):
        thin = lines(ax, "_spectrum")
        assert len(thin) == 7
        chosen = [np.flatnonzero((pixels[:, :, p] == line).all(axis=1)).item() for line in thin]
        assert len(set(chosen)) == 7  # seven different pixels of that date
        low, middle, high = np.quantile(pixels[:, :, p], [0.05, 0.5, 0.95], axis=0)
        np.testing.assert_allclose(lines(ax, "median")[0], middle)
        np.testing.assert_array_equal(
            lines(ax, "reference")[0], result.reference_endmembers.values[:, p]
        )
        band = ax.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(low.min())
        assert band[:, 1].max() == pytest.approx(high.max())
        assert ax.get_title() == NAMES[p]
        assert ax.get_xlabel() == "wavelength (nm)"
        assert ax.lines[0].get_color() == plots.MATERIAL_COLOURS[p]
    assert figure.axes[0].get_ylabel() == "reflectance"
    assert figure.get_suptitle() == "endmembers over space, t = 1"
    assert legend_texts(figure) == ["7 of 30 pixels", "5–95 %", "median", "reference"]


def test_every_line_of_a_fan_can_be_told_apart_whatever_the_material():
    """Also by colour-blind readers; 10 is some four times the just noticeable difference."""
    result = make_result(num_endmembers=7)
    figure = plots.plot_endmembers(result, truth=make_result(num_endmembers=7, seed=1))
    labels = ("reference", "median", "truth")
    drawn = []
    for ax in figure.axes:
        colours = {line.get_label(): to_rgb(line.get_color()) for line in ax.lines}
        assert colours["_spectrum"] == colours["reference"]  # bold and thin
        drawn.append([colours[label] for label in labels])
    for sight in SIGHTS:
        lab = cielab(np.array(drawn), sight)
        for one, other in itertools.combinations(range(3), 2):
            assert np.linalg.norm(lab[:, one] - lab[:, other], axis=-1).min() > 10
        # Nor are two materials alike.
        between = np.linalg.norm(lab[:, None, 0] - lab[None, :, 0], axis=-1)
        assert between[~np.eye(7, dtype=bool)].min() > 10
    assert len(set(plots.MATERIAL_COLOURS)) == len(plots.MATERIAL_COLOURS) == 7


def test_the_draw_of_pixels_depends_on_the_seed_only():
    result = make_result()

    def drawn(seed: int) -> np.ndarray:
        figure = plots.plot_endmembers(result, num_spectra=5, seed=seed)
        return np.array(lines(figure.axes[0], "_spectrum"))

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


def test_fans_over_time():
    result = make_result()
    result.spectra[1, 2, 3] = np.nan  # a date without an estimate is left out
    for figure in (
        plots.plot_endmembers_over_time(result, pixel=(2, -2)),
        plots.plot_endmembers(result, over="time", pixel=(2, 3)),
    ):
        for p, ax in enumerate(figure.axes):
            thin = np.array(sorted(lines(ax, "_spectrum"), key=lambda y: y[0]))
            expected = np.array(sorted(result.spectra[[0, 2], 2, 3, :, p], key=lambda y: y[0]))
            np.testing.assert_array_equal(thin, expected)
        assert figure.get_suptitle() == "endmembers over time, pixel (y, x) = (2, 3)"
        assert legend_texts(figure)[0] == "all 2 dates"
    assert legend_texts(plots.plot_endmembers_over_time(make_result(1)))[0] == "1 date"


def test_truth_of_the_fans():
    result, truth = make_result(), make_result(seed=1)
    figure = plots.plot_endmembers(result, time=2, truth=truth)
    pixels = truth.spectra[2].reshape(-1, 8, 3)
    for p, ax in enumerate(figure.axes):
        low, middle, high = np.quantile(pixels[:, :, p], [0.05, 0.5, 0.95], axis=0)
        np.testing.assert_allclose(lines(ax, "truth")[0], middle)
        np.testing.assert_allclose(lines(ax, "_truth band"), [low, high])
        (line,) = [line for line in ax.lines if line.get_label() == "truth"]
        assert line.is_dashed()
    assert legend_texts(figure)[-1] == "truth: median, 5–95 %"
    # One set of spectra, with its materials in another order.
    turned = truth.reference_endmembers.isel(endmember=[1, 2, 0])
    figure = plots.plot_endmembers_over_time(result, truth=turned)
    for p, ax in enumerate(figure.axes):
        expected = truth.reference_endmembers.values[:, p]
        np.testing.assert_array_equal(lines(ax, "truth")[0], expected)
        assert not lines(ax, "_truth band")


def test_the_truth_is_shown_where_odd_values_are_left_out():
    result, truth = make_result(), make_result(seed=1)
    result.spectra[2, 0, 0, 3] = 60.0  # far from all others
    truth.spectra[2] += 2.0
    for ax in plots.plot_endmembers(result, time=2, truth=truth).axes:
        low, high = ax.get_ylim()
        assert high < 10  # the odd value is left out still
        (note,) = [text.get_text() for text in ax.texts]
        assert note.startswith("reaches from") and note.endswith("60")
        for line in [*lines(ax, "truth"), *lines(ax, "_truth band")]:
            assert low < np.nanmin(line) and np.nanmax(line) < high


def reference_line(ax: Any) -> Any:
    return next(line for line in ax.lines if line.get_label() == "reference")


def test_wavelengths_are_sorted_and_gaps_break_the_lines():
    # 400, 410, ..., 670, (gap of 60) 730, 740, 770: 30 is not more than three times 10.
    sorted_ = np.array([*range(400, 680, 10), 730, 740, 770], dtype=float)
    order = np.random.default_rng(0).permutation(31)
    result = make_result(wavelength=sorted_[order])
    line = reference_line(plots.plot_endmembers(result).axes[2])
    x, y = line.get_data()
    np.testing.assert_array_equal(np.delete(x, 28), sorted_)
    given = result.reference_endmembers.values[:, 2]
    np.testing.assert_array_equal(np.delete(y, 28), given[np.argsort(order)])
    assert np.isnan(y[28]) and 670 < x[28] < 730
    assert list(line.get_markevery()) == []


def test_a_band_between_two_gaps_gets_a_marker():
    wavelength = np.array([*range(400, 680, 10), 900, 1600], dtype=float)
    assert len(wavelength) == 30
    result = make_result(wavelength=wavelength)
    line = reference_line(plots.plot_endmembers(result).axes[0])
    x, y = line.get_data()
    np.testing.assert_array_equal(x[line.get_markevery()], [900.0, 1600.0])
    np.testing.assert_array_equal(
        y[line.get_markevery()], result.reference_endmembers.values[[28, 29], 0]
    )


@pytest.mark.parametrize(
    "wavelength",
    [
        # Sentinel-2, B1 to B12 with B8A after B8
        [443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190],
        [*range(400, 670, 10), 900, 1600],  # 29 bands
        [550],
    ],
)
def test_few_bands_are_all_marked_and_connected(wavelength):
    wavelength = np.array(wavelength, dtype=float)
    result = make_result(wavelength=wavelength)
    figure = plots.plot_endmembers(result, truth=make_result(seed=1, wavelength=wavelength))
    for ax in figure.axes:
        for line in ax.lines:
            x, y = line.get_data()
            np.testing.assert_array_equal(x, wavelength)
            assert np.isfinite(y).all()
            assert line.get_linestyle() != "None" and line.get_marker() == "o"
            np.testing.assert_array_equal(x[line.get_markevery()], wavelength)


def test_without_wavelengths_the_axis_is_the_band():
    ax = plots.plot_endmembers(make_result(wavelength=None)).axes[0]
    assert ax.get_xlabel() == "band"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(8))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"time": 3}, ValueError, "expected time between -3 and 2, got 3"),
        ({"over": "date"}, ValueError, "expected over='space' or over='time', got 'date'"),
        ({"pixel": (0, 0)}, ValueError, "use over='time' to follow one pixel"),
        ({"over": "time", "pixel": 3}, ValueError, r"expected pixel as \(y, x\), got 3"),
        ({"over": "time", "pixel": (6, 0)}, ValueError, "expected pixel y between -6 and 5"),
        ({"num_spectra": 0}, ValueError, "expected num_spectra of at least 1, got 0"),
        ({"truth": 3}, TypeError, r"expected truth with a method `.endmembers\(time\)`"),
        ({"truth": make_result(num_endmembers=2)}, ValueError, "expected truth with 3 materials"),
        ({"truth": make_result(num_bands=9)}, ValueError, "expected truth with 8 bands, got 9"),
        (
            {"truth": make_result(num_bands=9).reference_endmembers},
            ValueError,
            "expected truth with dims .* and 8 bands",
        ),
        (
            {"truth": make_result(wavelength=np.linspace(500.0, 900.0, 8))},
            ValueError,
            r"expected truth at the wavelengths of the endmembers \(400, ..., 1100 nm\)",
        ),
    ],
)
def test_fans_of_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.plot_endmembers(make_result(), **arguments)


def test_fans_without_any_spectrum():
    result = make_result()
    result.spectra[1] = np.nan
    with pytest.raises(ValueError, match="finite endmembers of the result at date 1, got NaN"):
        plots.plot_endmembers(result, time=1)
    with pytest.raises(
        TypeError, match=r"expected result with a method `.endmembers\(time\)`, got"
    ):
        plots.plot_endmembers(SimpleNamespace(abundances=result.abundances))


def test_of_large_images_the_spectra_of_some_observed_pixels_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fans, "MAX_BAND_SPECTRA", 10)
    rng = np.random.default_rng(0)
    spectra = rng.uniform(size=(2, 6, 7, 4, 2))
    coords = {"y": np.arange(6), "x": np.arange(7), "endmember": ["a", "b"]}
    dims = ("time", "y", "x")
    valid = rng.uniform(size=(2, 6, 7)) < 0.5
    dataset = xr.Dataset(
        {
            "abundances": ((*dims, "endmember"), rng.dirichlet([1, 1], (2, 6, 7))),
            "endmembers": ((*dims, "wavelength", "endmember"), spectra),
            "valid": (dims, valid),
        },
        coords=coords,
    )
    result = pu.Unmixing(dataset)
    made: list[tuple[int, ...]] = []

    def counted(self: pu.Unmixing, time: int = 0) -> xr.DataArray:
        made.append((self.dataset.sizes["y"], self.dataset.sizes["x"]))
        return endmembers(self, time)

    endmembers = pu.Unmixing.endmembers
    monkeypatch.setattr(pu.Unmixing, "endmembers", counted)
    figure = plots.plot_endmembers(result, time=1, truth=result)
    assert made == [(1, 10), (1, 10)]
    assert legend_texts(figure)[0] == f"10 of {valid[1].sum()} pixels"
    observed = spectra[1][valid[1]]
    thin = np.array(lines(figure.axes[0], "_spectrum"))
    places = [np.flatnonzero((observed[..., 0] == line).all(1)).item() for line in thin]
    assert len(set(places)) == 10
    np.testing.assert_allclose(
        lines(figure.axes[1], "median")[0], np.median(observed[places, :, 1], axis=0)
    )
    np.testing.assert_array_equal(
        lines(figure.axes[1], "truth")[0], lines(figure.axes[1], "median")[0]
    )
    made.clear()
    figure = plots.plot_endmembers_over_time(result, pixel=(2, 3))
    assert made == [(1, 1), (1, 1)]
    np.testing.assert_array_equal(
        np.sort(lines(figure.axes[0], "_spectrum"), 0), np.sort(spectra[:, 2, 3, :, 0], 0)
    )


def test_a_single_image_has_no_time() -> None:
    one = make_result(1)
    assert plots.plot_endmembers(one).get_suptitle() == "endmembers over space"
    title = plots.plot_endmembers_over_time(one, pixel=(2, 3)).get_suptitle()
    assert title == "endmembers of pixel (y, x) = (2, 3)"


def test_one_bad_value_does_not_flatten_the_spectra() -> None:
    result = make_result(1, 12, 12, num_bands=40)
    spectra = result.endmembers(0)
    before = plots.plot_endmembers(result).axes
    spectra.values[5, 5, 20, 1] = 30.0
    after = plots.plot_endmembers(
        SimpleNamespace(**{**vars(result), "endmembers": lambda t: spectra}), num_spectra=144
    ).axes
    assert after[1].get_ylim()[1] < 1.0  # reflectances are 0.6 at most
    notes = [[text.get_text() for text in ax.texts] for ax in after]
    assert notes[0] == [] and notes[1][0].endswith("to 30")
    assert all(not ax.texts for ax in before)
