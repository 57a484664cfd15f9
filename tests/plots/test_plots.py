"""The pictures: what is drawn is compared with the arrays of a small made-up result."""

from __future__ import annotations

import copy
import itertools
import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from pyro_unmix import plots

EXAMPLES = Path(__file__).parents[2] / "examples"

NAMES = ["water", "vegetation", "soil", "road", "snow", "sand", "tree", "roof", "ice"]


def make_result(
    num_dates=3, height=6, width=5, num_endmembers=3, num_bands=8, *, seed=0, **options: Any
) -> SimpleNamespace:
    """A result with the attributes of `Unmixing`, filled with random numbers."""
    rng = np.random.default_rng(seed)
    labels = options.get("labels", NAMES[:num_endmembers])
    coords: dict[str, Any] = {"endmember": labels}
    if options.get("time") is not None:
        coords["time"] = options["time"]
    if options.get("tile") is not None:
        coords["tile"] = ("y", options["tile"])
    shape = (num_dates, height, width)
    abundances = xr.DataArray(
        rng.dirichlet(np.ones(num_endmembers), size=shape),
        dims=("time", "y", "x", "endmember"),
        coords=coords,
    )
    wavelength = options.get("wavelength", np.linspace(400.0, 1100.0, num_bands))
    spectral: dict[str, Any] = {"endmember": labels}
    if wavelength is not None:
        spectral["wavelength"] = wavelength
    num_bands = num_bands if wavelength is None else len(wavelength)
    reference = rng.uniform(0.1, 0.5, size=(num_bands, num_endmembers))
    spectra = reference * rng.uniform(0.8, 1.2, size=(*shape, 1, num_endmembers))
    change = rng.uniform(size=shape)
    change[0] = np.nan

    def endmembers(time: int = 0) -> xr.DataArray:
        dims = ("y", "x", "wavelength", "endmember")
        return xr.DataArray(spectra[time], dims=dims, coords=spectral)

    return SimpleNamespace(
        abundances=abundances,
        abundances_std=0.1 * abundances,
        reference_endmembers=xr.DataArray(
            reference, dims=("wavelength", "endmember"), coords=spectral
        ),
        endmembers=endmembers,
        spectra=spectra,  # not part of a result: what the tests compare with
        change=xr.DataArray(
            change, dims=shape_dims, coords={k: v for k, v in coords.items() if k != "endmember"}
        ),
        valid=xr.DataArray(np.ones(shape, dtype=bool), dims=shape_dims),
        losses=rng.normal(size=100),
    )


shape_dims = ("time", "y", "x")
DAYS = np.array(["2014-04-10", "2014-06-02", "2014-09-19"], dtype="datetime64[ns]")


def images(figure: Figure) -> list[np.ndarray]:
    """The drawn maps in the order of the axes, without colour bars."""
    return [np.ma.getdata(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def lines(ax: Any, label: str) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata()) for line in ax.lines if line.get_label() == label]


# ---------------------------------------------------------------------------------------- maps


def test_abundances_one_row_per_material_one_column_per_date():
    result = make_result(time=DAYS)
    figure = plots.plot_abundances(result)
    drawn = images(figure)
    assert len(drawn) == 3 * 3
    assert len(figure.axes) == 3 * 3 + 1  # one colour bar for all
    for p, t in itertools.product(range(3), range(3)):
        np.testing.assert_array_equal(drawn[3 * p + t], result.abundances.values[t, :, :, p])
    assert [ax.get_title() for ax in figure.axes[:3]] == ["2014-04-10", "2014-06-02", "2014-09-19"]
    assert [ax.get_ylabel() for ax in figure.axes[:9:3]] == ["water", "vegetation", "soil"]
    assert figure.axes[-1].get_ylabel() == "abundance (fraction)"
    assert {ax.images[0].get_clim() for ax in figure.axes[:9]} == {(0.0, 1.0)}


