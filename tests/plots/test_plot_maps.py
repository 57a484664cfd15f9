"""Maps of abundances, uncertainty and change: what is drawn is compared with the arrays of a made-up result."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from plot_cases import NAMES, images, legend_texts, make_result

from pyro_unmix import plots

DAYS = np.array(["2014-04-10", "2014-06-02", "2014-09-19"], dtype="datetime64[ns]")


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


def test_abundances_themselves_are_drawn():
    maps = make_result().abundances.rename("unit_maximum_abundances")
    for ours, theirs in zip(
        images(plots.plot_abundances(maps)),
        maps.values.transpose(3, 0, 1, 2).reshape(9, *maps.shape[1:3]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="abundances` as a DataArray with dims"):
        plots.plot_abundances(maps[0])


@pytest.mark.parametrize("draw", ["plot_rmse", "plot_change"])
def test_a_single_image_has_no_time(draw: str) -> None:
    one = make_result(1)
    one.rmse = one.change.fillna(0.5)
    one.change = one.rmse
    figure = getattr(plots, draw)(one)
    assert [ax.get_title() for ax in figure.axes[:-1]] == [""]
    assert [ax.get_ylabel() for ax in plots.plot_abundances(one).axes[:3]] == ["", "", ""]
    dated = make_result(1, time=DAYS[:1])
    assert plots.plot_abundances(dated).axes[0].get_ylabel() == "2014-04-10"


def test_one_bad_pixel_does_not_blacken_the_rmse() -> None:
    result = make_result(1, 20, 20)
    errors = np.random.default_rng(0).uniform(0.01, 0.02, size=(1, 20, 20))
    result.rmse = xr.DataArray(errors, dims=("time", "y", "x"))
    even = plots.plot_rmse(result).axes[0].images[0]
    assert even.get_clim() == (0.0, errors.max()) and even.colorbar.extend == "neither"
    errors[0, 3, 4] = 5.0
    drawn = plots.plot_rmse(result).axes[0].images[0]
    assert drawn.get_clim() == (0.0, pytest.approx(np.percentile(errors, 99)))
    assert drawn.colorbar.extend == "max" and "largest: 5" in drawn.colorbar.ax.get_ylabel()