def test_the_dims_of_a_result_are_read_by_name():
    result = make_result()
    turned = SimpleNamespace(abundances=result.abundances.transpose("endmember", "x", "y", "time"))
    for ours, theirs in zip(
        images(plots.plot_abundances(result)), images(plots.plot_abundances(turned)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_titles_of_dates():
    no_coordinate = plots.plot_abundances(make_result())
    assert [ax.get_title() for ax in no_coordinate.axes[:3]] == ["t = 0", "t = 1", "t = 2"]
    numbers = plots.plot_abundances(make_result(time=[735000, 735016.5, 7350001]))
    assert [ax.get_title() for ax in numbers.axes[:3]] == [
        "t = 735000",
        "t = 735016.5",
        "t = 7350001",
    ]
    hours = np.array(["2020-01-01T06", "2020-01-01T12", "2020-01-02T06"], dtype="datetime64[ns]")
    same_day = plots.plot_abundances(make_result(time=hours))
    assert same_day.axes[1].get_title() == "2020-01-01\n12:00"


def test_truth_lies_under_each_material():
    result, truth = make_result(), make_result(seed=1)
    figure = plots.plot_abundances(result, truth=truth)
    drawn = images(figure)
    assert len(drawn) == 2 * 3 * 3
    for p, t in itertools.product(range(3), range(3)):
        np.testing.assert_array_equal(drawn[6 * p + t], result.abundances.values[t, :, :, p])
        np.testing.assert_array_equal(drawn[6 * p + 3 + t], truth.abundances.values[t, :, :, p])
    labels = [ax.get_ylabel() for ax in figure.axes[:18:3]]
    assert labels[:3] == ["water\nestimate", "water\ntruth", "vegetation\nestimate"]


def test_truth_is_matched_by_label_or_else_by_position():
    result, truth = make_result(), make_result(seed=1).abundances
    expected = images(plots.plot_abundances(result, truth=truth))
    shuffled = truth.isel(endmember=[2, 0, 1])
    renamed = truth.assign_coords(endmember=["a", "b", "c"])
    for other in (shuffled, renamed, truth.drop_vars("endmember"), truth.values):
        for ours, theirs in zip(
            expected, images(plots.plot_abundances(result, truth=other)), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.assign_coords(endmember=["soil", "road", "snow"]),
            "expected truth with the ma",
        ),
        (
            lambda a: a.isel(x=slice(4)),
            r"expected truth of shape \(3, 6, 5, 3\).* got \(3, 6, 4, 3\)",
        ),
        (lambda a: a.values[1:], r"expected truth of shape \(3, 6, 5, 3\).* got \(2, 6, 5, 3\)"),
        (lambda a: a.isel(time=0), "expected truth with dims"),
        (lambda a: SimpleNamespace(abundances=a.values), "expected `.abundances` as a DataArray"),
    ],
)
def test_truth_that_does_not_fit(change, message):
    result = make_result()
    with pytest.raises(ValueError, match=message):
        plots.plot_abundances(result, truth=change(result.abundances))


def test_one_date_puts_materials_side_by_side():
    result, truth = make_result(1, time=DAYS[:1]), make_result(1, seed=1)
    figure = plots.plot_abundances(result, truth=truth)
    drawn = images(figure)
    assert len(drawn) == 2 * 3
    for p in range(3):
        np.testing.assert_array_equal(drawn[p], result.abundances.values[0, :, :, p])
        np.testing.assert_array_equal(drawn[3 + p], truth.abundances.values[0, :, :, p])
    assert [ax.get_title() for ax in figure.axes[:3]] == NAMES[:3]
    assert figure.axes[0].get_ylabel() == "estimate\n2014-04-10"
    assert figure.axes[3].get_ylabel() == "truth\n2014-04-10"


def test_many_dates_are_thinned_evenly_and_the_titles_say_so():
    result = make_result(15, num_endmembers=2)
    figure = plots.plot_abundances(result)
    # Eight points on 0..14 are two apart.
    for drawn, t in zip(images(figure)[:8], range(0, 15, 2), strict=True):
        np.testing.assert_array_equal(drawn, result.abundances.values[t, :, :, 0])
    assert figure.axes[0].get_title() == "t = 0\n1 of 15 dates"
    assert figure.axes[7].get_title() == "t = 14\n15 of 15 dates"
    # Eight are not thinned.
    assert plots.plot_abundances(make_result(8)).axes[0].get_title() == "t = 0"


def test_dates_are_positions():
    result = make_result(15, num_endmembers=2)
    figure = plots.plot_abundances(result, dates=[-1, 3])
    np.testing.assert_array_equal(images(figure)[0], result.abundances.values[14, :, :, 0])
    np.testing.assert_array_equal(images(figure)[1], result.abundances.values[3, :, :, 0])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["t = 14", "t = 3"]
    assert len(images(plots.plot_abundances(result, dates=list(range(10))))) == 20
    with pytest.raises(ValueError, match="expected dates between -15 and 14, got 15"):
        plots.plot_abundances(result, dates=[15])
    with pytest.raises(TypeError, match="expected dates as integer positions, got 0.5"):
        plots.plot_abundances(result, dates=[0.5])
    with pytest.raises(ValueError, match="at least one position in dates"):
        plots.plot_abundances(result, dates=[])


def test_names():
    figure = plots.plot_abundances(make_result(labels=[0, 1, 2]))
    assert figure.axes[3].get_ylabel() == "material 1"
    figure = plots.plot_abundances(make_result(), names=["a", "b", "c"])
    assert figure.axes[3].get_ylabel() == "b"
    with pytest.raises(ValueError, match="expected 3 names, one per material, got"):
        plots.plot_abundances(make_result(), names=["a", "b"])
    with pytest.raises(ValueError, match="expected 3 names"):
        plots.plot_abundances(make_result(), names="abc")


def test_result_without_the_attribute():
    with pytest.raises(TypeError, match=r"expected a result with `.abundances`, got ndarray"):
        plots.plot_abundances(np.zeros(3))
    with pytest.raises(TypeError, match=r"expected a result with `.change`, got SimpleNamespace"):
        plots.plot_change(SimpleNamespace())


def test_missing_pixels_are_hatched_and_outlined():
    result, truth = make_result(2, 7, 6), make_result(2, 7, 6, seed=1)
    valid = np.random.default_rng(3).random((7, 6)) > 0.4
    valid[0, 0] = False
    result.valid.values[1] = valid
    figure = plots.plot_abundances(result, truth=truth)
    clear, hatched, truth_axes = figure.axes[0], figure.axes[1], figure.axes[3]
    assert not clear.patches and not truth_axes.patches
    (patch,) = [patch for patch in hatched.patches if isinstance(patch, PathPatch)]
    assert patch.get_hatch()
    y, x = np.mgrid[:7, :6]
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = patch.get_path().contains_points(centres).reshape(7, 6)
    np.testing.assert_array_equal(inside, ~valid)
    # The outline: a side for each missing pixel's neighbour that is valid or outside.
    sides = 0
    for row, column in zip(*np.nonzero(~valid), strict=True):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            r, c = row + dy, column + dx
            sides += not (0 <= r < 7 and 0 <= c < 6) or bool(valid[r, c])
    outlines = [c for c in hatched.collections if isinstance(c, LineCollection)]
    # White above a wider black one: visible on any colour.
    assert [to_rgb(line.get_color()[0]) for line in outlines] == [(0, 0, 0), (1, 1, 1)]
    assert outlines[0].get_linewidth()[0] > outlines[1].get_linewidth()[0]
    assert {len(line.get_segments()) for line in outlines} == {sides}
    assert legend_texts(figure) == ["no valid data"]
    assert not legend_texts(plots.plot_abundances(truth))


def rendered(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


@pytest.mark.parametrize(
    "draw", [plots.plot_uncertainty, plots.plot_abundances, plots.plot_abundance_composite]
)
def test_the_marks_of_missing_pixels_do_not_cover_the_values(draw):
    result = make_result(1, 12, 12)
    columns = 1 if draw is plots.plot_abundance_composite else 3
    clear = draw(result, axes=Figure(figsize=(9, 3)).subplots(1, columns))
    result.valid.values[0, 2:10, 2:10] = False
    marked = draw(result, axes=Figure(figsize=(9, 3)).subplots(1, columns))
    clear_pixels, marked_pixels = rendered(clear), rendered(marked)
    ax = marked.axes[0]
    (left, bottom), (right, top) = ax.transData.transform([(1.6, 9.4), (9.4, 1.6)]).astype(int)
    height = len(marked_pixels)
    cloud = np.s_[height - top : height - bottom, left:right]
    same = (clear_pixels[cloud] == marked_pixels[cloud]).all(axis=-1)
    assert 0.6 < same.mean() < 1  # thin lines: most of the cloud has the colour of its value


def test_valid_of_another_shape():
    result = make_result()
    result.valid = np.ones((3, 6, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"expected `.valid` of shape \(3, 6, 5\)"):
        plots.plot_abundances(result)


def test_nan_is_drawn_in_grey():
    result = make_result()
    result.abundances[0, 1, 2] = np.nan
    image = plots.plot_abundances(result).axes[0].images[0]
    expected = np.zeros((6, 5), dtype=bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), expected)
    red, green, blue, _ = image.get_cmap()(np.ma.masked_array(0.0, mask=True))
    assert red == green == blue == pytest.approx(0.85)


def test_tiles_are_separated():
    figure = plots.plot_abundances(make_result(tile=[4, 4, 7, 7, 7, 1]))
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [1.5, 4.5]
    assert not plots.plot_abundances(make_result()).axes[0].lines


def test_uncertainty_has_its_own_bar():
    result = make_result()
    figure = plots.plot_uncertainty(result, dates=[0, 2])
    drawn = images(figure)
    for p, (k, t) in itertools.product(range(3), enumerate([0, 2])):
        np.testing.assert_array_equal(drawn[2 * p + k], result.abundances_std.values[t, :, :, p])
    assert figure.axes[-1].get_ylabel().startswith("posterior std (fraction)")
    result.abundances_std = 0 * result.abundances_std
    assert plots.plot_uncertainty(result).axes[0].images[0].get_clim() == (0.0, 1.0)


def uncertainty_of(std: np.ndarray) -> tuple[tuple[float, float], str, str]:
    """Colour limits, extension and label of the bar, for a std of shape (time, y, x, 3)."""
    result = make_result(*std.shape[:3])
    result.abundances_std = result.abundances.copy(data=std)
    figure = plots.plot_uncertainty(result)
    (limits,) = {ax.images[0].get_clim() for ax in figure.axes[:-1]}
    bar = figure.axes[0].images[0].colorbar
    return limits, bar.extend, bar.ax.get_ylabel()


def test_a_few_jumps_do_not_blacken_the_uncertainty():
    rng = np.random.default_rng(0)
    std = rng.uniform(0.01, 0.02, size=(3, 20, 20, 3))
    std[1, 4:7, 4:7] = 0.37  # 27 of 3600 values
    std[0, 0] = np.nan  # no result there
    limits, extend, label = uncertainty_of(std)
    # 99 of 100 values are not above the end of the scale.
    known = np.sort(std[np.isfinite(std)])
    below = known.size * 99 // 100
    assert limits[0] == 0 and known[below - 1] <= limits[1] <= known[below]
    assert limits[1] < 0.021
    assert (extend, label) == ("max", "posterior std (fraction)\nlargest: 0.37")


def test_uncertainty_without_values_above_the_scale():
    even = np.full((2, 20, 20, 3), 0.05)
    assert uncertainty_of(even) == ((0.0, 0.05), "neither", "posterior std (fraction)")
    # The 99th percentile is 0: it cannot end the scale.
    single = np.zeros((2, 20, 20, 3))
    single[0, 3, 3, 1] = 0.2
    assert uncertainty_of(single) == ((0.0, 0.2), "neither", "posterior std (fraction)")


def test_uncertainty_of_a_method_without_posterior():
    result = make_result()
    result.abundances_std = result.abundances_std * np.nan
    with pytest.raises(
        ValueError, match=r"NaN everywhere.*point estimate.*use one with a posterior"
    ):
        plots.plot_uncertainty(result)


def test_change_leaves_out_the_first_date():
    result = make_result(time=DAYS)
    figure = plots.plot_change(result)
    drawn = images(figure)
    assert len(drawn) == 2
    np.testing.assert_array_equal(drawn[0], result.change.values[1])
    np.testing.assert_array_equal(drawn[1], result.change.values[2])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["2014-06-02", "2014-09-19"]
    bar = figure.axes[-1]
    assert "change $u_t$" in (bar.get_ylabel(), bar.get_xlabel())
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)
    assert len(images(plots.plot_change(make_result(12)))) == 8
    with pytest.raises(ValueError, match=r"NaN everywhere \(1 date\(s\)\).*at least two dates"):
        plots.plot_change(make_result(1))


# ----------------------------------------------------------------------------------- composite


def test_composite_mixes_the_colours_of_the_materials():
    result, truth = make_result(), make_result(seed=1)
    figure = plots.plot_abundance_composite(result, truth=truth)
    drawn = images(figure)
    assert len(drawn) == len(figure.axes) == 2 * 3
    palette = [to_rgb(colour) for colour in plots.COMPOSITE_COLOURS]
    for row, source in enumerate((result, truth)):
        for t in range(3):
            expected = sum(
                source.abundances.values[t, :, :, p, None] * np.array(palette[p]) for p in range(3)
            )
            np.testing.assert_allclose(drawn[3 * row + t], expected, atol=1e-12)
    assert legend_texts(figure) == ["water", "vegetation", "soil"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3)] == ["estimate", "truth"]


def test_composite_of_some_materials():
    result = make_result(num_endmembers=5)
    figure = plots.plot_abundance_composite(result, materials=["snow", 0])
    a = result.abundances.values[0, 2, 3]
    orange, blue = (np.array(to_rgb(colour)) for colour in plots.COMPOSITE_COLOURS[:2])
    expected = a[4] * orange + a[0] * blue + (a[1] + a[2] + a[3]) * np.ones(3)
    np.testing.assert_allclose(images(figure)[0][2, 3], expected, atol=1e-12)
    assert legend_texts(figure) == ["snow", "water", "other materials"]
    two = plots.plot_abundance_composite(make_result(num_endmembers=2))
    assert legend_texts(two) == ["water", "vegetation"]


@pytest.mark.parametrize(
    ("materials", "message"),
    [
        (["glass"], "expected materials among .* got 'glass'"),
        ([5], "expected materials between -5 and 4, got 5"),
        ([0, 1, 2, 3], "expected one to three different materials"),
        ([0, "water"], "expected one to three different materials"),
        ([], "expected one to three different materials"),
    ],
)
def test_composite_of_wrong_materials(materials, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_abundance_composite(make_result(num_endmembers=5), materials=materials)


def test_composite_nan_is_grey():
    result = make_result()
    result.abundances[0, 1, 2] = np.nan
    drawn = images(plots.plot_abundance_composite(result))[0]
    np.testing.assert_array_equal(drawn[1, 2], [0.85] * 3)
    assert np.isfinite(drawn).all()


def cielab(rgb: np.ndarray, deficiency: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB colours as seen through a 3 x 3 simulation in linear RGB."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ deficiency.T, 0.0, 1.0)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    f = (linear @ to_xyz.T) / np.array([0.9505, 1.0, 1.089])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Normal sight and Machado, Oliveira, Fernandes (2009), severity 1.
SIGHTS = [
    np.eye(3),
    np.array(  # protanopia
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(  # deuteranopia
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    np.array(  # tritanopia
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
]


def test_the_composite_triple_is_the_safest_of_the_palette():
    """Of Okabe and Ito's eight colours, by mixtures that are half an image apart."""
    grid = np.array([(i, j, 4 - i - j) for i in range(5) for j in range(5 - i)]) / 4
    far = np.abs(grid[:, None] - grid).sum(axis=-1) / 2 >= 0.5
    eight = [*plots.MATERIAL_COLOURS, "#000000"]

    def separation(triple: tuple[str, ...]) -> float:
        palette = np.array([to_rgb(colour) for colour in triple])
        seen = [cielab(grid @ palette, sight) for sight in SIGHTS]
        return min(np.linalg.norm(s[:, None] - s, axis=-1)[far].min() for s in seen)

    scores = {frozenset(triple): separation(triple) for triple in itertools.combinations(eight, 3)}
    best = max(scores, key=lambda triple: scores[triple])
    assert best == set(plots.COMPOSITE_COLOURS) and len(scores) == 56
    others = [score for triple, score in scores.items() if "#000000" not in triple]
    assert scores[best] > 2 * max(others)


# ---------------------------------------------------------------------------------- endmembers


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


# ---------------------------------------------------------------------------------------- loss


def test_losses_and_their_running_median():
    result = make_result()
    result.losses[40] = np.nan
    figure = plots.plot_losses(result)
    (ax,) = figure.axes
    raw, smooth = ax.lines
    np.testing.assert_array_equal(raw.get_xdata(), np.arange(1, 101))
    np.testing.assert_array_equal(raw.get_ydata(), result.losses)
    expected = [np.nanmedian(result.losses[max(k - 2, 0) : k + 3]) for k in range(100)]
    np.testing.assert_allclose(smooth.get_ydata(), expected)
    assert ax.get_xlabel() == "step"
    assert ax.get_ylabel() == "\N{MINUS SIGN}ELBO per observed value (nats)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "each step",
        "running median (5 steps)",
    ]


def test_a_steep_start_is_left_out_with_a_note():
    result = make_result()
    result.losses = np.concatenate([[1000.0, 500.0], np.linspace(1.0, 0.0, 998)])
    (ax,) = plots.plot_losses(result).axes
    assert ax.get_ylim()[1] < 2
    assert [text.get_text() for text in ax.texts] == ["2 values up to 1e+03 not shown"]
    (ax,) = plots.plot_losses(make_result()).axes
    assert not ax.texts


@pytest.mark.parametrize("losses", [None, np.zeros(0), np.full(3, np.nan), np.zeros((2, 2))])
def test_no_losses(losses):
    with pytest.raises(ValueError, match="only methods trained step by step have losses"):
        plots.plot_losses(SimpleNamespace(losses=losses))
    plots.plot_losses(SimpleNamespace(losses=[3.0])).savefig("/dev/null", format="png")


# ------------------------------------------------------------------------- figures and layout


def draw_all(result: Any, truth: Any = None) -> list[Figure]:
    figures = [
        plots.plot_abundances(result, truth=truth),
        plots.plot_abundance_composite(result, truth=truth),
        plots.plot_uncertainty(result),
        plots.plot_endmembers(result, truth=truth),
        plots.plot_endmembers_over_time(result, truth=truth),
        plots.plot_losses(result),
    ]
    if result.change.sizes["time"] > 1:
        figures.append(plots.plot_change(result))
    return figures


def test_nothing_global_changes():
    plt.close("all")
    result, truth = make_result(), make_result(seed=1)
    before = copy.deepcopy([vars(result), vars(truth)])
    params, state = dict(mpl.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    python_state = random.getstate()
    figures = draw_all(result, truth)
    for figure in figures:
        figure.savefig("/dev/null", format="png")
    assert all(isinstance(figure, Figure) for figure in figures)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == params
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert random.getstate() == python_state
    for old, now in zip(before, [vars(result), vars(truth)], strict=True):
        for name, value in old.items():
            if isinstance(value, xr.DataArray):
                xr.testing.assert_identical(value, now[name])
            elif isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, now[name])


def visible_texts(figure: Figure) -> list[Text]:
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text.get_figure() is not None
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 20, 20, 4),
        (2, 20, 40, 2),
        (6, 20, 20, 3),
        (15, 20, 20, 6),
        (2, 60, 10, 3),  # narrow
        (2, 90, 10, 1),  # narrower than a ratio of 6
        (9, 1, 60, 3),  # a row of pixels
    ],
)
def test_texts_are_legible_inside_and_do_not_overlap(sizes):
    num_dates = sizes[0]
    time = np.datetime64("2014-04-10", "ns") + np.arange(num_dates) * np.timedelta64(9, "D")
    result = make_result(*sizes, time=time, labels=[f"{name} cover" for name in NAMES[: sizes[3]]])
    result.valid.values[-1, 0, 0] = False
    for figure in draw_all(result, truth=result if num_dates < 9 else None):
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        titles = [ax.title for ax in figure.axes if ax.get_title()]
        boxes = [title.get_window_extent() for title in titles]
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        labels = [ax.yaxis.label for ax in figure.axes if ax.get_ylabel()]
        for one, other in itertools.combinations([la.get_window_extent() for la in labels], 2):
            assert not one.overlaps(other)
        # Tick labels outside the view are kept by matplotlib as texts, but are not drawn.
        ticks = {id(t) for ax in figure.axes for a in (ax.xaxis, ax.yaxis) for t in a.findobj(Text)}
        named = {id(ax.yaxis.label) for ax in figure.axes} | {
            id(ax.xaxis.label) for ax in figure.axes
        }
        for text in visible_texts(figure):
            assert text.get_fontsize() >= 8
            if id(text) in ticks - named:
                continue
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1, text.get_text()
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_axes_of_the_user():
    result = make_result()
    figure = Figure(figsize=(9, 9))
    top, bottom = figure.subfigures(2, 1)
    assert plots.plot_abundances(result, axes=top.subplots(3, 3)) is figure
    axes = bottom.subplots(1, 4)
    assert plots.plot_endmembers(result, axes=list(axes[:3])) is figure
    assert plots.plot_losses(result, ax=axes[3]) is figure
    np.testing.assert_array_equal(images(top)[4], result.abundances.values[1, :, :, 1])
    np.testing.assert_array_equal(axes[3].lines[0].get_ydata(), result.losses)
    assert axes[0].get_legend() is not None and not figure.legends
    other = Figure()
    plots.plot_abundance_composite(result, axes=other.subplots(1, 3))
    assert other.axes[2].get_legend() is not None
    assert plots.plot_change(result, dates=[1], axes=Figure().subplots()).axes[0].images
    with pytest.raises(ValueError, match="expected 9 axes for this picture, got 2"):
        plots.plot_abundances(result, axes=Figure().subplots(1, 2))
    with pytest.raises(TypeError, match="expected matplotlib Axes, got list"):
        plots.plot_abundances(result, axes=[1] * 9)


def test_more_materials_than_colours():
    figure = plots.plot_endmembers(make_result(num_endmembers=9))
    assert len(figure.axes) == 9
    assert figure.axes[8].lines[0].get_color() == plots.MATERIAL_COLOURS[1]


# --------------------------------------------------------------------- pictures of the examples


def test_haze_does_not_tint_the_true_colour_images():
    draw = runpy.run_path(str(EXAMPLES / "real_sequence.py"))["plot_true_colour"]
    rng = np.random.default_rng(0)
    # A grey surface, bands B1 to B12, under haze that is brighter the shorter the wavelength.
    surface = rng.uniform(0.0, 0.05, size=(2, 30, 30, 1))
    cubes = xr.DataArray(surface + np.linspace(0.1, 0.0, 13), dims=("time", "y", "x", "wavelength"))
    cubes[1] *= 3  # thin cloud: does not darken the other date
    for ax in draw(cubes).axes:
        image = np.asarray(ax.images[0].get_array())
        assert image.shape == (30, 30, 3)
        np.testing.assert_allclose(image, image[..., [2, 0, 1]], atol=1e-9)
        assert image.min() == 0 and image.max() == 1


def test_steps_of_the_ablation_are_whole_numbers():
    draw = runpy.run_path(str(EXAMPLES / "ablation.py"))["draw"]
    names = [f"model {k}" for k in range(8)]
    quick = draw({name: np.linspace(2.0, 1.0, 3) for name in names})
    (ax,) = quick.axes
    FigureCanvasAgg(quick).draw()
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    looks = {(to_rgb(line.get_color()), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 8
    # The mean of steps 1 to 5 stands at step 3.
    (ax,) = draw({"model": np.arange(100.0)}).axes
    np.testing.assert_array_equal(ax.lines[0].get_xdata()[:2], [3, 8])
    np.testing.assert_allclose(ax.lines[0].get_ydata()[:2], [0.001, 5.001])
